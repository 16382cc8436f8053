"""Two API replicas and two workers on one PostgreSQL, a node and a KMS; one of each is killed in the middle.

The published phala-cloud runs its journey meanwhile, and apps are deployed. What was under way is gone on with by the
worker that is left (design.md 6); nothing is doubled, lost or left reserved.
"""

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select, text

from support import postgres
from support.phala_cloud_installed import need_phala_cloud

need_phala_cloud()
pytest.register_assert_rewrite("support.phala_cloud_journey")

from support.phala_cloud_journey import travel  # noqa: E402 - where it is not installed, the file is skipped
from support.phala_cloud_support import V4, YAML, Journey, Place  # noqa: E402
from support.processes import Process  # noqa: E402
from support.replicas import House, house  # noqa: E402
from support.webhook_receiver import listening  # noqa: E402
from teehouse.base.clock import SystemClock  # noqa: E402
from teehouse.client.cloud import AsyncCloudClient  # noqa: E402
from teehouse.client.cloud.calls import CloudCall  # noqa: E402
from teehouse.cloud.cvms.models import Cvm, Operation, Reservation  # noqa: E402
from teehouse.cloud.db.engine import Database, open_database  # noqa: E402
from teehouse.cloud.db.migrate import head  # noqa: E402
from teehouse.cloud.nodes.models import Node  # noqa: E402
from teehouse.cloud.revisions.models import Revision  # noqa: E402
from teehouse.node.api import CvmPhase, CvmState  # noqa: E402
from teehouse.node.bundle import load_bundle  # noqa: E402
from teehouse.node.remote import RemoteNode  # noqa: E402

BASH = {
    "runner": "bash",
    "bash_script": "echo greeted $GREETING\nexec sleep 3600\n",
    "docker_compose_file": YAML,
}
SLOW = {**BASH, "pre_launch_script": "sleep 3"}  # a boot that a kill finds under way
BEFORE, AFTER = 4, 2
FOLLOWERS = text(
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"
    " AND ((classid::bigint << 32) | objid::bigint) = hashtextextended(:name, 0)"
)
CARRIED_ON = text(
    "SELECT count(*) FROM dbos.workflow_status WHERE status = 'PENDING' AND executor_id LIKE :process"
)


async def until(condition: Any, *, within: float = 30) -> None:
    end = time.monotonic() + within
    while not await condition():
        assert time.monotonic() < end, "it did not come to that"
        await asyncio.sleep(0.05)


async def carries_on(database: Database, worker: Process) -> bool:
    async with database.read() as session:
        found = await session.scalar(CARRIED_ON, {"process": f"%-{worker.popen.pid}-%"})
    return bool(found)


async def on_nodes(made: House) -> dict[str, CvmState]:
    """What the nodes themselves say they run."""
    found: dict[str, CvmState] = {}
    for name in made.nodes:
        async with RemoteNode.of_bundle(load_bundle(made.controller(name)), SystemClock()) as node:
            found |= {
                state.cvm_id: state for state in await node.list() if state.phase is not CvmPhase.REMOVED
            }
    return found


async def ready(url: str) -> dict[str, Any]:
    async with httpx.AsyncClient() as anybody:
        answer = await anybody.get(f"{url}/readyz")
    return {"code": answer.status_code, **answer.json()}


@pytest.mark.timeout(240)
async def test_one_api_and_one_worker_are_killed_and_the_others_serve_on(folder: Path) -> None:
    postgres.require()
    url = postgres.shared_cluster().new_database()
    async with house(folder, url) as made:
        database = open_database(url)
        with listening() as (hook, heard):
            try:
                await _killed(made, database, hook, heard)
            finally:
                await database.dispose()


async def _killed(
    made: House, database: Database, hook: str, heard: list[tuple[dict[str, str], str]]
) -> None:
    for address in made.apis:
        assert await ready(address) == {"code": 200, "status": "ok", "database": head(), "nodes": "ok"}
    for worker in made.workers:
        assert (await ready(worker.url()))["workflows"] == "ok"
    place = Place(
        api_url=made.api_url, key=made.api_key, workspace="default", kms="phala", boots=BASH, greets=True
    )
    journey = Journey(place, "async", V4)
    async with AsyncCloudClient(made.api_url, made.api_key) as cloud:
        await cloud.call(CloudCall("POST", "/workspaces/default/webhooks", Any, body={"url": hook}))
        traveller = asyncio.create_task(travel(journey))
        try:
            apps = [await cloud.deploy(f"before-{n}", SLOW, wait=False) for n in range(BEFORE)]
            dead, left = made.workers
            await until(lambda: carries_on(database, dead))
            dead.kill()
            api = next(iter(made.apis))
            await made.balancer.rest(api)
            made.apis[api].kill()
            apps += [await cloud.deploy(f"after-{n}", BASH, wait=False) for n in range(AFTER)]

            async def all_run() -> bool:
                listed = [(await cloud.get_app_cvms(app.app_id))[0].status for app in apps]
                return listed == ["running"] * len(apps)

            await until(all_run)
            await traveller
        finally:
            traveller.cancel()
            await journey.close()
        assert made.balancer.failed_over
        evidence = await cloud.get_app_attestation(apps[0].app_id)
        assert [one.error for one in evidence.instances] == [None]
        states = await on_nodes(made)
        mine = {app.vm_uuid.replace("-", "") for app in apps}
        assert set(states) == mine
        assert {(state.phase, state.boot_count) for state in states.values()} == {(CvmPhase.RUNNING, 1)}
        await _nothing_doubled(database, mine)
        for app in apps:
            await cloud.call(CloudCall("DELETE", f"/cvms/{app.vm_uuid}", Any))

    async def gone() -> bool:
        return not await on_nodes(made)

    await until(gone)
    await until(lambda: _nothing_left(database))
    told = Counter(head.get("x-webhook-id", body) for head, body in heard)
    assert sum(told.values()) - len(told) <= 1  # one delivery may have been on its way out of the dead worker
    for name in made.nodes:
        async with database.read() as session:
            number = await session.scalar(select(Node.id).where(Node.name == name))
            assert await session.scalar(FOLLOWERS, {"name": f"teehouse-claim:node-{number}"}) == 1
    assert (await ready(left.url()))["code"] == 200


async def _nothing_doubled(database: Database, mine: set[str]) -> None:
    async with database.read() as session:
        rows = {row.id: row for row in await session.scalars(select(Cvm).where(Cvm.deleted_at.is_(None)))}
        operations = (await session.scalars(select(Operation).where(Operation.cvm_id.in_(rows)))).all()
        revisions = Counter(await session.scalars(select(Revision.cvm_id).where(Revision.cvm_id.in_(rows))))
        places = Counter(await session.scalars(select(Reservation.cvm_id)))
    assert {row.vm_uuid for row in rows.values()} == mine
    assert Counter((one.cvm_id, one.operation_type, one.outcome) for one in operations) == Counter(
        (number, "create", "succeeded") for number in rows
    )
    assert revisions == Counter(list(rows))
    assert {number: places[number] for number in rows} == dict.fromkeys(rows, 1)


async def _nothing_left(database: Database) -> bool:
    """No operation, no CVM's place; and what nodes have taken is what is reserved."""
    async with database.read() as session:
        under_way = await session.scalar(
            select(func.count()).select_from(Operation).where(Operation.finished_at.is_(None))
        )
        committed = await session.scalar(
            select(func.count()).select_from(Reservation).where(Reservation.cvm_id.is_not(None))
        )
        slots = Counter(await session.scalars(select(Reservation.node_id)))
        nodes = (await session.scalars(select(Node))).all()
    # Three statements see three moments: what expires between them has to be looked at again.
    told = {node.id: node.used_slots for node in nodes} == {node.id: slots[node.id] for node in nodes}
    return told and not under_way and not committed
