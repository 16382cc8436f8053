"""Starting, stopping, restarting and deleting CVMs (cloud-api.md 10.3, 15).

Rules:

A1. What a CVM is already is no conflict and no work: starting one that runs answers with it as it is.
A2. A hard stop is allowed where the CVM's `allow_force_stop` says so; a shutdown always.
A3. A deletion goes ahead of whatever is under way, and is answered again as long as it is.
"""

from dataclasses import dataclass
from typing import Final

from teehouse.cloud.cvms.lifecycle import Lifecycle
from teehouse.cloud.cvms.models import CvmStatus
from teehouse.cloud.cvms.operations import Author, add_revision, begin, hold_cvm, under_way
from teehouse.cloud.errors import CloudError, ErrorCode
from teehouse.cloud.revisions.models import OperationType
from teehouse.cloud.workflows.spec import latest_revision

_ALREADY: Final = {
    OperationType.START: CvmStatus.RUNNING,
    OperationType.STOP: CvmStatus.STOPPED,
    OperationType.SHUTDOWN: CvmStatus.STOPPED,
}


@dataclass(frozen=True, slots=True)
class Acted:
    """The CVM, and the operation that began, if one did."""

    cvm_id: int
    operation_id: int | None
    correlation_id: str | None


async def act(
    life: Lifecycle, author: Author, cvm: str, kind: OperationType, *, force: bool = False
) -> Acted:
    """Begin START, STOP, SHUTDOWN, RESTART or DELETE (rules A1 to A3). Raises `CloudError`."""
    now = life.now()
    async with life.database.write() as session:
        row = await hold_cvm(session, author.workspace_id, cvm)
        other = await under_way(session, row.id)
        if kind is OperationType.DELETE and other is not None and other.operation_type == kind:
            return Acted(row.id, None, other.correlation_id)
        if other is None and row.status == _ALREADY.get(kind):
            return Acted(row.id, None, row.correlation_id)
        hard = kind is OperationType.STOP or (kind is OperationType.RESTART and force)
        if hard and not row.allow_force_stop:
            raise CloudError(
                ErrorCode.INCOMPATIBLE_CONFIG,
                "The CVM does not allow a forced stop",
                suggestions=["Shut it down instead, or set allow_force_stop"],
            )
        operation = await begin(session, row, kind, author, now=now, force=force)
        if kind is OperationType.RESTART:
            before = await latest_revision(session, row.id)
            await add_revision(
                session,
                row,
                kind,
                author,
                now=now,
                changed=[],
                encrypted_env=before.encrypted_env if before else b"",
                user_config=before.user_config if before else "",
                correlation_id=operation.correlation_id,
            )
        acted = Acted(row.id, operation.id, operation.correlation_id)
    if acted.operation_id is not None:
        await life.workflows.start(acted.operation_id)
    return acted
