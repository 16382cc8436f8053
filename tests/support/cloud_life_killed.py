"""Deploy, update and delete a CVM while the control plane is killed at one point after another.

A program: `python -m support.cloud_life_killed ENGINE URL FOLDER FIRST STRIDE`. For each point a child process does
the work and kills itself there (SIGKILL); a second one starts anew, goes on, and checks that nothing was doubled, lost
or left. The program ends when a child reaches its end alive, and prints at how many points it was killed.
"""

import asyncio
import os
import pickle
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import select

from support.cloud_life_support import YAML, FixedKeys, fill, provision_request
from support.cloud_workflow_support import finished
from support.node_memory import MemoryNode
from teehouse.base.clock import SystemClock
from teehouse.cloud.cvms.actions import act
from teehouse.cloud.cvms.changing import change_cvm
from teehouse.cloud.cvms.committing import commit
from teehouse.cloud.cvms.comparing import Change
from teehouse.cloud.cvms.lifecycle import Lifecycle
from teehouse.cloud.cvms.models import Cvm, Operation, Reservation
from teehouse.cloud.cvms.operations import Author
from teehouse.cloud.cvms.provisioning import provision
from teehouse.cloud.db.engine import Database, open_database
from teehouse.cloud.nodes.directory import KnownNodes
from teehouse.cloud.nodes.models import Node
from teehouse.cloud.nodes.reservations import expire
from teehouse.cloud.revisions.models import OperationType, Revision
from teehouse.cloud.workflows.durable import DbosWorkflows
from teehouse.cloud.workflows.inline import InlineWorkflows
from teehouse.cloud.workflows.steps import Steps
from teehouse.node.api import CvmPhase
from teehouse.wire.cloud.lifecycle import CommitRequest

OTHER = YAML.replace("1.27", "1.28")


class Points:
    """Counts, and kills the process at one of them; 0 is none."""

    def __init__(self, fatal: int) -> None:
        self.fatal = fatal
        self.reached = 0

    def reach(self) -> None:
        self.reached += 1
        if self.reached == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)


class KeptNode(MemoryNode):
    """A node that outlives the control plane: what it has is in a file. A point before and after each effect."""

    def __init__(self, path: Path, points: Points) -> None:
        super().__init__(SystemClock())
        self.path, self.points = path, points
        if path.exists():
            self.specs, self.states = pickle.loads(path.read_bytes())  # noqa: S301 - the test's own file

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in {"create", "update", "start", "shutdown", "remove"}:
            return found

        async def effect(*args: Any, **kwargs: Any) -> Any:
            self.points.reach()
            # The effect itself uses other calls of the node; these are no effects of the control plane.
            state = await getattr(MemoryNode, name)(Inner(self), *args, **kwargs)
            new = self.path.with_suffix(".new")
            new.write_bytes(pickle.dumps((self.specs, self.states)))
            new.replace(self.path)
            self.points.reach()
            return state

        return effect


class Inner:
    """The node as its own calls see it: without points."""

    def __init__(self, node: KeptNode) -> None:
        self._node = node

    def __getattr__(self, name: str) -> Any:
        found = getattr(MemoryNode, name, None)
        return found.__get__(self) if callable(found) else object.__getattribute__(self._node, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_node":
            object.__setattr__(self, name, value)
        else:
            setattr(self._node, name, value)


def with_points(database: Database, points: Points) -> None:
    """A point before and after each transaction is committed."""
    write = database.write

    @asynccontextmanager
    async def counted() -> AsyncIterator[Any]:
        async with write() as session:
            yield session
            points.reach()
        points.reach()

    database.write = counted  # type: ignore[method-assign] - what the test is about


async def work(engine: str, url: str, folder: Path, fatal: int, ids: tuple[int, Author]) -> None:
    """Go on with what is there, then deploy, update and delete what is not deployed, updated and deleted yet."""
    points = Points(fatal)
    name = "killed-app"
    node_id, author = ids
    database = open_database(url)
    with_points(database, points)
    clock = SystemClock()
    node = KeptNode(folder / "node.pickle", points)
    nodes = KnownNodes({node_id: node})
    steps = Steps(database, nodes, clock, patience=1, limit=10)
    workflows: Any = InlineWorkflows(database, steps)
    if engine == "dbos":
        # As after the fall of a replica whose lock is free, its work is that of the next one.
        workflows = DbosWorkflows(database, steps, clock, executor_id="" if "postgres" in url else "embedded")
    life = Lifecycle(database, nodes, workflows, FixedKeys(), clock=clock)
    await workflows.launch()
    try:
        for operation_id in await _unfinished(database):
            await workflows.start(operation_id)
            await finished(database, operation_id)
        await _scenario(life, author, name)
    finally:
        await workflows.close()
    if not fatal:
        await _check(database, node)
    await database.dispose()


async def _unfinished(database: Database) -> list[int]:
    async with database.read() as session:
        question = select(Operation.id).where(Operation.finished_at.is_(None))
        return list((await session.execute(question)).scalars())


async def _scenario(life: Lifecycle, author: Author, name: str) -> None:
    async with life.database.read() as session:
        done = set((await session.execute(select(Operation.operation_type))).scalars())
    if OperationType.CREATE not in done:
        found = await provision(life, author, provision_request(name))
        row = found.provision
        committed = await commit(
            life, author, CommitRequest(app_id=row.app_id, compose_hash=row.compose_hash)
        )
        await finished(life.database, committed.operation_id)
    if OperationType.UPDATE_COMPOSE not in done:
        applied = await change_cvm(life, author, name, Change(compose={"docker_compose_file": OTHER}))
        await finished(life.database, applied.operation_id)
    if OperationType.DELETE not in done:
        acted = await act(life, author, name, OperationType.DELETE)
        await finished(life.database, acted.operation_id)


async def _check(database: Database, node: KeptNode) -> None:
    """Nothing doubled, nothing lost, nothing left."""
    async with database.write() as session:
        await expire(session, SystemClock().now() + timedelta(days=1))  # of provisions nobody committed
    async with database.read() as session:
        operations = list((await session.execute(select(Operation).order_by(Operation.id))).scalars())
        revisions = list((await session.execute(select(Revision).order_by(Revision.id))).scalars())
        (cvm,) = (await session.execute(select(Cvm))).scalars()
        (row,) = (await session.execute(select(Node))).scalars()
        places = list((await session.execute(select(Reservation))).scalars())
    assert [(one.operation_type, one.outcome) for one in operations] == [
        ("create", "succeeded"),
        ("update_compose", "succeeded"),
        ("delete", "succeeded"),
    ]
    assert [one.operation_type for one in revisions] == ["create", "update_compose"]
    assert (cvm.status, places, row.used_slots, row.used_vcpu, row.used_memory_mb) == ("deleted", [], 0, 0, 0)
    assert list(node.states) == [cvm.vm_uuid]
    state = node.states[cvm.vm_uuid]
    assert (state.phase, state.boot_count) == (CvmPhase.REMOVED, 2)
    assert OTHER.encode() in node.specs[cvm.vm_uuid].compose.replace(b"\\n", b"\n")


def _child(engine: str, url: str, folder: Path, fatal: int, ids: tuple[int, Author]) -> int:
    """Do the work in a process of its own; its exit status, or minus the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            asyncio.run(work(engine, url, folder, fatal, ids))
            status = 0
        except BaseException:  # noqa: BLE001 - the child ends here, whatever it was
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main(engine: str, urls: list[str], folder: Path, first: int, stride: int) -> int:
    """How many points the work was killed at. Each has an empty database and a new node."""
    killed, point = 0, first
    for url in urls:
        place = folder / str(point)
        place.mkdir()
        url = url.replace("{folder}", str(place))  # noqa: PLW2901 - the one of this point

        async def filled(url: str = url) -> tuple[int, Author]:
            database = open_database(url)
            node_id, author, _ = await fill(database)
            await database.dispose()
            return node_id, author

        ids = asyncio.run(filled())
        ended = _child(engine, url, place, point, ids)
        if ended == 0:
            return killed
        if ended != -signal.SIGKILL:
            sys.exit(f"point {point}: the child ended with {ended}")
        killed += 1
        if _child(engine, url, place, 0, ids) != 0:
            sys.exit(f"point {point}: what was left could not be finished")
        point += stride
    return killed


if __name__ == "__main__":
    chosen, where, start, step, *given = sys.argv[1:]
    print(main(chosen, given, Path(where), int(start), int(step)))  # noqa: T201 - what the program is asked for
