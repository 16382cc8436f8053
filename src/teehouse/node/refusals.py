"""Refusals of a node over RPC: whatever `LocalNode` raises, `RemoteNode` raises alike.

Rules:

1. A refusal has its text, its class, and all its findings: the first is its own, others are further faults. Each
   text is cut to `FINDING_LIMIT` characters, the findings to `FINDINGS_LIMIT`.
2. It comes back as the class that was raised, or as the nearest one above that both sides know.
3. What is no refusal is an `EvidenceError` with code `node.answer`.
"""

from collections.abc import Iterable
from typing import Final

from teehouse.base.findings import (
    CollateralError,
    EvidenceError,
    Family,
    Finding,
    MisuseError,
    Outcome,
    TeehouseError,
)
from teehouse.node.members import Misfit, as_text, strict, word
from teehouse.node.workload import WorkloadError
from teehouse.tee.platform import PlatformError
from teehouse.wire import jsonmap, node_pb2
from teehouse.wire.members import FileError

FINDING_LIMIT: Final = 10_000  # characters of one text
FINDINGS_LIMIT: Final = 100

_KINDS: Final = (WorkloadError, FileError, PlatformError, EvidenceError, CollateralError, MisuseError)
_FAMILIES: Final = {
    Family.EVIDENCE: EvidenceError,
    Family.COLLATERAL: CollateralError,
    Family.MISUSE: MisuseError,
}


def finding_message(finding: Finding) -> node_pb2.Finding:
    """A finding, each member cut to `FINDING_LIMIT`."""
    members = finding.as_dict()
    return node_pb2.Finding(**{name: as_text(text)[:FINDING_LIMIT] for name, text in members.items()})


def read_finding(message: node_pb2.Finding) -> Finding:
    """The finding of an answer. Raises `Misfit`."""
    return Finding(
        message.code,
        message.subject,
        word(Outcome, message.outcome),
        message.expected,
        message.found,
        message.remedy,
        message.check,
    )


def refusal_message(error: TeehouseError) -> node_pb2.Refusal:
    """A refusal with all it says (rules 1, 2)."""
    kind = next((kind for kind in _KINDS if isinstance(error, kind)), _FAMILIES[error.family])
    further: Iterable[Finding] = ()
    if isinstance(error, WorkloadError):
        further = error.findings[1:]
    elif isinstance(error, FileError):
        further = error.faults
    findings = [error.finding, *further][:FINDINGS_LIMIT]
    return node_pb2.Refusal(
        error=as_text(str(error))[:FINDING_LIMIT],
        kind=kind.__name__,
        findings=map(finding_message, findings),
    )


def encode_refusal(error: TeehouseError, json: bool) -> bytes:
    """The body of a refusal, as JSON or protobuf."""
    return (jsonmap.encode_json if json else jsonmap.encode_protobuf)(refusal_message(error))


@strict
def read_refusal(message: node_pb2.Refusal) -> TeehouseError:
    """The error of a refusal, to be raised. Raises `EvidenceError` for none (rule 3)."""
    findings = tuple(map(read_finding, message.findings))
    if not findings or findings[0].ok:
        raise Misfit("a refusal without a finding")
    if message.kind == WorkloadError.__name__:
        return WorkloadError(findings)
    if message.kind == FileError.__name__:
        return FileError(findings[0].code.removesuffix(".faults"), findings[1:])
    for kind in _KINDS[2:]:
        if message.kind == kind.__name__:
            return kind(findings[0])
    raise Misfit(f"a refusal of kind {message.kind[:64]!a}")
