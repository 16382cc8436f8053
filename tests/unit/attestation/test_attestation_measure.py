"""Image identity; the numbers in test names are the rules of `measure` (and of `tdhob` where it is named)."""

import hashlib
import json
import struct
from contextlib import suppress
from dataclasses import replace

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import attestation_support as support
from teehouse.attestation import measure, tdhob
from teehouse.attestation.abi import TdReport, parse_quote
from teehouse.attestation.envelope import decode_attestation
from teehouse.attestation.eventlog import Event, name_boot_events, replay_runtime
from teehouse.attestation.measure import (
    ImageMeasurement,
    boot_digests,
    check_image,
    decode_image_measurement,
    expected_registers,
)
from teehouse.attestation.tdhob import td_hob_list
from teehouse.attestation.vmconfig import VmConfig, parse_vm_config
from teehouse.base.findings import EvidenceError, Finding, MisuseError, Outcome
from teehouse.base.hashes import extend, sha256, sha384

WITNESS = bytes.fromhex("80100904000609020b021010")  # trust.md 11.1
MEASUREMENT = ImageMeasurement(
    cmdline_sha384=support.counting(48, 50),
    kernel_authenticode=support.counting(48, 51),
    initrd_sha384=support.counting(48, 52),
    ovmf="pre202505",
    mrtd_single_pass=support.counting(48, 53),
    mrtd_two_pass=support.counting(48, 54),
    td_hob=WITNESS,
)
ACPI = name_boot_events(support.acpi_events())
DIGESTS = (ACPI[0].digest, ACPI[1].digest, ACPI[2].digest)
EVENTS = (Event(0, 10, bytes(48), "", b"ACPI DATA"), *ACPI, Event(1, 4, bytes(48)))
TWO_GIB = 2 << 30


def manifest(measurement: bytes) -> bytes:
    other = hashlib.sha256(b"kernel").hexdigest()
    return f"{other}  bzImage\n{sha256(measurement).hex()}  measurement.tdx.cbor\n".encode()


def vm_config(**changes: object) -> VmConfig:
    document = MEASUREMENT.encode()
    sums = manifest(document)
    config = VmConfig(
        raw="{}",
        os_image_hash=sha256(sums),
        cpu_count=2,
        memory_size=TWO_GIB,
        qemu_version="8.2.2",
        qemu_single_pass_add_pages=None,
        ovmf_variant="pre202505",
        variant="lite",
        checksum_file=sums,
        measurement=document,
    )
    return replace(config, **changes)  # type: ignore[arg-type]  # the tests name real fields


def td_report(config: VmConfig | None = None) -> TdReport:
    registers = expected_registers(MEASUREMENT, config or vm_config(), DIGESTS)
    return support.td_report(
        mr_td=registers.mrtd, rt_mr0=registers.rtmr0, rt_mr1=registers.rtmr1, rt_mr2=registers.rtmr2
    )


def blocks(hob: bytes) -> list[tuple[int, int, int]]:
    """The resource blocks of a HOB list: kind, start, length."""
    found = []
    for place in range(56, len(hob), 48):
        kind, size, _, owner, resource, attributes, start, length = struct.unpack_from(
            "<HHI16sIIQQ", hob, place
        )
        assert (kind, size, owner, attributes) == (3, 48, bytes(16), 7)
        found.append((resource, start, length))
    return found


# --- measurement.tdx.cbor


def test_the_measurement_has_the_members_of_trust_11_1_in_their_order() -> None:
    document = cbor2.loads(MEASUREMENT.encode())
    assert json.dumps(document, default=bytes.hex) == json.dumps(
        {
            "version": 3,
            "image": {
                "cmdline_sha384": MEASUREMENT.cmdline_sha384.hex(),
                "kernel_authenticode": MEASUREMENT.kernel_authenticode.hex(),
                "initrd_sha384": MEASUREMENT.initrd_sha384.hex(),
            },
            "tdvf": {
                "ovmf": "pre202505",
                "mrtd": {
                    "single_pass": MEASUREMENT.mrtd_single_pass.hex(),
                    "two_pass": MEASUREMENT.mrtd_two_pass.hex(),
                },
                "td_hob": WITNESS.hex(),
            },
        }
    )


DIGEST = st.binary(min_size=48, max_size=48)


@given(
    st.builds(
        ImageMeasurement, DIGEST, DIGEST, DIGEST, st.just("pre202505"), DIGEST, DIGEST, st.binary(max_size=64)
    )
)
def test_decoding_undoes_encoding(measurement: ImageMeasurement) -> None:
    assert decode_image_measurement(measurement.encode()) == measurement


def changed(*path: str, value: object = None) -> bytes:
    document = cbor2.loads(MEASUREMENT.encode())
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return cbor2.dumps(document)


@pytest.mark.parametrize(
    ("data", "outcome"),
    [
        (b"", Outcome.MALFORMED),
        (b"\xff", Outcome.MALFORMED),
        (b"\x80", Outcome.MALFORMED),
        (b"\x81" * 1000, Outcome.MALFORMED),
        (b"\xbf\xff", Outcome.MALFORMED),
        (b"\xa2\x61a\x01\x61a\x02", Outcome.MALFORMED),
        (MEASUREMENT.encode()[:-1], Outcome.MALFORMED),
        (MEASUREMENT.encode() + b"\0", Outcome.MALFORMED),
        (changed("version", value=2), Outcome.UNSUPPORTED),
        (changed("version", value=1 << 20000), Outcome.UNSUPPORTED),
        (changed("version", value="3"), Outcome.MALFORMED),
        (changed("image", value=1), Outcome.MALFORMED),
        (changed("image", "initrd_sha384", value=bytes(32)), Outcome.MALFORMED),
        (changed("image", "initrd_sha384", value="00" * 48), Outcome.MALFORMED),
        (changed("tdvf", "mrtd", value={}), Outcome.MALFORMED),
        (changed("tdvf", "ovmf", value="202505"), Outcome.UNSUPPORTED),
        (changed("tdvf", "td_hob", value="80"), Outcome.MALFORMED),
    ],
)
def test_bad_measurements_are_refused(data: bytes, outcome: Outcome) -> None:
    with pytest.raises(EvidenceError) as error:
        decode_image_measurement(data)
    assert support.refusal(error) == ("image.cbor", outcome)


def test_a_measurement_of_the_limit_is_read_and_one_byte_more_is_not() -> None:
    room = measure.MEASUREMENT_LIMIT - len(changed("tdvf", "td_hob", value=bytes(0xFFFF)))
    longest = changed("tdvf", "td_hob", value=bytes(0xFFFF + room))
    assert len(longest) == measure.MEASUREMENT_LIMIT
    assert decode_image_measurement(longest).td_hob == bytes(0xFFFF + room)
    with pytest.raises(EvidenceError) as error:
        decode_image_measurement(longest + b"\0")
    assert error.value.finding.subject == "the image measurement is too long"


def test_members_that_are_not_known_are_passed_over() -> None:
    assert decode_image_measurement(changed("more", value=[1])) == MEASUREMENT


@given(st.binary(max_size=300))
def test_arbitrary_bytes_raise_only_evidence_errors(data: bytes) -> None:
    with suppress(EvidenceError):
        decode_image_measurement(data)


def test_a_digest_of_another_size_is_misuse() -> None:
    with pytest.raises(MisuseError) as error:
        replace(MEASUREMENT, mrtd_two_pass=bytes(47)).encode()
    assert support.refusal(error) == ("image.digest-size", Outcome.MISUSE)


# --- the TD HOB list


@pytest.mark.parametrize(
    ("memory", "high"),
    [
        (TWO_GIB, []),
        (0xB0000000, [(7, 1 << 32, 0x30000000)]),
        (16 << 30, [(7, 1 << 32, 14 << 30)]),
    ],
)
def test_the_hob_list_tells_which_memory_is_accepted(memory: int, high: list[tuple[int, int, int]]) -> None:
    hob = td_hob_list(WITNESS, memory)
    assert blocks(hob) == [
        (7, 0, 0x800000),
        (0, 0x800000, 0x6000),
        (7, 0x806000, 0x3000),
        (0, 0x809000, 0x2000),
        (0, 0x80B000, 0x2000),
        (7, 0x80D000, 0x3000),
        (0, 0x810000, 0x10000),
        (7, 0x820000, 0x80000000 - 0x820000),
        *high,
    ]
    assert hob[:16] == struct.pack("<HHIII", 1, 56, 0, 9, 0)
    assert hob[16:48] == bytes(32)
    assert struct.unpack_from("<Q", hob, 48) == (0x809000 + len(hob) + 8,)


@pytest.mark.parametrize(
    ("memory", "digest"),
    [  # computed with the sketch of trust.md 11.1, which is another implementation
        (
            TWO_GIB,
            "0b8772e5b0b41b83e6044a68397e02f49fb47066b4fbe4917ea2c45c64f323fdacbb37948f821ebaf8bc9c938ba8a749",
        ),
        (
            0xB0000000,
            "8eb1a02074362aa0761541cdb4dc3f1788dfeb4538803b241477848e26de294dbe917ab56c5628732679b3abc168c2de",
        ),
        (
            16 << 30,
            "cd2312a0d87ef3c4a928df87088969a80b33d7bf3fc584bdde637b09ed808a8d821a56b78a13a6eb506db7578444abbe",
        ),
    ],
)
def test_the_hob_list_has_the_digest_of_another_implementation(memory: int, digest: str) -> None:
    assert sha384(td_hob_list(WITNESS, memory)).hex() == digest


def test_a_range_at_the_first_page_has_no_gap_before_it() -> None:
    assert blocks(td_hob_list(bytes([0, 0, 1, 0, 1]), TWO_GIB)) == [(0, 0, 4096), (7, 4096, TWO_GIB - 4096)]


@pytest.mark.parametrize("memory", [0, TWO_GIB - 1, TWO_GIB + 1, 0xB0000000 - 1])
def test_tdhob_rule_1_other_memory_sizes_are_unsupported(memory: int) -> None:
    with pytest.raises(EvidenceError) as error:
        td_hob_list(WITNESS, memory)
    assert support.refusal(error) == ("image.memory-size", Outcome.UNSUPPORTED)


def test_tdhob_rule_1_memory_beyond_the_address_space_is_malformed() -> None:
    assert blocks(td_hob_list(WITNESS, (1 << 52) - 1))[-1] == (7, 1 << 32, (1 << 52) - 1 - TWO_GIB)
    with pytest.raises(EvidenceError) as error:
        td_hob_list(WITNESS, 1 << 52)
    assert support.refusal(error) == ("image.memory-size", Outcome.MALFORMED)


def leb128(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def witness(*values: int) -> bytes:
    return b"".join(map(leb128, values))


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "image.td-hob.truncated"),
        (b"\x80", "image.td-hob.truncated"),
        (WITNESS[:-1], "image.td-hob.truncated"),
        (WITNESS + b"\0", "image.td-hob.trailing"),
        (b"\x80\x80\x80\x80\x80\x00", "image.td-hob"),
        (witness(0, 0, 2, 0, 2, 1, 1), "image.td-hob"),  # overlap
        (witness(0, 0, 1, 5, 0), "image.td-hob"),  # empty
        (witness(0, 0, 1, 0, 0x80000), "image.td-hob"),  # up to 2 GiB
        (witness(0, 0, 257), "image.td-hob"),
        (bytes(tdhob.WITNESS_LIMIT + 1), "image.td-hob.too-long"),
    ],
)
def test_tdhob_rules_2_and_3_bad_witnesses_are_refused(data: bytes, code: str) -> None:
    with pytest.raises(EvidenceError) as error:
        td_hob_list(data, TWO_GIB)
    assert support.refusal(error) == (code, Outcome.MALFORMED)


def test_tdhob_rule_2_as_many_ranges_as_the_limit_are_read() -> None:
    pairs = [number for place in range(256) for number in (2 * place + 1, 1)]
    assert len(blocks(td_hob_list(witness(0, 0, 256, *pairs), TWO_GIB))) == 513


@given(st.binary(max_size=80))
def test_arbitrary_witnesses_raise_only_evidence_errors(data: bytes) -> None:
    with suppress(EvidenceError):
        td_hob_list(data, 4 << 30)


# --- digests and registers


def test_boot_digests_are_those_of_trust_11_1() -> None:
    rtmr0, rtmr1, rtmr2 = boot_digests(MEASUREMENT, TWO_GIB, DIGESTS)
    global_guid = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c")
    security_guid = bytes.fromhex("cbb219d73a3d9645a3bcdad00e67656f")

    def variable(guid: bytes, name: str) -> bytes:
        return sha384(guid + struct.pack("<QQ", len(name), 0) + name.encode("utf-16-le"))

    assert rtmr0 == (
        sha384(td_hob_list(WITNESS, TWO_GIB)),
        measure.CFV_DIGEST,
        variable(global_guid, "SecureBoot"),
        variable(global_guid, "PK"),
        variable(global_guid, "KEK"),
        variable(security_guid, "db"),
        variable(security_guid, "dbx"),
        sha384(b"\0\0\0\0"),
        *DIGESTS,
        sha384(b"\0\0"),
        measure.BOOT0000_DIGEST,
    )
    assert rtmr1 == (
        MEASUREMENT.kernel_authenticode,
        sha384(b"Calling EFI Application from Boot Option"),
        sha384(b"\0\0\0\0"),
        sha384(b"Exit Boot Services Invocation"),
        sha384(b"Exit Boot Services Returned with Success"),
    )
    assert rtmr2 == (MEASUREMENT.cmdline_sha384, MEASUREMENT.initrd_sha384)


def test_registers_are_the_replay_of_the_digests() -> None:
    def replayed(digests: tuple[bytes, ...]) -> bytes:
        register = bytes(48)
        for digest in digests:
            register = extend(register, digest)
        return register

    rtmrs = boot_digests(MEASUREMENT, TWO_GIB, DIGESTS)
    expected = measure.Registers(MEASUREMENT.mrtd_two_pass, *map(replayed, rtmrs))
    assert expected_registers(MEASUREMENT, vm_config(), DIGESTS) == expected


def test_another_firmware_template_is_unsupported() -> None:
    with pytest.raises(EvidenceError) as error:
        boot_digests(replace(MEASUREMENT, ovmf="202505"), TWO_GIB, DIGESTS)
    assert support.refusal(error) == ("image.cbor", Outcome.UNSUPPORTED)


@pytest.mark.parametrize(
    ("version", "single_pass", "two_pass"),
    [
        ("8.2.2", None, True),
        ("8.0", None, True),
        ("8", None, True),
        ("8.2.2 (Debian 1:8.2.2)", None, True),
        ("9.0.0", None, False),
        ("10.1.0", None, False),
        (None, None, False),  # absent is 9.1.0
        ("9.1.0", True, True),  # the flag is taken for the two-pass option (trust.md 18)
        ("8.2.2", False, False),
        ("nonsense", True, True),
    ],
)
def test_mrtd_is_chosen_by_qemu_version(
    version: str | None, single_pass: bool | None, two_pass: bool
) -> None:
    config = vm_config(qemu_version=version, qemu_single_pass_add_pages=single_pass)
    mrtd = expected_registers(MEASUREMENT, config, DIGESTS).mrtd
    assert mrtd == (MEASUREMENT.mrtd_two_pass if two_pass else MEASUREMENT.mrtd_single_pass)


@pytest.mark.parametrize(
    ("changes", "code", "outcome"),
    [
        ({"qemu_version": "7.2.0"}, "image.qemu-version", Outcome.UNSUPPORTED),
        ({"qemu_version": "v8"}, "image.qemu-version", Outcome.MALFORMED),
        ({"qemu_version": ""}, "image.qemu-version", Outcome.MALFORMED),
        ({"qemu_version": "8beta"}, "image.qemu-version", Outcome.MALFORMED),
        ({"qemu_version": "9" * 5000}, "image.qemu-version", Outcome.MALFORMED),
        ({"memory_size": None}, "image.memory-size", Outcome.MALFORMED),
        ({"memory_size": 1 << 30}, "image.memory-size", Outcome.UNSUPPORTED),
    ],
)
def test_configurations_without_known_registers_are_refused(
    changes: dict[str, object], code: str, outcome: Outcome
) -> None:
    with pytest.raises(EvidenceError) as error:
        expected_registers(MEASUREMENT, vm_config(**changes), DIGESTS)
    assert support.refusal(error) == (code, outcome)
    # The judgement tells the same in place of the four comparisons.
    findings = check_image(vm_config(**changes), EVENTS, support.td_report())
    assert [(f.check, f.code, f.outcome) for f in findings[7:]] == [("8", code, outcome)]


# --- the judgement


def test_the_image_that_was_started_passes_every_rule() -> None:
    registers = expected_registers(MEASUREMENT, vm_config(), DIGESTS)
    sums = sha256(manifest(MEASUREMENT.encode())).hex()
    listed = sha256(MEASUREMENT.encode()).hex()

    def passed(check: int, code: str, subject: str, expected: str = "", found: str = "") -> Finding:
        return Finding(code, subject, Outcome.ACCEPTED, expected, found, check=str(check))

    assert check_image(vm_config(), EVENTS, td_report()) == (
        passed(1, "image.variant", "attestation variant", found="lite"),
        passed(2, "image.manifest", "sha256sum.txt of the image", found=sums),
        passed(3, "image.measurement-listed", "measurement.tdx.cbor in sha256sum.txt"),
        passed(4, "image.measurement-hash", "SHA-256 of measurement.tdx.cbor", found=listed),
        passed(5, "image.cbor", "image measurement"),
        passed(6, "image.ovmf-variant", "firmware variant", found="pre202505"),
        passed(7, "image.acpi-events", "ACPI events of the log"),
        passed(8, "image.mrtd", "MRTD", registers.mrtd.hex(), registers.mrtd.hex()),
        passed(9, "image.rtmr0", "RTMR0", registers.rtmr0.hex(), registers.rtmr0.hex()),
        passed(10, "image.rtmr1", "RTMR1", registers.rtmr1.hex(), registers.rtmr1.hex()),
        passed(11, "image.rtmr2", "RTMR2", registers.rtmr2.hex(), registers.rtmr2.hex()),
    )


def test_rule_1_the_legacy_variant_is_unsupported_and_says_what_is_not() -> None:
    assert check_image(vm_config(variant="legacy"), EVENTS, td_report()) == (
        Finding(
            "image.variant",
            "attestation variant of the image",
            Outcome.UNSUPPORTED,
            expected="lite",
            found="legacy",
            remedy="boot an image whose vm_config carries tdx_measurement (tdx_attestation_variant lite)",
            check="1",
        ),
    )


LISTED = sha256(MEASUREMENT.encode()).hex()


def with_manifest(text: bytes) -> dict[str, object]:
    return {"checksum_file": text, "os_image_hash": sha256(text)}


def with_measurement(document: bytes) -> dict[str, object]:
    return {"measurement": document, **with_manifest(manifest(document))}


@pytest.mark.parametrize(
    ("changes", "check", "code", "outcome"),
    [
        ({"os_image_hash": bytes(32)}, 2, "image.manifest", Outcome.REJECTED),
        ({"os_image_hash": b""}, 2, "image.manifest", Outcome.REJECTED),
        ({"os_image_hash": None}, 2, "image.manifest", Outcome.MALFORMED),
        ({"checksum_file": None}, 2, "image.manifest", Outcome.MALFORMED),
        ({"measurement": None}, 2, "image.manifest", Outcome.MALFORMED),
        (with_manifest(b""), 3, "image.measurement-listed", Outcome.REJECTED),
        (
            with_manifest(f"{LISTED}  measurement.tdx.cbor\n".encode() * 2),
            3,
            "image.measurement-listed",
            Outcome.REJECTED,
        ),
        (
            with_manifest(f"{LISTED}  sub/measurement.tdx.cbor\n".encode()),
            3,
            "image.measurement-listed",
            Outcome.REJECTED,
        ),
        (
            with_manifest(f"{LISTED} measurement.tdx.cbor\n".encode()),
            3,
            "image.measurement-listed",
            Outcome.MALFORMED,
        ),
        (with_manifest(b"\n"), 3, "image.measurement-listed", Outcome.MALFORMED),
        (
            # A vertical tab ends no line: this names another file.
            with_manifest(f"{'0' * 64}  other\v{LISTED}  measurement.tdx.cbor\n".encode()),
            3,
            "image.measurement-listed",
            Outcome.MALFORMED,
        ),
        (with_manifest(b"\xff\n"), 3, "image.measurement-listed", Outcome.MALFORMED),
        (
            with_manifest(f"{'0' * 64}  measurement.tdx.cbor\n".encode()),
            4,
            "image.measurement-hash",
            Outcome.REJECTED,
        ),
        (with_measurement(b"\xff"), 5, "image.cbor", Outcome.MALFORMED),
        (with_measurement(changed("version", value=4)), 5, "image.cbor", Outcome.UNSUPPORTED),
        ({"ovmf_variant": "202505"}, 6, "image.ovmf-variant", Outcome.REJECTED),
        (
            with_measurement(changed("tdvf", "td_hob", value=b"\x80")),
            8,
            "image.td-hob.truncated",
            Outcome.MALFORMED,
        ),
    ],
)
def test_rules_2_to_6_end_the_judgement(
    changes: dict[str, object], check: int, code: str, outcome: Outcome
) -> None:
    findings = check_image(vm_config(**changes), EVENTS, td_report())
    assert [f.check for f in findings] == [str(number) for number in range(1, check + 1)]
    assert all(f.ok for f in findings[:-1])
    assert (findings[-1].code, findings[-1].outcome) == (code, outcome)


def test_rule_6_a_configuration_without_firmware_variant_passes() -> None:
    assert all(f.ok for f in check_image(vm_config(ovmf_variant=None), EVENTS, td_report()))


@pytest.mark.parametrize(
    ("events", "found"),
    [
        ((), "none"),
        (ACPI[:2], "acpi-loader, acpi-rsdp"),
        ((*ACPI, ACPI[0]), "acpi-loader, acpi-rsdp, acpi-tables, acpi-loader"),
        ((ACPI[0], ACPI[1], ACPI[1]), "acpi-loader, acpi-rsdp, acpi-rsdp"),
        ((ACPI[0], ACPI[1], replace(ACPI[2], digest=b"")), "acpi-loader, acpi-rsdp, acpi-tables"),
        ((ACPI[0], ACPI[1], replace(ACPI[2], event_payload=b"")), "acpi-loader, acpi-rsdp"),
        ((ACPI[0], ACPI[1], replace(ACPI[2], imr=1)), "acpi-loader, acpi-rsdp"),
        ((ACPI[0], ACPI[1], replace(ACPI[2], event="")), "acpi-loader, acpi-rsdp"),
    ],
)
def test_rule_7_each_acpi_event_is_there_once(events: tuple[Event, ...], found: str) -> None:
    findings = check_image(vm_config(), events, td_report())
    assert len(findings) == 7
    assert findings[-1] == Finding(
        "image.acpi-events",
        "named ACPI events of the log",
        Outcome.REJECTED,
        "acpi-loader, acpi-rsdp, acpi-tables, once each, with digests of 48 bytes",
        found,
        check="7",
    )


@pytest.mark.parametrize(
    ("field", "check", "code"),
    [
        ("mr_td", 8, "image.mrtd"),
        ("rt_mr0", 9, "image.rtmr0"),
        ("rt_mr1", 10, "image.rtmr1"),
        ("rt_mr2", 11, "image.rtmr2"),
    ],
)
def test_rules_8_to_11_a_register_of_something_else_is_rejected(field: str, check: int, code: str) -> None:
    right = td_report()
    wrong = replace(right, **{field: bytes(48)})  # type: ignore[arg-type]  # every field here is bytes
    findings = check_image(vm_config(), EVENTS, wrong)
    assert len(findings) == 11
    (bad,) = [f for f in findings if not f.ok]
    assert (bad.check, bad.code, bad.outcome) == (str(check), code, Outcome.REJECTED)
    assert (bad.expected, bad.found) == (getattr(right, field).hex(), "00" * 48)


def test_memory_size_and_acpi_digests_are_bound_to_rtmr0() -> None:
    other_acpi = (*ACPI[:2], replace(ACPI[2], digest=bytes(48)))
    for config, events in ((vm_config(memory_size=4 << 30), EVENTS), (vm_config(), other_acpi)):
        assert [f.code for f in check_image(config, events, td_report()) if not f.ok] == ["image.rtmr0"]


def test_the_published_lite_fixture_is_reproduced() -> None:
    document = json.loads(support.sample("tdx-lite-attestation.json"))
    attestation = decode_attestation(bytes.fromhex(document["attestation"]))
    body = parse_quote(attestation.quote).body
    assert isinstance(body, TdReport)
    config = parse_vm_config(attestation.config)
    findings = check_image(config, attestation.event_log, body)
    assert [(f.check, f.outcome) for f in findings] == [(str(n), Outcome.ACCEPTED) for n in range(1, 12)]
    assert config.measurement is not None
    assert decode_image_measurement(config.measurement).encode() == config.measurement
    assert replay_runtime(attestation.runtime_events) == body.rt_mr3
    # Another memory size is another machine.
    other = replace(config, memory_size=4 << 30)
    assert [f.code for f in check_image(other, attestation.event_log, body) if not f.ok] == ["image.rtmr0"]
