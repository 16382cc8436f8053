"""How the findings of a judgement are gathered.

Rules:

1. Each check that can be judged leaves at least one finding under its number.
2. A check that cannot be judged, because an earlier one failed, leaves no finding: its number goes to
   `not_judged`. It never counts as passed.
3. A check that does not concern this kind of evidence (an SGX quote has no TDX module) leaves neither.
"""

from dataclasses import replace

from teehouse.base.findings import Finding, Outcome, TeehouseError


class Ladder:
    """Collects findings in the order of the checks."""

    __slots__ = ("_findings", "_not_judged")

    def __init__(self) -> None:
        self._findings: list[Finding] = []
        self._not_judged: list[str] = []

    @property
    def findings(self) -> tuple[Finding, ...]:
        return tuple(self._findings)

    @property
    def not_judged(self) -> tuple[str, ...]:
        """Numbers of the checks that could not be judged, in order."""
        return tuple(self._not_judged)

    @property
    def failures(self) -> int:
        """How many findings are refusals."""
        return sum(not finding.ok for finding in self._findings)

    @property
    def unbroken(self) -> bool:
        """True while every check was judged and passed."""
        return not self._not_judged and all(finding.ok for finding in self._findings)

    def passed(self, check: str, code: str, subject: str, *, found: str = "") -> None:
        self._findings.append(Finding(code, subject, found=found, check=check))

    def refused(
        self,
        check: str,
        code: str,
        subject: str,
        *,
        outcome: Outcome = Outcome.REJECTED,
        expected: str = "",
        found: str = "",
        remedy: str = "",
    ) -> None:
        self._findings.append(Finding(code, subject, outcome, expected, found, remedy, check))

    def judge(
        self,
        check: str,
        good: bool,
        code: str,
        subject: str,
        *,
        expected: str = "",
        found: str = "",
        remedy: str = "",
    ) -> bool:
        """Record a check that is either kept or broken; gives `good` back."""
        if good:
            self.passed(check, code, subject)
        else:
            self.refused(check, code, subject, expected=expected, found=found, remedy=remedy)
        return good

    def error(self, check: str, error: TeehouseError, *, outcome: Outcome | None = None) -> None:
        """Record a refusal that was raised, under another outcome where the caller knows better."""
        finding = error.finding
        self._findings.append(replace(finding, check=check, outcome=outcome or finding.outcome))

    def add(self, check: str, finding: Finding) -> None:
        """Record a finding made elsewhere, under this ladder's number."""
        self._findings.append(replace(finding, check=check))

    def extend(self, other: "Ladder") -> None:
        """Take over all that another ladder recorded."""
        self._findings.extend(other.findings)
        self._not_judged.extend(other.not_judged)

    def cannot(self, *checks: str) -> None:
        """Note checks that cannot be judged."""
        self._not_judged.extend(checks)
