"""A control plane with a KMS on chain: the chain in memory, two nodes, and clients that call it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import update

from support.cloud_core_support import Cloud, cloud
from support.cloud_inventory_support import IMAGE, NOW, add_node
from support.cloud_life_support import YAML, FixedKeys
from support.node_memory import MemoryNode
from teehouse.base.findings import unavailable
from teehouse.base.hashes import keccak256, sha256
from teehouse.chain import calls as abi
from teehouse.chain.reader import Answer, Block, Call, Log, Reader, Receipt
from teehouse.cloud.allowlists.chain_gate import COMPOSE_HASH_ADDED, ChainGate
from teehouse.cloud.allowlists.onchain import OnchainContracts
from teehouse.cloud.cvms.lifecycle import Lifecycle
from teehouse.cloud.inventory.models import KmsNode, KmsType, OsImage
from teehouse.cloud.inventory.seeding import register_kms, seed_instance_types
from teehouse.cloud.nodes.directory import KnownNodes
from teehouse.cloud.nodes.models import NodeDevice
from teehouse.cloud.workflows.inline import InlineWorkflows
from teehouse.cloud.workflows.steps import Steps
from teehouse.kms.client.public import KmsMeta

API = "/api/v1"
V1, V2, V3, V4 = "2025-10-28", "2026-01-21", "2026-05-22", "2026-06-23"
VERSIONS = (V1, V2, V3, V4)
CHAIN = 8453
KMS = "0x2f83172A49584C017F2B256F0FB2Dca14126Ba9C"
GATEWAY = "0x" + "ab" * 20
RPC_URL = "https://base-rpc.example.org"
MULTICALL = "0xcA11bde05977b3631167028862bE2a173976CA11"
OTHER_DEVICE = "d7" * 32
OWNER = "0x5A370b73385085091de23E0fD21B54F2724EAD8D"
COMPOSE = {"allowed_envs": [], "docker_compose_file": YAML, "name": "", "public_logs": True}
NEWER = YAML.replace("1.27", "1.28")
META = KmsMeta(
    ca_certificate="",
    kms_id=b"\x30" * 91,
    k256_public_key=b"\x02" + b"\x17" * 32,
    allow_any_upgrade=False,
    is_dev=False,
    bootstrap_attestation=b"",
    gateway_app_id=GATEWAY,
    kms_contract_address=KMS,
    chain_id=CHAIN,
    app_auth_implementation=None,
)


@dataclass
class Contract:
    """An app's contract. `fault` makes it one that reverts, answers garbage, or answers megabytes."""

    hashes: set[str] = field(default_factory=set)
    devices: set[str] = field(default_factory=set)
    any_device: bool = False
    fault: str = ""

    def answer(self, data: bytes) -> Answer:
        if self.fault == "reverts":
            return Answer(ok=False, reason="not today")
        if self.fault == "garbage":
            return Answer(ok=True, data=b"\xff" * 32)
        if self.fault == "megabytes":
            return Answer(ok=True, data=bytes(1 << 20))
        name, argument = data[:4], data[4:].hex()
        said = {
            abi.ALLOWED_COMPOSE_HASHES.selector: argument in self.hashes,
            abi.ALLOWED_DEVICE_IDS.selector: argument in self.devices,
            abi.ALLOW_ANY_DEVICE.selector: self.any_device,
        }
        return Answer(ok=True, data=int(said[name]).to_bytes(32))


@dataclass
class KmsOnChain:
    """A KMS's contract."""

    apps: set[str] = field(default_factory=set)
    devices: set[str] = field(default_factory=set)
    images: set[str] = field(default_factory=set)

    def answer(self, data: bytes) -> Answer:
        name, argument = data[:4], data[4:].hex()
        said = {
            abi.REGISTERED_APPS.selector: argument[-40:] in self.apps,
            abi.KMS_ALLOWED_DEVICE_IDS.selector: argument in self.devices,
            abi.ALLOWED_OS_IMAGES.selector: argument in self.images,
        }
        return Answer(ok=True, data=int(said[name]).to_bytes(32))


class ScriptedChain:
    """A `Reader` of a chain that is said here; each transaction makes a block. `asked` are the calls, by question."""

    def __init__(self, chain_id: int = CHAIN) -> None:
        self._chain_id = chain_id
        self.number = 7
        self.confirmed: int | None = None  # the block that is read at, where it is not the newest
        self.kms = KmsOnChain()
        self.apps: dict[str, Contract] = {}
        self.receipts: dict[bytes, Receipt] = {}
        self.asked: list[list[Call]] = []
        self.down = False
        self.slow = False
        self.waiting = 0  # who waits for a slow chain
        self.closed = False

    @property
    def chain_id(self) -> int:
        return self._chain_id

    # What an owner does

    def deploy(self, compose_hash: str, *devices: str, any_device: bool = False) -> str:
        """A new app contract, as the KMS's factory makes it; the address without `0x`."""
        address = keccak256(b"app %d" % self.number)[12:].hex()
        self.apps[address] = Contract({compose_hash}, set(devices), any_device)
        self.kms.apps.add(address)
        self.number += 1
        return address

    def add_compose_hash(self, app: str, compose_hash: str, *, ok: bool = True) -> str:
        """The transaction's hash, with `0x`."""
        self.number += 1
        transaction = sha256(b"transaction %d" % self.number)
        contract = bytes.fromhex(app)
        log = Log(
            contract,
            (COMPOSE_HASH_ADDED,),
            bytes.fromhex(compose_hash),
            self.number,
            self._hash(),
            transaction,
            0,
        )
        self.receipts[transaction] = Receipt(transaction, ok, self.number, (log,) if ok else ())
        if ok and app in self.apps:
            self.apps[app].hashes.add(compose_hash)
        return f"0x{transaction.hex()}"

    def change(self) -> None:
        """A new block."""
        self.number += 1

    # What a reader is asked

    async def pinned(self) -> Block:
        await self._reached()
        return Block(self.number if self.confirmed is None else self.confirmed, self._hash(), 0)

    async def call_many(
        self, calls: Sequence[Call], block: Block | None = None
    ) -> tuple[Block, tuple[Answer, ...]]:
        await self._reached()
        self.asked.append(list(calls))
        return block or await self.pinned(), tuple(self._answer(call) for call in calls)

    def _answer(self, call: Call) -> Answer:
        if call.to == bytes.fromhex(KMS[2:]):
            return self.kms.answer(call.data)
        contract = self.apps.get(call.to.hex())
        return Answer(ok=True) if contract is None else contract.answer(call.data)

    async def code(self, address: bytes, block: Block) -> bytes:
        return b"\x60" if address.hex() in self.apps else b""

    async def logs(
        self,
        address: bytes,
        topics: Sequence[bytes | Sequence[bytes] | None],
        from_block: int,
        to_block: int,
    ) -> tuple[Log, ...]:
        raise AssertionError("no events are looked for")

    async def receipt(self, transaction_hash: bytes) -> Receipt | None:
        await self._reached()
        return self.receipts.get(transaction_hash)

    async def aclose(self) -> None:
        self.closed = True

    async def _reached(self) -> None:
        if self.slow:
            self.waiting += 1
            await asyncio.sleep(60)
        if self.down:
            raise unavailable("chain.endpoint", "the chain does not answer")

    def _hash(self) -> bytes:
        return sha256(b"block %d" % self.number)


@dataclass
class OnChain:
    """The application, its chain, and its nodes, by number; the second one has another device."""

    cloud: Cloud
    client: httpx.AsyncClient
    chain: ScriptedChain
    nodes: dict[int, MemoryNode]
    workflows: InlineWorkflows

    async def call(
        self, method: str, path: str, version: str = V2, headers: dict[str, str] | None = None, **given: Any
    ) -> httpx.Response:
        client = given.pop("client", self.client)
        answer: httpx.Response = await client.request(
            method, API + path, headers={"X-Phala-Version": version, **(headers or {})}, **given
        )
        await self.workflows.idle()
        return answer

    async def provision(self, name: str = "my-app", version: str = V1, **given: Any) -> dict[str, Any]:
        body = {"name": name, "compose_file": COMPOSE, "kms": "BASE", "instance_type": "tdx.small", **given}
        answer = await self.call("POST", "/cvms/provision", version, json=body)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def commit(
        self, app: str, found: dict[str, Any], version: str = V1, **given: Any
    ) -> httpx.Response:
        body = {
            "app_id": f"0x{app}",
            "compose_hash": found["compose_hash"],
            "kms_id": found["kms_info"]["slug"],
            "contract_address": f"0x{app}",
            "deployer_address": OWNER,
            **given,
        }
        return await self.call("POST", "/cvms", version, json=body)

    async def deploy(self, name: str = "my-app") -> dict[str, Any]:
        """A CVM that runs, of an app whose contract allows it on its node's device."""
        found = await self.provision(name)
        answer = await self.commit(self.chain.deploy(found["compose_hash"], found["device_id"]), found)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def state(self, cvm: str) -> dict[str, Any]:
        """All that a change could touch, as clients see it."""
        shown = (await self.call("GET", f"/cvms/{cvm}", V4)).json()
        revisions = (await self.call("GET", f"/apps/{shown['app_id']}/revisions", V4)).json()
        return {"cvm": shown, "revisions": revisions}


def details(answer: httpx.Response) -> dict[str, Any]:
    """The details of a structured error, by field."""
    return {entry["field"]: entry["value"] for entry in answer.json()["details"]}


@asynccontextmanager
async def on_chain(
    kind: str,
    directory: Path,
    *,
    deadline: float = 2.0,
    patience: float = 0.0,
    reader: Reader | None = None,
    meta: KmsMeta = META,
    **registration: Any,
) -> AsyncIterator[OnChain]:
    """The application; with a `reader`, over the chain that it reads, whose KMS is `meta`."""
    async with cloud(kind, directory) as made:
        async with made.database.write() as session:
            await seed_instance_types(session)
            image = OsImage(name=IMAGE, slug=IMAGE, version="0.5.4", os_image_hash="b3" * 32, created_at=NOW)
            session.add(image)
            kms = await registered(session, meta, **registration)
            first = await add_node(session, image, kms)
            second = await add_node(session, image, kms, "prod6", device_id=OTHER_DEVICE)
            await session.execute(
                update(NodeDevice).where(NodeDevice.node_id == second.id).values(device_id=OTHER_DEVICE)
            )
            numbers = first.id, second.id
        nodes = {number: MemoryNode(made.clock) for number in numbers}
        chain = ScriptedChain()
        contracts = OnchainContracts({CHAIN: reader or chain}, deadline=deadline)
        known = KnownNodes(dict(nodes))
        workflows = InlineWorkflows(
            made.database, Steps(made.database, known, made.clock, patience=0.2, limit=5)
        )
        made.parts.contracts = made.parts.kms_contracts = contracts
        made.parts.lifecycle = Lifecycle(
            made.database,
            known,
            workflows,
            FixedKeys(),
            ChainGate(contracts, patience=patience),
            made.clock,
            public_url="https://cloud.example.org",
        )
        try:
            yield OnChain(made, made.client(), chain, nodes, workflows)
        finally:
            await workflows.close()


async def registered(session: Any, meta: KmsMeta = META, **given: Any) -> KmsNode:
    """The KMS on chain, as a stack registers it."""
    how: dict[str, Any] = {"rpc_url": RPC_URL, "multicall_address": MULTICALL, **given}
    return await register_kms(
        session,
        meta,
        url="https://kms.example.org:12001",
        slug="kms-base-prod5",
        version="v0.5.4",
        now=NOW,
        kms_type=KmsType.BASE,
        **how,
    )
