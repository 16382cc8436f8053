"""What `teehouse chain deploy` does and prints."""

import asyncio
import json
from pathlib import Path

from rich.console import Console

from teehouse.chain.deploy import DeployPlan, DeployRecord, deploy
from teehouse.chain.endpoint import Endpoint
from teehouse.chain.writer import RpcWriter
from teehouse.cli.chain_options import ChainOptions, private_key
from teehouse.cli.chain_shown import show_record


def run_deploy(options: ChainOptions, key_file: Path | None, plan: DeployPlan, *, as_json: bool) -> None:
    """Deploy by the first endpoint and print the record. Raises `TeehouseError`."""
    key = private_key(key_file)
    record, shown = asyncio.run(_deploy(options, key, plan))
    if as_json:
        print(json.dumps(record.as_dict(), indent=2))  # noqa: T201 - what the command is for
    else:
        facts = {"rpc_url": shown, **record.as_dict()}
        show_record(facts, title="The contracts", console=Console(highlight=False))


async def _deploy(options: ChainOptions, key: bytes, plan: DeployPlan) -> tuple[DeployRecord, str]:
    async with await options.open() as reader:
        endpoint = Endpoint(options.rpc_urls[0])
        try:
            return await deploy(reader, RpcWriter(endpoint, reader.chain_id, key), plan), reader.shown
        finally:
            await endpoint.aclose()
