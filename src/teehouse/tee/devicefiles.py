"""The few file operations that the kernel's interfaces need, behind a seam that tests can fill.

configfs and sysfs attributes are not files: one write is one request, and its size counts. So the
operations here are whole: one write of everything or an error, one bounded read to the end.
"""

import errno
import os
from pathlib import Path
from typing import Protocol


class DeviceFiles(Protocol):
    """Whole reads and writes of kernel attributes. Every method but `exists` raises OSError."""

    def exists(self, path: Path) -> bool:
        """Whether there is anything at `path` that this process can see."""
        ...

    def read(self, path: Path, limit: int) -> bytes:
        """All of `path`; OSError (EFBIG) when that is more than `limit` bytes."""
        ...

    def write(self, path: Path, data: bytes) -> None:
        """Write `data` to an attribute that exists, as one request."""
        ...

    def make_directory(self, path: Path) -> None:
        """Make the directory `path` unless it is there; its parent must exist."""
        ...


class OsFiles:
    """The operating system's files."""

    def exists(self, path: Path) -> bool:
        try:
            return path.exists()
        except OSError:
            return False  # a path that we may not look at is none to work with

    def read(self, path: Path, limit: int) -> bytes:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            parts = []
            size = 0
            while part := os.read(descriptor, limit + 1 - size):
                parts.append(part)
                size += len(part)
                if size > limit:
                    raise OSError(errno.EFBIG, f"more than {limit} bytes", os.fspath(path))
            return b"".join(parts)
        finally:
            os.close(descriptor)

    def write(self, path: Path, data: bytes) -> None:
        # Neither created nor truncated: an attribute that is not there must stay an error.
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            written = os.write(descriptor, data)
            if written != len(data):
                raise OSError(errno.EIO, f"took {written} of {len(data)} bytes", os.fspath(path))
        finally:
            os.close(descriptor)

    def make_directory(self, path: Path) -> None:
        path.mkdir(mode=0o700, exist_ok=True)
