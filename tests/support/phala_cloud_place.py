"""A control plane in the test's process for the published Python client: two KMSs, one of them on chain."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from support.cloud_client_support import URL, Served, served
from support.phala_cloud_support import YAML, Place
from teehouse.cloud.allowlists.gate import GatedApp, OnchainStatus
from teehouse.cloud.allowlists.services import ContractState, Question, Verdict
from teehouse.cloud.errors import CloudError, ErrorCode
from teehouse.cloud.inventory.models import KmsContract, KmsNode
from teehouse.cloud.nodes.models import Node, NodeKms

CONTRACT = "0x2f83172A49584C017F2B256F0FB2Dca14126Ba9C"


class MemoryChain:
    """Contracts of a test: each allows the hashes that it was told, on any device."""

    kms = "kms-base"
    chain_id = 8453
    address = "0x" + "11" * 20

    def __init__(self) -> None:
        self.allowed: set[tuple[str, str]] = set()  # app ids with compose hashes

    async def deploy(self, compose_hash: str, device_id: str) -> str:
        app_id = f"{len(self.allowed) + 1:040x}"
        self.allowed.add((app_id, compose_hash))
        return f"0x{app_id}"

    async def allow(self, app_id: str, compose_hash: str) -> str:
        self.allowed.add((app_id, compose_hash))
        return "0x" + "77" * 32

    async def status(self, app: GatedApp, compose_hash: str, device_id: str | None) -> OnchainStatus | None:
        allowed = (app.app_id, compose_hash) in self.allowed
        return OnchainStatus(allowed, device_id_allowed=True) if app.chain_id else None

    async def check_transaction(self, app: GatedApp, compose_hash: str, transaction_hash: str) -> None:
        if (app.app_id, compose_hash) not in self.allowed:
            raise CloudError(ErrorCode.TX_VERIFICATION_FAILED, "The transaction added no such hash")

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
async def place(tmp_path: Path) -> AsyncIterator[tuple[Place, Served]]:
    """A place whose KMS `kms-base` is on chain, and the control plane itself."""
    async with served(tmp_path) as made:
        chain = MemoryChain()
        await add_chain(made, chain)
        there = Place(
            api_url=URL,
            key=made.cloud.first.api_key,
            workspace="alice",
            kms="kms-local",
            boots={"docker_compose_file": YAML},
            chain=chain,
            transport=lambda kind: made.transport if kind == "async" else made.sync_transport,
        )
        yield there, made
