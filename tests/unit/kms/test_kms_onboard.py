"""Faults of a source KMS, of the guest agent beside a KMS, and of what both answer (`kms.onboard`, `.source`, `.own`)."""

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.types import ASGIApp, Receive, Scope, Send

from support import emulated, guest_agent
from support.adversary import Claims
from support.kms_support import (
    DOMAIN,
    HONEST,
    NOW,
    FakeAuth,
    FakeCollateral,
    OwnTd,
    client_cert,
    evidence_for,
    key,
    refused,
    root_keys,
)
from teehouse.attestation.envelope import encode_attestation
from teehouse.attestation.evidence import Evidence
from teehouse.attestation.verify import verify
from teehouse.base.findings import CollateralError, EvidenceError, MisuseError, TeehouseError
from teehouse.base.listener import Listener
from teehouse.keys.pem import private_key_pem
from teehouse.kms import answers
from teehouse.kms.audit import AuditLog, read_records
from teehouse.kms.evidence import Judge, Purpose, identify
from teehouse.kms.onboard import OnboardParts, OnboardService
from teehouse.kms.own import GuestAgentEvidence, attested_rpc_certificate, client_certificate
from teehouse.kms.rootkeys import rpc_certificate
from teehouse.kms.rootstore import RootKeyStore
from teehouse.kms.server import bound_socket
from teehouse.kms.service import Peer, ThreadRecorder
from teehouse.kms.source import ANSWER_LIMIT, Answered, HttpSource
from teehouse.kms.tls import server_context
from teehouse.ratls.read import check_binding, read_certificate
from teehouse.rpc.app import RpcApp
from teehouse.wire import kms_pb2
from teehouse.wire.methods import resolve

ROOT, OTHER = root_keys(), root_keys(1000)


@dataclass
class FakeSource:
    """A source KMS that lies in one thing; honest as it stands. `certificates` are those of its three answers."""

    offered: kms_pb2.GetTempCaCertResponse = field(default_factory=lambda: answers.temp_ca_response(ROOT))
    told: kms_pb2.GetMetaResponse = field(
        default_factory=lambda: answers.meta_response(ROOT, FakeAuth().about)
    )  # type: ignore[arg-type]  # it is an answer
    given: kms_pb2.KmsKeyResponse = field(default_factory=lambda: answers.kms_key_response(ROOT))
    certificates: tuple[bytes, bytes, bytes] = field(
        default_factory=lambda: (client_cert(ROOT, evidence_for(key().public_key(), Claims())),) * 3
    )
    fault: Exception | None = None

    async def temp_ca(self) -> Answered[kms_pb2.GetTempCaCertResponse]:
        if self.fault is not None:
            raise self.fault
        return Answered(self.offered, self.certificates[0])

    async def meta(self) -> Answered[kms_pb2.GetMetaResponse]:
        return Answered(self.told, self.certificates[1])

    async def kms_key(
        self, key: ec.EllipticCurvePrivateKey, certificate_der: bytes, vm_config: str
    ) -> Answered[kms_pb2.KmsKeyResponse]:
        found = read_certificate(certificate_der)
        assert check_binding(found).ok
        return Answered(self.given, self.certificates[2])


@dataclass
class Onboarding:
    service: OnboardService
    store: RootKeyStore
    audit: AuditLog

    async def onboard(self) -> kms_pb2.OnboardResponse:
        return await self.service.onboard(
            kms_pb2.OnboardRequest(source_url="https://source.test", domain=DOMAIN), Peer()
        )


def onboarding(directory: Path, source: FakeSource) -> Onboarding:
    clock, store = emulated.clock(), RootKeyStore(directory / "keys")
    audit = AuditLog(directory / "audit.jsonl", clock)
    parts = OnboardParts(
        store=store,
        auth=FakeAuth(),
        judge=Judge((HONEST.root,), FakeCollateral(HONEST.collateral()), clock),
        recorder=ThreadRecorder(audit),
        clock=clock,
        own=OwnTd(),
        connect=lambda _url: source,
    )
    return Onboarding(OnboardService(parts), store, audit)


async def test_an_honest_source_gives_its_keys(tmp_path: Path) -> None:
    kms = onboarding(tmp_path, FakeSource())
    answer = await kms.onboard()
    assert answer.k256_pubkey == ROOT.root.k256_public_key
    assert kms.store.load(NOW).bootstrap_info == ROOT.bootstrap_info


async def test_a_source_that_was_not_bootstrapped_here_has_no_bootstrap_info(tmp_path: Path) -> None:
    source = FakeSource()
    source.told.ClearField("bootstrap_info")
    kms = onboarding(tmp_path, source)
    await kms.onboard()
    assert kms.store.load(NOW).bootstrap_info is None


def two_sets(source: FakeSource) -> None:
    source.given.keys.append(source.given.keys[0])


def no_set(source: FakeSource) -> None:
    source.given.ClearField("keys")


def short_k256(source: FakeSource) -> None:
    source.given.keys[0].k256_key = bytes(31)


def impossible_k256(source: FakeSource) -> None:
    source.given.keys[0].k256_key = bytes(32)


def other_k256(source: FakeSource) -> None:
    source.given.keys[0].k256_key = OTHER.root.k256_key


def other_ca_key(source: FakeSource) -> None:
    source.given.keys[0].ca_key = private_key_pem(OTHER.root.ca.key)


def other_temp_ca_key(source: FakeSource) -> None:
    source.given.temp_ca_key = private_key_pem(OTHER.root.temporary_ca.key)


def mixed_temp_ca(source: FakeSource) -> None:
    source.offered.temp_ca_key = private_key_pem(OTHER.root.temporary_ca.key)


def other_bootstrap_info(source: FakeSource) -> None:
    source.told.bootstrap_info.ca_pubkey = OTHER.ca_pubkey


def no_key(source: FakeSource) -> None:
    source.given.keys[0].ca_key = "-----BEGIN PRIVATE KEY-----"


def another_tls_key_for_meta(source: FakeSource) -> None:
    first = source.certificates[0]
    source.certificates = (first, rpc_certificate(ROOT, None, NOW), first)


def another_tls_key_for_the_keys(source: FakeSource) -> None:
    first = source.certificates[0]
    source.certificates = (first, first, rpc_certificate(ROOT, None, NOW))


def swapped_key(source: FakeSource) -> None:
    """Genuine evidence of another machine, in the certificate of one's own key."""
    stolen = client_cert(ROOT, evidence_for(key().public_key(), Claims()), public=key(8).public_key())
    source.certificates = (stolen,) * 3


SOURCE_FAULTS: list[tuple[Callable[[FakeSource], None], str]] = [
    (two_sets, "exactly one key set: expected 1, found 2"),
    (no_set, "exactly one key set: expected 1, found 0"),
    (short_k256, "the k256 key has the wrong size"),
    (impossible_k256, "Failed to parse k256 key"),
    (other_k256, "GetMeta tells another k256 key"),
    (other_ca_key, "root-ca.crt: the certificate does not belong to the key"),
    (other_temp_ca_key, "the temporary CA's key is not the one that was offered"),
    (mixed_temp_ca, "tmp-ca.crt: the certificate does not belong to the key"),
    (other_bootstrap_info, "the bootstrap info is about other keys"),
    (no_key, "no private key can be read"),
    (another_tls_key_for_meta, "two answers come from two TLS keys"),
    (another_tls_key_for_the_keys, "two answers come from two TLS keys"),
    (swapped_key, "report data mismatch"),
]


@pytest.mark.parametrize(("lie", "text"), SOURCE_FAULTS, ids=[lie.__name__ for lie, _ in SOURCE_FAULTS])
async def test_a_source_that_lies_is_refused_and_nothing_kept(
    lie: Callable[[FakeSource], None], text: str, tmp_path: Path
) -> None:
    source = FakeSource()
    lie(source)
    kms = onboarding(tmp_path, source)
    with pytest.raises(TeehouseError) as caught:
        await kms.onboard()
    shown = str(caught.value)
    assert shown.startswith(f"the source KMS: {text}")
    assert "PRIVATE" not in shown
    assert ROOT.root.k256_key.hex() not in shown
    assert not kms.store.exists()
    (record,) = read_records(kms.audit.path)
    assert (record.rpc, record.decision, record.reason) == ("Onboard", "refused", shown[:1024])


async def test_an_unforeseen_fault_is_on_record_by_its_kind(tmp_path: Path) -> None:
    kms = onboarding(tmp_path, FakeSource(fault=ArithmeticError("secret")))
    with pytest.raises(ArithmeticError):
        await kms.onboard()
    (record,) = read_records(kms.audit.path)
    assert (record.decision, record.reason) == ("failed", "ArithmeticError")


async def test_without_a_record_no_keys_are_kept(tmp_path: Path) -> None:
    kms = onboarding(tmp_path, FakeSource())
    kms.audit.close()
    with pytest.raises(CollateralError, match="the audit log cannot be written"):
        await kms.onboard()
    assert not kms.store.exists()


# The HTTP side of a source


@pytest.mark.parametrize(
    "url",
    ["http://a.test", "https://", "https://a.test?x", "https://u:p@a.test", "a.test", "https://a.test#f"],
)
def test_the_address_of_a_source_is_https(url: str) -> None:
    with pytest.raises(MisuseError, match="the address of the source KMS"):
        HttpSource(url)


def answering(status: int, *chunks: bytes) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return app


@asynccontextmanager
async def source_of(app: ASGIApp, *, tls: bool = True) -> AsyncIterator[HttpSource]:
    sock = bound_socket("127.0.0.1", 0)
    port = sock.getsockname()[1]
    context = server_context(ROOT, rpc_certificate(ROOT, None, NOW)) if tls else None
    listener = Listener(app, [sock], ident="t", ssl_context=context)
    await listener.start()
    try:
        yield HttpSource(f"https://127.0.0.1:{port}/", timeout=5)
    finally:
        await listener.stop(0.5)


@pytest.mark.parametrize(
    ("app", "text"),
    [
        (answering(200, b"{}x"), "expected a GetTempCaCertResponse"),
        (answering(400, b'{"error":"because"}'), "found because"),
        (answering(500, b"<html>"), "found status 500"),
        (answering(302, b""), "found status 302"),
        (answering(200, *[bytes(1 << 20)] * 25), f"expected at most {ANSWER_LIMIT} bytes"),
    ],
)
async def test_what_a_source_answers_else_is_no_keys(app: ASGIApp, text: str) -> None:
    async with source_of(app) as source:
        shown = await refused(source.temp_ca(), CollateralError)
    assert "GetTempCaCert of https://127.0.0.1:" in shown
    assert text in shown


async def test_a_source_that_is_not_there_or_speaks_no_tls() -> None:
    async with source_of(answering(200, b"{}"), tls=False) as source:
        await refused(source.meta(), CollateralError)
    await refused(HttpSource("https://127.0.0.1:1", timeout=2).meta(), CollateralError)


# The guest agent beside the KMS


@asynccontextmanager
async def agent_socket(directory: Path, app: ASGIApp) -> AsyncIterator[Path]:
    path = directory / "agent.sock"
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    listener = Listener(app, [sock], ident="t")
    await listener.start()
    try:
        yield path
    finally:
        await listener.stop(0.5)


async def test_the_guest_agent_attests_for_the_kms(tmp_path: Path) -> None:
    async with guest_agent.agent(tmp_path) as agent:
        app = RpcApp(lambda path: resolve("internal", path), agent.service.handlers())
        async with agent_socket(tmp_path, app) as path:
            own = GuestAgentEvidence(path)
            rpc = await attested_rpc_certificate(ROOT, own, NOW)
            client = await client_certificate(own, key(), ROOT.root.temporary_ca, NOW)
    for der, usage in ((rpc, "kms:rpc"), (client, None)):
        found = read_certificate(der)
        assert found.usage == usage
        assert check_binding(found).ok
        assert found.attestation is not None
        evidence = Evidence.from_attestation(found.attestation)
        assert verify(evidence, HONEST.collateral(), HONEST.root, NOW).accepted


async def test_a_guest_agent_that_does_not_attest(tmp_path: Path) -> None:
    own = GuestAgentEvidence(tmp_path / "agent.sock")
    assert "the guest agent at" in await refused(own.attest(bytes(64)), CollateralError)
    async with agent_socket(tmp_path, answering(500, b"{}")) as path:
        assert "found 500" in await refused(GuestAgentEvidence(path).attest(bytes(64)), CollateralError)


async def test_a_guest_agent_that_attests_something_else(tmp_path: Path) -> None:
    other = encode_attestation(HONEST.attest(Claims(report_data=b"\1" * 64))).hex()
    async with agent_socket(tmp_path, answering(200, b'{"attestation":"%s"}' % other.encode())) as path:
        text = await refused(GuestAgentEvidence(path).attest(bytes(64)), EvidenceError)
    assert text == "the guest agent attested other report data"


# Odds and ends


def test_genuine_evidence_of_no_app_is_nobody() -> None:
    attestation = HONEST.attest()
    verdict = verify(Evidence(attestation.quote), HONEST.collateral(), HONEST.root, NOW)
    assert verdict.accepted
    with pytest.raises(EvidenceError, match="evidence that does not tell an app"):
        identify(attestation, verdict, Purpose.KMS)


def test_an_address_that_is_not_ours_cannot_be_bound() -> None:
    with pytest.raises(OSError, match="assign"):
        bound_socket("192.0.2.1", 0)
