"""A chain of one's own for development: anvil on loopback, with its state kept (onchain.md 9).

Rules:

1. anvil is what PATH says; else the npm package `@foundry-rs/anvil` in a `node_modules` folder of the working
   directory or above it, or of the source tree's tests. Where there is none, the refusal says how to get it.
2. It listens on loopback alone: its accounts and their keys are known to everybody.
3. State is written while it runs and when it ends, and read at the next start.
4. It is ended with this process's context, and waited for. One that a killed process has left behind is ended at
   the next start with the same state: two would write over each other's.
"""

import asyncio
import os
import platform
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from teehouse.base.findings import CollateralError, unavailable
from teehouse.chain.endpoint import Endpoint

VERSION: Final = "1.7.1"
CHAIN_ID: Final = 31337
LOOPBACK: Final = "127.0.0.1"
START_SECONDS: Final = 20.0
STOP_SECONDS: Final = 10.0
STATE_SECONDS: Final = 10  # between two times that the state is written
# The first account of the mnemonic that every anvil has: a key that everybody knows.
DEPLOYER_KEY: Final = bytes.fromhex("ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80")

_MACHINES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
_SOURCE_TREE = Path(__file__).resolve().parents[3] / "tests" / "functional" / "js"
PID_FILE: Final = "anvil.pid"
_POLL = 0.02  # seconds
_TAIL = 2000  # characters of its output that a refusal shows


@dataclass(frozen=True, slots=True)
class Anvil:
    """A running anvil."""

    url: str
    program: Path
    state: Path
    chain_id: int = CHAIN_ID


def find_anvil(start: Path | None = None) -> Path:
    """The program (rule 1); `start` is the working directory when left out. Raises `CollateralError`."""
    found = shutil.which("anvil")
    if found:
        return Path(found)
    here = (start or Path.cwd()).resolve()
    machine = _MACHINES.get(platform.machine().lower(), platform.machine())
    inside = Path("node_modules", "@foundry-rs", f"anvil-{sys.platform}-{machine}", "bin", "anvil")
    for folder in (here, *here.parents, _SOURCE_TREE):
        if (folder / inside).is_file():
            return folder / inside
    raise unavailable(
        "chain.no-anvil",
        "a chain of your own needs anvil",
        expected=f"anvil on PATH, or {inside.parent.parent} in {here} or above",
        found="neither",
        remedy=f"run `npm install @foundry-rs/anvil@{VERSION}` here, or install Foundry; "
        "or name a chain that runs: --rpc-url URL, of `teehouse up` --chain URL",
    )


@asynccontextmanager
async def run_anvil(
    state: Path, *, port: int = 0, chain_id: int = CHAIN_ID, program: Path | None = None
) -> AsyncIterator[Anvil]:
    """anvil on `port` of loopback (0: a free one) with its state in the file `state` (rules 2 to 4).

    One process at a time may do so with the same state: that is its caller's to see to.

    Raises `CollateralError` when it is not there or does not start.
    """
    program = program or find_anvil()
    port = port or _free_port()
    state.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    await end_left_behind(state)
    known = state.with_name(PID_FILE)
    log = state.with_name("anvil.log")
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            str(program),
            *("--host", LOOPBACK, "--port", str(port), "--chain-id", str(chain_id)),
            *("--state", str(state), "--state-interval", str(STATE_SECONDS), "--preserve-historical-states"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is ours to pass on: it ends last, after what asks it
        )
    try:
        known.write_text(str(process.pid), encoding="ascii")
        url = f"http://{LOOPBACK}:{port}"
        await _started(process, url, log, chain_id)
        yield Anvil(url, program, state, chain_id)
    finally:
        await _ended(process)
        known.unlink(missing_ok=True)


async def _started(process: asyncio.subprocess.Process, url: str, log: Path, chain_id: int) -> None:
    endpoint = Endpoint(url)
    try:
        async with asyncio.timeout(START_SECONDS):
            while process.returncode is None:
                try:
                    if await endpoint.ask("eth_chainId") == hex(chain_id) and _says_so(log, url):
                        return
                except CollateralError:
                    pass
                await asyncio.sleep(_POLL)
    except TimeoutError:
        pass
    finally:
        await endpoint.aclose()
    raise unavailable(
        "chain.anvil-start",
        f"anvil does not start at {url}",
        found=_said(log)[-_TAIL:].strip() or "no word of it",
        remedy="name another port, or end what uses this one",
    )


def _says_so(log: Path, url: str) -> bool:
    """Whether it is this anvil that listens, and not an older one on the same port."""
    return f"Listening on {url.removeprefix('http://')}" in _said(log)


def _said(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")


async def _ended(process: asyncio.subprocess.Process) -> None:
    """Rule 4; it writes its state first."""
    if process.returncode is None:
        process.send_signal(signal.SIGINT)
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            process.kill()
    await process.wait()


async def end_left_behind(state: Path) -> None:
    """Rule 4, where the system shows what a process runs; it writes its state first."""
    pid = _left_behind(state)
    if pid is None:
        return
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGINT)
        for _ in range(int(STOP_SECONDS / _POLL)):
            await asyncio.sleep(_POLL)
            if _left_behind(state) != pid:
                return
        os.kill(pid, signal.SIGKILL)


def _left_behind(state: Path) -> int | None:
    try:
        pid = int(state.with_name(PID_FILE).read_text("ascii"))
        runs = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return pid if os.fsencode(state) in runs and b"--state" in runs else None


def _free_port() -> int:
    with socket.create_server((LOOPBACK, 0)) as listening:
        port: int = listening.getsockname()[1]
        return port
