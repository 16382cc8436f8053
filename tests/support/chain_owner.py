"""The owner of apps on a chain, for clients that leave the transactions to their user (onchain.md 3, 4)."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from teehouse.chain import calls as abi
from teehouse.chain.endpoint import Endpoint
from teehouse.chain.writer import RpcWriter, parse_key

_DEPLOYED = abi.topic("AppDeployedViaFactory(address,address)")


class Owner:
    """Writes to the chain of a ready.json with its deployer's key; a `Chain` of `support.phala_cloud_support`."""

    kms = "onchain"  # the slug of its KMS

    def __init__(self, writer: RpcWriter, contract: bytes) -> None:
        self._writer = writer
        self._contract = contract

    @property
    def chain_id(self) -> int:
        return self._writer.chain_id

    @property
    def address(self) -> str:
        return f"0x{self._writer.address.hex()}"

    async def deploy(self, compose_hash: str, device_id: str) -> str:
        """An app's contract by the KMS's factory, that allows one hash on one device; its address, with `0x`."""
        device, digest = (bytes.fromhex(word.removeprefix("0x")) for word in (device_id, compose_hash))
        values = (self._writer.address, False, False, False, device, digest)
        receipt = await self._writer.send(self._contract, abi.DEPLOY_AND_REGISTER_APP(*values))
        (log,) = (log for log in receipt.logs if log.topics[0] == _DEPLOYED)
        return f"0x{log.topics[1][12:].hex()}"

    async def allow(self, app_id: str, compose_hash: str) -> str:
        """Let the app run the hash; the transaction's hash, with `0x`."""
        call = abi.ADD_COMPOSE_HASH(bytes.fromhex(compose_hash.removeprefix("0x")))
        receipt = await self._writer.send(bytes.fromhex(app_id.removeprefix("0x")), call)
        return f"0x{receipt.transaction_hash.hex()}"


@asynccontextmanager
async def owner(ready: dict[str, Any]) -> AsyncIterator[Owner]:
    endpoint = Endpoint(ready["rpc_url"])
    try:
        key = parse_key(ready["deployer_private_key"])
        contract = bytes.fromhex(ready["kms_contract"].removeprefix("0x"))
        yield Owner(RpcWriter(endpoint, ready["chain_id"], key), contract)
    finally:
        await endpoint.aclose()
