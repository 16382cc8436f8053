"""The KMS over TLS on loopback, and a second one that onboards from it (`kms.server`, `kms.onboard`, `kms.source`)."""

import ssl
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from google.protobuf.message import Message

from support.adversary import APP_ID, Claims
from support.kms_support import (
    DOMAIN,
    DOWN,
    HONEST,
    NOW,
    READY,
    FakeAuth,
    Running,
    client_cert,
    evidence_for,
    key,
    root_keys,
    running,
    signing_request,
)
from teehouse.attestation.envelope import decode_attestation
from teehouse.attestation.evidence import Evidence
from teehouse.attestation.verify import verify
from teehouse.base.findings import MisuseError
from teehouse.base.hashes import keccak256
from teehouse.keys.pem import certificate_der, certificate_pem, spki_der
from teehouse.kms.audit import read_records, verify_chain
from teehouse.kms.auth import Decision
from teehouse.kms.rootkeys import RootKeys
from teehouse.kms.server import WAITING, KmsSettings
from teehouse.kms.tls import client_context
from teehouse.ratls.read import check_binding, read_certificate
from teehouse.wire import guest_pb2, kms_pb2

PLAIN = KmsSettings(enforce_self_authorization=False, attest_rpc_cert=False)
ROOT = root_keys()


def identity(keys: RootKeys = ROOT, claims: Claims | None = None) -> tuple[Any, bytes]:
    return key(), client_cert(keys, evidence_for(key().public_key(), claims))


async def call(client: httpx.AsyncClient, method: str, request: Message, answer: Message) -> Any:
    """An RPC in protobuf; the answer is decoded into `answer`."""
    response = await client.post(f"/prpc/KMS.{method}", content=request.SerializeToString())
    assert response.status_code == 200, response.content
    assert response.headers["content-type"] == "application/octet-stream"
    answer.ParseFromString(response.content)
    return answer


async def test_app_keys_over_tls_in_protobuf_and_json(tmp_path: Path) -> None:
    async with running(tmp_path, keys=ROOT) as kms, kms.client(*identity()) as client:
        request = kms_pb2.GetAppKeyRequest(api_version=1)
        answer = await call(client, "GetAppKey", request, kms_pb2.AppKeyResponse())
        response = await client.post("/prpc/GetAppKey", json={"api_version": 1, "vm_config": ""})
        assert response.json() == {
            "ca_cert": answer.ca_cert,
            "disk_crypt_key": answer.disk_crypt_key.hex(),
            "env_crypt_key": answer.env_crypt_key.hex(),
            "k256_key": answer.k256_key.hex(),
            "k256_signature": answer.k256_signature.hex(),
            "tproxy_app_id": "gateway",
            "gateway_app_id": "gateway",
            "os_image_hash": answer.os_image_hash.hex(),
        }
        assert response.headers["x-app-version"] == "v0.1.0 (rev)"
        response = await client.get("/prpc/KMS.GetAppEnvEncryptPubKey", params={"app_id": APP_ID.hex()})
        assert set(response.json()) == {"public_key", "signature", "timestamp", "signature_v1"}
    records = list(read_records(kms.audit.path))
    assert [(r.rpc, r.decision, r.peer.partition(":")[0]) for r in records] == [
        ("GetAppKey", "allowed", "127.0.0.1"),
        ("GetAppKey", "allowed", "127.0.0.1"),
        ("GetAppEnvEncryptPubKey", "allowed", "127.0.0.1"),
    ]
    assert [finding.ok for finding in verify_chain(kms.audit.path)] == [True]


async def test_refusals_are_400_or_503_in_the_encoding_of_the_request(tmp_path: Path) -> None:
    text = "App not allowed: No attestation provided"
    async with running(tmp_path, keys=ROOT) as kms, kms.client() as client:
        response = await client.post("/prpc/GetAppKey?json", content=b'{"api_version":1}')
        assert (response.status_code, response.json()) == (400, {"error": text})
        response = await client.post("/prpc/GetAppKey", content=b"")
        assert response.status_code == 400
        assert guest_pb2.Error.FromString(response.content).message == text
        kms.auth.kms = DOWN
        response = await client.get("/prpc/GetTempCaCert")
        assert (response.status_code, response.json()) == (
            503,  # nothing was decided: whoever asks may ask again
            {"error": "KMS self authorization failed: the authorization API does not answer"},
        )
        response = await client.get("/prpc/Onboard.Bootstrap")
        assert (response.status_code, response.json()) == (
            404,
            {"error": "Service not found: Onboard.Bootstrap"},
        )


async def test_health_and_metrics(tmp_path: Path) -> None:
    async with running(tmp_path, keys=ROOT) as kms, kms.client() as client:
        assert (await client.get("/health")).text == "OK"
        await client.post("/prpc/GetAppKey", content=b"")
        assert (await client.get("/metrics")).text == (
            "# HELP dstack_kms_attestation_requests_total Requests with evidence to be judged\n"
            "# TYPE dstack_kms_attestation_requests_total counter\n"
            "dstack_kms_attestation_requests_total 1\n"
            "# HELP dstack_kms_attestation_failures_total Evidence that was refused\n"
            "# TYPE dstack_kms_attestation_failures_total counter\n"
            "dstack_kms_attestation_failures_total 1\n"
        )
    settings = replace(PLAIN, metrics_enabled=False)
    async with running(tmp_path / "b", keys=ROOT, settings=settings) as kms, kms.client() as client:
        response = await client.get("/metrics")
        assert (response.status_code, response.headers["x-app-version"]) == (404, "v0.1.0")


def server_certificate(kms: Running) -> bytes:
    return certificate_der(ssl.get_server_certificate(("127.0.0.1", kms.port)))


async def test_the_server_shows_its_own_evidence_under_the_root_ca(tmp_path: Path) -> None:
    async with running(tmp_path, keys=ROOT) as kms:
        import asyncio

        der = await asyncio.to_thread(server_certificate, kms)
        assert (tmp_path / "keys" / "rpc.crt").read_text() == certificate_pem(der)
    found = read_certificate(der)
    assert found.usage == "kms:rpc"
    assert check_binding(found).ok
    assert found.attestation is not None
    verdict = verify(Evidence.from_attestation(found.attestation), HONEST.collateral(), HONEST.root, NOW)
    assert verdict.accepted
    certificate = x509.load_der_x509_certificate(der)
    certificate.verify_directly_issued_by(x509.load_der_x509_certificate(ROOT.root.ca.certificate_der))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [DOMAIN]


async def test_a_client_that_checks_the_chain_gets_through(tmp_path: Path) -> None:
    context = ssl.create_default_context(cadata=certificate_pem(ROOT.root.ca.certificate_der))
    context.check_hostname = False
    async with (
        running(tmp_path, keys=ROOT, settings=PLAIN) as kms,
        httpx.AsyncClient(base_url=kms.url, verify=context, trust_env=False) as client,
    ):
        assert (await client.get("/health")).text == "OK"


async def test_a_client_certificate_of_another_ca_ends_the_handshake(tmp_path: Path) -> None:
    other = root_keys(1000)
    async with running(tmp_path, keys=ROOT, settings=PLAIN) as kms, kms.client(*identity(other)) as client:
        with pytest.raises(httpx.HTTPError):
            await client.get("/health")


async def test_a_stolen_certificate_is_of_no_use_without_its_key(tmp_path: Path) -> None:
    """A replayed certificate: TLS itself refuses to speak for a key that one does not have."""
    _, certificate = identity()
    with pytest.raises(ssl.SSLError):
        client_context(key(8), certificate)


async def test_a_kms_without_guest_agent_serves_what_it_was_told_to(tmp_path: Path) -> None:
    async with running(tmp_path, keys=ROOT, settings=PLAIN, own=None) as kms, kms.client() as client:
        response = await client.get("/prpc/GetTempCaCert")
        assert response.json()["ca_cert"] == certificate_pem(ROOT.root.ca.certificate_der)
    for settings in (replace(PLAIN, attest_rpc_cert=True), replace(PLAIN, enforce_self_authorization=True)):
        with pytest.raises(MisuseError, match="need evidence of the KMS's own machine"):
            async with running(tmp_path / "b", settings=settings, own=None):
                pass


# Onboarding


async def bootstrap(kms: Running, domain: str = DOMAIN) -> dict[str, Any]:
    async with kms.onboarder() as client:
        response = await client.post("/prpc/Onboard.Bootstrap", json={"domain": domain})
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer


async def test_bootstrap_makes_attested_keys_and_finish_starts_the_service(tmp_path: Path) -> None:
    async with running(tmp_path, sealing_key=bytes(32)) as kms:
        assert kms.server.state == "onboarding"
        async with kms.onboarder() as client:
            assert (await client.get("/")).text == WAITING
            assert (await client.get("/health")).text == "OK"
            response = await client.get("/finish")
            assert response.status_code == 400
            assert "there are no root keys yet" in response.json()["error"]
            told = await bootstrap(kms)
            again = await client.post("/prpc/Bootstrap", json={"domain": DOMAIN})
            assert (again.status_code, again.json()) == (
                400,
                {"error": "this KMS has its root keys already"},
            )
            assert (await client.get("/finish")).text == "OK"
        await kms.server.serving()
        assert kms.server.state == "serving"
        async with kms.client() as client:
            meta = (await client.get("/prpc/GetMeta")).json()
        assert meta["bootstrap_info"] == told
        assert meta["k256_pubkey"] == told["k256_pubkey"]
        # trust.md 13.3, with its misspelling.
        text = f"dstack-kms-genereted-keys-v1:{told['ca_pubkey']};{told['k256_pubkey']};"
        attestation = decode_attestation(bytes.fromhex(told["attestation"]))
        assert attestation.report_data == keccak256(text.encode()) + bytes(32)
        ca = x509.load_pem_x509_certificate(meta["ca_cert"].encode())
        assert spki_der(ca.public_key()).hex() == told["ca_pubkey"]  # type: ignore[arg-type]  # it is on P-256
        assert [r.rpc for r in read_records(kms.audit.path)] == ["Bootstrap", "Bootstrap"]


async def test_a_domain_that_is_none_makes_no_keys(tmp_path: Path) -> None:
    async with running(tmp_path) as kms, kms.onboarder() as client:
        response = await client.post("/prpc/Bootstrap", json={"domain": "-a.test"})
        assert response.status_code == 400
        assert response.json()["error"].startswith("invalid domain")
        assert not kms.store.exists()


async def test_auto_bootstrap_serves_at_once(tmp_path: Path) -> None:
    settings = KmsSettings(auto_bootstrap_domain=DOMAIN)
    async with running(tmp_path, settings=settings) as kms, kms.client() as client:
        await kms.server.serving()
        first = (await client.get("/prpc/GetMeta")).json()
    async with running(tmp_path, settings=settings) as kms, kms.client() as client:
        assert (await client.get("/prpc/GetMeta")).json() == first


async def test_a_kms_without_keys_does_not_start_where_onboarding_is_off(tmp_path: Path) -> None:
    with pytest.raises(MisuseError, match="onboarding is off"):
        async with running(tmp_path, settings=KmsSettings(onboard_enabled=False)):
            pass


async def test_attestation_info_tells_what_has_to_be_allowed(tmp_path: Path) -> None:
    async with running(tmp_path) as kms, kms.onboarder() as client:
        info = (await client.get("/prpc/GetAttestationInfo")).json()
        kms.auth.about = DOWN
        alone = (await client.get("/prpc/Onboard.GetAttestationInfo")).json()
    async with running(tmp_path / "b", keys=ROOT) as serving, serving.client() as client:
        await client.get("/prpc/GetTempCaCert")
        ((_, asked),) = serving.auth.asked
    assert info == {
        "device_id": asked.device_id.hex(),
        "mr_aggregated": asked.mr_aggregated.hex(),
        "os_image_hash": asked.os_image_hash.hex(),
        "tee_variant": "dstack-tdx",
        "site_name": "site",
        "eth_rpc_url": "http://chain.test",
        "kms_contract_address": "0x" + "11" * 20,
        "ppid": HONEST.host.ppid.hex(),
    }
    assert alone == {**info, "eth_rpc_url": "", "kms_contract_address": ""}


async def answers(kms: Running, keys: RootKeys) -> list[bytes]:
    """What a KMS answers to every RPC."""
    async with kms.client(*identity(keys)) as app, kms.client(*identity(keys, Claims(events=READY))) as peer:
        return [
            (await app.post("/prpc/GetAppKey", json={"api_version": 1})).content,
            (await app.get("/prpc/GetAppEnvEncryptPubKey", params={"app_id": APP_ID.hex()})).content,
            (await app.get("/prpc/GetMeta")).content,
            (await app.get("/prpc/GetTempCaCert")).content,
            (await peer.get("/prpc/GetKmsKey")).content,
            (await app.post("/prpc/SignCert", content=signing_request().SerializeToString())).content,
        ]


async def test_a_second_kms_onboards_from_the_first_and_answers_alike(tmp_path: Path) -> None:
    settings = KmsSettings(auto_bootstrap_domain=DOMAIN)
    async with (
        running(tmp_path / "first", settings=settings) as first,
        running(tmp_path / "second", sealing_key=bytes(32)) as second,
    ):
        async with second.onboarder() as client:
            request = {"source_url": f"{first.url}/prpc", "domain": "second.example.test"}
            response = await client.post("/prpc/Onboard.Onboard", json=request)
            assert response.status_code == 200, response.text
            assert (await client.get("/prpc/Finish")).content == b"null"
        await second.server.serving()
        keys = first.store.load(NOW)
        assert response.json() == {"k256_pubkey": keys.root.k256_public_key.hex()}
        theirs, ours = await answers(first, keys), await answers(second, keys)
        assert theirs == ours
        assert all(b"error" not in answer for answer in ours)
        assert second.store.load(NOW).domain == "second.example.test"
    # Who gave the keys was asked about at home, and is on record there.
    source = first.own.claims
    assert second.auth.asked[0][1].compose_hash == source.events[2].payload
    (record, *_) = read_records(second.audit.path)
    assert (record.rpc, record.decision, record.app_id) == ("Onboard", "allowed", APP_ID.hex())


async def onboarded(kms: Running, source: Running) -> str:
    """The refusal of onboarding from a source; nothing was kept."""
    async with kms.onboarder() as client:
        request = {"source_url": source.url, "domain": DOMAIN}
        response = await client.post("/prpc/Onboard.Onboard", json=request)
    assert response.status_code == 400
    assert not kms.store.exists()
    assert [r.decision for r in read_records(kms.audit.path)] == ["refused"]
    text: str = response.json()["error"]
    return text


async def test_a_source_that_our_authorisation_refuses_gives_nothing(tmp_path: Path) -> None:
    auth = FakeAuth(kms=Decision(is_allowed=False, reason="aggregated MR not allowed"))
    async with running(tmp_path / "a", keys=ROOT) as first, running(tmp_path / "b", auth=auth) as second:
        text = await onboarded(second, first)
    assert text == "the source KMS: Boot denied: aggregated MR not allowed"


async def test_a_source_that_refuses_us_gives_nothing(tmp_path: Path) -> None:
    async with running(tmp_path / "a", keys=ROOT) as first, running(tmp_path / "b") as second:
        first.auth.kms = Decision(is_allowed=False, reason="unknown KMS")
        text = await onboarded(second, first)
    assert "GetTempCaCert" in text
    assert "KMS self authorization failed: KMS is not allowed: unknown KMS" in text


async def test_a_source_without_evidence_is_no_source(tmp_path: Path) -> None:
    async with (
        running(tmp_path / "a", keys=ROOT, settings=PLAIN) as first,
        running(tmp_path / "b") as second,
    ):
        assert await onboarded(second, first) == "the source KMS: No attestation provided"


async def test_a_kms_without_guest_agent_cannot_onboard(tmp_path: Path) -> None:
    async with (
        running(tmp_path / "a", keys=ROOT) as first,
        running(tmp_path / "b", settings=PLAIN, own=None) as second,
    ):
        assert "has no evidence of its own" in await onboarded(second, first)
        told = await bootstrap(second)
        assert told["attestation"] == ""


async def test_a_service_that_cannot_start_after_onboarding_says_so(tmp_path: Path) -> None:
    async with running(tmp_path) as kms:
        await bootstrap(kms)
        (tmp_path / "keys" / "root-k256.key").chmod(0o644)
        async with kms.onboarder() as client:
            await client.get("/finish")
        with pytest.raises(MisuseError, match="readable by others"):
            await kms.server.serving()
        assert kms.server.state == "stopped"
