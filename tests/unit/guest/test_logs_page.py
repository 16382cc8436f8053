"""The page GET /logs/<name> (guest-agent.md 13.1, 13.2, 22 #9; rules of `logs_page`)."""

import asyncio
import json
import resource
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.logs_support import CHUNKED, Served, Write, chunk, engine, frame, inspected, serving
from teehouse.base.clock import SystemClock
from teehouse.base.findings import MisuseError, unavailable
from teehouse.guest import logs_page
from teehouse.guest.docker_logs import DockerLogSource
from teehouse.guest.logs_page import LogsPage
from teehouse.guest.logs_query import LogQuery
from teehouse.guest.logs_source import Frame, LogStream, no_such_container


class FakeStream:
    """Gives what `source.frames` holds, then waits until `source.ended`, then gives nothing or `source.fault`."""

    def __init__(self, source: "FakeSource") -> None:
        self.source = source
        self.at = 0

    async def read(self) -> Sequence[Frame] | None:
        self.source.reads += 1
        while self.at == len(self.source.frames):
            if self.source.ended.is_set():
                if self.source.fault is not None:
                    raise self.source.fault
                return None
            self.source.waiting.set()
            await self.source.more.wait()
        self.at += 1
        return [self.source.frames[self.at - 1]]

    async def close(self) -> None:
        self.source.closed += 1


class FakeSource:
    """One container, `app`."""

    def __init__(self, *frames: Frame, ended: bool = True, fault: Exception | None = None) -> None:
        self.frames = list(frames)
        self.fault = fault
        self.gone = False
        self.broken = False
        self.opened = self.closed = self.reads = 0
        self.asked: list[str] = []
        self.more = asyncio.Event()
        self.ended = asyncio.Event()
        self.waiting = asyncio.Event()
        if ended:
            self.end()

    async def resolve(self, name: str) -> str | None:
        self.asked.append(name)
        if self.broken:
            raise unavailable("logs.engine", "the container engine does not answer")
        return name if name == "app" else None

    async def stream(self, handle: str, query: LogQuery) -> LogStream:
        if self.gone:
            raise no_such_container(handle)
        self.opened += 1
        return FakeStream(self)

    def add(self, *frames: Frame) -> None:
        self.frames += frames
        self.more.set()
        self.more = asyncio.Event()

    def end(self) -> None:
        self.ended.set()
        self.more.set()


def connect(served: Served) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.setblocking(False)
    client.connect(str(served.socket))
    return client


async def ask(served: Served, query: str = "text&bare&follow") -> socket.socket:
    client = connect(served)
    await asyncio.get_running_loop().sock_sendall(
        client, f"GET /logs/app?{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    )
    return client


async def receive(client: socket.socket, enough: Callable[[bytes], bool] = lambda _: False) -> bytes:
    """What arrives until it is enough, or the server closes."""
    data = b""
    async with asyncio.timeout(5):
        while not enough(data):
            try:
                piece = await asyncio.get_running_loop().sock_recv(client, 65_536)
            except ConnectionResetError:
                break
            if not piece:
                break
            data += piece
    return data


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - the server hears of the client in its own time
            await asyncio.sleep(0.01)


# Rules 1 to 3: refusals


async def test_rule_1_the_gate(tmp_path: Path) -> None:
    source = FakeSource()
    async with serving(tmp_path, source, public=False) as served:
        for path in ("/logs/app", "/logs/app?tail=abc", "/logs/a%2Fb", "/logs/", "/logs/%00"):
            assert await served.refusal(path) == (404, {"error": "Logs API is disabled"})
        assert await served.refusal("/logs") == (404, {"error": "Service not found: logs"})
    assert source.asked == []


async def raw(served: Served, target: str) -> tuple[int, bytes]:
    """Without a client that makes paths tidy."""
    client = connect(served)
    request = f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    await asyncio.get_running_loop().sock_sendall(client, request.encode())
    answer = await receive(client)
    client.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


@pytest.mark.parametrize(
    "name",
    [
        "..",
        "../",
        "../../etc/passwd",
        "%2e%2e%2f",
        "a/b",
        "a%2Fb",
        "%2Fapp",
        "app/",
        "app%2F..",
        ".hidden",
        "%2Ehidden",
        "app%00",
        "%00",
        "",
        "x" * 256,
    ],
)
async def test_rule_2_names(tmp_path: Path, name: str) -> None:
    source = FakeSource()
    async with serving(tmp_path, source) as served:
        assert await raw(served, f"/logs/{name}") == (400, b'{\n  "error": "Invalid container name"\n}')
    assert source.asked == []


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("x" * 255, "x" * 255),
        ("a%20b%3F", "a b?"),
        ("b%C3%BCro", "b\u00fcro"),
        ("a..b", "a..b"),
        ("%FF", "\ufffd"),
        ("%3Cscript%3E", "<script>"),
        ("%252F", "%2F"),
    ],
)
async def test_rule_2_other_names_are_looked_up(tmp_path: Path, name: str, asked: str) -> None:
    source = FakeSource()
    async with serving(tmp_path, source) as served:
        status, body = await raw(served, f"/logs/{name}")
    assert (status, json.loads(body)) == (404, {"error": f"No such container: {asked}"})
    assert source.asked == [asked]


async def test_rule_3_refusals(tmp_path: Path) -> None:
    source = FakeSource()
    async with serving(tmp_path, source) as served:
        assert await served.refusal("/logs/app?since=-1h") == (400, {"error": "Invalid since"})
        source.gone = True
        assert await served.refusal("/logs/app") == (404, {"error": "No such container: app"})
        source.broken = True
        text = "the container engine does not answer"
        assert await served.refusal("/logs/app") == (500, {"error": text})
        answer = await served.client.post("/logs/app", json={})
        assert (answer.status_code, answer.json()) == (405, {"error": "Method not allowed"})
    assert source.opened == 0


async def test_a_refusal_of_another_kind_stays_what_it_is(tmp_path: Path) -> None:
    async def strange(_handle: str, _query: LogQuery) -> LogStream:
        raise MisuseError(unavailable("x.y", "something else").finding)

    source = FakeSource()
    source.stream = strange  # type: ignore[method-assign]  # this test's own
    async with serving(tmp_path, source) as served:
        assert await served.refusal("/logs/app") == (400, {"error": "something else"})


async def test_head(tmp_path: Path) -> None:
    source = FakeSource(("stdout", b"a\n"))
    async with serving(tmp_path, source) as served:
        answer = await served.client.head("/logs/app")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; charset=utf-8")
        assert (await served.client.head("/logs/nobody")).status_code == 404
    assert source.opened == 0


async def test_rule_3_a_limit_that_harms_no_open_stream(tmp_path: Path) -> None:
    source = FakeSource(("stdout", b"first\n"), ended=False)
    async with serving(tmp_path, source, limit=3) as served:
        clients = [await ask(served) for _ in range(3)]
        await eventually(lambda: source.opened == 3)
        refused = (503, {"error": "3 logs are being read already; try again later"})
        for _ in range(20):
            assert await served.refusal("/logs/app") == refused
        source.add(("stdout", b"second\n"))
        for client in clients:
            assert b"second" in await receive(client, lambda data: b"second" in data)
        clients.pop().close()
        source.add(("stdout", b"third\n"))  # only by sending does the server learn of it
        await eventually(lambda: served.page.open_streams == 2)
        clients.append(await ask(served))
        assert b"first" in await receive(clients[-1], lambda data: b"first" in data)
        source.end()
        for client in clients:
            assert (await receive(client, lambda data: data.endswith(b"0\r\n\r\n"))).endswith(b"0\r\n\r\n")
            client.close()
    assert (source.opened, source.closed) == (4, 4)


async def test_rule_3_a_thousand_followers(tmp_path: Path) -> None:
    source = FakeSource(ended=False)
    async with serving(tmp_path, source) as served:
        clients = [await ask(served) for _ in range(1000)]
        await eventually(lambda: source.opened == 256)
        source.add(("stdout", b"news\n"))
        heads: list[bytes] = []
        for client in clients:
            data = await receive(client, lambda data: b"news" in data or b"error" in data)
            heads.append(data[9:12])
        assert (heads.count(b"200"), heads.count(b"503")) == (256, 744)
        for client in clients:
            client.close()
        source.add(("stdout", b"x"))
    assert source.closed == 256


# Rule 4: the answer


async def test_rule_4_an_answer(tmp_path: Path) -> None:
    source = FakeSource(("stdout", b"a\n"), ("stderr", b"b"))
    async with serving(tmp_path, source) as served:
        answer = await served.client.get("/logs/app?text")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert answer.headers["transfer-encoding"] == "chunked"
        assert answer.headers["x-app-version"] == "v0"
        assert answer.text == ('{"channel":"stdout","message":"a\\n"}\n{"channel":"stderr","message":"b"}\n')
        assert await served.text("text&bare") == "a\nb"  # on the same connection
    assert (source.opened, source.closed) == (2, 2)


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        ("text&bare", 'half\ufffd\n{"error":"gone"}\n'),
        ("bare", 'aGFsZuI=\n{"error":"gone"}\n'),
        (
            "text",
            '{"channel":"stdout","message":"half"}\n{"channel":"stdout","message":"\ufffd"}\n{"error":"gone"}\n',
        ),
    ],
)
async def test_rule_4_a_failure_in_the_midst(tmp_path: Path, query: str, answer: str) -> None:
    source = FakeSource(("stdout", b"half\xe2"), fault=unavailable("x.y", "gone"))
    async with serving(tmp_path, source) as served:
        assert await served.text(query) == answer


async def test_rule_4_an_engine_killed_in_the_midst(tmp_path: Path) -> None:
    async def script(target: str, write: Write) -> None:
        if target.endswith("/json"):
            await write(inspected())
        else:
            await write(CHUNKED + chunk(frame("stdout", b"a\n")))

    async with engine(tmp_path, script) as path, serving(tmp_path, DockerLogSource(path)) as served:
        first, second = (await served.text("text&bare&follow")).splitlines()
        assert first == "a"
        assert json.loads(second)["error"].startswith("the container engine does not answer")
    async with serving(tmp_path, DockerLogSource(path)) as served:
        status, body = await served.refusal("/logs/app")
        assert (status, list(body)) == (500, ["error"])
        assert str(tmp_path) not in body["error"]


async def test_what_was_not_foreseen_breaks_the_connection(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = FakeSource(("stdout", b"a\n"), fault=ValueError("geheim"))
    async with serving(tmp_path, source) as served:
        with pytest.raises(httpx.RemoteProtocolError):
            await served.text("text&bare")
    assert source.closed == 1


# Rules 5 to 7: the end, and clients of all kinds


async def test_rule_5_an_idle_stream_ends(tmp_path: Path) -> None:
    source = FakeSource(("stdout", b"a\xe2\x82"), ended=False)
    async with serving(tmp_path, source, idle=0.2) as served:
        begun = asyncio.get_running_loop().time()
        answer = asyncio.create_task(served.text("text&bare&follow"))
        for _ in range(4):
            await asyncio.sleep(0.1)
            source.add(("stdout", b"."))
        assert await answer == "a\ufffd...."
        assert asyncio.get_running_loop().time() - begun >= 0.6
    assert source.closed == 1


def test_bounds() -> None:
    assert (logs_page.IDLE, logs_page.LINGER, logs_page.LIMIT) == (600.0, 1.0, 256)


async def test_rule_6_a_half_closed_client_gets_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs_page, "LINGER", 0.1)
    source = FakeSource(("stdout", b"all\n"), ended=False)
    async with serving(tmp_path, source) as served:
        early = await ask(served)
        early.shutdown(socket.SHUT_WR)
        late = await ask(served)
        await receive(late, lambda data: b"all" in data)
        late.shutdown(socket.SHUT_WR)
        data = await receive(early)
        assert b"all\n" in data
        assert data.endswith(b"0\r\n\r\n")
        assert (await receive(late)).endswith(b"0\r\n\r\n")
        early.close()
        late.close()
    assert source.closed == 2


async def test_rule_6_a_client_that_goes_while_nothing_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs_page, "LINGER", 0.1)
    source = FakeSource(ended=False)
    async with serving(tmp_path, source) as served:
        client = await ask(served)
        await asyncio.wait_for(source.waiting.wait(), 5)
        client.close()
        await eventually(lambda: source.closed == 1)


async def test_rule_7_a_slow_reader_costs_little_and_stalls_nobody(tmp_path: Path) -> None:
    piece = b"x" * 65_536

    class Endless(FakeStream):
        async def read(self) -> Sequence[Frame] | None:
            self.source.reads += 1
            return [("stdout", piece)]

    source = FakeSource()

    async def stream(_handle: str, query: LogQuery) -> LogStream:
        source.opened += 1
        return Endless(source) if query.tail == 1000 else FakeStream(source)

    source.stream = stream  # type: ignore[method-assign]  # this test's own
    async with serving(tmp_path, source) as served:
        slow = [await ask(served) for _ in range(20)]
        await asyncio.sleep(0.3)
        reads = source.reads
        assert reads < 20 * 12
        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(20):
            assert await asyncio.wait_for(served.text("tail=1"), 2) == ""
        assert source.reads - reads <= 20 + 20
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held < 16 * 1024  # KiB
        data = await receive(slow[0], lambda data: len(data) > 5_000_000)
        assert data.count(b"x") > 4_900_000
        for client in slow:
            client.close()
        await eventually(lambda: served.page.open_streams == 0)
    assert source.closed == 40


async def test_rule_5_a_client_that_takes_nothing_is_cut(tmp_path: Path) -> None:
    source = FakeSource(*[("stdout", b"x" * 65_536)] * 100, ended=False)
    async with serving(tmp_path, source, idle=0.2) as served:
        client = await ask(served)
        await eventually(lambda: source.closed == 1)
        await eventually(lambda: served.page.open_streams == 0)
        data = await receive(client)
        assert not data.endswith(b"0\r\n\r\n")
        client.close()


async def test_rule_5_a_client_that_does_not_take_the_end_is_cut(tmp_path: Path) -> None:
    source = FakeSource(("stdout", b"x" * 4_000_000), fault=unavailable("x.y", "gone"))
    async with serving(tmp_path, source, idle=0.2) as served:
        client = await ask(served)
        await eventually(lambda: source.closed == 1)
        client.close()


# Without `Listener`


async def exchange(page: LogsPage, *, blocked: bool = False) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        if blocked and message["type"] == "http.response.body":
            await asyncio.Event().wait()
        sent.append(dict(message))

    async def wait() -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    scope = {"type": "http", "method": "GET", "query_string": b"text&bare", "path_params": {"name": "app"}}
    await page(scope, wait, send)
    return sent


async def test_another_server_will_do(tmp_path: Path) -> None:
    clock = SystemClock()
    source = FakeSource(("stdout", b"a\n"))
    assert [message.get("body") for message in await exchange(LogsPage(source, clock, public=True))] == [
        None,
        b"a\n",
        b"",
    ]
    page = LogsPage(source, clock, public=True, idle=0.05)
    assert [message["type"] for message in await exchange(page, blocked=True)] == ["http.response.start"]
    empty = LogsPage(FakeSource(), clock, public=True, idle=0.05)
    assert [message["type"] for message in await exchange(empty, blocked=True)] == ["http.response.start"]
