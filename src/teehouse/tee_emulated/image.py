"""The synthetic OS image that emulated TDs run (trust.md 11.1, 11.4).

1. It has what a lite image has: a sha256sum.txt over several files, a measurement.tdx.cbor, the
   digests of three ACPI tables, a boot event log. There are no files behind the names: their hashes
   are those of sentences.
2. The digests of the boot events, and their order within each register, are the verifier's own
   (`attestation.measure`): what a TD reports is what the verifier computes, by one piece of code.
3. The log has the shape that firmware before 2025-05 writes (trust.md 8.2).
"""

import base64
import json
import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

from teehouse.attestation.measure import MEASUREMENT_NAME, OVMF_PRE_202505, ImageMeasurement, boot_digests
from teehouse.base.findings import EvidenceError, MisuseError, Outcome, misuse
from teehouse.base.hashes import sha256, sha384
from teehouse.tee.platform import BootEvent

DEFAULT_NAME = "teehouse-emulated-1"
DEV_NAME = "teehouse-emulated-dev-1"  # clients know development images by `-dev-` (cloud-api.md 15)
CPU_LIMIT = 4096
_QEMU_VERSION = "9.1.0"
_COMMAND_LINE = "console=ttyS0 panic=1 teehouse.emulated=1 initrd=initrd"
# Where firmware finds memory that is accepted beforehand; the witness published with real images.
_TD_HOB_WITNESS = bytes.fromhex("80100904000609020b021010")
_FILES = ("bzImage", "initramfs.cpio.gz", "metadata.json", "ovmf.fd", "rootfs.img.verity")

# TCG event types (PC Client Platform Firmware Profile).
_SEPARATOR, _EVENT_TAG, _PLATFORM_CONFIG_FLAGS = 0x4, 0x6, 0xA
_VARIABLE_DRIVER_CONFIG, _VARIABLE_BOOT, _BOOT_APPLICATION = 0x80000001, 0x80000002, 0x80000003
_ACTION, _FIRMWARE_BLOB2, _HANDOFF_TABLES2 = 0x80000007, 0x8000000A, 0x8000000B

_EFI_GLOBAL = uuid.UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
_EFI_SECURITY = uuid.UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
_HOB_LIST = uuid.UUID("7739f24c-93d7-11d4-9a3a-0090273fc14d")
_END_OF_DEVICE_PATH = bytes.fromhex("7fff0400")
_LOAD_OPTIONS_TAG, _INITRD_TAG = 0x8F3B22ED, 0x8F3B22EC  # of Linux' EFI stub


@dataclass(frozen=True, slots=True)
class EmulatedImage:
    """An image: `manifest` is its sha256sum.txt, `acpi` the SHA-384 digests of loader, RSDP and tables."""

    name: str
    manifest: bytes
    measurement: ImageMeasurement
    acpi: tuple[bytes, bytes, bytes]

    @classmethod
    def default(cls) -> Self:
        """The image that emulated TDs run when nobody names another."""
        return cls.named(DEFAULT_NAME)

    @classmethod
    def named(cls, name: str) -> Self:
        """The image of that name; another name makes another image, with another `os_image_hash`."""
        measurement = ImageMeasurement(
            cmdline_sha384=sha384((_COMMAND_LINE + "\0").encode("utf-16-le")),
            kernel_authenticode=sha384(_content(name, "bzImage")),
            initrd_sha384=sha384(_content(name, "initramfs.cpio.gz")),
            ovmf=OVMF_PRE_202505,
            mrtd_single_pass=sha384(_content(name, "ovmf.fd, pages added and measured in one pass")),
            mrtd_two_pass=sha384(_content(name, "ovmf.fd, pages added and measured in two passes")),
            td_hob=_TD_HOB_WITNESS,
        )
        hashes = {file: sha256(_content(name, file)) for file in _FILES}
        hashes[MEASUREMENT_NAME] = sha256(measurement.encode())
        lines = [f"{hashes[file].hex()}  {file}\n" for file in sorted(hashes)]
        loader, rsdp, tables = (
            sha384(_content(name, table)) for table in ("ACPI loader", "ACPI RSDP", "ACPI tables")
        )
        return cls(name, "".join(lines).encode(), measurement, (loader, rsdp, tables))

    @property
    def os_image_hash(self) -> bytes:
        """SHA-256 of `manifest`, 32 bytes."""
        return sha256(self.manifest)

    def vm_config(self, cpu_count: int, memory_size: int) -> str:
        """The configuration of a VM that runs this image, as JSON text with the members of guest-agent.md 12.4.

        `memory_size` is in bytes: 2 GiB, or 2816 MiB and more. Raises `MisuseError` for another size, or
        for a number of CPUs that is not 1 to 4096.
        """
        if not 0 < cpu_count <= CPU_LIMIT:
            raise misuse(
                "emulated.image.cpu-count",
                "number of CPUs of an emulated TD",
                expected=f"1 to {CPU_LIMIT}",
                found=str(cpu_count),
            )
        self.boot_events(memory_size)  # refuses a size that nobody could verify
        config = {
            "spec_version": 1,
            "os_image_hash": self.os_image_hash.hex(),
            "cpu_count": cpu_count,
            "memory_size": memory_size,
            "qemu_version": _QEMU_VERSION,
            "pci_hole64_size": 0,
            "hugepages": False,
            "num_gpus": 0,
            "num_nvswitches": 0,
            "hotplug_off": False,
            "image": self.name,
            "ovmf_variant": self.measurement.ovmf,
            "tdx_attestation_variant": "lite",
            "tdx_measurement": {
                "checksum_file": base64.b64encode(self.manifest).decode(),
                "measurement": base64.b64encode(self.measurement.encode()).decode(),
            },
        }
        return json.dumps(config, separators=(",", ":"))

    def boot_events(self, memory_size: int) -> tuple[BootEvent, ...]:
        """What firmware and loader measure on a TD of `memory_size` bytes: 20 events, 13 + 5 + 2 for RTMR0 to 2.

        Raises `MisuseError` for a memory size that cannot be measured.
        """
        try:
            registers = boot_digests(self.measurement, memory_size, self.acpi)
        except EvidenceError as error:
            raise MisuseError(replace(error.finding, outcome=Outcome.MISUSE)) from None
        digests = [iter(register) for register in registers]
        return tuple(
            BootEvent(imr, event_type, next(digests[imr]), payload)
            for imr, event_type, payload in _boot_sequence()
        )


def _content(image: str, what: str) -> bytes:
    """What stands for the content of a file of the image."""
    return f"{image}: {what}, emulated".encode()


def _boot_sequence() -> Iterator[tuple[int, int, bytes]]:
    """Register, event type and payload of each boot event, in the order of the log."""
    hob_list = (
        _described("TdxTable") + struct.pack("<Q", 1) + _HOB_LIST.bytes_le + struct.pack("<Q", 0x809000)
    )
    yield 0, _HANDOFF_TABLES2, hob_list
    yield 0, _FIRMWARE_BLOB2, _described("Emulated configuration volume") + bytes(16)
    for name in ("SecureBoot", "PK", "KEK"):
        yield 0, _VARIABLE_DRIVER_CONFIG, _variable(_EFI_GLOBAL, name)
    for name in ("db", "dbx"):
        yield 0, _VARIABLE_DRIVER_CONFIG, _variable(_EFI_SECURITY, name)
    yield 0, _SEPARATOR, bytes(4)
    for _ in range(3):
        yield 0, _PLATFORM_CONFIG_FLAGS, b"ACPI DATA"
    path = _END_OF_DEVICE_PATH
    yield 1, _BOOT_APPLICATION, struct.pack("<QQQQ", 0, 0, 0, len(path)) + path
    yield 0, _VARIABLE_BOOT, _variable(_EFI_GLOBAL, "BootOrder", bytes(2))
    yield 0, _VARIABLE_BOOT, _variable(_EFI_GLOBAL, "Boot0000")
    yield 1, _ACTION, b"Calling EFI Application from Boot Option"
    yield 1, _SEPARATOR, bytes(4)
    yield 2, _EVENT_TAG, _tagged(_LOAD_OPTIONS_TAG, b"LOADED_IMAGE::LoadOptions\0")
    yield 2, _EVENT_TAG, _tagged(_INITRD_TAG, b"Linux initrd\0")
    yield 1, _ACTION, b"Exit Boot Services Invocation"
    yield 1, _ACTION, b"Exit Boot Services Returned with Success"


def _described(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()


def _variable(guid: uuid.UUID, name: str, data: bytes = b"") -> bytes:
    """UEFI_VARIABLE_DATA: owner, length of the name in characters, length of the data, both."""
    return guid.bytes_le + struct.pack("<QQ", len(name), len(data)) + name.encode("utf-16-le") + data


def _tagged(tag: int, data: bytes) -> bytes:
    return struct.pack("<II", tag, len(data)) + data
