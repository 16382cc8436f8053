"""Operations as DBOS workflows on the control plane's own database (design.md 6).

Rules:

D1. A step that was recorded is not repeated; one that was under way when a process died is. Steps allow that
    (`plan`, rule P1), and none assumes that it runs where the operation began.
D2. DBOS allows one instance per process, so there is one `DbosWorkflows` launched at a time. Its functions find
    the steps through `_launched`, and are registered once, when this module is imported.
D3. On SQLite there is one process: its executor has a fixed name, and `launch` goes on with what it left behind.
    On PostgreSQL each process is an executor with a name of its own, alive as long as its lock (`executors`). What
    a dead one left is asked for under its lock: of two that find it dead, the second finds nothing left. Who lost its
    own lock with the connection judges nobody for `SETTLING`: the others lost theirs with the same database.
D4. Arguments and results are numbers and short texts, stored as JSON: what is read back from the database cannot
    become code.
D5. The version that DBOS compares is a constant: plans are stored with their operations, so a newer release goes
    on with what an older one began.
D6. An operation without a workflow, or whose workflow ended before it did (a database that was away for longer
    than steps are repeated), is started again by `sweep`, by one process, under a new workflow id.
D7. A workflow of this process that is pending and that nothing here carries on (the database was away when DBOS
    wanted to write down how it went) is resumed by `sweep`, when two rounds have found it so.
"""

import asyncio
import json
import os
import secrets
import socket
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, Final, cast

import structlog
from dbos import DBOS, DBOSConfig, SetWorkflowID, WorkflowStatus
from dbos._serialization import Serializer
from sqlalchemy import CursorResult, select, update
from sqlalchemy.engine import URL

from teehouse.base.clock import Clock
from teehouse.base.findings import misuse
from teehouse.cloud.cvms.models import Operation
from teehouse.cloud.db.engine import Database
from teehouse.cloud.workflows.api import drive
from teehouse.cloud.workflows.executors import ExecutorLock
from teehouse.cloud.workflows.plan import Step
from teehouse.cloud.workflows.steps import Steps

APPLICATION: Final = "teehouse"
VERSION: Final = "1"  # rule D5
EMBEDDED: Final = "embedded"
GRACE: Final = timedelta(seconds=15)  # before `sweep` takes an operation for forgotten
SETTLING: Final = 15.0  # seconds
LATE: Final = 60.0  # seconds without a sweep, after which the engine is not well
_UNDER_WAY: Final = frozenset({"PENDING", "ENQUEUED", "DELAYED"})
_ATTEMPTS: Final = 8  # of a step that the database did not let happen: about two minutes

_log = structlog.get_logger(__name__)


class JsonSerializer(Serializer):
    """Rule D4. An exception becomes its name: its text may hold anything."""

    def serialize(self, data: Any) -> str:
        return json.dumps(data, default=lambda value: type(value).__name__)

    def deserialize(cls, serialized_data: str) -> Any:  # noqa: N805 - the name that the base class gives it
        return json.loads(serialized_data)

    def name(self) -> str:
        return "teehouse_json"


class DbosWorkflows:
    """`Workflows` on DBOS (rules D1 to D7)."""

    def __init__(self, database: Database, steps: Steps, clock: Clock, *, executor_id: str = "") -> None:
        self._database = database
        self._clock = clock
        self._lock = None if database.dialect == "sqlite" else ExecutorLock(database.engine)
        own = EMBEDDED if self._lock is None else _own_name()
        self.executor_id = executor_id or own
        self.steps = steps
        self.tasks: set[asyncio.Task[Any]] = set()
        self.running: set[int] = set()  # operations whose workflow is under way here
        self._left: set[str] = set()  # workflows that the last round of `sweep` found left alone
        self._settled_at = self._swept_at = 0.0  # by the clock of the event loop

    async def launch(self) -> None:
        global _launched  # noqa: PLW0603 - rule D2
        if _launched is not None:
            raise misuse(
                "cloud.workflows-launched",
                "the engine of workflows",
                expected="one per process",
                found="another one is running",
                remedy="close the other control plane of this process first",
            )
        if self._lock is not None:
            await self._lock.hold(self.executor_id)
        _launched = self
        DBOS(config=_config(self._database.engine.url, self.executor_id))
        DBOS.launch()
        await self.sweep()

    async def start(self, operation_id: int) -> None:
        async with self._database.read() as session:
            question = select(Operation.workflow_id).where(
                Operation.id == operation_id, Operation.finished_at.is_(None)
            )
            workflow_id = (await session.execute(question)).scalar_one_or_none()
        if workflow_id is not None:
            await self._begin(operation_id, workflow_id)

    async def sweep(self) -> int:
        taken = await self._take_over()
        before = self._clock.now() - GRACE
        async with self._database.read() as session:
            rows = (
                await session.execute(
                    select(Operation.id, Operation.workflow_id)
                    .where(
                        Operation.finished_at.is_(None),
                        Operation.workflow_id.is_not(None),
                        Operation.started_at <= before,
                    )
                    .order_by(Operation.id)
                )
            ).all()
        left: set[str] = set()
        for operation_id, known in rows:
            workflow_id = str(known)
            status = await DBOS.get_workflow_status_async(workflow_id)
            if status is not None and status.status in _UNDER_WAY:
                ours = status.status == "PENDING" and status.executor_id == self.executor_id
                if not ours or operation_id in self.running:
                    continue
                if workflow_id in self._left:
                    await DBOS.resume_workflow_async(workflow_id)
                    taken += 1
                else:
                    left.add(workflow_id)
                continue
            if status is not None:
                fresh = await self._anew(operation_id, workflow_id)
                if fresh is None:
                    continue
                workflow_id = fresh
            await self._begin(operation_id, workflow_id)
            taken += 1
        self._left = left
        self._swept_at = asyncio.get_running_loop().time()
        return taken

    def trouble(self) -> str | None:
        """What is wrong with the engine; None while it carries on work, and looks after that of others."""
        if _launched is not self:
            return "not launched"
        late = asyncio.get_running_loop().time() - self._swept_at
        return f"work was last looked after {late:.0f} seconds ago" if late > LATE else None

    async def close(self) -> None:
        global _launched  # noqa: PLW0603 - rule D2
        if _launched is not self:
            return
        tasks = tuple(self.tasks)
        for task in tasks:
            task.cancel()  # the workflow stays pending
        await asyncio.gather(*tasks, return_exceptions=True)
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as apart:  # it waits for threads that may wait for this loop
            await loop.run_in_executor(apart, DBOS.destroy)
        loop.set_default_executor(
            ThreadPoolExecutor()
        )  # DBOS had put its own, which is closed, in this place
        _launched = None
        if self._lock is not None:
            await self._lock.release()

    async def _begin(self, operation_id: int, workflow_id: str) -> None:
        with SetWorkflowID(workflow_id):
            await DBOS.start_workflow_async(_operation, operation_id)

    async def _anew(self, operation_id: int, workflow_id: str) -> str | None:
        """A new workflow id for an operation that outlived its workflow; None when another process was faster."""
        fresh = f"{workflow_id.partition('+')[0]}+{secrets.token_hex(4)}"
        async with self._database.write() as session:
            changed = await session.execute(
                update(Operation)
                .where(
                    Operation.id == operation_id,
                    Operation.workflow_id == workflow_id,
                    Operation.finished_at.is_(None),
                )
                .values(workflow_id=fresh)
            )
        return fresh if cast("CursorResult[Any]", changed).rowcount else None

    async def _take_over(self) -> int:
        """Go on with what executors that are dead left behind (rule D3); how many workflows."""
        if self._lock is None:
            return 0
        now = asyncio.get_running_loop().time()
        if not await self._lock.hold(self.executor_id):
            self._settled_at = now + SETTLING
        if now < self._settled_at:
            return 0
        pending = await _pending()
        others = {one.executor_id for one in pending if one.executor_id not in {None, self.executor_id}}
        taken = 0
        for executor_id in sorted(name for name in others if name):
            async with self._lock.try_take(executor_id) as dead:
                if not dead:
                    continue
                for one in await _pending(executor_id):
                    await DBOS.resume_workflow_async(one.workflow_id)
                    taken += 1
                _log.warning("executor is dead, its work is resumed", executor=executor_id)
        return taken


async def _pending(executor_id: str | None = None) -> list[WorkflowStatus]:
    """Workflows that are carried on, by this executor or by any."""
    return await DBOS.list_workflows_async(
        status="PENDING", executor_id=executor_id, load_input=False, load_output=False
    )


def _own_name() -> str:
    """A name that no other executor ever has; people read the machine and the process from it."""
    return f"{socket.gethostname()[:40]}-{os.getpid()}-{secrets.token_hex(8)}"


_launched: DbosWorkflows | None = None


def _engine() -> DbosWorkflows:
    if _launched is None:
        raise asyncio.CancelledError  # the process is closing; the workflow stays pending
    return _launched


@DBOS.step(name="plan", retries_allowed=True, max_attempts=_ATTEMPTS)
async def _plan(operation_id: int) -> list[str] | None:
    steps = await _engine().steps.plan(operation_id)
    return None if steps is None else [step.value for step in steps]


@DBOS.step(name="step", retries_allowed=True, max_attempts=_ATTEMPTS)
async def _step(name: str, operation_id: int) -> str:
    return await _engine().steps.run(str(name), operation_id)


@DBOS.workflow(name="operation", max_recovery_attempts=1000)
async def _operation(operation_id: int) -> None:
    engine = _engine()
    task = asyncio.current_task()
    if task is not None:
        engine.tasks.add(task)
        task.add_done_callback(engine.tasks.discard)
    engine.running.add(operation_id)
    try:
        plan = await _plan(operation_id)
        if plan is not None:
            await drive(_step, operation_id, tuple(Step(name) for name in plan))
    finally:
        engine.running.discard(operation_id)


def _config(url: URL, executor_id: str) -> DBOSConfig:
    """DBOS's configuration for the control plane's database; it uses drivers that block, in its own threads."""
    driver = "sqlite" if url.get_backend_name() == "sqlite" else "postgresql+psycopg"
    return DBOSConfig(
        name=APPLICATION,
        system_database_url=url.set(drivername=driver).render_as_string(hide_password=False),
        executor_id=executor_id,
        application_version=VERSION,
        serializer=JsonSerializer(),
        log_level="WARNING",
        sys_db_pool_size=5,
    )
