"""Certificates of a node's installation for tests, under one fixed clock near the machine's own time.

TLS judges dates by the machine's clock, so the present hour stands in for a golden date.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from teehouse.node.identity import Identity, NodeAuthority, Role, make_authority

NOW = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)


@dataclass(frozen=True, slots=True)
class Party:
    """A CA, a node and a controller under it."""

    authority: NodeAuthority
    node: Identity
    controller: Identity


def party(now: datetime = NOW, node: str = "tea-1", controller: str = "cloud") -> Party:
    authority = make_authority(now)
    return Party(
        authority, authority.issue(Role.NODE, node, now), authority.issue(Role.CONTROLLER, controller, now)
    )
