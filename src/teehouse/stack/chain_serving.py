"""A chain on this machine with Teehouse's contracts on it: what `teehouse chain up` and `up --chain anvil` run.

Rules:

1. Contracts are deployed once; at the next start they are found where they were.
2. aggregate3 stands at its canonical address, where every client looks for it.
3. `chain.json` says where the chain is for as long as it runs. It holds the deployer's key: that of anvil's first
   account, which everybody knows. `deployer-key` holds it alone, for `--key-file`.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from teehouse.base.files import write_atomic
from teehouse.base.findings import misuse
from teehouse.chain import artifacts
from teehouse.chain.deploy import DeployPlan, DeployRecord, deploy
from teehouse.chain.endpoint import Endpoint, Fault
from teehouse.chain.endpoint_reader import MULTICALL3
from teehouse.chain.rpc_reader import RpcReader
from teehouse.chain.writer import RpcWriter
from teehouse.stack.anvil import CHAIN_ID, DEPLOYER_KEY, Anvil, run_anvil
from teehouse.stack.screen import command
from teehouse.stack.serving import run_until_stopped

FOLDER: Final = "chain"
STATE: Final = "anvil-state.json"
READY: Final = "chain.json"
KEY_FILE: Final = "deployer-key"


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
    directory: Path, *, port: int = 0, plan: DeployPlan | None = None
) -> AsyncIterator[ServedChain]:
    """anvil with its state in `directory`/chain, and the contracts on it, for as long as the context lasts.

    Raises `TeehouseError`.
    """
    folder = directory / FOLDER
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise misuse("chain.folder", f"the folder {folder}", found=error.strerror or "unusable") from None
    async with run_anvil(folder / STATE, port=port) as anvil:
        endpoint = Endpoint(anvil.url)
        try:
            await _with_multicall(endpoint)
            writer = RpcWriter(endpoint, CHAIN_ID, DEPLOYER_KEY)
            record = await deploy(RpcReader([endpoint], CHAIN_ID), writer, plan or DeployPlan())
        finally:
            await endpoint.aclose()
        served = ServedChain(anvil, record, folder / KEY_FILE)
        ready = folder / READY
        write_atomic(served.key_file, f"0x{DEPLOYER_KEY.hex()}\n".encode())
        write_atomic(ready, (json.dumps(served.facts(), indent=2) + "\n").encode())
        try:
            yield served
        finally:
            ready.unlink(missing_ok=True)


async def _with_multicall(endpoint: Endpoint) -> None:
    """Rule 2."""
    code = f"0x{artifacts.load('Multicall').runtime.hex()}"
    found = await endpoint.ask("anvil_setCode", f"0x{MULTICALL3.hex()}", code)
    if isinstance(found, Fault):
        raise endpoint.failed("anvil_setCode taken", found.message, "chain.fault")


def run_chain(directory: Path, *, port: int, as_json: bool) -> None:
    """Run the chain until SIGINT or SIGTERM. Raises `TeehouseError`."""

    async def serve(stop: asyncio.Event) -> None:
        async with serve_chain(directory, port=port) as served:
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
