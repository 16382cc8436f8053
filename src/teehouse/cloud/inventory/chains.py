"""Chains as published clients want them described (cloud-api.md 14.4)."""

from typing import Any, Final

CHAINS: Final = {
    "ethereum": 1,
    "base": 8453,
}  # what KMSs on chain call themselves, and the chain that is meant
NAMES: Final = {1: "Ethereum", 8453: "Base", 31337: "Anvil"}


def client_chain(chain_id: int, rpc_url: str | None, multicall_address: str | None) -> dict[str, Any]:
    """The member `chain` of `KmsInfo`, in viem's form; nothing where no endpoint is known that clients may use.

    Clients put their own description in its place for the chains they know (1, 8453, 31337), except where they
    take `kms_info` as it came.
    """
    if rpc_url is None:
        return {}
    contracts = {} if multicall_address is None else {"multicall3": {"address": multicall_address}}
    return {
        "chain": {
            "id": chain_id,
            "name": NAMES.get(chain_id, f"Chain {chain_id}"),
            "nativeCurrency": {"name": "Ether", "symbol": "ETH", "decimals": 18},
            "rpcUrls": {"default": {"http": [rpc_url]}},
            "contracts": contracts,
        }
    }
