"""The RPCs of the KMS, without sockets; the numbers are the rules of `kms.service` and `kms.evidence`."""

import base64
import hashlib
import hmac
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.empty_pb2 import Empty

from support import emulated
from support.adversary import APP_ID, COMPOSE_HASH, INSTANCE_ID, Adversary, Claims
from support.kms_support import (
    BOOT,
    DEVICE,
    DOWN,
    HONEST,
    IMAGE,
    KMS_ITSELF,
    NOW,
    READY,
    FakeAuth,
    House,
    app_key_request,
    boot_info,
    client_cert,
    evidence_for,
    house,
    key,
    refused,
    signing_request,
)
from teehouse.attestation.eventlog import RuntimeEvent
from teehouse.attestation.mrconfig import mr_config_id_v1
from teehouse.base.findings import CollateralError, EvidenceError, MisuseError, unavailable
from teehouse.base.hashes import sha256
from teehouse.keys.derive import p256_scalar
from teehouse.keys.pem import certificate_pem, private_key_pem
from teehouse.keys.signing import kms_digest, public_key, recover_public_key
from teehouse.kms.auth import Decision
from teehouse.kms.service import Metrics, Peer
from teehouse.ratls.read import read_certificate
from teehouse.tee_emulated.image import EmulatedImage
from teehouse.wire import kms_pb2

# GetAppKey


async def test_get_app_key_answers_the_keys_of_the_measured_app(tmp_path: Path) -> None:
    kms = house(tmp_path)
    answer = await kms.service.get_app_key(app_key_request(), kms.peer())
    root = kms.keys.root
    assert answer.ca_cert == certificate_pem(root.ca.certificate_der)
    assert answer.disk_crypt_key == dh(root.ca.key, APP_ID, INSTANCE_ID, b"app-disk-crypt-key")
    assert answer.env_crypt_key == dh(root.ca.key, APP_ID, b"env-encrypt-key")
    assert answer.k256_key == hkdf(root.k256_key, APP_ID + b"app-key")
    signer = recover_public_key(
        kms_digest(APP_ID, public_key("secp256k1", answer.k256_key)), answer.k256_signature
    )
    assert signer == root.k256_public_key
    assert (answer.tproxy_app_id, answer.gateway_app_id, answer.os_image_hash) == (
        "gateway",
        "gateway",
        IMAGE,
    )
    assert kms.auth.asked == [KMS_ITSELF, ("app", boot_info(Claims(events=BOOT)))]
    assert kms.service.metrics == Metrics(requests=1, failures=0)


def hkdf(ikm: bytes, info: bytes) -> bytes:
    """RFC 5869 for one block, with the salt of trust.md 13.4."""
    return hmac.digest(hmac.digest(b"RATLS", ikm, "sha256"), info + b"\x01", "sha256")


def dh(root: ec.EllipticCurvePrivateKey, *parts: bytes) -> bytes:
    """trust.md 13.4: SHA-256 over the PKCS#8 DER of the derived P-256 key."""
    scalar = hkdf(p256_scalar(root), b"".join(parts))
    pem = private_key_pem(ec.derive_private_key(int.from_bytes(scalar, "big"), ec.SECP256R1()))
    return hashlib.sha256(base64.b64decode("".join(pem.splitlines()[1:-1]))).digest()


async def test_the_boot_info_on_the_wire_is_camel_case_hex() -> None:
    info = boot_info(Claims(), whole=True)
    assert info.as_dict() == {
        "teeVariant": "dstack-tdx",
        "mrAggregated": info.mr_aggregated.hex(),
        "osImageHash": IMAGE.hex(),
        "mrSystem": info.mr_system.hex(),
        "appId": APP_ID.hex(),
        "composeHash": COMPOSE_HASH.hex(),
        "instanceId": INSTANCE_ID.hex(),
        "deviceId": DEVICE.hex(),
        "keyProviderInfo": b'{"name":"kms","id":"abcd"}'.hex(),
        "tcbStatus": "UpToDate",
        "advisoryIds": [],
    }


async def test_an_app_without_instance_id_gets_keys(tmp_path: Path) -> None:
    kms = house(tmp_path)
    events = tuple(replace(e, payload=b"") if e.event == "instance-id" else e for e in BOOT)
    answer = await kms.service.get_app_key(app_key_request(), kms.peer(Claims(events=events)))
    assert answer.disk_crypt_key == dh(kms.keys.root.ca.key, APP_ID, b"app-disk-crypt-key")


async def test_a_vm_config_in_the_request_stands_in_for_a_missing_one(tmp_path: Path) -> None:
    kms = house(tmp_path)
    attestation = evidence_for(key().public_key())
    peer = Peer(certificate_der=client_cert(kms.keys, replace(attestation, config="")))
    text = await refused(kms.service.get_app_key(app_key_request(), peer))
    assert text == (
        "App not allowed: OS image hash verification failed: "
        "expected a vm_config that names the OS image, found none"
    )
    answer = await kms.service.get_app_key(app_key_request(vm_config=attestation.config), peer)
    assert answer.os_image_hash == IMAGE


async def test_without_image_verification_the_claimed_hash_is_told(tmp_path: Path) -> None:
    kms = house(tmp_path, verify_image=False)
    attestation = evidence_for(key().public_key())
    for config, told in (('{"os_image_hash":"' + "ab" * 32 + '"}', b"\xab" * 32), ("", b"")):
        peer = Peer(certificate_der=client_cert(kms.keys, replace(attestation, config=config)))
        answer = await kms.service.get_app_key(app_key_request(), peer)
        assert answer.os_image_hash == told == kms.auth.asked[-1][1].os_image_hash
    peer = Peer(certificate_der=client_cert(kms.keys, replace(attestation, config="{")))
    text = await refused(kms.service.get_app_key(app_key_request(), peer))
    assert text.startswith("App not allowed: OS image hash verification failed: ")


async def test_an_unknown_api_version_is_refused(tmp_path: Path) -> None:
    kms = house(tmp_path)
    text = await refused(kms.service.get_app_key(app_key_request(api_version=2), kms.peer()), MisuseError)
    assert text == "Unsupported API version: 2"
    assert kms.auth.asked == []


async def test_a_denied_app_is_refused_with_the_reason(tmp_path: Path) -> None:
    kms = house(tmp_path, auth=FakeAuth(app=Decision(is_allowed=False, reason="compose hash not allowed")))
    text = await refused(kms.service.get_app_key(app_key_request(), kms.peer()))
    assert text == "App not allowed: Boot denied: compose hash not allowed"


async def test_a_reason_is_bounded(tmp_path: Path) -> None:
    kms = house(tmp_path, auth=FakeAuth(app=Decision(is_allowed=False, reason="x" * 100_000)))
    text = await refused(kms.service.get_app_key(app_key_request(), kms.peer()))
    assert text == "App not allowed: Boot denied: " + "x" * 1024


# Faults of evidence (the rules of `kms.evidence`)


async def test_e1_no_certificate_and_no_attestation_are_refused(tmp_path: Path) -> None:
    kms = house(tmp_path)
    for peer in (Peer(), Peer(certificate_der=client_cert(kms.keys, None))):
        text = await refused(kms.service.get_app_key(app_key_request(), peer))
        assert text == "App not allowed: No attestation provided"
    assert [question for question, _ in kms.auth.asked] == ["kms", "kms"]
    assert kms.service.metrics == Metrics(requests=2, failures=2)


async def test_e2_evidence_of_another_key_is_refused(tmp_path: Path) -> None:
    """A replayed attestation: genuine, put into a certificate for the thief's key."""
    kms = house(tmp_path)
    stolen = evidence_for(key().public_key())
    peer = Peer(certificate_der=client_cert(kms.keys, stolen, public=key(8).public_key()))
    text = await refused(kms.service.get_app_key(app_key_request(), peer))
    assert text.startswith("App not allowed: report data mismatch: expected ")
    assert kms.records()[-1].evidence == sha256(stolen.quote).hex()  # whose it was can be found out


async def test_e3_an_app_id_of_another_size_is_refused(tmp_path: Path) -> None:
    kms = house(tmp_path)
    events = tuple(replace(e, payload=e.payload[:19]) if e.event == "app-id" else e for e in BOOT)
    text = await refused(kms.service.get_app_key(app_key_request(), kms.peer(Claims(events=events))))
    assert text == "App not allowed: app_id must be 20 bytes"


Fault = Callable[[House], Peer]


def wrong_root(kms: House) -> Peer:
    return kms.peer(who=Adversary(seed=bytes(32)))


def debug_td(kms: House) -> Peer:
    honest = evidence_for(key().public_key())
    td = emulated.td_report(td_attributes=bytes.fromhex("0100001000000000"), report_data=honest.report_data)
    return Peer(certificate_der=client_cert(kms.keys, replace(honest, quote=HONEST.quote(td))))


def altered_compose(kms: House) -> Peer:
    """The log names another compose than the one the host fixed in MRCONFIGID."""
    return kms.peer(Claims(events=BOOT, mr_config_id=mr_config_id_v1(sha256(b"another app-compose.json"))))


def rewritten_log(kms: House) -> Peer:
    """The log names another app than RTMR3 has measured."""
    honest = evidence_for(key().public_key())
    events = tuple(replace(e, payload=bytes(20)) if e.event == "app-id" else e for e in BOOT)
    log = tuple(e for e in honest.event_log if e.imr != 3)
    changed = replace(honest, runtime_events=events, event_log=log)
    return Peer(certificate_der=client_cert(kms.keys, changed))


def other_image(kms: House) -> Peer:
    honest = evidence_for(key().public_key())
    config = EmulatedImage.named("another").vm_config(2, 2 << 30)
    return Peer(certificate_der=client_cert(kms.keys, replace(honest, config=config)))


def stale_collateral(kms: House) -> Peer:
    kms.collateral.answer = HONEST.collateral(now=NOW - timedelta(days=60))
    return kms.peer()


def revoked_host(kms: House) -> Peer:
    kms.collateral.answer = Adversary(revoked=frozenset({"tdx-pck:alpha"})).collateral()
    return kms.peer()


def after_boot(kms: House) -> Peer:
    return kms.peer(Claims(events=READY))


def before_boot(kms: House) -> Peer:
    return kms.peer(Claims(events=BOOT[:4]))


FAULTS: list[tuple[Fault, str]] = [
    (wrong_root, "Quote verification failed: "),
    (debug_td, "Quote verification failed: the TD's DEBUG attribute (bit 0): "),
    (altered_compose, "Event log verification failed: MR_CONFIG_ID: expected "),
    (rewritten_log, "Event log verification failed: RTMR3 of the quote and of the log: expected "),
    (other_image, "OS image hash verification failed: "),
    (stale_collateral, "Quote verification failed: TCB info: expected valid at 2026-11-20"),
    (revoked_host, "Quote verification failed: the PCK certificate: expected not in its issuer's CRL"),
    (
        after_boot,
        "Event log verification failed: expected boot-mr-done as the last event when keys are released, found 3 after it",
    ),
    (before_boot, "Event log verification failed: expected event boot-mr-done, found none"),
]


@pytest.mark.parametrize(("fault", "text"), FAULTS, ids=[fault.__name__ for fault, _ in FAULTS])
async def test_faulty_evidence_gets_no_keys_and_is_on_record(fault: Fault, text: str, tmp_path: Path) -> None:
    kms = house(tmp_path, enforce=False)
    peer = fault(kms)
    kind = CollateralError if fault is stale_collateral else EvidenceError
    refusal = await refused(kms.service.get_app_key(app_key_request(), peer), kind)
    assert refusal.startswith(f"App not allowed: {text}")
    assert kms.auth.asked == []  # nobody is asked about what is not genuine
    (record,) = kms.records()
    assert (record.rpc, record.decision, record.reason) == ("GetAppKey", "refused", refusal[:1024])
    assert record.evidence == sha256(read_certificate(peer.certificate_der or b"").attestation.quote).hex()  # type: ignore[union-attr]  # it has one
    assert record.peer_certificate == sha256(peer.certificate_der or b"").hex()
    assert kms.service.metrics == Metrics(requests=1, failures=1)
    assert_no_secrets(kms, refusal)


def assert_no_secrets(kms: House, *texts: str) -> None:
    """K5."""
    root = kms.keys.root
    secrets = [
        root.k256_key,
        *(p256_scalar(k) for k in (root.ca.key, root.temporary_ca.key, kms.keys.rpc_key)),
    ]
    shown = "".join([*texts, kms.audit.path.read_text(), repr(kms.keys), repr(kms.service)])
    for secret in secrets:
        assert secret.hex() not in shown
        assert repr(secret)[2:-1] not in shown
    assert "PRIVATE KEY" not in shown


async def test_e4_missing_collateral_is_a_refusal_of_its_own_family(tmp_path: Path) -> None:
    kms = house(tmp_path, enforce=False, collateral=unavailable("pccs.down", "the PCCS does not answer"))
    text = await refused(kms.service.get_app_key(app_key_request(), kms.peer()), CollateralError)
    assert text.startswith("App not allowed: Quote verification failed: the PCCS does not answer")


async def test_e4_any_of_several_roots_will_do(tmp_path: Path) -> None:
    other = Adversary(seed=bytes(32))
    kms = house(tmp_path, roots=(other.root, HONEST.root))
    await kms.service.get_app_key(app_key_request(), kms.peer())
    assert kms.records()[-1].root == HONEST.root.name


async def test_e4_a_platform_out_of_date_is_told_not_judged(tmp_path: Path) -> None:
    collateral = HONEST.collateral(tcb=only_the_former_level)
    kms = house(tmp_path, enforce=False, collateral=collateral)
    await kms.service.get_app_key(app_key_request(), kms.peer())
    ((_, told),) = kms.auth.asked
    assert (told.tcb_status, told.advisory_ids) == ("OutOfDate", ("EMULATED-SA-00001",))


def only_the_former_level(document: dict[str, Any]) -> None:
    """The level that this platform reaches is then the older one, which needs less."""
    del document["tcbLevels"][0]


# Self authorisation (K1)


async def test_k1_the_kms_asks_for_itself_each_time_with_boot_info_taken_once(tmp_path: Path) -> None:
    kms = house(tmp_path)
    for _ in range(3):
        await kms.service.get_temp_ca_cert(Empty(), Peer())
    assert kms.auth.asked == [KMS_ITSELF] * 3
    assert kms.own.attestations == 1
    kms.auth.kms = Decision(is_allowed=False, reason="revoked")
    text = await refused(kms.service.get_temp_ca_cert(Empty(), Peer()))
    assert text == "KMS self authorization failed: KMS is not allowed: revoked"


def rpcs(kms: House) -> list[Callable[[], Awaitable[Any]]]:
    service, peer = kms.service, kms.peer(Claims(events=READY))
    return [
        lambda: service.get_app_key(app_key_request(), peer),
        lambda: service.get_app_env_encrypt_pub_key(kms_pb2.AppId(app_id=APP_ID), peer),
        lambda: service.get_kms_key(kms_pb2.GetKmsKeyRequest(), peer),
        lambda: service.get_temp_ca_cert(Empty(), peer),
        lambda: service.sign_cert(signing_request(), peer),
    ]


@pytest.mark.parametrize("number", range(5))
async def test_k1_nothing_is_handed_out_by_a_kms_that_is_not_allowed(number: int, tmp_path: Path) -> None:
    kms = house(tmp_path, auth=FakeAuth(kms=Decision(is_allowed=False, reason="no")))
    text = await refused(rpcs(kms)[number]())
    assert text == "KMS self authorization failed: KMS is not allowed: no"
    assert [record.decision for record in kms.records()] == ["refused"]


@pytest.mark.parametrize("number", range(5))
async def test_k2_an_authorisation_api_that_fails_is_a_refusal(number: int, tmp_path: Path) -> None:
    kms = house(tmp_path, auth=FakeAuth(kms=DOWN, app=DOWN, about=DOWN))
    text = await refused(rpcs(kms)[number](), CollateralError)
    assert text == "KMS self authorization failed: the authorization API does not answer"


async def test_k1_a_kms_that_cannot_prove_itself_is_refused_and_tries_again(tmp_path: Path) -> None:
    kms = house(tmp_path, collateral=unavailable("pccs.down", "the PCCS does not answer"))
    text = await refused(kms.service.get_temp_ca_cert(Empty(), Peer()), CollateralError)
    assert text.startswith("KMS self authorization failed: Quote verification failed: the PCCS does not")
    kms.collateral.answer = HONEST.collateral()
    await kms.service.get_temp_ca_cert(Empty(), Peer())
    assert kms.own.attestations == 2


async def test_k1_can_be_turned_off(tmp_path: Path) -> None:
    kms = house(tmp_path, enforce=False)
    await kms.service.get_temp_ca_cert(Empty(), Peer())
    assert kms.auth.asked == []
    assert kms.own.attestations == 0


# What is decided, and by whom (K2)


async def test_k2_a_revocation_holds_at_the_next_request(tmp_path: Path) -> None:
    kms = house(tmp_path, enforce=False)
    peer = kms.peer()
    await kms.service.get_app_key(app_key_request(), peer)
    kms.auth.app = Decision(is_allowed=False, reason="revoked")
    assert "Boot denied: revoked" in await refused(kms.service.get_app_key(app_key_request(), peer))
    kms.auth.app = DOWN
    await refused(kms.service.get_app_key(app_key_request(), peer), CollateralError)
    kms.auth.app = Decision(is_allowed=True)
    await kms.service.get_app_key(app_key_request(), peer)
    assert [question for question, _ in kms.auth.asked] == ["app"] * 4


@pytest.mark.parametrize("answer", [1, "true", None])
async def test_k2_what_is_not_a_clear_yes_is_a_no(answer: Any, tmp_path: Path) -> None:
    kms = house(tmp_path, enforce=False, auth=FakeAuth(app=Decision(is_allowed=answer, reason="odd")))
    assert "Boot denied: odd" in await refused(kms.service.get_app_key(app_key_request(), kms.peer()))


async def test_k2_an_unforeseen_failure_hands_out_nothing_and_shows_no_values(tmp_path: Path) -> None:
    kms = house(tmp_path, enforce=False, auth=FakeAuth(app=ArithmeticError("with a secret in it")))
    with pytest.raises(ArithmeticError):
        await kms.service.get_app_key(app_key_request(), kms.peer())
    (record,) = kms.records()
    assert (record.decision, record.reason) == ("failed", "ArithmeticError")


# The audit log (K4)


async def test_k4_an_allowed_hand_out_is_on_record_with_all_that_is_known(tmp_path: Path) -> None:
    kms = house(tmp_path)
    peer = kms.peer()
    await kms.service.get_app_key(app_key_request(), peer)
    (record,) = kms.records()
    quote = read_certificate(peer.certificate_der or b"").attestation
    assert quote is not None
    assert (record.sequence, record.rpc, record.decision, record.reason) == (0, "GetAppKey", "allowed", "")
    assert (record.app_id, record.instance_id) == (APP_ID.hex(), INSTANCE_ID.hex())
    assert (record.device_id, record.compose_hash) == (DEVICE.hex(), COMPOSE_HASH.hex())
    assert (record.root, record.evidence) == (HONEST.root.name, sha256(quote.quote).hex())
    assert (record.peer, record.peer_certificate) == (
        "192.0.2.1:5",
        sha256(peer.certificate_der or b"").hex(),
    )
    assert_no_secrets(kms)


@pytest.mark.parametrize("number", range(5))
async def test_k4_without_a_record_nothing_is_handed_out(number: int, tmp_path: Path) -> None:
    kms = house(tmp_path)
    kms.audit.close()
    text = await refused(rpcs(kms)[number](), CollateralError)
    assert text.startswith("the audit log cannot be written, and nothing is handed out without it")


async def test_an_event_after_the_boot_is_named_harmlessly(tmp_path: Path) -> None:
    kms = house(tmp_path, enforce=False)
    events = (*BOOT, RuntimeEvent("\x1b[2J\u2028" + "x" * 1000, b""))
    text = await refused(kms.service.get_app_key(app_key_request(), kms.peer(Claims(events=events))))
    assert text.isascii()
    assert text.isprintable()
    assert "found 1 after it" in text
