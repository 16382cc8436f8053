"""What every `Node` does, in process or elsewhere: `SUITE` has one function for each rule looked at (N1 to N5).

Each takes an empty node that boots apps of runner bash without KMS, and leaves no CVM behind. A test runs them as
`@pytest.mark.parametrize("case", SUITE, ids=lambda case: case.__name__)`.
"""

import json
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any, cast
from uuid import uuid4

import pytest

from teehouse.base.findings import MisuseError
from teehouse.base.hashes import sha256
from teehouse.node.api import CvmPhase, CvmSpec, CvmState, EventKind, Node, NodeEvent, settled

BOOT_SECONDS = 30.0
NOBODY = "0" * 32


def compose_file(**members: Any) -> bytes:
    """An app-compose of runner bash that runs until it is ended."""
    script = "trap 'exit 0' TERM; while true; do sleep 0.1; done"
    compose = {"manifest_version": 2, "name": "suite", "runner": "bash", "bash_script": script}
    return json.dumps({**compose, "key_provider": "none", **members}).encode()


def cvm_spec(**members: Any) -> CvmSpec:
    """A small CVM under a new id."""
    spec = CvmSpec(uuid4().hex, "suite", compose_file(), memory_size=2 * 1024**3, disk_size=1024**2)
    return replace(spec, **members)


async def running(node: Node, spec: CvmSpec) -> CvmState:
    await node.create(spec)
    await node.start(spec.cvm_id)
    return await settled(node, spec.cvm_id, timeout_seconds=BOOT_SECONDS)


async def removed(node: Node, cvm_id: str) -> CvmState:
    await node.remove(cvm_id)
    return await settled(node, cvm_id, timeout_seconds=BOOT_SECONDS)


async def events_until(node: Node, after: int, enough: Callable[[NodeEvent], bool]) -> tuple[NodeEvent, ...]:
    """The events after `after`, up to the one that is enough."""
    found: list[NodeEvent] = []
    async with aclosing(cast("Any", node.events(after))) as events:
        async for event in events:
            found.append(event)
            if enough(event):
                break
    return tuple(found)


async def last_sequence(node: Node) -> int:
    """The number of the newest event: of one that is made for the purpose."""
    spec = cvm_spec()
    await node.create(spec)
    await removed(node, spec.cvm_id)
    gone = await events_until(
        node, 0, lambda event: event.cvm_id == spec.cvm_id and event.detail == CvmPhase.REMOVED.value
    )
    return gone[-1].sequence


def code(raised: pytest.ExceptionInfo[MisuseError]) -> tuple[str, str]:
    return raised.value.finding.code, raised.value.finding.found


async def a_cvm_lives_from_created_to_removed(node: Node) -> None:
    spec = cvm_spec()
    state = await node.create(spec)
    assert state == CvmState(
        spec.cvm_id,
        "suite",
        CvmPhase.CREATED,
        app_id=state.app_id,
        instance_id=state.instance_id,
        compose_hash=sha256(spec.compose),
        emulated=True,
    )
    assert len(state.app_id) == 20
    assert await node.state(spec.cvm_id) == state
    assert await node.list() == (state,)

    await node.start(spec.cvm_id)
    state = await settled(node, spec.cvm_id, timeout_seconds=BOOT_SECONDS)
    assert (state.phase, state.error, state.boot_count) == (CvmPhase.RUNNING, None, 1)
    assert state.started_at is not None
    assert state.endpoints is not None
    assert [container.state for container in state.containers] == ["running"]
    stats = await node.stats(spec.cvm_id)
    assert (stats.cvm_id, stats.time >= state.started_at) == (spec.cvm_id, True)

    await node.restart(spec.cvm_id, deadline=5.0)
    state = await settled(node, spec.cvm_id, timeout_seconds=BOOT_SECONDS)
    assert (state.phase, state.boot_count) == (CvmPhase.RUNNING, 2)
    await node.shutdown(spec.cvm_id)
    state = await settled(node, spec.cvm_id, timeout_seconds=BOOT_SECONDS)
    assert (state.phase, state.endpoints, state.containers) == (CvmPhase.STOPPED, None, ())
    state = await removed(node, spec.cvm_id)
    assert (state.cvm_id, state.phase, state.boot_count) == (spec.cvm_id, CvmPhase.REMOVED, 2)
    assert await node.list() == ()


async def every_call_may_be_repeated(node: Node) -> None:
    spec = cvm_spec()
    assert await node.create(spec) == await node.create(spec)
    first = await running(node, spec)
    assert await running(node, spec) == first
    for _ in range(2):
        await node.stop(spec.cvm_id)
        state = await settled(node, spec.cvm_id, timeout_seconds=BOOT_SECONDS)
        assert (state.phase, state.boot_count) == (CvmPhase.STOPPED, 1)
    for _ in range(2):
        assert (await removed(node, spec.cvm_id)).phase is CvmPhase.REMOVED


async def an_id_belongs_to_one_spec_for_ever(node: Node) -> None:
    spec = cvm_spec()
    await node.create(spec)
    with pytest.raises(MisuseError) as raised:
        await node.create(replace(spec, name="another"))
    assert raised.value.finding.code == "node.cvm-exists"
    await removed(node, spec.cvm_id)
    with pytest.raises(MisuseError) as raised:
        await node.create(spec)
    assert raised.value.finding.code == "node.cvm-removed"


async def an_id_that_nobody_created_is_refused(node: Node) -> None:
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: node.start(NOBODY),
        lambda: node.stop(NOBODY),
        lambda: node.shutdown(NOBODY),
        lambda: node.restart(NOBODY),
        lambda: node.remove(NOBODY),
        lambda: node.state(NOBODY),
        lambda: node.stats(NOBODY),
        lambda: node.update(cvm_spec(cvm_id=NOBODY)),
    ]
    for call in calls:
        with pytest.raises(MisuseError) as raised:
            await call()
        assert code(raised) == ("node.cvm-unknown", NOBODY)


async def what_cannot_be_asked_is_refused(node: Node) -> None:
    spec = cvm_spec()
    await node.create(spec)
    for deadline in (-1.0, 3601.0, float("nan"), float("inf")):
        with pytest.raises(MisuseError) as raised:
            await node.shutdown(spec.cvm_id, deadline=deadline)
        assert code(raised) == ("node.deadline", repr(deadline))
    for correlation_id in ("a b", "a\r\nb: c", "é", "x" * 129):
        with pytest.raises(MisuseError) as raised:
            await node.start(spec.cvm_id, correlation_id=correlation_id)
        assert code(raised) == ("node.correlation-id", ascii(correlation_id[:40]))
    assert (await node.state(spec.cvm_id)).phase is CvmPhase.CREATED
    await removed(node, spec.cvm_id)


async def a_compose_file_with_faults_is_refused_with_all_of_them(node: Node) -> None:
    spec = cvm_spec(compose=compose_file(runner="java", name=7))
    with pytest.raises(MisuseError) as raised:
        await node.create(spec)
    text = str(raised.value)
    assert "runner" in text
    assert "name" in text
    assert await node.list() == ()


async def an_update_changes_the_next_boot_and_not_who_the_app_is(node: Node) -> None:
    spec = cvm_spec()
    before = await node.create(spec)
    changed = replace(spec, compose=compose_file(public_logs=True), name="renamed")
    after = await node.update(changed)
    assert (after.app_id, after.instance_id, after.name) == (before.app_id, before.instance_id, "renamed")
    assert (await node.state(spec.cvm_id)).compose_hash == sha256(changed.compose)
    await removed(node, spec.cvm_id)


async def a_call_is_found_again_by_its_correlation_id(node: Node) -> None:
    spec = cvm_spec()
    after = await last_sequence(node)
    state = await node.create(spec, correlation_id="order-1")
    assert state.correlation_id == "order-1"
    await node.start(spec.cvm_id, correlation_id="order-2")
    state = await settled(node, spec.cvm_id, timeout_seconds=BOOT_SECONDS)
    assert state.correlation_id == "order-2"
    events = await events_until(node, after, lambda event: event.detail == CvmPhase.RUNNING.value)
    told = [(event.kind, event.correlation_id) for event in events if event.cvm_id == spec.cvm_id]
    assert told[0] == (EventKind.CREATED, "order-1")
    assert {correlation_id for _, correlation_id in told[1:]} == {"order-2"}
    await removed(node, spec.cvm_id)


async def events_are_numbered_and_told_to_every_reader(node: Node) -> None:
    after = await last_sequence(node)
    spec = cvm_spec()
    await running(node, spec)
    await node.stop(spec.cvm_id)
    await settled(node, spec.cvm_id, timeout_seconds=BOOT_SECONDS)

    def stopped(event: NodeEvent) -> bool:
        return event.cvm_id == spec.cvm_id and event.detail == CvmPhase.STOPPED.value

    events = await events_until(node, after, stopped)
    assert [event.sequence for event in events] == list(range(after + 1, after + 1 + len(events)))
    phases = [event.detail for event in events if event.kind is EventKind.PHASE]
    assert phases == [
        phase.value for phase in (CvmPhase.BOOTING, CvmPhase.RUNNING, CvmPhase.STOPPING, CvmPhase.STOPPED)
    ]
    assert await events_until(node, events[1].sequence, stopped) == events[2:]
    await removed(node, spec.cvm_id)


async def a_number_that_was_never_given_begins_with_a_gap(node: Node) -> None:
    newest = await last_sequence(node)
    events = await events_until(node, newest + 1_000_000, lambda event: event.kind is not EventKind.GAP)
    assert [event.kind is EventKind.GAP for event in events] == [True, False]
    assert events[0].cvm_id == ""
    assert events[0].sequence < events[1].sequence <= newest


async def the_node_counts_what_it_has(node: Node) -> None:
    before = await node.info()
    spec = cvm_spec()
    await running(node, spec)
    info = await node.info()
    assert (info.cvm_count, info.running_count) == (before.cvm_count + 1, before.running_count + 1)
    assert info.capacity == before.capacity
    assert info.free.memory_size == before.free.memory_size - spec.memory_size
    assert info.free.cpu_count == before.free.cpu_count - spec.cpu_count
    await removed(node, spec.cvm_id)
    assert (await node.info()).free == before.free


async def many_cvms_live_side_by_side(node: Node) -> None:
    specs = sorted((cvm_spec() for _ in range(3)), key=lambda spec: spec.cvm_id)
    for spec in specs:
        await running(node, spec)
    states = await node.list()
    assert [(state.cvm_id, state.phase) for state in states] == [
        (spec.cvm_id, CvmPhase.RUNNING) for spec in specs
    ]
    await removed(node, specs[1].cvm_id)
    assert [state.cvm_id for state in await node.list()] == [specs[0].cvm_id, specs[2].cvm_id]
    for spec in specs[::2]:
        await removed(node, spec.cvm_id)


SUITE: tuple[Callable[[Node], Awaitable[None]], ...] = (
    a_cvm_lives_from_created_to_removed,
    every_call_may_be_repeated,
    an_id_belongs_to_one_spec_for_ever,
    an_id_that_nobody_created_is_refused,
    what_cannot_be_asked_is_refused,
    a_compose_file_with_faults_is_refused_with_all_of_them,
    an_update_changes_the_next_boot_and_not_who_the_app_is,
    a_call_is_found_again_by_its_correlation_id,
    events_are_numbered_and_told_to_every_reader,
    a_number_that_was_never_given_begins_with_a_gap,
    the_node_counts_what_it_has,
    many_cvms_live_side_by_side,
)
