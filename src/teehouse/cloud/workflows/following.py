"""Following what happens on a node, event by event, and what is done now and then.

Rules:

F1. Events are followed from the last one taken in; the cursor is kept with the node's row, and begins anew with
    another incarnation of the node process. After a gap all CVMs of the node are compared.
F2. A node that does not answer is offline until it does; it is asked again after a pause.
F3. A chore that fails is told to the log and done again at its next time; it ends none of the others.
F4. The cursor is written with what it stands for: at the latest `CURSOR_EVERY` events later.
F5. A node that is registered later is followed from the next `NodeFollowers.look` on.
F6. Of several processes on PostgreSQL, one follows a node, by a claim (`executors`, rule X4). One that cannot reach
    the node gives the claim back for a pause, so that another one may try: a node is offline when nobody reaches it.
    A cursor is written for the incarnation it counts in, and never backwards: two followers do no harm.
"""

import asyncio
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import structlog
from sqlalchemy import select, update
from sqlalchemy.exc import SQLAlchemyError

from teehouse.base.clock import Clock
from teehouse.base.findings import TeehouseError
from teehouse.cloud.db.engine import Database
from teehouse.cloud.nodes.directory import NodeDirectory
from teehouse.cloud.nodes.models import Node as NodeRow
from teehouse.cloud.nodes.models import NodeStatus
from teehouse.cloud.workflows.executors import Claims
from teehouse.cloud.workflows.observing import Reconciler
from teehouse.node.api import EventKind

PAUSE: Final = 5.0  # seconds
CURSOR_EVERY: Final = 50

_TELLING: Final = frozenset({EventKind.PHASE, EventKind.ERROR})
_log = structlog.get_logger(__name__)


class NodeFollower:
    """Follows one node (rules F1, F2, F4)."""

    def __init__(
        self,
        database: Database,
        nodes: NodeDirectory,
        reconciler: Reconciler,
        clock: Clock,
        node_id: int,
        *,
        pause: float = PAUSE,
    ) -> None:
        self._database = database
        self._nodes = nodes
        self._reconciler = reconciler
        self._clock = clock
        self._node_id = node_id
        self._pause = pause

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.attempt()
            await asyncio.sleep(self._pause)

    async def attempt(self) -> None:
        """Until the stream ends, or the node is offline (rule F2)."""
        try:
            await self.follow()
        except (TeehouseError, SQLAlchemyError, OSError) as error:
            _log.warning("node not followed", node=self._node_id, reason=str(error)[:200])
            await self._offline()

    async def follow(self) -> None:
        """Until the node ends the stream. Raises `CollateralError`, and what the database raises."""
        node = self._nodes.node(self._node_id)
        info = await node.info()
        cursor = await self._online(info.incarnation)
        await self._reconciler.compare(self._node_id)
        unwritten = 0
        async for event in node.events(cursor):
            if event.kind is EventKind.GAP:
                await self._reconciler.compare(self._node_id)
            elif event.kind in _TELLING:
                await self._reconciler.take_over(self._node_id, event.cvm_id)
            unwritten += 1
            if event.kind in _TELLING or unwritten >= CURSOR_EVERY:
                await self._write(info.incarnation, event.sequence)
                unwritten = 0

    async def _online(self, incarnation: int) -> int:
        """The node answers; after which event to go on."""
        async with self._database.write() as session:
            question = select(NodeRow).where(NodeRow.id == self._node_id).with_for_update()
            row = (await session.execute(question)).scalar_one()
            if row.incarnation != incarnation:
                row.incarnation, row.event_cursor = incarnation, 0
            if row.status == NodeStatus.OFFLINE:
                row.status = NodeStatus.ONLINE
            row.last_seen_at = self._clock.now()
            return row.event_cursor

    async def _offline(self) -> None:
        """Rule F2. What an operator set (draining) stays."""
        try:
            async with self._database.write() as session:
                await session.execute(
                    update(NodeRow)
                    .where(NodeRow.id == self._node_id, NodeRow.status == NodeStatus.ONLINE)
                    .values(status=NodeStatus.OFFLINE)
                )
        except (SQLAlchemyError, OSError) as error:
            _log.warning("node not marked", node=self._node_id, reason=type(error).__name__)

    async def _write(self, incarnation: int, cursor: int) -> None:
        """Rules F4 and F6."""
        async with self._database.write() as session:
            await session.execute(
                update(NodeRow)
                .where(
                    NodeRow.id == self._node_id,
                    NodeRow.incarnation == incarnation,
                    NodeRow.event_cursor <= cursor,
                )
                .values(event_cursor=cursor, last_seen_at=self._clock.now())
            )


class NodeFollowers:
    """Follows all nodes (rule F5), until closed; those that it has a claim to, where there are `claims` (F6)."""

    def __init__(
        self,
        database: Database,
        nodes: NodeDirectory,
        reconciler: Reconciler,
        clock: Clock,
        *,
        claims: Claims | None = None,
        pause: float = PAUSE,
    ) -> None:
        self._database = database
        self._nodes = nodes
        self._reconciler = reconciler
        self._clock = clock
        self._claims = claims
        self._pause = pause
        self._tasks: dict[int, asyncio.Task[None]] = {}

    @property
    def followed(self) -> frozenset[int]:
        """The numbers of the nodes that this process follows."""
        return frozenset(self._tasks)

    async def look(self) -> None:
        """Begin with the nodes that nobody follows yet. Raises what the database raises."""
        if self._claims is not None and self._tasks and not await self._claims.alive():
            await self._end()  # others may follow by now
        async with self._database.read() as session:
            numbers = (await session.execute(select(NodeRow.id).order_by(NodeRow.id))).scalars().all()
        for number in numbers:
            if number not in self._tasks and (
                self._claims is None or await self._claims.take(_claim(number))
            ):
                self._tasks[number] = asyncio.create_task(_reported("node", self._follow(number)))

    async def close(self) -> None:
        """End them."""
        await self._end()
        if self._claims is not None:
            await self._claims.close()

    async def _follow(self, number: int) -> None:
        follower = NodeFollower(
            self._database, self._nodes, self._reconciler, self._clock, number, pause=self._pause
        )
        if self._claims is None:
            await follower.run()
            return
        try:
            try:
                await follower.attempt()
            finally:
                await self._claims.drop(_claim(number))
            await asyncio.sleep(self._pause)  # somebody else's turn
        finally:
            self._tasks.pop(number, None)

    async def _end(self) -> None:
        tasks = tuple(self._tasks.values())
        self._tasks.clear()
        await _ended(tasks)


def _claim(number: int) -> str:
    return f"node-{number}"


async def repeat(name: str, seconds: float, chore: Callable[[], Awaitable[object]]) -> None:
    """Do it now and every so many seconds (rule F3), until cancelled."""
    while True:
        try:
            await chore()
        except (TeehouseError, SQLAlchemyError, OSError) as error:
            _log.warning("chore failed", chore=name, reason=str(error)[:200])
        await asyncio.sleep(seconds)


@asynccontextmanager
async def in_background(*works: Awaitable[object]) -> AsyncIterator[None]:
    """Run these beside the block, and end them with it."""
    tasks = [asyncio.ensure_future(_reported("chore", work)) for work in works]
    try:
        yield
    finally:
        await _ended(tasks)


async def _ended(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _reported(what: str, work: Awaitable[object]) -> None:
    """What ends though nobody ended it is a fault of ours: the log tells of it at once."""
    try:
        await work
    except Exception:
        _log.error("ended by a fault", what=what, traceback=traceback.format_exc())
        raise
