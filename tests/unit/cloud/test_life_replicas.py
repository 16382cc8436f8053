"""What several processes on one database do at the same time: claims, announcements, stale looks, deliveries."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretBytes
from sqlalchemy import text, update
from sqlalchemy.exc import DBAPIError

from support import postgres
from support.cloud_life_support import Life, living
from support.cloud_workflow_support import finished
from teehouse.cloud.cvms.actions import act
from teehouse.cloud.cvms.models import CvmEvent
from teehouse.cloud.db.engine import Database, open_database
from teehouse.cloud.nodes.directory import KnownNodes
from teehouse.cloud.nodes.models import Node
from teehouse.cloud.parts import CloudParts
from teehouse.cloud.revisions.models import OperationType
from teehouse.cloud.secrets import seal
from teehouse.cloud.settings import CloudSettings
from teehouse.cloud.webhooks.delivery import WebhookWorker
from teehouse.cloud.webhooks.models import Webhook, WebhookDelivery
from teehouse.cloud.webhooks.signing import PURPOSE
from teehouse.cloud.workflows.announcing import AnnouncedWorkflows, hearing, listen
from teehouse.cloud.workflows.durable import DbosWorkflows
from teehouse.cloud.workflows.executors import Claims, ExecutorLock
from teehouse.cloud.workflows.following import NodeFollower, NodeFollowers, in_background
from teehouse.cloud.workflows.observing import Reconciler
from teehouse.cloud.workflows.steps import Steps
from teehouse.node.api import EventKind

SETTINGS = CloudSettings(database_url="sqlite+aiosqlite:///unused", secret_key=SecretBytes(bytes(range(32))))
END_OTHERS = text(
    "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what other tasks write
            await asyncio.sleep(0.01)


@asynccontextmanager
async def opened() -> AsyncIterator[Database]:
    """An empty PostgreSQL database."""
    postgres.require()
    database = open_database(postgres.shared_cluster().new_database())
    try:
        yield database
    finally:
        await database.dispose()


async def end_others(database: Database) -> None:
    """End all other connections, as a restart of the server does."""
    async with database.engine.connect() as connection:
        await connection.execute(END_OTHERS)


def reconciler(life: Life, nodes: Any = None) -> Reconciler:
    return Reconciler(life.database, nodes or life.life.nodes, life.workflows, life.clock)


def followers(life: Life, claims: Claims, nodes: Any = None) -> NodeFollowers:
    known = nodes or life.life.nodes
    return NodeFollowers(life.database, known, reconciler(life, known), life.clock, claims=claims, pause=0.05)


async def test_a_claim_is_one_process_s_and_lost_with_its_connection() -> None:
    async with opened() as database:
        one, two = Claims(database.engine), Claims(database.engine)
        assert not await one.alive()
        assert (await one.take("a"), await two.take("a"), await two.take("b")) == (True, False, True)
        await one.drop("a")
        assert (await two.take("a"), await one.take("a")) == (True, False)
        assert (await one.alive(), await two.alive()) == (True, True)
        await end_others(database)
        assert not await two.alive()
        with pytest.raises(DBAPIError):
            await one.take("a")
        await two.drop("a")  # lost already
        assert (await one.take("a"), await two.take("a")) == (True, False)
        await one.close()
        assert await two.take("a")
        await two.close()


async def test_an_executor_knows_that_it_lost_its_lock() -> None:
    async with opened() as database:
        lock, other = ExecutorLock(database.engine), ExecutorLock(database.engine)
        assert [await lock.hold("one") for _ in range(2)] == [True, True]
        async with other.try_take("one") as taken:
            assert not taken  # whoever holds no lock of its own judges nobody
        assert await other.hold("two")
        async with other.try_take("one") as taken:
            assert not taken
        await end_others(database)
        assert [await lock.hold("one") for _ in range(2)] == [False, True]
        await lock.release()
        assert not await other.hold("two")
        async with other.try_take("one") as taken:
            assert taken
        await other.release()


async def test_a_node_is_followed_by_one_process_and_then_by_the_other(tmp_path: Path) -> None:
    """Rule F6."""
    async with living(tmp_path, kind="postgresql") as life:
        one = followers(life, Claims(life.database.engine))
        two = followers(life, Claims(life.database.engine))
        for _ in range(2):
            await one.look()
            await two.look()
        await until(lambda: bool(life.node.readers))
        assert (one.followed, two.followed, life.node.readers) == ({1}, set(), 1)
        await one.close()
        await two.look()
        await until(lambda: bool(life.node.readers))
        assert (two.followed, life.node.readers) == ({1}, 1)
        await end_others(life.database)
        await one.look()
        assert one.followed == {1}
        await two.look()  # finds its claims lost, and that another process has them
        assert two.followed == set()
        await until(lambda: life.node.readers == 1)
        await one.close()
        await two.close()
        assert not life.node.readers


async def test_whoever_reaches_a_node_follows_it(tmp_path: Path) -> None:
    """Rule F6: a process without a way to the node leaves it to another one."""
    async with living(tmp_path, kind="postgresql") as life:
        cut_off = followers(life, Claims(life.database.engine), KnownNodes({}))
        other = followers(life, Claims(life.database.engine))
        await cut_off.look()
        assert cut_off.followed == {1}

        async def offline() -> bool:
            return bool((await life.rows(Node))[0].status == "offline")

        async with asyncio.timeout(20):
            while not await offline():  # noqa: ASYNC110 - another task's row
                await asyncio.sleep(0.01)
            while not life.node.readers:
                await other.look()
                await asyncio.sleep(0.01)
            await until(lambda: not cut_off.followed)
            while await offline():  # noqa: ASYNC110 - another task's row
                await asyncio.sleep(0.01)
        await cut_off.look()
        assert cut_off.followed == set()
        assert (await life.rows(Node))[0].status == "online"
        await other.close()
        await cut_off.close()


async def test_a_cursor_is_of_its_incarnation_and_goes_forward(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        done = await life.deploy()
        uuid = (await life.cvm(done.cvm_id)).vm_uuid
        follower = NodeFollower(life.database, life.life.nodes, reconciler(life), life.clock, 1)
        async with in_background(follower.run()):
            await until(lambda: bool(life.node.readers))
            for incarnation, cursor in ((2, 3), (1, 10_000)):
                async with life.database.write() as session:
                    await session.execute(
                        update(Node).values(incarnation=incarnation, event_cursor=cursor, last_seen_at=None)
                    )
                asked = life.node.calls.count("state")
                life.node.tell(uuid, EventKind.PHASE, "running")
                await until(lambda asked=asked: life.node.calls.count("state") > asked)  # type: ignore[misc] - bound now
                await asyncio.sleep(0.05)
                (row,) = await life.rows(Node)
                assert (row.incarnation, row.event_cursor, row.last_seen_at) == (incarnation, cursor, None)


async def test_what_changed_since_the_look_is_neither_overwritten_nor_repaired(tmp_path: Path) -> None:
    """Rule B9: rows are read before the node is asked, and much may happen in between."""
    async with living(tmp_path) as life:
        deleted, started = await life.deploy("deleted-one"), await life.deploy("started-one")
        await act(life.life, life.author, "started-one", OperationType.STOP)
        await life.idle()
        listed = life.node.list

        async def late() -> Any:
            life.node.list = listed
            await act(life.life, life.author, "deleted-one", OperationType.DELETE)
            await act(life.life, life.author, "started-one", OperationType.START)
            await life.idle()
            life.node.states.pop((await life.cvm(deleted.cvm_id)).vm_uuid)
            return await listed()

        life.node.list = late
        assert await reconciler(life).run_once() == ()
        await life.idle()
        assert (await life.cvm(deleted.cvm_id)).status == "deleted"
        assert (await life.cvm(started.cvm_id)).status == "running"


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_two_that_see_a_cvm_exit_write_it_down_once(tmp_path: Path, kind: str) -> None:
    async with living(tmp_path, kind=kind) as life:
        done = await life.deploy()
        uuid = (await life.cvm(done.cvm_id)).vm_uuid
        await life.node.stop(uuid)
        both = asyncio.Barrier(2)
        state = life.node.state

        async def at_once(cvm_id: str) -> Any:
            await both.wait()
            return await state(cvm_id)

        life.node.state = at_once
        await asyncio.gather(*(reconciler(life).take_over(1, uuid) for _ in range(2)))
        assert (await life.cvm(done.cvm_id)).status == "exited"
        assert [event.event for event in await life.rows(CvmEvent)].count("exited") == 1


async def test_an_operation_is_announced_and_begun_elsewhere(tmp_path: Path) -> None:
    """Rules N1, N2."""
    async with living(tmp_path, kind="postgresql") as life:
        parts = CloudParts(SETTINGS, life.database, clock=life.clock, lifecycle=life.life)
        announced = AnnouncedWorkflows(life.database)
        await announced.launch()
        life.life.workflows, carried_on = announced, life.workflows
        first = await life.begin("first-app")
        parts.lifecycle.workflows = carried_on  # type: ignore[union-attr] - given above
        async with hearing(parts):
            operation = first.operation_id
            assert operation is not None
            async with asyncio.timeout(20):
                while (await life.cvm(first.cvm_id)).status != "running":
                    await announced.start(operation)
                    await asyncio.sleep(0.05)
            assert (await finished(life.database, operation)).outcome == "succeeded"
        assert await announced.sweep() == 0
        await announced.close()


async def test_announcements_are_heard_again_after_a_connection_was_lost() -> None:
    async with opened() as database:
        begun: list[int] = []

        async def begin(operation_id: int) -> None:
            begun.append(operation_id)
            if operation_id == 1:
                raise ZeroDivisionError

        async def heard(operation_id: int) -> None:
            async with asyncio.timeout(20):
                while operation_id not in begun:
                    await AnnouncedWorkflows(database).start(operation_id)
                    await asyncio.sleep(0.02)

        async with in_background(listen(database, begin, pause=0.02, alive=0.05)):
            await heard(1)
            async with database.write() as session:
                await session.execute(text("SELECT pg_notify('teehouse_operations', 'none')"))
            await heard(2)
            await asyncio.sleep(0.1)  # longer than it goes unlooked at
            await end_others(database)
            await heard(3)
        assert set(begun) == {1, 2, 3}


async def test_what_cannot_be_announced_stands_in_the_database(tmp_path: Path) -> None:
    postgres.require()
    database = open_database(f"postgresql://nobody@/none?host={tmp_path}")
    await AnnouncedWorkflows(database).start(1)
    await database.dispose()
    async with living(tmp_path) as life:  # nobody is heard on SQLite
        async with hearing(CloudParts(SETTINGS, life.database, lifecycle=life.life)):
            pass
        async with hearing(CloudParts(SETTINGS, life.database)):
            pass


class Sends:
    """Answers 204, or nothing; the first time, something else happens meanwhile."""

    def __init__(self, *, answers: bool, meanwhile: Callable[[], Awaitable[Any]] | None = None) -> None:
        self.answers = answers
        self.meanwhile = meanwhile

    async def post(self, url: str, body: bytes, headers: dict[str, str]) -> int:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            await meanwhile()
        if not self.answers:
            raise httpx.ConnectError("nobody there")
        return 204


class Late:
    """A database as a slow process has it: before its first unit of work something else happens."""

    def __init__(self, database: Database, before: Callable[[], Awaitable[Any]]) -> None:
        self.read = database.read
        self._database = database
        self._before: Callable[[], Awaitable[Any]] | None = before

    @asynccontextmanager
    async def write(self) -> AsyncIterator[Any]:
        before, self._before = self._before, None
        if before is not None:
            await before()
        async with self._database.write() as session:
            yield session


async def hooked(life: Life, deliveries: int) -> None:
    async with life.database.write() as session:
        hook = Webhook(
            workspace_id=life.author.workspace_id,
            url="http://hook.test/",
            events=[],
            secret_sealed=seal(SETTINGS, PURPOSE, str(life.author.workspace_id), b"whsec_x"),
            created_at=life.clock.now(),
            updated_at=life.clock.now(),
        )
        session.add(hook)
        await session.flush()
        for number in range(deliveries):
            session.add(
                WebhookDelivery(
                    workspace_id=hook.workspace_id, webhook_id=hook.id, event_id=f"evt_{number}", event="cvm.created",
                    body=b"{}", next_attempt_at=life.clock.now(), created_at=life.clock.now(),
                )
            )  # fmt: skip


async def test_a_delivery_that_another_worker_tried_meanwhile_waits_for_its_time(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        await hooked(life, 1)
        quick = WebhookWorker(life.database, SETTINGS, life.clock, Sends(answers=False))
        late: Any = Late(life.database, quick.run_once)
        assert await WebhookWorker(late, SETTINGS, life.clock, Sends(answers=True)).run_once() == 0
        (row,) = await life.rows(WebhookDelivery)
        assert (row.attempts, row.status) == (1, "pending")
        assert row.next_attempt_at - life.clock.now() == timedelta(minutes=1)


async def test_whoever_took_longer_than_its_claim_settles_nothing(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        await hooked(life, 1)
        quick = WebhookWorker(life.database, SETTINGS, life.clock, Sends(answers=True))

        async def much_later() -> None:
            life.clock.advance(timedelta(seconds=61))
            assert await quick.run_once() == 1

        slow = Sends(answers=False, meanwhile=much_later)
        assert await WebhookWorker(life.database, SETTINGS, life.clock, slow).run_once() == 1
        (row,) = await life.rows(WebhookDelivery)
        assert (row.attempts, row.status, row.error, row.response_status) == (1, "delivered", None, 204)


async def test_a_replica_that_lost_its_lock_judges_nobody_for_a_while(
    tmp_path: Path, monkeypatch: Any
) -> None:
    """Rule D3: with the database's restart all replicas lost their locks, and none of them is dead."""
    async with living(tmp_path, kind="postgresql") as life:
        start = life.node.start
        waiting = asyncio.Event()

        async def slow(*_args: Any, **_given: Any) -> Any:
            waiting.set()
            await asyncio.sleep(60)

        life.node.start = slow
        steps = Steps(life.database, life.life.nodes, life.clock, patience=0.2, limit=5)
        life.life.workflows = first = DbosWorkflows(life.database, steps, life.clock)
        assert first.trouble() == "not launched"
        await first.launch()
        done = await life.begin()
        await asyncio.wait_for(waiting.wait(), 20)
        await first.close()
        other = ExecutorLock(life.database.engine)
        await other.hold(first.executor_id)  # as if it were alive
        life.node.start = start
        second = DbosWorkflows(life.database, steps, life.clock)
        await second.launch()
        try:
            assert (await second.sweep(), second.trouble()) == (0, None)
            await end_others(life.database)
            assert await second.sweep() == 0  # its lock was lost, and so was the other's
            monkeypatch.setattr("teehouse.cloud.workflows.durable.LATE", -1.0)
            assert second.trouble() == "work was last looked after 0 seconds ago"
            second._settled_at = 0.0
            await other.release()
            assert await second.sweep() == 1
            assert (await finished(life.database, done.operation_id)).outcome == "succeeded"
            assert await second.sweep() == 0
            assert life.node.calls.count("create") == 1
        finally:
            await second.close()
