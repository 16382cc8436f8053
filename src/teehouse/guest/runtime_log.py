"""The runtime event log on disk (guest-agent.md 10.4), and the line that is written ahead of it.

Four files in one directory, all 0600:

* `runtime_events.log`: one JSON object per line, `{"event":…,"payload":"<base64>"}`, plus `"version":2`
  for events of version 2; append only. Other programs of the boot write the same file.
* `runtime_event_version`: `1` or `2`, written once.
* `runtime_event.lock`: the lock file; whoever extends RTMR3 or reads log and register together holds it.
* `runtime_event.pending`: the one line that is about to be measured. It is on disk before the register
  moves, so that a process that dies between extension and append leaves behind what it measured.

Nothing here waits, and no method but `try_lock` takes the lock; the caller holds it (`guest.measurements`).

Rules:

L1. A line counts when its line feed is there. What follows the last line feed is a torn line.
L2. Lines and file are bounded: the file by `LOG_LIMIT`, so a line by the same.
L3. A line that is no event, or whose version is not the directory's, makes the log unreadable.
"""

import base64
import contextlib
import fcntl
import json
import os
from pathlib import Path

from teehouse.attestation.eventlog import RuntimeEvent
from teehouse.base.files import PRIVATE, write_atomic
from teehouse.tee.platform import PlatformError, platform_error

LOG_LIMIT = 4 * 1024 * 1024  # bytes of the file; guest-agent.md 4.5
VERSIONS = (1, 2)


def encode_line(event: RuntimeEvent) -> bytes:
    """The line of one event, line feed included; text stays UTF-8."""
    entry: dict[str, object] = {"event": event.event, "payload": base64.b64encode(event.payload).decode()}
    if event.version != 1:
        entry["version"] = event.version
    return json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def decode_line(line: bytes) -> RuntimeEvent:
    """The event of one line, with or without its line feed. Raises `PlatformError` (rule L3)."""
    try:
        entry = json.loads(line)
        name, payload, version = entry["event"], entry["payload"], entry.get("version", 1)
        name.encode()  # a lone surrogate is no text
        event = RuntimeEvent(name, base64.b64decode(payload, validate=True), version)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise damaged("a line that is no event") from None
    if isinstance(version, bool) or version not in VERSIONS:
        raise damaged("an event of an unknown version")
    return event


def damaged(found: str) -> PlatformError:
    """The refusal of a log that cannot be read."""
    return platform_error(
        "measurements.log",
        "the runtime event log cannot be read",
        found=found,
        remedy="what was measured cannot be told any more; start the machine anew",
    )


class RuntimeLogFile:
    """The files of one directory. Methods block for the time of a write; besides what they state: OSError."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log_path = directory / "runtime_events.log"
        self.version_path = directory / "runtime_event_version"
        self.lock_path = directory / "runtime_event.lock"
        self.pending_path = directory / "runtime_event.pending"
        self._log = -1
        self._pending = -1
        self._lock = -1

    def open(self) -> None:
        """Make what is missing and keep the descriptors."""
        self.directory.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        if self._log < 0:
            self._log = os.open(self.log_path, flags | os.O_APPEND, PRIVATE)
        if self._pending < 0:
            self._pending = os.open(self.pending_path, flags, PRIVATE)
        if self._lock < 0:
            self._lock = os.open(self.lock_path, flags, PRIVATE)

    def close(self) -> None:
        for descriptor in (self._log, self._pending, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._log = self._pending = self._lock = -1

    def try_lock(self) -> bool:
        """Take the lock between processes if nobody holds it. Whether that was so."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(self) -> None:
        """Let go of the lock between processes."""
        fcntl.flock(self._lock, fcntl.LOCK_UN)

    def settle_version(self, version: int) -> None:
        """Write the version when the directory has none. Raises `PlatformError` when it has another."""
        try:
            text = self.version_path.read_text("ascii", "replace").strip()
        except FileNotFoundError:
            write_atomic(self.version_path, str(version).encode())
            return
        if text != str(version):
            raise platform_error(
                "measurements.version",
                "the events of this boot have another version",
                expected=str(version),
                found=text[:16],
                remedy="event_log_version cannot change between two boots",
            )

    def size(self) -> int:
        """Bytes in the log."""
        return os.fstat(self._log).st_size

    def read_from(self, offset: int) -> tuple[list[RuntimeEvent], int, bytes]:
        """Events from `offset` on, the offset behind the last whole line, and the torn rest (rule L1).

        Raises `PlatformError` for a file that is shorter than `offset`, too long (L2) or damaged (L3).
        """
        size = self.size()
        if size < offset or size > LOG_LIMIT:
            raise damaged(f"{size} bytes, of which {offset} were read before")
        data = os.pread(self._log, size - offset, offset)
        whole = data.rfind(b"\n") + 1
        events = [decode_line(line) for line in data[:whole].split(b"\n")[:-1]]
        return events, offset + whole, data[whole:]

    def append(self, line: bytes, offset: int) -> None:
        """Put `line` at `offset`, the end of the last whole line; a torn rest behind it goes.

        After an OSError the file ends at `offset` again, or as near to that as the disk lets it.
        """
        self.cut(offset)
        try:
            _write_all(self._log, line)
            os.fsync(self._log)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._log, offset)
            raise

    def announce(self, line: bytes) -> None:
        """Put down the line that is about to be measured, on the disk before this returns."""
        try:
            os.ftruncate(self._pending, 0)
            os.lseek(self._pending, 0, os.SEEK_SET)
            _write_all(self._pending, line)
            os.fsync(self._pending)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._pending, 0)
            raise

    def announced(self) -> RuntimeEvent | None:
        """The announced event, if there is one; a torn announcement was never measured and is none."""
        line = os.pread(self._pending, LOG_LIMIT, 0)
        if line.endswith(b"\n"):
            with contextlib.suppress(PlatformError):
                return decode_line(line)
        return None

    def unsettled(self, offset: int) -> list[RuntimeEvent]:
        """Events that may have been measured without a whole line at `offset`, the end of the last one.

        They are the announced one, and one whose line lacks nothing but its line feed.
        """
        candidates = [] if (announced := self.announced()) is None else [announced]
        with contextlib.suppress(PlatformError):
            candidates.append(decode_line(os.pread(self._log, LOG_LIMIT, offset)))
        return candidates

    def has_announcement(self) -> bool:
        return os.fstat(self._pending).st_size > 0

    def cut(self, offset: int) -> None:
        """Drop what follows `offset`, the end of the last whole line."""
        if self.size() != offset:
            os.ftruncate(self._log, offset)

    def withdraw(self) -> None:
        """Forget the announcement.

        That need not reach the disk: a stale one does no harm, for the register tells whether it was measured.
        """
        os.ftruncate(self._pending, 0)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
