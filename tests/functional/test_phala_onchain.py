"""The published `phala` command with a KMS on chain: real anvil, emulated node and KMS, a real Docker Engine.

anvil has the id of Base: the command does on that chain all that it does on any (cloud-api.md 14.4).
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.anvil import need_anvil
from support.docker_engine import IMAGE, docker_engine
from support.functional_support import need_javascript
from support.phala_cli import Phala, together
from support.processes import Process
from support.up_processes import up
from teehouse.chain.history import History, complete
from teehouse.chain.rpc_reader import open_reader

pytestmark = pytest.mark.timeout(300)

SETTLE_SECONDS = 60
OTHER_DEVICE = "d7" * 32
COMPOSE = f"""
services:
  web:
    image: {IMAGE}
    command: ["sh", "-c", "echo one $$GREETING; trap 'exit 0' TERM; sleep 1000 & wait"]
    environment: [GREETING]
"""


@dataclass(frozen=True)
class Served:
    """A Teehouse on chain 8453, whose node has an engine, and what its ready.json says."""

    folder: Path
    process: Process
    ready: dict[str, Any]

    @property
    def owner(self) -> tuple[str, ...]:
        return "--private-key", self.ready["deployer_private_key"], "--rpc-url", self.ready["rpc_url"]

    def call(self, method: str, path: str, **given: Any) -> Any:
        headers = {"X-API-Key": self.ready["api_key"], "X-Phala-Version": "2026-01-21"}
        answer = httpx.request(method, f"{self.ready['api_url']}{path}", headers=headers, timeout=30, **given)
        return answer.raise_for_status().json()

    def settle(self, cvm: str, status: str) -> dict[str, Any]:
        """Wait until nothing is under way with the CVM and it has this status."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while (found := self.call("GET", f"/cvms/{cvm}"))["progress"] or found["status"] != status:
            assert time.monotonic() < deadline, found
            time.sleep(0.1)
        settled: dict[str, Any] = found
        return settled

    def contract(self, app: str) -> tuple[frozenset[str], frozenset[str]]:
        """Compose hashes and devices of an app, as the events of its contract tell them."""

        async def read() -> History:
            async with await open_reader([self.ready["rpc_url"]]) as reader:
                return await complete(reader, History(bytes.fromhex(app)), await reader.pinned())

        found = asyncio.run(read())
        return frozenset(map(bytes.hex, found.compose_hashes)), frozenset(map(bytes.hex, found.device_ids))

    @property
    def chain(self) -> dict[str, str]:
        return {"ETH_RPC_URL": self.ready["rpc_url"], "ETH_PRIVATE_KEY": self.ready["deployer_private_key"]}


def teehouse(*arguments: str, **environ: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "teehouse", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environ},
    )
    assert done.returncode == 0, done.stdout + done.stderr


def started(folder: Path, name: str, environ: dict[str, str], *options: str) -> Served:
    process = up(folder, name, *options, environ=environ)
    ready = json.loads((folder / "t" / "ready.json").read_text(encoding="utf-8"))
    return Served(folder, process, ready)


@pytest.fixture(scope="module")
def engine() -> Iterator[dict[str, str]]:
    """Where the engine is, for the environment of a node."""
    need_anvil()
    need_javascript()
    with tempfile.TemporaryDirectory(prefix="th-") as directory, docker_engine(Path(directory)) as made:
        yield made.host


def test_an_app_on_chain_is_deployed_updated_revoked_and_outlives_a_crash(
    engine: dict[str, str], folder: Path, tmp_path: Path
) -> None:
    served = started(folder, "one", engine, "--chain", "anvil", "--chain-id", "8453")
    try:
        for name in ("home", "shop"):
            (tmp_path / name).mkdir()
        phala = Phala(tmp_path / "home", tmp_path / "shop", served.ready["api_url"], served.ready["api_key"])
        app, cvm = deployed(served, phala)
        devices_allowed(served, phala, app)
        updated(served, phala, app, cvm)
        revoked_and_allowed(served, app, cvm)
        served = killed(served, engine, app, cvm)
        served.call("DELETE", f"/cvms/{cvm}")
        assert served.process.stop() == 0, served.process.output()
    finally:
        served.process.kill()


def compose(phala: Phala, text: str) -> None:
    (phala.project / "docker-compose.yml").write_text(text, encoding="utf-8")


def deployed(served: Served, phala: Phala) -> tuple[str, str]:
    compose(phala, COMPOSE)
    phala.run(
        "deploy", "-n", "my-shop", "-c", "docker-compose.yml", "--kms", "base", "-e", "GREETING=hello",
        *served.owner,
    )  # fmt: skip
    found = served.settle("my-shop", "running")
    app, cvm = str(found["app_id"]), str(found["vm_uuid"])
    attested = served.call("GET", f"/cvms/{cvm}/attestation")
    events = {event["event"]: event["event_payload"] for event in attested["tcb_info"]["event_log"]}
    assert (events["app-id"], events["compose-hash"]) == (app, found["compose_hash"])
    assert served.contract(app)[0] == {found["compose_hash"]}
    return app, cvm


def devices_allowed(served: Served, phala: Phala, app: str) -> None:
    (device,) = (
        entry["device_id"] for entry in served.call("GET", f"/apps/{app}/device-allowlist")["devices"]
    )
    here, read = device.removeprefix("0x"), ("--rpc-url", served.ready["rpc_url"])
    printed: dict[str, str] = {}
    together(
        lambda: printed.update(listed=phala.run("allow-devices", "list", "my-shop", *read, "--json")),
        lambda: printed.update(shown=phala.run("cvms", "device-allowlist", "my-shop", "--json")),
        lambda: phala.run("allow-devices", "add", "my-shop", f"0x{OTHER_DEVICE}", *served.owner),
    )
    assert here in printed["listed"]
    assert here in printed["shown"]
    assert served.contract(app)[1] == {here, OTHER_DEVICE}
    phala.run("allow-devices", "remove", "my-shop", f"0x{OTHER_DEVICE}", *served.owner)
    assert served.contract(app)[1] == {here}


def updated(served: Served, phala: Phala, app: str, cvm: str) -> None:
    """The answer 465, addComposeHash by the command, and the second half of the update."""
    before = served.settle("my-shop", "running")["compose_hash"]
    compose(phala, COMPOSE.replace("echo one", "echo two"))
    phala.run("deploy", "--cvm-id", cvm, "-c", "docker-compose.yml", *served.owner)
    until_other = time.monotonic() + SETTLE_SECONDS
    while (after := served.settle("my-shop", "running")["compose_hash"]) == before:
        assert time.monotonic() < until_other
    assert served.contract(app)[0] == {before, after}


def revoked_and_allowed(served: Served, app: str, cvm: str) -> None:
    digest = served.settle("my-shop", "running")["compose_hash"]
    teehouse("governance", "remove-compose", app, digest, **served.chain)
    served.call("POST", f"/cvms/{cvm}/restart")
    served.settle("my-shop", "error")
    assert "Compose hash not allowed" in served.call("GET", f"/cvms/{cvm}/state")["boot_error"]
    body = {"compose_hash": digest, "device_id": "0x" + "00" * 32}
    assert served.call("POST", f"/apps/{app}/is-allowed", json=body)["compose_hash_allowed"] is False
    assert served.call("POST", f"/apps/{app}/cvms/is-allowed", json={})["denied_count"] == 1
    teehouse("governance", "allow-compose", app, digest, **served.chain)
    served.call("POST", f"/cvms/{cvm}/start")
    served.settle("my-shop", "running")


def killed(served: Served, engine: dict[str, str], app: str, cvm: str) -> Served:
    """kill -9, and started again without a word of the chain: all of it is as it was."""
    served.process.kill()
    again = started(served.folder, "two", engine)
    same = ("app_id", "instance_id", "vm_uuid", "rpc_url", "kms_contract", "chain_id", "kms_url", "api_url")
    assert {name: again.ready[name] for name in same} == {name: served.ready[name] for name in same}
    again.settle("my-shop", "running")
    assert again.call("POST", f"/apps/{app}/cvms/is-allowed", json={})["allowed_count"] == 1
    return again
