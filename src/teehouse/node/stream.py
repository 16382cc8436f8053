"""The stream of a node's events over HTTP, the server's side (docs/operations/node-rpc.md).

Rules:

1. `after=N` asks for what is newer than N; without it, or with 0, for all that the node still knows.
2. One event is one line of JSON. After `heartbeat` seconds without one there is an empty line, so that both sides
   notice when the other is gone.
3. A stream ends with the node, with the server, with its reader, or with the reader's certificate, and lets go of
   the node's events then.
4. At most `STREAM_LIMIT` streams at a time. Each holds one event: a reader who is slow waits at his own place, and
   hears by GAP what the node has forgotten meanwhile.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

from starlette.types import Receive, Send

from teehouse.base.findings import misuse, unavailable
from teehouse.node.api import Node, NodeEvent
from teehouse.node.messages import event_message
from teehouse.wire import jsonmap

HEARTBEAT: Final = 10.0  # seconds
STREAM_LIMIT: Final = 64

_SEQUENCE_LIMIT = 2**64
_HEAD = [(b"content-type", b"application/x-ndjson"), (b"cache-control", b"no-store")]


class EventStreams:
    """All streams of one server."""

    def __init__(self, node: Node, heartbeat: float = HEARTBEAT) -> None:
        self._node = node
        self._heartbeat = heartbeat
        self._open = 0
        self._ending = asyncio.Event()

    def end(self) -> None:
        """End the streams that run, and give no more."""
        self._ending.set()

    def open(self, query: bytes, admitted: Callable[[], bool]) -> Callable[[Receive, Send], Awaitable[None]]:
        """The application that answers this query, while the reader is `admitted`.

        Raises `MisuseError` for the query, `CollateralError` when there are too many streams.
        """
        after = _after(query)
        if self._open >= STREAM_LIMIT or self._ending.is_set():
            raise unavailable(
                "node.streams",
                "streams of events",
                expected=f"at most {STREAM_LIMIT}, while the node serves",
                remedy="close others, or try again",
            )

        async def stream(receive: Receive, send: Send) -> None:
            self._open += 1
            events = self._node.events(after)
            try:
                await send({"type": "http.response.start", "status": 200, "headers": _HEAD})
                await self._send(events, admitted, receive, send)
            finally:
                self._open -= 1
                await _close(events)

        return stream

    async def _send(
        self, events: AsyncIterator[NodeEvent], admitted: Callable[[], bool], receive: Receive, send: Send
    ) -> None:
        gone = asyncio.ensure_future(_disconnected(receive))
        ending = asyncio.ensure_future(self._ending.wait())
        following: asyncio.Future[bytes | None] = asyncio.ensure_future(_line(events))
        try:
            while True:
                awaited: list[asyncio.Future[Any]] = [following, gone, ending]
                await asyncio.wait(awaited, timeout=self._heartbeat, return_when=asyncio.FIRST_COMPLETED)
                if gone.done() or ending.done() or not admitted():
                    break
                line: bytes | None = b"\n"
                if following.done():
                    line = following.result()
                    if line is None:
                        break
                    following = asyncio.ensure_future(_line(events))
                await send({"type": "http.response.body", "body": line, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            started: list[asyncio.Future[Any]] = [following, gone, ending]
            for task in started:
                task.cancel()
            await asyncio.wait(started)


async def _line(events: AsyncIterator[NodeEvent]) -> bytes | None:
    """The next line, None after the last."""
    try:
        event = await anext(events)
    except StopAsyncIteration:
        return None
    return jsonmap.encode_json(event_message(event)) + b"\n"


async def _close(events: AsyncIterator[NodeEvent]) -> None:
    close = getattr(events, "aclose", None)  # an iterator that is no generator has none
    if close is not None:
        with suppress(Exception):  # nobody is left to hear of it
            await close()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _after(query: bytes) -> int:
    """Rule 1. Raises `MisuseError`."""
    name, _, value = query.partition(b"=")
    if not query:
        return 0
    if name != b"after" or not value.isdigit() or len(value) > 20 or int(value) >= _SEQUENCE_LIMIT:
        found = ascii(query[:80].decode("latin-1"))
        raise misuse("node.events-query", "query of the events", expected="after=N, 64 bits", found=found)
    return int(value)
