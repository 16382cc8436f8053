"""Published evidence of real machines, under fixed clocks (trust.md 7)."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import dcap_qvl
import pytest

from support.adversary import Adversary
from support.attestation_support import sample
from teehouse.attestation.abi import encode_quote, parse_quote
from teehouse.attestation.bundle import Collateral
from teehouse.attestation.envelope import decode_attestation
from teehouse.attestation.policy import Policy, judge
from teehouse.attestation.roots import TrustedRoot
from teehouse.attestation.verify import Evidence, Verdict, verify
from teehouse.base.findings import Outcome

JUNE, JULY = datetime(2025, 6, 19, 11, 32, tzinfo=UTC), datetime(2025, 7, 9, tzinfo=UTC)


def judged(name: str, now: datetime, root: TrustedRoot | None = None) -> Verdict:
    collateral = Collateral.from_json(sample(f"{name}_quote_collateral.json"))
    return verify(Evidence.from_quote(sample(f"{name}_quote")), collateral, root or TrustedRoot.intel(), now)


def refusals(verdict: Verdict) -> list[tuple[str, str]]:
    return [(finding.check, finding.code) for finding in verdict.findings if not finding.ok]


@pytest.mark.parametrize("now", [JUNE, JULY], ids=["june", "july"])
def test_the_tdx_quote_is_genuine_and_up_to_date(now: datetime) -> None:
    verdict = judged("tdx", now)
    assert (verdict.accepted, verdict.root, verdict.emulated) == (True, "intel", False)
    assert (verdict.tcb_status, verdict.advisory_ids) == ("UpToDate", ())
    assert verdict.ppid == bytes.fromhex("811dca2a26b952e85bb6448b097ba4fd")
    assert verdict.pck is not None
    assert verdict.pck.fmspc == bytes.fromhex("b0c06f000000")
    assert all(finding.ok for finding in judge(verdict, Policy(), now))


@pytest.mark.parametrize("now", [JUNE, JULY], ids=["june", "july"])
def test_the_sgx_quote_is_genuine_and_needs_hardening(now: datetime) -> None:
    verdict = judged("sgx", now)
    assert verdict.accepted
    assert verdict.tcb_status == "ConfigurationAndSWHardeningNeeded"
    assert set(verdict.advisory_ids) == {"INTEL-SA-00289", "INTEL-SA-00615"}
    (finding,) = [f for f in judge(verdict, Policy(), now) if not f.ok]
    assert (finding.check, finding.code) == ("P2", "policy.tcb-status")
    # Intel gives this family no UpToDate level, so no component lacks anything.
    assert (finding.expected, finding.remedy) == (
        "UpToDate",
        "follow the advisories of INTEL-SA-00289, INTEL-SA-00615, or accept the status by name",
    )


@pytest.mark.parametrize("name", ["tdx", "sgx"])
def test_our_copy_of_intels_root_is_the_librarys(name: str) -> None:
    quote, text = sample(f"{name}_quote"), sample(f"{name}_quote_collateral.json").decode()
    collateral = dcap_qvl.QuoteCollateralV3.from_json(text)
    seconds = int(JUNE.timestamp())
    built_in = dcap_qvl.verify(quote, collateral, seconds)
    given = dcap_qvl.verify_with_root_ca(quote, collateral, TrustedRoot.intel().certificate_der, seconds)
    assert given.to_json() == built_in.to_json()


def test_todays_verdict_says_that_the_collateral_is_old() -> None:
    verdict = judged("tdx", datetime(2026, 11, 20, tzinfo=UTC))
    assert verdict.outcome is Outcome.COLLATERAL_MISSING
    assert refusals(verdict) == [
        ("V5", "collateral.tcb-info.expired"),
        ("V5", "collateral.qe-identity.expired"),
        ("V5", "collateral.root-crl.expired"),
        ("V5", "collateral.pck-crl.expired"),
    ]


def test_collateral_of_another_platform_is_told_apart() -> None:
    collateral = Collateral.from_json(sample("sgx_quote_collateral.json"))
    verdict = verify(Evidence.from_quote(sample("tdx_quote")), collateral, TrustedRoot.intel(), JUNE)
    assert refusals(verdict) == [
        ("V6", "collateral.pck-crl.signature"),
        ("V12", "qe.identity"),
        ("V12", "qe.mr-signer"),
        ("V12", "qe.product"),
        ("V14", "tcb-info.fmspc"),
        ("V14", "tcb-info.kind"),
    ]


def test_roots_do_not_mix_real_evidence_under_an_emulated_root() -> None:
    root = Adversary().root
    verdict = judged("tdx", JUNE, root)
    (finding,) = [f for f in verdict.findings if f.check == "V7"]
    assert (finding.code, finding.expected) == ("pck.chain.root", f"ends in {root.name}")
    assert finding.found == "ends in intel (Intel SGX Root CA)"
    assert finding.remedy.endswith("--root intel")
    assert (verdict.outcome, verdict.emulated) == (Outcome.REJECTED, True)


def test_the_lite_attestation_holds_in_all_that_needs_no_collateral() -> None:
    """Its platform's collateral is not published with it; everything else can be judged."""
    members: dict[str, Any] = json.loads(sample("tdx-lite-attestation.json"))
    attestation = decode_attestation(bytes.fromhex(members["attestation"]))
    now = datetime(2026, 6, 1, tzinfo=UTC)
    verdict = verify(Evidence.from_attestation(attestation), None, TrustedRoot.intel(), now)
    assert refusals(verdict) == [("V3", "collateral.missing")]
    passed = {finding.check for finding in verdict.findings if finding.ok}
    assert passed == {f"V{n}" for n in (1, 2, 7, 8, 10, 11, 13, 17, 19, 21, 23, 24, 26, 27)}
    assert verdict.image_verified
    assert verdict.app_info is None


def test_the_lite_attestation_is_not_yet_valid_in_2025() -> None:
    """trust.md 7: its PCK certificate begins on 2026-04-15."""
    members: dict[str, Any] = json.loads(sample("tdx-lite-attestation.json"))
    attestation = decode_attestation(bytes.fromhex(members["attestation"]))
    verdict = verify(Evidence.from_attestation(attestation), None, TrustedRoot.intel(), JULY)
    assert refusals(verdict) == [("V3", "collateral.missing"), ("V8", "pck.chain.expired")]


def test_intels_chain_is_known_without_its_root() -> None:
    quote = parse_quote(sample("tdx_quote"))
    end = b"-----END CERTIFICATE-----"
    shortened = end.join(quote.certification_data.split(end)[:2]) + end
    raw = encode_quote(replace(quote, certification_data=shortened))
    collateral = Collateral.from_json(sample("tdx_quote_collateral.json"))
    assert verify(Evidence.from_quote(raw), collateral, TrustedRoot.intel(), JUNE).accepted
    verdict = verify(Evidence.from_quote(raw), collateral, Adversary().root, JUNE)
    (finding,) = [f for f in verdict.findings if f.check == "V7"]
    assert finding.found == "ends in intel (Intel SGX Root CA)"
