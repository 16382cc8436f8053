"""Findings and the three error families (design.md 2.3).

Rules:

1. A check ends in a `Finding`, passed or not; never in a bare bool, never in a bare string.
2. A refusal says its code, subject, what was expected, what was found, and what to do.
3. Every refusal is of one family: the evidence is bad, collateral or transport is missing, or the
   caller misused us. `Outcome` refines the family; `OUTCOME_TABLE` alone maps it to an HTTP status,
   an exit code and a metric label.
4. No finding carries secret material.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class Family(Enum):
    """Who is at fault when something is refused."""

    EVIDENCE = "evidence"
    COLLATERAL = "collateral"
    MISUSE = "misuse"


class Outcome(Enum):
    """How one check, or a whole judgement, ended."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    UNSUPPORTED = "unsupported"
    MALFORMED = "malformed"
    COLLATERAL_MISSING = "collateral-missing"
    MISUSE = "misuse"


@dataclass(frozen=True, slots=True)
class OutcomeRow:
    """What an outcome means to a shell, an HTTP client and a metric."""

    family: Family | None
    exit_code: int
    http_status: int

    def label(self, outcome: Outcome) -> str:
        """The metric label of the outcome."""
        return outcome.value


OUTCOME_TABLE: dict[Outcome, OutcomeRow] = {
    Outcome.ACCEPTED: OutcomeRow(None, 0, 200),
    Outcome.REJECTED: OutcomeRow(Family.EVIDENCE, 10, 403),
    Outcome.UNSUPPORTED: OutcomeRow(Family.EVIDENCE, 20, 422),
    Outcome.MALFORMED: OutcomeRow(Family.EVIDENCE, 30, 400),
    Outcome.COLLATERAL_MISSING: OutcomeRow(Family.COLLATERAL, 40, 503),
    Outcome.MISUSE: OutcomeRow(Family.MISUSE, 2, 400),
}

# A judgement of several findings is as bad as its worst one, in this order.
_SEVERITY = (
    Outcome.ACCEPTED,
    Outcome.COLLATERAL_MISSING,
    Outcome.REJECTED,
    Outcome.UNSUPPORTED,
    Outcome.MALFORMED,
    Outcome.MISUSE,
)


@dataclass(frozen=True, slots=True)
class Finding:
    """The end of one check.

    `check` is the number of the rule in the judging module's docstring (e.g. "V7"), `code` a stable
    dotted name for programs (e.g. "quote.signature"), `subject` what was looked at, in words.
    """

    code: str
    subject: str
    outcome: Outcome = Outcome.ACCEPTED
    expected: str = ""
    found: str = ""
    remedy: str = ""
    check: str = ""

    @property
    def ok(self) -> bool:
        return self.outcome is Outcome.ACCEPTED

    def sentence(self) -> str:
        """One line for a person: subject, then expected and found where they say something, each once."""
        parts = [self.subject]
        if self.expected and self.expected != self.found:
            parts.append(f"expected {self.expected}")
        if self.found:
            parts.append(f"found {self.found}")
        text = ": ".join([parts[0], ", ".join(parts[1:])]) if len(parts) > 1 else parts[0]
        return f"{text} ({self.remedy})" if self.remedy else text

    def as_dict(self) -> dict[str, str]:
        """The finding as JSON members, always all of them."""
        return {
            "check": self.check,
            "code": self.code,
            "outcome": self.outcome.value,
            "subject": self.subject,
            "expected": self.expected,
            "found": self.found,
            "remedy": self.remedy,
        }


def worst(findings: Iterable[Finding]) -> Outcome:
    """The outcome of a judgement made of these findings; ACCEPTED when there are none."""
    return max((f.outcome for f in findings), key=_SEVERITY.index, default=Outcome.ACCEPTED)


class TeehouseError(Exception):
    """A refusal. Carries the finding that explains it; its text is the finding's sentence."""

    family: Family

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.sentence())
        self.finding = finding


class EvidenceError(TeehouseError):
    """The evidence is bad: it does not verify, is malformed, or of a kind we do not judge."""

    family = Family.EVIDENCE


class CollateralError(TeehouseError):
    """Collateral or transport is missing: nothing is known against the evidence itself."""

    family = Family.COLLATERAL


class MisuseError(TeehouseError):
    """The caller asked for something that cannot be asked."""

    family = Family.MISUSE


def rejected(
    code: str, subject: str, *, expected: str = "", found: str = "", remedy: str = ""
) -> EvidenceError:
    """An `EvidenceError` for evidence that is well formed and wrong."""
    return EvidenceError(Finding(code, subject, Outcome.REJECTED, expected, found, remedy))


def malformed(
    code: str, subject: str, *, expected: str = "", found: str = "", remedy: str = ""
) -> EvidenceError:
    """An `EvidenceError` for bytes that are not what they claim to be."""
    return EvidenceError(Finding(code, subject, Outcome.MALFORMED, expected, found, remedy))


def unsupported(
    code: str, subject: str, *, expected: str = "", found: str = "", remedy: str = ""
) -> EvidenceError:
    """An `EvidenceError` for evidence of a kind that is not judged here."""
    return EvidenceError(Finding(code, subject, Outcome.UNSUPPORTED, expected, found, remedy))


def unavailable(
    code: str, subject: str, *, expected: str = "", found: str = "", remedy: str = ""
) -> CollateralError:
    """A `CollateralError`."""
    return CollateralError(Finding(code, subject, Outcome.COLLATERAL_MISSING, expected, found, remedy))


def misuse(code: str, subject: str, *, expected: str = "", found: str = "", remedy: str = "") -> MisuseError:
    """A `MisuseError`."""
    return MisuseError(Finding(code, subject, Outcome.MISUSE, expected, found, remedy))
