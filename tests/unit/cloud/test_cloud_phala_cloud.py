"""The published phala-cloud 0.2.0 against a control plane in this process, with a KMS on chain (cloud-api.md 2.2).

What needs no chain runs against a started Teehouse: tests/functional/test_cloud_python_client.py.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from support.cloud_client_support import URL, Served, served
from support.phala_cloud_installed import need_phala_cloud
from teehouse.cloud.allowlists.gate import GatedApp, OnchainStatus
from teehouse.cloud.allowlists.services import ContractState, Question, Verdict
from teehouse.cloud.inventory.models import KmsContract, KmsNode
from teehouse.cloud.nodes.models import Node, NodeKms

need_phala_cloud()
pytest.register_assert_rewrite("support.phala_cloud_journey")

from support.phala_cloud_journey import inventory, on_chain  # noqa: E402 - it imports the client, which may not be there
from support.phala_cloud_support import (  # noqa: E402
    IMPOSSIBLE,
    IMPOSSIBLE_ON_CHAIN,
    KINDS,
    NEED_A_CHAIN,
    VERSIONS,
    YAML,
    Journey,
    Place,
)

CONTRACT = "0x2f83172A49584C017F2B256F0FB2Dca14126Ba9C"


class MemoryChain:
    """Contracts of a test: each allows the hashes that it was told, on any device."""

    def __init__(self) -> None:
        self.allowed: set[tuple[str, str]] = set()  # app ids with compose hashes

    def allow(self, app_id: str, compose_hash: str) -> None:
        self.allowed.add((app_id, compose_hash))

    async def status(self, app: GatedApp, compose_hash: str, device_id: str | None) -> OnchainStatus | None:
        allowed = (app.app_id, compose_hash) in self.allowed
        return OnchainStatus(allowed, device_id_allowed=True) if app.chain_id else None

    async def check_transaction(self, app: GatedApp, compose_hash: str, transaction_hash: str) -> None:
        assert (app.app_id, compose_hash) in self.allowed

    async def ask(self, chain_id: int, address: str, questions: Sequence[Question]) -> list[Verdict]:
        app_id = address.removeprefix("0x").lower()
        return [
            Verdict((app_id, one.compose_hash) in self.allowed, False, bool(one.device_id))
            for one in questions
        ]

    async def devices(self, chain_id: int, address: str, device_ids: Sequence[str]) -> ContractState:
        return ContractState(allow_any_device=False, devices=dict.fromkeys(device_ids, True))


async def add_chain(made: Served, chain: MemoryChain) -> None:
    """A second KMS, whose contract is on Base; the same process answers for both."""
    async with made.cloud.database.write() as session:
        kms = await session.get(KmsNode, 1)
        node = await session.get(Node, 1)
        assert kms is not None
        assert node is not None
        contract = KmsContract(
            slug="base", contract_address=CONTRACT, chain_id=8453, created_at=kms.created_at,
            k256_pubkey=(await session.get_one(KmsContract, kms.contract_id)).k256_pubkey,
        )  # fmt: skip
        session.add(contract)
        await session.flush()
        base = KmsNode(
            contract_id=contract.id, slug="kms-base", url=kms.url, version=kms.version, kms_type="base",
            created_at=kms.created_at,
        )  # fmt: skip
        session.add(base)
        await session.flush()
        session.add(NodeKms(node_id=node.id, kms_id=base.id))
    made.cloud.parts.contracts = chain
    assert made.cloud.parts.lifecycle is not None
    made.cloud.parts.lifecycle.gate = chain


@asynccontextmanager
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with served(tmp_path) as made:
        chain = MemoryChain()
        await add_chain(made, chain)
        yield Place(
            api_url=URL,
            key=made.cloud.first.api_key,
            workspace="alice",
            kms="kms-local",
            boots={"docker_compose_file": YAML},
            chain=chain,
            transport=lambda kind: made.transport if kind == "async" else made.sync_transport,
        )


@pytest.mark.parametrize("kind", KINDS)
async def test_every_call_about_an_app_on_chain_is_accepted_but_the_impossible(
    tmp_path: Path, kind: str
) -> None:
    async with place(tmp_path) as there:
        journeys = [Journey(there, kind, version) for version in VERSIONS]
        try:
            await asyncio.gather(*(_travel(on) for on in journeys))
        finally:
            await asyncio.gather(*(on.close() for on in journeys))
    for on in journeys:
        impossible = {**IMPOSSIBLE[on.version], **IMPOSSIBLE_ON_CHAIN[on.version]}
        assert on.refused() == {method: why for method, why in impossible.items() if method in on.outcomes}
        assert set(NEED_A_CHAIN) <= set(on.outcomes)


async def _travel(on: Journey) -> None:
    await inventory(on)
    await on_chain(on)
