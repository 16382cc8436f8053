"""Quotes from the kernel's configfs-tsm (guest-agent.md 10.8; trust.md 15).

Written from the kernel's public description of `/sys/kernel/config/tsm/report`; not yet run on
hardware.

Rules:

1. The entry is a directory that we make when it is missing; its `provider` must read `tdx_guest`.
2. 64 bytes go to `inblob` as one write, the quote is read from `outblob`.
3. `generation` counts the writes to the entry. Read before our write and after reading the quote, it
   must have gone up by exactly one (modulo 2^32): more says that another process wrote in between,
   none that the kernel did not take our write (it reports that only by not counting it). Then the
   quote is thrown away and all is tried again.
4. EBUSY is tried again as well, after a pause that doubles; ETIMEDOUT is final, for the kernel has
   then already waited for the host.
5. There are at most `ATTEMPTS` attempts, and none begins after the deadline.
"""

import errno
import time
from collections.abc import Callable
from pathlib import Path

from teehouse.tee.devicefiles import DeviceFiles, OsFiles
from teehouse.tee.platform import PlatformError, platform_error
from teehouse.tee.sources import QUOTE_BELOW, Deadline, checked_quote, timed_out

PROVIDER = "tdx_guest"
ATTEMPTS = 8
FIRST_PAUSE = 0.01  # seconds; seven doublings make 1.27 s in all
TEXT_LIMIT = 64  # bytes of a text attribute
GENERATIONS = 1 << 32


class ConfigfsQuotes:
    """A `QuoteSource` over the configfs entry `entry`."""

    name = "configfs-tsm"

    def __init__(
        self,
        entry: Path,
        files: DeviceFiles | None = None,
        *,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._entry = entry
        self._files = OsFiles() if files is None else files
        self._pause = pause

    def prepare(self) -> None:
        """Make the entry and check its provider (rule 1). Raises `PlatformError`."""
        try:
            self._files.make_directory(self._entry)
            provider = self._text("provider")
        except OSError as error:
            raise self._failed(error) from error
        if provider != PROVIDER:
            raise platform_error(
                "tdx.configfs.provider",
                f"{self._entry} is not served by TDX",
                expected=PROVIDER,
                found=provider,
            )

    def quote(self, report_data: bytes, deadline: Deadline) -> bytes:
        self.prepare()
        pause = FIRST_PAUSE
        why = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                self._pause(min(pause, deadline.left()))
                pause *= 2
            if not deadline.left():
                raise timed_out(self.name)
            try:
                quote, writes = self._attempt(report_data)
            except OSError as error:
                if error.errno == errno.EBUSY:
                    why = "the driver is busy"
                    continue
                raise self._failed(error) from error
            if writes == 1:
                return checked_quote(quote, report_data, self.name)
            why = f"the generation rose by {writes}"
        raise platform_error(
            "tdx.configfs.contended",
            f"{self._entry} is used by others all the time",
            expected="one quote without another write in between",
            found=f"{ATTEMPTS} attempts, at the last of which {why}",
            remedy="let other programs make entries of their own beside it",
        )

    def _attempt(self, report_data: bytes) -> tuple[bytes, int]:
        """A quote, and by how much the generation rose meanwhile."""
        before = self._generation()
        self._files.write(self._entry / "inblob", report_data)
        quote = self._files.read(self._entry / "outblob", QUOTE_BELOW)
        return quote, (self._generation() - before) % GENERATIONS

    def _generation(self) -> int:
        text = self._text("generation")
        # int() would also take signs, underscores and other scripts' digits.
        if not (text.isascii() and text.isdigit()):
            raise platform_error(
                "tdx.configfs.generation",
                f"{self._entry}/generation is no number",
                expected="a decimal number",
                found=text,
            )
        return int(text)

    def _text(self, attribute: str) -> str:
        return self._files.read(self._entry / attribute, TEXT_LIMIT).decode("ascii", "replace").strip()

    def _failed(self, error: OSError) -> PlatformError:
        if error.errno == errno.ETIMEDOUT:
            return timed_out(self.name)
        if error.errno == errno.EFBIG:
            return platform_error(
                "tdx.quote.size",
                f"an answer of {self._entry} is too long",
                expected=f"fewer than {QUOTE_BELOW} bytes",
                found=str(error),
            )
        remedy = "look at the kernel's log"
        if error.errno == errno.ENOENT:
            remedy = (
                "mount it: mount -t configfs none /sys/kernel/config; the kernel needs CONFIG_TSM_REPORTS"
            )
        elif error.errno in {errno.EACCES, errno.EPERM}:
            remedy = "run the agent as root"
        return platform_error(
            "tdx.configfs.failed", f"{self._entry} does not work", found=str(error), remedy=remedy
        )
