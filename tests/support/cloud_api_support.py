"""The application with nodes in memory and operations carried on in this process: called as clients call it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from support.cloud_core_support import Cloud, cloud
from support.cloud_inventory_support import add_inventory, add_node
from support.cloud_life_support import BOX, YAML, FixedKeys
from support.node_memory import MemoryNode
from teehouse.cloud.allowlists.gate import GatedApp, OnchainStatus
from teehouse.cloud.cvms.lifecycle import Lifecycle
from teehouse.cloud.inventory.seeding import seed_instance_types
from teehouse.cloud.nodes.directory import KnownNodes
from teehouse.cloud.workflows.inline import InlineWorkflows
from teehouse.cloud.workflows.steps import Steps

V1, V2, V4 = ({"X-Phala-Version": version} for version in ("2025-10-28", "2026-01-21", "2026-06-23"))
API = "/api/v1"
COMPOSE = {"allowed_envs": [], "docker_compose_file": YAML, "name": "", "public_logs": True}


class Gate:
    """A contract of a test: hashes that are allowed, and transactions that prove one."""

    def __init__(self) -> None:
        self.on_chain = False
        self.allowed: set[str] = set()
        self.proved: list[str] = []

    async def status(self, app: GatedApp, compose_hash: str, device_id: str | None) -> OnchainStatus | None:
        return OnchainStatus(compose_hash in self.allowed, True) if self.on_chain else None

    async def check_transaction(self, app: GatedApp, compose_hash: str, transaction_hash: str) -> None:
        self.proved.append(transaction_hash)


@dataclass
class Api:
    cloud: Cloud
    client: httpx.AsyncClient
    node: MemoryNode
    workflows: InlineWorkflows
    gate: Gate

    async def call(self, method: str, path: str, **given: Any) -> httpx.Response:
        answer = await self.client.request(method, API + path, **given)
        await self.workflows.idle()
        return answer

    async def status(self, cvm: str) -> str:
        return str((await self.call("GET", f"/cvms/{cvm}/state")).json()["status"])

    async def deploy(self, name: str = "my-app") -> dict[str, Any]:
        body = {
            "name": name,
            "compose_file": COMPOSE,
            "listed": False,
            "kms": "PHALA",
            "instance_type": "tdx.small",
        }
        found = (await self.call("POST", "/cvms/provision", json=body, headers=V1)).json()
        commit = {"app_id": found["app_id"], "compose_hash": found["compose_hash"], "encrypted_env": BOX}
        answer = await self.call("POST", "/cvms", json=commit, headers=V1)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())


@asynccontextmanager
async def api(kind: str, tmp_path: Path, **settings: Any) -> AsyncIterator[Api]:
    async with cloud(kind, tmp_path, **settings) as made:
        async with made.database.write() as session:
            await seed_instance_types(session)
            image, kms = await add_inventory(session)
            node_id = (await add_node(session, image, kms)).id
        node, gate = MemoryNode(made.clock), Gate()
        nodes = KnownNodes({node_id: node})
        workflows = InlineWorkflows(
            made.database, Steps(made.database, nodes, made.clock, patience=0.2, limit=5)
        )
        made.parts.lifecycle = Lifecycle(
            made.database,
            nodes,
            workflows,
            FixedKeys(),
            gate,
            made.clock,
            public_url="https://cloud.example.org",
        )
        try:
            yield Api(made, made.client(), node, workflows, gate)
        finally:
            await workflows.close()
