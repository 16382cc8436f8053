"""One HTTP/1.1 connection of a `Listener`: uvicorn's protocol, held to the listener's bounds.

Rules:

1. A request has `request_timeout` seconds from the connection's or its own first byte to its last; then 408,
   or a plain close where nothing was sent. The bound does not run while we are the ones who do not read.
2. Request line and headers have at most `head_limit` bytes; more is 431.
3. What is no HTTP is 400. Both refusals close; what was asked before on the same connection is answered first.
4. A client that closes its side after its request still gets the answer; after that, or when nothing is
   asked, we close ours (guest-agent.md 2.7, 2.8 c). One that ends in the midst of a request gets 400.
5. A client that does not take what it was sent within `request_timeout` of our close is cut.
6. An idle connection is closed after `keep_alive` seconds, one that the listener does not admit at once.
7. Refusals are JSON objects with `error`, as all error bodies of the house are.
8. Over TLS the scope says so in its extension `tls`: `client_cert_der` is the certificate whose key the client
   has proven (bytes, None without one), `tls_version` and `cipher` are names. A client that closes its side
   of TLS closes both: rule 4 is for plain connections.
9. An application that answers without end learns from `peer_of` that the client has closed its side (rule 4), and
   can cut a client that takes nothing.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import httptools
from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, Scope
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

_TEXTS = {
    400: "malformed HTTP request",
    408: "the request was not complete in time",
    431: "request line and headers are too large",
}


KEEP_ALIVE = 10.0  # seconds (guest-agent.md 2.7)
REQUEST_TIMEOUT = 30.0  # seconds
HEAD_LIMIT = 64 * 1024  # bytes
LINGER = 1.0  # seconds that a refused client has to take the refusal
_PEER = "teehouse.peer"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one connection may cost: times in seconds, `head_limit` in bytes."""

    keep_alive: float = KEEP_ALIVE
    request_timeout: float = REQUEST_TIMEOUT
    head_limit: int = HEAD_LIMIT


def tls_of(transport: asyncio.BaseTransport) -> dict[object, object] | None:
    """What rule 8 says of a connection, None for a plain one."""
    session: Any = transport.get_extra_info("ssl_object")
    if session is None:
        return None
    return {
        "client_cert_der": session.getpeercert(binary_form=True),
        "tls_version": session.version(),
        "cipher": (session.cipher() or ("",))[0],
    }


class Peer:
    """A client, as an application sees it while it answers (rule 9)."""

    __slots__ = ("_transport", "half_closed")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.half_closed = asyncio.Event()

    def cut(self) -> None:
        """End the connection without sending what the client has not taken."""
        self._transport.abort()


def peer_of(scope: Mapping[str, Any]) -> Peer | None:
    """Who has asked, None where another server than `Listener` serves."""
    peer: Peer | None = (scope.get("extensions") or {}).get(_PEER)
    return peer


class _HeadTooLargeError(Exception):
    """Rule 2, on its way through the parser."""


class Connection(HttpToolsProtocol):
    """See the module. `admit` says whether one more connection is wanted, `on_lost` hears of each that ended."""

    def __init__(
        self,
        config: Config,
        state: ServerState,
        bounds: Bounds,
        *,
        admit: Callable[[], bool],
        on_lost: Callable[[], None],
    ) -> None:
        super().__init__(config, state, {})
        self.access_log = False
        self.timeout_keep_alive = bounds.keep_alive  # type: ignore[assignment]  # timers take fractions as well
        self._bounds = bounds
        self._admit = admit
        self._on_lost = on_lost
        self._admitted = False
        self._deaf = False  # what the client says from here on does not count
        self._begun = False  # a request has begun and is not complete
        self._in_head = True
        self._head_raw = 0  # bytes of an incomplete head that the parser may hold
        self._head_size = 0  # bytes of its parts that the parser has handed over
        self._deadline: asyncio.TimerHandle | None = None
        self._tls: dict[object, object] | None = None
        self._extensions: dict[str, Any] = {}
        self._peer: Peer | None = None

    # What the transport says

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        if not self._admit():  # rule 6
            self._deaf = True
            transport.abort()
            return
        self._admitted = True
        self._peer = Peer(transport)
        self._tls = tls_of(transport)
        self._extensions = {_PEER: self._peer}
        if self._tls is not None:
            self._extensions["tls"] = self._tls
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._unset_keepalive_if_required()
        if self._admitted:
            super().connection_lost(exc)
            self._on_lost()

    def data_received(self, data: bytes) -> None:
        if self._deaf or self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Nothing here upgrades: the request is answered as it stands. The parser reads no further.
            self._deaf = True
            self.cycle.keep_alive = False
        except httptools.HttpParserError as error:
            self._refuse(431 if isinstance(error.__context__, _HeadTooLargeError) else 400)
            return
        if self._begun and self._in_head:
            self._head_raw += len(data)
            if self._head_raw > self._bounds.head_limit:
                self._refuse(431)
                return
        if self._begun or not self._answering():
            self._arm()
        else:
            self._disarm()

    def eof_received(self) -> bool | None:  # type: ignore[override]  # uvicorn's never keeps the transport
        """Rule 4. True keeps our side open."""
        self._disarm()
        if self._peer is not None:
            self._peer.half_closed.set()
        if self._begun and not self._deaf:
            self._refuse(400)
        self._deaf = True
        if self._answering() and not self.transport.is_closing():
            self.cycle.keep_alive = False
            return True
        self._close()
        return None

    # What the parser says

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = self._extensions
        self._begun = self._in_head = True
        self._head_raw = self._head_size = 0

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._in_head = False

    def on_message_complete(self) -> None:
        self._begun = False
        super().on_message_complete()

    def _count(self, size: int) -> None:
        self._head_size += size
        if self._head_size > self._bounds.head_limit:
            raise _HeadTooLargeError

    # What ends the connection

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._linger()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._linger()

    def shutdown(self) -> None:
        """Close when idle, else after the answers that are under way."""
        super().shutdown()
        self._linger()

    def _too_slow(self) -> None:
        """Rule 1."""
        self._deadline = None
        if self.flow.read_paused:
            self._arm()
        elif self._begun:
            self._refuse(408)
        else:
            self._close()

    def _refuse(self, status: int) -> None:
        """Rules 1 to 4: close, and say why where that can still be said."""
        self._disarm()
        self._deaf = True
        cycle = self.cycle
        if not self._begun or self._in_head:  # nobody answers the bad bytes yet
            if self._answering():
                cycle.keep_alive = False
            else:
                self._write_refusal(status)
        elif self.pipeline:  # the bad request waits for its turn, and so does its refusal
            self.pipeline[0] = (cycle, _refusal_app(status))
            cycle.keep_alive = False
        else:
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started:
                self._close()
            else:
                self._write_refusal(status)

    def _write_refusal(self, status: int) -> None:
        lines = [STATUS_LINE[status]]
        lines += [name + b": " + value + b"\r\n" for name, value in self.server_state.default_headers]
        lines += [name + b": " + value + b"\r\n" for name, value in _refusal_headers(status)]
        self.transport.write(b"".join([*lines, b"connection: close\r\n\r\n", _refusal_body(status)]))
        if self._tls is not None:  # TLS has no half of a close; its own one flushes what was written
            self._close()
            return
        # Closing at once would answer what the client still sends with a reset, and the reset would take the
        # refusal from it: only our side is closed until the client closes its own.
        self.transport.write_eof()
        self._deadline = self.loop.call_later(LINGER, self.transport.abort)

    def _close(self) -> None:
        self.transport.close()
        self._linger()

    def _linger(self) -> None:
        """Rule 5; the TLS layer keeps it itself (`Listener` tells it the time)."""
        if self._tls is None and self.transport.is_closing() and self.transport.get_write_buffer_size():
            self._disarm()
            self._deadline = self.loop.call_later(self._bounds.request_timeout, self.transport.abort)

    def _answering(self) -> bool:
        """Whether an application owes the answer to the newest request whose head is complete."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return cycle is not None and not cycle.response_complete and not cycle.disconnected

    def _arm(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self._bounds.request_timeout, self._too_slow)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def _refusal_body(status: int) -> bytes:
    """Rule 7."""
    return json.dumps({"error": _TEXTS[status]}, indent=2).encode()


def _refusal_headers(status: int) -> list[tuple[bytes, bytes]]:
    length = str(len(_refusal_body(status))).encode()
    return [(b"content-type", b"application/json"), (b"content-length", length)]


def _refusal_app(status: int) -> ASGI3Application:
    async def refuse(_scope: Scope, _receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        await send({"type": "http.response.start", "status": status, "headers": _refusal_headers(status)})
        await send({"type": "http.response.body", "body": _refusal_body(status)})

    return refuse
