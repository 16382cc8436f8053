"""Logs from the files of a workload that has no container engine (guest-agent.md 13.2; `file_tail` reads them).

Rules:

1. `locate` knows the containers, and of each the log and whether it runs.
2. Files are read in threads, one batch for each call, so that a slow disk holds up nobody else.
3. A followed file is looked at every 50 ms, once for all its followers, and nobody looks when nobody follows. Whether
   the container runs is asked at most once a second.
4. A follower that sees the container ended reads on to the end of what was written, and ends.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from teehouse.base.findings import CollateralError, unavailable
from teehouse.guest.file_tail import FileTail
from teehouse.guest.logs_query import LogQuery
from teehouse.guest.logs_source import Frame

POLL = 0.05  # seconds
RUNNING_POLL = 1.0  # seconds


@dataclass(frozen=True, slots=True)
class LogFile:
    """A container's log: the newest file, and how to ask whether the container runs (asked in a thread)."""

    path: Path
    running: Callable[[], bool]


Locate = Callable[[str], Awaitable[LogFile | None]]


class _Watch:
    """Looks at one file for all its followers (rule 3). `running` is what was last known."""

    def __init__(self, log: LogFile, poll: float, running_poll: float) -> None:
        self.running = True
        self.followers = 0
        self.changed = asyncio.Event()
        self._log = log
        self._poll = poll
        self._running_poll = running_poll
        self.task = asyncio.create_task(self._look())

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        last = self._signature()
        ask_at = loop.time()
        while True:
            now = loop.time()
            if now >= ask_at:
                ask_at = now + self._running_poll
                await self._ask()
            found = self._signature()
            if found != last:
                last = found
                self.tell()
            await asyncio.sleep(self._poll)

    async def _ask(self) -> None:
        try:
            running = await asyncio.to_thread(self._log.running)
        except OSError:
            running = False
        if running != self.running:
            self.running = running
            self.tell()

    def tell(self) -> None:
        """Wake all who wait, and let the next ones wait again."""
        self.changed.set()
        self.changed = asyncio.Event()

    def _signature(self) -> tuple[int, ...]:
        try:
            status = os.stat(self._log.path)  # noqa: PTH116 - the cheapest look there is
        except OSError:
            return ()
        return (status.st_dev, status.st_ino, status.st_size)


class FileLogStream:
    """One open log (`logs_source.LogStream`)."""

    def __init__(self, tail: FileTail, watch: _Watch | None, release: Callable[[], None]) -> None:
        self._tail = tail
        self._watch = watch
        self._release = release
        self._reading: asyncio.Future[list[Frame] | None] | None = None
        self._closed = False

    async def read(self) -> Sequence[Frame] | None:
        """See `LogStream.read`."""
        watch = self._watch
        while True:
            changed = None if watch is None else watch.changed
            running = (
                watch is not None and watch.running
            )  # both before reading: what follows cannot be missed
            frames = await self._batch()
            if frames:
                return frames
            if frames is None:
                if changed is None or not running or self._tail.ended:
                    return None
                await changed.wait()

    async def _batch(self) -> list[Frame] | None:
        """One batch. A cancelled call leaves it to the next."""
        if self._reading is None:
            self._reading = asyncio.ensure_future(asyncio.to_thread(self._tail.read))
        try:
            frames = await asyncio.shield(self._reading)
        except OSError as error:
            self._reading = None
            raise _unreadable(error) from error
        self._reading = None
        return frames

    async def close(self) -> None:
        """See `LogStream.close`. The file is closed when no thread reads it any more."""
        if self._closed:
            return
        self._closed = True
        self._release()
        if self._reading is None:
            self._tail.close()
        else:
            self._reading.add_done_callback(self._read_in_vain)

    def _read_in_vain(self, reading: asyncio.Future[list[Frame] | None]) -> None:
        if not reading.cancelled():
            reading.exception()  # nobody is left to be told
        self._tail.close()


class FileLogSource:
    """The containers that `locate` knows (rule 1). `poll` and `running_poll` in seconds."""

    def __init__(self, locate: Locate, *, poll: float = POLL, running_poll: float = RUNNING_POLL) -> None:
        self._locate = locate
        self._poll = poll
        self._running_poll = running_poll
        self._watches: dict[Path, _Watch] = {}

    @property
    def watched(self) -> int:
        """How many files are followed."""
        return len(self._watches)

    async def resolve(self, name: str) -> LogFile | None:
        """See `LogSource.resolve`."""
        return await self._locate(name)

    async def stream(self, handle: LogFile, query: LogQuery) -> FileLogStream:
        """See `LogSource.stream`."""
        try:
            tail = await asyncio.to_thread(FileTail, handle.path, query)
        except OSError as error:
            raise _unreadable(error) from error
        if not query.follow:
            return FileLogStream(tail, None, lambda: None)
        watch = self._watches.get(handle.path)
        if watch is None:
            watch = self._watches[handle.path] = _Watch(handle, self._poll, self._running_poll)
        watch.followers += 1
        return FileLogStream(tail, watch, lambda: self._leave(handle.path, watch))

    def _leave(self, path: Path, watch: _Watch) -> None:
        watch.followers -= 1
        if not watch.followers:
            watch.task.cancel()
            del self._watches[path]


def _unreadable(error: OSError) -> CollateralError:
    return unavailable("logs.file", "the log cannot be read", found=error.strerror or type(error).__name__)
