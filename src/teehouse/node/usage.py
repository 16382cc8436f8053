"""What the processes of CVMs take, from /proc (`CvmStats`).

Rules:

1. A process belongs to the CVM in whose directory its job lies: the variable `TEEHOUSE_JOB`, which runners give to
   what they start and which is inherited. One look at /proc serves all CVMs for `LOOK_LIFETIME`.
2. Containers are not processes of this user: where a CVM has no process, nothing is told rather than nought.
"""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

LOOK_LIFETIME = 1.0  # seconds
_MARK = b"TEEHOUSE_JOB="
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Usage:
    """Processes, the CPU seconds they have used, and their resident bytes."""

    processes: int
    cpu_seconds: float
    memory_bytes: int


class ProcessTable:
    """The processes of all CVMs. `monotonic` tells seconds."""

    def __init__(self, monotonic: Callable[[], float], proc: Path = _PROC) -> None:
        self._monotonic = monotonic
        self._proc = proc
        self._lock = asyncio.Lock()
        self._looked = float("-inf")
        self._found: list[tuple[Path, Usage]] = []

    async def usage(self, directory: Path) -> Usage | None:
        """What the processes of the CVM in `directory` take; None when it has none (rule 2)."""
        async with self._lock:
            if self._monotonic() - self._looked > LOOK_LIFETIME:
                self._found = await asyncio.to_thread(_look, self._proc)
                self._looked = self._monotonic()
        mine = [usage for job, usage in self._found if job.is_relative_to(directory)]
        if not mine:
            return None
        return Usage(len(mine), sum(one.cpu_seconds for one in mine), sum(one.memory_bytes for one in mine))


def disk_usage(directory: Path) -> int:
    """Bytes of the files below a directory; what vanishes meanwhile counts nothing."""
    total = 0
    for parent, _, files in os.walk(directory):
        for name in files:
            try:
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512  # noqa: PTH118 - a hot loop over text
            except OSError:
                continue
    return total


def _look(proc: Path) -> list[tuple[Path, Usage]]:
    found = []
    for entry in proc.iterdir():
        if entry.name.isdecimal():
            try:
                job = _job(entry)
                if job is not None:
                    found.append((job, _usage(entry)))
            except (OSError, ValueError, IndexError):  # it has ended, or is another user's
                continue
    return found


def _job(entry: Path) -> Path | None:
    for variable in (entry / "environ").read_bytes().split(b"\0"):
        if variable.startswith(_MARK):
            return Path(os.fsdecode(variable.removeprefix(_MARK)))
    return None


def _usage(entry: Path) -> Usage:
    fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return Usage(1, ticks / os.sysconf("SC_CLK_TCK"), int(fields[21]) * os.sysconf("SC_PAGE_SIZE"))
