"""A log in a file that does not grow for ever: its owner's alone, with one former file beside it."""

import os
from pathlib import Path
from typing import TextIO

from teehouse.base.files import PRIVATE

SIZE_LIMIT = 16 * 1024 * 1024  # bytes, before a new file is begun


class LogFile:
    """Something to write lines to. At `limit` bytes the file becomes `PATH.1`, in place of the former one.

    Raises OSError when the file cannot be opened.
    """

    def __init__(self, path: Path, *, limit: int = SIZE_LIMIT) -> None:
        self._path = path
        self._limit = limit
        self._file = self._open()
        self._size = path.stat().st_size

    def write(self, text: str) -> None:
        """Add a line."""
        self._size += len(text)
        if self._size > self._limit:
            self._file.close()
            self._path.replace(self._path.with_name(f"{self._path.name}.1"))
            self._file, self._size = self._open(), len(text)
        self._file.write(text)

    def flush(self) -> None:
        """Hand it to the system."""
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _open(self) -> TextIO:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, PRIVATE)
        return os.fdopen(descriptor, "a", encoding="utf-8")
