"""PEM and DER of keys and certificates (teehouse.keys.pem), by the rule numbers of its docstring."""

import subprocess
import traceback
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from support.keys_support import NOW, SEED, SIM
from support.openssl_support import openssl
from teehouse.base.findings import MisuseError
from teehouse.keys import pem
from teehouse.keys.certificate import CertificateFields, self_signed
from teehouse.keys.derive import application_key, p256_from_scalar

# guest-agent.md 19.3: SIM, Tappd.DeriveKey path "/"
KEY_PEM = """-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg9sHtlEiDlNeOCk5a
t11i6fCF1zsLVV0GFPuQyhPZRk2hRANCAATzZ6Uv0OjV+N7V/9AFegAIN4Cq4ZtK
/NF7lrkzf2ntB8cPCLhxA9GLjoZejwV4rSjF9rQnWO6rR7BJgkjpwDas
-----END PRIVATE KEY-----
"""
SPKI = (
    "3059301306072a8648ce3d020106082a8648ce3d03010703420004f367a52fd0e8d5f8ded5ffd0057a00083780aae19b4afcd1"
    "7b96b9337f69ed07c70f08b87103d18b8e865e8f0578ad28c5f6b42758eeab47b0498248e9c036ac"
)


@pytest.fixture(scope="module")
def key() -> ec.EllipticCurvePrivateKey:
    return p256_from_scalar(application_key(SIM, "/"))


@pytest.fixture(scope="module")
def certificate(key: ec.EllipticCurvePrivateKey) -> bytes:
    return self_signed(CertificateFields("test"), key, NOW)


def test_rules_1_and_2_private_key_and_public_key(key: ec.EllipticCurvePrivateKey) -> None:
    der = pem.private_key_der(key)
    assert pem.private_key_pem(key) == KEY_PEM
    assert pem.spki_der(key.public_key()).hex() == SPKI
    assert pem.raw_point(key.public_key()).hex() == SPKI[-130:]
    # guest-agent.md 3.5, the layout byte by byte
    prefix = "308187020100301306072a8648ce3d020106082a8648ce3d030107046d306b0201010420"
    assert der.hex() == prefix + application_key(SIM, "/").hex() + "a144034200" + SPKI[-130:]


def test_rule_2_certificate_pem_is_the_text_openssl_writes(certificate: bytes) -> None:
    text = pem.certificate_pem(certificate)
    written = subprocess.run(
        [openssl(), "x509", "-inform", "DER"],
        input=certificate,
        capture_output=True,
        check=True,
    ).stdout.decode()
    assert text == written
    assert pem.certificate_der(text) == certificate
    assert pem.certificate_der("before\n" + text.replace("\n", "\r\n") + text) == certificate


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "pem.no-certificate"),
        ("-----BEGIN CERTIFICATE-----\nAAAA", "pem.no-certificate"),
        ("-----BEGIN CERTIFICATE-----\nA-AA\n-----END CERTIFICATE-----\n", "pem.not-base64"),
        ("-----BEGIN CERTIFICATE-----\nAAA\n-----END CERTIFICATE-----\n", "pem.not-base64"),
        ("-----BEGIN CERTIFICATE-----\né\n-----END CERTIFICATE-----\n", "pem.not-base64"),
        (" " * 65537, "pem.too-long"),
    ],
)
def test_rule_3_what_is_no_certificate_pem(text: str, code: str) -> None:
    with pytest.raises(MisuseError) as refusal:
        pem.certificate_der(text)
    assert refusal.value.finding.code == code


def _pkcs8(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "pem.no-private-key"),
        ("\ud800", "pem.no-private-key"),
        (KEY_PEM[:100], "pem.no-private-key"),
        (" " * 65537, "pem.too-long"),
        (_pkcs8(ed25519.Ed25519PrivateKey.from_private_bytes(SEED)), "pem.not-p256"),
        (_pkcs8(ec.derive_private_key(5, ec.SECP384R1())), "pem.not-p256"),
    ],
)
def test_rule_3_what_is_no_private_key_is_refused_without_being_shown(text: str, code: str) -> None:
    with pytest.raises(MisuseError) as refusal:
        pem.load_p256_private_key(text)
    assert refusal.value.finding.code == code
    assert "MIG" not in "".join(traceback.format_exception(refusal.value))


def test_rule_3_private_key_and_certificate_key_are_read(
    key: ec.EllipticCurvePrivateKey, certificate: bytes
) -> None:
    assert pem.private_key_der(pem.load_p256_private_key(KEY_PEM)) == pem.private_key_der(key)
    assert pem.spki_der(pem.certificate_public_key(certificate)).hex() == SPKI


def test_rule_3_certificates_without_a_p256_key(certificate: bytes) -> None:
    with pytest.raises(MisuseError) as refusal:
        pem.certificate_public_key(certificate[:-1])
    assert refusal.value.finding.code == "certificate.malformed"

    point_off_the_curve = certificate.replace(bytes.fromhex(SPKI[-8:]), b"\0\0\0\0")
    with pytest.raises(MisuseError) as refusal:
        pem.certificate_public_key(point_off_the_curve)
    assert refusal.value.finding.code == "certificate.public-key"

    other = ec.derive_private_key(5, ec.SECP384R1())
    der = self_signed(CertificateFields("test"), other, datetime(2026, 1, 1, tzinfo=UTC))
    with pytest.raises(MisuseError) as refusal:
        pem.certificate_public_key(der, "ca_cert")
    assert refusal.value.finding.sentence() == "ca_cert has no P-256 key: expected P-256"
