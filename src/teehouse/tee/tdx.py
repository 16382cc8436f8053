"""The real Intel TDX behind the Platform Protocol.

Tested against fakes of the kernel's and the host's interfaces; not yet run on hardware.

Rules:

1. Whatever may block runs in one thread of the platform's own; the event loop never waits.
2. The driver cannot make two quotes at once: one lock serialises them in the whole process, however
   many platforms there are.
3. At most `QuoteLimits.waiting` requests wait for a quote; one more is refused at once.
4. A quote has `QuoteLimits.seconds` from the moment it is asked for, waiting included. A request that
   has not begun when its time is over, or when its caller goes away, is taken out of the queue.
5. The sources are asked in order; the first good quote is the answer. A source may use half of the
   time that is left while another one follows it. If none succeeds, the error says why of each.
6. An extension that has begun is waited for, whatever happens to its caller: when `extend` has ended,
   in whichever way, no extension is under way. One that has not begun in time is taken back.
"""

import asyncio
import concurrent.futures
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from teehouse.base.findings import EvidenceError, misuse
from teehouse.base.hashes import REGISTER_SIZE
from teehouse.tee.ccel import TABLE_LIMIT, parse_ccel
from teehouse.tee.devicefiles import DeviceFiles, OsFiles
from teehouse.tee.platform import REPORT_DATA_SIZE, BootEvent, PlatformError, platform_error
from teehouse.tee.registers import RuntimeRegister
from teehouse.tee.sources import Deadline, QuoteSource, timed_out

T = TypeVar("T")

_log = logging.getLogger(__name__)
_DRIVER = threading.Lock()  # rule 2


@dataclass(frozen=True, slots=True)
class QuoteLimits:
    """How many requests may wait for the one that is served, and for how many seconds each lives."""

    waiting: int = 64
    seconds: float = 10.0


class TdxPlatform:
    """A `Platform` on TDX hardware. Used from one event loop; `close` ends its thread."""

    def __init__(
        self,
        sources: Sequence[QuoteSource],
        register: RuntimeRegister,
        ccel: Path,
        *,
        files: DeviceFiles | None = None,
        limits: QuoteLimits | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sources = tuple(sources)
        self._register = register
        self._ccel = ccel
        self._files = OsFiles() if files is None else files
        self._limits = QuoteLimits() if limits is None else limits
        self._monotonic = monotonic
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "tdx")
        self._requests = 0
        self._closed = False

    @property
    def emulated(self) -> bool:
        """False: quotes are signed under Intel's root."""
        return False

    @property
    def sources(self) -> tuple[str, ...]:
        """The names of the quote sources, in the order in which they are asked."""
        return tuple(source.name for source in self._sources)

    async def quote(self, report_data: bytes) -> bytes:
        """A fresh quote over exactly 64 bytes. Raises `PlatformError`; `MisuseError` for another size."""
        if len(report_data) != REPORT_DATA_SIZE:
            raise misuse(
                "tdx.report-data",
                "report data has one size",
                expected=f"{REPORT_DATA_SIZE} bytes",
                found=f"{len(report_data)}",
            )
        if self._requests > self._limits.waiting:
            raise platform_error(
                "tdx.quote.too-many",
                "too many requests wait for a quote",
                expected=f"at most {self._limits.waiting}",
                remedy="ask again later",
            )
        deadline = Deadline.after(self._limits.seconds, self._monotonic)
        self._requests += 1
        try:
            future = asyncio.wrap_future(self._submit(lambda: self._quote(report_data, deadline)))
            async with asyncio.timeout(self._limits.seconds):
                return await future  # a cancelled wait also cancels the future (rule 4)
        except TimeoutError:
            raise timed_out("the platform") from None
        finally:
            self._requests -= 1

    async def extend(self, digest: bytes) -> None:
        """Extend RTMR3 by 48 bytes. Raises `PlatformError`, the register unchanged; `MisuseError`.

        When the caller is cancelled the register may have been extended or not, but nothing of it is
        still to come (rule 6): a caller that keeps a log shields the two together.
        """
        if len(digest) != REGISTER_SIZE:
            raise misuse(
                "tdx.digest",
                "a register is extended by one SHA-384 digest",
                expected=f"{REGISTER_SIZE} bytes",
                found=f"{len(digest)}",
            )
        job = self._submit(lambda: self._register.extend(digest))
        future = asyncio.wrap_future(job)
        try:
            done, _ = await asyncio.wait([future], timeout=self._limits.seconds)
            if not done and job.cancel():
                raise platform_error(
                    "tdx.register.timeout",
                    "the platform is busy with a quote, RTMR3 was not extended",
                    remedy="look at the quote generation service on the host",
                )
            await asyncio.wait([future])
        except asyncio.CancelledError:
            if not job.cancel():
                await _to_its_end(future)
            raise
        future.result()

    async def runtime_register(self) -> bytes | None:
        """The 48 bytes of RTMR3, or None. Raises `PlatformError`."""
        future = asyncio.wrap_future(self._submit(self._register.read))
        try:
            async with asyncio.timeout(self._limits.seconds):
                return await future
        except TimeoutError:
            raise platform_error("tdx.register.timeout", "the platform is busy with a quote") from None

    def boot_events(self) -> Sequence[BootEvent]:
        """The events of the CCEL table. Reads a file; raises `PlatformError`."""
        try:
            return parse_ccel(self._files.read(self._ccel, TABLE_LIMIT))
        except OSError as error:
            raise platform_error(
                "tdx.ccel.unreadable",
                f"the boot event log {self._ccel} cannot be read",
                found=str(error),
                remedy="the firmware must measure (TDVF), and the agent run as root",
            ) from error
        except EvidenceError as error:
            raise platform_error(
                "tdx.ccel.malformed", f"the boot event log {self._ccel} is broken", found=str(error)
            ) from error

    def close(self) -> None:
        """Take no more requests; those that wait are refused, the one under way is not waited for."""
        self._closed = True
        self._thread.shutdown(wait=False)

    def _submit(self, work: Callable[[], T]) -> "concurrent.futures.Future[T]":
        def unless_closed() -> T:
            if self._closed:
                raise _closed()
            return work()

        if self._closed:
            raise _closed()
        return self._thread.submit(unless_closed)

    def _quote(self, report_data: bytes, deadline: Deadline) -> bytes:
        """In the thread: rules 2 and 5."""
        if not _DRIVER.acquire(timeout=deadline.left()):
            raise timed_out("the platform")
        try:
            return self._first_quote(report_data, deadline)
        finally:
            _DRIVER.release()

    def _first_quote(self, report_data: bytes, deadline: Deadline) -> bytes:
        refusals: list[PlatformError] = []
        for source, others in zip(self._sources, range(len(self._sources), 0, -1), strict=True):
            own = deadline if others == 1 else deadline.first_part(0.5)
            try:
                return source.quote(report_data, own)
            except PlatformError as error:
                refusals.append(error)
                if others > 1:
                    _log.warning("%s gave no quote: %s", source.name, error)
        if len(refusals) == 1:
            raise refusals[0]
        raise platform_error(
            "tdx.quote.failed",
            "no source gave a quote",
            found="; ".join(str(error) for error in refusals),
            remedy=refusals[-1].finding.remedy,
        )


def _closed() -> PlatformError:
    return platform_error("tdx.closed", "the platform is closed")


async def _to_its_end(future: "asyncio.Future[None]") -> None:
    """Wait for `future` however often we are told to stop: who calls is stopping already."""
    while not future.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([future])
    future.exception()  # nobody is left to be told
