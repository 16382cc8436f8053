"""Info: its fields, what the outside sees, how long an answer is kept (guest-agent.md 4.4, 13.5)."""

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from google.protobuf.empty_pb2 import Empty

from support import emulated
from support.guest_agent import COMPOSE, Agent, agent
from teehouse.attestation.abi import TdReport, encode_quote, parse_quote
from teehouse.attestation.eventlog import parse_event_log, replay
from teehouse.base.findings import MisuseError, unavailable
from teehouse.base.hashes import sha256
from teehouse.guest import info as info_module
from teehouse.guest.attest import EvidenceSource
from teehouse.guest.measurements import MeasurementLog
from teehouse.guest.tls import LocalSigner
from teehouse.ratls.read import check_binding, read_certificate
from teehouse.tee.platform import PlatformError, platform_error

FIELDS = [
    "app_id",
    "instance_id",
    "app_cert",
    "tcb_info",
    "app_name",
    "device_id",
    "mr_aggregated",
    "os_image_hash",
    "key_provider_info",
    "compose_hash",
    "vm_config",
    "cloud_vendor",
    "cloud_product",
]
TCB_FIELDS = [
    "mrtd",
    "rtmr0",
    "rtmr1",
    "rtmr2",
    "rtmr3",
    "mr_aggregated",
    "os_image_hash",
    "compose_hash",
    "device_id",
    "event_log",
    "app_compose",
]


TD_15: Any = {"tee_tcb_svn2": bytes(16), "mr_service_td": bytes(48)}


async def info_of(made: Agent, kind: Any = "internal", path: str = "/prpc/Info") -> dict[str, Any]:
    async with made.door(kind) as door:
        answer = await door.get(path)
        assert answer.status_code == 200, answer.text
        decoded: dict[str, Any] = answer.json()
        return decoded


def count_quotes(made: Agent, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    taken = 0
    quote = made.td.quote

    async def counted(report_data: bytes) -> bytes:
        nonlocal taken
        taken += 1
        await asyncio.sleep(0)
        return await quote(report_data)

    monkeypatch.setattr(made.td, "quote", counted)
    return lambda: taken


async def test_every_field(tmp_path: Path) -> None:
    async with agent(tmp_path, cloud_vendor="Vendor", cloud_product="Product") as made:
        info = await info_of(made)
        assert list(info) == FIELDS
        assert info["app_id"] == made.log.events[1].payload.hex()
        assert info["instance_id"] == "03" * 20
        assert info["app_name"] == "büro"
        assert info["device_id"] == sha256(emulated.host().ppid).hex()
        assert info["os_image_hash"] == emulated.image().os_image_hash.hex()
        assert info["key_provider_info"] == '{"name":"none","id":""}'
        assert info["vm_config"] == made.td.vm_config
        assert (info["cloud_vendor"], info["cloud_product"]) == ("Vendor", "Product")

        tcb = json.loads(info["tcb_info"])
        assert list(tcb) == TCB_FIELDS
        assert info["tcb_info"] == json.dumps(tcb, indent=2, ensure_ascii=False)
        quoted = parse_quote(await made.td.quote(bytes(64))).body
        assert isinstance(quoted, TdReport)
        assert tcb["mrtd"] == quoted.mr_td.hex()
        assert [tcb[f"rtmr{i}"] for i in range(4)] == [value.hex() for value in quoted.rtmrs]
        for name in ("mr_aggregated", "os_image_hash", "compose_hash", "device_id"):
            assert tcb[name] == info[name]
        events = parse_event_log(json.dumps(tcb["event_log"]))
        assert tuple(replay(events, imr) for imr in range(4)) == quoted.rtmrs
        boot = [event.event_payload for event in events if event.imr != 3]
        assert boot == [event.payload for event in made.td.boot_events()]
        # guest-agent.md 22, 5
        assert sha256(tcb["app_compose"].encode()).hex() == info["compose_hash"]
        assert info["compose_hash"] == made.log.events[2].payload.hex() == quoted.mr_config_id[1:33].hex()
        assert tcb["app_compose"] == json.dumps(COMPOSE, ensure_ascii=False)


@pytest.mark.parametrize("public", [True, False])
async def test_s2_the_gate_of_the_outside(tmp_path: Path, public: bool) -> None:
    """guest-agent.md 22, 10: public_tcbinfo on 8090; the inner sockets are not affected."""
    async with agent(tmp_path, compose={"public_tcbinfo": public}) as made:
        inside = await info_of(made)
        outside = await info_of(made, "external", "/prpc/Worker.Info")
        assert inside["tcb_info"]
        assert inside["vm_config"]
        hidden = inside if public else inside | {"tcb_info": "", "vm_config": ""}
        assert outside == hidden
        assert await info_of(made, "all", "/Info") == inside
        assert await info_of(made, "all", "/prpc/Worker.Info") == hidden


async def test_i1_an_answer_is_kept_until_an_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with agent(tmp_path) as made:
        taken = count_quotes(made, monkeypatch)
        await asyncio.gather(*(made.service.info(Empty()) for _ in range(20)))
        await settled(made)
        assert taken() == 2  # one for the answers, one for the certificate
        first = await made.service.info(Empty())
        assert await made.service.public_info(Empty()) is first is await made.service.info(Empty())
        assert taken() == 2
        async with made.door() as door:
            await door.post("/EmitEvent", json={"event": "a"})
            await settled(made)
            assert taken() == 3  # in the background
            info = (await door.get("/Info")).json()
            assert json.loads(info["tcb_info"])["event_log"][-1]["event"] == "a"
            assert taken() == 3
            # An event that came in by another way counts as well.
            await made.log.emit("b", b"")
            info = (await door.get("/Info")).json()
            assert json.loads(info["tcb_info"])["event_log"][-1]["event"] == "b"
            assert taken() == 4


class NeverSigner:
    """A KMS that does not answer."""

    calls = 0

    async def certify(self, *_: Any) -> tuple[str, ...]:
        self.calls += 1
        raise unavailable("kms.away", "the KMS does not answer")


async def settled(made: Agent) -> None:
    """Nothing runs in the background any more."""
    while tasks := list(made.service._info._tasks.values()):
        await asyncio.wait(tasks)


async def test_i2_the_demonstration_certificate(tmp_path: Path) -> None:
    async with agent(tmp_path) as made:
        made.service.start()
        await settled(made)
        info = await info_of(made)
        leaf, ca = x509.load_pem_x509_certificates(info["app_cert"].encode())
        assert info["app_cert"].count("-----END CERTIFICATE-----\n\n-----BEGIN") == 1
        assert [a.value for a in leaf.subject] == ["demo-cert"]
        usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert list(usages) == [ExtendedKeyUsageOID.CLIENT_AUTH]
        with pytest.raises(x509.ExtensionNotFound):
            leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        leaf.verify_directly_issued_by(ca)
        from cryptography.hazmat.primitives.serialization import Encoding

        assert check_binding(read_certificate(leaf.public_bytes(Encoding.DER))).ok


async def test_i2_it_is_tried_again_while_there_is_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    signer = NeverSigner()
    async with agent(tmp_path, signer=signer) as made:
        made.service.start()
        await settled(made)
        for _ in range(3):
            assert (await info_of(made))["app_cert"] == ""
            await settled(made)
        assert signer.calls == 1  # not so soon
        monkeypatch.setattr(info_module, "CERTIFICATE_PAUSE", 0.0)
        made.service._info._next_try = 0.0
        for _ in range(2):
            assert (await info_of(made))["app_cert"] == ""
            await settled(made)
        assert signer.calls == 3
        assert "the demonstration certificate could not be made: kms.away" in caplog.text


async def test_i2_an_answer_is_renewed_when_the_certificate_comes(tmp_path: Path) -> None:
    async with agent(tmp_path) as made:
        assert (await info_of(made))["app_cert"] == ""  # begun by this call
        await settled(made)
        assert "demo" not in (await info_of(made))["app_cert"]
        assert (await info_of(made))["app_cert"].startswith("-----BEGIN CERTIFICATE-----")


async def test_what_goes_wrong_in_the_background_is_told_without_values(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with agent(tmp_path) as made:

        async def fail(*_: Any) -> tuple[str, ...]:
            raise ValueError("geheim")

        monkeypatch.setattr(LocalSigner, "certify", fail)
        with caplog.at_level(logging.DEBUG):
            made.service.start()
            await settled(made)
        assert "the demonstration certificate could not be made: ValueError" in caplog.text
        assert "geheim" not in caplog.text


async def test_a_platform_that_fails_fails_info(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with agent(tmp_path) as made, made.door() as door:

        async def broken(_: bytes) -> bytes:
            raise platform_error("quote.device", "no quote")

        with monkeypatch.context() as patched:
            patched.setattr(made.td, "quote", broken)
            answer = await door.get("/Info")
            assert (answer.status_code, answer.json()) == (500, {"error": "no quote"})
        assert (await door.get("/Info")).status_code == 200


async def test_stop_ends_what_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with agent(tmp_path) as made:

        async def forever(_: bytes) -> bytes:
            await asyncio.Event().wait()
            return b""

        with monkeypatch.context() as patched:
            patched.setattr(made.td, "quote", forever)
            made.service.start()
            await asyncio.sleep(0.01)
            await made.service.stop()
            assert not made.service._info._tasks


# Who the evidence says we are


async def test_a3_without_a_pck_certificate_the_device_id_is_the_hash_of_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with agent(tmp_path) as made:
        quote = made.td.quote

        async def without_chain(report_data: bytes) -> bytes:
            return encode_quote(replace(parse_quote(await quote(report_data)), certification_type=1))

        monkeypatch.setattr(made.td, "quote", without_chain)
        assert (await info_of(made))["device_id"] == sha256(b"").hex()

        async def with_another_chain(report_data: bytes) -> bytes:
            return encode_quote(replace(parse_quote(await quote(report_data)), certification_data=b"no PEM"))

        monkeypatch.setattr(made.td, "quote", with_another_chain)
        await made.log.emit("a", b"")
        assert (await info_of(made))["device_id"] == sha256(b"").hex()


async def test_a_boot_that_was_not_measured_has_no_identity(tmp_path: Path) -> None:
    td = emulated.td(tmp_path)
    log = MeasurementLog(td, tmp_path / "log")
    await log.open()
    source = EvidenceSource(log, td.boot_events(), td.vm_config)
    evidence = await source.take(bytes(64))
    with pytest.raises(PlatformError, match="does not say who we are"):
        source.identify(evidence)
    await log.close()


async def test_the_td_report_is_found_in_every_kind_of_quote(tmp_path: Path) -> None:
    async with agent(tmp_path) as made:
        evidence = await made.source.take(bytes(64))
        td, identity = made.source.identify(evidence)
        quote = parse_quote(evidence.quote)
        # trust.md 2.4: version 5 says type and size of the body; RTMR3 stands six bytes further on.
        version_5 = replace(quote, header=replace(quote.header, version=5), body_type=2)
        longer = TdReport(**{**{f: getattr(td, f) for f in td.__slots__}, **TD_15})
        body_type_3 = replace(version_5, body_type=3, body=longer)
        for other, found in ((version_5, td), (body_type_3, longer)):
            assert made.source.identify(replace(evidence, quote=encode_quote(other))) == (found, identity)
        sgx = replace(evidence, quote=evidence.quote[:4] + bytes(4) + evidence.quote[8:])
        with pytest.raises(PlatformError, match="the quote is of no TD"):
            made.source.app_info(sgx)


async def test_a_key_provider_that_is_no_text_is_shown_as_none(tmp_path: Path) -> None:
    td = emulated.td(tmp_path)
    log = MeasurementLog(td, tmp_path / "log")
    await log.open()
    for name, payload in (("app-id", bytes(20)), ("compose-hash", bytes(32)), ("key-provider", b"\xff")):
        await log.emit(name, payload)
    async with agent(tmp_path / "other") as made:
        made.service._info._source = EvidenceSource(log, td.boot_events(), td.vm_config)
        info = await info_of(made)
        assert (info["key_provider_info"], info["instance_id"]) == ("", "")
        await made.service.stop()
    await log.close()


async def test_vm_config_is_read_at_once(tmp_path: Path) -> None:
    td = emulated.td(tmp_path)
    log = MeasurementLog(td, tmp_path / "log")
    assert EvidenceSource(log, [], "").os_image_hash == b""
    assert EvidenceSource(log, [], "{}").os_image_hash == b""
    with pytest.raises(MisuseError, match="vm_config cannot be read"):
        EvidenceSource(log, [], "{")
