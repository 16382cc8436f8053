"""X.509 as attestation needs it: certificates, revocation lists, and the path to a named root.

Rules of a path (trust.md 4.3, 4.5, 6.1; RFC 5280 6.1, narrowed to what Intel issues):

1. All keys are ECDSA P-256, all signatures ECDSA with SHA-256.
2. A chain is written leaf first, each certificate followed by its issuer; the root may be left out. The
   root is recognised by subject and public key, and what is trusted is always the caller's copy of it.
3. Each issuer is a CA by its basic constraints; where it has a key usage, that allows signing
   certificates and CRLs. A path length constraint is kept.
4. A chain has at most `CHAIN_LIMIT` certificates, each at most `CERTIFICATE_LIMIT` bytes.

Nothing here knows the time: validity is asked for with an instant.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from teehouse.base.findings import malformed

CERTIFICATE_LIMIT = 64 * 1024  # bytes of one DER certificate
CRL_LIMIT = 4 * 1024 * 1024  # bytes of one DER CRL
CHAIN_LIMIT = 6  # certificates in a chain
_P256_HALF = 32  # bytes of one coordinate, or of one half of a raw signature


@lru_cache(maxsize=256)
def load_certificate(der: bytes) -> x509.Certificate:
    """The certificate in `der`, every part of it readable. Raises `EvidenceError` (malformed)."""
    if len(der) > CERTIFICATE_LIMIT:
        raise malformed(
            "certificate.too-long",
            "a certificate is too long",
            expected=f"at most {CERTIFICATE_LIMIT} bytes",
            found=str(len(der)),
        )
    try:
        certificate = x509.load_der_x509_certificate(der)
        # Parts are decoded when they are asked for; ask now, so that nothing fails later.
        _ = (certificate.subject, certificate.issuer, certificate.extensions, certificate.serial_number)
        _ = (certificate.not_valid_before_utc, certificate.not_valid_after_utc, certificate.public_key())
        _ = certificate.signature_hash_algorithm
    except Exception as error:  # noqa: BLE001 - the parser has many kinds of error, some of them private
        raise malformed(
            "certificate.malformed", "a certificate cannot be decoded", found=_short(error)
        ) from None
    return certificate


@lru_cache(maxsize=32)
def load_crl(der: bytes) -> x509.CertificateRevocationList:
    """The revocation list in `der`, with a next update. Raises `EvidenceError` (malformed)."""
    if len(der) > CRL_LIMIT:
        raise malformed(
            "crl.too-long",
            "a revocation list is too long",
            expected=f"at most {CRL_LIMIT} bytes",
            found=str(len(der)),
        )
    try:
        crl = x509.load_der_x509_crl(der)
        _ = (crl.issuer, crl.last_update_utc, crl.extensions, crl.signature_hash_algorithm)
        next_update = crl.next_update_utc
    except Exception as error:  # noqa: BLE001 - the parser has many kinds of error, some of them private
        raise malformed("crl.malformed", "a revocation list cannot be decoded", found=_short(error)) from None
    if next_update is None:
        raise malformed("crl.no-next-update", "a revocation list does not say when it ends")
    return crl


def _short(error: Exception) -> str:
    """The parser's words, kept to one line of a report."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def name_of(name: x509.Name) -> str:
    """The common name, or the whole name where there is none."""
    for attribute in name.get_attributes_for_oid(x509.NameOID.COMMON_NAME):
        return f"CN={attribute.value!s}"
    return name.rfc4514_string() or "an empty name"


def public_key_der(certificate: x509.Certificate) -> bytes:
    """SubjectPublicKeyInfo as DER."""
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _p256(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey | None:
    key = certificate.public_key()
    return key if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1) else None


def signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """True when `issuer` signed `certificate` (rule 1); names are compared too."""
    if _p256(issuer) is None or not isinstance(certificate.signature_hash_algorithm, hashes.SHA256):
        return False
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def crl_signed_by(crl: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    """True when `issuer` signed `crl` (rule 1); names are compared too."""
    key = _p256(issuer)
    if key is None or crl.issuer != issuer.subject:
        return False
    if not isinstance(crl.signature_hash_algorithm, hashes.SHA256):
        return False
    try:
        return crl.is_signature_valid(key)
    except (ValueError, TypeError):
        return False


def verify_raw_signature(
    certificate_or_point: x509.Certificate | bytes, signature: bytes, data: bytes
) -> bool:
    """True when `signature` (64 bytes r||s, big-endian halves) over `data` is good (trust.md 2.3).

    The key is a certificate's, or a point of 64 bytes x||y. A key that is none verifies nothing.
    """
    if isinstance(certificate_or_point, bytes):
        try:
            key: ec.EllipticCurvePublicKey | None = ec.EllipticCurvePublicKey.from_encoded_point(
                ec.SECP256R1(), b"\x04" + certificate_or_point
            )
        except ValueError:
            return False
    else:
        key = _p256(certificate_or_point)
    if key is None or len(signature) != 2 * _P256_HALF:
        return False
    r, s = (int.from_bytes(half, "big") for half in (signature[:_P256_HALF], signature[_P256_HALF:]))
    try:
        key.verify(encode_dss_signature(r, s), data, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def can_sign_certificates(certificate: x509.Certificate) -> bool:
    """Rule 3, but for the path length."""
    extensions = certificate.extensions
    try:
        if not extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return False
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound as missing:
        return missing.oid == x509.KeyUsage.oid
    return usage.key_cert_sign and usage.crl_sign


def _path_length(certificate: x509.Certificate) -> int | None:
    return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length


def _same_key_and_name(one: x509.Certificate, other: x509.Certificate) -> bool:
    return one.subject == other.subject and public_key_der(one) == public_key_der(other)


@dataclass(frozen=True, slots=True)
class PathFault:
    """Why a chain does not lead to the root: what was wanted and what is there, in words."""

    expected: str
    found: str


@lru_cache(maxsize=256)
def path_to_root(chain: tuple[bytes, ...], root_der: bytes) -> tuple[x509.Certificate, ...] | PathFault:
    """The certificates of the path, leaf first and the trusted root last (rules 1 to 4).

    `chain` is DER, leaf first. Raises `EvidenceError` (malformed) for certificates that cannot be decoded.
    """
    root = load_certificate(root_der)
    certificates = [load_certificate(der) for der in chain]
    if not 1 <= len(certificates) <= CHAIN_LIMIT:
        return PathFault(f"1 to {CHAIN_LIMIT} certificates", str(len(certificates)))
    path = [certificates[0]]
    for certificate in certificates[1:]:
        if _same_key_and_name(certificate, root):
            break
        path.append(certificate)
    path.append(root)
    for below, (certificate, issuer) in enumerate(pairwise(path)):
        if not signed_by(certificate, issuer):
            return PathFault(
                f"{name_of(certificate.subject)} signed by {name_of(issuer.subject)}",
                f"issuer {name_of(certificate.issuer)}, or a signature of another key",
            )
        if not can_sign_certificates(issuer):
            return PathFault(f"a CA above {name_of(certificate.subject)}", name_of(issuer.subject))
        limit = _path_length(issuer)
        if limit is not None and below > limit:
            return PathFault(f"at most {limit} CAs below {name_of(issuer.subject)}", str(below))
    return tuple(path)


def out_of_date(path: Sequence[x509.Certificate], now: datetime) -> x509.Certificate | None:
    """The first certificate of the path that is not valid at `now`."""
    for certificate in path:
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            return certificate
    return None


def revoked(certificate: x509.Certificate, crl: x509.CertificateRevocationList) -> bool:
    """True when `crl` lists the certificate."""
    return crl.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None
