"""Who asks, and what they may.

Rules:

C1. A caller acts in one workspace, the one of the key; there is no way to name another (cloud-api.md 1).
C2. A key does what both its scopes and its user's role in the workspace allow.
C3. Scopes are words `AREA:read`, `AREA:write`, `AREA:*`, or `*`. Areas: `cvms` (apps and CVMs), `nodes` (nodes,
    images, types, KMSs), `user` (the user's own profile and SSH keys), `workspace` (members, keys, webhooks).
    `user:profile`, which the CLI asks for, means `user:*`.
C4. A viewer reads. Beyond that a viewer changes only what is the user's own.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from teehouse.cloud.accounts.models import RANKS, Role
from teehouse.cloud.errors import CloudError, ErrorCode, denied

AREAS: Final = ("cvms", "nodes", "user", "workspace")
EVERYTHING: Final = "*"
_WORD = re.compile(rf"(?:{'|'.join(AREAS)}):(?:read|write|\*)")


@dataclass(frozen=True, slots=True)
class Caller:
    """A user, in a workspace, with a key. `user_role` is the one in the installation: "admin" or "user"."""

    user_id: int
    username: str
    user_role: str
    workspace_id: int
    workspace_slug: str
    role: Role
    api_key_id: int
    scopes: frozenset[str]
    request_id: str = ""
    trace_id: str = ""

    def has_role(self, least: Role) -> bool:
        """Whether the role is this one or a higher one."""
        return RANKS.index(self.role) >= RANKS.index(least)

    def require(self, least: Role) -> None:
        """Raises `CloudError` 403 for a lower role."""
        if not self.has_role(least):
            raise denied(
                f"This needs the role {least} in the workspace; yours is {self.role}",
                "Ask an owner of the workspace",
            )

    def require_scope(self, area: str, action: str) -> None:
        """Raises `CloudError` 403 unless the key's scopes and the role allow `action`, "read" or "write" (C2)."""
        if not {EVERYTHING, f"{area}:*", f"{area}:{action}"} & self.scopes:
            raise denied(f"The key lacks the scope {area}:{action}", "Make a key with this scope")
        if action == "write" and area != "user":
            self.require(Role.MEMBER)


def parse_scopes(words: Iterable[str]) -> list[str]:
    """The scopes in order, each once (C3). Raises `CloudError` for a word that is none, and for none at all."""
    scopes: dict[str, None] = {}
    for word in words:
        scope = "user:*" if word == "user:profile" else word
        if scope != EVERYTHING and not _WORD.fullmatch(scope):
            raise CloudError(
                ErrorCode.INVALID_REQUEST,
                f"Unknown scope {word[:40]!a}",
                suggestions=[f"Use *, or AREA:read, AREA:write, AREA:* with AREA one of {', '.join(AREAS)}"],
            )
        scopes[scope] = None
    if not scopes:
        raise CloudError(ErrorCode.INVALID_REQUEST, "A key needs at least one scope")
    return list(scopes)


def covers(held: Iterable[str], wanted: Iterable[str]) -> bool:
    """Whether who holds `held` may give away `wanted`."""
    have = set(held)
    return all({EVERYTHING, f"{scope.partition(':')[0]}:*", scope} & have for scope in wanted)
