"""PCK certificates; the numbers in test names are the rules of `pck`."""

import base64
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from support import attestation_support as support
from teehouse.attestation import pck
from teehouse.attestation.abi import parse_quote
from teehouse.attestation.pck import PckExtension, decode_pck_extension, parse_pck_extension, split_pem_chain
from teehouse.base.findings import EvidenceError, Outcome

EXTENSION = PckExtension(
    ppid=support.counting(16, 1),
    cpu_svn=support.counting(16, 2),
    tcb_components=(0, 1, 127, 128, 255, *range(5, 16)),
    pce_svn=13,
    pce_id=b"\x00\x01",
    fmspc=bytes.fromhex("00806f050000"),
    sgx_type=1,
    platform_instance_id=support.counting(16, 3),
    dynamic_platform=False,
    cached_keys=True,
    smt_enabled=False,
)
BARE = replace(
    EXTENSION, platform_instance_id=None, dynamic_platform=None, cached_keys=None, smt_enabled=None
)

# A second hand's DER: what the reader reads, written from trust.md 2.10.
OID = bytes.fromhex("2a864886f84d010d01")


def tlv(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def member(arcs: bytes, value: bytes) -> bytes:
    return tlv(0x30, tlv(0x06, OID + arcs) + value)


def integer(value: int, tag: int = 0x02) -> bytes:
    return tlv(tag, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def tcb(extension: PckExtension) -> list[bytes]:
    components = [
        member(bytes([2, n]), integer(svn)) for n, svn in enumerate(extension.tcb_components, start=1)
    ]
    return [
        *components,
        member(b"\x02\x11", integer(extension.pce_svn)),
        member(b"\x02\x12", tlv(0x04, extension.cpu_svn)),
    ]


def members(extension: PckExtension) -> list[bytes]:
    found = [
        member(b"\x01", tlv(0x04, extension.ppid)),
        member(b"\x02", tlv(0x30, b"".join(tcb(extension)))),
        member(b"\x03", tlv(0x04, extension.pce_id)),
        member(b"\x04", tlv(0x04, extension.fmspc)),
        member(b"\x05", integer(extension.sgx_type, 0x0A)),
    ]
    if extension.platform_instance_id is not None:
        found.append(member(b"\x06", tlv(0x04, extension.platform_instance_id)))
    flags = (extension.dynamic_platform, extension.cached_keys, extension.smt_enabled)
    if any(flag is not None for flag in flags):
        configuration = b"".join(
            member(bytes([7, n]), tlv(0x01, b"\xff" if flag else b"\x00"))
            for n, flag in enumerate(flags, start=1)
            if flag is not None
        )
        found.append(member(b"\x07", tlv(0x30, configuration)))
    return found


def encode(parts: list[bytes]) -> bytes:
    return tlv(0x30, b"".join(parts))


def certificate(value: bytes | None) -> bytes:
    key = ec.derive_private_key(7, ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "A PCK Certificate")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2027, 1, 1, tzinfo=UTC))
    )
    if value is not None:
        builder = builder.add_extension(
            x509.UnrecognizedExtension(pck.SGX_EXTENSION_OID, value), critical=False
        )
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


@pytest.mark.parametrize("extension", [EXTENSION, BARE], ids=["whole", "bare"])
def test_the_extension_of_a_certificate_is_read(extension: PckExtension) -> None:
    assert parse_pck_extension(certificate(encode(members(extension)))) == extension


def test_a_certificate_without_the_extension_is_malformed() -> None:
    with pytest.raises(EvidenceError) as error:
        parse_pck_extension(certificate(None))
    assert support.refusal(error) == ("pck-extension.missing", Outcome.MALFORMED)


def test_what_is_no_certificate_is_malformed() -> None:
    with pytest.raises(EvidenceError) as error:
        parse_pck_extension(b"\x30\x00")
    assert error.value.finding.outcome is Outcome.MALFORMED


FLAG = st.none() | st.booleans()
EXTENSIONS = st.builds(
    PckExtension,
    ppid=st.binary(min_size=16, max_size=16),
    cpu_svn=st.binary(min_size=16, max_size=16),
    tcb_components=st.tuples(*[st.integers(0, 255)] * 16),
    pce_svn=st.integers(0, 65535),
    pce_id=st.binary(min_size=2, max_size=2),
    fmspc=st.binary(min_size=6, max_size=6),
    sgx_type=st.integers(0, 255),
    platform_instance_id=st.none() | st.binary(min_size=16, max_size=16),
    dynamic_platform=FLAG,
    cached_keys=FLAG,
    smt_enabled=FLAG,
)


@given(EXTENSIONS)
def test_decoding_undoes_encoding(extension: PckExtension) -> None:
    assert decode_pck_extension(encode(members(extension))) == extension


def test_rule_3_unknown_members_are_passed_over_wherever_they_stand() -> None:
    unknown = [
        member(b"\x08", b"\x05\x00"),
        tlv(0x30, tlv(0x06, b"\x2a\x03") + b"\x05\x00"),
        member(b"\x01\x01", b"\x05\x00"),
    ]
    assert decode_pck_extension(encode([unknown[0], *members(EXTENSION), *unknown[1:]])) == EXTENSION


@pytest.mark.parametrize("missing", range(5))
def test_rule_3_a_missing_member_is_malformed(missing: int) -> None:
    parts = members(BARE)
    del parts[missing]
    with pytest.raises(EvidenceError) as error:
        decode_pck_extension(encode(parts))
    assert support.refusal(error) == ("pck-extension.malformed", Outcome.MALFORMED)


@pytest.mark.parametrize("missing", [0, 15, 16, 17])
def test_rule_3_a_missing_part_of_the_tcb_is_malformed(missing: int) -> None:
    parts = tcb(EXTENSION)
    del parts[missing]
    broken = [*members(EXTENSION), member(b"\x02", tlv(0x30, b"".join(parts)))]
    del broken[1]
    with pytest.raises(EvidenceError) as error:
        decode_pck_extension(encode(broken))
    assert support.refusal(error) == ("pck-extension.malformed", Outcome.MALFORMED)


WHOLE = encode(members(EXTENSION))
BROKEN = {
    "empty": b"",
    "another-tag": b"\x31" + WHOLE[1:],
    "trailing": WHOLE + b"\0",
    "indefinite-length": b"\x30\x80" + WHOLE[4:] + b"\0\0",
    "long-form-length": encode(
        [*members(BARE)[1:], tlv(0x30, b"\x06\x81\x0a" + OID + b"\x01" + tlv(0x04, bytes(16)))]
    ),
    "padded-length": b"\x30\x83\x00" + WHOLE[2:4] + WHOLE[4:],
    "wide-length": b"\x30\x85\x00\x00\x00" + WHOLE[2:4] + WHOLE[4:],
    "multi-byte-tag": encode([*members(EXTENSION), b"\x1f\x01\x00"]),
    "member-is-no-sequence": encode([*members(EXTENSION), b"\x05\x00"]),
    "member-without-identifier": encode(
        [*members(EXTENSION), tlv(0x30, tlv(0x04, OID + b"\x09") + b"\x05\x00")]
    ),
    "member-without-value": encode([*members(EXTENSION), tlv(0x30, tlv(0x06, OID + b"\x09"))]),
    "member-with-two-values": encode([*members(EXTENSION), member(b"\x09", b"\x05\x00\x05\x00")]),
    "twice": encode([*members(EXTENSION), members(EXTENSION)[0]]),
    "ppid-of-15": encode([member(b"\x01", tlv(0x04, bytes(15))), *members(EXTENSION)[1:]]),
    "ppid-of-another-tag": encode([member(b"\x01", tlv(0x0C, bytes(16))), *members(EXTENSION)[1:]]),
    "svn-256": encode(members(replace(EXTENSION, tcb_components=(256, *range(15))))),
    "pce-svn-65536": encode(members(replace(EXTENSION, pce_svn=65536))),
    "sgx-type-as-integer": encode([*members(BARE)[:4], member(b"\x05", integer(1))]),
    "negative": encode([*members(BARE)[:4], member(b"\x05", tlv(0x0A, b"\xff"))]),
    "padded-integer": encode([*members(BARE)[:4], member(b"\x05", tlv(0x0A, b"\x00\x01"))]),
    "empty-integer": encode([*members(BARE)[:4], member(b"\x05", tlv(0x0A, b""))]),
    "boolean-1": encode(
        [*members(BARE), member(b"\x07", tlv(0x30, member(b"\x07\x01", tlv(0x01, b"\x01"))))]
    ),
    "empty-boolean": encode(
        [*members(BARE), member(b"\x07", tlv(0x30, member(b"\x07\x02", tlv(0x01, b""))))]
    ),
    "configuration-is-no-sequence": encode([*members(BARE), member(b"\x07", tlv(0x01, b"\xff"))]),
    "instance-id-of-17": encode([*members(BARE), member(b"\x06", tlv(0x04, bytes(17)))]),
}


@pytest.mark.parametrize("value", BROKEN.values(), ids=BROKEN.keys())
def test_rules_2_to_4_broken_extensions_are_malformed(value: bytes) -> None:
    with pytest.raises(EvidenceError) as error:
        decode_pck_extension(value)
    assert error.value.finding.outcome is Outcome.MALFORMED
    assert error.value.finding.code.startswith("pck-extension.")


def test_an_extension_of_the_limit_is_read_and_one_byte_more_is_not() -> None:
    room = pck.EXTENSION_LIMIT - len(encode([*members(EXTENSION), member(b"\x09", tlv(0x04, bytes(1000)))]))
    longest = encode([*members(EXTENSION), member(b"\x09", tlv(0x04, bytes(1000 + room)))])
    assert len(longest) == pck.EXTENSION_LIMIT
    assert decode_pck_extension(longest) == EXTENSION
    with pytest.raises(EvidenceError) as error:
        decode_pck_extension(encode([*members(EXTENSION), member(b"\x09", tlv(0x04, bytes(1001 + room)))]))
    assert support.refusal(error) == ("pck-extension.too-long", Outcome.MALFORMED)


@given(st.binary(max_size=200), st.integers(0, 60))
def test_arbitrary_bytes_raise_only_evidence_errors(data: bytes, kept: int) -> None:
    for value in (data, WHOLE[:kept] + data, WHOLE[:kept] + data + WHOLE[kept + len(data) :]):
        with suppress(EvidenceError):
            decode_pck_extension(value)


# --- PEM


def pem(der: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"


@given(st.lists(st.binary(max_size=120), min_size=1, max_size=pck.PEM_CERTIFICATES))
def test_rule_1_splitting_undoes_joining(chain: list[bytes]) -> None:
    joined = b"".join(map(pem, chain))
    assert split_pem_chain(joined) == chain
    assert split_pem_chain(joined.replace(b"\n", b"\r\n") + b"\0") == chain
    assert split_pem_chain(b" \n" + joined.replace(b"-----END", b"\n\n-----END") + b"\n\0\0") == chain


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "pem.certificates"),
        (b"\0", "pem.certificates"),
        (pem(b"a") * (pck.PEM_CERTIFICATES + 1), "pem.certificates"),
        (b"x" + pem(b"a"), "pem.malformed"),
        (pem(b"a") + b"x" + pem(b"b"), "pem.malformed"),
        (pem(b"a") + b"x", "pem.malformed"),
        (pem(b"a") + b"\0" + pem(b"b"), "pem.malformed"),
        (pem(b"a")[:-2], "pem.malformed"),
        (pem(b"a").replace(b"CERTIFICATE", b"PUBLIC KEY"), "pem.malformed"),
        (b"-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----\n", "pem.malformed"),
        (b"-----BEGIN CERTIFICATE-----\nA=AA\n-----END CERTIFICATE-----\n", "pem.malformed"),
        (b"-----BEGIN CERTIFICATE-----\nA-A=\n-----END CERTIFICATE-----\n", "pem.malformed"),
    ],
)
def test_rule_1_what_is_no_chain_is_malformed(data: bytes, code: str) -> None:
    with pytest.raises(EvidenceError) as error:
        split_pem_chain(data)
    assert support.refusal(error) == (code, Outcome.MALFORMED)


def test_rule_1_a_chain_of_the_limit_is_read_and_one_byte_more_is_not() -> None:
    longest = pem(b"a").ljust(pck.PEM_LIMIT, b"\0")
    assert split_pem_chain(longest) == [b"a"]
    with pytest.raises(EvidenceError) as error:
        split_pem_chain(longest + b"\0")
    assert support.refusal(error) == ("pem.too-long", Outcome.MALFORMED)


@given(
    st.lists(st.sampled_from([pem(b"a"), b"-----BEGIN CERTIFICATE-----", b"\n", b"-", b"=", b"\0", b"QQ=="]))
)
def test_arbitrary_pem_raises_only_evidence_errors(parts: list[bytes]) -> None:
    with suppress(EvidenceError):
        split_pem_chain(b"".join(parts))


@pytest.mark.parametrize(
    ("name", "ppid", "fmspc"),
    [  # trust.md 7
        ("tdx_quote", "811dca2a26b952e85bb6448b097ba4fd", "b0c06f000000"),
        ("sgx_quote", None, "00a067110000"),
    ],
)
def test_published_pck_certificates_are_read(name: str, ppid: str | None, fmspc: str) -> None:
    chain = split_pem_chain(parse_quote(support.sample(name)).certification_data)
    extension = parse_pck_extension(chain[0])
    assert len(chain) == 3
    assert extension.fmspc.hex() == fmspc
    assert ppid in (None, extension.ppid.hex())
    assert extension.tcb_components == tuple(extension.cpu_svn)
