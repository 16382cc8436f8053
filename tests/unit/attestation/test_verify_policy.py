"""Policy over a genuine verdict: P1 to P6, and policies that cannot be made."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from support.adversary import NOW, Adversary, every_status
from teehouse.attestation.policy import STATUSES, Policy, judge
from teehouse.attestation.verify import Evidence, Verdict, verify
from teehouse.base.findings import MisuseError, Outcome

OWNER = Adversary()


def verdict_of(tcb: Any = None, qe: Any = None) -> Verdict:
    return verify(Evidence.from_quote(OWNER.quote()), OWNER.collateral(tcb=tcb, qe=qe), OWNER.root, NOW)


def lowered(document: dict[str, Any]) -> None:
    """The platform is at the former level: the current one needs more of everything."""
    current = document["tcbLevels"][0]["tcb"]
    current["sgxtcbcomponents"][0] |= {"svn": 9, "category": "BIOS", "type": "Early Microcode Update"}
    current["tdxtcbcomponents"][2]["svn"] = 9
    current["pcesvn"] = 20
    module = document["tdxModuleIdentities"][0]
    module["tcbLevels"] = [
        {"tcb": {"isvsvn": 6}, "tcbDate": "2026-01-01T00:00:00Z", "tcbStatus": "UpToDate"},
        {"tcb": {"isvsvn": 5}, "tcbDate": "2025-06-01T00:00:00Z", "tcbStatus": "OutOfDate"},
    ]


def refusals(verdict: Verdict, policy: Policy, now: datetime = NOW) -> list[tuple[str, str]]:
    return [(f.check, f.code) for f in judge(verdict, policy, now) if not f.ok]


def test_the_default_takes_up_to_date_only() -> None:
    findings = judge(verdict_of(), Policy(), NOW)
    assert [(f.check, f.code, f.ok) for f in findings] == [
        ("P2", "policy.tcb-status", True),
        ("P4", "policy.advisories", True),
        ("P6", "policy.configuration", True),
    ]
    assert refusals(verdict_of(every_status("SWHardeningNeeded")), Policy()) == [("P2", "policy.tcb-status")]


def test_what_is_not_genuine_is_not_judged() -> None:
    verdict = verify(Evidence.from_quote(OWNER.quote()), None, OWNER.root, NOW)
    (finding,) = judge(verdict, Policy(), NOW)
    assert (finding.check, finding.code, finding.outcome) == (
        "P1",
        "policy.not-genuine",
        Outcome.COLLATERAL_MISSING,
    )


def test_an_out_of_date_platform_is_genuine_and_told_what_lacks() -> None:
    verdict = verdict_of(lowered)
    assert verdict.accepted
    assert verdict.tcb_status == "OutOfDate"
    assert verdict.advisory_ids == ("EMULATED-SA-00001",)
    (finding,) = [f for f in judge(verdict, Policy(), NOW) if not f.ok]
    assert finding.expected == (
        "UpToDate with SGX component 0 (Early Microcode Update, BIOS) at least 9, PCESVN at least 20, "
        "TDX component 2 at least 9, TDX module at least 6"
    )
    assert finding.found == "OutOfDate with 3, 13, 4, 5"
    assert finding.remedy == (
        "update the CPU microcode (carried by the BIOS), and the SGX PCE, by a BIOS or platform update, "
        "and the CPU microcode, and the TDX module"
    )


def test_out_of_date_is_taken_within_its_grace() -> None:
    verdict = verdict_of(lowered)
    assert verdict.tcb is not None
    assert verdict.tcb.date == datetime(2025, 1, 1, tzinfo=UTC)
    age = NOW - verdict.tcb.date
    accepted = frozenset({"UpToDate", "OutOfDate"})
    assert refusals(verdict, Policy(accepted, grace=age)) == []
    late = Policy(accepted, grace=age - timedelta(seconds=1))
    assert refusals(verdict, late) == [("P3", "policy.grace")]


def test_the_qes_age_counts_too() -> None:
    def old_qe(document: dict[str, Any]) -> None:
        document["tcbLevels"] = [
            {"tcb": {"isvsvn": 4}, "tcbDate": "2024-01-01T00:00:00Z", "tcbStatus": "OutOfDate"}
        ]

    verdict = verdict_of(qe=old_qe)
    assert verdict.tcb is not None
    assert (verdict.tcb_status, verdict.tcb.platform_status) == ("OutOfDate", "UpToDate")
    policy = Policy(frozenset({"OutOfDate"}), grace=timedelta(days=365))
    assert refusals(verdict, policy) == [("P3", "policy.grace")]
    assert refusals(verdict, replace(policy, grace=timedelta(days=3650))) == []


def test_a_refused_advisory_is_refused_in_any_case_of_letters() -> None:
    verdict = verdict_of(lowered)
    policy = Policy(
        frozenset({"OutOfDate"}),
        grace=timedelta(days=3650),
        refused_advisories=frozenset({"emulated-sa-00001", "OTHER"}),
    )
    (finding,) = [f for f in judge(verdict, policy, NOW) if not f.ok]
    assert (finding.check, finding.code, finding.found) == ("P4", "policy.advisory", "emulated-sa-00001")


def test_the_evaluation_number_is_the_smaller_of_two() -> None:
    verdict = verdict_of(qe=lambda document: document.update(tcbEvaluationDataNumber=19))
    assert refusals(verdict, Policy(minimum_evaluation_number=19)) == []
    assert refusals(verdict, Policy(minimum_evaluation_number=20)) == [("P5", "policy.evaluation-number")]


@pytest.mark.parametrize(
    ("member", "code"),
    [
        ("dynamic_platform", "policy.dynamic-platform"),
        ("cached_keys", "policy.cached-keys"),
        ("smt_enabled", "policy.smt"),
    ],
)
def test_a_strict_policy_refuses_what_lets_a_platform_change(member: str, code: str) -> None:
    verdict = verdict_of()
    assert refusals(verdict, Policy.strict()) == []
    assert verdict.pck is not None
    on = replace(verdict, pck=replace(verdict.pck, **{member: True}))
    assert refusals(on, Policy.strict()) == [("P6", code)]
    assert refusals(on, Policy()) == []
    silent = replace(verdict, pck=replace(verdict.pck, **{member: None}))
    assert refusals(silent, Policy.strict()) == []


def test_the_hatch_is_named_unsafe_and_says_so() -> None:
    findings = judge(verdict_of(lowered), Policy.unsafe_any_status(), NOW)
    assert [(f.code, f.ok, f.found) for f in findings if f.check == "P2"] == [
        ("policy.unsafe-any-status", True, "OutOfDate")
    ]
    assert "UNSAFE" in next(f.subject for f in findings if f.check == "P2")


@pytest.mark.parametrize("status", sorted(STATUSES - {"UpToDate"}))
def test_every_other_status_has_advice(status: str) -> None:
    verdict = verdict_of()
    assert verdict.tcb is not None
    other = replace(verdict, tcb=replace(verdict.tcb, status=status, advisory_ids=("A-1",)))
    (finding,) = [f for f in judge(other, Policy(), NOW) if not f.ok]
    wanted = (
        "start the TD anew: the platform was updated after its launch"
        if status.startswith("TDRelaunch")
        else "follow the advisories of A-1, or accept the status by name"
    )
    assert (finding.expected, finding.found, finding.remedy) == ("UpToDate", status, wanted)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        pytest.param({"accepted_statuses": frozenset()}, "policy.statuses", id="nothing"),
        pytest.param({"accepted_statuses": frozenset({"Fine"})}, "policy.statuses", id="unknown"),
        pytest.param({"accepted_statuses": frozenset({"Revoked"})}, "policy.statuses", id="revoked"),
        pytest.param(
            {"accepted_statuses": frozenset({"OutOfDate"})}, "policy.grace", id="stale-without-grace"
        ),
        pytest.param({"grace": timedelta(days=1)}, "policy.grace", id="grace-without-stale"),
        pytest.param({"grace": timedelta(days=-1)}, "policy.grace", id="negative-grace"),
    ],
)
def test_degenerate_policies_cannot_be_made(arguments: dict[str, Any], code: str) -> None:
    with pytest.raises(MisuseError) as refused:
        Policy(**arguments)
    assert refused.value.finding.code == code
