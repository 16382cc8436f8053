"""What an application learns of its client while it answers (rule 9 of `connection`)."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.types import Receive, Scope, Send

from teehouse.base.connection import Peer, peer_of
from teehouse.base.listener import Listener


@asynccontextmanager
async def asked(directory: Path, seen: "asyncio.Queue[Peer]") -> AsyncIterator[socket.socket]:
    """A client that has asked, of an application that never answers."""

    async def app(scope: Scope, receive: Receive, _send: Send) -> None:
        peer = peer_of(scope)
        assert peer is not None
        seen.put_nowait(peer)
        while (await receive())["type"] != "http.disconnect":
            pass

    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(directory / "s"))
    listening.listen()
    listener = Listener(app, [listening], ident="test")
    await listener.start()
    client = socket.socket(socket.AF_UNIX)
    client.setblocking(False)
    client.connect(str(directory / "s"))
    await asyncio.get_running_loop().sock_sendall(client, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    try:
        yield client
    finally:
        client.close()
        await listener.stop(0.1)


async def test_rule_9_the_client_closes_its_side(tmp_path: Path) -> None:
    seen: asyncio.Queue[Peer] = asyncio.Queue()
    async with asked(tmp_path, seen) as client:
        peer = await asyncio.wait_for(seen.get(), 5)
        assert not peer.half_closed.is_set()
        client.shutdown(socket.SHUT_WR)
        await asyncio.wait_for(peer.half_closed.wait(), 5)


async def test_rule_9_a_client_is_cut(tmp_path: Path) -> None:
    seen: asyncio.Queue[Peer] = asyncio.Queue()
    async with asked(tmp_path, seen) as client:
        (await asyncio.wait_for(seen.get(), 5)).cut()
        assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 100), 5) == b""


def test_rule_9_another_server_tells_nothing() -> None:
    assert peer_of({"type": "http"}) is None
    assert peer_of({"type": "http", "extensions": None}) is None
    assert peer_of({"type": "http", "extensions": {"tls": {}}}) is None
