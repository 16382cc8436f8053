"""What a replica does beside answering: the lifespan, nodes that come later, what a KMS is told to allow."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any

from pydantic import SecretBytes
from sqlalchemy import select, update
from structlog.testing import capture_logs

from support.cloud_inventory_support import add_node
from support.cloud_life_support import Life, living
from support.node_memory import MemoryNode
from teehouse.base.findings import misuse
from teehouse.cloud.cvms.actions import act
from teehouse.cloud.cvms.changing import change_cvm
from teehouse.cloud.cvms.comparing import Change
from teehouse.cloud.cvms.models import Cvm
from teehouse.cloud.cvms.replicas import Copy, replicate
from teehouse.cloud.inventory.models import KmsContract, KmsNode, OsImage
from teehouse.cloud.nodes.directory import KnownNodes
from teehouse.cloud.nodes.models import Node
from teehouse.cloud.parts import CloudParts
from teehouse.cloud.revisions.models import OperationType
from teehouse.cloud.settings import CloudSettings
from teehouse.cloud.workflows import serving
from teehouse.cloud.workflows.following import in_background
from teehouse.cloud.workflows.inline import InlineWorkflows
from teehouse.cloud.workflows.steps import Steps
from teehouse.node.api import CvmPhase

SETTINGS = CloudSettings(database_url="sqlite+aiosqlite:///unused", secret_key=SecretBytes(bytes(32)))
OTHER = {"docker_compose_file": "services:\n  web:\n    image: nginx:1.28-alpine\n"}


def parts(life: Life) -> CloudParts:
    return CloudParts(SETTINGS, life.database, clock=life.clock, lifecycle=life.life)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await condition():  # noqa: ASYNC110 - rows and nodes in memory
            await asyncio.sleep(0.01)


async def test_while_it_works_nodes_are_followed_and_repaired(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        done = await life.deploy()
        uuid = (await life.cvm(done.cvm_id)).vm_uuid

        async def stands(boots: int) -> bool:
            state = life.node.states[uuid]
            row = await life.cvm(done.cvm_id)
            return (state.phase, state.boot_count, row.status) == (CvmPhase.RUNNING, boots, "running")

        assert (await life.cvm(done.cvm_id)).agent_url == "http://127.0.0.1:1"
        await life.node.stop(uuid)  # while nobody looked
        async with serving.working(parts(life)):
            await until(lambda: stands(2))
            assert life.node.readers
        assert not life.node.readers
        assert life.workflows._tasks == {}


async def test_a_cvm_that_is_stopped_shows_no_pages(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        done = await life.deploy()
        await act(life.life, life.author, "my-app", OperationType.STOP)
        await life.idle()
        cvm = await life.cvm(done.cvm_id)
        assert (cvm.status, cvm.agent_url, cvm.published) == ("stopped", None, None)


async def test_without_a_life_cycle_nothing_is_done(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        await life.deploy()
        async with serving.working(CloudParts(SETTINGS, life.database)):
            await asyncio.sleep(0.02)
            assert not life.node.readers


async def test_a_node_that_is_registered_later_is_followed(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(serving, "NODES", 0.02)
    async with living(tmp_path) as life:
        known: dict[int, Any] = {1: life.node}
        life.life.nodes = KnownNodes(known)
        second = MemoryNode(life.clock)
        async with serving.working(parts(life)):
            await until(lambda: asyncio.sleep(0, bool(life.node.readers)))
            async with life.database.write() as session:
                image = (await session.scalars(select(OsImage))).one()
                kms = (await session.scalars(select(KmsNode))).one()
                node = await add_node(session, image, kms, name="later")
                known[node.id] = second
            await until(lambda: asyncio.sleep(0, bool(second.readers)))
            assert (await life.rows(Node))[1].incarnation is not None
        assert not second.readers


async def test_a_task_that_ends_by_a_fault_is_told_to_the_log() -> None:
    async def fault() -> None:
        raise ZeroDivisionError("at once")

    with capture_logs() as lines:
        async with in_background(fault()):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
    (line,) = lines
    assert (line["event"], line["log_level"], line["what"]) == ("ended by a fault", "error", "chore")
    assert "ZeroDivisionError: at once" in line["traceback"]


class Allowed:
    """A list of what may have keys, as an off-chain KMS goes by it."""

    def __init__(self) -> None:
        self.hashes: set[tuple[str, str]] = set()
        self.broken = False

    async def allow(self, app_id: str, compose_hash: str) -> None:
        if self.broken:
            raise misuse("auth-file.unwritable", "the list")
        self.hashes.add((app_id, compose_hash))

    async def forget(self, app_id: str, unused: Callable[[], Awaitable[Collection[str]]]) -> None:
        self.hashes -= {(app_id, one) for one in await unused()}

    def of(self, app_id: str) -> set[str]:
        return {compose_hash for app, compose_hash in self.hashes if app == app_id}


def with_list(life: Life) -> Allowed:
    """The life cycle's operations, with such a list."""
    allowed = Allowed()
    steps = Steps(life.database, life.life.nodes, life.clock, patience=0.2, limit=5, authorisations=allowed)
    life.workflows = life.life.workflows = InlineWorkflows(life.database, steps)
    return allowed


async def app_of(life: Life, cvm_id: int) -> tuple[str, str]:
    cvm = await life.cvm(cvm_id)
    return life.node.specs[cvm.vm_uuid].app_id.hex(), cvm.compose_hash


async def test_a_hash_is_allowed_from_before_the_boot_until_nothing_runs_it(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        allowed = with_list(life)
        start = life.node.start

        async def watched(cvm_id: str, **given: Any) -> Any:
            spec = life.node.specs[cvm_id]
            compose_hash = life.node.states[cvm_id].compose_hash.hex()
            assert compose_hash in allowed.of(spec.app_id.hex())
            return await start(cvm_id, **given)

        life.node.start = watched
        done = await life.deploy()
        app_id, first = await app_of(life, done.cvm_id)
        assert allowed.of(app_id) == {first}
        await change_cvm(life.life, life.author, "my-app", Change(compose=OTHER))
        await life.idle()
        _, second = await app_of(life, done.cvm_id)
        assert first != second
        assert allowed.of(app_id) == {second}
        allowed.hashes.add((app_id, "ee" * 32))  # what somebody else allowed stays (rule A3)
        allowed.hashes.discard((app_id, second))  # and what was lost comes again with the next boot (rule A1)
        await act(life.life, life.author, "my-app", OperationType.RESTART)
        await life.idle()
        assert allowed.of(app_id) == {second, "ee" * 32}
        await act(life.life, life.author, "my-app", OperationType.DELETE)
        await life.idle()
        assert allowed.of(app_id) == {"ee" * 32}
        assert (await life.cvm(done.cvm_id)).status == "deleted"


async def test_a_hash_stays_while_another_cvm_has_it_or_may_run_it(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        allowed = with_list(life)
        one = await life.deploy("first-one")
        app_id, compose_hash = await app_of(life, one.cvm_id)
        other = await replicate(life.life, life.author, "first-one", Copy(name="other-one"))
        third = await replicate(life.life, life.author, "first-one", Copy(name="third-one"))
        await life.idle()
        await act(life.life, life.author, "first-one", OperationType.DELETE)
        await life.idle()
        assert allowed.of(app_id) == {compose_hash}

        # A change that failed leaves the CVM in error: it may run either file (rule A2).
        update_of, life.node.update = life.node.update, refuse
        await change_cvm(life.life, life.author, "other-one", Change(compose=OTHER))
        await life.idle()
        assert (await life.cvm(other.cvm_id)).status == "error"
        await act(life.life, life.author, "third-one", OperationType.DELETE)
        await life.idle()
        assert (await life.cvm(third.cvm_id)).status == "deleted"
        assert compose_hash in allowed.of(app_id)
        life.node.update = update_of
        await act(life.life, life.author, "other-one", OperationType.START)
        await life.idle()
        cvm = await life.cvm(other.cvm_id)
        assert (cvm.status, allowed.of(app_id)) == ("running", {cvm.compose_hash})
        assert (
            life.node.states[cvm.vm_uuid].compose_hash.hex() == cvm.compose_hash
        )  # the boot is the wanted one


async def refuse(*_args: Any, **_given: Any) -> Any:
    raise misuse("node.capacity", "memory of this node")


async def test_a_list_that_cannot_be_written_ends_the_operation(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        with_list(life).broken = True
        done = await life.deploy()
        cvm = await life.cvm(done.cvm_id)
        assert (cvm.status, cvm.boot_error) == ("error", "the list")
        assert life.node.states[cvm.vm_uuid].phase is CvmPhase.CREATED


async def test_apps_of_an_on_chain_kms_are_their_contracts_affair(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        allowed = with_list(life)
        begun = await life.begin()
        async with life.database.write() as session:
            await session.execute(update(KmsContract).values(chain_id=31337))
        await life.idle()
        assert (await life.cvm(begun.cvm_id)).status == "running"
        assert allowed.hashes == set()
        assert [one.name for one in await life.rows(Cvm)] == ["my-app"]
