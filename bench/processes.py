"""What processes cost: memory of an agent, and times to start. Milliseconds are of the wall clock."""

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.calls import calls
from bench.client import Connection

PATIENCE = 30.0  # seconds for a process to do what is waited for
STARTS = 9
UPS = 3
MIXED = 1000  # requests


def keep_bytecode(directory: Path) -> None:
    """Have all processes keep compiled modules, as they do unless told otherwise, but in a folder of their own."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(directory)


@contextmanager
def running(*arguments: str, ready: str) -> Iterator[subprocess.Popen[str]]:
    """A Python program, from its line that begins with `ready` until it is asked to end."""
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        if not any(line.startswith(ready) for line in iter(process.stdout.readline, "")):
            raise RuntimeError(f"{arguments} ended before it was ready")
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)


def agent_memory(directory: Path) -> tuple[float, float]:
    """MiB that an emulated agent has resident: idle, and after `MIXED` requests of all kinds."""
    command = ["-m", "teehouse", "agent", "--emulated", "--dir", str(directory), "--tcp", "127.0.0.1:0"]
    with running(*command, ready="ready"):
        pass  # a process that compiles its modules is larger ever after
    with running(*command, ready="ready") as process:
        time.sleep(1)  # for what starts in the background
        idle = resident(process.pid)
        connection = Connection(directory / "dstack.sock")
        kinds = calls()
        for number in range(MIXED):
            connection.body(kinds[number % len(kinds)].requests())
        connection.close()
        return idle, resident(process.pid)


def start_time(arguments: Sequence[str]) -> float:
    """Milliseconds from start to end of a Python program, the median of `STARTS`."""
    taken = []
    for _ in range(STARTS + 1):
        begin = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        taken.append((time.perf_counter() - begin) * 1000)
    return statistics.median(taken[1:])  # the first fills the caches


def up_time(directory: Path) -> float:
    """Milliseconds from `teehouse up` in a new folder to its ready.json, the median of `UPS`."""
    taken = []
    for number in range(UPS + 1):
        folder = directory / f"up-{number}"
        begin = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "teehouse", "up", "--dir", str(folder), "--port", "0"],
            stdout=subprocess.DEVNULL,
        )
        try:
            while not (folder / "ready.json").exists():
                if process.poll() is not None or time.perf_counter() - begin > PATIENCE:
                    raise RuntimeError("teehouse up did not get ready")
                time.sleep(0.002)
            taken.append((time.perf_counter() - begin) * 1000)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE)
    return statistics.median(taken[1:])


def resident(pid: int) -> float:
    """MiB that a process has resident."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1024**2
