"""Quotes as bytes; the numbers in test names are the rules of `abi`."""

from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import attestation_support as support
from teehouse.attestation import abi
from teehouse.attestation.abi import (
    EnclaveReport,
    Quote,
    TdReport,
    encode_quote,
    parse_enclave_report,
    parse_header,
    parse_quote,
    parse_td_report,
)
from teehouse.base.findings import EvidenceError, MisuseError, Outcome

TD_15 = support.td_report(tee_tcb_svn2=bytes(16), mr_service_td=bytes(48))
SHAPES = [
    support.quote(3, support.enclave_report()),
    support.quote(4),
    support.quote(4, support.enclave_report()),
    support.quote(5, support.enclave_report(), body_type=1),
    support.quote(5, body_type=2),
    support.quote(5, TD_15, body_type=3),
]
SHAPE_NAMES = ["v3-sgx", "v4-tdx", "v4-sgx", "v5-sgx", "v5-td10", "v5-td15"]
# Where the auth data length lies in each, and where the body begins.
LAYOUT = {"v3-sgx": 432, "v4-tdx": 632, "v4-sgx": 432, "v5-sgx": 438, "v5-td10": 638, "v5-td15": 702}


def patched(raw: bytes, offset: int, patch: bytes) -> bytes:
    return raw[:offset] + patch + raw[offset + len(patch) :]


@pytest.mark.parametrize("quote", SHAPES, ids=SHAPE_NAMES)
def test_every_shape_is_read_as_it_was_written(quote: Quote) -> None:
    assert parse_quote(encode_quote(quote)) == quote


@pytest.mark.parametrize(("name", "quote"), list(zip(SHAPE_NAMES, SHAPES, strict=True)))
def test_the_auth_data_length_lies_where_the_layout_says(name: str, quote: Quote) -> None:
    raw = encode_quote(quote)
    assert raw[: LAYOUT[name]] == quote.signed
    assert int.from_bytes(raw[LAYOUT[name] :][:4], "little") == len(raw) - LAYOUT[name] - 4


def test_offsets_of_a_v4_quote_are_those_of_trust_2_2_and_2_3() -> None:
    quote = support.quote(4)
    raw = encode_quote(quote)
    body = quote.body
    assert isinstance(body, TdReport)
    found = {
        name: raw[offset : offset + size]
        for name, offset, size in (
            ("tee_tcb_svn", abi.TEE_TCB_SVN_OFFSET, 16),
            ("mr_seam", abi.MR_SEAM_OFFSET, 48),
            ("mr_signer_seam", abi.MR_SIGNER_SEAM_OFFSET, 48),
            ("seam_attributes", abi.SEAM_ATTRIBUTES_OFFSET, 8),
            ("td_attributes", abi.TD_ATTRIBUTES_OFFSET, 8),
            ("xfam", abi.XFAM_OFFSET, 8),
            ("mr_td", abi.MR_TD_OFFSET, 48),
            ("mr_config_id", abi.MR_CONFIG_ID_OFFSET, 48),
            ("mr_owner", abi.MR_OWNER_OFFSET, 48),
            ("mr_owner_config", abi.MR_OWNER_CONFIG_OFFSET, 48),
            ("rt_mr0", abi.RT_MR0_OFFSET, 48),
            ("rt_mr1", abi.RT_MR1_OFFSET, 48),
            ("rt_mr2", abi.RT_MR2_OFFSET, 48),
            ("rt_mr3", abi.RT_MR3_OFFSET, 48),
            ("report_data", abi.REPORT_DATA_OFFSET, 64),
        )
    }
    assert found == {name: getattr(body, name) for name in found}
    assert raw[abi.SIGNATURE_OFFSET :][:64] == quote.signature
    assert raw[abi.ATTESTATION_KEY_OFFSET :][:64] == quote.attestation_key
    assert raw[764:770] == b"\x06\x00" + (len(raw) - 770).to_bytes(4, "little")
    assert raw[abi.QE_REPORT_OFFSET :][:384] == quote.qe_report_raw
    assert raw[abi.QE_REPORT_SIGNATURE_OFFSET :][:64] == quote.qe_report_signature
    assert raw[abi.QE_AUTH_DATA_SIZE_OFFSET :][:2] == b"\x20\x00"
    assert raw[1220:1252] == quote.qe_auth_data
    assert raw[1252:1258] == b"\x05\x00" + len(quote.certification_data).to_bytes(4, "little")
    assert raw[1258:] == quote.certification_data
    assert abi.AUTH_DATA_SIZE_OFFSET == 632
    assert body.rtmrs == (body.rt_mr0, body.rt_mr1, body.rt_mr2, body.rt_mr3)


def test_offsets_of_an_enclave_report_are_those_of_trust_2_6() -> None:
    report = support.enclave_report()
    raw = report.encode()
    assert len(raw) == abi.ENCLAVE_REPORT_SIZE
    assert raw[0:16] == report.cpu_svn
    assert raw[16:20] == b"\x04\x03\x02\x01"
    assert raw[48:64] == report.attributes
    assert raw[64:96] == report.mr_enclave
    assert raw[128:160] == report.mr_signer
    assert raw[256:260] == b"\x02\x00\x07\x06"
    assert raw[320:384] == report.report_data
    assert (raw[20:48], raw[96:128], raw[160:256], raw[260:320]) == report.reserved


def test_the_header_can_be_read_alone() -> None:
    header = support.quote().header
    assert parse_header(header.encode() + b"more") == header
    with pytest.raises(EvidenceError) as error:
        parse_header(bytes(47))
    assert support.refusal(error) == ("quote.truncated", Outcome.MALFORMED)


@pytest.mark.parametrize(("name", "quote"), list(zip(SHAPE_NAMES, SHAPES, strict=True)))
def test_rule_1_every_shorter_quote_is_truncated(name: str, quote: Quote) -> None:
    raw = encode_quote(quote)
    for size in range(0, len(raw), 7):
        with pytest.raises(EvidenceError) as error:
            parse_quote(raw[:size])
        assert support.refusal(error) == ("quote.truncated", Outcome.MALFORMED)


def test_rule_1_a_quote_of_the_limit_is_read_and_one_byte_more_is_not() -> None:
    quote = support.quote()
    room = abi.QUOTE_LIMIT - len(encode_quote(quote))
    longest = replace(quote, trailing=bytes(room))
    assert parse_quote(encode_quote(longest)) == longest
    with pytest.raises(EvidenceError) as error:
        parse_quote(encode_quote(longest) + b"\0")
    assert support.refusal(error) == ("quote.too-long", Outcome.MALFORMED)


def test_rule_1_qe_auth_data_of_the_limit_is_read_and_one_byte_more_is_not() -> None:
    longest = replace(support.quote(), qe_auth_data=bytes(abi.QE_AUTH_DATA_LIMIT))
    assert parse_quote(encode_quote(longest)) == longest
    with pytest.raises(EvidenceError) as error:
        parse_quote(encode_quote(replace(longest, qe_auth_data=bytes(abi.QE_AUTH_DATA_LIMIT + 1))))
    assert support.refusal(error) == ("quote.too-long", Outcome.MALFORMED)


@pytest.mark.parametrize("quote", [SHAPES[0], SHAPES[1]], ids=["v3-sgx", "v4-tdx"])
def test_rule_1_lengths_that_leave_bytes_over_inside_are_refused(quote: Quote) -> None:
    raw = encode_quote(quote)
    size = len(quote.certification_data)
    shorter = patched(raw, len(raw) - size - 4, (size - 1).to_bytes(4, "little"))
    with pytest.raises(EvidenceError) as error:
        parse_quote(shorter)
    assert support.refusal(error) == ("quote.trailing", Outcome.MALFORMED)


def test_rule_1_bytes_after_the_outer_certification_data_are_refused() -> None:
    raw = encode_quote(support.quote())
    size = int.from_bytes(raw[632:636], "little")
    with pytest.raises(EvidenceError) as error:
        parse_quote(patched(raw, 632, (size + 1).to_bytes(4, "little")) + b"\0")
    assert support.refusal(error) == ("quote.trailing", Outcome.MALFORMED)


@pytest.mark.parametrize(
    ("offset", "patch", "code", "found"),
    [
        (0, b"\x02\x00", "quote.version", "2"),
        (0, b"\x06\x00", "quote.version", "6"),
        (2, b"\x03\x00", "quote.attestation-key-type", "3"),
        (4, b"\x82\x00\x00\x00", "quote.tee-type", "0x82"),
        (764, b"\x05\x00", "quote.certification-type", "5"),
        (1252, b"\x01\x00", "quote.certification-type", "1"),
        (1252, b"\x04\x00", "quote.certification-type", "4"),
    ],
)
def test_rules_2_and_4_other_kinds_are_unsupported_by_number(
    offset: int, patch: bytes, code: str, found: str
) -> None:
    with pytest.raises(EvidenceError) as error:
        parse_quote(patched(encode_quote(support.quote()), offset, patch))
    assert support.refusal(error) == (code, Outcome.UNSUPPORTED)
    assert error.value.finding.found == found


@pytest.mark.parametrize("body_type", [0, 4, 5])
def test_rule_2_other_body_types_are_unsupported(body_type: int) -> None:
    raw = encode_quote(support.quote(5, body_type=2))
    with pytest.raises(EvidenceError) as error:
        parse_quote(patched(raw, 48, body_type.to_bytes(2, "little")))
    assert support.refusal(error) == ("quote.body-type", Outcome.UNSUPPORTED)
    assert error.value.finding.found == str(body_type)


def test_rule_3_a_version_3_quote_of_a_td_is_rejected() -> None:
    raw = encode_quote(support.quote(3, support.enclave_report()))
    with pytest.raises(EvidenceError) as error:
        parse_quote(patched(raw, 4, b"\x81"))
    assert support.refusal(error) == ("quote.header-contradiction", Outcome.REJECTED)


@pytest.mark.parametrize(
    ("quote", "tee_type"), [(SHAPES[3], 0x81), (SHAPES[4], 0), (SHAPES[5], 0)], ids=["1", "2", "3"]
)
def test_rule_3_a_body_type_of_the_other_tee_is_rejected(quote: Quote, tee_type: int) -> None:
    with pytest.raises(EvidenceError) as error:
        parse_quote(patched(encode_quote(quote), 4, bytes([tee_type])))
    assert support.refusal(error) == ("quote.header-contradiction", Outcome.REJECTED)


def test_rule_3_a_body_of_another_size_than_its_type_is_rejected() -> None:
    raw = encode_quote(support.quote(5, body_type=2))
    with pytest.raises(EvidenceError) as error:
        parse_quote(patched(raw, 50, (648).to_bytes(4, "little")))
    assert support.refusal(error) == ("quote.body-size", Outcome.REJECTED)


@pytest.mark.parametrize("quote", SHAPES, ids=SHAPE_NAMES)
def test_rule_5_bytes_after_the_quote_are_kept_beside_it(quote: Quote) -> None:
    raw = encode_quote(quote)
    read = parse_quote(raw + b"\0\0x")
    assert read == replace(quote, trailing=b"\0\0x")
    assert encode_quote(read) == raw + b"\0\0x"


@given(
    shape=st.sampled_from(SHAPES),
    signature=st.binary(min_size=64, max_size=64),
    chain=st.binary(max_size=80),
    auth=st.binary(max_size=40),
    trailing=st.binary(max_size=20),
)
def test_rule_6_decoding_undoes_encoding(
    shape: Quote, signature: bytes, chain: bytes, auth: bytes, trailing: bytes
) -> None:
    quote = replace(
        shape, signature=signature, certification_data=chain, qe_auth_data=auth, trailing=trailing
    )
    assert parse_quote(encode_quote(quote)) == quote


@given(shape=st.sampled_from(SHAPES), place=st.integers(0, 1400), byte=st.integers(0, 255))
def test_a_changed_byte_is_kept_or_refused(shape: Quote, place: int, byte: int) -> None:
    raw = encode_quote(shape)
    changed = patched(raw, place % len(raw), bytes([byte]))
    with suppress(EvidenceError):
        assert encode_quote(parse_quote(changed)) == changed


@given(st.binary(max_size=1500))
def test_arbitrary_bytes_raise_only_evidence_errors(raw: bytes) -> None:
    for parse in (parse_quote, parse_header, parse_td_report, parse_enclave_report):
        with suppress(EvidenceError):
            parse(raw)


@given(
    head=st.sampled_from(
        [encode_quote(shape)[: LAYOUT[name]] for name, shape in zip(SHAPE_NAMES, SHAPES, strict=True)]
    ),
    tail=st.binary(max_size=700),
)
def test_arbitrary_bytes_after_a_good_body_raise_only_evidence_errors(head: bytes, tail: bytes) -> None:
    with suppress(EvidenceError):
        assert encode_quote(parse_quote(head + tail)) == head + tail


@pytest.mark.parametrize("size", [0, 583, 585, 647, 649])
def test_a_td_report_has_one_of_two_sizes(size: int) -> None:
    with pytest.raises(EvidenceError):
        parse_td_report(bytes(size))


def test_td_reports_of_both_sizes_are_read_as_they_were_written() -> None:
    for report, size in ((support.td_report(), abi.TD_REPORT_10_SIZE), (TD_15, abi.TD_REPORT_15_SIZE)):
        assert len(report.encode()) == size
        assert parse_td_report(report.encode()) == report


def test_fields_that_do_not_fit_are_misuse() -> None:
    quote = support.quote()
    wrong: list[Quote] = [
        replace(quote, header=replace(quote.header, qe_svn=0x10000)),
        replace(quote, header=replace(quote.header, user_data=bytes(19))),
        replace(quote, body=support.td_report(mr_td=bytes(47))),
        replace(quote, body=support.td_report(tee_tcb_svn2=bytes(16))),
        replace(quote, body=support.td_report(mr_service_td=bytes(48))),
        replace(quote, qe_report=replace(quote.qe_report, isv_svn=-1)),
        replace(quote, signature=bytes(63)),
        replace(quote, qe_auth_data=bytes(0x10000)),
    ]
    for broken in wrong:
        with pytest.raises(MisuseError) as error:
            encode_quote(broken)
        assert error.value.finding.code == "quote.field-size"


def test_reserved_bytes_of_an_enclave_report_default_to_zero() -> None:
    report = EnclaveReport(bytes(16), 0, bytes(16), bytes(32), bytes(32), 1, 2, bytes(64))
    assert parse_enclave_report(report.encode()) == report


@pytest.mark.parametrize(
    ("name", "version", "body", "trailing"),
    [("tdx_quote", 4, TdReport, 70), ("sgx_quote", 3, EnclaveReport, 0)],
)
def test_published_quotes_are_read_and_written_to_the_byte(
    name: str, version: int, body: type[object], trailing: int
) -> None:
    raw = support.sample(name)
    quote = parse_quote(raw)
    assert (quote.header.version, type(quote.body), len(quote.trailing)) == (version, body, trailing)
    assert quote.header.qe_vendor_id == abi.ECDSA_QE_VENDOR_ID
    assert encode_quote(quote) == raw
