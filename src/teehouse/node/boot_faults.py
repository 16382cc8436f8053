"""What is told of a boot, a stop or a removal that failed: which step, and why, without anything secret (api N4, N5)."""

from dataclasses import replace

from teehouse.base.findings import EvidenceError, Finding, Outcome, TeehouseError


class BootError(TeehouseError):
    """A boot that failed; its finding has the code `node.boot.STEP` and, in `check`, the code of the refusal."""

    def __init__(self, step: str, error: BaseException) -> None:
        self.step = step
        finding = failure(f"node.boot.{step}", f"boot step {step}", error)
        self.family = error.family if isinstance(error, TeehouseError) else EvidenceError.family
        super().__init__(finding)


def failure(code: str, what: str, error: BaseException) -> Finding:
    """A finding for something that went wrong under way; the text of unexpected errors may hold values: not shown."""
    if isinstance(error, TeehouseError):
        inner = error.finding
        subject = f"{what}: {inner.subject}"
        return replace(inner, code=code, subject=subject, check=inner.code)
    found = (error.strerror or "") if isinstance(error, OSError) else ""
    return Finding(
        code,
        what,
        Outcome.COLLATERAL_MISSING,
        found=found or f"an unexpected {type(error).__name__}",
        remedy="see the node's log; then start the CVM again",
        check="node.unexpected",
    )
