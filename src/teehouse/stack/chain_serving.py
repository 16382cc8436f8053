"""A chain on this machine with Teehouse's contracts on it: what `teehouse chain up` and `up --chain anvil` run.

Rules:

1. Contracts are deployed once; at the next start they are found where they were.
2. aggregate3 stands at its canonical address, where every client looks for it.
3. `chain.json` says where the chain is for as long as it runs. It holds the deployer's key: that of anvil's first
   account, which everybody knows. `deployer-key` holds it alone, for `--key-file`.
4. One process at a time runs the chain of a folder, and a folder's chain keeps its id: transactions are signed for it.
"""

import asyncio
import fcntl
import json
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from teehouse.base.files import PRIVATE, write_atomic
from teehouse.base.findings import misuse
from teehouse.chain import artifacts
from teehouse.chain.deploy import DeployPlan, DeployRecord, deploy
from teehouse.chain.endpoint import Endpoint, Fault
from teehouse.chain.endpoint_reader import MULTICALL3
from teehouse.chain.rpc_reader import RpcReader
from teehouse.chain.writer import RpcWriter
from teehouse.stack.anvil import CHAIN_ID, DEPLOYER_KEY, LOOPBACK, Anvil, end_left_behind, run_anvil
from teehouse.stack.screen import command
from teehouse.stack.serving import run_until_stopped

FOLDER: Final = "chain"
STATE: Final = "anvil-state.json"
READY: Final = "chain.json"
KEY_FILE: Final = "deployer-key"
CHAIN_ID_FILE: Final = "chain-id"
PORT_FILE: Final = "port"


@dataclass(frozen=True, slots=True)
class ServedChain:
    """A chain that runs, with the contracts on it. `key_file` holds the deployer's key."""

    anvil: Anvil
    record: DeployRecord
    key_file: Path

    def facts(self) -> dict[str, Any]:
        """What others need to use it; of a chain of one's own, the key too (rule 3)."""
        return {
            "rpc_url": self.anvil.url,
            **self.record.as_dict(),
            "deployer": f"0x{self.record.kms_owner.hex()}",
            "deployer_private_key": f"0x{DEPLOYER_KEY.hex()}",
        }


@asynccontextmanager
async def serve_chain(
    directory: Path, *, port: int = 0, chain_id: int | None = None, plan: DeployPlan | None = None
) -> AsyncIterator[ServedChain]:
    """anvil with its state in `directory`/chain, and the contracts on it, for as long as the context lasts.

    `port` 0 is that of the last time, or a free one; without `chain_id` it is the folder's, or anvil's usual one.
    Raises `TeehouseError`.
    """
    folder = directory / FOLDER
    with _held(folder):
        number = _chain_id(folder, chain_id)
        await end_left_behind(folder / STATE)
        async with run_anvil(folder / STATE, port=port or _kept_port(folder), chain_id=number) as anvil:
            endpoint = Endpoint(anvil.url)
            try:
                await _with_multicall(endpoint)
                writer = RpcWriter(endpoint, number, DEPLOYER_KEY)
                record = await deploy(RpcReader([endpoint], number), writer, plan or DeployPlan())
            finally:
                await endpoint.aclose()
            served = ServedChain(anvil, record, folder / KEY_FILE)
            ready = folder / READY
            write_atomic(served.key_file, f"0x{DEPLOYER_KEY.hex()}\n".encode())
            write_atomic(folder / PORT_FILE, anvil.url.rpartition(":")[2].encode())
            write_atomic(ready, (json.dumps(served.facts(), indent=2) + "\n").encode())
            try:
                yield served
            finally:
                ready.unlink(missing_ok=True)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """The folder, made and ours alone for as long as the context lasts (rule 4). Raises `MisuseError`."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
    except OSError as error:
        raise misuse("chain.folder", f"the folder {folder}", found=error.strerror or "unusable") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise misuse(
            "chain.runs-already",
            f"the chain in {folder}",
            expected="one process that runs it",
            found="another one does",
            remedy=f"use that one ({READY} in its folder says where it is), end it, or name another --dir",
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)


def _chain_id(folder: Path, wanted: int | None) -> int:
    """Rule 4. Raises `MisuseError` for an id that the folder's chain does not have."""
    path = folder / CHAIN_ID_FILE
    try:
        known = int(path.read_text("ascii"))
    except (OSError, ValueError):
        known = CHAIN_ID if (folder / STATE).exists() else 0
    if known and wanted not in {None, known}:
        raise misuse(
            "chain.other-id",
            f"the id of the chain in {folder}",
            expected=str(known),
            found=str(wanted),
            remedy="leave --chain-id out, or name another --dir",
        )
    number = known or wanted or CHAIN_ID
    write_atomic(path, str(number).encode())
    return number


def _kept_port(folder: Path) -> int:
    """The port of the last time, while nobody else has it; 0 for any."""
    with suppress(OSError, ValueError):
        port = int((folder / PORT_FILE).read_text("ascii"))
        socket.create_server((LOOPBACK, port)).close()
        return port
    return 0


async def _with_multicall(endpoint: Endpoint) -> None:
    """Rule 2."""
    code = f"0x{artifacts.load('Multicall').runtime.hex()}"
    found = await endpoint.ask("anvil_setCode", f"0x{MULTICALL3.hex()}", code)
    if isinstance(found, Fault):
        raise endpoint.failed("anvil_setCode taken", found.message, "chain.fault")


def run_chain(directory: Path, *, port: int, chain_id: int | None = None, as_json: bool) -> None:
    """Run the chain until SIGINT or SIGTERM. Raises `TeehouseError`."""

    async def serve(stop: asyncio.Event) -> None:
        async with serve_chain(directory, port=port, chain_id=chain_id) as served:
            if as_json:
                print(json.dumps(served.facts(), indent=2), flush=True)  # noqa: T201 - what was asked for
            else:
                _show(served)
            await stop.wait()

    run_until_stopped(serve)


def _show(served: ServedChain) -> None:
    from rich.console import Console

    from teehouse.cli.chain_shown import show_record

    console = Console(highlight=False)
    show_record(served.facts(), title="A chain of your own", console=console)
    console.print(
        "Everybody knows the keys of its accounts: nothing on it is worth anything.", style="yellow"
    )
    console.print("To change what may run, and to see it:", style="bold")
    for line in (
        f"export ETH_RPC_URL={served.anvil.url}",
        f"{command()} governance show APP",
        f"{command()} governance allow-compose APP HASH --key-file {served.key_file}",
    ):
        console.print(f"  {line}", soft_wrap=True)
    console.print("Ctrl-C ends it; its state stays for the next time.")
