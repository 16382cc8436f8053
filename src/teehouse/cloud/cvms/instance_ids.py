"""Instance ids as nodes tell them, taken over into rows (cloud-api.md 10.3).

Rules:

1. What the node says counts. A row that has another id already is a conflict, unless `overwrite` is asked for.
2. With `dry_run` nothing is written, and the answer is the same.
3. A CVM that is not on a node, or that its node does not know, is skipped; a node that does not answer is an error.
"""

from dataclasses import dataclass

from sqlalchemy import select, update

from teehouse.base.findings import CollateralError, MisuseError
from teehouse.cloud.cvms.lifecycle import Lifecycle
from teehouse.cloud.cvms.lookup import find_cvm, live_cvms
from teehouse.cloud.cvms.models import Cvm, CvmStatus
from teehouse.wire.cloud.lifecycle import InstanceIdRequest, InstanceIdsRequest


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What became of one CVM's instance id."""

    cvm_id: int
    identifier: str
    status: str
    old: str | None
    new: str | None
    source: str
    reason: str | None = None


async def refresh_one(life: Lifecycle, workspace_id: int, cvm: str, request: InstanceIdRequest) -> Refreshed:
    """The CVM that a path calls `cvm`. Raises `CloudError`."""
    async with life.database.read() as session:
        number = await find_cvm(session, workspace_id, cvm)
        row = (await session.execute(select(Cvm).where(Cvm.id == number))).scalar_one()
    return await _refresh(life, row, cvm, overwrite=bool(request.overwrite), dry_run=bool(request.dry_run))


async def refresh_many(
    life: Lifecycle, workspace_id: int, request: InstanceIdsRequest
) -> tuple[int, list[Refreshed]]:
    """How many CVMs were meant, and what became of those that were looked at. Raises `CloudError`."""
    async with life.database.read() as session:
        question = select(Cvm).where(live_cvms(workspace_id)).order_by(Cvm.id)
        if request.cvm_ids is not None:
            numbers = [await find_cvm(session, workspace_id, str(text)) for text in request.cvm_ids]
            question = question.where(Cvm.id.in_(numbers))
        rows = list((await session.execute(question)).scalars())
    if request.running_only:
        rows = [row for row in rows if row.status == CvmStatus.RUNNING]
    if request.missing_only:
        rows = [row for row in rows if row.instance_id is None]
    overwrite, dry_run = bool(request.overwrite), bool(request.dry_run)
    done = [
        await _refresh(life, row, row.vm_uuid_text, overwrite=overwrite, dry_run=dry_run)
        for row in rows[: request.limit or 100]
    ]
    return len(rows), done


async def _refresh(
    life: Lifecycle, row: Cvm, identifier: str, *, overwrite: bool, dry_run: bool
) -> Refreshed:
    old = row.instance_id

    def refreshed(
        status: str, new: str | None, reason: str | None = None, source: str = "teepod_state"
    ) -> Refreshed:
        return Refreshed(row.id, identifier, status, old, new, source, reason)

    if row.node_id is None:
        return refreshed("skipped", old, "the CVM is on no node", "none")
    try:
        state = await life.nodes.node(row.node_id).state(row.vm_uuid)
    except MisuseError:
        return refreshed("skipped", old, "the node does not know the CVM", "none")
    except CollateralError as error:
        return refreshed("error", old, error.finding.sentence(), "none")
    new = state.instance_id.hex() or None
    if new is None:
        return refreshed("skipped", old, "the CVM has no instance id yet", "none")
    if new == old:
        return refreshed("unchanged", new)
    if old is not None and not overwrite:
        return refreshed(
            "conflict", new, "the CVM has another instance id; overwrite says that it may change"
        )
    if not dry_run:
        async with life.database.write() as session:
            await session.execute(update(Cvm).where(Cvm.id == row.id).values(instance_id=new))
    return refreshed("updated", new)
