"""What a source of quotes is, and what is asked of every quote whatever its source.

Rules:

1. A quote has more than 1020 and fewer than 8192 bytes (trust.md 15).
2. It is of version 4 or 5 and carries the report data that was asked for, at the place its version
   gives. A quote that another process asked for at the same moment must not pass as ours.
3. Nothing is waited for past the deadline of the request.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from teehouse.tee.platform import REPORT_DATA_SIZE, PlatformError, platform_error

QUOTE_ABOVE = 1020  # bytes; a quote is longer
QUOTE_BELOW = 8192  # bytes; a quote is shorter
# Header 48 bytes, then the report body; v5 puts its type (u16) and size (u32) between (trust.md 2.2, 2.4).
REPORT_DATA_AT = {4: 568, 5: 574}


@dataclass(frozen=True, slots=True)
class Deadline:
    """The instant after which nobody wants the answer any more."""

    at: float
    monotonic: Callable[[], float]

    @classmethod
    def after(cls, seconds: float, monotonic: Callable[[], float] = time.monotonic) -> "Deadline":
        return cls(monotonic() + seconds, monotonic)

    def left(self) -> float:
        """Seconds that are left, not below 0."""
        return max(self.at - self.monotonic(), 0.0)

    def first_part(self, share: float) -> "Deadline":
        """The deadline of a first attempt that may use `share` (0 to 1) of the seconds left."""
        return Deadline(self.monotonic() + self.left() * share, self.monotonic)


class QuoteSource(Protocol):
    """One way to a quote. Blocks; used by one thread at a time."""

    @property
    def name(self) -> str:
        """The name for log lines and errors."""
        ...

    def quote(self, report_data: bytes, deadline: Deadline) -> bytes:
        """A quote over exactly 64 bytes. Raises `PlatformError` and nothing else."""
        ...


def timed_out(source: str) -> PlatformError:
    """The error of rule 3."""
    return platform_error(
        "tdx.quote.timeout",
        f"{source} gave no quote in time",
        remedy="look at the quote generation service on the host",
    )


def checked_quote(quote: bytes, report_data: bytes, source: str) -> bytes:
    """`quote`, if rules 1 and 2 hold. Raises `PlatformError`."""
    if not QUOTE_ABOVE < len(quote) < QUOTE_BELOW:
        raise platform_error(
            "tdx.quote.size",
            f"the answer of {source} is no quote",
            expected=f"more than {QUOTE_ABOVE} and fewer than {QUOTE_BELOW} bytes",
            found=f"{len(quote)}",
        )
    version = int.from_bytes(quote[:2], "little")
    at = REPORT_DATA_AT.get(version)
    if at is None:
        raise platform_error(
            "tdx.quote.version",
            f"the answer of {source} is no TDX quote",
            expected="version 4 or 5",
            found=f"version {version}",
        )
    found = quote[at : at + REPORT_DATA_SIZE]
    if found != report_data:
        raise platform_error(
            "tdx.quote.other-report-data",
            f"the quote of {source} is over other report data",
            expected=report_data.hex(),
            found=found.hex(),
        )
    return quote
