"""The signing request an agent sends to the holder of its CA key (guest-agent.md 9.6).

Rules:

1. Version 2 is SCALE: the confirmation text, the public key, the wanted certificate, and then a versioned
   attestation up to the end. Version 1 has two byte strings, quote and event log, in its place, and no
   app info or validity.
2. The confirmation text is "please sign cert:"; anything else is no signing request.
3. The request is signed by the key it is for (ECDSA P-256, SHA-256, DER), so nobody has another's key
   certified.
4. Every part has a bound; an encoding has nothing after its end.
"""

from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from teehouse.base import scale
from teehouse.base.findings import malformed, misuse, rejected, unsupported
from teehouse.base.scale import ScaleReader
from teehouse.keys.derive import utf8

CONFIRMATION: Final = "please sign cert:"
REQUEST_LIMIT: Final = (
    10 * 1024 * 1024 + 128 * 1024
)  # bytes: the largest attestation, and what stands before it
PUBLIC_KEY_LIMIT: Final = 1024  # bytes
TEXT_LIMIT: Final = 4096  # bytes of the organisation, the subject and each alternative name
ALT_NAMES_LIMIT: Final = 256
QUOTE_LIMIT: Final = 64 * 1024  # bytes, in version 1
EVENT_LOG_LIMIT: Final = 1024 * 1024  # bytes, in version 1

_NAME = "signing-request"
_U64_SIZE = 8


@dataclass(frozen=True, slots=True)
class SigningRequest:
    """A signing request. `public_key` is SPKI DER; validity in UNIX seconds.

    `attestation` is a versioned attestation (version 2); `quote` and `event_log` are those of version 1.
    """

    public_key: bytes
    subject: str
    alt_names: tuple[str, ...] = ()
    server_auth: bool = False
    client_auth: bool = False
    ext_quote: bool = False
    ext_app_info: bool = False
    org_name: str | None = None
    not_before: int | None = None
    not_after: int | None = None
    attestation: bytes = b""
    quote: bytes = b""
    event_log: bytes = b""
    version: int = 2


def _common(request: SigningRequest) -> bytes:
    return b"".join(
        (
            scale.text(CONFIRMATION),
            scale.byte_string(request.public_key),
            scale.option(None if request.org_name is None else _text(request.org_name, "organisation")),
            _text(request.subject, "subject"),
            scale.vector(_text(name, "alternative name") for name in request.alt_names),
            scale.boolean(request.server_auth),
            scale.boolean(request.client_auth),
            scale.boolean(request.ext_quote),
        )
    )


def _text(value: str, what: str) -> bytes:
    return scale.byte_string(utf8(value, what))


def _u64(value: int | None) -> bytes:
    if value is not None and not 0 <= value < 1 << 8 * _U64_SIZE:
        raise misuse("signing-request.validity", "an instant is out of range", expected="0 to 2^64 - 1")
    return scale.option(None if value is None else value.to_bytes(_U64_SIZE, "little"))


def encode_request(request: SigningRequest) -> bytes:
    """The bytes that are signed and sent, in the request's version (rule 1).

    Raises `MisuseError` for text that is not Unicode and for instants no u64 holds.
    """
    if request.version == 1:
        return _common(request) + scale.byte_string(request.quote) + scale.byte_string(request.event_log)
    return b"".join(
        (
            _common(request),
            scale.boolean(request.ext_app_info),
            _u64(request.not_before),
            _u64(request.not_after),
            request.attestation,
        )
    )


def decode_request(data: bytes, version: int = 2) -> SigningRequest:
    """Read a signing request. Raises `EvidenceError` (rules 1, 2, 4)."""
    if version not in (1, 2):
        raise unsupported(
            "signing-request.version", "this version of signing request is not known", found=str(version)
        )
    reader = ScaleReader(data, _NAME, limit=REQUEST_LIMIT)
    if reader.text("the confirmation", limit=len(CONFIRMATION)) != CONFIRMATION:
        raise malformed(
            "signing-request.confirmation", "this is no signing request", expected=f"{CONFIRMATION!r}"
        )
    public_key = reader.byte_string("the public key", limit=PUBLIC_KEY_LIMIT)
    org_name = reader.option(lambda: reader.text("the organisation", limit=TEXT_LIMIT))
    subject = reader.text("the subject", limit=TEXT_LIMIT)
    alt_names = reader.vector(
        lambda: reader.text("an alternative name", limit=TEXT_LIMIT),
        "the alternative names",
        limit=ALT_NAMES_LIMIT,
    )
    server_auth, client_auth, ext_quote = (reader.boolean() for _ in range(3))
    if version == 1:
        quote = reader.byte_string("the quote", limit=QUOTE_LIMIT)
        event_log = reader.byte_string("the event log", limit=EVENT_LOG_LIMIT)
        reader.finish()
        return SigningRequest(
            public_key,
            subject,
            tuple(alt_names),
            server_auth,
            client_auth,
            ext_quote,
            org_name=org_name,
            quote=quote,
            event_log=event_log,
            version=1,
        )
    return SigningRequest(
        public_key,
        subject,
        tuple(alt_names),
        server_auth,
        client_auth,
        ext_quote,
        reader.boolean(),
        org_name,
        reader.option(reader.u64),
        reader.option(reader.u64),
        reader.rest(),
    )


def sign_request(encoded: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """The requester's signature over an encoded request, DER (rule 3)."""
    return key.sign(encoded, ec.ECDSA(SHA256(), deterministic_signing=True))


def request_key(request: SigningRequest) -> ec.EllipticCurvePublicKey:
    """The P-256 key of a request. Raises `EvidenceError`."""
    try:
        key = load_der_public_key(request.public_key)
    except Exception:  # noqa: BLE001 - unknown algorithms, curves and points each raise their own kind
        raise malformed("signing-request.public-key", "the request's public key cannot be read") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise unsupported(
            "signing-request.public-key-kind", "the request's key is not on P-256", expected="P-256"
        )
    return key


def verify_request(encoded: bytes, signature: bytes, version: int = 2) -> SigningRequest:
    """Decode a request and check that the key it is for has signed it. Raises `EvidenceError` (rules 1-4)."""
    request = decode_request(encoded, version)
    try:
        request_key(request).verify(signature, encoded, ec.ECDSA(SHA256()))
    except InvalidSignature:
        raise rejected(
            "signing-request.signature",
            "the request is not signed by the key it is for",
            remedy="sign the encoded request with the key whose certificate is asked for",
        ) from None
    return request
