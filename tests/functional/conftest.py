"""One running Teehouse for the functional tests: started as a user starts it, reached from outside only."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.anvil import end_anvil
from support.processes import START_SECONDS, free_port
from support.up_processes import sample_processes
from teehouse.client.cloud import CloudClient


@dataclass(frozen=True)
class Running:
    """A started `teehouse up`: its folder, what ready.json says, and what it printed."""

    directory: Path
    ready: dict[str, Any]
    output: Path

    @property
    def dstack_socket(self) -> str:
        return str(self.directory / "dstack.sock")

    @property
    def tappd_socket(self) -> str:
        return str(self.directory / "tappd.sock")

    @property
    def url(self) -> str:
        return str(self.ready["endpoint"])

    @property
    def api_url(self) -> str:
        """Where the control plane's API begins, for `PHALA_CLOUD_API_PREFIX`."""
        return str(self.ready["api_url"])

    @property
    def api_key(self) -> str:
        """The first key, for `PHALA_CLOUD_API_KEY`."""
        return str(self.ready["api_key"])

    def cloud(self) -> CloudClient:
        """A client of the control plane, to be used as a context."""
        return CloudClient(self.api_url, self.api_key)


def wait_for(path: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not path.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"it did not start: {log.read_text(encoding='utf-8')}")
        time.sleep(0.05)


@pytest.fixture(scope="session")
def teehouse() -> Iterator[Running]:
    """`teehouse up` in a folder of its own, on a free port; stopped at the end as Ctrl-C stops it."""
    directory = Path(tempfile.mkdtemp(prefix="teehouse-"))
    log = directory / "up.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "teehouse", "up", "--dir", str(directory), "--port", str(free_port())],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(directory / "ready.json", process, log)
        yield Running(directory, json.loads((directory / "ready.json").read_text(encoding="utf-8")), log)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0, log.read_text(encoding="utf-8")
        assert not (directory / "ready.json").exists()
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path, for sockets live below it; whatever still runs for it at the end is ended."""
    made = Path(tempfile.mkdtemp(prefix="th-"))
    yield made
    for pid in sample_processes(made):
        os.kill(pid, signal.SIGKILL)
    end_anvil(made / "t")
    shutil.rmtree(made, ignore_errors=True)
