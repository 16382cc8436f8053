"""The node in this process, by the rules of `node.local`, `node.cvm` and `node.api`."""

import asyncio
import contextlib
import errno
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import httpx
import pytest

import teehouse.node.store as store_module
from support.node_suite import SUITE
from support.node_support import (
    NOW,
    TestNode,
    compose_file,
    cvm_spec,
    emulated_pki,
    memory_directory,
    no_engine,
)
from teehouse.base.clock import FixedClock, SystemClock
from teehouse.base.files import write_atomic
from teehouse.base.findings import CollateralError, MisuseError
from teehouse.base.hashes import sha256
from teehouse.node.api import CvmPhase, CvmSpec, CvmState, EventKind, Node, Resources, settled
from teehouse.node.history import History
from teehouse.node.local import LocalNode
from teehouse.stack.driver_emulated import EmulatedDriver

SECONDS = 10.0
ASKED: tuple[tuple[str, dict[str, object]], ...] = (
    ("GetKey", {"path": "a", "purpose": "b"}),
    ("GetQuote", {"report_data": "01"}),
)


@pytest.fixture
def made(tmp_path: Path) -> TestNode:
    return TestNode(tmp_path / "node")


@pytest.fixture
async def node(made: TestNode) -> AsyncIterator[LocalNode]:
    async with made.node() as opened:
        yield opened


@pytest.mark.parametrize("case", SUITE, ids=lambda case: case.__name__)
async def test_it_does_what_every_node_does(tmp_path: Path, case: Callable[[Node], Awaitable[None]]) -> None:
    async with TestNode(tmp_path / "node", clock=SystemClock()).node() as opened:
        await case(opened)


# From one life of the node to the next


async def booted(node: LocalNode, spec: CvmSpec) -> CvmState:
    await node.create(spec)
    await node.start(spec.cvm_id)
    state = await settled(node, spec.cvm_id, timeout_seconds=SECONDS)
    assert (state.phase, state.error) == (CvmPhase.RUNNING, None)
    return state


async def call(state: CvmState, method: str, body: dict[str, object]) -> dict[str, object]:
    assert state.endpoints is not None
    transport = httpx.AsyncHTTPTransport(uds=str(state.endpoints.dstack))
    async with httpx.AsyncClient(transport=transport, base_url="http://agent") as client:
        answer = await client.post(f"/{method}", json=body)
    assert answer.status_code == 200
    return answer.json() or {}


def started(made: TestNode) -> int:
    return len([call for call in made.apps.calls if call[1] == "start"])


def change_record(made: TestNode, cvm_id: str, **members: object) -> None:
    path = made.directory / "cvms" / cvm_id / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **members}))


async def test_a_running_cvm_gets_its_agent_back(made: TestNode) -> None:
    """L3: same sockets, port, registers and keys; the app has run on."""
    spec = cvm_spec()
    async with made.node() as node:
        before = await booted(node, spec)
        await call(before, "EmitEvent", {"event": "mine", "payload": "01"})
        told = [await call(before, method, body) for method, body in ASKED]
    assert before.endpoints is not None
    assert [path for path in before.endpoints.directory.rglob("*") if path.is_socket()] == []
    async with made.node() as node:
        after = await node.state(spec.cvm_id)
        assert after == before
        assert [await call(after, method, body) for method, body in ASKED] == told
    assert started(made) == 1


async def test_a_port_that_somebody_else_has_by_now_is_another(made: TestNode) -> None:
    spec = cvm_spec()
    async with made.node() as node:
        before = await booted(node, spec)
    assert before.endpoints is not None
    port = int(before.endpoints.pages_url.rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)):
        async with made.node() as node:
            after = await node.state(spec.cvm_id)
    assert after.endpoints is not None
    assert after.endpoints.pages_url != before.endpoints.pages_url
    async with made.node() as node:
        again = await node.state(spec.cvm_id)
    assert again.endpoints == after.endpoints


async def test_after_a_restart_of_the_host_cvms_that_ran_boot_anew(made: TestNode) -> None:
    spec, idle = cvm_spec(), cvm_spec()
    async with made.node() as node:
        await booted(node, spec)
        await booted(node, idle)
        await node.stop(idle.cvm_id)
        await settled(node, idle.cvm_id, timeout_seconds=SECONDS)
    made.host_boot = "boot-2"
    async with made.node() as node:
        state = await settled(node, spec.cvm_id, timeout_seconds=SECONDS)
        assert (state.phase, state.boot_count) == (CvmPhase.RUNNING, 2)
        assert (await node.state(idle.cvm_id)).phase is CvmPhase.STOPPED
    assert started(made) == 3


@pytest.mark.parametrize("damage", ["other-key", "no-machine", "no-log", "no-keys"])
async def test_a_cvm_whose_agent_cannot_come_back_ends_in_error(made: TestNode, damage: str) -> None:
    spec = cvm_spec()
    async with made.node() as node:
        state = await booted(node, spec)
    machine = made.directory / "cvms" / spec.cvm_id / "machine"
    if damage == "other-key":
        made.sealing_key = b"\x01" * 32
    elif damage == "no-machine":
        (machine / "rtmr3").unlink()
    elif damage == "no-log":
        (machine / "runtime_events.log").unlink()
        (machine / "rtmr3").write_bytes(bytes(48))
    else:
        change_record(made, spec.cvm_id, sealed_keys="")
    async with made.node() as node:
        state = await node.state(spec.cvm_id)
        assert state.error is not None
        assert (state.phase, state.error.code, state.settled) == (CvmPhase.ERROR, "node.resume", True)
        assert (
            state.error.check
            == {
                "other-key": "sealing.shut",
                "no-machine": "driver.gone",
                "no-log": "node.resume-log",
                "no-keys": "sealing.shut",
            }[damage]
        )
        assert made.leftovers(spec.cvm_id) == []
        assert (await booted(node, spec)).boot_count == 2


async def test_a_boot_that_the_node_does_not_survive_is_tried_three_times(made: TestNode) -> None:
    spec = cvm_spec()
    async with made.node() as node:
        await booted(node, spec)
    for count, phase in ((1, CvmPhase.RUNNING), (2, CvmPhase.ERROR)):
        change_record(made, spec.cvm_id, phase="booting", pending=True, interrupted=count, sealed_keys="")
        async with made.node() as node:
            state = await settled(node, spec.cvm_id, timeout_seconds=SECONDS)
            assert state.phase is phase
    assert state.error is not None
    assert (state.error.code, state.error.found) == ("node.boot.interrupted", "3 in a row that it did not")
    assert made.leftovers(spec.cvm_id) == []
    async with made.node() as node:
        assert (await node.state(spec.cvm_id)).phase is CvmPhase.ERROR
        assert (await booted(node, spec)).phase is CvmPhase.RUNNING


async def test_a_node_that_is_closed_undoes_its_boots_and_makes_them_later(made: TestNode) -> None:
    reached = asyncio.Event()

    async def slow() -> None:
        reached.set()
        await asyncio.sleep(60)

    made.kms.before = slow
    spec = cvm_spec()
    async with made.node() as node:
        await node.create(spec)
        await node.start(spec.cvm_id)
        await reached.wait()
    assert made.leftovers(spec.cvm_id) == []
    made.kms.before = None
    async with made.node() as node:
        state = await settled(node, spec.cvm_id, timeout_seconds=SECONDS)
    assert (state.phase, state.boot_count) == (CvmPhase.RUNNING, 2)


async def test_a_stop_that_the_node_did_not_live_to_see_is_finished(made: TestNode) -> None:
    stopping = asyncio.Event()

    async def slow() -> None:
        stopping.set()
        await asyncio.sleep(60)

    made.apps.slow_stop = slow
    spec = cvm_spec()
    async with made.node() as node:
        await booted(node, spec)
        await node.shutdown(spec.cvm_id, deadline=7.0)
        await stopping.wait()
        state = await node.state(spec.cvm_id)
        assert (state.phase, len(state.containers), state.endpoints is None) == (CvmPhase.STOPPING, 1, False)
    made.apps.slow_stop = None
    async with made.node() as node:
        state = await settled(node, spec.cvm_id, timeout_seconds=SECONDS)
    assert (state.phase, made.apps.deadlines, made.leftovers(spec.cvm_id)) == (
        CvmPhase.STOPPED,
        [7.0, 7.0],
        [],
    )


# Wishes that meet


async def test_a_shutdown_is_shortened_by_a_stop_and_never_prolonged(made: TestNode, node: LocalNode) -> None:
    stopping = asyncio.Event()

    async def slow() -> None:
        stopping.set()
        await asyncio.sleep(60)

    made.apps.slow_stop = slow
    spec = cvm_spec()
    await booted(node, spec)
    await node.shutdown(spec.cvm_id, deadline=30.0)
    await stopping.wait()
    await node.shutdown(spec.cvm_id, deadline=50.0)
    assert made.apps.deadlines == [30.0]
    await node.stop(spec.cvm_id)
    state = await settled(node, spec.cvm_id, timeout_seconds=SECONDS)
    assert (state.phase, made.apps.deadlines) == (CvmPhase.STOPPED, [30.0, 0.0])
    assert made.leftovers(spec.cvm_id) == []


@pytest.mark.parametrize("wish", ["start", "restart", "remove", "stop"])
async def test_the_last_wish_counts(made: TestNode, node: LocalNode, wish: str) -> None:
    """N2, while a restart is ending the CVM."""
    stopping, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        stopping.set()
        await go_on.wait()

    made.apps.slow_stop = slow
    spec = cvm_spec()
    await booted(node, spec)
    await node.restart(spec.cvm_id, deadline=20.0)
    await stopping.wait()
    if wish == "start":
        await node.start(spec.cvm_id)
    elif wish == "restart":
        await node.restart(spec.cvm_id, deadline=40.0)
    elif wish == "remove":
        await node.remove(spec.cvm_id)
    else:
        await node.stop(spec.cvm_id, deadline=40.0)
    go_on.set()
    state = await settled(node, spec.cvm_id, timeout_seconds=SECONDS)
    phase, boots = {
        "start": (CvmPhase.RUNNING, 2),
        "restart": (CvmPhase.RUNNING, 2),
        "remove": (CvmPhase.REMOVED, 1),
        "stop": (CvmPhase.STOPPED, 1),
    }[wish]
    assert (state.phase, state.boot_count, state.error) == (phase, boots, None)
    # The second is shorter where the CVM is to go; where it boots, it is the boot's, which begins with nothing.
    assert made.apps.deadlines == ([20.0] if wish == "stop" else [20.0, 0.0])


async def test_a_wish_is_kept_although_its_caller_went_away(made: TestNode, node: LocalNode) -> None:
    """Journal 2: what is on disk is what is known, and is worked on."""
    spec = cvm_spec()
    await node.create(spec)
    for _ in range(3):  # at different awaits of the call
        asking = asyncio.create_task(node.start(spec.cvm_id))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    state = await settled(node, spec.cvm_id, timeout_seconds=SECONDS)
    assert (state.phase, state.wanted, started(made)) == (CvmPhase.RUNNING, CvmPhase.RUNNING, 1)
    await node.stop(spec.cvm_id)
    await settled(node, spec.cvm_id, timeout_seconds=SECONDS)
    await node.shutdown(spec.cvm_id)
    restarting = await node.restart(spec.cvm_id)
    assert (restarting.wanted, restarting.settled) == (CvmPhase.RUNNING, False)


async def test_a_restart_shortens_a_stop_under_way_and_follows_it(made: TestNode, node: LocalNode) -> None:
    stopping = asyncio.Event()

    async def slow() -> None:
        stopping.set()
        await asyncio.sleep(60)

    made.apps.slow_stop = slow
    spec = cvm_spec()
    await booted(node, spec)
    await node.shutdown(spec.cvm_id, deadline=30.0)
    await stopping.wait()
    await node.restart(spec.cvm_id, deadline=0.0)
    state = await settled(node, spec.cvm_id, timeout_seconds=SECONDS)
    assert (state.phase, state.boot_count, made.apps.deadlines[:2]) == (CvmPhase.RUNNING, 2, [30.0, 0.0])


async def test_what_is_so_already_stays_so(made: TestNode, node: LocalNode) -> None:
    spec = cvm_spec()
    await node.create(spec)
    assert (await node.stop(spec.cvm_id)).phase is CvmPhase.CREATED
    await node.restart(spec.cvm_id)
    assert await settled(node, spec.cvm_id, timeout_seconds=SECONDS) == await booted(node, spec)
    assert started(made) == 1
    await node.remove(spec.cvm_id)
    await node.remove(spec.cvm_id)
    await node.stop(spec.cvm_id)
    assert (await settled(node, spec.cvm_id, timeout_seconds=SECONDS)).phase is CvmPhase.REMOVED
    for refused in (node.start, node.stop, node.restart, node.stats):
        with pytest.raises(MisuseError) as raised:
            await refused(spec.cvm_id)
        assert raised.value.finding.code == "node.cvm-removed"


async def test_removed_ids_are_known_in_the_next_life(made: TestNode) -> None:
    spec = cvm_spec()
    async with made.node() as node:
        await node.create(spec)
        await node.remove(spec.cvm_id)
        await settled(node, spec.cvm_id, timeout_seconds=SECONDS)
    async with made.node() as node:
        assert (await node.state(spec.cvm_id)) == CvmState(
            spec.cvm_id, "", CvmPhase.REMOVED, emulated=True, wanted=CvmPhase.REMOVED
        )
        with pytest.raises(MisuseError) as raised:
            await node.create(spec)
        assert raised.value.finding.code == "node.cvm-removed"
        assert (await node.remove(spec.cvm_id)).phase is CvmPhase.REMOVED
        with pytest.raises(MisuseError) as raised:
            await node.state("no/id")
        assert (raised.value.finding.code, raised.value.finding.found) == ("node.cvm-unknown", "'no/id'")


async def test_a_stop_that_fails_is_an_error_and_can_be_tried_again(made: TestNode, node: LocalNode) -> None:
    spec = cvm_spec()
    await booted(node, spec)
    made.apps.faults["stop"] = no_engine()
    await node.stop(spec.cvm_id)
    state = await settled(node, spec.cvm_id, timeout_seconds=SECONDS)
    assert state.error is not None
    assert (state.phase, state.error.code, state.error.check) == (
        CvmPhase.ERROR,
        "node.stop",
        "workload.engine",
    )
    assert made.leftovers(spec.cvm_id) == ["app.running"]
    await node.start(spec.cvm_id)
    state = await settled(node, spec.cvm_id, timeout_seconds=SECONDS)
    assert state.error is not None
    assert state.error.code == "node.boot.machine"
    made.apps.faults.clear()
    await node.stop(spec.cvm_id)
    state = await settled(node, spec.cvm_id, timeout_seconds=SECONDS)
    assert (state.phase, state.error, made.leftovers(spec.cvm_id)) == (CvmPhase.STOPPED, None, [])


async def test_a_removal_that_fails_is_an_error_and_can_be_tried_again(
    made: TestNode, node: LocalNode
) -> None:
    spec = cvm_spec()
    await booted(node, spec)
    made.apps.faults["remove"] = no_engine()
    await node.remove(spec.cvm_id)
    state = await settled(node, spec.cvm_id, timeout_seconds=SECONDS)
    assert state.error is not None
    assert (state.phase, state.error.code) == (CvmPhase.ERROR, "node.remove")
    assert (await node.list())[0].cvm_id == spec.cvm_id
    made.apps.faults.clear()
    await node.remove(spec.cvm_id)
    state = await settled(node, spec.cvm_id, timeout_seconds=SECONDS)
    assert (state.phase, await node.list()) == (CvmPhase.REMOVED, ())


async def test_containers_that_cannot_be_asked_after_are_left_out(made: TestNode, node: LocalNode) -> None:
    spec = cvm_spec()
    assert len((await booted(node, spec)).containers) == 1
    made.apps.faults["state"] = no_engine()
    state = await node.state(spec.cvm_id)
    assert (state.phase, state.containers) == (CvmPhase.RUNNING, ())


# Room, updates, addresses


async def test_room_is_given_once(tmp_path: Path) -> None:
    made = TestNode(tmp_path / "node", capacity=Resources(3, 8 * 1024**3, 3 * 1024**2))
    async with made.node() as node:
        first, second = cvm_spec(cpu_count=2), cvm_spec(cpu_count=2)
        await booted(node, first)
        await node.create(second)
        for call_start in (node.start, node.restart):
            with pytest.raises(MisuseError) as raised:
                await call_start(second.cvm_id)
            assert raised.value.finding.code == "node.capacity"
            assert raised.value.finding.expected == "at most 1, which the node has left"
        assert (await node.state(second.cvm_id)).wanted is CvmPhase.CREATED
        for members in ({"cpu_count": 4}, {"memory_size": 9 * 1024**3}, {"disk_size": 2 * 1024**2}):
            with pytest.raises(MisuseError) as raised:
                await node.create(cvm_spec(**members))
            assert raised.value.finding.code == "node.capacity"
        with pytest.raises(MisuseError) as raised:
            await node.update(replace(second, disk_size=3 * 1024**2))
        assert raised.value.finding.code == "node.capacity"
        assert (await node.info()).free == Resources(1, 6 * 1024**3, 1024**2)
        await node.stop(first.cvm_id)
        await settled(node, first.cvm_id, timeout_seconds=SECONDS)
        await booted(node, second)
    async with made.node() as node:
        assert (await node.info()).free == Resources(1, 6 * 1024**3, 1024**2)


async def test_a_spec_changes_while_the_cvm_is_at_rest(made: TestNode, node: LocalNode) -> None:
    spec = cvm_spec()
    state = await booted(node, spec)
    changed = replace(spec, compose=compose_file(name="other"), cpu_count=2)
    assert (await node.update(spec)).phase is CvmPhase.RUNNING  # nothing new
    with pytest.raises(MisuseError) as raised:
        await node.update(changed)
    assert raised.value.finding.code == "node.cvm-busy"
    await node.stop(spec.cvm_id)
    await settled(node, spec.cvm_id, timeout_seconds=SECONDS)
    for other in (
        replace(changed, app_id=b"\x01" * 20),
        replace(changed, compose=compose_file(runner="docker-compose", docker_compose_file="services: {}")),
    ):
        with pytest.raises(MisuseError) as raised:
            await node.update(other)
        assert raised.value.finding.code == "node.update"
    await node.update(changed, correlation_id="up-1")
    await node.start(spec.cvm_id)
    after = await settled(node, spec.cvm_id, timeout_seconds=SECONDS)
    assert (after.app_id, after.instance_id) == (state.app_id, state.instance_id)
    assert after.compose_hash == sha256(changed.compose) != state.compose_hash
    await node.close()
    async with made.node() as other_life:
        assert (await other_life.state(spec.cvm_id)).compose_hash == sha256(changed.compose)


async def test_an_update_to_no_instance_id(made: TestNode, node: LocalNode) -> None:
    spec = cvm_spec()
    await node.create(spec)
    state = await node.update(replace(spec, compose=compose_file(no_instance_id=True)))
    assert (state.instance_id, state.phase) == (b"", CvmPhase.CREATED)


async def test_machines_that_cannot_be_are_refused_at_once(node: LocalNode) -> None:
    for members, code in (
        ({"memory_size": 1024**3}, None),
        ({"image": "unknown"}, "driver.image"),
    ):
        with pytest.raises(MisuseError) as raised:
            await node.create(cvm_spec(**members))
        assert code is None or raised.value.finding.code == code
    assert await node.list() == ()


async def test_two_nodes_cannot_have_one_directory(made: TestNode, node: LocalNode) -> None:
    assert (await node.info()).cvm_count == 0
    with pytest.raises(MisuseError) as raised:
        await made.node().open()
    assert raised.value.finding.code == "node.in-use"


async def test_an_emulated_node_serves_loopback_only(made: TestNode) -> None:
    made.pages_host = "0.0.0.0"  # noqa: S104 - what is to be refused
    with pytest.raises(MisuseError) as raised:
        await made.node().open()
    assert raised.value.finding.code == "driver.exposed"
    made.pages_host = "::1"
    with contextlib.suppress(MisuseError):  # where this machine has no IPv6
        async with made.node() as node:
            assert (await node.info()).emulated
    made.driver = EmulatedDriver(emulated_pki(), unsafe_expose=True)
    made.pages_host = "0.0.0.0"  # noqa: S104 - what is asked for
    async with made.node() as node:
        assert (await node.info()).emulated


async def test_a_directory_too_long_for_sockets_is_refused(made: TestNode) -> None:
    made.sockets = Path("/tmp") / ("x" * 57)  # noqa: S108 - never made
    with pytest.raises(MisuseError) as raised:
        await made.node().open()
    finding = raised.value.finding
    assert (finding.code, finding.expected, finding.found) == (
        "node.socket-directory",
        "at most 55 bytes",
        "62",
    )


@pytest.mark.parametrize("name", ["spec.json", "state.json"])
@pytest.mark.parametrize("content", ["", "[]", "{}", '{"cvm_id":7}'])
async def test_damaged_state_is_named(made: TestNode, name: str, content: str) -> None:
    spec = cvm_spec()
    async with made.node() as node:
        await node.create(spec)
    path = made.directory / "cvms" / spec.cvm_id / name
    path.write_text(content)
    with pytest.raises(MisuseError) as raised:
        await made.node().open()
    assert raised.value.finding.code == "node.state-damaged"
    assert str(path) in raised.value.finding.subject
    with pytest.raises(MisuseError) as raised:  # and the directory is free again
        await made.node().open()
    assert raised.value.finding.code == "node.state-damaged"


# The disk is full


@dataclass
class Disk:
    """`write_atomic` of the store, refusing writes that `full` says."""

    full: Callable[[Path], bool] = lambda _path: False

    def write(self, path: Path, data: bytes) -> None:
        if self.full(path):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write_atomic(path, data)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    made_disk = Disk()
    monkeypatch.setattr(store_module, "write_atomic", made_disk.write)
    return made_disk


async def test_on_a_full_disk_a_call_fails_and_the_former_state_stays(
    made: TestNode, node: LocalNode, disk: Disk
) -> None:
    """S1."""
    spec = cvm_spec()
    for name in ("spec.json", "state.json"):
        disk.full = partial(_is_called, name)
        with pytest.raises(CollateralError) as refused:
            await node.create(spec)
        assert (refused.value.finding.code, refused.value.finding.found) == (
            "node.disk",
            "No space left on device",
        )
        assert (await node.list(), list((made.directory / "cvms").iterdir())) == ((), [])
    disk.full = lambda _path: False
    before = await node.create(spec)
    disk.full = lambda _path: True
    for refuse in (
        node.start(spec.cvm_id),
        node.restart(spec.cvm_id),
        node.remove(spec.cvm_id),
        node.update(replace(spec, name="other")),
    ):
        with pytest.raises(CollateralError):
            await refuse
        assert await node.state(spec.cvm_id) == before
    disk.full = lambda _path: False
    await node.close()
    async with made.node() as other:
        assert await other.state(spec.cvm_id) == before


@pytest.mark.parametrize("phase", ["booting", "running"])
async def test_on_a_full_disk_a_boot_fails_and_leaves_nothing(
    made: TestNode, node: LocalNode, disk: Disk, phase: str
) -> None:
    spec = cvm_spec()
    await node.create(spec)
    written: list[str] = []

    def full(path: Path) -> bool:
        record = node._cvms[spec.cvm_id].record
        written.append(path.name)
        busy = record.pending and record.phase is CvmPhase.CREATED and phase == "booting"
        late = record.touched and phase == "running"
        return busy or late

    disk.full = full  # begins with the boot: the wish to start is written before it is the record
    await node.start(spec.cvm_id)
    state = await settled(node, spec.cvm_id, timeout_seconds=SECONDS)
    assert state.error is not None
    assert (state.phase, state.error.code, state.error.check) == (
        CvmPhase.ERROR,
        "node.boot.record",
        "node.disk",
    )
    assert made.leftovers(spec.cvm_id) == []
    disk.full = lambda _path: False
    assert (await booted(node, spec)).phase is CvmPhase.RUNNING


async def test_what_happened_counts_although_it_cannot_be_written(
    made: TestNode, node: LocalNode, disk: Disk
) -> None:
    """L4: the CVM has stopped; the next life of the node finds it stopping, and finishes that."""
    spec = cvm_spec()
    await booted(node, spec)
    await node.stop(spec.cvm_id)
    disk.full = lambda _path: True
    state = await settled(node, spec.cvm_id, timeout_seconds=SECONDS)
    assert (state.phase, made.leftovers(spec.cvm_id)[:-1]) == (CvmPhase.STOPPED, [])
    await node.close()
    disk.full = lambda _path: False
    async with made.node() as other:
        state = await settled(other, spec.cvm_id, timeout_seconds=SECONDS)
        assert (state.phase, made.leftovers(spec.cvm_id)) == (CvmPhase.STOPPED, [])


def _is_called(name: str, path: Path) -> bool:
    return path.name == name


# Many, and what they take


async def test_two_hundred_cvms_in_one_loop() -> None:
    """Rule 2: quiet ones have no task of their own; all answer, each with keys of its own app."""
    async with TestNode(memory_directory()).node() as node:
        await two_hundred(node)


async def two_hundred(node: LocalNode) -> None:
    specs = [cvm_spec(compose=compose_file(name=f"app-{number}")) for number in range(200)]
    for spec in specs:
        await node.create(spec)
    await asyncio.gather(*(node.start(spec.cvm_id) for spec in specs))
    states = [await settled(node, spec.cvm_id, timeout_seconds=100) for spec in specs]
    assert {state.phase for state in states} == {CvmPhase.RUNNING}
    assert (await node.info()).running_count == 200
    body: dict[str, object] = {"path": "", "purpose": ""}
    keys = await asyncio.gather(*(call(state, "GetKey", body) for state in states))
    assert len({str(key["key"]) for key in keys}) == 200
    async with asyncio.timeout(SECONDS):
        while tasks := [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]:
            if len(tasks) == 1:  # the one that looks after all
                break
            await asyncio.sleep(0.05)
    await node.shutdown_all(1.0)
    assert {state.phase for state in await node.list()} == {CvmPhase.STOPPED}


async def test_an_agent_that_ended_by_itself_comes_back(made: TestNode) -> None:
    spec = cvm_spec()
    async with made.node(watch_interval=0.01) as node:
        before = await booted(node, spec)
        key = await call(before, "GetKey", {"path": "", "purpose": ""})
        cvm = node._cvms[spec.cvm_id]
        agent = cvm._boot and cvm._boot.agent
        assert agent is not None
        for door in agent._doors:
            for listening in door.listening.sockets:
                listening.shutdown(socket.SHUT_RDWR)
        async with asyncio.timeout(SECONDS):
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    if (
                        await call(await node.state(spec.cvm_id), "GetKey", {"path": "", "purpose": ""})
                        == key
                    ):
                        break
                await asyncio.sleep(0.01)
        after = await node.state(spec.cvm_id)
    assert (after.phase, after.boot_count, started(made)) == (CvmPhase.RUNNING, 1, 1)


async def test_stats_count_the_processes_of_one_cvm(made: TestNode, node: LocalNode) -> None:
    spec, other = cvm_spec(), cvm_spec()
    await booted(node, spec)
    await node.create(other)
    job = made.directory.absolute() / "cvms" / spec.cvm_id / "workload" / "app"
    process = await asyncio.create_subprocess_exec("/bin/sleep", "60", env={"TEEHOUSE_JOB": str(job)})
    try:
        stats = await node.stats(spec.cvm_id)
        none = await node.stats(other.cvm_id)
    finally:
        process.kill()
        await process.wait()
    assert stats.processes == 1
    assert stats.memory_bytes is not None
    assert stats.memory_bytes > 0
    assert stats.cpu_seconds is not None
    assert stats.disk_bytes is not None
    assert none.disk_bytes is not None
    assert stats.disk_bytes > none.disk_bytes > 0
    assert (none.processes, none.cpu_seconds, none.memory_bytes) == (None, None, None)


# Events


async def test_readers_end_with_the_node(node: LocalNode) -> None:
    spec = cvm_spec()
    await node.create(spec)

    async def read() -> list[EventKind]:
        return [event.kind async for event in node.events()]

    reader = asyncio.create_task(read())
    await asyncio.sleep(0)
    await node.close()
    assert await reader == [EventKind.CREATED]


async def test_a_reader_who_is_too_slow_sees_a_gap() -> None:
    history = History(FixedClock(NOW), limit=3)
    events = history.follow(0)
    history.tell("", EventKind.STEP, "0")
    first = await anext(events)
    for number in range(1, 6):
        history.tell("", EventKind.STEP, str(number))
    found = [await anext(events) for _ in range(4)]
    assert first.sequence == history.first == int(NOW.timestamp()) * 1_000_000
    assert [(event.kind, event.detail) for event in found] == [
        (EventKind.GAP, "events were missed"),
        (EventKind.STEP, "3"),
        (EventKind.STEP, "4"),
        (EventKind.STEP, "5"),
    ]
    assert [event.sequence - history.first for event in found] == [2, 3, 4, 5]


async def test_a_reader_of_an_earlier_life_sees_a_gap_first() -> None:
    history = History(FixedClock(NOW))
    events = history.follow(history.first - 1_000)
    assert (await anext(events)).kind is EventKind.GAP
    history.tell("", EventKind.STEP, "now")
    assert (await anext(events)).detail == "now"
