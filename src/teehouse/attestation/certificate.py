"""What a certificate says about the machine that holds its key (trust.md 10, guest-agent.md 9.2).

This reads extensions; it judges neither the certificate's signature nor the evidence in it.

Rules:

1. A certificate is one DER structure of at most 512 KiB, without anything after it.
2. An extension of ours is an OCTET STRING that fills its extension exactly; no extension stands twice.
3. An event log may be compressed ("ELGZv1", then gzip): it has at most 16 KiB when unpacked, and nothing
   after its end.
4. The public key is taken as it stands in the certificate, byte for byte: this is what evidence binds.
"""

import zlib
from dataclasses import dataclass
from typing import Final

from cryptography import x509

from teehouse.base import oids
from teehouse.base.findings import EvidenceError, malformed
from teehouse.base.hashes import sha512

CERTIFICATE_LIMIT: Final = 512 * 1024  # bytes
UNPACKED_LOG_LIMIT: Final = 16 * 1024  # bytes
COMPRESSED_LOG_MARK: Final = b"ELGZv1"
APP_ID_SIZE: Final = 20

_OCTET_STRING = 0x04
_VERSION = 0xA0
_LONG_FORM = 0x80
_BEFORE_KEY = 5  # serial, signature, issuer, validity, subject
_GZIP = 31  # zlib's number for the gzip format with the largest window


@dataclass(frozen=True, slots=True)
class AttestationExtensions:
    """The extensions of ours in one certificate, None where it has none; and its public key.

    `spki` is SubjectPublicKeyInfo DER; `attestation` a versioned attestation; `quote` and `event_log`
    the older pair (the log unpacked); `app_id` 20 bytes; `app_info` msgpack.
    """

    spki: bytes
    attestation: bytes | None = None
    quote: bytes | None = None
    event_log: bytes | None = None
    app_id: bytes | None = None
    usage: str | None = None
    app_info: bytes | None = None


def certificate_report_data(spki: bytes) -> bytes:
    """The 64 bytes of report data that bind a quote to a certificate's public key (trust.md 8.7, 10)."""
    return sha512(b"ratls-cert:" + spki)


def attestation_extensions(der: bytes) -> AttestationExtensions:
    """Read a certificate's extensions. Raises `EvidenceError` when it breaks rules 1-3."""
    if len(der) > CERTIFICATE_LIMIT:
        raise malformed(
            "certificate.too-long",
            "the certificate is too long",
            expected=f"at most {CERTIFICATE_LIMIT} bytes",
            found=str(len(der)),
        )
    try:
        certificate = x509.load_der_x509_certificate(der)
        found = {
            extension.oid.dotted_string: extension.value.value
            for extension in certificate.extensions
            if isinstance(extension.value, x509.UnrecognizedExtension)
        }
        tbs = certificate.tbs_certificate_bytes
    except Exception as error:  # noqa: BLE001 - the parser has many kinds of error, some of them private
        raise malformed(
            "certificate.malformed", "the certificate cannot be read", found=type(error).__name__
        ) from None

    def content(oid: str) -> bytes | None:
        return _octets(found[oid], oid) if oid in found else None

    log = content(oids.EVENT_LOG)
    usage = content(oids.USAGE)
    app_id = content(oids.APP_ID)
    if app_id is not None and len(app_id) != APP_ID_SIZE:
        raise malformed(
            "certificate.app-id",
            "the certificate's app id has the wrong size",
            expected=f"{APP_ID_SIZE} bytes",
            found=str(len(app_id)),
        )
    return AttestationExtensions(
        spki=_public_key(tbs),
        attestation=content(oids.ATTESTATION),
        quote=content(oids.QUOTE),
        event_log=None if log is None else unpack_event_log(log),
        app_id=app_id,
        usage=None if usage is None else _text(usage),
        app_info=content(oids.APP_INFO),
    )


def unpack_event_log(content: bytes) -> bytes:
    """An event log's JSON text, unpacked where it is compressed. Raises `EvidenceError` (rule 3)."""
    if not content.startswith(COMPRESSED_LOG_MARK):
        return content
    unpacker = zlib.decompressobj(_GZIP)
    try:
        log = unpacker.decompress(content[len(COMPRESSED_LOG_MARK) :], UNPACKED_LOG_LIMIT + 1)
    except zlib.error:
        raise malformed("certificate.event-log", "the certificate's event log cannot be unpacked") from None
    if len(log) > UNPACKED_LOG_LIMIT:
        raise malformed(
            "certificate.event-log-too-long",
            "the certificate's event log is too long",
            expected=f"at most {UNPACKED_LOG_LIMIT} bytes",
        )
    if not unpacker.eof or unpacker.unused_data:
        raise malformed("certificate.event-log", "the certificate's event log does not end where it should")
    return log


def _text(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise malformed("certificate.usage", "the certificate's usage is not UTF-8") from None


def _octets(value: bytes, oid: str) -> bytes:
    """The content of an OCTET STRING that is the whole of `value` (rule 2)."""
    start, end = _element(value, 0)
    if value[0] != _OCTET_STRING or end != len(value):
        raise malformed(
            "certificate.extension", f"extension {oid} is not one OCTET STRING", expected="an OCTET STRING"
        )
    return value[start:end]


def _element(data: bytes, at: int) -> tuple[int, int]:
    """Where the content of the DER element at `at` starts and ends. Raises `EvidenceError`."""
    if at + 2 > len(data):
        raise _broken()
    length = data[at + 1]
    start = at + 2
    if length >= _LONG_FORM:
        size = length - _LONG_FORM
        length = int.from_bytes(data[start : start + size], "big")
        start += size
        # The shortest form only: two encodings would be two certificates for one evidence.
        if not 1 <= size <= 4 or length < _LONG_FORM or length >> 8 * (size - 1) == 0:
            raise _broken()
    if start + length > len(data):
        raise _broken()
    return start, start + length


def _broken() -> EvidenceError:
    return malformed("certificate.der", "a DER element of the certificate is broken")


def _public_key(tbs: bytes) -> bytes:
    """The SubjectPublicKeyInfo inside a TBSCertificate (rule 4; RFC 5280 4.1)."""
    at, _ = _element(tbs, 0)
    if tbs[at] == _VERSION:
        _, at = _element(tbs, at)
    for _ in range(_BEFORE_KEY):
        _, at = _element(tbs, at)
    _, end = _element(tbs, at)
    return tbs[at:end]
