"""Evidence for tests of `teehouse.attestation`: synthetic quotes, logs and images, and the way to real samples."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import strategies as st

from teehouse.attestation import abi
from teehouse.attestation.abi import EnclaveReport, Quote, QuoteHeader, TdReport
from teehouse.attestation.eventlog import Event, RuntimeEvent
from teehouse.base.findings import Outcome, TeehouseError

# The event log of the published simulator (guest-agent.md 19.5): names and payloads of RTMR3, digests beside them.
KEY_PROVIDER_INFO = (
    b'{"name":"kms","id":"3059301306072a8648ce3d020106082a8648ce3d0301070342000419b2457dd9b8aa6446d980f136fff781'
    b"2ecd6c77740eeb0e28b10d56c0c00028a5b6e59dcea307d583bd1f70769e9c116df2bcfb1758a95d8613e7de1c8482c0"
    b'"}'
)
APP_ID = bytes.fromhex("5bb4ff9a3837357f19dc176407a5709c62eb6c56")
COMPOSE_HASH = bytes.fromhex("c143116fef3940e7f776bfc0919c256232ae5338a6e948c96b711e0b2383483a")
INSTANCE_ID = bytes.fromhex("1691ed1b47506cad7d08834668691d88246f5b1f")
OS_IMAGE_HASH = bytes.fromhex("e61be43dd1cc6a6f5edefd7c51b608983780839b0000ce60dd99737dcffe09b9")
FIXTURE_EVENTS = (
    RuntimeEvent("system-preparing", b""),
    RuntimeEvent("app-id", APP_ID),
    RuntimeEvent("compose-hash", COMPOSE_HASH),
    RuntimeEvent("instance-id", INSTANCE_ID),
    RuntimeEvent("boot-mr-done", b""),
    RuntimeEvent("os-image-hash", OS_IMAGE_HASH),
    RuntimeEvent("key-provider", KEY_PROVIDER_INFO),
    RuntimeEvent("storage-fs", b"zfs"),
    RuntimeEvent("system-ready", b""),
)
FIXTURE_MRTD = (
    "e53236d44a074bc78e784cdfa1a2c858a5f6b53afc1b60d8f079662314978b64241b646d8498dd767d5ea48e1e115822"
)
FIXTURE_RTMR0 = (
    "6203948b7c12a0c2e14ed9b11170d7b85345870a304bb0959d6c198224ce621fe944e4623af9631cd64eeffdc0d7fa94"
)
FIXTURE_RTMR1 = (
    "0ea1ad399114c5909c52c8b8c073f0c4e076b691495ca7d41f88c5bba6859e3911973ec95adce1503eb43f4670a2c306"
)
FIXTURE_RTMR2 = (
    "1c9854088a35a1c44483d6ba5e88333cf6a7f5b5ec26713f722c80dfc2d2b337346d7fb52452eacda0a8a8fb6fd306f1"
)
FIXTURE_RTMR3 = (
    "f28a1490ee924e9396c2ccf2d93ad536b83cbe159a1d45024d1fd7acdcc102145efcfcd0cfa209416446c70226affadf"
)


def sample(name: str) -> bytes:
    """A piece of published evidence, from the folder that TEEHOUSE_SAMPLES names."""
    folder = os.environ.get("TEEHOUSE_SAMPLES")
    if not folder:
        pytest.skip("TEEHOUSE_SAMPLES names no folder of published evidence")
    path = Path(folder) / name
    if not path.exists():
        if os.environ.get("CI"):
            pytest.fail(f"TEEHOUSE_SAMPLES has no {name}")
        pytest.skip(f"TEEHOUSE_SAMPLES has no {name}")
    return path.read_bytes()


def refusal(error: pytest.ExceptionInfo[TeehouseError]) -> tuple[str, Outcome]:
    """Code and outcome of what was raised."""
    return error.value.finding.code, error.value.finding.outcome


def counting(size: int, start: int) -> bytes:
    return bytes((start + i) % 256 for i in range(size))


def td_report(**changes: bytes) -> TdReport:
    """A TD 1.0 report in which every field has bytes of its own."""
    report = TdReport(
        tee_tcb_svn=counting(16, 1),
        mr_seam=counting(48, 2),
        mr_signer_seam=bytes(48),
        seam_attributes=counting(8, 3),
        td_attributes=bytes.fromhex("0000001000000000"),
        xfam=bytes.fromhex("e702060000000000"),
        mr_td=counting(48, 4),
        mr_config_id=bytes(48),
        mr_owner=bytes(48),
        mr_owner_config=bytes(48),
        rt_mr0=counting(48, 5),
        rt_mr1=counting(48, 6),
        rt_mr2=counting(48, 7),
        rt_mr3=counting(48, 8),
        report_data=counting(64, 9),
    )
    return replace(report, **changes)


def enclave_report() -> EnclaveReport:
    """An enclave report in which every field, reserved ones too, has bytes of its own."""
    return EnclaveReport(
        cpu_svn=counting(16, 11),
        misc_select=0x01020304,
        attributes=counting(16, 12),
        mr_enclave=counting(32, 13),
        mr_signer=counting(32, 14),
        isv_prod_id=2,
        isv_svn=0x0607,
        report_data=counting(64, 15),
        reserved=(counting(28, 16), counting(32, 17), counting(96, 18), counting(60, 19)),
    )


def quote(
    version: int = 4, body: TdReport | EnclaveReport | None = None, body_type: int | None = None
) -> Quote:
    """A quote of the right shape; nothing in it is signed."""
    body = td_report() if body is None else body
    tee_type = abi.TEE_TYPE_TDX if isinstance(body, TdReport) else abi.TEE_TYPE_SGX
    return Quote(
        header=QuoteHeader(version, 2, tee_type, 5, 13, abi.ECDSA_QE_VENDOR_ID, counting(20, 20)),
        body=body,
        body_type=body_type,
        signature=counting(64, 21),
        attestation_key=counting(64, 22),
        qe_report=enclave_report(),
        qe_report_signature=counting(64, 23),
        qe_auth_data=counting(32, 24),
        certification_type=5,
        certification_data=b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n\0",
    )


def acpi_events() -> tuple[Event, ...]:
    """The three ACPI measurements as firmware logs them, not yet named."""
    return tuple(Event(0, 10, counting(48, 30 + i), "", b"ACPI DATA") for i in range(3))


names = st.text(st.characters(exclude_categories=("Cs",)), max_size=24)
runtime_events = st.builds(RuntimeEvent, names, st.binary(max_size=40), st.sampled_from((1, 2)))
digests = st.binary(min_size=48, max_size=48)
boot_events = st.builds(
    Event,
    imr=st.integers(0, 2),
    event_type=st.integers(0, 0xFFFFFFFF).filter(lambda kind: kind != 0x08000001),
    digest=digests,
    event=names,
    event_payload=st.binary(max_size=40),
)
events = st.one_of(boot_events, runtime_events.map(Event.runtime))
