"""Collateral as one document; the numbers in test names are the rules of `bundle`."""

import json
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from support import attestation_support as support
from teehouse.attestation import bundle
from teehouse.attestation.bundle import Collateral
from teehouse.base.findings import EvidenceError, Outcome

ISSUED = datetime(2026, 11, 20, tzinfo=UTC)


def after(days: int) -> datetime:
    return ISSUED + timedelta(days=days)


def instant(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


@cache  # signatures are random, and one list should stay the same
def crl(next_update: datetime) -> bytes:
    key = ec.derive_private_key(9, ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "A CA")])
    builder = x509.CertificateRevocationListBuilder().issuer_name(issuer)
    builder = builder.last_update(ISSUED).next_update(next_update)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def tcb_info(next_update: datetime) -> str:
    component = [{"svn": 0}] * 16
    level = {
        "tcb": {"sgxtcbcomponents": component, "pcesvn": 13},
        "tcbDate": "2026-01-01T00:00:00Z",
        "tcbStatus": "UpToDate",
    }
    return json.dumps(
        {
            "id": "SGX",
            "version": 3,
            "issueDate": instant(ISSUED),
            "nextUpdate": instant(next_update),
            "fmspc": "00806F050000",
            "pceId": "0000",
            "tcbType": 0,
            "tcbEvaluationDataNumber": 20,
            "tcbLevels": [level],
        }
    )


def qe_identity(next_update: datetime) -> str:
    return json.dumps(
        {
            "id": "TD_QE",
            "version": 2,
            "issueDate": instant(ISSUED),
            "nextUpdate": instant(next_update),
            "tcbEvaluationDataNumber": 20,
            "miscselect": "00000000",
            "miscselectMask": "FFFFFFFF",
            "attributes": "11000000000000000000000000000000",
            "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
            "mrsigner": "00" * 32,
            "isvprodid": 2,
            "tcbLevels": [{"tcb": {"isvsvn": 4}, "tcbDate": "2026-01-01T00:00:00Z", "tcbStatus": "UpToDate"}],
        }
    )


def collateral(tcb: int = 30, qe: int = 30, root: int = 30, pck: int = 30) -> Collateral:
    return Collateral(
        pck_crl_issuer_chain="",
        root_ca_crl=crl(after(root)),
        pck_crl=crl(after(pck)),
        tcb_info_issuer_chain="chain of the TCB info",
        tcb_info=tcb_info(after(tcb)),
        tcb_info_signature=support.counting(64, 1),
        qe_identity_issuer_chain="chain of the QE identity",
        qe_identity=qe_identity(after(qe)),
        qe_identity_signature=support.counting(64, 2),
    )


@pytest.mark.parametrize(
    "ends", [{"tcb": 7}, {"qe": 7}, {"root": 7}, {"pck": 7}, {"tcb": 7, "qe": 8, "root": 9, "pck": 10}]
)
def test_rule_2_collateral_expires_with_the_first_of_its_four_documents(ends: dict[str, int]) -> None:
    assert collateral(**ends).expires() == after(7)


@pytest.mark.parametrize(
    "broken",
    [
        {"tcb_info": "{}"},
        {"qe_identity": "["},
        {"root_ca_crl": b""},
        {"pck_crl": b"\x30\x00"},
    ],
)
def test_rule_2_unreadable_collateral_has_no_end(broken: dict[str, object]) -> None:
    with pytest.raises(EvidenceError) as error:
        replace(collateral(), **broken).expires()  # type: ignore[arg-type]  # the tests name real fields
    assert error.value.finding.outcome is Outcome.MALFORMED


TEXT = support.names
OCTETS = st.binary(max_size=20)


@given(st.builds(Collateral, TEXT, OCTETS, OCTETS, TEXT, TEXT, OCTETS, TEXT, TEXT, OCTETS, st.none() | TEXT))
def test_reading_undoes_writing(written: Collateral) -> None:
    assert Collateral.from_json(written.to_json()) == written
    assert Collateral.from_json(written.to_json().encode()) == written


def test_the_members_are_those_of_trust_3_1_in_their_order() -> None:
    whole = replace(collateral(), pck_certificate_chain="PEM")
    members = json.loads(whole.to_json())
    assert list(members) == [
        "pck_crl_issuer_chain",
        "root_ca_crl",
        "pck_crl",
        "tcb_info_issuer_chain",
        "tcb_info",
        "tcb_info_signature",
        "qe_identity_issuer_chain",
        "qe_identity",
        "qe_identity_signature",
        "pck_certificate_chain",
    ]
    assert members["tcb_info_signature"] == whole.tcb_info_signature.hex()
    assert "pck_certificate_chain" not in json.loads(collateral().to_json())


@pytest.mark.parametrize("missing", list(json.loads(collateral().to_json())))
def test_rule_1_each_of_the_nine_members_must_be_a_string(missing: str) -> None:
    members = json.loads(collateral().to_json())
    for wrong in (None, 7):
        members[missing] = wrong
        with pytest.raises(EvidenceError) as error:
            Collateral.from_json(json.dumps(members))
        assert support.refusal(error) == ("collateral.member", Outcome.MALFORMED)
    del members[missing]
    with pytest.raises(EvidenceError) as error:
        Collateral.from_json(json.dumps(members))
    assert support.refusal(error) == ("collateral.member", Outcome.MALFORMED)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"root_ca_crl": "x"}, "collateral.not-hex"),
        ({"pck_certificate_chain": 1}, "collateral.member"),
        ({"tcb_info": "\ud800"}, "collateral.not-utf8"),
    ],
)
def test_rule_1_bad_members_are_malformed(changes: dict[str, object], code: str) -> None:
    members = json.loads(collateral().to_json())
    with pytest.raises(EvidenceError) as error:
        Collateral.from_json(json.dumps({**members, **changes}))
    assert support.refusal(error) == (code, Outcome.MALFORMED)


def test_rule_1_null_and_unknown_members_are_passed_over() -> None:
    members = json.loads(collateral().to_json())
    assert (
        Collateral.from_json(json.dumps({**members, "pck_certificate_chain": None, "more": 1}))
        == collateral()
    )


def test_rule_1_collateral_of_the_limit_is_read_and_one_character_more_is_not() -> None:
    longest = collateral().to_json().ljust(bundle.COLLATERAL_LIMIT)
    assert Collateral.from_json(longest) == collateral()
    with pytest.raises(EvidenceError) as error:
        Collateral.from_json(longest + " ")
    assert support.refusal(error) == ("collateral.too-long", Outcome.MALFORMED)


@given(st.one_of(st.text(max_size=60), st.binary(max_size=60)))
def test_arbitrary_text_raises_only_evidence_errors(text: str | bytes) -> None:
    with suppress(EvidenceError):
        Collateral.from_json(text)


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("tdx_quote_collateral.json", datetime(2025, 7, 19, 10, 0, 35, tzinfo=UTC)),
        ("sgx_quote_collateral.json", datetime(2025, 7, 19, 10, 1, 18, tzinfo=UTC)),
    ],
)
def test_published_collateral_is_read_and_written(name: str, end: datetime) -> None:
    text = support.sample(name)
    read = Collateral.from_json(text)
    assert json.loads(read.to_json()) == json.loads(text)
    assert read.expires() == end
