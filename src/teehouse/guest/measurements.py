"""The measurement log: RTMR3 and the list of what went into it, always in step.

Rules:

M1. One asyncio lock in the process and one file lock between processes hold {extend, append} together,
    and {read the log, take a quote} together (guest-agent.md 15, 1). The event loop never blocks on them.
M2. The order of an emission is: announce the line on disk, extend the register, append the line, withdraw
    the announcement. Append happens only after the extension; the answer only after the append is flushed.
M3. After anything that went wrong from the extension on, the register alone decides. Equal to the replayed
    log: nothing was measured, the announcement goes. Ahead by exactly the announced event (or by a whole
    line that lost its line feed): that line is appended. Anything else is refused, naming both values.
M4. Until M3 has been decided nothing is quoted and nothing emitted. A caller who got an error from `emit`
    may therefore find the event measured and logged afterwards; it is never measured and not logged.
M5. Lines that another process appended are read, under the lock, before anything else.
M6. A quote whose RTMR3 is not the replay of the log it goes with is not handed out.
M7. An event needs a name; the log stays below `LOG_LIMIT` in its file and its events below `SHARE_LIMIT`
    in an attestation, so that verifiers can still decode one (guest-agent.md 4.5, 11.1).
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

from teehouse.attestation.eventlog import RuntimeEvent
from teehouse.base.findings import misuse
from teehouse.base.hashes import INITIAL_REGISTER, REGISTER_SIZE, extend
from teehouse.guest.runtime_log import LOG_LIMIT, VERSIONS, RuntimeLogFile, damaged, encode_line
from teehouse.tee.platform import REPORT_DATA_SIZE, Platform, PlatformError, platform_error

SHARE_LIMIT = 9 * 1024 * 1024  # bytes; nobody decodes an attestation or an event log of more than 10 MiB
QUEUE_LIMIT = 1024  # callers waiting for the lock
LOCK_PATIENCE = 10.0  # seconds to wait for another process
_LOCK_POLL = 0.002  # seconds between two tries for the file lock

_T = TypeVar("_T")


def attested_size(event: RuntimeEvent) -> int:
    """An upper bound of the bytes the event takes in an attestation, and in the JSON beside a quote."""
    size = 180 + len(json.dumps(event.event)) + len(event.event.encode()) + 2 * len(event.payload)
    return size if event.version == 1 else size + 2 * len(event.preimage()) + 40


def runtime_register_of(quote: bytes) -> bytes:
    """RTMR3 in a TDX quote of version 4 or 5 (guest-agent.md 10.7, trust.md 2.4). Raises `PlatformError`."""
    at = 520 if quote[:2] == b"\x04\x00" else 526
    register = quote[at : at + REGISTER_SIZE]
    if len(register) != REGISTER_SIZE:
        raise platform_error(
            "measurements.quote", "the platform's quote is too short", found=f"{len(quote)} bytes"
        )
    return register


class MeasurementLog:
    """RTMR3 and its event log, over the files in `directory` (guest-agent.md 10.4).

    `event_log_version` is 1 or 2 and decides the digest formula of every event emitted here. `on_quote` may be
    set to what shall hear how many seconds the platform took for each quote.
    """

    def __init__(self, platform: Platform, directory: Path, event_log_version: int = 1) -> None:
        if event_log_version not in VERSIONS:
            raise misuse(
                "measurements.version",
                "no such event log version",
                expected="1 or 2",
                found=str(event_log_version),
            )
        self.platform = platform
        self.event_log_version = event_log_version
        self._file = RuntimeLogFile(directory)
        self._lock = asyncio.Lock()
        self._waiting = 0
        self._opened = False
        self._settled = False
        self._offset = 0
        self._share = 0
        self._register = INITIAL_REGISTER
        self._events: list[RuntimeEvent] = []
        self._snapshot: tuple[RuntimeEvent, ...] | None = ()
        self.on_quote: Callable[[float], None] | None = None

    @property
    def register(self) -> bytes:
        """The 48 bytes that the log replays to, as far as it has been read."""
        return self._register

    @property
    def events(self) -> tuple[RuntimeEvent, ...]:
        """The events of the log, as far as it has been read, in the order of extension."""
        if self._snapshot is None:
            self._snapshot = tuple(self._events)
        return self._snapshot

    @property
    def size(self) -> int:
        """The bytes of the log's file, as far as it has been read."""
        return self._offset

    async def open(self) -> None:
        """Read the log and hold it against the register (M3). May be called again after a refusal.

        Raises `PlatformError`: `measurements.register` when they differ (`register` then has the log's
        value), `measurements.version`, `measurements.log`, or what the platform says.
        """
        await _to_the_end(self._open())

    async def close(self) -> None:
        """Wait for what is under way, then let go of the files."""
        async with self._lock:
            self._opened = self._settled = False
            self._file.close()

    async def emit(self, event: str, payload: bytes) -> None:
        """Measure one event (M2). Raises `MisuseError` (M7) or `PlatformError` (M4).

        An emission that has begun is finished even when the caller is cancelled.
        """
        if not event:
            raise misuse("measurements.name", "event name cannot be empty")
        wanted = RuntimeEvent(event, payload, self.event_log_version)
        await _to_the_end(self._in_turn(lambda: self._emit(wanted)))

    async def quoted(self, report_data: bytes) -> tuple[bytes, tuple[RuntimeEvent, ...]]:
        """A fresh quote over 64 bytes and the events its RTMR3 is made of. Raises `PlatformError`."""
        return await self._in_turn(lambda: self._quoted(report_data))

    async def _open(self) -> None:
        async with self._lock:
            try:
                self._file.open()
                await self._lock_processes()
                try:
                    self._file.settle_version(self.event_log_version)
                    self._opened = True
                    self._settled = False
                    await self._catch_up()
                finally:
                    self._file.unlock()
            except OSError as error:
                raise _io_failure(error) from error

    async def _emit(self, event: RuntimeEvent) -> None:
        digest = event.digest()
        line = encode_line(event)
        if self._offset + len(line) > LOG_LIMIT or self._share + attested_size(event) > SHARE_LIMIT:
            raise misuse("measurements.full", "runtime event log is full")
        await asyncio.to_thread(self._file.announce, line)
        self._settled = False  # from here on the register decides, unless all goes well
        await self.platform.extend(digest)
        await asyncio.to_thread(self._file.append, line, self._offset)
        self._take([event], self._offset + len(line))
        self._file.withdraw()
        self._settled = True

    async def _quoted(self, report_data: bytes) -> tuple[bytes, tuple[RuntimeEvent, ...]]:
        started = perf_counter()  # the loop's own clock may be as coarse as a quote is quick
        quote = await self.platform.quote(report_data)
        if self.on_quote is not None:
            self.on_quote(perf_counter() - started)
        if runtime_register_of(quote) != self._register:
            self._settled = False
            raise self._differs(runtime_register_of(quote))
        return quote, self.events

    async def _in_turn(self, work: Callable[[], Awaitable[_T]]) -> _T:
        """`work` under both locks (M1), with the log read (M5) and in step with the register (M4)."""
        if self._waiting >= QUEUE_LIMIT:
            raise platform_error(
                "measurements.busy", "too many requests wait for the platform", found=str(self._waiting)
            )
        self._waiting += 1
        try:
            await self._lock.acquire()
        finally:
            self._waiting -= 1
        try:
            if not self._opened:
                raise platform_error(
                    "measurements.closed",
                    "runtime event version is not configured; "
                    "complete dstack system setup before emitting events",
                )
            await self._lock_processes()
            try:
                await self._catch_up()
                return await work()
            finally:
                self._file.unlock()
        except OSError as error:
            raise _io_failure(error) from error
        finally:
            self._lock.release()

    async def _lock_processes(self) -> None:
        if self._file.try_lock():
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LOCK_PATIENCE
        while not self._file.try_lock():
            if loop.time() > deadline:
                raise platform_error(
                    "measurements.locked",
                    "another process holds the runtime event log",
                    found=f"locked for {LOCK_PATIENCE:.0f} seconds",
                )
            await asyncio.sleep(_LOCK_POLL)

    async def _catch_up(self) -> None:
        if self._file.size() != self._offset:
            events, offset, torn = self._file.read_from(self._offset)
            if any(event.version != self.event_log_version for event in events):
                raise damaged("events of another version")
            self._take(events, offset)
            if torn:
                self._settled = False
        if not self._settled or self._file.has_announcement():
            await self._settle()

    async def _settle(self) -> None:
        """Rule M3."""
        self._settled = False
        register = await self.platform.runtime_register()
        if register is None:
            register = runtime_register_of(await self.platform.quote(bytes(REPORT_DATA_SIZE)))
        if register != self._register:
            for event in self._file.unsettled(self._offset):
                if register == extend(self._register, event.digest()):
                    line = encode_line(event)
                    await asyncio.to_thread(self._file.append, line, self._offset)
                    self._take([event], self._offset + len(line))
                    break
            else:
                raise self._differs(register)
        self._file.cut(self._offset)
        self._file.withdraw()
        self._settled = True

    def _take(self, events: Iterable[RuntimeEvent], offset: int) -> None:
        for event in events:
            self._register = extend(self._register, event.digest())
            self._share += attested_size(event)
            self._events.append(event)
            self._snapshot = None
        self._offset = offset

    def _differs(self, register: bytes) -> PlatformError:
        return platform_error(
            "measurements.register",
            "RTMR3 is not what the runtime event log replays to",
            expected=self._register.hex(),
            found=register.hex(),
            remedy="something was measured outside the log; no quote can be explained until the next boot",
        )


async def _to_the_end(work: Coroutine[Any, Any, _T]) -> _T:
    """Let `work` finish although its caller may be cancelled; the caller waits for it all the same."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # looked at: nobody is left to be told
        raise


def _io_failure(error: OSError) -> PlatformError:
    return platform_error(
        "measurements.io", "the runtime event log cannot be written", found=error.strerror or str(error)
    )
