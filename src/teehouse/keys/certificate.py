"""The certificate profile: every field but the evidence (guest-agent.md 9.1, 9.2).

Rules:

1. The serial is the first 20 bytes of SHA-256 of the subject's raw point, with the top bit cleared:
   one key, one serial.
2. The subject is an optional O, then always a CN, which may be empty or long.
3. Valid from 1975-01-01 unless told otherwise, until 3650 days from now unless told otherwise. An end
   of 0 is not told; a beginning of 0 is 1970. The beginning lies before the end, the end within 9999.
4. Extensions in this order: subjectAltName, keyUsage (critical), extKeyUsage, subjectKeyIdentifier and
   basicConstraints (critical) of a CA, then those of ours. No authorityKeyIdentifier.
5. An alternative name that is an IP address becomes an iPAddress, any other a dNSName, which is ASCII.
6. An extension of ours is an OCTET STRING inside the extension's own.
7. Signatures are ECDSA P-256 with SHA-256 and deterministic nonces: the same input, the same certificate.
"""

import hashlib
import ipaddress
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from teehouse.base.findings import misuse
from teehouse.keys.derive import utf8
from teehouse.keys.pem import load_certificate, raw_point, spki_der

DEFAULT_NOT_BEFORE = datetime(1975, 1, 1, tzinfo=UTC)
DEFAULT_LIFETIME = timedelta(days=3650)
LAST_SECOND = 253402300799  # 9999-12-31T23:59:59Z, in UNIX seconds
SERIAL_SIZE = 20

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CRITICAL = True
_COMMON_NAME_LIMIT = 64
_WARNINGS = threading.Lock()


@dataclass(frozen=True, slots=True)
class Issuer:
    """A CA: its P-256 key, and its certificate as DER."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    certificate_der: bytes


@dataclass(frozen=True, slots=True)
class CertificateFields:
    """What a certificate says beside its key and issuer.

    `not_before`, `not_after` in UNIX seconds; `ca_level` is a CA's path length, None a leaf;
    `extensions` are pairs of dotted OID and content, in order.
    """

    common_name: str
    organisation: str | None = None
    alt_names: tuple[str, ...] = ()
    server_auth: bool = False
    client_auth: bool = False
    not_before: int | None = None
    not_after: int | None = None
    ca_level: int | None = None
    extensions: tuple[tuple[str, bytes], ...] = ()


def serial_number(public_key: ec.EllipticCurvePublicKey) -> int:
    """The certificate serial of a key (rule 1)."""
    digest = hashlib.sha256(raw_point(public_key)).digest()[:SERIAL_SIZE]
    return int.from_bytes(digest, "big") & (1 << 8 * SERIAL_SIZE - 1) - 1


def validity(not_before: int | None, not_after: int | None, now: datetime) -> tuple[datetime, datetime]:
    """Beginning and end of a certificate (rule 3). Raises `MisuseError`."""
    for name, value in (("not_before", not_before), ("not_after", not_after)):
        if value is not None and not 0 <= value <= LAST_SECOND:
            raise misuse(
                "certificate.validity-range",
                f"{name} is out of range",
                expected=f"0 to {LAST_SECOND} seconds",
                found=str(value),
            )
    begin = DEFAULT_NOT_BEFORE if not_before is None else _EPOCH + timedelta(seconds=not_before)
    end = (
        _EPOCH + timedelta(seconds=not_after) if not_after else now.replace(microsecond=0) + DEFAULT_LIFETIME
    )
    if begin >= end:
        raise misuse("certificate.validity-order", "not_before must be earlier than not_after")
    return begin, end


def issue(
    fields: CertificateFields, public_key: ec.EllipticCurvePublicKey, issuer: Issuer, now: datetime
) -> bytes:
    """A certificate for `public_key`, signed by `issuer`, as DER.

    Raises `MisuseError` for names and dates that no certificate can have.
    """
    return _build(fields, public_key, _subject_of(issuer.certificate_der), issuer.key, now)


def self_signed(fields: CertificateFields, key: ec.EllipticCurvePrivateKey, now: datetime) -> bytes:
    """A certificate for a key by itself, as DER. Raises `MisuseError` as `issue` does."""
    return _build(fields, key.public_key(), _name(fields), key, now)


def _build(
    fields: CertificateFields,
    public_key: ec.EllipticCurvePublicKey,
    issuer_name: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    now: datetime,
) -> bytes:
    begin, end = validity(fields.not_before, fields.not_after, now)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(fields))
        .issuer_name(issuer_name)
        .public_key(public_key)
        .serial_number(serial_number(public_key))
        .not_valid_before(begin)
        .not_valid_after(end)
    )
    for extension, critical in _extensions(fields, public_key):
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer_key, SHA256(), ecdsa_deterministic=True).public_bytes(Encoding.DER)


def _extensions(
    fields: CertificateFields, public_key: ec.EllipticCurvePublicKey
) -> Iterator[tuple[x509.ExtensionType, bool]]:
    """The extensions and whether they are critical, in order (rule 4)."""
    authority = fields.ca_level is not None
    if fields.alt_names:
        yield x509.SubjectAlternativeName(_alt_name(name) for name in fields.alt_names), not _CRITICAL
    yield _key_usage(authority), _CRITICAL
    usages = []
    if fields.server_auth:
        usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
    if fields.client_auth:
        usages.append(ExtendedKeyUsageOID.CLIENT_AUTH)
    if usages:
        yield x509.ExtendedKeyUsage(usages), not _CRITICAL
    if authority:
        identifier = hashlib.sha256(spki_der(public_key)).digest()[:SERIAL_SIZE]
        yield x509.SubjectKeyIdentifier(identifier), not _CRITICAL
        yield x509.BasicConstraints(ca=True, path_length=fields.ca_level), _CRITICAL
    for oid, content in fields.extensions:
        yield x509.UnrecognizedExtension(_identifier(oid), octet_string(content)), not _CRITICAL


@lru_cache(maxsize=16)
def _identifier(oid: str) -> x509.ObjectIdentifier:
    return x509.ObjectIdentifier(oid)


def octet_string(content: bytes) -> bytes:
    """`content` as a DER OCTET STRING (rule 6)."""
    size = len(content)
    if size < 0x80:
        return bytes([4, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([4, 0x80 | len(length)]) + length + content


@cache
def _key_usage(authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _alt_name(name: str) -> x509.GeneralName:
    # An address has a colon or ends in a digit; one with a zone is no address of a certificate.
    if (":" in name or name[-1:].isdigit()) and "%" not in name:
        try:
            return x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            pass
    if not utf8(name, "alternative name").isascii():
        # The text is the one clients of the guest agent know (guest-agent.md 4.1).
        raise misuse(
            "certificate.alt-name",
            f"Failed to sign the CSR: Failed to sign certificate: Invalid IA5String: '{name}'",
        )
    return x509.DNSName(name)


def _name(fields: CertificateFields) -> x509.Name:
    """The subject (rule 2)."""
    attributes = [] if fields.organisation is None else [(NameOID.ORGANIZATION_NAME, fields.organisation)]
    attributes.append((NameOID.COMMON_NAME, fields.common_name))
    for _, value in attributes:
        utf8(value, "subject")
    if all(0 < len(value.encode()) <= _COMMON_NAME_LIMIT for _, value in attributes):
        return x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes])
    with _quietly():
        return x509.Name([x509.NameAttribute(oid, value, _validate=False) for oid, value in attributes])


@contextmanager
def _quietly() -> Iterator[None]:
    """The library warns of names out of RFC 5280's bounds even where they are wanted."""
    with _WARNINGS, warnings.catch_warnings():  # the lock, because filters belong to the whole process
        warnings.simplefilter("ignore", UserWarning)
        yield


@lru_cache(maxsize=16)
def _subject_of(certificate_der: bytes) -> x509.Name:
    with _quietly():
        return load_certificate(certificate_der, "the CA certificate").subject
