"""Log pages on a real listener, a Docker Engine that is told what to answer, and log files of a workload."""

import asyncio
import contextlib
import json
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import httpx

from teehouse.base.clock import Clock, SystemClock
from teehouse.base.listener import Listener
from teehouse.guest.file_logs import LogFile
from teehouse.guest.logs_page import LogsPage
from teehouse.guest.logs_source import LogSource
from teehouse.guest.sockets import UnixAddress, listen
from teehouse.rpc.app import RpcApp
from teehouse.wire.methods import resolve

CHANNELS = {"stdin": 0, "stdout": 1, "stderr": 2, "engine": 3}


def frame(channel: str, content: bytes) -> bytes:
    """One frame of the engine's multiplexed stream (guest-agent.md 13.2)."""
    return struct.pack(">BxxxI", CHANNELS[channel], len(content)) + content


@dataclass
class Entry:
    """One entry of a log; `time` as the engine prints it."""

    channel: str
    time: str
    text: str


@dataclass
class Served:
    """A log page under way."""

    page: LogsPage
    socket: Path
    client: httpx.AsyncClient

    async def text(self, query: str, name: str = "app") -> str:
        answer = await self.client.get(f"/logs/{name}?{query}")
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        return answer.text

    async def refusal(self, path: str) -> tuple[int, dict[str, Any]]:
        answer = await self.client.get(path)
        assert answer.headers["content-type"] == "application/json"
        return answer.status_code, answer.json()


@asynccontextmanager
async def serving(
    directory: Path, source: LogSource, *, clock: Clock | None = None, public: bool = True, **options: Any
) -> AsyncIterator[Served]:
    """The page on the external door's application, on a unix socket."""
    page = LogsPage(source, clock or SystemClock(), public=public, **options)
    app = RpcApp(partial(resolve, "external"), {}, extra_routes=[page.route()], app_version="v0")
    address = UnixAddress(directory / "page.sock")
    listening = listen(address)
    listener = Listener(app, listening.sockets, ident="test")
    await listener.start()
    transport = httpx.AsyncHTTPTransport(uds=str(address.path), limits=httpx.Limits(max_connections=None))
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://cvm", timeout=20) as client:
            yield Served(page, address.path, client)
    finally:
        await listener.stop(1.0)
        listening.close()
        assert page.open_streams == 0


Write = Callable[[bytes], Awaitable[None]]
# Answers one request: its target and how to write. The connection is closed when it returns.
Script = Callable[[str, Write], Awaitable[None]]


@asynccontextmanager
async def engine(directory: Path, script: Script) -> AsyncIterator[Path]:
    """A program on a socket that does as `script` says; the socket's path."""
    path = directory / "docker.sock"
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)

        async def write(data: bytes) -> None:
            writer.write(data)
            await writer.drain()

        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = await reader.readuntil(b"\r\n\r\n")
            await script(head.split()[1].decode(), write)
        writer.close()
        tasks.discard(task)

    server = await asyncio.start_unix_server(serve, str(path))
    try:
        yield path
    finally:
        server.close()
        for task in tasks.copy():
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def plain(status: int, content: bytes) -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(content)) + content


def chunk(content: bytes) -> bytes:
    return b"%x\r\n" % len(content) + content + b"\r\n"


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"


def inspected(*, terminal: bool = False, identity: str = "f" * 64) -> bytes:
    return plain(200, json.dumps({"Id": identity, "Config": {"Tty": terminal}}).encode())


def identity_of(name: str) -> str:
    """The id that `FakeEngine` gives a container."""
    return name.encode().hex().ljust(64, "0")


@dataclass
class FakeContainer:
    """A container of `FakeEngine`."""

    entries: list[Entry] = field(default_factory=list)
    terminal: bool = False
    running: bool = False
    grown: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self) -> None:
        self.grown.set()
        self.grown = asyncio.Event()


@dataclass
class FakeEngine:
    """Answers as Docker Engine 20 to 28 do; what a real one answers is compared in the functional tests."""

    containers: dict[str, FakeContainer]
    targets: list[str] = field(default_factory=list)

    async def __call__(self, target: str, write: Write) -> None:
        self.targets.append(target)
        parts = urlsplit(target)
        _, _, name, what = parts.path.split("/")
        by_id = {identity_of(one): container for one, container in self.containers.items()}
        container = (by_id | self.containers).get(unquote(name))
        if container is None:
            message = {"message": f"No such container: {unquote(name)}"}
            await write(plain(404, json.dumps(message).encode()))
        elif what == "json":
            await write(inspected(terminal=container.terminal, identity=identity_of(name)))
        else:
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            await self._logs(container, query, write)

    async def _logs(self, container: FakeContainer, query: dict[str, str], write: Write) -> None:
        await write(CHUNKED)
        tail = query["tail"]
        first = 0 if tail == "all" else max(0, len(container.entries) - int(tail))
        while True:
            grown = container.grown
            for entry in container.entries[first:]:
                await self._entry(entry, container, query, write)
            first = len(container.entries)
            if query["follow"] == "0" or not container.running:
                break
            await grown.wait()
        await write(LAST_CHUNK)

    async def _entry(
        self, entry: Entry, container: FakeContainer, query: dict[str, str], write: Write
    ) -> None:
        if entry.time < _stamp(query["since"]) or (
            query["until"] != "0" and entry.time > _stamp(query["until"])
        ):
            return
        content = (f"{entry.time} " if query["timestamps"] == "1" else "") + entry.text
        raw = content.encode()
        await write(chunk(raw if container.terminal else frame(entry.channel, raw)))


def _stamp(seconds: str) -> str:
    return f"{datetime.fromtimestamp(int(seconds), UTC):%Y-%m-%dT%H:%M:%S}.000000000Z"


@dataclass
class FakeWorkload:
    """Log files as the supervisor of a bash app writes them."""

    path: Path
    alive: bool = False
    asked: int = 0

    async def locate(self, name: str) -> LogFile | None:
        return LogFile(self.path, self.running) if name == "app" else None

    def running(self) -> bool:
        self.asked += 1
        return self.alive

    def write(self, entries: Sequence[Entry]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            for entry in entries:
                members = {"log": entry.text, "stream": entry.channel, "time": entry.time}
                file.write(json.dumps(members, ensure_ascii=False, separators=(",", ":")) + "\n")

    def rotate(self, files: int = 3) -> None:
        for number in range(files - 1, 0, -1):
            older = self.path if number == 1 else Path(f"{self.path}.{number - 1}")
            with contextlib.suppress(FileNotFoundError):
                older.replace(f"{self.path}.{number}")
