"""A platform made of a register and nothing else, with faults on request."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from teehouse.base.hashes import INITIAL_REGISTER, extend
from teehouse.tee.platform import BootEvent, platform_error


class RegisterPlatform:
    """RTMR3 in memory, or in a file that several processes share.

    A quote is as long as it must be to carry RTMR3 and report data in their places (guest-agent.md 10.7).
    """

    emulated = True

    def __init__(self, register_file: Path | None = None) -> None:
        self._file = register_file
        self._register = INITIAL_REGISTER
        self.extensions = 0
        self.quotes = 0
        self.tells_register = True
        self.before_extend: Callable[[], None] | None = None
        self.after_extend: Callable[[], None] | None = None

    @property
    def register(self) -> bytes:
        if self._file is None:
            return self._register
        return self._file.read_bytes() if self._file.exists() else INITIAL_REGISTER

    def _move(self, digest: bytes) -> None:
        self._register = extend(self.register, digest)
        if self._file is not None:
            self._file.write_bytes(self._register)

    async def extend(self, digest: bytes) -> None:
        if self.before_extend:
            self.before_extend()
        self.extensions += 1
        self._move(digest)
        await asyncio.sleep(0)  # whoever does not hold the lock may run here
        if self.after_extend:
            self.after_extend()

    async def runtime_register(self) -> bytes | None:
        return self.register if self.tells_register else None

    async def quote(self, report_data: bytes) -> bytes:
        self.quotes += 1
        await asyncio.sleep(0)
        return b"\x04\x00" + bytes(518) + self.register + report_data

    def boot_events(self) -> list[BootEvent]:
        return []


def broken() -> None:
    """A fault for `before_extend` and `after_extend`."""
    raise platform_error("fake.broken", "the device answered with an error")
