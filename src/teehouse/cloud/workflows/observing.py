"""What nodes say between operations: taken over into rows, compared, repaired or reported.

Rules:

B1. While an operation is under way, its steps alone move the CVM's status. Otherwise the node's word is the status.
B2. A CVM that ran, and runs no more though nobody asked for that, has exited: at the time it was seen.
B3. A CVM that should be stopped and runs is stopped; one that should run and stands stopped or new, is started: by
    an operation like any other. One in error is left so, with its reason: starting it again and again helps nobody.
B4. A node's CVM whose row was deleted is removed there. One that no row knows is reported and left alone: it may
    belong to another control plane.
B5. A CVM that its node does not know is reported and in error; where it is to run, a start takes it in anew.
B6. A CVM that runs another compose file than the wanted one is reported; what is wanted is repaired by an update.
B7. Every report is a finding, and a line in the log.
B8. A list of CVMs does not tell their ports: a CVM that has booted anew since, or whose ports are not known yet, is
    asked after by itself.
B9. Several processes may compare the same node at once, and what was read is older than what is written: a row is
    changed only if it still has the status it was judged by, and repaired only if it is still wanted so.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import structlog
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from teehouse.base.clock import Clock
from teehouse.base.findings import CollateralError, Finding, MisuseError, Outcome
from teehouse.cloud.cvms.models import Cvm, CvmEvent, CvmStatus, Desired, Operation
from teehouse.cloud.cvms.operations import Author, begin, hold_cvm_number
from teehouse.cloud.db.engine import Database
from teehouse.cloud.errors import CloudError
from teehouse.cloud.nodes.directory import NodeDirectory
from teehouse.cloud.nodes.models import Node as NodeRow
from teehouse.cloud.revisions.models import OperationType
from teehouse.cloud.workflows.api import Workflows
from teehouse.cloud.workflows.journal import seen
from teehouse.node.api import CvmPhase, CvmState, Node

_DOWN: Final = frozenset({CvmPhase.STOPPED, CvmPhase.CREATED})
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Row:
    """A live CVM's row, and whether an operation is under way with it."""

    id: int
    vm_uuid: str
    workspace_id: int
    status: str
    desired: str
    compose_hash: str
    started_at: datetime | None
    published: str | None
    busy: bool


class Reconciler:
    """Compares what nodes run with what the database says (rules B1 to B9)."""

    def __init__(self, database: Database, nodes: NodeDirectory, workflows: Workflows, clock: Clock) -> None:
        self._database = database
        self._nodes = nodes
        self._workflows = workflows
        self._clock = clock

    async def run_once(self) -> tuple[Finding, ...]:
        """All nodes; what was found. A node that does not answer is a finding, and stops none of the others."""
        async with self._database.read() as session:
            numbers = list((await session.execute(select(NodeRow.id).order_by(NodeRow.id))).scalars())
        found: list[Finding] = []
        for number in numbers:
            try:
                found += await self.compare(number)
            except CollateralError as error:
                found.append(error.finding)
                _log.warning("node not compared", node=number, reason=error.finding.sentence())
        return tuple(found)

    async def compare(self, node_id: int) -> tuple[Finding, ...]:
        """One node. Raises `CollateralError` when it does not answer."""
        node = self._nodes.node(node_id)
        rows = {row.vm_uuid: row for row in await self._rows(node_id)}
        states = {state.cvm_id: state for state in await node.list()}
        found: list[Finding] = []
        for cvm_id, state in states.items():
            row = rows.get(cvm_id)
            if row is None:
                found += await self._without_row(node_id, state)
            elif not row.busy and state.settled:
                whole = await self._whole(node, row, state)
                found += await self._settled(row, whole or state, ports=whole is not None)
        for cvm_id, row in rows.items():
            if cvm_id not in states and not row.busy:
                found += await self._lost(row)
        for one in found:
            _log.warning("reconciled", node=node_id, code=one.code, reason=one.sentence())
        return tuple(found)

    async def take_over(self, node_id: int, cvm_id: str) -> None:
        """What the node says of one CVM now, into its row (rules B1, B2)."""
        try:
            state = await self._nodes.node(node_id).state(cvm_id)
        except MisuseError:
            return
        row = next(iter(await self._rows(node_id, cvm_id)), None)
        if row is not None and not row.busy and state.settled and state.phase is not CvmPhase.REMOVED:
            await self._write(row, state, ports=True)

    async def _rows(self, node_id: int, vm_uuid: str | None = None) -> Iterable[_Row]:
        one = [] if vm_uuid is None else [Cvm.vm_uuid == vm_uuid]
        under_way = (Operation.cvm_id == Cvm.id) & Operation.finished_at.is_(None)
        async with self._database.read() as session:
            rows = await session.execute(
                select(
                    Cvm.id,
                    Cvm.vm_uuid,
                    Cvm.workspace_id,
                    Cvm.status,
                    Cvm.desired,
                    Cvm.compose_hash,
                    Cvm.started_at,
                    Cvm.published,
                    Operation.id.is_not(None),
                )
                .outerjoin(Operation, under_way)
                .where(Cvm.node_id == node_id, Cvm.deleted_at.is_(None), *one)
            )
            return [_Row(*row) for row in rows.all()]

    @staticmethod
    async def _whole(node: Node, row: _Row, listed: CvmState) -> CvmState | None:
        """All that the node says of the CVM, where rule B8 wants it."""
        known = row.published is not None and row.started_at == listed.started_at
        if listed.phase is not CvmPhase.RUNNING or known:
            return None
        try:
            state = await node.state(listed.cvm_id)
        except MisuseError:  # it is gone meanwhile; the next look tells
            return None
        return state if state.settled and state.phase is CvmPhase.RUNNING else None

    async def _settled(self, row: _Row, state: CvmState, *, ports: bool) -> list[Finding]:
        await self._write(row, state, ports=ports)
        found: list[Finding] = []
        if row.desired == Desired.DELETED:
            found += await self._repair(row, OperationType.DELETE, "deleted", state.phase.value)
        elif row.desired == Desired.STOPPED and state.phase is CvmPhase.RUNNING:
            found += await self._repair(row, OperationType.SHUTDOWN, "stopped", "running")
        elif row.desired == Desired.RUNNING and state.phase in _DOWN:
            found += await self._repair(row, OperationType.START, "running", state.phase.value)
        if state.compose_hash.hex() != row.compose_hash:
            found.append(_finding("cloud.other-compose", row, row.compose_hash, state.compose_hash.hex()))
        return found

    async def _without_row(self, node_id: int, state: CvmState) -> list[Finding]:
        """Rule B4."""
        async with self._database.read() as session:
            question = select(Cvm.deleted_at, Cvm.node_id).where(Cvm.vm_uuid == state.cvm_id)
            row = (await session.execute(question)).one_or_none()
        subject = f"CVM {state.cvm_id} on node {node_id}"
        if row is None:
            return [Finding("cloud.cvm-foreign", subject, Outcome.REJECTED, "a row in the database", "none")]
        if row.deleted_at is None and row.node_id == node_id:
            return []  # it was made between the two looks
        await self._nodes.node(node_id).remove(state.cvm_id)
        return [Finding("cloud.cvm-left", subject, Outcome.REJECTED, "removed", state.phase.value)]

    async def _lost(self, row: _Row) -> list[Finding]:
        """Rule B5; a CVM that was made between the two looks is seen next time."""
        if row.status in {CvmStatus.ERROR, CvmStatus.CREATING}:
            return []
        finding = _finding("cloud.cvm-lost", row, "a CVM", "none")
        async with self._database.write() as session:
            values = {"status": CvmStatus.ERROR, "boot_error": finding.sentence()}
            if not await _update(session, row, values, self._clock.now()):
                return []  # it was changed, deleted, or reported by somebody else meanwhile
        if row.desired == Desired.RUNNING:
            await self._repair(row, OperationType.START, "running", "unknown")
        elif row.desired == Desired.DELETED:
            await self._repair(row, OperationType.DELETE, "deleted", "unknown")
        return [finding]

    async def _repair(self, row: _Row, kind: OperationType, expected: str, found: str) -> list[Finding]:
        """Rule B3."""
        try:
            async with self._database.write() as session:
                cvm = await hold_cvm_number(session, row.workspace_id, row.id)
                if cvm.desired != row.desired:  # rule B9
                    return []
                author = Author(None, row.workspace_id)
                operation = await begin(
                    session, cvm, kind, author, now=self._clock.now(), request={"repairs": found}
                )
                number = operation.id
        except CloudError:  # an operation has begun meanwhile, or the CVM is gone
            return []
        await self._workflows.start(number)
        return [_finding("cloud.cvm-astray", row, expected, found)]

    async def _write(self, row: _Row, state: CvmState, *, ports: bool) -> None:
        """Rules B1 and B2; `ports` says that the state tells them (rule B8)."""
        now = self._clock.now()
        values = seen(state)
        if state.phase is CvmPhase.RUNNING and not ports:
            del values["published"]
        event = None
        if row.status == CvmStatus.RUNNING and state.phase is not CvmPhase.RUNNING:
            values["exited_at"] = now
            if state.phase in _DOWN:
                values["status"] = CvmStatus.EXITED
            event = "exited"
        elif row.status == CvmStatus.EXITED and state.phase in _DOWN:
            return
        async with self._database.write() as session:
            if await _update(session, row, values, now) and event is not None:
                session.add(
                    CvmEvent(
                        workspace_id=row.workspace_id,
                        cvm_id=row.id,
                        event=event,
                        body=values["boot_error"] or f"the node says {state.phase.value}",
                        created_at=now,
                    )
                )


async def _update(session: AsyncSession, row: _Row, values: dict[str, Any], now: datetime) -> bool:
    """Into the row, unless an operation has begun meanwhile (rule B1), or it is no longer what was judged (B9)."""
    held = select(Cvm.status).where(Cvm.id == row.id, Cvm.deleted_at.is_(None)).with_for_update()
    if (await session.execute(held)).scalar_one_or_none() != row.status:
        return False
    under_way = select(Operation.id).where(Operation.cvm_id == row.id, Operation.finished_at.is_(None))
    if (await session.execute(under_way)).first() is not None:
        return False
    await session.execute(update(Cvm).where(Cvm.id == row.id).values(observed_at=now, **values))
    return True


def _finding(code: str, row: _Row, expected: str, found: str) -> Finding:
    return Finding(code, f"CVM {row.vm_uuid}", Outcome.REJECTED, expected, found)
