"""Is a genuine platform good enough? The relying party's rules about its TCB (trust.md 5, 8.4).

Rules, judged over a verdict of `verify`:

P1. The verdict is accepted: a policy has nothing to say about evidence that is not genuine. The finding
    has the verdict's own outcome.
P2. The TCB status is one of `accepted_statuses`. The finding says which components lack what.
P3. An out-of-date status, where it is accepted, is not older than `grace`: the level's date plus `grace`
    has not passed; so is the QE's, where that is out of date.
P4. None of `refused_advisories` applies (compared without case).
P5. TCB info and QE identity are of evaluation data number `minimum_evaluation_number` or later.
P6. Dynamic platform, cached keys and SMT are off where they are not allowed; a certificate that does not
    speak of them passes.

Degenerate policies are decided, not left to chance. One that accepts no status, an unknown one, or
"Revoked" cannot be made; neither can one with a negative grace, or with out-of-date statuses and no
grace, or the other way round: it would say something that it does not mean. The only policy that takes
every status is `Policy.unsafe_any_status()`, and each of its judgements says so.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from teehouse.attestation.ladder import Ladder
from teehouse.attestation.tcb import Tcb, describe
from teehouse.attestation.tcbinfo import (
    OUT_OF_DATE,
    OUT_OF_DATE_CONFIGURATION_NEEDED,
    PLATFORM_STATUSES,
    RELAUNCH_ADVISED,
    RELAUNCH_ADVISED_CONFIGURATION_NEEDED,
    REVOKED,
    UP_TO_DATE,
)
from teehouse.attestation.verify import Verdict
from teehouse.base.findings import Finding, misuse

STATUSES = (PLATFORM_STATUSES | {RELAUNCH_ADVISED, RELAUNCH_ADVISED_CONFIGURATION_NEEDED}) - {REVOKED}
STALE = frozenset({OUT_OF_DATE, OUT_OF_DATE_CONFIGURATION_NEEDED})


@dataclass(frozen=True, slots=True)
class Policy:
    """What a relying party asks of a platform; the default takes UpToDate only.

    Raises `MisuseError` for the degenerate policies named above.
    """

    accepted_statuses: frozenset[str] = frozenset({UP_TO_DATE})
    refused_advisories: frozenset[str] = frozenset()
    minimum_evaluation_number: int | None = None
    grace: timedelta = timedelta(0)
    allow_dynamic_platform: bool = True
    allow_cached_keys: bool = True
    allow_smt: bool = True
    unsafe_accepts_any_status: bool = False

    def __post_init__(self) -> None:
        unknown = sorted(self.accepted_statuses - STATUSES)
        if not self.accepted_statuses or unknown:
            raise misuse(
                "policy.statuses",
                "the accepted TCB statuses",
                expected=f"some of {', '.join(sorted(STATUSES))}",
                found=", ".join(unknown) or "none",
            )
        takes_stale = bool(self.accepted_statuses & STALE)
        if self.grace < timedelta(0) or takes_stale != bool(self.grace):
            raise misuse(
                "policy.grace",
                "the grace period",
                expected="above zero if, and only if, an out-of-date status is accepted",
                found=f"{self.grace}, statuses {', '.join(sorted(self.accepted_statuses))}",
            )

    @classmethod
    def strict(cls) -> "Policy":
        """UpToDate only, and nothing that lets a platform change or share its keys (trust.md 5)."""
        return cls(allow_dynamic_platform=False, allow_cached_keys=False, allow_smt=False)

    @classmethod
    def unsafe_any_status(cls) -> "Policy":
        """Takes every status but Revoked, however old: for looking at evidence, not for relying on it."""
        return cls(unsafe_accepts_any_status=True)


def judge(verdict: Verdict, policy: Policy, now: datetime) -> tuple[Finding, ...]:
    """The findings of P1 to P6; all are passed when the platform is good enough at `now`."""
    ladder = Ladder()
    tcb = verdict.tcb
    if not verdict.accepted or tcb is None:  # P1
        ladder.refused(
            "P1",
            "policy.not-genuine",
            "genuineness of the evidence",
            outcome=verdict.outcome,
            expected="an accepted verdict",
            found=verdict.outcome.value,
        )
        return ladder.findings
    _judge_status(ladder, tcb, policy, now)  # P2, P3
    present = {advisory.upper() for advisory in tcb.advisory_ids}
    refused = sorted(advisory for advisory in policy.refused_advisories if advisory.upper() in present)
    ladder.judge(  # P4
        "P4",
        not refused,
        "policy.advisory" if refused else "policy.advisories",
        "the advisories that apply to the platform",
        expected="none that is refused",
        found=", ".join(refused),
    )
    minimum = policy.minimum_evaluation_number
    if minimum is not None:  # P5
        ladder.judge(
            "P5",
            tcb.evaluation_number >= minimum,
            "policy.evaluation-number",
            "the TCB evaluation data number",
            expected=f"at least {minimum}",
            found=str(tcb.evaluation_number),
            remedy="fetch newer collateral",
        )
    _judge_configuration(ladder, verdict, policy)  # P6
    return ladder.findings


def _judge_status(ladder: Ladder, tcb: Tcb, policy: Policy, now: datetime) -> None:
    subject = "the platform's TCB status"
    if policy.unsafe_accepts_any_status:
        ladder.passed(
            "P2",
            "policy.unsafe-any-status",
            f"{subject}, which an UNSAFE policy does not judge",
            found=tcb.status,
        )
        return
    if tcb.status not in policy.accepted_statuses:
        expected, found, remedy = describe(tcb.shortfalls)
        ladder.refused(
            "P2",
            "policy.tcb-status",
            subject,
            expected=", ".join(sorted(policy.accepted_statuses)) + (f" with {expected}" if expected else ""),
            found=tcb.status + (f" with {found}" if found else ""),
            remedy=remedy or _advice(tcb),
        )
        return
    ladder.passed("P2", "policy.tcb-status", subject, found=tcb.status)
    if tcb.status not in STALE:
        return
    dates = [tcb.date] + ([tcb.qe_date] if tcb.qe_status in STALE else [])
    ladder.judge(  # P3
        "P3",
        min(dates) + policy.grace >= now,
        "policy.grace",
        "the age of the out-of-date TCB level",
        expected=f"at most {policy.grace}",
        found=f"level of {min(dates).date().isoformat()}",
        remedy=describe(tcb.shortfalls)[2],
    )


def _advice(tcb: Tcb) -> str:
    """What to do where no component lacks anything."""
    if tcb.status.startswith(RELAUNCH_ADVISED):
        return "start the TD anew: the platform was updated after its launch"
    named = f" of {', '.join(tcb.advisory_ids)}" if tcb.advisory_ids else ""
    return f"follow the advisories{named}, or accept the status by name"


def _judge_configuration(ladder: Ladder, verdict: Verdict, policy: Policy) -> None:
    pck = verdict.pck
    if pck is None:
        return
    before = ladder.failures
    for code, subject, allowed, on in (
        ("dynamic-platform", "dynamic platform", policy.allow_dynamic_platform, pck.dynamic_platform),
        ("cached-keys", "cached keys", policy.allow_cached_keys, pck.cached_keys),
        ("smt", "simultaneous multithreading", policy.allow_smt, pck.smt_enabled),
    ):
        if on and not allowed:
            ladder.refused("P6", f"policy.{code}", f"the platform's {subject}", expected="off", found="on")
    if ladder.failures == before:
        ladder.passed("P6", "policy.configuration", "the platform's configuration is allowed")
