"""Quotes of the emulated platform, judged by the field's verifier."""

import json
from datetime import timedelta

import dcap_qvl
import pytest

from support import emulated
from teehouse.attestation import abi
from teehouse.base.findings import MisuseError
from teehouse.base.hashes import sha256
from teehouse.tee_emulated import constants
from teehouse.tee_emulated.collateral import FORMER_TCB_ADVISORY, EmulatedCollateral
from teehouse.tee_emulated.pki import (
    PLATFORM_CA_LABEL,
    ROOT_LABEL,
    TCB_SIGNER_LABEL,
    EmulatedPki,
    pck_label,
)


def bundle(pki: EmulatedPki | None = None) -> dcap_qvl.QuoteCollateralV3:
    source = EmulatedCollateral(pki or emulated.pki(), emulated.clock())
    return dcap_qvl.QuoteCollateralV3.from_json(json.dumps(source.bundle()))


def verified(quote: bytes, pki: EmulatedPki | None = None) -> dict[str, object]:
    root = (pki or emulated.pki()).root_der
    report = dcap_qvl.verify_with_root_ca(quote, bundle(pki), root, emulated.NOW_SECONDS)
    answer: dict[str, object] = json.loads(report.to_json())
    return answer


def test_a_quote_verifies_under_the_emulated_root_and_says_what_the_report_says() -> None:
    report = emulated.td_report(report_data=bytes(range(64)), rt_mr3=b"\x33" * 48)
    quote = emulated.host().quote(report.encode())
    body = {
        name: getattr(report, name).hex() for name in report.__slots__ if getattr(report, name) is not None
    }
    answer = verified(quote)
    assert answer["report"] == {"TD10": body}
    assert bytes.fromhex(str(answer["ppid"])) == emulated.host().ppid
    assert (answer["status"], answer["advisory_ids"]) == ("UpToDate", [])


def test_the_strict_policy_accepts_it() -> None:
    verifier = dcap_qvl.QuoteVerifier(emulated.pki().root_der)
    policy = dcap_qvl.QuotePolicy.strict(emulated.NOW_SECONDS)
    claims = json.loads(
        verifier.verify_with_policy(emulated.quote(), bundle(), emulated.NOW_SECONDS, policy).to_json()
    )
    assert claims["tcb"] == {"status": "UpToDate", "advisory_ids": [], "eval_data_number": 20}
    assert claims["platform"]["pck"] == {
        "ppid": list(emulated.host().ppid),
        "cpu_svn": list(constants.CPU_SVN),
        "pce_svn": 13,
        "pce_id": [0, 0],
        "fmspc": [0x00, 0x80, 0x6F, 0x05, 0, 0],
        "sgx_type": 1,
        "platform_instance_id": list(emulated.host().platform_instance_id),
        "dynamic_platform": "False",
        "cached_keys": "False",
        "smt_enabled": "False",
        "platform_provider_id": None,
    }


def test_intels_root_does_not_accept_it() -> None:
    with pytest.raises(ValueError, match="Verification failed"):
        dcap_qvl.verify(emulated.quote(), bundle(), emulated.NOW_SECONDS)


def test_another_emulated_root_does_not_accept_it() -> None:
    other = EmulatedPki(b"\x01" * 32)
    with pytest.raises(ValueError, match="Verification failed"):
        dcap_qvl.verify_with_root_ca(emulated.quote(), bundle(), other.root_der, emulated.NOW_SECONDS)
    with pytest.raises(ValueError, match="Verification failed"):
        verified(emulated.quote(), other)


@pytest.mark.parametrize(
    "offset",
    [
        12,  # vendor id
        28,  # user data of the header
        abi.TEE_TCB_SVN_OFFSET,
        abi.MR_TD_OFFSET,
        abi.RT_MR3_OFFSET + 47,
        abi.REPORT_DATA_OFFSET,
        abi.SIGNATURE_OFFSET + 32,
        abi.ATTESTATION_KEY_OFFSET,
        abi.QE_REPORT_OFFSET + 64,
        abi.QE_REPORT_OFFSET + 320,
        abi.QE_REPORT_SIGNATURE_OFFSET,
    ],
)
def test_one_flipped_bit_is_enough(offset: int) -> None:
    # trust.md 6.5
    damaged = bytearray(emulated.quote())
    damaged[offset] ^= 1
    with pytest.raises(ValueError, match="Verification failed"):
        verified(bytes(damaged))


@pytest.mark.parametrize("revoked", [ROOT_LABEL, PLATFORM_CA_LABEL, TCB_SIGNER_LABEL, pck_label("alpha")])
def test_a_revoked_certificate_is_refused(revoked: str) -> None:
    pki = EmulatedPki(emulated.SEED, revoked=frozenset({revoked}))
    with pytest.raises(ValueError, match=r"(?i)revoked"):
        verified(pki.host("alpha").quote(emulated.td_report().encode()), pki)


def test_revoking_one_host_leaves_the_other() -> None:
    pki = EmulatedPki(emulated.SEED, revoked=frozenset({pck_label("beta")}))
    assert verified(emulated.quote(), pki)["status"] == "UpToDate"


def test_an_older_module_component_is_out_of_date() -> None:
    answer = verified(emulated.quote(tee_tcb_svn=bytes.fromhex("050103") + bytes(13)))
    assert (answer["status"], answer["advisory_ids"]) == ("OutOfDate", [FORMER_TCB_ADVISORY])


def test_a_module_below_every_level_does_not_verify() -> None:
    with pytest.raises(ValueError, match="No matching TCB level"):
        verified(emulated.quote(tee_tcb_svn=bytes.fromhex("050102") + bytes(13)))


def test_the_layout_is_read_back_by_our_own_parser() -> None:
    report = emulated.td_report()
    parsed = abi.parse_quote(emulated.host().quote(report.encode(), b"\x07" * 20))
    assert parsed.header == abi.QuoteHeader(4, 2, 0x81, 4, 13, abi.ECDSA_QE_VENDOR_ID, b"\x07" * 20)
    assert parsed.body == report
    assert parsed.qe_report.report_data == sha256(parsed.attestation_key + parsed.qe_auth_data) + bytes(32)
    assert parsed.qe_auth_data == bytes(range(32))
    assert parsed.certification_data == emulated.host().pck_chain
    assert parsed.trailing == b""


@pytest.mark.parametrize("size", [0, 583, 585, 648])
def test_a_body_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(MisuseError) as refused:
        emulated.host().quote(bytes(size))
    assert refused.value.finding.as_dict() == {
        "check": "",
        "code": "emulated.quote.body",
        "outcome": "misuse",
        "subject": "TD report to be quoted",
        "expected": "584 bytes",
        "found": str(size),
        "remedy": "",
    }


def test_user_data_of_another_size_is_refused() -> None:
    with pytest.raises(MisuseError):
        emulated.host().quote(emulated.td_report().encode(), bytes(19))


def test_before_the_issue_and_after_the_end_it_does_not_verify() -> None:
    for days in (-2, 31):
        at = int((emulated.NOW + timedelta(days=days)).timestamp())
        with pytest.raises(ValueError, match="Verification failed"):
            dcap_qvl.verify_with_root_ca(emulated.quote(), bundle(), emulated.pki().root_der, at)


def test_a_host_shows_no_key() -> None:
    host = emulated.host()
    shown = repr(host)
    assert shown == (
        f"EmulatedHost(label='alpha', ppid={host.ppid!r}, platform_instance_id={host.platform_instance_id!r}, "
        f"pck_der={host.pck_der!r}, pck_chain={host.pck_chain!r})"
    )
