"""The Platform Protocol: the one seam behind which emulated and real TDX stand (design.md 4).

No layer above knows, or may ask, whether the platform is real; the only difference it sees is
`emulated`, which it must show to people.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from teehouse.base.findings import Family, Finding, Outcome, TeehouseError

REPORT_DATA_SIZE = 64  # bytes
RUNTIME_REGISTER = 3  # RTMR3 takes the events of the running system


class PlatformError(TeehouseError):
    """The platform did not answer: no device, a device error, or too many waiting requests."""

    family = Family.COLLATERAL


def platform_error(
    code: str, subject: str, *, expected: str = "", found: str = "", remedy: str = ""
) -> PlatformError:
    """A `PlatformError`."""
    return PlatformError(Finding(code, subject, Outcome.COLLATERAL_MISSING, expected, found, remedy))


@dataclass(frozen=True, slots=True)
class BootEvent:
    """One event that firmware and loader measured, as the CCEL table has it.

    `imr` is the register's number, zero-based (0 to 2); `digest` 48 bytes; `payload` the raw event data.
    """

    imr: int
    event_type: int
    digest: bytes
    payload: bytes


class Platform(Protocol):
    """A running TD, seen from inside."""

    @property
    def emulated(self) -> bool:
        """True when quotes are signed under an emulated root."""
        ...

    async def quote(self, report_data: bytes) -> bytes:
        """A fresh quote over exactly 64 bytes. Raises `PlatformError`."""
        ...

    async def extend(self, digest: bytes) -> None:
        """Extend RTMR3 by a 48-byte digest. Raises `PlatformError`; the register is then unchanged."""
        ...

    async def runtime_register(self) -> bytes | None:
        """The 48 bytes of RTMR3, or None where the platform cannot tell. Raises `PlatformError`."""
        ...

    def boot_events(self) -> Sequence[BootEvent]:
        """The boot event log, in order of extension; read once by the caller. Raises `PlatformError`."""
        ...
