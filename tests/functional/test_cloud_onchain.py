"""The control plane with a KMS on chain, on a real anvil with our contracts, driven by the published `phala` command.

anvil has the id of Base, so that the command takes it for a chain it knows, with aggregate3 where it looks for it.
"""

import asyncio
import json
import os
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from support.anvil import need_anvil
from support.cloud_inventory_support import DEVICE
from support.cloud_life_support import YAML
from support.cloud_onchain_support import (
    CHAIN,
    META,
    MULTICALL,
    NEWER,
    OTHER_DEVICE,
    V1,
    OnChain,
    details,
    on_chain,
)
from support.functional_support import JS, need_javascript
from teehouse.base.hashes import sha256
from teehouse.chain import artifacts
from teehouse.chain import calls as abi
from teehouse.chain.deploy import DeployPlan, deploy
from teehouse.chain.endpoint import Endpoint
from teehouse.chain.rpc_reader import RpcReader, open_reader
from teehouse.chain.writer import RpcWriter
from teehouse.cloud.inventory.env_keys import SignedKey
from teehouse.stack.anvil import run_anvil

pytestmark = pytest.mark.timeout(240)

KEY = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"  # anvil's first account


class AnyKey:
    """A key for every app's environment; the command does not look at its signature."""

    async def signed_key(self, url: str, k256_pubkey: str | None, app_id: str) -> SignedKey:
        return SignedKey(sha256(bytes.fromhex(app_id)), bytes(65))


@dataclass
class Chain:
    """A running anvil with the KMS's contract, and the owner's way to write to it."""

    rpc_url: str
    reader: RpcReader
    writer: RpcWriter
    kms: bytes

    async def deploy_app(self, compose_hash: str, device: str) -> str:
        """An app's contract by the KMS's factory; its address, without `0x`."""
        owner = self.writer.address
        values = (owner, False, False, False, bytes.fromhex(device), bytes.fromhex(compose_hash))
        written = await self.writer.send(self.kms, abi.DEPLOY_AND_REGISTER_APP(*values))
        topic = abi.topic("AppDeployedViaFactory(address,address)")
        (log,) = (log for log in written.logs if log.topics[0] == topic)
        return log.topics[1][12:].hex()

    async def send(self, app: str, data: bytes) -> str:
        """Call the app's contract; the transaction's hash, with `0x`."""
        written = await self.writer.send(bytes.fromhex(app), data)
        return f"0x{written.transaction_hash.hex()}"


@asynccontextmanager
async def anvil() -> AsyncIterator[Chain]:
    need_anvil()
    need_javascript()
    with tempfile.TemporaryDirectory(prefix="teehouse-chain-") as folder:
        async with (
            run_anvil(Path(folder) / "state.json", chain_id=CHAIN) as running,
            await open_reader([running.url]) as reader,
            httpx.AsyncClient() as client,
        ):
            code = "0x" + artifacts.load("Multicall").runtime.hex()
            body = {"jsonrpc": "2.0", "id": 1, "method": "anvil_setCode", "params": [MULTICALL, code]}
            assert "error" not in (await client.post(running.url, json=body)).json()
            endpoint = Endpoint(running.url)
            writer = RpcWriter(endpoint, CHAIN, bytes.fromhex(KEY[2:]))
            plan = DeployPlan(os_images=[b"\xb3" * 32], kms_devices=[bytes.fromhex(DEVICE)])
            record = await deploy(reader, writer, plan)
            try:
                yield Chain(running.url, reader, writer, record.kms_contract)
            finally:
                await endpoint.aclose()


@asynccontextmanager
async def installation(directory: Path) -> AsyncIterator[tuple[OnChain, Chain]]:
    async with anvil() as chain:
        meta = replace(META, kms_contract_address=f"0x{chain.kms.hex()}", gateway_app_id=None)
        async with on_chain(
            "sqlite",
            directory,
            deadline=10,
            patience=10,
            reader=chain.reader,
            meta=meta,
            rpc_url=chain.rpc_url,
        ) as one:
            one.cloud.parts.kms_keys = AnyKey()
            yield one, chain


@asynccontextmanager
async def listening(one: OnChain) -> AsyncIterator[str]:
    """The API on a port of the loopback."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(one.cloud.app, lifespan="off", log_level="warning"))
        serving = asyncio.ensure_future(server.serve([bound]))
        try:
            yield f"http://127.0.0.1:{bound.getsockname()[1]}/api/v1"
        finally:
            server.should_exit = True
            await serving


class Command:
    """The published command, as its users call it."""

    def __init__(self, directory: Path, prefix: str, key: str) -> None:
        self.directory = directory
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "PHALA_CLOUD_DIR": str(directory / "phala"),
            "PHALA_CLOUD_API_PREFIX": prefix,
            "PHALA_CLOUD_API_KEY": key,
            "PHALA_DISABLE_UPDATE_CHECK": "1",
            "CI": "1",
        }

    async def __call__(self, *arguments: str, fails: bool = False) -> str:
        process = await asyncio.create_subprocess_exec(
            need_javascript(), str(JS / "node_modules" / "phala" / "dist" / "index.js"), *arguments,
            cwd=self.directory, env=self.environ,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        async with asyncio.timeout(60):
            output, _ = await process.communicate()
        text = output.decode()
        assert (process.returncode != 0) is fails, f"{arguments[:2]}: {text}"
        return text


async def counts(one: OnChain, app: str) -> tuple[int, int, int]:
    told = (await one.call("POST", f"/apps/{app}/cvms/is-allowed", json={})).json()
    return told["allowed_count"], told["denied_count"], told["error_count"]


async def test_contract_deployed_updated_and_revoked(tmp_path: Path) -> None:
    async with installation(tmp_path) as (one, chain):
        found = await one.provision(node_id=min(one.nodes))
        early = await one.commit("ab" * 20, found)
        assert (early.status_code, early.json()["error_code"]) == (468, "ERR-01-008")
        app = await chain.deploy_app(found["compose_hash"], found["device_id"])
        made = await one.commit(app, found)
        assert made.status_code == 200, made.text
        assert await counts(one, app) == (1, 0, 0)
        (spec,) = one.nodes[min(one.nodes)].specs.values()
        assert spec.app_id == bytes.fromhex(app)

        first = await one.call("PATCH", "/cvms/my-app", V1, json={"docker_compose_file": NEWER})
        told = details(first)
        assert first.status_code == 465
        digest = bytes.fromhex(told["compose_hash"])
        other = await chain.send(app, abi.ADD_DEVICE(bytes.fromhex(OTHER_DEVICE)))
        body = {"token": told["commit_token"], "transaction_hash": other}
        wrong = await one.call("POST", "/cvms/my-app/commit-update", json=body)
        assert (wrong.status_code, wrong.json()["error_code"]) == (467, "ERR-01-007")
        sent = await chain.send(app, abi.ADD_COMPOSE_HASH(digest))
        done = await one.call("POST", "/cvms/my-app/commit-update", json=body | {"transaction_hash": sent})
        assert done.status_code == 200, done.text
        assert await counts(one, app) == (1, 0, 0)

        copied = await one.call("POST", "/cvms/my-app/replicas", json={"node_id": max(one.nodes)})
        assert copied.status_code == 200, copied.text
        assert await counts(one, app) == (2, 0, 0)
        await chain.send(app, abi.REMOVE_DEVICE(bytes.fromhex(OTHER_DEVICE)))
        assert await counts(one, app) == (1, 1, 0)
        await chain.send(app, abi.REMOVE_COMPOSE_HASH(digest))
        assert await counts(one, app) == (0, 2, 0)
        listed = (await one.call("GET", f"/apps/{app}/device-allowlist")).json()
        assert [entry["status"] for entry in listed["devices"]] == ["allowed", "not_allowed"]
        shown = (await one.call("GET", "/kms/on-chain/base")).json()["contracts"][0]
        assert [entry["on_chain_allowed"] for entry in shown["devices"]] == [True, False]
        assert [entry["on_chain_allowed"] for entry in shown["os_images"]] == [True]


async def test_the_published_command(tmp_path: Path) -> None:
    async with installation(tmp_path) as (one, chain), listening(one) as url:
        phala = Command(tmp_path, url, one.cloud.first.api_key)
        owner = ("--private-key", KEY, "--rpc-url", chain.rpc_url)
        (tmp_path / "docker-compose.yml").write_text(YAML)
        deployed = await phala(
            "deploy", "-n", "my-app", "-c", "docker-compose.yml", "--kms", "base", "-e", "A=1",
            "--node-id", str(min(one.nodes)), *owner, "--json",
        )  # fmt: skip
        cvm = (await one.call("GET", "/cvms/my-app", V1)).json()
        app = cvm["app_id"]
        assert app in deployed
        assert await counts(one, app) == (1, 0, 0)

        (tmp_path / "docker-compose.yml").write_text(NEWER)
        await phala("deploy", "--cvm-id", cvm["vm_uuid"], "-c", "docker-compose.yml", *owner, "--json")
        assert await counts(one, app) == (1, 0, 0)
        compose = (await one.call("GET", "/cvms/my-app/docker-compose.yml")).text
        assert compose == NEWER
        await phala("envs", "update", "my-app", "-e", "A=1", "-e", "B=2", *owner)
        assert await counts(one, app) == (1, 0, 0)

        (tmp_path / "docker-compose.yml").write_text(YAML)
        waiting = await phala(
            "deploy",
            "--cvm-id",
            cvm["vm_uuid"],
            "-c",
            "docker-compose.yml",
            "--prepare-only",
            *owner,
            "--json",
        )
        prepared = json.loads(waiting[waiting.index("{") :])
        token = _member(prepared, "commit_token", "commitToken", "token")
        digest = _member(prepared, "compose_hash", "composeHash")
        early = await phala(
            "deploy", "--cvm-id", cvm["vm_uuid"], "--commit", "--token", token,
            "--transaction-hash", "already-registered", fails=True,
        )  # fmt: skip
        assert "The app's contract does not allow this compose hash" in early
        sent = await chain.send(app, abi.ADD_COMPOSE_HASH(bytes.fromhex(digest.removeprefix("0x"))))
        await phala(
            "deploy", "--cvm-id", cvm["vm_uuid"], "--commit", "--token", token, "--transaction-hash", sent
        )
        assert (await one.call("GET", "/cvms/my-app/docker-compose.yml")).text == YAML

        allowed = await phala("allow-devices", "list", "my-app", *owner[2:], "--json")
        assert DEVICE in allowed
        assert OTHER_DEVICE not in allowed
        await phala("allow-devices", "add", "my-app", "prod6", *owner)
        assert OTHER_DEVICE in await phala("cvms", "device-allowlist", "my-app", "--json")
        await phala("cvms", "replicate", "my-app", "--node-id", "prod6", *owner)
        assert await counts(one, app) == (2, 0, 0)
        await phala("allow-devices", "remove", "my-app", f"0x{OTHER_DEVICE}", *owner)
        assert await counts(one, app) == (1, 1, 0)
        (tmp_path / "other.yml").write_text(YAML.replace("1.27", "1.29"))
        await phala("instances", "add", "--app-id", app, "-c", "other.yml", "--node-id", "prod5", *owner)
        assert await counts(one, app) == (2, 1, 0)
        assert f"0x{chain.kms.hex()}" in (await phala("kms", "base", "--json")).lower()


def _member(found: Any, *names: str) -> str:
    """The first member of one of these names, wherever it is."""
    if isinstance(found, dict):
        for name in names:
            if isinstance(found.get(name), str):
                return str(found[name])
        for value in found.values():
            if inner := _member(value, *names):
                return inner
    return ""
