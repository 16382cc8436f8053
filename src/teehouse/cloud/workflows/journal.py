"""What the database says of an operation while it is carried on, and once it has ended.

Rules:

J1. Each write is guarded by `finished_at IS NULL`: an operation that was superseded, or was ended by another
    process that carried it on meanwhile, changes nothing any more.
J2. The end of an operation, the state it leaves its CVM in, what webhooks are told and what a deleted CVM gives back are one
    transaction.
J3. A repeated write of the same step leaves one event.
"""

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from teehouse.base.clock import Clock
from teehouse.base.findings import Finding
from teehouse.base.hashes import sha256
from teehouse.cloud.allowlists.authorisations import unused_hashes
from teehouse.cloud.apps.models import App
from teehouse.cloud.cvms.addresses import published_text
from teehouse.cloud.cvms.models import Cvm, CvmEvent, CvmStatus, Operation
from teehouse.cloud.db.engine import Database
from teehouse.cloud.inventory.models import KmsContract, KmsNode
from teehouse.cloud.nodes.reservations import release
from teehouse.cloud.revisions.models import OperationType
from teehouse.cloud.webhooks.models import WebhookEvent
from teehouse.cloud.webhooks.outbox import tell
from teehouse.cloud.workflows.plan import STATUS, UPDATES, Step
from teehouse.cloud.workflows.spec import node_spec
from teehouse.node.api import CvmPhase, CvmSpec, CvmState

SUCCEEDED: Final = "succeeded"
FAILED: Final = "failed"
SUPERSEDED: Final = "superseded"

_TOLD: Final = {
    OperationType.CREATE: WebhookEvent.CREATED,
    OperationType.REPLICATE: WebhookEvent.CREATED,
    OperationType.START: WebhookEvent.STARTED,
    OperationType.RESTART: WebhookEvent.RESTARTED,
    OperationType.STOP: WebhookEvent.STOPPED,
    OperationType.SHUTDOWN: WebhookEvent.STOPPED,
    OperationType.DELETE: WebhookEvent.DELETED,
    **dict.fromkeys(UPDATES, WebhookEvent.UPDATED),
}


class EndedError(Exception):
    """The operation is over (rule J1): whoever carries it on stops here."""


@dataclass(frozen=True, slots=True)
class Work:
    """An operation with what its steps need to know. `spec` is the CVM as it is wanted; `on_chain` is its KMS."""

    operation_id: int
    correlation_id: str
    operation_type: OperationType
    plan: tuple[Step, ...]
    phase: str
    cvm_id: int
    vm_uuid: str
    node_id: int | None
    spec: CvmSpec
    deadline: float
    on_chain: bool
    trace_id: str | None = None

    @property
    def app_id(self) -> str:
        """40 hex digits."""
        return (self.spec.app_id or b"").hex()

    @property
    def compose_hash(self) -> str:
        """64 hex digits."""
        return sha256(self.spec.compose).hex()


class Journal:
    """Reads and writes operations (rules J1 to J3)."""

    def __init__(self, database: Database, clock: Clock, *, deadline: float) -> None:
        self._database = database
        self._clock = clock
        self._deadline = deadline

    async def load(self, operation_id: int) -> Work:
        """The operation. Raises `EndedError`."""
        async with self._database.read() as session:
            row = (
                await session.execute(
                    select(Operation, Cvm, KmsContract.chain_id)
                    .join(Cvm, Cvm.id == Operation.cvm_id)
                    .join(KmsNode, KmsNode.id == Cvm.kms_id)
                    .join(KmsContract, KmsContract.id == KmsNode.contract_id)
                    .where(Operation.id == operation_id, Operation.finished_at.is_(None))
                )
            ).one_or_none()
            if row is None:
                raise EndedError
            operation, cvm, chain_id = row
            timeout = cvm.shutdown_timeout
            return Work(
                operation_id=operation.id,
                correlation_id=operation.correlation_id,
                operation_type=OperationType(operation.operation_type),
                plan=tuple(Step(name) for name in operation.request["plan"]),
                phase=operation.phase,
                cvm_id=cvm.id,
                vm_uuid=cvm.vm_uuid,
                node_id=cvm.node_id,
                spec=await node_spec(session, cvm),
                deadline=self._deadline if timeout is None else float(timeout),
                on_chain=bool(chain_id),
                trace_id=operation.trace_id,
            )

    async def unused(self, work: Work) -> frozenset[str]:
        """Compose hashes that the app needs no more once this operation has succeeded."""
        deleted = work.operation_type is OperationType.DELETE
        async with self._database.read() as session:
            return await unused_hashes(session, work.app_id, settled=work.cvm_id, deleted=deleted)

    async def enter(self, work: Work, step: Step) -> None:
        """The operation is at this step. Raises `EndedError`."""
        async with self._database.write() as session:
            before = await self._hold(session, work)
            if before == step:
                return
            await session.execute(
                update(Operation).where(Operation.id == work.operation_id).values(phase=step)
            )
            await self._cvm(session, work, status=STATUS[step])
            await self._event(session, work, step, f"operation {work.operation_type}")

    async def progress(self, work: Work, text: str) -> None:
        """How far a boot is, in the node's words."""
        async with self._database.write() as session:
            await self._hold(session, work)
            await self._cvm(session, work, boot_progress=text)

    async def finish(self, work: Work, state: CvmState | None) -> None:
        """The operation has done what it was to do; `state` is the node's last word, None for a CVM that is gone."""
        now = self._clock.now()
        async with self._database.write() as session:
            await self._end(session, work, SUCCEEDED, None)
            if work.operation_type is OperationType.DELETE:
                await self._cvm(session, work, status=CvmStatus.DELETED, deleted_at=now, boot_progress=None)
                await release(session, cvm_id=work.cvm_id)
                await self._leave_app(session, work)
            else:
                await self._cvm(session, work, **seen(state))
            await self._event(session, work, SUCCEEDED, f"operation {work.operation_type}")
            await tell(session, work.cvm_id, _TOLD[work.operation_type], now=now)

    async def fail(self, work: Work, finding: Finding) -> None:
        """The operation could not do what it was to do. The CVM is in error until something else is asked of it."""
        async with self._database.write() as session:
            await self._end(session, work, FAILED, {**finding.as_dict()})
            sentence = finding.sentence()
            await self._cvm(session, work, status=CvmStatus.ERROR, boot_error=sentence)
            await self._event(session, work, FAILED, sentence)
            if work.operation_type in {OperationType.CREATE, OperationType.REPLICATE}:
                await tell(
                    session,
                    work.cvm_id,
                    WebhookEvent.CREATE_FAILED,
                    now=self._clock.now(),
                    error=sentence,
                )

    async def _hold(self, session: AsyncSession, work: Work) -> str:
        """The phase of the operation, which nobody else ends in this transaction."""
        phase = (
            await session.execute(
                select(Operation.phase)
                .where(Operation.id == work.operation_id, Operation.finished_at.is_(None))
                .with_for_update()
            )
        ).scalar_one_or_none()
        if phase is None:
            raise EndedError
        return phase

    async def _end(
        self, session: AsyncSession, work: Work, outcome: str, error: dict[str, Any] | None
    ) -> None:
        await self._hold(session, work)
        await session.execute(
            update(Operation)
            .where(Operation.id == work.operation_id)
            .values(outcome=outcome, error=error, finished_at=self._clock.now())
        )

    async def _cvm(self, session: AsyncSession, work: Work, **values: Any) -> None:
        await session.execute(
            update(Cvm).where(Cvm.id == work.cvm_id).values(updated_at=self._clock.now(), **values)
        )

    async def _event(self, session: AsyncSession, work: Work, event: str, body: str) -> None:
        workspace_id = (
            await session.execute(select(Cvm.workspace_id).where(Cvm.id == work.cvm_id))
        ).scalar_one()
        session.add(
            CvmEvent(
                workspace_id=workspace_id,
                cvm_id=work.cvm_id,
                operation_id=work.operation_id,
                event=event,
                body=body,
                created_at=self._clock.now(),
            )
        )

    async def _leave_app(self, session: AsyncSession, work: Work) -> None:
        """An app without CVMs is no longer shown (`apps.models`, rule 2)."""
        app = (await session.execute(select(Cvm.app_record_id).where(Cvm.id == work.cvm_id))).scalar_one()
        left = (
            await session.execute(
                select(func.count()).where(Cvm.app_record_id == app, Cvm.deleted_at.is_(None))
            )
        ).scalar_one()
        if not left:
            now = self._clock.now()
            await session.execute(update(App).where(App.id == app).values(deleted_at=now, updated_at=now))


def seen(state: CvmState | None) -> dict[str, Any]:
    """What a CVM's row says of it, once the node's state is taken over; no state means that it is unknown there."""
    if state is None:
        return {
            "status": CvmStatus.STOPPED,
            "boot_progress": None,
            "shutdown_progress": None,
            "agent_url": None,
            "published": None,
        }
    values: dict[str, Any] = {
        "status": _STATUS[state.phase],
        "boot_progress": "done" if state.phase is CvmPhase.RUNNING else None,
        "boot_error": state.error.sentence() if state.error and state.phase is CvmPhase.ERROR else None,
        "shutdown_progress": None,
        "agent_url": state.endpoints.pages_url if state.endpoints is not None else None,
        "published": published_text(state.containers) if state.phase is CvmPhase.RUNNING else None,
    }
    if state.instance_id:
        values["instance_id"] = state.instance_id.hex()
    if state.phase is CvmPhase.RUNNING:
        values |= {"started_at": state.started_at, "exited_at": None}
    return values


_STATUS: Final = {
    CvmPhase.CREATED: CvmStatus.STOPPED,
    CvmPhase.BOOTING: CvmStatus.STARTING,
    CvmPhase.RUNNING: CvmStatus.RUNNING,
    CvmPhase.STOPPING: CvmStatus.STOPPING,
    CvmPhase.STOPPED: CvmStatus.STOPPED,
    CvmPhase.ERROR: CvmStatus.ERROR,
    CvmPhase.REMOVED: CvmStatus.DELETED,
}
