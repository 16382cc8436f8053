"""Operations carried on by tasks of this process, from what their rows say: for one process alone.

Rules:

I1. Where an operation goes on follows from its row: the step under way is repeated, those before it are not.
I2. An operation is carried on by one task at a time.
I3. A step that the database did not let happen is repeated by `sweep`.
"""

import asyncio
import contextlib

import structlog
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from teehouse.cloud.cvms.models import Operation
from teehouse.cloud.db.engine import Database
from teehouse.cloud.workflows.api import drive
from teehouse.cloud.workflows.steps import Steps

_log = structlog.get_logger(__name__)


class InlineWorkflows:
    """`Workflows` without an engine of its own."""

    def __init__(self, database: Database, steps: Steps) -> None:
        self._database = database
        self._steps = steps
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def launch(self) -> None:
        await self.sweep()

    async def start(self, operation_id: int) -> None:
        if operation_id in self._tasks:
            return
        task = asyncio.create_task(self._carry_on(operation_id), name=f"operation-{operation_id}")
        self._tasks[operation_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(operation_id, None))

    async def sweep(self) -> int:
        async with self._database.read() as session:
            unfinished = select(Operation.id).where(Operation.finished_at.is_(None))
            found = [one for one in (await session.execute(unfinished)).scalars() if one not in self._tasks]
        for operation_id in found:
            await self.start(operation_id)
        return len(found)

    async def close(self) -> None:
        tasks = tuple(self._tasks.values())
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def idle(self) -> None:
        """Wait until nothing is under way in this process."""
        while self._tasks:
            await asyncio.wait(tuple(self._tasks.values()))

    async def _carry_on(self, operation_id: int) -> None:
        try:
            rest = await self._steps.rest(operation_id)
            if rest is not None:
                await drive(self._steps.run, operation_id, rest)
        except (SQLAlchemyError, OSError) as error:  # rule I3
            _log.warning("operation interrupted", operation=operation_id, reason=type(error).__name__)
