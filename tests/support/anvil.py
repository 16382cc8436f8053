"""`teehouse chain up` as a user starts it, on a free port, with real anvil behind it."""

import json
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.processes import Process, started
from teehouse.base.findings import CollateralError
from teehouse.stack.anvil import find_anvil


@dataclass(frozen=True)
class ChainUp:
    """A running chain: its process, folder, and what chain.json says."""

    process: Process
    directory: Path
    facts: dict[str, Any]

    @property
    def url(self) -> str:
        return str(self.facts["rpc_url"])

    @property
    def kms_contract(self) -> str:
        return str(self.facts["kms_contract"])

    @property
    def key_file(self) -> Path:
        return self.directory / "chain" / "deployer-key"


def need_anvil() -> None:
    """Skip with the reason where anvil is missing; in CI that is a failure."""
    try:
        find_anvil()
    except CollateralError as error:
        pytest.fail(str(error)) if os.environ.get("CI") else pytest.skip(str(error))


@contextmanager
def chain_up(directory: Path | None = None) -> Iterator[ChainUp]:
    """The chain for as long as the context lasts; stopped as Ctrl-C stops it."""
    need_anvil()
    with tempfile.TemporaryDirectory(prefix="teehouse-chain-") as temporary:
        folder = directory or Path(temporary)
        log = folder / "chain-up.log"
        process = started(log, ("chain", "up", "--dir", str(folder), "--port", "0"), until="Ctrl-C")
        try:
            facts = json.loads((folder / "chain" / "chain.json").read_text(encoding="utf-8"))
            yield ChainUp(process, folder, facts)
            assert process.stop() == 0, process.output()
            assert not (folder / "chain" / "chain.json").exists()
        finally:
            process.kill()


def end_anvil(directory: Path) -> None:
    """End the anvil that a killed `teehouse` left behind in its folder, if there is one."""
    try:
        pid = int((directory / "chain" / "anvil.pid").read_text("ascii"))
        os.kill(pid, signal.SIGKILL)
    except (OSError, ValueError):
        return
