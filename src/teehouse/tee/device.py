"""The TDX guest device `/dev/tdx_guest`: reports and, on older kernels, register extension.

Written from the public layouts (trust.md 15); not yet run on hardware.
"""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from teehouse.base.hashes import REGISTER_SIZE
from teehouse.tee.platform import REPORT_DATA_SIZE, platform_error

REPORT_SIZE = 1024  # bytes of a TDREPORT
# The TD's own part of a TDREPORT begins at 512: attributes 8, XFAM 8, MRTD, MRCONFIGID, MROWNER and
# MROWNERCONFIG 48 each, then RTMR0 to RTMR3 (Intel TDX module specification, TDINFO_STRUCT).
_RTMR0_AT = 512 + 16 + 4 * REGISTER_SIZE

_READ, _WRITE = 2, 1  # directions of an ioctl, as the caller sees them


def _request(direction: int, number: int, size: int) -> int:
    """An ioctl's number in Linux's generic encoding; the type of all of TDX is the letter T."""
    return direction << 30 | size << 16 | ord("T") << 8 | number


GET_REPORT0 = _request(_READ | _WRITE, 1, REPORT_DATA_SIZE + REPORT_SIZE)
EXTEND_RTMR = _request(_READ, 3, REGISTER_SIZE + 1)

Ioctl = Callable[[int, int, bytearray], int]


def _ioctl(descriptor: int, request: int, buffer: bytearray) -> int:
    result: int = fcntl.ioctl(descriptor, request, buffer, True)
    return result


class TdxDevice:
    """The device at `path`. Every method blocks and raises `PlatformError`."""

    def __init__(self, path: Path, *, ioctl: Ioctl = _ioctl) -> None:
        self.path = path
        self._ioctl = ioctl

    def report(self, report_data: bytes) -> bytes:
        """A TDREPORT (1024 bytes) over exactly 64 bytes."""
        buffer = bytearray(report_data.ljust(REPORT_DATA_SIZE, b"\0") + bytes(REPORT_SIZE))
        self._call(GET_REPORT0, buffer, "TDREPORT")
        return bytes(buffer[REPORT_DATA_SIZE:])

    def extend(self, index: int, digest: bytes) -> None:
        """Extend RTMR `index` (2 or 3) by 48 bytes."""
        self._call(EXTEND_RTMR, bytearray(digest + bytes([index])), f"the extension of RTMR{index}")

    def register(self, index: int) -> bytes:
        """The 48 bytes of RTMR `index` (0 to 3), out of a report."""
        at = _RTMR0_AT + index * REGISTER_SIZE
        return self.report(bytes(REPORT_DATA_SIZE))[at : at + REGISTER_SIZE]

    def _call(self, request: int, buffer: bytearray, what: str) -> None:
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
            try:
                self._ioctl(descriptor, request, buffer)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise platform_error(
                "tdx.device.failed",
                f"{self.path} does not give {what}",
                found=str(error),
                remedy="run the agent as root inside a TDX guest",
            ) from error
