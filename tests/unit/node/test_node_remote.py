"""A node elsewhere does what a node in process does, over real TLS; the numbers are the rules of `node.remote`."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Self, cast

import pytest

from support.node_memory import MemoryNode
from support.node_remote_support import HOUSE, SHORT, Served, served
from support.node_suite import SUITE, cvm_spec
from support.node_support import TestNode
from support.node_tls_support import NOW, party
from teehouse.base.clock import FixedClock, SystemClock
from teehouse.base.findings import (
    CollateralError,
    EvidenceError,
    Finding,
    MisuseError,
    Outcome,
    TeehouseError,
)
from teehouse.guest.sockets import TcpAddress
from teehouse.node.api import CvmPhase, CvmState, EventKind, Node, NodeEvent
from teehouse.node.bundle import NodeBundle
from teehouse.node.identity import LEAF_LIFETIME, Identity, Role, server_context
from teehouse.node.messages import event_message
from teehouse.node.remote import ANSWER_LIMIT, ATTEMPTS, LINE_LIMIT, RemoteNode
from teehouse.node.workload import WorkloadError
from teehouse.tee.platform import PlatformError
from teehouse.wire import node_pb2
from teehouse.wire.jsonmap import encode_json
from teehouse.wire.members import FileError

Case = Callable[[Node], Awaitable[None]]


@pytest.mark.parametrize("case", SUITE, ids=lambda case: case.__name__)
async def test_in_memory(case: Case) -> None:
    await case(MemoryNode(FixedClock(NOW)))


@pytest.mark.parametrize("case", SUITE, ids=lambda case: case.__name__)
async def test_over_mutual_tls(case: Case) -> None:
    async with served(MemoryNode(FixedClock(NOW))) as house, house.caller() as node:
        await case(node)


@pytest.mark.parametrize("case", SUITE, ids=lambda case: case.__name__)
async def test_the_node_of_a_process_over_mutual_tls(tmp_path: Path, case: Case) -> None:
    async with (
        TestNode(tmp_path / "node", clock=SystemClock()).node() as local,
        served(local) as house,
        house.caller() as node,
    ):
        await case(node)


# Rule 1: what the node refuses, and what it fails in


class _RefusingNode(MemoryNode):
    """Raises `error` at every state."""

    def __init__(self, error: Exception) -> None:
        super().__init__(FixedClock(NOW))
        self.error = error

    async def state(self, cvm_id: str) -> CvmState:
        self.calls.append("state")
        raise self.error


FAULT = Finding("x.y", "the thing", Outcome.REJECTED, "a", "b", "do", "X1")


@pytest.mark.parametrize(
    "error",
    [
        EvidenceError(FAULT),
        CollateralError(replace(FAULT, outcome=Outcome.COLLATERAL_MISSING)),
        MisuseError(replace(FAULT, outcome=Outcome.MISUSE)),
        PlatformError(replace(FAULT, outcome=Outcome.COLLATERAL_MISSING)),
        WorkloadError((replace(FAULT, outcome=Outcome.MISUSE), replace(FAULT, code="z"))),
        FileError("app-compose", [FAULT, replace(FAULT, code="z")]),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_refusal_is_raised_as_the_node_raised_it(error: TeehouseError) -> None:
    local = _RefusingNode(error)
    async with served(local) as house, house.caller() as node:
        with pytest.raises(type(error)) as raised:
            await node.state("0" * 32)
    assert type(raised.value) is type(error)
    assert (raised.value.finding, str(raised.value)) == (error.finding, str(error))
    assert local.calls == ["state"]  # 2: a refusal is an answer, and not asked for again


async def test_a_node_that_fails_without_a_reason() -> None:
    local = _RefusingNode(ArithmeticError("s3cret"))
    async with served(local) as house, house.caller() as node:
        with pytest.raises(CollateralError) as raised:
            await node.state("0" * 32)
        assert raised.value.finding == Finding(
            "node.failed",
            f"node tea-1 at {house.address} failed in State",
            Outcome.COLLATERAL_MISSING,
            found="status 500: internal error",
            remedy="look into the node's log",
        )
    assert local.calls == ["state"]


async def test_nobody_there() -> None:
    async with served(MemoryNode(FixedClock(NOW))) as house:
        await house.stop()
        async with house.caller() as node:
            with pytest.raises(CollateralError) as raised:
                await node.info()
            assert raised.value.finding == Finding(
                "node.unreachable",
                f"node tea-1 at {house.address} does not answer Info",
                Outcome.COLLATERAL_MISSING,
                found="All connection attempts failed",
                remedy="start the node, or check its address and that its bundle and this one are of one installation",
            )


async def test_a_body_that_is_too_long_for_the_node() -> None:
    async with served(MemoryNode(FixedClock(NOW))) as house, house.caller() as node:
        with pytest.raises(MisuseError) as raised:
            await node.state("0" * 5000)
        assert raised.value.finding == Finding(
            "node.refused",
            f"node tea-1 at {house.address} refuses State",
            Outcome.MISUSE,
            found="status 400: failed to read data: payload too large",
        )


# Rule 3: who it has to be


OTHERS = party()
EXPIRED = timedelta(days=1)


def _expired(role: Role, name: str) -> Identity:
    return HOUSE.authority.issue(role, name, NOW - 2 * EXPIRED, lifetime=EXPIRED)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        pytest.param({"name": "tea-2"}, "node.server-certificate", id="another node"),
        pytest.param({"identity": OTHERS.controller}, "node.server-certificate", id="another CA"),
        pytest.param({"pins": [OTHERS.node.pin]}, "node.certificate-pin", id="another key"),
        pytest.param(
            {"identity": _expired(Role.CONTROLLER, "cloud")}, "node.certificate-expired", id="we, expired"
        ),
        pytest.param(
            {"clock": FixedClock(NOW + LEAF_LIFETIME + EXPIRED)},
            "node.certificate-expired",
            id="we, by the clock",
        ),
        pytest.param({"clock": FixedClock(NOW - EXPIRED)}, "node.certificate-early", id="we, too early"),
    ],
)
async def test_whoever_is_not_the_one_is_not_asked(options: dict[str, Any], code: str) -> None:
    local = MemoryNode(FixedClock(NOW))
    async with served(local) as house, house.caller(**options) as node:
        with pytest.raises(EvidenceError) as raised:
            await node.create(cvm_spec())
        assert (raised.value.finding.code, raised.value.finding.outcome) == (code, Outcome.REJECTED)
        with pytest.raises(EvidenceError) as raised:
            await anext(aiter(node.events()))
        assert raised.value.finding.code == code
    assert [call for call in local.calls if call != "create"] == []


async def test_a_node_with_an_expired_certificate() -> None:
    house = Served(MemoryNode(FixedClock(NOW)), house=replace(HOUSE, node=_expired(Role.NODE, "tea-1")))
    await house.serve()
    async with house.caller() as node:
        with pytest.raises(EvidenceError) as raised:
            await node.info()
    assert raised.value.finding == Finding(
        "node.server-certificate",
        f"the certificate of node tea-1 at {house.address}",
        Outcome.REJECTED,
        "that node's, under the CA of this installation",
        "certificate has expired",
        "check the address, and that both bundles are of one installation",
    )
    await house.stop()


async def test_a_node_whose_certificate_has_expired_by_the_clock() -> None:
    short = HOUSE.authority.issue(Role.NODE, "tea-1", NOW, lifetime=timedelta(days=2))
    house = Served(MemoryNode(FixedClock(NOW)), house=replace(HOUSE, node=short))
    await house.serve()
    async with house.caller(clock=FixedClock(NOW + timedelta(days=3))) as node:
        with pytest.raises(EvidenceError) as raised:
            await node.info()
    assert raised.value.finding.code == "node.certificate-expired"
    assert raised.value.finding.subject == "the certificate of node tea-1"
    await house.stop()


STRANGER = replace(OTHERS.controller, authorities=HOUSE.authority.authorities)


async def test_a_controller_that_the_node_does_not_know() -> None:
    """It trusts the node, and the node does not trust it: the connection breaks in the handshake."""
    local = MemoryNode(FixedClock(NOW))
    async with served(local) as house, house.caller(STRANGER) as node:
        with pytest.raises(CollateralError) as raised:
            await node.info()
        assert raised.value.finding.code == "node.unreachable"
        assert "of one installation" in raised.value.finding.remedy
    assert local.calls == []


Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def door(handle: Handle, context: ssl.SSLContext | None = None) -> AsyncIterator[TcpAddress]:
    """A server on a free port, whose connections are all over when it is."""
    handling: set[asyncio.Task[Any]] = set()

    async def handled(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handling.add(cast("Any", asyncio.current_task()))
        with suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
            await handle(reader, writer)
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(handled, "127.0.0.1", 0, ssl=context)
    async with server:
        yield TcpAddress("127.0.0.1", server.sockets[0].getsockname()[1])
    if handling:
        await asyncio.wait(handling)


async def _alarm(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """TLS that tells why it refuses a client, as asyncio's does not."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = server_context(HOUSE.node).wrap_bio(incoming, outgoing, server_side=True)
    while data := await reader.read(65536):
        incoming.write(data)
        with suppress(ssl.SSLError):  # the alert is among what goes out
            session.do_handshake()
        writer.write(outgoing.read())


async def test_a_node_that_tells_why_it_refuses_a_controller() -> None:
    async with (
        door(_alarm) as address,
        RemoteNode(address, "tea-1", STRANGER, FixedClock(NOW), patience=SHORT) as node,
    ):
        with pytest.raises(EvidenceError) as raised:
            await node.info()
        with pytest.raises(EvidenceError):
            await anext(aiter(node.events()))
    assert raised.value.finding == Finding(
        "node.client-certificate",
        f"our certificate, for node tea-1 at {address}",
        Outcome.REJECTED,
        found="tlsv1 alert unknown ca",
        remedy="check that both bundles are of one installation, and the clocks",
    )


def test_a_node_s_bundle_commands_nobody() -> None:
    with pytest.raises(MisuseError) as raised:
        RemoteNode(TcpAddress("127.0.0.1", 1), "tea-1", HOUSE.node, FixedClock(NOW))
    assert raised.value.finding.code == "node.role"


async def test_a_controller_s_bundle_leads_to_its_node() -> None:
    async with served(MemoryNode(FixedClock(NOW))) as house:
        bundle = NodeBundle(HOUSE.controller, "tea-1", house.address)
        async with RemoteNode.of_bundle(bundle, FixedClock(NOW)) as node:
            assert (await node.info()).name == "memory"


# Rules 2 and 4, against a server that answers as it is told


class Script:
    """A TLS server of node tea-1 that plays one part for each connection, the last part again and again.

    A part gets the request's head and gives the bytes to answer with, None to break the connection at once.
    """

    def __init__(self, *parts: Callable[[bytes], bytes | None], linger: float = 0.0) -> None:
        self.parts = list(parts)
        self.linger = linger
        self.heads: list[bytes] = []
        self._over = asyncio.Event()
        self._door = door(self._play, server_context(HOUSE.node))

    async def __aenter__(self) -> Self:
        self.address = await self._door.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over.set()
        await self._door.__aexit__(None, None, None)

    async def _play(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        part = self.parts.pop(0) if len(self.parts) > 1 else self.parts[0]
        answer = part(head)
        if answer is not None:
            writer.write(answer)
            await writer.drain()
            await asyncio.wait_for(self._over.wait(), self.linger)

    def caller(self, **options: Any) -> RemoteNode:
        options = {"patience": SHORT, **options}
        return RemoteNode(self.address, "tea-1", HOUSE.controller, FixedClock(NOW), **options)

    @property
    def asked(self) -> list[str]:
        return [head.split(b" ")[1].decode() for head in self.heads]


def answer(body: bytes, status: str = "200 OK", *headers: str) -> Callable[[bytes], bytes | None]:
    lines = "".join(f"{header}\r\n" for header in (f"content-length: {len(body)}", *headers))
    return lambda _: f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + body


def broken(_: bytes) -> bytes | None:
    return None


STATE = node_pb2.CvmState(cvm_id="0" * 32, phase="running", wanted="running").SerializeToString()


async def test_a_call_is_repeated_when_the_connection_breaks() -> None:
    async with Script(broken, broken, answer(STATE)) as script, script.caller() as node:
        state = await node.start("0" * 32)
    assert (state.cvm_id, state.phase) == ("0" * 32, CvmPhase.RUNNING)
    assert script.asked == ["/prpc/Node.Start"] * 3


async def test_a_call_is_not_repeated_for_ever() -> None:
    async with Script(broken) as script, script.caller() as node:
        with pytest.raises(CollateralError) as raised:
            await node.start("0" * 32)
    assert raised.value.finding.code == "node.unreachable"
    assert len(script.heads) == ATTEMPTS


async def test_a_restart_that_may_have_arrived_is_not_repeated() -> None:
    async with Script(broken, answer(STATE)) as script, script.caller() as node:
        with pytest.raises(CollateralError) as raised:
            await node.restart("0" * 32)
    assert raised.value.finding.code == "node.unreachable"
    assert script.asked == ["/prpc/Node.Restart"]


async def test_a_restart_that_cannot_have_arrived_is_repeated() -> None:
    local = MemoryNode(FixedClock(NOW))
    spec = cvm_spec()
    await local.create(spec)
    house = Served(local)
    await house.serve()
    await house.stop()
    async with house.caller(patience=replace(SHORT, first_pause=0.1)) as node:
        restarting = asyncio.create_task(node.restart(spec.cvm_id))
        await asyncio.sleep(0.05)
        await house.serve()
        assert (await restarting).phase is CvmPhase.RUNNING
    await house.stop()
    assert local.calls.count("restart") == 1


async def test_a_slow_node_is_waited_for_until_the_deadline() -> None:
    patience = replace(SHORT, timeout=0.2)
    begun = time.monotonic()
    async with (
        Script(lambda _: b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx", linger=5.0) as script,
        script.caller(patience=patience) as node,
    ):
        with pytest.raises(CollateralError) as raised:
            await node.info()
    assert time.monotonic() - begun < 2.0
    finding = raised.value.finding
    assert (finding.code, finding.found) == ("node.unreachable", "nothing within 0.2 seconds")


@pytest.mark.parametrize(
    ("part", "found"),
    [
        (answer(bytes(ANSWER_LIMIT + 1)), f"more than {ANSWER_LIMIT} bytes, or compressed ones"),
        (
            answer(b"x", "200 OK", "content-encoding: gzip"),
            f"more than {ANSWER_LIMIT} bytes, or compressed ones",
        ),
        (answer(b"\xff"), "failed to decode Protobuf message: CvmState"),
    ],
    ids=["too long", "compressed", "no protobuf"],
)
async def test_an_answer_that_is_none(part: Callable[[bytes], bytes | None], found: str) -> None:
    async with Script(part, linger=5.0) as script, script.caller() as node:
        with pytest.raises(EvidenceError) as raised:
            await node.state("0" * 32)
        assert raised.value.finding == Finding(
            "node.answer", f"the answer of {node.shown} to State", Outcome.MALFORMED, found=found
        )
    assert len(script.heads) == 1


async def test_a_refusal_that_is_none_is_told_by_its_status() -> None:
    async with (
        Script(answer(b"\xff", "302 Found", "location: https://elsewhere")) as script,
        script.caller() as node,
    ):
        with pytest.raises(MisuseError) as raised:
            await node.state("0" * 32)
    assert (raised.value.finding.code, raised.value.finding.found) == ("node.refused", "status 302: ")
    assert len(script.heads) == 1  # redirects are not followed


async def test_the_correlation_id_goes_along() -> None:
    async with Script(answer(STATE)) as script, script.caller() as node:
        await node.start("0" * 32, correlation_id="order-9")
        await node.start("0" * 32)
    assert b"\r\nx-correlation-id: order-9\r\n" in script.heads[0].lower()
    assert b"x-correlation-id" not in script.heads[1].lower()


# Rule 5


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
