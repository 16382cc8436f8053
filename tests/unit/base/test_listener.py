"""The listener and its connections, over raw sockets; the numbers are the rules of `base.connection`."""

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from teehouse.base.findings import MisuseError
from teehouse.base.listener import Listener

IDENT = "tea house"
GET = b"GET /x?y=1 HTTP/1.1\r\nHost: h\r\n\r\n"
BIG = 8 * 1024 * 1024  # bytes: more than socket buffers take


def post(body: bytes, *headers: bytes, length: int | None = None) -> bytes:
    lines = [
        b"POST /echo HTTP/1.1",
        b"Host: h",
        b"Content-Length: %d" % (len(body) if length is None else length),
    ]
    return b"\r\n".join([*lines, *headers, b"", body])


def answer(body: bytes, status: str = "200 OK", *headers: str, kind: str = "text/plain") -> bytes:
    more = "".join(f"{header}\r\n" for header in headers)
    head = f"HTTP/1.1 {status}\r\nserver: {IDENT}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


def refusal(status: str, text: str) -> bytes:
    body = json.dumps({"error": text}, indent=2).encode()
    return answer(body, status, "connection: close", kind="application/json")


BAD = refusal("400 Bad Request", "malformed HTTP request")
SLOW = refusal("408 Request Timeout", "the request was not complete in time")
LARGE = refusal("431 Request Header Fields Too Large", "request line and headers are too large")


class App:
    """Answers with the body it got; waits for `gate` on /slow, before it reads on /late,
    between head and body of its answer on /halfway; fails on /fail and /cancel, ignores bodies on /early."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.entered = asyncio.Event()
        self.ended: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        try:
            await self._serve(path, Request(scope, receive), send)
        except BaseException as error:
            self.ended.append(f"{path} {type(error).__name__}")
            raise
        self.ended.append(path)

    async def _serve(self, path: str, request: Request, send: Send) -> None:
        self.entered.set()
        if path == "/fail":
            raise ArithmeticError("as it was asked to")
        if path == "/cancel":
            raise asyncio.CancelledError
        if path == "/late":
            await self.gate.wait()
        body = b"" if path == "/early" else await request.body()
        if path == "/slow":
            await self.gate.wait()
        if path == "/big":
            body = bytes(BIG)
        head = {"content-type": "text/plain", "content-length": str(len(body))}
        headers = [(name.encode(), value.encode()) for name, value in head.items()]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if path == "/halfway":
            self.entered.set()
            await self.gate.wait()
        await send({"type": "http.response.body", "body": body})


class Client:
    """A raw socket with deadlines."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def half_close(self) -> None:
        self.writer.write_eof()

    async def read(self, expected: bytes) -> None:
        """Read as much as is expected, and compare."""
        found = await asyncio.wait_for(self._reader.readexactly(len(expected)), 5)
        assert found == expected

    async def rest(self) -> bytes:
        """All until the server closes."""
        return await asyncio.wait_for(self._reader.read(), 5)

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


class House:
    """A listener on a Unix or a TCP socket, and its clients."""

    def __init__(self, listener: Listener, app: App, address: Any) -> None:
        self.listener, self.app, self.address = listener, app, address
        self.clients: list[Client] = []

    async def client(self) -> Client:
        if isinstance(self.address, str):
            client = Client(*await asyncio.open_unix_connection(self.address))
        else:
            client = Client(*await asyncio.open_connection(*self.address))
        self.clients.append(client)
        return client

    async def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(1000):
            if condition():
                return
            await asyncio.sleep(0.005)
        raise TimeoutError


Scenario = Callable[[House], Awaitable[None]]
Run = Callable[..., None]


@asynccontextmanager
async def opened(sock: socket.socket, **options: Any) -> AsyncIterator[House]:
    app = App()
    listener = Listener(app, [sock], ident=IDENT, **options)
    address = sock.getsockname()
    await listener.start()
    house = House(listener, app, address)
    try:
        yield house
    finally:
        app.gate.set()
        for client in house.clients:
            await client.close()
        await listener.stop(1)
        assert listener.open_connections == 0


@pytest.fixture(params=["asyncio-tcp", "uvloop-unix"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """Run a scenario under both loops, each on another kind of socket."""
    kind, family = request.param.split("-")

    def bound() -> socket.socket:
        if family == "unix":
            sock = socket.socket(socket.AF_UNIX)
            sock.bind(str(tmp_path / "s"))
        else:
            sock = socket.socket()
            sock.bind(("127.0.0.1", 0))
        return sock

    def run_it(scenario: Scenario, **options: Any) -> None:
        async def body() -> None:
            async with opened(bound(), **options) as house:
                await scenario(house)

        factory = uvloop.new_event_loop if kind == "uvloop" else None
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(body())

    return run_it


def test_requests_share_a_connection(run: Run) -> None:
    async def scenario(house: House) -> None:
        client = await house.client()
        for _ in range(3):
            client.send(GET)
            await client.read(answer(b""))
            client.send(post(b"tea"))
            await client.read(answer(b"tea"))
        assert house.listener.open_connections == 1

    run(scenario)


def test_the_head_is_no_more_than_asked_for(run: Run) -> None:
    async def scenario(house: House) -> None:
        client = await house.client()
        client.send(GET)
        expected = answer(b"").replace(b"content-type", b"x-app-version: v1\r\ncontent-type", 1)
        await client.read(expected)
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        assert await client.rest() == expected.replace(b"0\r\n\r\n", b"0\r\nconnection: close\r\n\r\n")

    run(scenario, headers=[("X-App-Version", "v1")])


def test_4_a_client_that_half_closes_gets_its_answer_and_then_the_end(run: Run) -> None:
    async def scenario(house: House) -> None:
        client = await house.client()
        client.send(GET.replace(b"/x?y=1", b"/slow"))
        await house.app.entered.wait()
        client.half_close()
        await asyncio.sleep(0.05)
        house.app.gate.set()
        assert await client.rest() == answer(b"", "200 OK", "connection: close")
        assert house.app.ended == ["/slow"]

    run(scenario)


def test_4_a_long_answer_reaches_a_client_that_half_closed(run: Run) -> None:
    async def scenario(house: House) -> None:
        client = await house.client()
        client.send(GET.replace(b"/x?y=1", b"/big"))
        client.half_close()
        found = await client.rest()
        assert found.startswith(b"HTTP/1.1 200 OK\r\n")
        assert found.endswith(b"\r\n\r\n" + bytes(BIG))

    run(scenario)


def test_4_a_half_close_behind_two_requests_ends_both_answers(run: Run) -> None:
    async def scenario(house: House) -> None:
        client = await house.client()
        client.send(post(b"1") + post(b"2"))
        client.half_close()
        assert await client.rest() in (
            answer(b"1") + answer(b"2", "200 OK", "connection: close"),
            answer(b"1") + answer(b"2"),  # the end was read after the second answer
        )

    run(scenario)


def test_4_an_idle_half_close_is_answered_by_the_end(run: Run) -> None:
    async def scenario(house: House) -> None:
        client = await house.client()
        client.send(GET)
        await client.read(answer(b""))
        client.half_close()
        assert await client.rest() == b""
        silent = await house.client()
        silent.half_close()
        assert await silent.rest() == b""

    run(scenario)


@pytest.mark.parametrize("part", [GET[:10], GET[:-2], post(b"tea", length=4)])
def test_4_a_half_close_in_the_midst_of_a_request_is_400(run: Run, part: bytes) -> None:
    async def scenario(house: House) -> None:
        client = await house.client()
        client.send(part)
        await asyncio.sleep(0.05)
        client.half_close()
        assert await client.rest() == BAD

    run(scenario)


def test_a_client_that_goes_away_in_the_midst_of_a_body_frees_its_request(run: Run, caplog: Any) -> None:
    async def scenario(house: House) -> None:
        client = await house.client()
        client.send(post(b"tea", length=40))
        await house.app.entered.wait()
        client.writer.transport.abort()
        await house.until(lambda: house.app.ended == ["/echo ClientDisconnect"])
        await house.until(lambda: house.listener.open_connections == 0)

    run(scenario)
    assert caplog.records == []


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        b"NONSENSE / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET x HTTP/1.1\r\n\r\n",
        b"CONNECT host:1 HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
    ],
)
def test_3_what_is_no_http_is_400(run: Run, garbage: bytes) -> None:
    async def scenario(house: House) -> None:
        client = await house.client()
        client.send(GET)
        await client.read(answer(b""))
        client.send(garbage)
        assert await client.rest() == BAD
        assert house.app.ended == ["/x"]

    run(scenario)


def test_3_garbage_behind_a_request_does_not_spoil_its_answer(run: Run) -> None:
    async def scenario(house: House) -> None:
        client = await house.client()
        client.send(post(b"tea") + b"\xff\xfe}")  # guest-agent.md 2.8 e
        assert await client.rest() == answer(b"tea", "200 OK", "connection: close")

    run(scenario)


def test_3_a_bad_chunk_ends_the_request_under_way(run: Run) -> None:
    async def scenario(house: House) -> None:
        client = await house.client()
        client.send(b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ntea\r\n")
        await house.app.entered.wait()
        client.send(b"nonsense\r\n")
        assert await client.rest() == BAD
        await house.until(lambda: house.app.ended == ["/echo ClientDisconnect"])

    run(scenario)


def test_3_a_bad_chunk_in_a_waiting_request_is_refused_in_its_turn(run: Run) -> None:
    async def scenario(house: House) -> None:
        client = await house.client()
        client.send(post(b"1") + b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n")
        assert await client.rest() == answer(b"1") + BAD

    run(scenario)


def test_3_a_bad_chunk_behind_an_answer_that_began_is_a_plain_end(run: Run) -> None:
    async def scenario(house: House) -> None:
        client = await house.client()
        client.send(b"POST /early HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ntea\r\n")
        await client.read(answer(b""))
        client.send(b"nonsense\r\n")
        assert await client.rest() == b""

    run(scenario)


@pytest.mark.parametrize("part", [b"", b"\r\n", GET[:10], GET[:-2], post(b"tea", length=4)])
def test_1_slow_requests_end(run: Run, part: bytes) -> None:
    async def scenario(house: House) -> None:
        client = await house.client()
        if part:
            client.send(part)
        assert await client.rest() == (SLOW if part.strip() else b"")

    run(scenario, request_timeout=0.1)


def test_1_the_time_is_that_of_the_whole_request(run: Run) -> None:
    async def scenario(house: House) -> None:
        client = await house.client()
        client.send(GET)
        await client.read(answer(b""))
        await asyncio.sleep(0.4)  # the time between requests does not count
        client.send(GET)
        await client.read(answer(b""))
        client.send(GET[:4])
        found = asyncio.ensure_future(client.rest())
        for _ in range(100):
            if found.done():
                break
            client.send(b"x")
            await asyncio.sleep(0.02)
        assert await found == SLOW

    run(scenario, request_timeout=0.3)


def test_1_the_time_of_the_answer_is_the_applications(run: Run) -> None:
    async def scenario(house: House) -> None:
        client = await house.client()
        client.send(GET.replace(b"/x?y=1", b"/slow"))
        await asyncio.sleep(0.3)
        house.app.gate.set()
        await client.read(answer(b""))

    run(scenario, request_timeout=0.1)


def test_1_a_request_that_we_do_not_read_yet_is_not_slow(run: Run) -> None:
    async def scenario(house: House) -> None:
        client = await house.client()
        request = post(bytes(200_000)).replace(b"/echo", b"/late")
        client.send(request[:-1])
        await asyncio.sleep(0.65)
        house.app.gate.set()
        client.send(request[-1:])
        await client.read(answer(bytes(200_000)))

    run(scenario, request_timeout=0.3)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 2000 + b"\r\n",
        b"GET / HTTP/1.1\r\nA: " + b"b" * 5000,
        b"GET /" + b"a" * 5000,
    ],
)
@pytest.mark.parametrize("pieces", [1, 50])
def test_2_the_head_is_bounded(run: Run, head: bytes, pieces: int) -> None:
    async def scenario(house: House) -> None:
        client = await house.client()
        size = len(head) // pieces + 1
        for start in range(0, len(head), size):
            client.send(head[start : start + size])
            await client.writer.drain()
            await asyncio.sleep(0)
        assert await client.rest() == LARGE
        other = await house.client()
        other.send(post(b"b" * 200_000, b"A: " + b"a" * 3000))
        await other.read(answer(b"b" * 200_000))

    run(scenario, head_limit=4096)


def test_6_an_idle_connection_is_closed(run: Run) -> None:
    async def scenario(house: House) -> None:
        client = await house.client()
        client.send(GET)
        await client.read(answer(b""))
        assert await client.rest() == b""

    run(scenario, keep_alive=0.1)


def test_6_connections_beyond_the_bound_are_closed(run: Run) -> None:
    async def scenario(house: House) -> None:
        kept = [await house.client() for _ in range(3)]
        await house.until(lambda: house.listener.open_connections == 3)
        extra = await house.client()
        assert await extra.rest() == b""
        assert house.listener.open_connections == 3
        await kept[0].close()
        await house.until(lambda: house.listener.open_connections == 2)
        again = await house.client()
        again.send(GET)
        await again.read(answer(b""))

    run(scenario, connection_limit=3)


def test_expect_100_continue_is_answered(run: Run) -> None:
    async def scenario(house: House) -> None:
        client = await house.client()
        client.send(post(b"", b"Expect: 100-continue", length=3))
        await client.read(b"HTTP/1.1 100 Continue\r\n\r\n")
        client.send(b"tea")
        await client.read(answer(b"tea"))
        client.send(GET)
        await client.read(answer(b""))

    run(scenario)


def test_a_body_nobody_wanted_is_stepped_over(run: Run) -> None:
    async def scenario(house: House) -> None:
        client = await house.client()
        client.send(post(b"", length=1_000_000).replace(b"/echo", b"/early"))
        await client.read(answer(b""))
        client.send(b"b" * 1_000_000 + GET)
        await client.read(answer(b""))
        assert house.app.ended == ["/early", "/x"]

    run(scenario)


def test_nothing_is_upgraded(run: Run) -> None:
    async def scenario(house: House) -> None:
        client = await house.client()
        client.send(
            GET.replace(b"Host: h", b"Host: h\r\nConnection: Upgrade\r\nUpgrade: websocket") + b"\x81\x00"
        )
        assert await client.rest() == answer(b"", "200 OK", "connection: close")

    run(scenario)


def test_5_a_client_that_takes_nothing_is_cut(run: Run) -> None:
    async def scenario(house: House) -> None:
        client = await house.client()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a read transport
        client.send(GET.replace(b"/x?y=1", b"/big"))
        client.half_close()
        await house.until(lambda: house.app.ended == ["/big"])
        assert house.listener.open_connections == 1
        await house.until(lambda: house.listener.open_connections == 0)

    run(scenario, request_timeout=0.2)


@pytest.mark.parametrize("path", [b"/fail", b"/cancel"])
def test_an_application_that_fails_is_500_and_logged(run: Run, path: bytes, caplog: Any) -> None:
    async def scenario(house: House) -> None:
        client = await house.client()
        client.send(GET.replace(b"/x?y=1", path))
        assert (await client.rest()).startswith(b"HTTP/1.1 500 Internal Server Error\r\n")

    with caplog.at_level(logging.ERROR):
        run(scenario)
    assert len(caplog.records) == 1


def test_stopping_lets_requests_finish_and_closes_the_idle(run: Run) -> None:
    async def scenario(house: House) -> None:
        idle, busy = await house.client(), await house.client()
        await house.until(lambda: house.listener.open_connections == 2)
        busy.send(GET.replace(b"/x?y=1", b"/slow"))
        await house.app.entered.wait()
        stopping = asyncio.ensure_future(house.listener.stop(5))
        assert await idle.rest() == b""
        with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
            await house.client()
        house.app.gate.set()
        assert await busy.rest() == answer(b"", "200 OK", "connection: close")
        await stopping

    run(scenario)


@pytest.mark.parametrize("path", [b"/slow", b"/halfway"])
def test_stopping_cuts_what_does_not_finish(run: Run, path: bytes, caplog: Any) -> None:
    async def scenario(house: House) -> None:
        client = await house.client()
        client.send(GET.replace(b"/x?y=1", path))
        await house.app.entered.wait()
        await house.listener.stop(0.05)
        assert house.app.ended == [f"{path.decode()} CancelledError"]

    run(scenario)
    assert caplog.records == []


def test_a_listener_starts_once(run: Run) -> None:
    async def scenario(house: House) -> None:
        with pytest.raises(MisuseError):
            await house.listener.start()
        await house.listener.stop()
        with pytest.raises(MisuseError):
            await house.listener.start()

    run(scenario)


async def test_a_listener_that_never_started_closes_its_sockets() -> None:
    sock = socket.socket()
    await Listener(App(), [sock], ident=IDENT).stop()
    assert sock.fileno() == -1


async def test_idle_listeners_cost_no_tasks_and_no_timers() -> None:
    sockets = []
    for _ in range(50):
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        sockets.append(sock)
    loop = asyncio.get_running_loop()
    timers = len(loop._scheduled)  # type: ignore[attr-defined]  # where asyncio keeps its timers
    listeners = [Listener(App(), [sock], ident=IDENT) for sock in sockets]
    for listener in listeners:
        await listener.start()
    assert len(asyncio.all_tasks()) == 1
    assert len(loop._scheduled) == timers  # type: ignore[attr-defined]  # as above
    for listener in listeners:
        await listener.stop()


async def test_the_socket_file_is_left_to_whoever_bound_it(tmp_path: Path) -> None:
    path = tmp_path / "s"
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    listener = Listener(App(), [sock], ident=IDENT)
    await listener.start()
    await listener.stop()
    assert path.is_socket()
