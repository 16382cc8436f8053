"""The emulated image and the TD that runs it, against the verifier's own image check."""

import asyncio
import json
import os
import stat
from pathlib import Path

import pytest

from support import emulated
from teehouse.attestation.abi import TdReport, parse_quote
from teehouse.attestation.eventlog import Event, RuntimeEvent, name_boot_events, replay, replay_runtime
from teehouse.attestation.measure import check_image, expected_registers
from teehouse.attestation.vmconfig import parse_vm_config
from teehouse.base.findings import EvidenceError, MisuseError, Outcome
from teehouse.base.hashes import sha256
from teehouse.tee.platform import Platform, PlatformError
from teehouse.tee_emulated import constants
from teehouse.tee_emulated.image import EmulatedImage
from teehouse.tee_emulated.td import EmulatedTd

GIB = 1 << 30
# Golden: computed once from the sentences the image is made of; another value is another image.
GOLDEN_OS_IMAGE_HASH = "f2c865d4799b884da596b58f669355f435e4d3e437d9fae30986f0d406485d25"
DIGEST = RuntimeEvent("app-id", b"\x01" * 20).digest()


def as_events(td: Platform) -> tuple[Event, ...]:
    return name_boot_events(
        Event(event.imr, event.event_type, event.digest, event_payload=event.payload)
        for event in td.boot_events()
    )


def body(td: Platform, report_data: bytes = bytes(64)) -> TdReport:
    parsed = parse_quote(asyncio.run(td.quote(report_data)))
    assert isinstance(parsed.body, TdReport)
    return parsed.body


def register(td: Platform) -> bytes | None:
    return asyncio.run(td.runtime_register())


@pytest.mark.parametrize("memory", [2 * GIB, 0xB0000000, 4 * GIB, 64 * GIB])
def test_the_verifiers_image_check_passes_in_every_rule(tmp_path: Path, memory: int) -> None:
    td = emulated.td(tmp_path, memory_size=memory)
    findings = check_image(parse_vm_config(td.vm_config), as_events(td), body(td))
    assert [(f.check, f.code, f.outcome) for f in findings] == [
        (str(number), f"image.{rule}", Outcome.ACCEPTED)
        for number, rule in enumerate(
            [
                "variant",
                "manifest",
                "measurement-listed",
                "measurement-hash",
                "cbor",
                "ovmf-variant",
                "acpi-events",
                "mrtd",
                "rtmr0",
                "rtmr1",
                "rtmr2",
            ],
            start=1,
        )
    ]


def test_another_image_does_not_pass(tmp_path: Path) -> None:
    td = emulated.td(tmp_path)
    other = EmulatedImage.named("teehouse-emulated-2").vm_config(2, emulated.MEMORY)
    failed = [f.code for f in check_image(parse_vm_config(other), as_events(td), body(td)) if not f.ok]
    # RTMR0 is made of the firmware's events, which the two images share, and of the log's ACPI digests.
    assert failed == ["image.mrtd", "image.rtmr1", "image.rtmr2"]


def test_the_boot_log_replays_to_the_registers(tmp_path: Path) -> None:
    td = emulated.td(tmp_path)
    image = emulated.image()
    expected = expected_registers(image.measurement, parse_vm_config(td.vm_config), image.acpi)
    replayed = [replay(as_events(td), imr) for imr in range(3)]
    assert replayed == [expected.rtmr0, expected.rtmr1, expected.rtmr2]
    assert list(body(td).rtmrs) == [*replayed, bytes(48)]


def test_the_boot_log_has_the_shape_of_real_firmware(tmp_path: Path) -> None:
    # trust.md 8.2
    events = as_events(emulated.td(tmp_path))
    assert [(e.imr, e.event_type) for e in events] == [
        (0, 0x8000000B),
        (0, 0x8000000A),
        *[(0, 0x80000001)] * 5,
        (0, 4),
        *[(0, 10)] * 3,
        (1, 0x80000003),
        *[(0, 0x80000002)] * 2,
        (1, 0x80000007),
        (1, 4),
        *[(2, 6)] * 2,
        *[(1, 0x80000007)] * 2,
    ]
    assert [e.event for e in events if e.event] == ["acpi-loader", "acpi-rsdp", "acpi-tables"]
    assert [e.event_payload for e in events if e.event_type == 10] == [b"ACPI DATA"] * 3


def test_the_other_payloads_name_what_was_measured(tmp_path: Path) -> None:
    payloads = [event.payload for event in emulated.td(tmp_path).boot_events()]
    names = ("SecureBoot", "PK", "KEK", "db", "dbx", "BootOrder", "Boot0000")
    for place, name in zip((2, 3, 4, 5, 6, 12, 13), names, strict=True):
        assert payloads[place][16:24] == len(name).to_bytes(8, "little")
        assert payloads[place][32 : 32 + 2 * len(name)].decode("utf-16-le") == name
    assert payloads[0][:9] == b"\x08TdxTable"
    assert [payloads[place] for place in (14, 18, 19)] == [
        b"Calling EFI Application from Boot Option",
        b"Exit Boot Services Invocation",
        b"Exit Boot Services Returned with Success",
    ]


def test_the_image_is_the_same_on_every_machine() -> None:
    image = EmulatedImage.default()
    assert image.os_image_hash.hex() == GOLDEN_OS_IMAGE_HASH
    assert [line.split("  ")[1] for line in image.manifest.decode().splitlines()] == [
        "bzImage",
        "initramfs.cpio.gz",
        "measurement.tdx.cbor",
        "metadata.json",
        "ovmf.fd",
        "rootfs.img.verity",
    ]
    assert image.os_image_hash == sha256(image.manifest)
    assert EmulatedImage.named("other").os_image_hash != image.os_image_hash


def test_vm_config_has_what_clients_require() -> None:
    # guest-agent.md 12.4
    config = json.loads(emulated.image().vm_config(4, 8 * GIB))
    measurement = config.pop("tdx_measurement")
    assert config == {
        "spec_version": 1,
        "os_image_hash": emulated.image().os_image_hash.hex(),
        "cpu_count": 4,
        "memory_size": 8 * GIB,
        "qemu_version": "9.1.0",
        "pci_hole64_size": 0,
        "hugepages": False,
        "num_gpus": 0,
        "num_nvswitches": 0,
        "hotplug_off": False,
        "image": "teehouse-emulated-1",
        "ovmf_variant": "pre202505",
        "tdx_attestation_variant": "lite",
    }
    assert sorted(measurement) == ["checksum_file", "measurement"]


@pytest.mark.parametrize("memory", [0, -1, 2 * GIB - 1, 2 * GIB + 1, 0xB0000000 - 1, 1 << 60])
def test_a_memory_size_that_nobody_could_verify_is_refused(memory: int) -> None:
    with pytest.raises(MisuseError) as refused:
        emulated.image().vm_config(2, memory)
    assert (refused.value.finding.code, refused.value.finding.outcome) == (
        "image.memory-size",
        Outcome.MISUSE,
    )


@pytest.mark.parametrize("cpus", [0, -1, 4097])
def test_a_cpu_count_out_of_bounds_is_refused(cpus: int) -> None:
    with pytest.raises(MisuseError, match="number of CPUs"):
        emulated.image().vm_config(cpus, 2 * GIB)


def test_a_quote_holds_report_data_config_id_and_rtmr3(tmp_path: Path) -> None:
    td = emulated.td(tmp_path, mr_config_id=b"\x01" * 48)
    asyncio.run(td.extend(DIGEST))
    report = body(td, bytes(range(64)))
    assert td.emulated is True
    assert (report.report_data, report.mr_config_id) == (bytes(range(64)), b"\x01" * 48)
    assert report.rt_mr3 == replay_runtime([RuntimeEvent("app-id", b"\x01" * 20)]) == register(td)
    assert (report.mr_owner, report.mr_owner_config) == (bytes(48), bytes(48))
    assert (report.tee_tcb_svn, report.td_attributes, report.xfam, report.mr_seam) == (
        constants.TEE_TCB_SVN,
        constants.TD_ATTRIBUTES,
        constants.XFAM,
        constants.MR_SEAM,
    )


def test_the_register_outlives_the_process_and_is_shared(tmp_path: Path) -> None:
    first = emulated.td(tmp_path)
    asyncio.run(first.extend(DIGEST))
    second = EmulatedTd(
        emulated.host(),
        emulated.image(),
        vm_config=first.vm_config,
        mr_config_id=bytes(48),
        register_path=tmp_path / "rtmr3",
    )
    assert register(second) == register(first) != bytes(48)
    asyncio.run(second.extend(DIGEST))
    assert register(first) == replay_runtime([RuntimeEvent("app-id", b"\x01" * 20)] * 2)
    assert body(first).rt_mr3 == register(second)


def test_reset_and_resume_set_the_register(tmp_path: Path) -> None:
    td = emulated.td(tmp_path)
    td.resume(b"\x07" * 48)
    assert register(td) == b"\x07" * 48
    td.reset()
    assert register(td) == bytes(48)
    assert stat.S_IMODE((tmp_path / "rtmr3").stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["rtmr3"]


def test_a_td_that_was_never_booted_has_no_register(tmp_path: Path) -> None:
    td = emulated.td(tmp_path)
    (tmp_path / "rtmr3").unlink()
    for asked in (td.runtime_register(), td.extend(DIGEST), td.quote(bytes(64))):
        with pytest.raises(PlatformError) as refused:
            asyncio.run(asked)
        assert (refused.value.finding.code, refused.value.finding.remedy) == (
            "emulated.register.read",
            "boot the TD anew, or resume it from its event log",
        )
    assert not (tmp_path / "rtmr3").exists()


@pytest.mark.parametrize("size", [0, 47, 49])
def test_a_damaged_register_is_not_taken_for_an_empty_one(tmp_path: Path, size: int) -> None:
    td = emulated.td(tmp_path)
    (tmp_path / "rtmr3").write_bytes(bytes(size))
    with pytest.raises(PlatformError) as refused:
        asyncio.run(td.extend(DIGEST))
    assert refused.value.finding.as_dict() == {
        "check": "",
        "code": "emulated.register.size",
        "outcome": "collateral-missing",
        "subject": "RTMR3 of the emulated TD is damaged",
        "expected": "48 bytes",
        "found": str(size),
        "remedy": "boot the TD anew, or resume it from its event log",
    }
    td.resume(b"\x01" * 48)
    assert register(td) == b"\x01" * 48


def test_a_register_that_cannot_be_written_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    td = emulated.td(tmp_path)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(os, "pwrite", full)
        with pytest.raises(PlatformError, match="No space left"):
            asyncio.run(td.extend(DIGEST))
    assert register(td) == bytes(48)


def test_a_register_without_its_directory_cannot_be_reset(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    td = emulated.td(place)
    (place / "rtmr3").unlink()
    place.rmdir()
    with pytest.raises(PlatformError, match="cannot be written"):
        td.reset()


@pytest.mark.parametrize("size", [0, 63, 65])
def test_report_data_of_another_size_is_refused(tmp_path: Path, size: int) -> None:
    with pytest.raises(MisuseError, match=f"expected 64 bytes, found {size}"):
        asyncio.run(emulated.td(tmp_path).quote(bytes(size)))


def test_digests_and_registers_of_another_size_are_refused(tmp_path: Path) -> None:
    td = emulated.td(tmp_path)
    with pytest.raises(MisuseError, match="digest for RTMR3"):
        asyncio.run(td.extend(bytes(32)))
    with pytest.raises(MisuseError, match="RTMR3"):
        td.resume(bytes(47))
    with pytest.raises(MisuseError, match="MRCONFIGID"):
        emulated.td(tmp_path, mr_config_id=bytes(32))


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        json.dumps({"os_image_hash": emulated.image().os_image_hash.hex()}),
        EmulatedImage.named("teehouse-emulated-2").vm_config(2, emulated.MEMORY),
    ],
    ids=["empty", "no memory size", "another image"],
)
def test_a_configuration_of_another_image_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(MisuseError) as refused:
        EmulatedTd(
            emulated.host(),
            emulated.image(),
            vm_config=text,
            mr_config_id=bytes(48),
            register_path=tmp_path / "rtmr3",
        )
    assert refused.value.finding.code == "emulated.td.image"


def test_a_configuration_that_is_no_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError):
        EmulatedTd(
            emulated.host(),
            emulated.image(),
            vm_config="{",
            mr_config_id=bytes(48),
            register_path=tmp_path / "rtmr3",
        )
