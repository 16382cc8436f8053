"""Env keys, GetMeta, GetKmsKey, GetTempCaCert and SignCert (trust.md 13.4, 13.5)."""

from dataclasses import replace
from pathlib import Path

import dstack_sdk
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from google.protobuf.empty_pb2 import Empty

from support.adversary import APP_ID, Claims
from support.kms_support import (
    DOWN,
    IMAGE,
    INFO,
    KMS_ITSELF,
    NOW,
    READY,
    FakeAuth,
    House,
    app_key_request,
    boot_info,
    evidence_for,
    house,
    key,
    refused,
    signing_request,
)
from teehouse.attestation.envelope import encode_attestation
from teehouse.base.findings import CollateralError, MisuseError
from teehouse.base.hashes import keccak256
from teehouse.keys.pem import certificate_der, certificate_pem, private_key_pem, spki_der
from teehouse.keys.signing import recover_public_key
from teehouse.kms.auth import Decision
from teehouse.kms.service import Peer
from teehouse.ratls.csr import sign_request
from teehouse.ratls.read import check_binding, read_certificate
from teehouse.wire import kms_pb2

# GetAppEnvEncryptPubKey


async def test_the_sdk_takes_the_env_key_for_signed_by_the_kms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kms = house(tmp_path)
    answer = await kms.service.get_app_env_encrypt_pub_key(kms_pb2.AppId(app_id=APP_ID), Peer())
    monkeypatch.setattr("time.time", NOW.timestamp)
    signer = dstack_sdk.verify_env_encrypt_public_key(
        answer.public_key, answer.signature_v1, APP_ID.hex(), answer.timestamp
    )
    assert signer == "0x" + kms.keys.root.k256_public_key.hex()
    assert answer.timestamp == int(NOW.timestamp())
    digest = keccak256(b"dstack-env-encrypt-pubkey:" + APP_ID + answer.public_key)
    assert recover_public_key(digest, answer.signature) == kms.keys.root.k256_public_key
    app = await kms.service.get_app_key(app_key_request(), kms.peer())
    secret = X25519PrivateKey.from_private_bytes(app.env_crypt_key)
    assert secret.public_key().public_bytes_raw() == answer.public_key


async def test_an_app_id_of_another_size_has_no_env_key(tmp_path: Path) -> None:
    kms = house(tmp_path)
    for app_id in (b"", APP_ID[:19], APP_ID + b"\0"):
        work = kms.service.get_app_env_encrypt_pub_key(kms_pb2.AppId(app_id=app_id), Peer())
        assert await refused(work, MisuseError) == "app_id must be 20 bytes"


# GetMeta


async def test_get_meta_tells_about_the_kms(tmp_path: Path) -> None:
    kms = house(tmp_path)
    answer = await kms.service.get_meta(Empty(), Peer())
    ca_pubkey = spki_der(kms.keys.root.ca.key.public_key())
    k256 = kms.keys.root.k256_public_key
    assert answer == kms_pb2.GetMetaResponse(
        ca_cert=certificate_pem(kms.keys.root.ca.certificate_der),
        allow_any_upgrade=False,
        k256_pubkey=k256,
        bootstrap_info=kms_pb2.BootstrapResponse(ca_pubkey=ca_pubkey, k256_pubkey=k256, attestation=b"proof"),
        is_dev=False,
        gateway_app_id="gateway",
        kms_contract_address="0x" + "11" * 20,
        chain_id=31337,
        app_auth_implementation="0x" + "22" * 20,
    )
    kms.auth.about = replace(INFO, is_dev=True)
    answer = await kms.service.get_meta(Empty(), Peer())
    assert (answer.is_dev, answer.allow_any_upgrade) == (True, True)
    kms.auth.about = DOWN
    await refused(kms.service.get_meta(Empty(), Peer()), CollateralError)
    assert kms.auth.asked == []
    assert kms.records() == []


# GetKmsKey


async def test_get_kms_key_hands_all_root_keys_to_an_allowed_kms(tmp_path: Path) -> None:
    kms = house(tmp_path)
    answer = await kms.service.get_kms_key(kms_pb2.GetKmsKeyRequest(), kms.peer(Claims(events=READY)))
    root = kms.keys.root
    assert answer == kms_pb2.KmsKeyResponse(
        temp_ca_key=private_key_pem(root.temporary_ca.key),
        keys=[kms_pb2.KmsKeys(ca_key=private_key_pem(root.ca.key), k256_key=root.k256_key)],
    )
    # A KMS is measured by its whole log, its key provider included.
    assert kms.auth.asked == [KMS_ITSELF, ("kms", boot_info(Claims(events=READY), whole=True))]


async def test_get_kms_key_is_refused_without_evidence_or_permission(tmp_path: Path) -> None:
    kms = house(tmp_path, enforce=False)
    request = kms_pb2.GetKmsKeyRequest()
    text = await refused(kms.service.get_kms_key(request, Peer()))
    assert text == "KMS not allowed: No attestation provided"
    kms.auth.kms = Decision(is_allowed=False, reason="aggregated MR not allowed")
    text = await refused(kms.service.get_kms_key(request, kms.peer()))
    assert text == "KMS not allowed: Boot denied: aggregated MR not allowed"


# GetTempCaCert


async def test_get_temp_ca_cert_hands_out_the_key_on_purpose(tmp_path: Path) -> None:
    kms = house(tmp_path)
    root = kms.keys.root
    assert await kms.service.get_temp_ca_cert(Empty(), Peer()) == kms_pb2.GetTempCaCertResponse(
        temp_ca_cert=certificate_pem(root.temporary_ca.certificate_der),
        temp_ca_key=private_key_pem(root.temporary_ca.key),
        ca_cert=certificate_pem(root.ca.certificate_der),
    )


# SignCert


async def chain_of(kms: House, request: kms_pb2.SignCertRequest) -> list[x509.Certificate]:
    answer = await kms.service.sign_cert(request, Peer())
    return [x509.load_pem_x509_certificate(pem.encode()) for pem in answer.certificate_chain]


async def test_sign_cert_gives_a_chain_up_to_the_root_ca(tmp_path: Path) -> None:
    kms = house(tmp_path)
    request = signing_request(ext_quote=True, ext_app_info=True, org_name="Org", not_after=2_000_000_000)
    leaf, authority, root = await chain_of(kms, request)
    leaf.verify_directly_issued_by(authority)
    authority.verify_directly_issued_by(root)
    assert root.public_bytes(Encoding.PEM).decode() == certificate_pem(kms.keys.root.ca.certificate_der)
    assert leaf.subject.rfc4514_string() == "CN=app.example.test,O=Org"
    assert authority.subject.rfc4514_string() == "CN=Dstack App CA,O=Dstack"
    assert int(leaf.not_valid_after_utc.timestamp()) == 2_000_000_000
    found = read_certificate(der(leaf))
    assert (found.app_id, found.usage) == (APP_ID, "app:custom")
    assert check_binding(found).ok
    assert found.attestation is not None
    assert {event.imr for event in found.attestation.event_log} == {0, 3}
    assert found.app_info is not None
    assert found.app_info.key_provider_info == b'{"name":"kms","id":"abcd"}'
    assert found.app_info.os_image_hash == IMAGE
    parent = read_certificate(der(authority))
    assert (parent.app_id, parent.usage) == (APP_ID, "app:ca")
    # The boot's values, though the log has gone on.
    assert kms.auth.asked[-1] == ("app", boot_info(Claims(events=READY)))


def der(certificate: x509.Certificate) -> bytes:
    return certificate_der(certificate.public_bytes(Encoding.PEM).decode())


async def test_sign_cert_leaves_out_what_was_not_asked_for(tmp_path: Path) -> None:
    kms = house(tmp_path)
    leaf, _, _ = await chain_of(kms, signing_request())
    found = read_certificate(der(leaf))
    assert (found.attestation, found.app_info, found.app_id) == (None, None, APP_ID)


async def test_sign_cert_serves_version_1_with_the_legacy_pair(tmp_path: Path) -> None:
    kms = house(tmp_path)
    leaf, _, _ = await chain_of(kms, signing_request(version=1, ext_quote=True))
    extensions = {e.oid.dotted_string.rpartition(".")[2] for e in leaf.extensions}
    assert {"1", "2", "3", "4", "8"} <= extensions
    assert check_binding(read_certificate(der(leaf))).ok


@pytest.mark.parametrize("version", [0, 3])
async def test_sign_cert_refuses_other_versions(version: int, tmp_path: Path) -> None:
    kms = house(tmp_path)
    work = kms.service.sign_cert(signing_request(api_version=version), Peer())
    assert await refused(work, MisuseError) == f"Unsupported API version: {version}"


async def test_sign_cert_refuses_a_request_that_its_key_did_not_sign(tmp_path: Path) -> None:
    kms = house(tmp_path)
    request = signing_request()
    request.signature = sign_request(request.csr, key(8))
    text = await refused(kms.service.sign_cert(request, Peer()))
    assert text.startswith("the request is not signed by the key it is for")


async def test_sign_cert_refuses_evidence_of_another_key(tmp_path: Path) -> None:
    kms = house(tmp_path)
    stolen = encode_attestation(evidence_for(key(9).public_key(), Claims(events=READY)))
    text = await refused(kms.service.sign_cert(signing_request(attestation=stolen), Peer()))
    assert text.startswith("App not allowed: report data mismatch")


async def test_sign_cert_refuses_missing_evidence(tmp_path: Path) -> None:
    kms = house(tmp_path)
    text = await refused(kms.service.sign_cert(signing_request(version=1, quote=b""), Peer()))
    assert text == "App not allowed: No attestation provided"
    text = await refused(kms.service.sign_cert(signing_request(attestation=b""), Peer()))
    assert text == "App not allowed: Empty attestation bytes"


async def test_sign_cert_needs_permission_and_a_finished_boot(tmp_path: Path) -> None:
    kms = house(tmp_path, auth=FakeAuth(app=Decision(is_allowed=False, reason="no")))
    text = await refused(kms.service.sign_cert(signing_request(), Peer()))
    assert text == "App not allowed: Boot denied: no"
    events = tuple(e for e in READY if e.event != "boot-mr-done")
    text = await refused(kms.service.sign_cert(signing_request(claims=Claims(events=events)), Peer()))
    assert text.startswith("App not allowed: Event log verification failed: event boot-mr-done")


async def test_sign_cert_passes_on_what_no_certificate_can_say(tmp_path: Path) -> None:
    kms = house(tmp_path)
    work = kms.service.sign_cert(signing_request(not_before=2, not_after=1), Peer())
    assert await refused(work, MisuseError) == "not_before must be earlier than not_after"
