"""Logs from the Docker Engine (guest-agent.md 13.2).

Rules:

1. A container is looked up first: `locate` says what the engine knows it as, where many CVMs share an engine, and the
   engine says whether it has a terminal. What either does not know is unknown.
2. A log without terminal comes in frames (see `logs_frames`), one with a terminal as it is, on channel `console`.
3. The engine chooses by `since`, `until`, `tail`, and puts the timestamps.
4. A stream that ends before the engine ended it is a `CollateralError`, after all that came before.
"""

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlencode

from teehouse.base.findings import CollateralError, unavailable
from teehouse.guest.docker_http import EngineAnswer, no_engine
from teehouse.guest.logs_frames import MESSAGE_LIMIT, Demultiplexer
from teehouse.guest.logs_query import LogQuery
from teehouse.guest.logs_source import CONSOLE, Frame, no_such_container

DEFAULT_SOCKET = Path("/var/run/docker.sock")
INSPECT_LIMIT = 4 * 1024 * 1024  # bytes

# A container's name at the app to its name or id at the engine; None when the app has no such container.
Locate = Callable[[str], Awaitable[str | None]]


@dataclass(frozen=True, slots=True)
class DockerContainer:
    """`name` is what the caller said, `identity` the engine's id."""

    name: str
    identity: str
    terminal: bool


class DockerLogStream:
    """One open log of the engine (`logs_source.LogStream`)."""

    def __init__(self, answer: EngineAnswer, terminal: bool) -> None:
        self._answer = answer
        self._frames = None if terminal else Demultiplexer()
        self._ended = False

    async def read(self) -> Sequence[Frame] | None:
        """See `LogStream.read`."""
        if self._frames is None:
            data = await self._answer.read()
            return None if data is None else [(CONSOLE, data)]
        frames: list[Frame] = []
        while not frames:
            if self._frames.fault is not None:
                raise self._frames.fault
            if self._ended:
                return None
            frames = await self._next(self._frames)
        return frames

    async def _next(self, demultiplexer: Demultiplexer) -> list[Frame]:
        try:
            data = await self._answer.read()
        except CollateralError as error:
            frames = demultiplexer.finish()
            demultiplexer.fault = error  # the cause, rather than the cut that it made
            return frames
        if data is not None:
            return demultiplexer.feed(data)
        self._ended = True
        return demultiplexer.finish()

    async def close(self) -> None:
        """See `LogStream.close`."""
        await self._answer.close()


class DockerLogSource:
    """The containers of one engine, all of them or those that `locate` knows (rule 1)."""

    def __init__(self, socket: Path = DEFAULT_SOCKET, locate: Locate | None = None) -> None:
        self._socket = socket
        self._locate = locate

    async def resolve(self, name: str) -> DockerContainer | None:
        """See `LogSource.resolve`."""
        identity = name if self._locate is None else await self._locate(name)
        if identity is None:
            return None
        answer = await EngineAnswer.get(self._socket, f"/containers/{quote(identity, safe='')}/json")
        try:
            if answer.status in {400, 404}:  # 400: a name that no container can have
                return None
            body = await answer.all(INSPECT_LIMIT)
            if answer.status != 200:
                raise _refused(answer.status, body)
        finally:
            await answer.close()
        try:
            found = json.loads(body)
            return DockerContainer(name, str(found["Id"]), found["Config"]["Tty"] is True)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise no_engine("another answer than a container's description") from error

    async def stream(self, handle: DockerContainer, query: LogQuery) -> DockerLogStream:
        """See `LogSource.stream`."""
        parameters = {
            "stdout": 1,
            "stderr": 1,
            "follow": int(query.follow),
            "since": query.since,
            "until": query.until,
            "timestamps": int(query.timestamps),
            "tail": "all" if query.tail is None else query.tail,
        }
        target = f"/containers/{quote(handle.identity, safe='')}/logs?{urlencode(parameters)}"
        answer = await EngineAnswer.get(self._socket, target)
        if answer.status == 200:
            return DockerLogStream(answer, handle.terminal)
        try:
            if answer.status == 404:
                raise no_such_container(handle.name)
            raise _refused(answer.status, await answer.all(INSPECT_LIMIT))
        finally:
            await answer.close()


def _refused(status: int, body: bytes) -> CollateralError:
    """The engine's own words, where it has any."""
    try:
        words = str(json.loads(body)["message"])[:MESSAGE_LIMIT]
    except (ValueError, KeyError, TypeError, RecursionError):
        words = ""
    return unavailable(
        "logs.engine-refused", "the container engine refused", found=words or f"status {status}"
    )
