"""A server in a node's place that answers as it is told, over TLS or bare."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Self, cast

from support.node_remote_support import HOUSE, SHORT
from support.node_tls_support import NOW
from teehouse.base.clock import FixedClock
from teehouse.guest.sockets import TcpAddress
from teehouse.node.identity import server_context
from teehouse.node.remote import RemoteNode

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
