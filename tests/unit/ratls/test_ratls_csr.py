"""Signing requests (teehouse.ratls.csr), by the rule numbers of its docstring."""

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from support.keys_support import SEED, SIM
from teehouse.attestation.envelope import Attestation, encode_v0
from teehouse.base import scale
from teehouse.base.findings import EvidenceError, MisuseError
from teehouse.keys.derive import p256_from_scalar
from teehouse.keys.pem import spki_der
from teehouse.ratls.csr import (
    ALT_NAMES_LIMIT,
    EVENT_LOG_LIMIT,
    PUBLIC_KEY_LIMIT,
    QUOTE_LIMIT,
    REQUEST_LIMIT,
    TEXT_LIMIT,
    SigningRequest,
    decode_request,
    encode_request,
    request_key,
    sign_request,
    verify_request,
)

KEY = p256_from_scalar(SIM)
CONFIRMED = "44706c65617365207369676e20636572743a"

# guest-agent.md 19.6, published
PUBLISHED = [
    (
        False,
        b"",
        (
            "44706c65617365207369676e20636572743a0c0102030040746573742e6578616d706c652e636f6d00010000000000000000"
            "0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
            "0000000000000000000000000000000000"
        ),
    ),
    (
        True,
        b"\x09",
        (
            "44706c65617365207369676e20636572743a0c0102030040746573742e6578616d706c652e636f6d00010001000000000004"
            "0900000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
            "000000000000000000000000000000000000"
        ),
    ),
]


def attested(quote: bytes) -> bytes:
    return encode_v0(Attestation(quote, (), (), bytes(64), ""))


def wanted(**members: object) -> SigningRequest:
    base = {"public_key": spki_der(KEY.public_key()), "subject": "app", "attestation": b"\x00evidence"}
    return SigningRequest(**(base | members))  # type: ignore[arg-type]  # members are test data


def code(refusal: pytest.ExceptionInfo[EvidenceError]) -> str:
    return refusal.value.finding.code


@pytest.mark.parametrize(("ext_quote", "quote", "encoded"), PUBLISHED)
def test_rule_1_published_requests(ext_quote: bool, quote: bytes, encoded: str) -> None:
    request = SigningRequest(
        public_key=b"\x01\x02\x03",
        subject="test.example.com",
        server_auth=True,
        ext_quote=ext_quote,
        attestation=attested(quote),
    )
    assert encode_request(request).hex() == encoded
    assert decode_request(bytes.fromhex(encoded)) == request


def test_rule_1_every_field_in_its_place() -> None:
    request = SigningRequest(
        public_key=b"k",
        subject="s",
        alt_names=("a", "bc"),
        client_auth=True,
        ext_app_info=True,
        org_name="o",
        not_before=1,
        not_after=(1 << 64) - 1,
        attestation=b"\xaa",
    )
    assert encode_request(request).hex() == (
        f"{CONFIRMED}046b01046f0473080461086263000100010101000000000000000" + "1ffffffffffffffffaa"
    )


def test_rule_1_version_1_carries_quote_and_log() -> None:
    request = SigningRequest(b"k", "s", server_auth=True, quote=b"\x01", event_log=b"[]", version=1)
    encoded = encode_request(request)
    assert encoded.hex() == f"{CONFIRMED}046b0004730001000004010" + "85b5d"
    assert decode_request(encoded, 1) == request


_texts = st.text(max_size=20)
_seconds = st.none() | st.integers(0, (1 << 64) - 1)


@given(
    st.builds(
        SigningRequest,
        public_key=st.binary(max_size=100),
        subject=_texts,
        alt_names=st.lists(_texts, max_size=4).map(tuple),
        server_auth=st.booleans(),
        client_auth=st.booleans(),
        ext_quote=st.booleans(),
        ext_app_info=st.booleans(),
        org_name=st.none() | _texts,
        not_before=_seconds,
        not_after=_seconds,
        attestation=st.binary(max_size=100),
    )
)
def test_rule_1_version_2_reads_as_it_was_written(request: SigningRequest) -> None:
    assert decode_request(encode_request(request)) == request


@given(
    st.builds(
        SigningRequest,
        public_key=st.binary(max_size=100),
        subject=_texts,
        org_name=st.none() | _texts,
        quote=st.binary(max_size=100),
        event_log=st.binary(max_size=100),
        version=st.just(1),
    )
)
def test_rule_1_version_1_reads_as_it_was_written(request: SigningRequest) -> None:
    assert decode_request(encode_request(request), 1) == request


@given(st.binary(max_size=120), st.booleans(), st.integers(0, 3))
def test_rule_4_other_bytes_are_bad_evidence(data: bytes, confirmed: bool, version: int) -> None:
    try:
        request = decode_request(bytes.fromhex(CONFIRMED) + data if confirmed else data, version)
    except EvidenceError:
        return
    assert encode_request(request) == bytes.fromhex(CONFIRMED) + data


def test_rule_1_unknown_versions() -> None:
    for version in (0, 3):
        with pytest.raises(EvidenceError) as refusal:
            decode_request(encode_request(wanted()), version)
        assert code(refusal) == "signing-request.version"


@pytest.mark.parametrize("text", ["", "please sign cert!", "Please sign cert:"])
def test_rule_2_another_confirmation(text: str) -> None:
    with pytest.raises(EvidenceError) as refusal:
        decode_request(scale.text(text) + bytes(100))
    assert code(refusal) == "signing-request.confirmation"


def test_rule_3_the_key_signs_its_request() -> None:
    request = wanted()
    encoded = encode_request(request)
    signature = sign_request(encoded, KEY)
    assert signature == sign_request(encoded, KEY)
    assert verify_request(encoded, signature) == request
    old = encode_request(replace(request, version=1, attestation=b""))
    assert verify_request(old, sign_request(old, KEY), 1) == replace(request, version=1, attestation=b"")


def test_rule_3_other_signatures() -> None:
    encoded = encode_request(wanted())
    other = encode_request(wanted(subject="other"))
    foreign = sign_request(encoded, p256_from_scalar(SEED))
    for signature in (b"", b"\x30\x00", sign_request(other, KEY), foreign):
        with pytest.raises(EvidenceError) as refusal:
            verify_request(encoded, signature)
        assert code(refusal) == "signing-request.signature"


def test_rule_3_keys_that_are_none() -> None:
    def spki(key: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey) -> bytes:
        return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    point_off_the_curve = spki_der(KEY.public_key())[:-4] + bytes(4)
    for key, expected in (
        (b"", "signing-request.public-key"),
        (point_off_the_curve, "signing-request.public-key"),
        (
            spki(ec.derive_private_key(5, ec.SECP384R1()).public_key()),
            "signing-request.public-key-kind",
        ),
        (
            spki(ed25519.Ed25519PrivateKey.from_private_bytes(SEED).public_key()),
            "signing-request.public-key-kind",
        ),
    ):
        with pytest.raises(EvidenceError) as refusal:
            request_key(wanted(public_key=key))
        assert code(refusal) == expected


@pytest.mark.parametrize(
    ("member", "largest", "beyond"),
    [
        ("public_key", b"k" * PUBLIC_KEY_LIMIT, b"k" * (PUBLIC_KEY_LIMIT + 1)),
        ("subject", "s" * TEXT_LIMIT, "s" * (TEXT_LIMIT + 1)),
        ("org_name", "s" * TEXT_LIMIT, "s" * (TEXT_LIMIT + 1)),
        ("alt_names", ("s" * TEXT_LIMIT,), ("s" * (TEXT_LIMIT + 1),)),
        ("alt_names", ("s",) * ALT_NAMES_LIMIT, ("s",) * (ALT_NAMES_LIMIT + 1)),
        ("attestation", b"a" * (REQUEST_LIMIT - 200), b"a" * REQUEST_LIMIT),
    ],
)
def test_rule_4_bounds_of_version_2(member: str, largest: object, beyond: object) -> None:
    assert getattr(decode_request(encode_request(wanted(**{member: largest}))), member) == largest
    with pytest.raises(EvidenceError) as refusal:
        decode_request(encode_request(wanted(**{member: beyond})))
    assert code(refusal) == "signing-request.too-long"


@pytest.mark.parametrize(("member", "limit"), [("quote", QUOTE_LIMIT), ("event_log", EVENT_LOG_LIMIT)])
def test_rule_4_bounds_of_version_1(member: str, limit: int) -> None:
    old = replace(wanted(), version=1, attestation=b"")
    largest = replace(old, **{member: bytes(limit)})  # type: ignore[arg-type]  # both members are bytes
    assert decode_request(encode_request(largest), 1) == largest
    for data, expected in (
        (encode_request(replace(old, **{member: bytes(limit + 1)})), "too-long"),  # type: ignore[arg-type]  # the same
        (encode_request(old) + b"\0", "trailing"),
    ):
        with pytest.raises(EvidenceError) as refusal:
            decode_request(data, 1)
        assert code(refusal) == f"signing-request.{expected}"


def test_what_cannot_be_encoded_is_misuse() -> None:
    for members in (
        {"subject": "\ud800"},
        {"alt_names": ("\ud800",)},
        {"org_name": "\ud800"},
        {"not_before": -1},
        {"not_after": 1 << 64},
    ):
        with pytest.raises(MisuseError):
            encode_request(wanted(**members))
