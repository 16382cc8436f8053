"""RTMR3 of the running TD: extending and reading it (guest-agent.md 10.8; trust.md 15).

Written from the public layouts; not yet run on hardware.

Rules:

1. The sysfs attribute `rtmr3:sha384` is used where it exists: 48 bytes written extend the register,
   reading gives its value. Elsewhere `/dev/tdx_guest` is asked.
2. Which of the two is decided by what exists, never by what failed: an extension that failed half way
   must not be followed by a second one.
"""

from pathlib import Path

from teehouse.base.hashes import REGISTER_SIZE
from teehouse.tee.device import TdxDevice
from teehouse.tee.devicefiles import DeviceFiles, OsFiles
from teehouse.tee.platform import RUNTIME_REGISTER, PlatformError, platform_error

ATTRIBUTE = f"rtmr{RUNTIME_REGISTER}:sha384"


class RuntimeRegister:
    """RTMR3. Every method blocks and raises `PlatformError`."""

    def __init__(self, directory: Path, device: TdxDevice, files: DeviceFiles | None = None) -> None:
        self.attribute = directory / ATTRIBUTE
        self._device = device
        self._files = OsFiles() if files is None else files

    def available(self) -> bool:
        """Whether there is any way to extend the register."""
        return self._files.exists(self.attribute) or self._files.exists(self._device.path)

    def extend(self, digest: bytes) -> None:
        """Extend by a 48-byte digest."""
        if not self._files.exists(self.attribute):
            self._device.extend(RUNTIME_REGISTER, digest)
            return
        try:
            self._files.write(self.attribute, digest)
        except OSError as error:
            raise self._failed("extended", error) from error

    def read(self) -> bytes | None:
        """The register's 48 bytes; None where neither sysfs nor the device is there."""
        if not self._files.exists(self.attribute):
            if not self._files.exists(self._device.path):
                return None
            return self._device.register(RUNTIME_REGISTER)
        try:
            value = self._files.read(self.attribute, REGISTER_SIZE)
        except OSError as error:
            raise self._failed("read", error) from error
        if len(value) != REGISTER_SIZE:
            raise platform_error(
                "tdx.register.size",
                f"{self.attribute} holds no register",
                expected=f"{REGISTER_SIZE} bytes",
                found=f"{len(value)}",
            )
        return value

    def _failed(self, what: str, error: OSError) -> PlatformError:
        return platform_error(
            "tdx.register.failed",
            f"{self.attribute} cannot be {what}",
            found=str(error),
            remedy="run the agent as root; look at the kernel's log",
        )
