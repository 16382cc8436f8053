"""OS image identity, without the image: from a signed-for list of measurements to MRTD and RTMR0 to 2.

Source: trust.md 11.1 (the "lite" path). `os_image_hash` is the SHA-256 of the image's sha256sum.txt;
that file names measurement.tdx.cbor, which holds what the registers are computed from.

Rules of `check_image`, in order; the first of 1 to 7 that fails ends the judgement:

1. `image.variant`: the TD was started with the lite variant (the other needs the image and its tools).
2. `image.manifest`: SHA-256 of sha256sum.txt is `os_image_hash`.
3. `image.measurement-listed`: sha256sum.txt has one line, and only one, for measurement.tdx.cbor.
4. `image.measurement-hash`: the SHA-256 in that line is the one of the measurement.
5. `image.cbor`: the measurement is what `decode_image_measurement` reads.
6. `image.ovmf-variant`: the firmware variant is the one that vm_config names, where it names one.
7. `image.acpi-events`: the log has each of the three named ACPI events once: register 0, type 10, payload
   "ACPI DATA", a digest of 48 bytes.
8. `image.mrtd`   9. `image.rtmr0`   10. `image.rtmr1`   11. `image.rtmr2`: computed and quoted value are equal.
   All four are reported. When nothing can be computed, one finding says why: `image.memory-size`,
   `image.qemu-version`, `image.td-hob`.

What the ACPI tables contain is not judged: their digests come from the log and are only bound to RTMR0.
"""

import hmac
import io
import re
import struct
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import cbor2

from teehouse.attestation import strictjson
from teehouse.attestation.abi import TdReport
from teehouse.attestation.eventlog import ACPI_EVENT_NAMES, Event
from teehouse.attestation.tdhob import td_hob_list
from teehouse.attestation.vmconfig import VmConfig
from teehouse.base.findings import EvidenceError, Finding, Outcome, malformed, misuse, rejected, unsupported
from teehouse.base.hashes import INITIAL_REGISTER, REGISTER_SIZE, extend, sha256, sha384

MEASUREMENT_NAME = "measurement.tdx.cbor"
MEASUREMENT_VERSION = 3
MEASUREMENT_LIMIT = 64 * 1024  # bytes of the CBOR
OVMF_PRE_202505 = "pre202505"
DEFAULT_QEMU_VERSION = "9.1.0"

# trust.md 11.1: digests that no image changes.
CFV_DIGEST = bytes.fromhex(
    "344bc51c980ba621aaa00da3ed7436f7d6e549197dfe699515dfa2c6583d95e6412af21c097d473155875ffd561d6790"
)
BOOT0000_DIGEST = bytes.fromhex(
    "23ada07f5261f12f34a0bd8e46760962d6b4d576a416f1fea1c64bc656b1d28eacf7047ae6e967c58fd2a98bfa74c298"
)
_EFI_GLOBAL = uuid.UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
_EFI_SECURITY = uuid.UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
_VARIABLES = (
    (_EFI_GLOBAL, "SecureBoot"),
    (_EFI_GLOBAL, "PK"),
    (_EFI_GLOBAL, "KEK"),
    (_EFI_SECURITY, "db"),
    (_EFI_SECURITY, "dbx"),
)
_MANIFEST_LINE = re.compile(rb"([0-9a-fA-F]{64})  (\S+)")
_VERSION = re.compile(r"(\d{1,6})(?:\.\d|\Z)")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class ImageMeasurement:
    """The content of measurement.tdx.cbor: SHA-384 digests of 48 bytes each, and the TD HOB witness.

    `cmdline_sha384` is over the UTF-16LE command line with its NUL; `ovmf` names the firmware's event
    template; `td_hob` is a list of LEB128 integers (see `tdhob`).
    """

    cmdline_sha384: bytes
    kernel_authenticode: bytes
    initrd_sha384: bytes
    ovmf: str
    mrtd_single_pass: bytes
    mrtd_two_pass: bytes
    td_hob: bytes

    def encode(self) -> bytes:
        """CBOR, members in the order of published images. Raises `MisuseError` for a digest of another size."""
        return cbor2.dumps(
            {
                "version": MEASUREMENT_VERSION,
                "image": {
                    "cmdline_sha384": _digest_out(self.cmdline_sha384),
                    "kernel_authenticode": _digest_out(self.kernel_authenticode),
                    "initrd_sha384": _digest_out(self.initrd_sha384),
                },
                "tdvf": {
                    "ovmf": self.ovmf,
                    "mrtd": {
                        "single_pass": _digest_out(self.mrtd_single_pass),
                        "two_pass": _digest_out(self.mrtd_two_pass),
                    },
                    "td_hob": self.td_hob,
                },
            }
        )


@dataclass(frozen=True, slots=True)
class Registers:
    """What an image makes of a TD before the guest speaks; 48 bytes each."""

    mrtd: bytes
    rtmr0: bytes
    rtmr1: bytes
    rtmr2: bytes


def decode_image_measurement(data: bytes) -> ImageMeasurement:
    """Read measurement.tdx.cbor, at most 64 KiB. Members that are not known are passed over.

    Raises `EvidenceError`: malformed, or unsupported for another version or firmware variant.
    """
    if len(data) > MEASUREMENT_LIMIT:
        raise malformed(
            "image.cbor",
            "the image measurement is too long",
            expected=f"at most {MEASUREMENT_LIMIT} bytes",
            found=str(len(data)),
        )
    stream = io.BytesIO(data)
    try:
        document = cbor2.CBORDecoder(
            stream, max_depth=8, allow_indefinite=False, allow_duplicate_keys=False
        ).decode()
    except cbor2.CBORDecodeError:
        raise malformed("image.cbor", "the image measurement is no CBOR") from None
    if stream.tell() != len(data):
        raise malformed("image.cbor", "the image measurement goes on after its end")
    version = _member(document, "version", int)
    if version != MEASUREMENT_VERSION:
        raise unsupported(
            "image.cbor",
            "version of the image measurement",
            expected=str(MEASUREMENT_VERSION),
            found=strictjson.short(version),
        )
    image = _member(document, "image", dict)
    tdvf = _member(document, "tdvf", dict)
    mrtd = _member(tdvf, "mrtd", dict)
    ovmf = _member(tdvf, "ovmf", str)
    _check_ovmf(ovmf)
    return ImageMeasurement(
        cmdline_sha384=_digest_in(image, "cmdline_sha384"),
        kernel_authenticode=_digest_in(image, "kernel_authenticode"),
        initrd_sha384=_digest_in(image, "initrd_sha384"),
        ovmf=ovmf,
        mrtd_single_pass=_digest_in(mrtd, "single_pass"),
        mrtd_two_pass=_digest_in(mrtd, "two_pass"),
        td_hob=_member(tdvf, "td_hob", bytes),
    )


def boot_digests(
    measurement: ImageMeasurement, memory_size: int, acpi: tuple[bytes, bytes, bytes]
) -> tuple[tuple[bytes, ...], tuple[bytes, ...], tuple[bytes, ...]]:
    """The digests that extend RTMR0 (13), RTMR1 (5) and RTMR2 (2), in order, 48 bytes each.

    `memory_size` is in bytes; `acpi` are the digests of loader, RSDP and tables. Raises `EvidenceError`:
    unsupported for another firmware variant or memory size, malformed for a bad TD HOB witness.
    """
    _check_ovmf(measurement.ovmf)
    rtmr0 = (
        sha384(td_hob_list(measurement.td_hob, memory_size)),
        CFV_DIGEST,
        *(_variable_digest(guid, name) for guid, name in _VARIABLES),
        sha384(bytes(4)),
        *acpi,
        sha384(bytes(2)),
        BOOT0000_DIGEST,
    )
    rtmr1 = (
        measurement.kernel_authenticode,
        sha384(b"Calling EFI Application from Boot Option"),
        sha384(bytes(4)),
        sha384(b"Exit Boot Services Invocation"),
        sha384(b"Exit Boot Services Returned with Success"),
    )
    return rtmr0, rtmr1, (measurement.cmdline_sha384, measurement.initrd_sha384)


def expected_registers(
    measurement: ImageMeasurement, vm_config: VmConfig, acpi: tuple[bytes, bytes, bytes]
) -> Registers:
    """MRTD and RTMR0 to 2 of this image, started with this configuration.

    Raises `EvidenceError` as `boot_digests`, and for a missing memory size or a QEMU that is not known.
    """
    if vm_config.memory_size is None:
        raise malformed("image.memory-size", "vm_config states no memory_size")
    two_pass = _adds_pages_in_two_passes(vm_config)
    rtmr0, rtmr1, rtmr2 = boot_digests(measurement, vm_config.memory_size, acpi)
    return Registers(
        mrtd=measurement.mrtd_two_pass if two_pass else measurement.mrtd_single_pass,
        rtmr0=_replay(rtmr0),
        rtmr1=_replay(rtmr1),
        rtmr2=_replay(rtmr2),
    )


def check_image(vm_config: VmConfig, events: Sequence[Event], td: TdReport) -> tuple[Finding, ...]:
    """Judge whether the TD runs the image that its configuration names, by the rules above.

    One finding for each rule that was looked at, in order; nothing is raised for bad evidence.
    """
    passed: list[Finding] = []
    rule = 0

    def passes(code: str, subject: str, found: str = "") -> None:
        passed.append(Finding(code, subject, found=found, check=str(rule)))

    try:
        rule = 1
        _check_variant(vm_config)
        passes("image.variant", "attestation variant", "lite")
        rule = 2
        manifest, document = _check_manifest(vm_config)
        passes("image.manifest", "sha256sum.txt of the image", sha256(manifest).hex())
        rule = 3
        listed = _listed_hash(manifest)
        passes("image.measurement-listed", f"{MEASUREMENT_NAME} in sha256sum.txt")
        rule = 4
        _equal("image.measurement-hash", f"SHA-256 of {MEASUREMENT_NAME}", listed, sha256(document))
        passes("image.measurement-hash", f"SHA-256 of {MEASUREMENT_NAME}", listed.hex())
        rule = 5
        measurement = decode_image_measurement(document)
        passes("image.cbor", "image measurement")
        rule = 6
        _check_ovmf_variant(vm_config, measurement)
        passes("image.ovmf-variant", "firmware variant", measurement.ovmf)
        rule = 7
        acpi = _acpi_digests(events)
        passes("image.acpi-events", "ACPI events of the log")
        rule = 8
        expected = expected_registers(measurement, vm_config, acpi)
    except EvidenceError as error:
        return (*passed, replace(error.finding, check=str(rule)))
    pairs = (
        ("mrtd", expected.mrtd, td.mr_td),
        ("rtmr0", expected.rtmr0, td.rt_mr0),
        ("rtmr1", expected.rtmr1, td.rt_mr1),
        ("rtmr2", expected.rtmr2, td.rt_mr2),
    )
    registers = (
        _compared(f"image.{name}", name.upper(), wanted, found, str(check))
        for check, (name, wanted, found) in enumerate(pairs, start=8)
    )
    return (*passed, *registers)


def _check_variant(vm_config: VmConfig) -> None:
    if vm_config.variant != "lite":
        raise unsupported(
            "image.variant",
            "attestation variant of the image",
            expected="lite",
            found=vm_config.variant,
            remedy="boot an image whose vm_config carries tdx_measurement (tdx_attestation_variant lite)",
        )


def _check_manifest(vm_config: VmConfig) -> tuple[bytes, bytes]:
    if vm_config.os_image_hash is None or vm_config.checksum_file is None or vm_config.measurement is None:
        raise malformed(
            "image.manifest",
            "vm_config of a lite image",
            expected="os_image_hash, tdx_measurement.checksum_file and tdx_measurement.measurement",
        )
    _equal(
        "image.manifest",
        "SHA-256 of sha256sum.txt",
        vm_config.os_image_hash,
        sha256(vm_config.checksum_file),
    )
    return vm_config.checksum_file, vm_config.measurement


def _listed_hash(manifest: bytes) -> bytes:
    """The SHA-256 that sha256sum.txt lists for the measurement; every line has the form of that file."""
    code = "image.measurement-listed"
    hashes: list[bytes] = []
    for line in manifest.removesuffix(b"\n").split(b"\n") if manifest else ():
        match = _MANIFEST_LINE.fullmatch(line)
        if match is None:
            raise malformed(code, "sha256sum.txt has a line of another form")
        if match[2] == MEASUREMENT_NAME.encode():
            hashes.append(bytes.fromhex(match[1].decode()))
    if len(hashes) != 1:
        raise rejected(
            code, f"{MEASUREMENT_NAME} in sha256sum.txt", expected="one line", found=str(len(hashes))
        )
    return hashes[0]


def _check_ovmf(variant: str) -> None:
    if variant != OVMF_PRE_202505:
        raise unsupported(
            "image.cbor",
            "firmware variant of the measurement",
            expected=OVMF_PRE_202505,
            found=strictjson.quoted(variant),
        )


def _check_ovmf_variant(vm_config: VmConfig, measurement: ImageMeasurement) -> None:
    if vm_config.ovmf_variant not in (None, measurement.ovmf):
        raise rejected(
            "image.ovmf-variant",
            "firmware variant",
            expected=measurement.ovmf,
            found=strictjson.quoted(str(vm_config.ovmf_variant)),
        )


def _acpi_digests(events: Sequence[Event]) -> tuple[bytes, bytes, bytes]:
    named = [e for e in events if e.is_acpi and e.event in ACPI_EVENT_NAMES]
    digests = {e.event: e.digest for e in named if len(e.digest) == REGISTER_SIZE}
    if len(named) != len(ACPI_EVENT_NAMES) or len(digests) != len(named):
        raise rejected(
            "image.acpi-events",
            "named ACPI events of the log",
            expected=f"{', '.join(ACPI_EVENT_NAMES)}, once each, with digests of {REGISTER_SIZE} bytes",
            found=", ".join(e.event for e in named[:8]) or "none",
        )
    loader, rsdp, tables = (digests[name] for name in ACPI_EVENT_NAMES)
    return loader, rsdp, tables


def _adds_pages_in_two_passes(vm_config: VmConfig) -> bool:
    """Which of the two MRTDs counts: QEMU 8 adds and measures pages in two passes, later ones in one.

    An explicit `qemu_single_pass_add_pages` overrides the version; published verifiers feed it into
    the two-pass option as it stands (trust.md 18), so true means two passes here as well.
    """
    if vm_config.qemu_single_pass_add_pages is not None:
        return vm_config.qemu_single_pass_add_pages
    version = vm_config.qemu_version if vm_config.qemu_version is not None else DEFAULT_QEMU_VERSION
    match = _VERSION.match(version)
    if match is None:
        raise malformed(
            "image.qemu-version", "qemu_version of vm_config is no version", found=strictjson.quoted(version)
        )
    major = int(match[1])
    if major < 8:
        raise unsupported(
            "image.qemu-version", "QEMU version", expected="8 or later", found=strictjson.quoted(version)
        )
    return major == 8


def _variable_digest(guid: uuid.UUID, name: str) -> bytes:
    """The measurement of an EFI variable that is not set."""
    return sha384(guid.bytes_le + struct.pack("<QQ", len(name), 0) + name.encode("utf-16-le"))


def _replay(digests: Sequence[bytes]) -> bytes:
    register = INITIAL_REGISTER
    for digest in digests:
        register = extend(register, digest)
    return register


def _equal(code: str, subject: str, expected: bytes, found: bytes) -> None:
    if not hmac.compare_digest(expected, found):
        raise rejected(code, subject, expected=expected.hex(), found=found.hex())


def _compared(code: str, subject: str, expected: bytes, found: bytes, check: str) -> Finding:
    outcome = Outcome.ACCEPTED if hmac.compare_digest(expected, found) else Outcome.REJECTED
    return Finding(code, subject, outcome, expected=expected.hex(), found=found.hex(), check=check)


def _digest_out(value: bytes) -> bytes:
    if len(value) != REGISTER_SIZE:
        raise misuse(
            "image.digest-size",
            "digest of an image",
            expected=f"{REGISTER_SIZE} bytes",
            found=str(len(value)),
        )
    return value


def _digest_in(source: Any, key: str) -> bytes:
    value = _member(source, key, bytes)
    if len(value) != REGISTER_SIZE:
        raise malformed(
            "image.cbor",
            f"{key} of the image measurement",
            expected=f"{REGISTER_SIZE} bytes",
            found=str(len(value)),
        )
    return value


def _member(source: Any, key: str, wanted: type[_T]) -> _T:
    value = source.get(key) if isinstance(source, dict) else None
    if not isinstance(value, wanted):
        raise malformed(
            "image.cbor",
            f"{key} of the image measurement",
            expected=wanted.__name__,
            found="nothing" if value is None else type(value).__name__,
        )
    return value
