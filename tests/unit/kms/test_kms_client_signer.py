"""Certificates from the KMS for the keys of an app (guest-agent.md 9.6, `teehouse.kms.client.signer`)."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from support.kms_client_support import (
    APP_ID,
    KEYS,
    NOW,
    OTHER_KEYS,
    FakeKms,
    Reply,
    app_keys,
    attest,
    leaf_chain,
    refuse,
    say,
    server_certificate,
)
from teehouse.attestation.certificate import certificate_report_data
from teehouse.base.clock import FixedClock
from teehouse.base.findings import MisuseError
from teehouse.keys.appkeys import app_ca, generate_without_kms
from teehouse.keys.certificate import Issuer
from teehouse.keys.pem import certificate_pem, spki_der
from teehouse.kms.client.connection import KmsRefusedError, KmsUnreachableError
from teehouse.kms.client.signer import KmsSigner, kms_signer
from teehouse.kms.rootkeys import RootKeys
from teehouse.ratls.csr import SigningRequest, request_key, verify_request
from teehouse.ratls.read import check_binding, read_certificate
from teehouse.wire import kms_pb2

KEY = ec.generate_private_key(ec.SECP256R1())
OTHER_KEY = ec.generate_private_key(ec.SECP256R1()).public_key()
REQUEST = SigningRequest(
    spki_der(KEY.public_key()),
    "app.test",
    ("app.test", "10.0.0.1"),
    server_auth=True,
    ext_quote=True,
    not_after=2_000_000_000,
)
ROOT = KEYS.root.ca.certificate_der
APP_CA = app_ca(KEYS.root.ca.key, ROOT, APP_ID, NOW)


@dataclass
class Evidence:
    content: bytes

    def certificate_attestation(self) -> bytes:
        return self.content


async def evidence() -> Evidence:
    return Evidence(await attest(certificate_report_data(REQUEST.public_key)))


def signer(url: str) -> KmsSigner:
    return kms_signer(app_keys(url), FixedClock(NOW), vm_config="{}")


def chain(texts: list[str]) -> Reply:
    return say(kms_pb2.SignCertResponse(certificate_chain=texts))


async def test_the_kms_signs_for_the_key_that_signed() -> None:
    taken = await evidence()

    def sign(body: bytes, certificate: bytes | None) -> tuple[int, bytes]:
        question = kms_pb2.SignCertRequest.FromString(body)
        asked = verify_request(question.csr, question.signature, question.api_version)
        assert asked == replace(REQUEST, attestation=taken.content)
        assert (question.api_version, question.vm_config) == (2, "{}")
        assert certificate is not None
        assert check_binding(read_certificate(certificate)).ok
        texts = leaf_chain(request_key(asked), APP_CA, ROOT)
        return 200, kms_pb2.SignCertResponse(certificate_chain=texts).SerializeToString()

    async with FakeKms({"SignCert": sign}) as kms:
        answered = await signer(kms.url).certify(REQUEST, KEY, taken)
    assert answered == tuple(leaf_chain(KEY.public_key(), APP_CA, ROOT))
    assert all(text.endswith("-----END CERTIFICATE-----\n") for text in answered)


@pytest.mark.parametrize(
    "change",
    [
        {"alt_names": ("ä.test",)},
        {"subject": "\ud800"},
        {"not_before": 5, "not_after": 5},
        {"not_after": 2**63},
    ],
)
async def test_rule_1_what_no_certificate_can_say_is_not_asked(change: dict[str, Any]) -> None:
    async with FakeKms({}) as kms:
        with pytest.raises(MisuseError):
            await signer(kms.url).certify(replace(REQUEST, **change), KEY, await evidence())
    assert kms.seen == []


@pytest.mark.parametrize(
    ("keys", "certificate", "code"),
    [
        (OTHER_KEYS, server_certificate(OTHER_KEYS), "kms.server-certificate"),
        (KEYS, server_certificate(usage="app:custom"), "kms.server-usage"),
    ],
)
async def test_rule_3_another_kms_is_refused(keys: RootKeys, certificate: bytes, code: str) -> None:
    signed = chain(leaf_chain(KEY.public_key(), APP_CA, ROOT))
    async with FakeKms({"SignCert": signed}, keys=keys, certificate=certificate) as kms:
        with pytest.raises(KmsRefusedError) as caught:
            await signer(kms.url).certify(REQUEST, KEY, await evidence())
    assert caught.value.finding.code == code


LEAF, CA, TOP = leaf_chain(KEY.public_key(), APP_CA, ROOT)
OTHER_ROOT = certificate_pem(OTHER_KEYS.root.ca.certificate_der)
FOREIGN = Issuer(OTHER_KEYS.root.temporary_ca.key, APP_CA.certificate_der)


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        ([], "the certificate chain: expected 2 to 8 certificates, found 0"),
        ([LEAF], "the certificate chain: expected 2 to 8 certificates, found 1"),
        ([LEAF] * 9, "the certificate chain: expected 2 to 8 certificates, found 9"),
        (
            leaf_chain(OTHER_KEY, APP_CA, ROOT),
            "the certificate chain: expected a leaf for the key that was asked for, found another key",
        ),
        (
            [LEAF, CA],
            "the certificate chain: expected the root CA of the app keys at the end, found another",
        ),
        (
            [LEAF, CA, OTHER_ROOT],
            "the certificate chain: expected the root CA of the app keys at the end, found another",
        ),
        (
            leaf_chain(KEY.public_key(), FOREIGN, ROOT),
            "the certificate chain: expected certificates each issued by the next, found others",
        ),
        ([LEAF, TOP], "the certificate chain: expected certificates each issued by the next, found others"),
        (["x", CA, TOP], "no certificate in the PEM text: expected -----BEGIN CERTIFICATE-----"),
    ],
)
async def test_rule_4_another_chain_is_refused(texts: list[str], found: str) -> None:
    async with FakeKms({"SignCert": chain(texts)}) as kms:
        with pytest.raises(KmsRefusedError) as caught:
            await signer(kms.url).certify(REQUEST, KEY, await evidence())
    assert (caught.value.finding.code, caught.value.finding.found) == ("kms.answer", found)


@pytest.mark.parametrize(("status", "error"), [(400, KmsRefusedError), (503, KmsUnreachableError)])
async def test_the_kms_will_not_or_cannot(
    status: int, error: type[KmsRefusedError | KmsUnreachableError]
) -> None:
    async with FakeKms({"SignCert": refuse(status, "no")}) as kms:
        with pytest.raises(error):
            await signer(kms.url).certify(REQUEST, KEY, await evidence())


def test_keys_without_a_kms_have_no_such_signer() -> None:
    with pytest.raises(MisuseError) as caught:
        kms_signer(generate_without_kms(bytes(32), NOW), FixedClock(NOW))
    assert str(caught.value) == "these app keys come from no KMS: found None"


def test_secrets_are_not_shown() -> None:
    assert "PRIVATE KEY" not in repr(signer("https://kms.test"))
