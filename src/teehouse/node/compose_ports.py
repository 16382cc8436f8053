"""Published ports of a docker-compose file, made to fit a host that serves many CVMs.

Rules:

1. All are published at the address of the policy, those that ask for loopback at loopback.
2. A host port that is wanted and free is had. One that is taken, and one that is not named, is the engine's choice
   among the free ones; the state of the container tells which. Of a range, each port is one for itself.
3. At most 256 ports per app.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from teehouse.node.compose_faults import Faults
from teehouse.node.workload import LOOPBACK, PortsPolicy

PORT_LIMIT = 256
_SHORT = re.compile(
    r"(?:(?P<address>\[[0-9A-Fa-f:]+\]|[0-9]+(?:\.[0-9]+){3}):)?(?:(?P<host>[0-9]*(?:-[0-9]+)?):)?"
    r"(?P<container>[0-9]+(?:-[0-9]+)?)(?:/(?P<protocol>tcp|udp))?"
)
IsFree = Callable[[str, int, str], bool]


@dataclass(slots=True)
class Ports:
    """The ports of one app; `is_free` says of address, port and protocol whether the host has it to give."""

    policy: PortsPolicy
    is_free: IsFree
    taken: set[tuple[int, str]] = field(default_factory=set)
    count: int = 0

    def rewrite(self, value: Any, faults: Faults, at: str) -> tuple[list[str], dict[str, int]]:
        """An element of `ports` in the short form, one per port; and the wanted host ports by `container/protocol`."""
        parsed = self._long(value, faults, at) if isinstance(value, dict) else self._short(value, faults, at)
        if parsed is None:
            return [], {}
        address, host, container, protocol = parsed
        if host and len(container) > 1 and len(host) != len(container):
            faults.add(
                "port", at, expected="ranges of equal length", found=f"{len(host)} and {len(container)}"
            )
            return [], {}
        self.count += len(container)
        if self.count > PORT_LIMIT:
            faults.add("port", at, expected=f"at most {PORT_LIMIT} ports", found="more")
            return [], {}
        made, wanted = [], {}
        for index, target in enumerate(container):
            candidates = host if len(container) == 1 else host[index : index + 1]
            made.append(self._publish(address, candidates, target, protocol))
            if candidates:
                wanted[f"{target}/{protocol}"] = candidates[0]
        return made, wanted

    def _publish(self, address: str, candidates: range, target: int, protocol: str) -> str:
        served = LOOPBACK if address.strip("[]") in {LOOPBACK, "::1"} else self.policy.address
        shown = f"[{served}]" if ":" in served else served
        for candidate in candidates:
            if (candidate, protocol) not in self.taken and self.is_free(served, candidate, protocol):
                self.taken.add((candidate, protocol))
                return f"{shown}:{candidate}:{target}/{protocol}"
        return f"{shown}::{target}/{protocol}"

    def _short(self, value: Any, faults: Faults, at: str) -> tuple[str, range, range, str] | None:
        text = faults.text(at, value)
        if text is None:
            return None
        match = _SHORT.fullmatch(text)
        host = _range(match["host"] or "") if match else None
        container = _range(match["container"]) if match else None
        if match is None or host is None or not container:
            faults.add("port", at, expected="[[ADDRESS:]HOST:]CONTAINER[/tcp|udp]", found=value)
            return None
        return match["address"] or "", host, container, match["protocol"] or "tcp"

    @staticmethod
    def _long(value: dict[str, Any], faults: Faults, at: str) -> tuple[str, range, range, str] | None:
        target = _range(faults.text(f"{at}.target", value.get("target")) or "")
        host = _range(faults.text(f"{at}.published", value.get("published")) or "")
        protocol = faults.text(f"{at}.protocol", value.get("protocol", "tcp"))
        address = faults.text(f"{at}.host_ip", value.get("host_ip", "")) or ""
        if not target or len(target) != 1 or host is None or protocol not in {"tcp", "udp"}:
            faults.add(
                "port", at, expected="one `target`, and `published` and `protocol` to fit it", found="others"
            )
            return None
        return address, host, target, protocol


def _range(text: str) -> range | None:
    """The ports of `8000` or `8000-8010`; an empty range for no text, None for anything else."""
    first, dash, last = text.partition("-")
    if not text:
        return range(0)
    if not (first.isdecimal() and (last.isdecimal() or not dash)) or len(text) > 11:
        return None
    low, high = int(first), int(last or first)
    return range(low, high + 1) if 0 < low <= high <= 65535 else None
