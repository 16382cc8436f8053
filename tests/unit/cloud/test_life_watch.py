"""What nodes say between operations, state streams, deliveries of webhooks."""

import asyncio
import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretBytes
from sqlalchemy import update

from support.cloud_life_support import Life, living
from teehouse.base.hashes import sha256
from teehouse.cloud.cvms.actions import act
from teehouse.cloud.cvms.models import Cvm
from teehouse.cloud.cvms.state_stream import read_state, watch
from teehouse.cloud.nodes.models import Node
from teehouse.cloud.revisions.models import OperationType
from teehouse.cloud.secrets import seal
from teehouse.cloud.settings import CloudSettings
from teehouse.cloud.webhooks.delivery import WebhookWorker
from teehouse.cloud.webhooks.models import Webhook, WebhookDelivery
from teehouse.cloud.webhooks.signing import PURPOSE, is_signed
from teehouse.cloud.workflows.following import NodeFollower, in_background
from teehouse.cloud.workflows.observing import Reconciler
from teehouse.node.api import CvmPhase, CvmSpec, CvmState, EventKind
from teehouse.node.workload import PublishedPort
from teehouse.wire.cloud.versions import ApiVersion

SETTINGS = CloudSettings(database_url="sqlite+aiosqlite:///unused", secret_key=SecretBytes(bytes(range(32))))


def reconciler(life: Life) -> Reconciler:
    return Reconciler(life.database, life.life.nodes, life.workflows, life.clock)


async def codes(life: Life) -> list[str]:
    found = await reconciler(life).run_once()
    await life.idle()
    return [one.code for one in found]


async def test_a_cvm_that_died_has_exited_and_is_started_again(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        done = await life.deploy()
        uuid = (await life.cvm(done.cvm_id)).vm_uuid
        await life.node.stop(uuid)
        follower = NodeFollower(life.database, life.life.nodes, reconciler(life), life.clock, 1, pause=0.01)
        await reconciler(life).take_over(1, uuid)
        cvm = await life.cvm(done.cvm_id)
        assert (cvm.status, cvm.exited_at) == ("exited", life.clock.now())
        assert await codes(life) == ["cloud.cvm-astray"]
        assert (await life.cvm(done.cvm_id)).status == "running"
        assert await codes(life) == []
        life.node.close()
        await follower.follow()
        (node,) = await life.rows(Node)
        assert (node.incarnation, node.last_seen_at) == (1, life.clock.now())
        assert node.event_cursor > 0


async def test_a_cvm_that_should_be_stopped_is_stopped(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        done = await life.deploy()
        await act(life.life, life.author, "my-app", OperationType.STOP)
        await life.idle()
        await life.node.start((await life.cvm(done.cvm_id)).vm_uuid)
        assert await codes(life) == ["cloud.cvm-astray"]
        assert (await life.cvm(done.cvm_id)).status == "stopped"


async def test_lost_left_foreign_and_other_cvms(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        lost, other = await life.deploy("lost-one"), await life.deploy("other-one")
        gone = await life.deploy("gone-one")
        spec = life.node.specs[(await life.cvm(gone.cvm_id)).vm_uuid]
        await act(life.life, life.author, "gone-one", OperationType.DELETE)
        await life.idle()
        state = life.node.states[spec.cvm_id]
        life.node.states[spec.cvm_id] = replace(state, phase=CvmPhase.STOPPED)
        await life.node.create(CvmSpec("ff" * 16, "foreign", spec.compose))
        lost_uuid = (await life.cvm(lost.cvm_id)).vm_uuid
        life.node.states.pop(lost_uuid)
        other_uuid = (await life.cvm(other.cvm_id)).vm_uuid
        life.node.states[other_uuid] = replace(life.node.states[other_uuid], compose_hash=sha256(b"other"))
        assert sorted(await codes(life)) == [
            "cloud.cvm-foreign",
            "cloud.cvm-left",
            "cloud.cvm-lost",
            "cloud.other-compose",
        ]
        assert (await life.cvm(lost.cvm_id)).status == "running"  # taken in anew
        assert life.node.states[spec.cvm_id].phase is CvmPhase.REMOVED
        assert life.node.states["ff" * 16].phase is CvmPhase.CREATED


async def test_a_follower_takes_errors_over(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        done = await life.deploy()
        uuid = (await life.cvm(done.cvm_id)).vm_uuid
        follower = NodeFollower(life.database, life.life.nodes, reconciler(life), life.clock, 1, pause=0.01)
        async with in_background(follower.run()), asyncio.timeout(10):
            while not life.node.readers:  # noqa: ASYNC110 - the follower's own time
                await asyncio.sleep(0.01)
            life.node.states[uuid] = replace(life.node.states[uuid], phase=CvmPhase.ERROR)
            life.node.tell(uuid, EventKind.PHASE, "error")
            while (await life.cvm(done.cvm_id)).status != "error":  # noqa: ASYNC110 - another task's row
                await asyncio.sleep(0.01)


async def test_ports_are_asked_for_once_after_each_boot(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        done = await life.deploy()
        uuid = (await life.cvm(done.cvm_id)).vm_uuid
        assert (await life.cvm(done.cvm_id)).published == "127.0.0.1:1"
        asked = life.node.calls.count("state")
        listed = [replace(state, containers=()) for state in await life.node.list()]

        async def without_containers() -> tuple[CvmState, ...]:
            return tuple(listed)

        life.node.list = without_containers  # type: ignore[method-assign] # a list tells no containers
        assert await codes(life) == []
        assert life.node.calls.count("state") == asked  # the boot is known
        assert (await life.cvm(done.cvm_id)).published == "127.0.0.1:1"

        ports = (PublishedPort("127.0.0.1", 40000, 80), PublishedPort("127.0.0.1", 53, 53, "udp"))
        booted = life.clock.now() + timedelta(minutes=1)
        state = life.node.states[uuid]
        life.node.states[uuid] = replace(
            state, started_at=booted, containers=(replace(state.containers[0], ports=ports),)
        )
        listed[0] = replace(listed[0], started_at=booted)
        for _ in range(2):
            assert await codes(life) == []
            assert life.node.calls.count("state") == asked + 1
            cvm = await life.cvm(done.cvm_id)
            assert (cvm.published, cvm.started_at) == ("127.0.0.1:40000", booted)


def parsed(frames: list[bytes]) -> list[tuple[str, Any]]:
    lines = [frame.decode().splitlines() for frame in frames]
    return [
        (event.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for event, data, *_ in lines
    ]


async def test_a_stream_tells_states_until_the_target(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        done = await life.begin()

        async def read() -> dict[str, Any]:
            return await read_state(life.database, life.clock, done.cvm_id, ApiVersion.V2)

        frames = [one async for one in watch(read, "running", interval=5, timeout_seconds=10, poll=0.01)]
        events = parsed(frames)
        assert [name for name, _ in events][-2:] == ["state", "complete"]
        assert events[-1][1] == events[-2][1]
        assert events[-1][1] | {"instance_id": ""} == {
            "id": str(done.cvm_id),
            "instance_id": "",
            "name": "my-app",
            "status": "running",
            "uptime": "0s",
            "boot_progress": "done",
        }
        late = [one async for one in watch(read, "stopped", interval=5, timeout_seconds=0.05, poll=0.01)]
        assert [name for name, _ in parsed(late)] == ["state", "timeout"]
        await act(life.life, life.author, "my-app", OperationType.DELETE)
        await life.idle()
        gone = [one async for one in watch(read, "stopped", interval=5, timeout_seconds=1, poll=0.01)]
        assert [name for name, _ in parsed(gone)] == ["state", "error"]


class Receiver:
    """Answers what a test says, and keeps what came."""

    def __init__(self, *answers: int | Exception) -> None:
        self.answers = list(answers)
        self.came: list[tuple[str, bytes, dict[str, str]]] = []

    async def post(self, url: str, body: bytes, headers: dict[str, str]) -> int:
        self.came.append((url, body, headers))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def add_hook(life: Life, **given: Any) -> None:
    async with life.database.write() as session:
        session.add(
            Webhook(
                workspace_id=life.author.workspace_id,
                url="https://hooks.example.org/x",
                events=given.pop("events", []),
                secret_sealed=seal(SETTINGS, PURPOSE, str(life.author.workspace_id), b"whsec_test"),
                created_at=life.clock.now(),
                updated_at=life.clock.now(),
                **given,
            )
        )


async def test_a_delivery_is_signed_and_tried_four_times(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        await add_hook(life)
        await add_hook(life, events=["cvm.deleted"])
        await add_hook(life, enabled=False)
        done = await life.deploy()
        receiver = Receiver(500, httpx.ConnectError("no"), 302, 404)
        worker = WebhookWorker(life.database, SETTINGS, life.clock, receiver)
        made = []
        for pause in (0, 59, 1, 599, 1, 3599, 1, 7200):
            life.clock.advance(timedelta(seconds=pause))
            made.append(await worker.run_once())
        assert made == [1, 0, 1, 0, 1, 0, 1, 0]
        assert len({body for _, body, _ in receiver.came}) == 1
        (delivery,) = await life.rows(WebhookDelivery)
        assert (delivery.status, delivery.attempts, delivery.response_status) == ("failed", 4, 404)
        url, body, headers = receiver.came[-1]
        cvm = await life.cvm(done.cvm_id)
        assert url == "https://hooks.example.org/x"
        sent_at = life.clock.now() - timedelta(seconds=7200)
        assert is_signed(
            "whsec_test", headers["X-Webhook-Timestamp"], body, headers["X-Webhook-Signature"], sent_at
        )
        message = json.loads(body)
        assert (message["event"], message["workspace"]) == ("cvm.created", {"id": "alice", "name": "Alice"})
        assert message["data"]["cvm_id"] == cvm.vm_uuid_text
        assert message["data"]["status"] == "running"


async def test_a_delivery_that_is_claimed_or_disabled(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        await add_hook(life)
        await life.deploy()
        receiver = Receiver(204)
        worker = WebhookWorker(life.database, SETTINGS, life.clock, receiver)
        async with life.database.write() as session:
            claimed = life.clock.now() + timedelta(seconds=60)
            await session.execute(update(WebhookDelivery).values(claimed_until=claimed))
        assert await worker.run_once() == 0
        life.clock.advance(timedelta(seconds=60))
        assert await worker.run_once() == 1
        await act(life.life, life.author, "my-app", OperationType.STOP)
        await life.idle()
        async with life.database.write() as session:
            await session.execute(update(Webhook).values(enabled=False))
        assert await worker.run_once() == 1
        assert [(one.event, one.status, one.error) for one in await life.rows(WebhookDelivery)] == [
            ("cvm.created", "delivered", None),
            ("cvm.stopped", "failed", "the webhook is disabled"),
        ]
        assert len(await life.rows(Cvm)) == 1


async def test_an_endpoint_that_is_silent_keeps_no_other_waiting(tmp_path: Path) -> None:
    together = asyncio.Barrier(3)

    class Meeting(Receiver):
        """Answers once three requests are under way."""

        async def post(self, url: str, body: bytes, headers: dict[str, str]) -> int:
            await asyncio.wait_for(together.wait(), 10)
            return await super().post(url, body, headers)

    async with living(tmp_path) as life:
        for _ in range(3):
            await add_hook(life)
        await life.deploy()
        worker = WebhookWorker(life.database, SETTINGS, life.clock, Meeting(204, 204, 204))
        assert await worker.run_once() == 3
        assert {one.status for one in await life.rows(WebhookDelivery)} == {"delivered"}
