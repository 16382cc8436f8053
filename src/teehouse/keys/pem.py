"""Keys and certificates as DER and PEM text (guest-agent.md 3.5).

Rules:

1. A private key is PKCS#8 v1 with the public key inside: for P-256 always 138 bytes of DER. Old client
   helpers hash these bytes into wallets, so the layout is part of the interface.
2. PEM has 64 columns, LF line ends, and ends in LF.
3. Reading is bounded, and raises only `MisuseError`: keys and certificates come from files of ours.
"""

import base64
import binascii
import struct

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from teehouse.base.findings import misuse

PEM_LIMIT = 64 * 1024  # characters of any PEM text read here

_COLUMNS = 64
_BEGIN = "-----BEGIN CERTIFICATE-----"
_END = "-----END CERTIFICATE-----"


def private_key_der(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS#8 DER (rule 1)."""
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def private_key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    """PKCS#8 PEM (rules 1, 2)."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def spki_der(public_key: ec.EllipticCurvePublicKey) -> bytes:
    """SubjectPublicKeyInfo DER with the uncompressed point: 91 bytes for P-256."""
    return public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def raw_point(public_key: ec.EllipticCurvePublicKey) -> bytes:
    """The uncompressed point, 04 || X || Y: 65 bytes for P-256."""
    return public_key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def certificate_pem(der: bytes) -> str:
    """A certificate's DER as PEM (rule 2)."""
    text = base64.b64encode(der)
    whole, rest = divmod(len(text), _COLUMNS)
    # Certificates with evidence have hundreds of lines: cut in one call, not in a loop.
    lines = struct.unpack(f"{_COLUMNS}s" * whole + (f"{rest}s" if rest else ""), text)
    return b"\n".join([_BEGIN.encode(), *lines, _END.encode(), b""]).decode()


def certificate_der(pem: str) -> bytes:
    """The DER of the first certificate in a PEM text, byte for byte; it is not looked into.

    Raises `MisuseError`.
    """
    if len(pem) > PEM_LIMIT:
        raise misuse(
            "pem.too-long",
            "the certificate's PEM is too long",
            expected=f"at most {PEM_LIMIT} characters",
            found=str(len(pem)),
        )
    _, begin, after = pem.partition(_BEGIN)
    body, end, _ = after.partition(_END)
    if not begin or not end:
        raise misuse("pem.no-certificate", "no certificate in the PEM text", expected=_BEGIN)
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError):
        raise misuse("pem.not-base64", "the certificate's PEM is not base64") from None


def load_p256_private_key(pem: str) -> ec.EllipticCurvePrivateKey:
    """The P-256 private key in a PEM text. Raises `MisuseError`, which shows nothing of the text."""
    if len(pem) > PEM_LIMIT:
        raise misuse("pem.too-long", "the private key's PEM is too long")
    try:
        key = load_pem_private_key(pem.encode(), None)
    except Exception:  # noqa: BLE001 - the loader's errors are of many kinds, and may quote what they read
        raise misuse("pem.no-private-key", "no private key can be read from the PEM text") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise misuse("pem.not-p256", "the private key is not on P-256", expected="P-256")
    return key


def load_certificate(der: bytes, what: str = "the certificate") -> x509.Certificate:
    """The certificate, parsed. Raises `MisuseError`."""
    try:
        return x509.load_der_x509_certificate(der)
    except ValueError:
        raise misuse("certificate.malformed", f"{what} cannot be read") from None


def certificate_public_key(der: bytes, what: str = "the certificate") -> ec.EllipticCurvePublicKey:
    """The P-256 public key of a certificate. Raises `MisuseError`."""
    certificate = load_certificate(der, what)
    try:
        key = certificate.public_key()
    except Exception:  # noqa: BLE001 - unknown algorithms, curves and points each raise their own kind
        raise misuse("certificate.public-key", f"{what} has no readable public key") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise misuse("certificate.not-p256", f"{what} has no P-256 key", expected="P-256")
    return key
