"""Operations as DBOS workflows: they run, go on after a close, and are taken up when nobody began them."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from support.cloud_life_support import Life, living
from support.cloud_workflow_support import finished
from teehouse.base.findings import MisuseError
from teehouse.cloud.cvms.actions import act
from teehouse.cloud.cvms.models import Operation
from teehouse.cloud.revisions.models import OperationType
from teehouse.cloud.workflows.durable import DbosWorkflows, JsonSerializer
from teehouse.cloud.workflows.steps import Steps


def engine(life: Life) -> DbosWorkflows:
    steps = Steps(life.database, life.life.nodes, life.clock, patience=0.2, limit=5)
    return DbosWorkflows(life.database, steps, life.clock)


async def test_deploy_and_delete(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        life.life.workflows = workflows = engine(life)
        await workflows.launch()
        try:
            done = await life.begin()
            await finished(life.database, done.operation_id)
            assert (await life.cvm(done.cvm_id)).status == "running"
            with pytest.raises(MisuseError) as caught:
                await engine(life).launch()
            assert caught.value.finding.code == "cloud.workflows-launched"
            acted = await act(life.life, life.author, "my-app", OperationType.DELETE)
            await finished(life.database, acted.operation_id)
            assert (await life.cvm(done.cvm_id)).status == "deleted"
        finally:
            await workflows.close()
        assert await asyncio.to_thread(len, "the loop's threads still work") == 29


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_what_was_closed_in_the_middle_goes_on(tmp_path: Path, kind: str) -> None:
    # On PostgreSQL the second engine has another executor id: it finds the lock of the first one free.
    async with living(tmp_path, kind=kind) as life:
        start = life.node.start
        waiting = asyncio.Event()

        async def slow(*args: Any, **kwargs: Any) -> Any:
            waiting.set()
            await asyncio.sleep(60)

        life.node.start = slow
        life.life.workflows = first = engine(life)
        await first.launch()
        done = await life.begin()
        await asyncio.wait_for(waiting.wait(), 20)
        await first.close()
        life.node.start = start
        second = engine(life)
        assert (second.executor_id == first.executor_id) == (kind == "sqlite")
        await second.launch()
        try:
            await finished(life.database, done.operation_id)
            assert life.node.calls.count("create") == 1
            assert (await life.cvm(done.cvm_id)).status == "running"
        finally:
            await second.close()


async def test_what_nobody_began_is_taken_up(tmp_path: Path) -> None:
    class Silent:
        async def start(self, operation_id: int) -> None:
            """As if the process had died between commit and start."""

    async with living(tmp_path) as life:
        workflows = engine(life)
        await workflows.launch()
        try:
            life.life.workflows = Silent()  # type: ignore[assignment] - no more of it is called
            done = await life.begin()
            assert await workflows.sweep() == 0  # whoever wrote it may be about to begin it
            life.clock.advance(timedelta(seconds=16))
            assert await workflows.sweep() == 1
            await finished(life.database, done.operation_id)
            (operation,) = await life.rows(Operation)
            assert operation.outcome == "succeeded"
            assert await workflows.sweep() == 0
        finally:
            await workflows.close()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_what_is_pending_and_left_alone_is_resumed(tmp_path: Path, kind: str) -> None:
    """Rule D7."""
    async with living(tmp_path, kind=kind) as life:
        start = life.node.start
        waiting = asyncio.Event()

        async def slow(*args: Any, **kwargs: Any) -> Any:
            waiting.set()
            await asyncio.sleep(60)

        life.node.start = slow
        life.life.workflows = workflows = engine(life)
        await workflows.launch()
        try:
            done = await life.begin()
            await asyncio.wait_for(waiting.wait(), 20)
            life.clock.advance(timedelta(seconds=16))
            assert (workflows.running, await workflows.sweep()) == ({done.operation_id}, 0)
            (task,) = workflows.tasks
            task.cancel()  # it ends, and DBOS does not hear of it
            await asyncio.wait([task])
            life.node.start = start
            assert [await workflows.sweep() for _ in range(2)] == [0, 1]
            await finished(life.database, done.operation_id)
            assert (await life.cvm(done.cvm_id)).status == "running"
            assert life.node.calls.count("create") == 1
        finally:
            await workflows.close()


def test_what_is_read_back_is_no_code() -> None:
    serializer = JsonSerializer()
    assert serializer.deserialize(
        serializer.serialize({"args": (1, "x"), "error": ValueError("secret")})
    ) == {
        "args": [1, "x"],
        "error": "ValueError",
    }
