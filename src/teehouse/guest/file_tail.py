"""Reads the log of a workload without an engine: files of JSON lines that are rotated (form: Docker's json-file).

One line is one entry with the members `log`, `stream` and `time`. `NAME` is the newest file, `NAME.1` the one before,
and so on; a file is renamed, never copied. Rules:

1. Reading begins at the file that holds the first entry of the tail, found from the end, and goes on file by file. One
   file is open at a time, found again by its inode, so that a rotation neither skips nor repeats an entry. What was
   rotated away before it was read is lost.
2. A line without its end is not there yet: it is read again later. A log that became shorter is read from its start.
3. What is no entry is passed over, and so is a line of more than 1 MiB, of which no more than that is held.
4. Entries are chosen and stamped as `logs_source` says.
5. What is not followed ends where the log ended when it was opened.
"""

import json
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

from teehouse.guest.logs_query import LogQuery
from teehouse.guest.logs_source import Frame

READ_SIZE = 64 * 1024  # bytes
LINE_LIMIT = 1024 * 1024  # bytes
FILES_LIMIT = 100
SCANS_LIMIT = 100
READS_LIMIT = 16  # reads in search of an entry that counts, before others get their turn
_STREAMS = frozenset({"stdout", "stderr"})
_TIME = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,9}))?Z")
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class FileTail:
    """One reader of one log. `ended`: an entry after `until` has come. Its methods read files and nothing else."""

    def __init__(self, path: Path, query: LogQuery) -> None:
        self.ended = False
        self._path = path
        self._since = _stamp(query.since) if query.since else ""
        self._until = _stamp(query.until) if query.until else ""
        self._timestamps = query.timestamps
        self._file = -1
        self._at = 0  # where the first line begins that was not taken
        self._rest = b""
        self._skipping = False
        self._last: tuple[tuple[int, int], int] | None = (
            None  # file and size at which a log not followed ends
        )
        try:
            self._open_at_tail(query.tail, query.follow)
        except BaseException:
            self.close()
            raise

    def read(self) -> list[Frame] | None:
        """The next entries, at most what 64 KiB of file hold. None when there is no more now.

        An empty list means that there may be more. Raises OSError from the file system.
        """
        for _ in range(READS_LIMIT):
            if self.ended:
                return None
            lines = self._lines()
            if lines is None:
                return None
            if frames := self._frames(lines):
                return frames
        return []

    def close(self) -> None:
        """Close the file; harmless a second time."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    # Files

    def _open_at_tail(self, tail: int | None, follow: bool) -> None:
        """Rule 1: from the newest file back to the one that holds the first entry wanted."""
        files = self._files()
        if files and not follow:
            self._last = (_identity(files[0]), os.fstat(files[0]).st_size)
        missing = tail
        try:
            while files:
                self.close()
                self._file, self._at = files.pop(0), 0
                if missing is None:
                    continue
                self._at, found = _tail_start(self._file, missing)
                missing -= found
                if not missing:
                    break
        finally:
            _close(files)

    def _files(self) -> list[int]:
        """Descriptors of the log's files, the newest first, as they stood in one moment without a rotation."""
        for _ in range(SCANS_LIMIT):
            before = self._front()
            files = self._scan()
            if self._front() == before:
                break
            _close(files)
        else:
            files = self._scan()  # rotated without pause: some of it will be lost in any case
        return files

    def _front(self) -> tuple[tuple[int, ...], ...]:
        """Changes with every rotation."""
        return (_place(self._name(0)), _place(self._name(1)))

    def _scan(self) -> list[int]:
        """Each file once. A rotation that begins meanwhile moves files the way this goes, so none is missed."""
        files: list[int] = []
        seen: set[tuple[int, int]] = set()
        absent = 0
        try:
            for number in range(FILES_LIMIT):
                file = _open(self._name(number))
                if file < 0:
                    absent += 1
                    if absent == 3:  # within a rotation one is missing
                        break
                    continue
                absent = 0
                files.append(file)
                if _identity(file) in seen:
                    os.close(files.pop())
                seen.add(_identity(files[-1]))
        except OSError:
            _close(files)
            raise
        return files

    def _name(self, number: int) -> str:
        return f"{self._path}.{number}" if number else str(self._path)

    def _successor(self) -> int:
        """The descriptor of the file after ours, -1 when there is none (rule 1)."""
        files = self._files()
        ours = _identity(self._file) if self._file >= 0 else None
        identities = [_identity(file) for file in files]
        # Where ours has been rotated away, all that is left is newer.
        newer = files[: identities.index(ours)] if ours in identities else files
        successor = newer[-1] if newer else -1
        _close([file for file in files if file != successor])
        return successor

    def _is_newest(self) -> bool:
        return self._file >= 0 and _place(self._name(0)) == _identity(self._file)

    def _lines(self) -> bytes | None:
        """Whole lines, perhaps none yet; None at the end of the newest file."""
        newest = self._is_newest()  # asked first: what was written before a rotation is there by now
        data = b""
        if self._file >= 0:
            at = self._at + len(self._rest)
            size = READ_SIZE
            if self._last is not None and self._last[0] == _identity(self._file):  # rule 5
                size = min(size, self._last[1] - at)
                if size <= 0:
                    return None
            data = os.pread(self._file, size, at)
        if data:
            return self._take(data)
        self._rest = b""
        if newest:
            if os.fstat(self._file).st_size < self._at:
                self._at = 0
                return b""
            return None
        successor = self._successor()
        if successor < 0:
            return None
        self.close()
        self._file, self._at, self._skipping = successor, 0, False
        return b""

    def _take(self, data: bytes) -> bytes:
        """Rules 2 and 3."""
        end = data.rfind(b"\n") + 1
        if not end:
            if self._skipping or len(self._rest) + len(data) > LINE_LIMIT:
                self._skipping = True
                self._at += len(self._rest) + len(data)
                self._rest = b""
            else:
                self._rest += data
            return b""
        lines = self._rest + data[:end]
        self._at += len(lines)
        self._rest = data[end:]
        if self._skipping:
            self._skipping = False
            lines = lines[lines.index(b"\n") + 1 :]
        return lines

    # Entries

    def _frames(self, lines: bytes) -> list[Frame]:
        """Rule 4."""
        frames: list[Frame] = []
        judged = self._since or self._until or self._timestamps
        for line in lines.decode(errors="replace").split("\n"):
            try:
                entry = json.loads(line)
                text, stream, stamp = entry["log"], entry["stream"], entry["time"]
                data = text.encode("utf-8", "surrogatepass")
                if stream not in _STREAMS:
                    continue
                if judged:
                    stamp = _whole(stamp)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                continue
            if judged:
                if stamp < self._since:
                    continue
                if self._until and stamp > self._until:
                    self.ended = True
                    break
                if self._timestamps:
                    data = stamp.encode() + b" " + data
            frames.append((stream, data))
        return frames


def _open(name: str) -> int:
    """A descriptor, -1 where there is no such file."""
    try:
        return os.open(name, _FLAGS)
    except FileNotFoundError:
        return -1


def _place(name: str) -> tuple[int, ...]:
    """The identity of a file by its name, empty where there is none."""
    try:
        status = os.lstat(name)
    except OSError:
        return ()
    return (status.st_dev, status.st_ino)


def _close(files: Iterable[int]) -> None:
    for file in files:
        os.close(file)


def _identity(file: int) -> tuple[int, int]:
    status = os.fstat(file)
    return (status.st_dev, status.st_ino)


def _tail_start(file: int, count: int) -> tuple[int, int]:
    """Where the last `count` lines begin, and how many there are; only the end of the file is read."""
    end = os.fstat(file).st_size
    found = -1  # the end of the last line begins none
    while end > 0:
        start = max(0, end - READ_SIZE)
        block = os.pread(file, end - start, start)
        here = block.count(b"\n")
        if found + here >= count:
            at = len(block)
            while found < count:
                at = block.rindex(b"\n", 0, at)
                found += 1
            return start + at + 1, count
        found += here
        end = start
    return 0, max(0, found + 1)


def _stamp(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + ".000000000Z"


def _whole(stamp: str) -> str:
    """With nine digits of fraction. Raises ValueError, TypeError."""
    match = _TIME.fullmatch(stamp)
    if match is None:
        raise ValueError("no time")
    return f"{match[1]}.{match[2] or '':0<9}Z"
