"""The page `GET /logs/<container>` (guest-agent.md 13.1, 13.2, column PRODUCT).

Rules:

1. Without `public_logs` every such path is 404 `Logs API is disabled`. The gate is read once, when the page is made.
2. A name is one path segment of at most 255 characters after percent-decoding, without slash, zero character or a
   point at its beginning; otherwise 400, and no source is asked.
3. Refusals have a status as long as nothing is sent: 400 for the query, 404 for the container, 500 for a source that
   fails, 503 when `limit` logs are being sent already, which go on.
4. The answer is `text/plain; charset=utf-8` of unknown length, one piece of it for each batch of frames. A failure in
   the midst of it is a last line of JSON with `error`.
5. It ends with the log, when the client goes, after `idle` seconds without a piece, a client's own slowness included,
   and at the moment that `until` names.
6. A client that has closed its side still gets what there is, but is not followed for: a second without a piece, and
   the answer is complete. Half-closed and gone look alike until something is sent.
7. The next frames are read when the client has taken the last ones, and others have their turn in between: a slow
   reader costs a bounded amount of memory and nobody's time.
"""

import asyncio
from collections.abc import Sequence

from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from teehouse.base.clock import Clock
from teehouse.base.connection import peer_of
from teehouse.base.findings import MisuseError, TeehouseError, misuse
from teehouse.guest.logs_output import LogWriter
from teehouse.guest.logs_query import LogQuery, parse_log_query
from teehouse.guest.logs_source import UNKNOWN, Frame, LogSource, LogStream, no_such_container

LIMIT = 256  # logs that are being sent
IDLE = 600.0  # seconds
LINGER = 1.0  # seconds (rule 6)
NAME_LIMIT = 255  # characters
PATH = "/logs/{name:path}"
_HEADERS = [
    (b"content-type", b"text/plain; charset=utf-8"),
    (b"cache-control", b"no-store"),
    # Without it a browser holds back the first kilobyte to guess what it is, and shows no line of a quiet log.
    (b"x-content-type-options", b"nosniff"),
]


class LogsPage:
    """An ASGI application for `PATH`; `open_streams` counts the answers under way."""

    def __init__(
        self, source: LogSource, clock: Clock, *, public: bool, limit: int = LIMIT, idle: float = IDLE
    ) -> None:
        self.open_streams = 0
        self._source = source
        self._clock = clock
        self._public = public
        self._limit = limit
        self._idle = idle

    def route(self) -> Route:
        """For `guest.agent.Door`."""
        return Route(PATH, self, methods=["GET"], name="logs")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises `HTTPException` and `TeehouseError` as long as nothing is sent (rule 3)."""
        if not self._public:
            raise HTTPException(404, "Logs API is disabled")
        name = _checked(scope["path_params"]["name"])
        now = self._clock.now().timestamp()
        query = parse_log_query(scope["query_string"], int(now))
        if self.open_streams >= self._limit:
            raise HTTPException(503, f"{self._limit} logs are being read already; try again later")
        self.open_streams += 1
        try:
            handle = await self._source.resolve(name)
            if handle is None:
                raise no_such_container(name)
            if scope["method"] == "HEAD":
                await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
                await send({"type": "http.response.body", "body": b""})
                return
            stream = await self._source.stream(handle, query)
            try:
                until = query.until - now if query.follow and query.until else None
                await _Answer(stream, query, self._idle, until).run(scope, receive, send)
            finally:
                await stream.close()
        except MisuseError as error:
            if error.finding.code == UNKNOWN:
                raise HTTPException(404, str(error)) from None
            raise
        finally:
            self.open_streams -= 1


class _Answer:
    """One log on its way to one client (rules 4 to 7). `until`: seconds for which the log is followed, None without end."""

    def __init__(self, stream: LogStream, query: LogQuery, idle: float, until: float | None) -> None:
        self._stream = stream
        self._writer = LogWriter(query)
        self._idle = idle
        self._time = asyncio.get_running_loop().time
        self._end = None if until is None else self._time() + until
        self._half_closed = False
        self._sending = False
        self._patience: asyncio.Timeout | None = None

    async def run(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it all, or what the client takes."""
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        peer = peer_of(scope)
        pump = asyncio.create_task(self._pump(send))
        gone = asyncio.create_task(_gone(receive))
        tasks = [pump, gone]
        if peer is not None:
            tasks.append(asyncio.create_task(self._hurry(peer.half_closed)))
        try:
            await asyncio.wait([pump, gone], return_when=asyncio.FIRST_COMPLETED)
            if pump.done():
                pump.result()
                if self._sending and peer is not None:
                    peer.cut()  # it takes nothing, so it cannot be told of the end either
                    await gone
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _pump(self, send: Send) -> None:
        """From the source to the client; `_sending` stays true when the client takes no more."""
        try:
            async with asyncio.timeout(None) as self._patience:
                while (frames := await self._read(self._patience)) is not None:
                    await self._send(send, self._writer.write(frames), self._patience)
                    await asyncio.sleep(0)  # neither the source nor the client need have made us wait
            last = self._writer.finish()
        except TeehouseError as error:
            last = self._writer.error(str(error))
        except TimeoutError:
            if self._sending:
                return
            last = self._writer.finish()
        self._sending = True
        try:
            async with asyncio.timeout(self._idle):
                await send({"type": "http.response.body", "body": last})
        except TimeoutError:
            return
        self._sending = False

    async def _read(self, patience: asyncio.Timeout) -> Sequence[Frame] | None:
        patience.reschedule(self._read_until())
        return await self._stream.read()

    def _read_until(self) -> float:
        """Rules 5 and 6."""
        limit = self._time() + (min(LINGER, self._idle) if self._half_closed else self._idle)
        return limit if self._end is None else min(limit, self._end)

    async def _send(self, send: Send, content: bytes, patience: asyncio.Timeout) -> None:
        if content:
            patience.reschedule(self._time() + self._idle)
            self._sending = True
            await send({"type": "http.response.body", "body": content, "more_body": True})
            self._sending = False

    async def _hurry(self, half_closed: asyncio.Event) -> None:
        """Rule 6."""
        await half_closed.wait()
        self._half_closed = True
        if self._patience is not None and not self._sending and not self._patience.expired():
            self._patience.reschedule(self._read_until())


async def _gone(receive: Receive) -> None:
    """Returns when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _checked(name: str) -> str:
    """Rule 2."""
    if not 0 < len(name) <= NAME_LIMIT or name.startswith(".") or "/" in name or "\0" in name:
        raise misuse("logs.name", "Invalid container name")
    return name
