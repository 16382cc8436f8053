"""An ASGI application on sockets that are already bound, inside the loop that runs.

uvicorn's `Server` owns its process: it takes signals, ticks ten times a second, and cuts off clients that
half-close. A node serves hundreds of agents with three listeners each from one loop, so here a listener is
nothing but its sockets: no task, no timer while nobody is connected. HTTP itself stays uvicorn's (see
`connection` for the bounds on each client).
"""

import asyncio
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from teehouse.base.connection import HEAD_LIMIT, KEEP_ALIVE, REQUEST_TIMEOUT, Bounds, Connection
from teehouse.base.findings import misuse

CONNECTION_LIMIT = 1024
BACKLOG = 1024  # connections that wait to be accepted, for each socket


class Listener:
    """Serves `app` on `sockets` (bound stream sockets, Unix or TCP), which it closes when it stops.

    `ident` is the value of the `Server` header; `headers` go into every response beside it. `keep_alive` is
    the time an idle connection is kept, `request_timeout` the time from a request's (or its connection's)
    start to its last byte, both in seconds. Connections beyond `connection_limit` are closed at once;
    request line and headers together have at most `head_limit` bytes.

    With `ssl_context` the sockets speak TLS, whose handshake has `request_timeout` as well; the application
    then finds `tls` among the scope's extensions (`connection.tls_of`).
    """

    def __init__(
        self,
        app: ASGIApp,
        sockets: Sequence[socket.socket],
        *,
        ident: str,
        headers: Sequence[tuple[str, str]] = (),
        keep_alive: float = KEEP_ALIVE,
        request_timeout: float = REQUEST_TIMEOUT,
        connection_limit: int = CONNECTION_LIMIT,
        head_limit: int = HEAD_LIMIT,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._ssl_context = ssl_context
        self._app = app
        self._sockets = tuple(sockets)
        self._headers = [("Server", ident), *headers]
        self._bounds = Bounds(keep_alive, request_timeout, head_limit)
        self._connection_limit = connection_limit
        self._servers: list[asyncio.Server] = []
        self._state = ServerState()
        self._stopping = False
        self._cut = False
        self._empty = asyncio.Event()

    @property
    def open_connections(self) -> int:
        return len(self._state.connections)

    async def start(self) -> None:
        """Begin to accept. Raises `MisuseError` when it was started before, OSError from the sockets."""
        if self._servers or self._stopping:
            raise misuse("listener.started", "a listener starts once")
        config = Config(
            self._serve,
            http=HttpToolsProtocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            headers=self._headers,
        )
        config.load()
        self._state.default_headers = config.encoded_headers
        loop = asyncio.get_running_loop()

        def connection() -> Connection:
            return Connection(
                config, self._state, self._bounds, admit=self._admit, on_lost=self._connection_lost
            )

        for sock in self._sockets:
            # create_server rather than create_unix_server: it leaves the socket's path alone, whose file
            # belongs to whoever bound it.
            tls_patience = None if self._ssl_context is None else self._bounds.request_timeout
            self._servers.append(
                await loop.create_server(
                    connection,
                    sock=sock,
                    backlog=BACKLOG,
                    ssl=self._ssl_context,
                    ssl_handshake_timeout=tls_patience,
                    ssl_shutdown_timeout=tls_patience,
                )
            )

    async def stop(self, deadline: float = 5.0) -> None:
        """Stop accepting, let requests that run finish for `deadline` seconds, then cut what is left."""
        self._stopping = True
        for server in self._servers:
            server.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        if self._state.connections:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), deadline)
        self._cut = True
        for connection in list(self._state.connections):
            connection.transport.abort()
        if self._state.connections:
            await self._empty.wait()
        for task in (tasks := list(self._state.tasks)):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=deadline)
        for server in self._servers:
            await server.wait_closed()
        for sock in self._sockets:
            sock.close()

    def _admit(self) -> bool:
        return not self._stopping and len(self._state.connections) < self._connection_limit

    def _connection_lost(self) -> None:
        if self._stopping and not self._state.connections:
            self._empty.set()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except ClientDisconnect:
            pass  # nobody is left to be answered
        except asyncio.CancelledError:
            if not self._cut:
                raise
