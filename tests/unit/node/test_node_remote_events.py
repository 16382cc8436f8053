"""A node's events from elsewhere, over real TLS (`node.remote`, rule 5)."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any, cast

import pytest

from support.node_memory import MemoryNode
from support.node_remote_support import HOUSE, SHORT, Served, served
from support.node_script import Script, answer, broken
from support.node_tls_support import NOW
from teehouse.base.clock import FixedClock
from teehouse.base.findings import (
    CollateralError,
    EvidenceError,
    MisuseError,
    Outcome,
)
from teehouse.node.api import EventKind, Node, NodeEvent
from teehouse.node.channel import LINE_LIMIT
from teehouse.node.messages import event_message
from teehouse.wire.jsonmap import encode_json


def line(sequence: int, kind: EventKind = EventKind.STEP, detail: str = "") -> bytes:
    return encode_json(event_message(NodeEvent(sequence, NOW, "c", kind, detail))) + b"\n"


def stream(*lines: bytes) -> Callable[[bytes], bytes | None]:
    """A part that answers with these lines and then cuts the connection in the middle of the stream."""
    body = b"".join(lines)
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    return lambda _: head + b"%x\r\n" % len(body) + body + b"\r\n"


async def told(node: Node, count: int, after: int = 0) -> list[NodeEvent]:
    found: list[NodeEvent] = []
    async with asyncio.timeout(10), aclosing(cast("Any", node.events(after))) as events:
        async for event in events:
            found.append(event)
            if len(found) == count:
                break
    return found


async def test_a_stream_that_is_cut_goes_on_where_it_was() -> None:
    parts = (
        stream(line(5), line(6), line(7)[:20]),  # cut in the midst of a line
        broken,
        stream(b"\n", line(6), line(7), line(8)),  # one event is given again
        stream(line(2, EventKind.GAP), line(3)),  # another life of the node
        stream(line(4)),
    )
    async with Script(*parts) as script, script.caller() as node:
        events = await told(node, 7, after=4)
    assert [(event.sequence, event.kind) for event in events] == [
        (5, EventKind.STEP),
        (6, EventKind.STEP),
        (7, EventKind.STEP),
        (8, EventKind.STEP),
        (2, EventKind.GAP),
        (3, EventKind.STEP),
        (4, EventKind.STEP),
    ]
    assert script.asked == [f"/events?after={number}" for number in (4, 6, 6, 8, 3)]


async def test_nothing_is_lost_or_doubled_while_the_node_s_door_closes_and_opens() -> None:
    local = MemoryNode(FixedClock(NOW), first=100)
    house = Served(local)
    await house.serve()
    async with house.caller() as node:
        reading = asyncio.create_task(told(node, 40))
        for number in range(40):
            local.tell("c", EventKind.STEP, str(number))
            await asyncio.sleep(0.002)
            if number in {9, 19, 29}:
                await house.stop(deadline=0.0)
                await house.serve()
        events = await reading
    assert [(event.sequence, event.detail) for event in events] == [(100 + n, str(n)) for n in range(40)]
    await house.stop()
    assert local.readers == 0


async def test_a_node_that_stays_away_is_unreachable() -> None:
    patience = replace(SHORT, patience=0.2)
    async with Script(stream(line(1)), broken) as script, script.caller(patience=patience) as node:
        with pytest.raises(CollateralError) as raised:
            await told(node, 2)
    assert raised.value.finding.code == "node.unreachable"
    assert raised.value.finding.subject == f"{node.shown} does not answer events"
    assert len(script.heads) > 2


async def test_a_stream_that_ends_well_is_taken_up_too() -> None:
    def ended(_: bytes) -> bytes:
        return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(line(1)) + line(1)

    patience = replace(SHORT, patience=0.2)
    async with Script(ended, answer(b"")) as script, script.caller(patience=patience) as node:
        with pytest.raises(CollateralError) as raised:
            await told(node, 2)
    assert raised.value.finding.found == "the stream has ended"


async def test_silence_is_not_waited_for() -> None:
    patience = replace(SHORT, silence=0.1, patience=0.3)
    async with Script(stream(line(1)), linger=5.0) as script, script.caller(patience=patience) as node:
        with pytest.raises(CollateralError) as raised:
            await told(node, 2)
    assert raised.value.finding.found == "ReadTimeout"
    assert script.asked[:2] == ["/events?after=0", "/events?after=1"]


async def test_heartbeats_are_life() -> None:
    local = MemoryNode(FixedClock(NOW))
    patience = replace(SHORT, silence=0.3, patience=0.1)
    async with served(local, heartbeat=0.05) as house, house.caller(patience=patience) as node:
        reading = asyncio.create_task(told(node, 1))
        await asyncio.sleep(0.6)
        local.tell("c", EventKind.STEP, "late")
        assert [event.detail for event in await reading] == ["late"]


@pytest.mark.parametrize(
    ("part", "found"),
    [
        (stream(b"{}\n"), "'' where EventKind has no such word"),
        (stream(b"x" * (LINE_LIMIT + 1)), ""),
        (answer(b"x", "200 OK", "content-encoding: gzip"), "a compressed stream"),
    ],
    ids=["no event", "too long", "compressed"],
)
async def test_a_stream_that_is_none(part: Callable[[bytes], bytes | None], found: str) -> None:
    async with Script(part, linger=1.0) as script, script.caller() as node:
        with pytest.raises(EvidenceError) as raised:
            await told(node, 1)
    finding = raised.value.finding
    assert (finding.code, finding.outcome, finding.found) == ("node.answer", Outcome.MALFORMED, found)
    assert len(script.heads) == 1


async def test_a_line_that_is_no_json() -> None:
    async with Script(stream(b"nonsense\n"), linger=1.0) as script, script.caller() as node:
        with pytest.raises(EvidenceError) as raised:
            await told(node, 1)
    assert raised.value.finding.subject == f"the answer of {node.shown} to events"


async def test_a_refused_stream() -> None:
    async with served(MemoryNode(FixedClock(NOW)), pins=[HOUSE.node.pin]) as house, house.caller() as node:
        with pytest.raises(EvidenceError) as raised:
            await told(node, 1)
        assert raised.value.finding.code == "node.certificate-pin"
    async with Script(answer(b"gone", "404 Not Found")) as script, script.caller() as node:
        with pytest.raises(MisuseError) as misused:
            await told(node, 1)
    assert (misused.value.finding.code, misused.value.finding.found) == ("node.refused", "status 404: ")


async def test_a_reader_who_stops_reading_holds_the_node_s_events_up_and_no_memory() -> None:
    local = MemoryNode(FixedClock(NOW), kept=50)
    local.tell("c", EventKind.STEP, "first")
    async with served(local) as house, house.caller() as node, aclosing(cast("Any", node.events())) as events:
        assert (await anext(events)).detail == "first"
        for number in range(3000):
            local.tell("c", EventKind.STEP, "x" * 5000 + str(number))
            if number % 50 == 0:
                await asyncio.sleep(0)
        await asyncio.sleep(0.1)
        sequences = []
        async with asyncio.timeout(10):
            async for event in events:
                sequences.append(event.sequence)
                if event.sequence == 3001:
                    break
        assert sequences == sorted(
            set(sequences)
        )  # what is left out was forgotten by the node, nothing is doubled
