"""What each call of the `Node` makes of a CVM's record: pure, None where nothing is to change (api N1, N2)."""

from dataclasses import replace

from teehouse.node.api import CvmPhase
from teehouse.node.store import CvmRecord

_LIVE = frozenset({CvmPhase.BOOTING, CvmPhase.RUNNING})


def started(record: CvmRecord, correlation_id: str) -> CvmRecord | None:
    """Wanted to run. One that runs, or is about to, is left alone."""
    if record.wanted is CvmPhase.RUNNING and (record.pending or record.phase is CvmPhase.RUNNING):
        return None
    return replace(record, wanted=CvmPhase.RUNNING, pending=True, fresh=False, correlation_id=correlation_id)


def stopped(record: CvmRecord, deadline: float, correlation_id: str) -> CvmRecord | None:
    """Wanted to stop, within `deadline` seconds. A stop under way may be shortened, never prolonged.

    What was never started is left as it is, and so is what has stopped or goes away.
    """
    if record.wanted is CvmPhase.REMOVED:
        return None
    if record.phase in {CvmPhase.CREATED, CvmPhase.STOPPED} and not record.pending:
        return None
    if record.pending and record.wanted is CvmPhase.STOPPED:
        if deadline >= record.deadline:
            return None
    elif record.phase is CvmPhase.STOPPING:  # of a restart
        deadline = min(deadline, record.deadline)
    return replace(
        record,
        wanted=CvmPhase.STOPPED,
        pending=True,
        fresh=False,
        deadline=deadline,
        correlation_id=correlation_id,
    )


def restarted(record: CvmRecord, deadline: float, correlation_id: str) -> CvmRecord | None:
    """Wanted to boot anew. A boot that is under way, or about to come, is that boot."""
    coming = record.pending and (record.fresh or record.phase is not CvmPhase.RUNNING)
    if record.wanted is CvmPhase.RUNNING and coming:
        return None
    if record.phase is CvmPhase.STOPPING:
        deadline = min(deadline, record.deadline)
    return replace(
        record,
        wanted=CvmPhase.RUNNING,
        pending=True,
        fresh=record.phase in _LIVE,
        deadline=deadline,
        correlation_id=correlation_id,
    )


def removed(record: CvmRecord, correlation_id: str) -> CvmRecord | None:
    """Wanted to go, at once; asked for again after it failed, it is tried again."""
    if record.wanted is CvmPhase.REMOVED and record.pending:
        return None
    return replace(
        record,
        wanted=CvmPhase.REMOVED,
        pending=True,
        fresh=False,
        deadline=0.0,
        correlation_id=correlation_id,
    )
