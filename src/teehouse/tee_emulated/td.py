"""An emulated TD, seen from inside: `teehouse.tee.platform.Platform` without hardware.

1. MRTD and RTMR0 to 2 are those that the verifier computes for image and configuration; MRCONFIGID is
   given; the owner fields are zero.
2. RTMR3 is a file of 48 bytes, readable by its owner only: it outlives the process and several
   processes share it. Whoever extends it holds the lock of the measurement log, as the real device
   needs it too.
3. A missing file is a TD that was never booted, and a file of another size is damage. Neither is
   taken for an empty register.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from teehouse.attestation.abi import RT_MR3_OFFSET, TEE_TCB_SVN_OFFSET, TdReport
from teehouse.attestation.measure import expected_registers
from teehouse.attestation.vmconfig import parse_vm_config
from teehouse.base.files import write_atomic
from teehouse.base.findings import misuse
from teehouse.base.hashes import INITIAL_REGISTER, REGISTER_SIZE, extend
from teehouse.tee.platform import REPORT_DATA_SIZE, BootEvent, platform_error
from teehouse.tee_emulated import constants
from teehouse.tee_emulated.image import EmulatedImage
from teehouse.tee_emulated.quote import EmulatedHost

_READ_SIZE = 4096  # bytes; enough to tell a register from what is none
_BOOT_REMEDY = "boot the TD anew, or resume it from its event log"


class EmulatedTd:
    """A TD on `host` that runs `image` with `vm_config`, the JSON text that `image.vm_config` made.

    `mr_config_id` has 48 bytes; `register_path` is the file of RTMR3. Call `reset` when the TD boots.

    Raises `MisuseError` for a configuration that names another image or an MRCONFIGID of another size,
    `EvidenceError` for a configuration that cannot be read.
    """

    def __init__(
        self,
        host: EmulatedHost,
        image: EmulatedImage,
        *,
        vm_config: str,
        mr_config_id: bytes,
        register_path: Path,
    ) -> None:
        config = parse_vm_config(vm_config)
        if config.os_image_hash != image.os_image_hash or config.memory_size is None:
            raise misuse(
                "emulated.td.image",
                "vm_config of an emulated TD",
                expected=f"a memory_size, and os_image_hash {image.os_image_hash.hex()}",
                found=config.os_image_hash.hex() if config.os_image_hash else "none",
                remedy="take the text from the image's vm_config",
            )
        _sized("MRCONFIGID of an emulated TD", mr_config_id, REGISTER_SIZE)
        registers = expected_registers(image.measurement, config, image.acpi)
        report = TdReport(
            tee_tcb_svn=constants.TEE_TCB_SVN,
            mr_seam=constants.MR_SEAM,
            mr_signer_seam=constants.MR_SIGNER_SEAM,
            seam_attributes=constants.SEAM_ATTRIBUTES,
            td_attributes=constants.TD_ATTRIBUTES,
            xfam=constants.XFAM,
            mr_td=registers.mrtd,
            mr_config_id=mr_config_id,
            mr_owner=bytes(REGISTER_SIZE),
            mr_owner_config=bytes(REGISTER_SIZE),
            rt_mr0=registers.rtmr0,
            rt_mr1=registers.rtmr1,
            rt_mr2=registers.rtmr2,
            rt_mr3=INITIAL_REGISTER,
            report_data=bytes(REPORT_DATA_SIZE),
        )
        self.host = host
        self.image = image
        self.vm_config = vm_config
        self._register_path = register_path
        self._boot_events = image.boot_events(config.memory_size)
        # Of a report only RTMR3 and the report data change, and they are its end.
        self._before_rtmr3 = report.encode()[: RT_MR3_OFFSET - TEE_TCB_SVN_OFFSET]

    @property
    def emulated(self) -> bool:
        """Always true."""
        return True

    async def quote(self, report_data: bytes) -> bytes:
        """A fresh quote over exactly 64 bytes.

        Raises `MisuseError` for another size, `PlatformError` when the register cannot be read.
        """
        _sized("report data", report_data, REPORT_DATA_SIZE)
        return self.host.quote(self._before_rtmr3 + self._read() + report_data)

    async def extend(self, digest: bytes) -> None:
        """Extend RTMR3 by a 48-byte digest; the caller holds the measurement lock.

        Raises `MisuseError` for another size, `PlatformError` when the register cannot be read or written;
        it is then unchanged.
        """
        _sized("digest for RTMR3", digest, REGISTER_SIZE)
        self._overwrite(extend(self._read(), digest))

    async def runtime_register(self) -> bytes:
        """The 48 bytes of RTMR3. Raises `PlatformError` when they cannot be read."""
        return self._read()

    def boot_events(self) -> Sequence[BootEvent]:
        """The 20 events of the boot, in order."""
        return self._boot_events

    def reset(self) -> None:
        """Set RTMR3 to zero, as a fresh boot does. Raises `PlatformError`."""
        self.resume(INITIAL_REGISTER)

    def resume(self, register: bytes) -> None:
        """Set RTMR3 to what the event log replays to.

        Only an emulated register can be set: a crash between extending it and writing the log leaves them
        apart, and the log is what others have seen. Raises `MisuseError` for another size, `PlatformError`.
        """
        _sized("RTMR3", register, REGISTER_SIZE)
        try:
            write_atomic(self._register_path, register)
        except OSError as error:
            raise platform_error(
                "emulated.register.write",
                "RTMR3 of the emulated TD cannot be written",
                found=error.strerror or str(error),
                remedy="give the agent a directory it may write to",
            ) from error

    def _read(self) -> bytes:
        try:
            descriptor = os.open(self._register_path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                register = os.read(descriptor, _READ_SIZE)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise platform_error(
                "emulated.register.read",
                "RTMR3 of the emulated TD cannot be read",
                found=error.strerror or str(error),
                remedy=_BOOT_REMEDY,
            ) from error
        if len(register) != REGISTER_SIZE:
            raise platform_error(
                "emulated.register.size",
                "RTMR3 of the emulated TD is damaged",
                expected=f"{REGISTER_SIZE} bytes",
                found=f"{len(register)}",
                remedy=_BOOT_REMEDY,
            )
        return register

    def _overwrite(self, register: bytes) -> None:
        """Write in place and without waiting for the disk: when the machine dies, so does the TD it emulates."""
        try:
            descriptor = os.open(self._register_path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.pwrite(descriptor, register, 0)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise platform_error(
                "emulated.register.write",
                "RTMR3 of the emulated TD cannot be written",
                found=error.strerror or str(error),
                remedy="give the register's file back to the user the agent runs as",
            ) from error


def _sized(what: str, data: bytes, size: int) -> None:
    if len(data) != size:
        raise misuse("emulated.td.size", what, expected=f"{size} bytes", found=f"{len(data)}")
