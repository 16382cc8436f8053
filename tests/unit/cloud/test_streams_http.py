"""State streams and webhooks on the wire: events through the application, and deliveries to a real server."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.cloud_api_support import API, V2, Api, api
from teehouse.cloud.cvms.state_stream import STREAMS_LIMIT
from teehouse.cloud.webhooks.delivery import HttpSender


@pytest.fixture
async def one(tmp_path: Path) -> AsyncIterator[Api]:
    async with api("sqlite", tmp_path) as made:
        yield made


class Stream:
    """A request whose answer is read as it comes; `leave` is a client that goes away."""

    def __init__(self, here: Api, path: str, query: str) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.began = asyncio.Event()
        self._gone = asyncio.Event()
        self._asked = False
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": API + path,
            "raw_path": (API + path).encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [
                (b"x-api-key", here.cloud.first.api_key.encode()),
                (b"accept", b"text/event-stream"),
                (b"cache-control", b"no-cache"),
            ],
            "client": ("127.0.0.1", 1),
            "server": ("cloud.test", 80),
        }
        self.task: asyncio.Task[None] = asyncio.ensure_future(
            here.cloud.app(scope, self._receive, self._send)
        )

    async def _receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        self.body += message.get("body", b"")
        if self.body:
            self.began.set()

    async def leave(self) -> None:
        self._gone.set()
        await asyncio.wait_for(self.task, 10)

    @property
    def events(self) -> list[tuple[str, Any]]:
        frames = [frame.splitlines() for frame in self.body.decode().split("\n\n") if frame]
        assert all(len(frame) == 2 for frame in frames)
        return [
            (event.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for event, data in frames
        ]


async def test_a_stream_ends_with_the_state_that_was_waited_for(one: Api) -> None:
    cvm = await one.deploy()
    at_once = await one.call("GET", f"/cvms/{cvm['vm_uuid']}/state", headers=V2)
    assert (at_once.headers["content-type"], at_once.json()["id"]) == ("application/json", str(cvm["id"]))
    stream = Stream(one, "/cvms/my-app/state", "target=running&interval=5&timeout=10")
    await asyncio.wait_for(stream.task, 10)
    assert (stream.status, stream.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert (stream.headers["cache-control"], stream.headers["x-accel-buffering"]) == ("no-cache", "no")
    assert [name for name, _ in stream.events] == ["state", "complete"]
    assert stream.events[0][1] == stream.events[1][1]
    assert stream.events[0][1]["status"] == "running"
    # What is known as JSON is told with the newest version's id: the clients' streams send no version.
    assert stream.events[0][1]["id"].startswith("cvm_")


async def test_a_stream_tells_each_change(one: Api) -> None:
    await one.deploy()
    stream = Stream(one, "/cvms/my-app/state", "target=stopped&interval=30&timeout=60")
    await asyncio.wait_for(stream.began.wait(), 10)
    await one.call("POST", "/cvms/my-app/stop")
    await asyncio.wait_for(stream.task, 10)
    told = [(name, state["status"]) for name, state in stream.events]
    assert (told[0], told[-2:]) == (("state", "running"), [("state", "stopped"), ("complete", "stopped")])


async def test_a_user_has_five_streams_and_gets_a_place_back(one: Api) -> None:
    await one.deploy()
    query = "target=stopped&interval=5&timeout=60"
    streams = [Stream(one, "/cvms/my-app/state", query) for _ in range(STREAMS_LIMIT)]
    await asyncio.wait_for(asyncio.gather(*(stream.began.wait() for stream in streams)), 10)
    sixth = await one.client.get(f"{API}/cvms/my-app/state?{query}")
    assert (sixth.status_code, sixth.headers["retry-after"]) == (429, "5")
    plain = await one.client.get(f"{API}/cvms/my-app/state")
    assert plain.status_code == 200  # only streams are counted
    await streams[0].leave()
    another = Stream(one, "/cvms/my-app/state", query)
    await asyncio.wait_for(another.began.wait(), 10)
    assert another.status == 200
    for stream in (*streams[1:], another):
        await stream.leave()


async def test_streams_that_begin_together_are_counted_too(one: Api) -> None:
    await one.deploy()
    query = "target=stopped&interval=5&timeout=60"
    streams = [Stream(one, "/cvms/my-app/state", query) for _ in range(STREAMS_LIMIT + 3)]
    await asyncio.wait_for(asyncio.gather(*(stream.began.wait() for stream in streams)), 10)
    assert sorted(stream.status for stream in streams) == [200] * STREAMS_LIMIT + [429] * 3
    for stream in streams:
        await stream.leave()


@pytest.mark.parametrize("query", ["target=x&interval=4", "target=x&timeout=9", "target=x&timeout=601"])
async def test_intervals_and_times_out_of_bounds(one: Api, query: str) -> None:
    await one.deploy()
    assert (await one.client.get(f"{API}/cvms/my-app/state?{query}")).status_code == 422


Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]


@asynccontextmanager
async def receiving(answer: Answer) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server on the loopback, and the requests that came."""
    came: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            came.append(head + await reader.readexactly(length))
            await answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/hook?x=1", came


def saying(head: bytes) -> Answer:
    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 " + head + b"\r\n\r\n")
        await writer.drain()

    return answer


async def test_a_delivery_as_it_is_on_the_wire(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")  # a proxy of the environment is not asked
    sender = HttpSender()
    async with receiving(saying(b"204 No Content")) as (url, came):
        given = {"Content-Type": "application/json", "X-Webhook-Id": "evt_1"}
        assert await sender.post(url, b'{"id":"evt_1"}', given) == 204
    await sender.close()
    head, _, body = came[0].partition(b"\r\n\r\n")
    assert (head.split(b"\r\n")[0], body) == (b"POST /hook?x=1 HTTP/1.1", b'{"id":"evt_1"}')
    assert b"\r\nX-Webhook-Id: evt_1" in head


async def test_a_redirect_is_not_followed() -> None:
    sender = HttpSender()
    async with receiving(saying(b"200 OK")) as (elsewhere, followed):
        location = b"302 Found\r\nLocation: " + elsewhere.encode() + b"\r\nContent-Length: 0"
        async with receiving(saying(location)) as (url, came):
            assert await sender.post(url, b"{}", {}) == 302
    await sender.close()
    assert (len(came), followed) == (1, [])


async def test_what_is_answered_is_not_read() -> None:
    async def endless(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")
            await writer.drain()

    sender = HttpSender(timeout=5)
    async with receiving(endless) as (url, _), asyncio.timeout(4):
        assert await sender.post(url, b"{}", {}) == 200
    await sender.close()


async def test_a_delivery_has_its_time_and_no_more() -> None:
    """Each byte that comes puts off the library's own timeout; the attempt as a whole has one too."""

    async def slowly(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        for _ in range(100):
            await asyncio.sleep(0.05)
            writer.write(b"x")
            await writer.drain()

    async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    for answer in (slowly, silent):
        sender = HttpSender(timeout=0.3)
        async with receiving(answer) as (url, came):
            with pytest.raises((TimeoutError, httpx.TimeoutException)):
                await sender.post(url, b"{}", {})
            assert len(came) == 1
            await sender.close()
