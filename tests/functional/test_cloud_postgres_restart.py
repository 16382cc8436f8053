"""PostgreSQL crashes and comes back while CVMs are deployed: requests fail for a moment, nothing acknowledged is lost."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from sqlalchemy import func, select, update

from support import postgres
from support.cloud_api_support import COMPOSE
from support.cloud_core_support import SECRET_KEY
from support.cloud_inventory_support import add_inventory, add_node
from support.cloud_life_support import FixedKeys
from support.node_memory import MemoryNode
from teehouse.base.clock import SystemClock
from teehouse.cloud.accounts.bootstrap import bootstrap
from teehouse.cloud.accounts.models import Quota
from teehouse.cloud.cvms.lifecycle import Lifecycle
from teehouse.cloud.cvms.models import Cvm, Operation, Reservation
from teehouse.cloud.db.engine import Database, open_database
from teehouse.cloud.db.migrate import upgrade
from teehouse.cloud.http.app import create_app
from teehouse.cloud.inventory.seeding import seed_instance_types
from teehouse.cloud.nodes.directory import KnownNodes
from teehouse.cloud.nodes.models import Node
from teehouse.cloud.parts import CloudParts
from teehouse.cloud.revisions.models import Revision
from teehouse.cloud.settings import CloudSettings
from teehouse.cloud.workflows.durable import DbosWorkflows
from teehouse.cloud.workflows.steps import Steps
from teehouse.node.api import CvmPhase

SOME_SECONDS = 15.0  # after which an API must answer again; each test's machine is busy with other tests
DEPLOYERS = 4
CRASHES = 2


@dataclass
class Here:
    database: Database
    client: httpx.AsyncClient
    node: MemoryNode
    workflows: DbosWorkflows
    cluster: postgres.Cluster
    statuses: dict[int, int] = field(default_factory=dict)
    longest: float = 0.0  # seconds without an answer but 503

    async def call(self, path: str, body: dict[str, object]) -> httpx.Response:
        """Ask until there is an answer other than 503."""
        begun = time.monotonic()
        while True:
            answer = await self.client.post(f"/api/v1{path}", json=body)
            self.statuses[answer.status_code] = self.statuses.get(answer.status_code, 0) + 1
            if answer.status_code != 503:
                return answer
            self.longest = max(self.longest, time.monotonic() - begun)
            await asyncio.sleep(0.1)


@asynccontextmanager
async def serving() -> AsyncIterator[Here]:
    postgres.require()
    cluster = postgres.Cluster()
    url = cluster.new_database()
    database = open_database(url)
    clock = SystemClock()
    await upgrade(database)
    async with database.write() as session:
        first = await bootstrap(
            session, clock.now(), username="a", email="a@example.org", slug="alice", workspace_name="Alice's"
        )
        huge = {"vm_slots": 9999, "vcpu": 9999, "memory_mb": 10**9, "disk_gb": 10**6}
        await session.execute(update(Quota).values(**huge))
        await seed_instance_types(session)
        image, kms = await add_inventory(session)
        node_id = (
            await add_node(session, image, kms, slots=500, vcpu=500, memory_mb=2_000_000, disk_gb=50_000)
        ).id
    node = MemoryNode(clock)
    nodes = KnownNodes({node_id: node})
    workflows = DbosWorkflows(database, Steps(database, nodes, clock, patience=1), clock)
    parts = CloudParts(CloudSettings(database_url=url, secret_key=SECRET_KEY), database, clock, nodes=nodes)
    parts.lifecycle = Lifecycle(database, nodes, workflows, FixedKeys(), clock=clock)
    await workflows.launch()
    try:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(create_app(parts)),
            base_url="http://cloud.test",
            headers={"X-API-Key": first.api_key, "X-Phala-Version": "2026-01-21"},
            timeout=60,
        ) as client:
            yield Here(database, client, node, workflows, cluster)
    finally:
        await workflows.close()
        await database.dispose()
        cluster.close()


async def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    async with serving() as here:
        acknowledged: dict[str, str] = {}
        stop = asyncio.Event()

        async def deploy(name: str) -> None:
            wanted = {"name": name, "compose_file": COMPOSE, "instance_type": "tdx.small"}
            found = await here.call("/cvms/provision", wanted)
            assert found.status_code == 200, found.text
            told = found.json()
            body = {"app_id": told["app_id"], "compose_hash": told["compose_hash"]}
            done = await here.call("/cvms", body)
            assert done.status_code == 200, done.text
            acknowledged[name] = done.json()["vm_uuid"]

        async def deploying(who: int) -> None:
            number = 0
            while not stop.is_set():
                await deploy(f"app-{who}-{number}")
                number += 1

        async def more() -> None:
            before = len(acknowledged)
            while len(acknowledged) < before + DEPLOYERS:  # noqa: ASYNC110 - what other tasks write down
                await asyncio.sleep(0.05)

        async with asyncio.TaskGroup() as group:
            for who in range(DEPLOYERS):
                group.create_task(deploying(who))
            for crash in range(CRASHES):
                await more()
                await asyncio.to_thread(here.cluster.stop, "immediate" if crash % 2 == 0 else "fast")
                await asyncio.sleep(0.5)
                await asyncio.to_thread(here.cluster.start)
            await more()
            stop.set()
        assert set(here.statuses) == {200, 503}
        assert here.longest < SOME_SECONDS
        await _settle(here)
        async with here.database.read() as session:
            cvms = {row.name: row for row in await session.scalars(select(Cvm))}
            operations = (await session.scalars(select(Operation))).all()
            revisions = (
                await session.execute(select(Revision.cvm_id, func.count()).group_by(Revision.cvm_id))
            ).all()
            places = (await session.scalars(select(Reservation.cvm_id))).all()
            (node,) = await session.scalars(select(Node))
        assert {name: cvms[name].vm_uuid_text for name in acknowledged} == acknowledged
        assert {row.status for row in cvms.values()} == {"running"}
        assert {(one.operation_type, one.outcome) for one in operations} == {("create", "succeeded")}
        assert len(operations) == len(cvms)
        assert {count for _, count in revisions} == {1}
        committed = [one for one in places if one is not None]
        assert sorted(committed) == sorted(row.id for row in cvms.values())
        assert node.used_slots == len(places)
        assert {state.cvm_id for state in here.node.states.values()} == {row.vm_uuid for row in cvms.values()}
        assert {(state.phase, state.boot_count) for state in here.node.states.values()} == {
            (CvmPhase.RUNNING, 1)
        }


async def _settle(here: Here) -> None:
    """Wait until no operation is under way; what was forgotten is taken up as a served control plane does."""
    async with asyncio.timeout(60):
        while True:
            await here.workflows.sweep()
            async with here.database.read() as session:
                left = await session.scalar(
                    select(func.count()).select_from(Operation).where(Operation.finished_at.is_(None))
                )
            if not left:
                return
            await asyncio.sleep(0.5)
