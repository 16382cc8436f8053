"""Starting `teehouse` as a process, and waiting until it says what one waits for."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

START_SECONDS = 60  # a loaded machine; the speed of starting is measured in bench/


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Process:
    """A running command and the file of what it prints."""

    popen: subprocess.Popen[bytes]
    log: Path

    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def url(self) -> str:
        """The first http address it has printed."""
        found = re.search(r"http://[\d.]+:\d+", self.output())
        assert found, self.output()
        return found.group()

    def stop(self, number: int = signal.SIGINT) -> int:
        self.popen.send_signal(number)
        return self.popen.wait(timeout=20)

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()


def started(
    log: Path, arguments: tuple[str, ...], *, until: str, environ: dict[str, str] | None = None
) -> Process:
    """Start `teehouse …`; returns when it has printed `until`, fails the test when it ends before."""
    with log.open("wb") as output:
        popen = subprocess.Popen(
            [sys.executable, "-m", "teehouse", *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environ or {})},
        )
    process = Process(popen, log)
    deadline = time.monotonic() + START_SECONDS
    while until not in process.output():
        if popen.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"it did not start: {process.output()}")
        time.sleep(0.02)
    return process
