"""Replicas and instances of an on-chain app: hash and device are asked about, prepared, committed (cloud-api.md 13.4)."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from support.cloud_inventory_support import DEVICE
from support.cloud_onchain_support import (
    NEWER,
    OTHER_DEVICE,
    V1,
    V2,
    V4,
    VERSIONS,
    OnChain,
    details,
    on_chain,
)


@pytest.fixture(name="one")
async def _one(tmp_path: Path) -> AsyncIterator[OnChain]:
    async with on_chain("sqlite", tmp_path) as made:
        yield made


async def deployed(one: OnChain) -> dict[str, Any]:
    """A CVM on the first node."""
    found = await one.provision(node_id=min(one.nodes))
    answer = await one.commit(one.chain.deploy(found["compose_hash"], DEVICE), found)
    return dict(answer.json())


async def count(one: OnChain, app: str) -> int:
    return len((await one.call("GET", f"/apps/{app}/cvms")).json())


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_replica_on_a_device_that_is_not_allowed(one: OnChain, version: str) -> None:
    cvm = await deployed(one)
    path = f"/cvms/{cvm['vm_uuid']}"
    refused = await one.call("POST", f"{path}/replicas", version, json={"node_id": max(one.nodes)})
    assert refused.status_code == 465
    told = details(refused)
    assert set(told) == {
        "compose_hash", "app_id", "device_id", "kms_info", "commit_token", "commit_url", "api_commit_url",
        "onchain_status",
    }  # fmt: skip
    assert told["device_id"] == f"0x{OTHER_DEVICE}"
    assert told["onchain_status"] == {
        "compose_hash_allowed": True, "device_id_allowed": False, "is_allowed": False,
    }  # fmt: skip
    assert told["api_commit_url"] == f"https://cloud.example.org/api/v1{path}/commit-replica"
    assert told["kms_info"]["chain"]["id"] == 8453
    body = {
        "token": told["commit_token"], "compose_hash": told["compose_hash"],
        "transaction_hash": "already-registered",
    }  # fmt: skip
    early = await one.call("POST", f"{path}/commit-replica", version, json=body)
    assert (early.status_code, details(early)) == (468, {"device_id": f"0x{OTHER_DEVICE}"})
    assert await count(one, cvm["app_id"]) == 1
    one.chain.apps[cvm["app_id"]].devices.add(OTHER_DEVICE)
    one.chain.change()
    done = await one.call("POST", f"{path}/commit-replica", version, json=body)
    assert (done.status_code, done.json()["name"], done.json()["teepod_id"]) == (
        200,
        "my-app-2",
        max(one.nodes),
    )
    assert isinstance(done.json()["id"], int if version in {V1, V2} else str)
    assert len(one.nodes[max(one.nodes)].specs) == 1
    again = await one.call("POST", f"{path}/commit-replica", version, json=body)
    assert (again.status_code, again.json()["error_code"]) == (466, "ERR-01-006")


async def test_a_replica_where_all_is_allowed(one: OnChain) -> None:
    cvm = await deployed(one)
    done = await one.call("POST", f"/cvms/{cvm['vm_uuid']}/replicas", json={"node_id": None})
    assert (done.status_code, done.json()["teepod_id"]) == (200, min(one.nodes))
    only = await one.call("POST", f"/cvms/{cvm['vm_uuid']}/replicas", V2, {"X-Prepare-Only": "true"}, json={})
    assert only.status_code == 465
    assert details(only)["onchain_status"]["is_allowed"] is True
    body = {
        "token": details(only)["commit_token"],
        "compose_hash": "",
        "transaction_hash": "already-registered",
    }
    assert (await one.call("POST", "/cvms/my-app/commit-replica", json=body)).status_code == 200
    assert await count(one, cvm["app_id"]) == 3


async def test_a_full_node_leads_to_one_whose_device_is_asked_about(one: OnChain) -> None:
    cvm = await deployed(one)
    for number in range(7):
        copied = await one.call("POST", f"/cvms/{cvm['vm_uuid']}/replicas", json={})
        assert copied.status_code == 200, number
    resized = await one.call("PATCH", f"/cvms/{cvm['vm_uuid']}/resources", json={"vcpu": 9})
    assert resized.status_code == 200
    # 16 processors are taken: the next one can only go to the other node.
    other = await one.call("POST", "/cvms/my-app-2/replicas", json={})
    assert other.status_code == 465
    assert details(other)["device_id"] == f"0x{OTHER_DEVICE}"
    one.chain.apps[cvm["app_id"]].any_device = True
    one.chain.change()
    done = await one.call("POST", "/cvms/my-app-2/replicas", json={})
    assert (done.status_code, done.json()["teepod_id"]) == (200, max(one.nodes))


@pytest.mark.parametrize("version", VERSIONS)
async def test_an_instance_with_a_compose_file_of_its_own(one: OnChain, version: str) -> None:
    cvm = await deployed(one)
    path = f"/apps/{cvm['app_id']}/instances"
    asked = {"docker_compose_file": NEWER, "node_id": min(one.nodes), "encrypted_env": "cd" * 80}
    first = await one.call("POST", path, version, json=asked)
    assert first.status_code == 465
    told = details(first)
    assert told["api_commit_url"] == f"https://cloud.example.org/api/v1{path}"
    assert told["onchain_status"]["compose_hash_allowed"] is False
    sent = one.chain.add_compose_hash(cvm["app_id"], told["compose_hash"])
    body = {"token": told["commit_token"], "compose_hash": told["compose_hash"], "transaction_hash": sent}
    wrong = await one.call("POST", path, version, json=body | {"transaction_hash": "0x" + "ab" * 32})
    assert (wrong.status_code, wrong.json()["error_code"]) == (467, "ERR-01-007")
    done = await one.call("POST", path, version, json=body)
    assert done.status_code == 200
    assert ("resource" in done.json()) is (version not in {V1, V2})
    spec = list(one.nodes[min(one.nodes)].specs.values())[-1]
    assert b"nginx:1.28" in spec.compose
    assert spec.encrypted_env == bytes.fromhex("cd" * 80)
    assert spec.app_id == bytes.fromhex(cvm["app_id"])
    shown = (await one.call("GET", f"/cvms/{done.json()['name']}", V4)).json()
    assert shown["compose_hash"] == told["compose_hash"]


async def test_tokens_of_others_stay_unknown(one: OnChain) -> None:
    cvm = await deployed(one)
    told = details(await one.call("POST", "/cvms/my-app/replicas", json={"node_id": max(one.nodes)}))
    one.chain.apps[cvm["app_id"]].any_device = True
    one.chain.change()
    body = {"token": told["commit_token"]}
    update = await one.call("POST", "/cvms/my-app/commit-update", json=body)
    assert (update.status_code, update.json()["message"]) == (466, "The commit token is unknown")
    other = await one.deploy("other-app")
    foreign = await one.call("POST", f"/cvms/{other['vm_uuid']}/commit-replica", json=body)
    assert (foreign.status_code, foreign.json()["message"]) == (466, "The commit token is unknown")
    assert (await one.call("POST", "/cvms/my-app/commit-replica", json=body)).status_code == 200


async def test_a_source_that_changed_meanwhile(one: OnChain) -> None:
    cvm = await deployed(one)
    told = details(await one.call("POST", "/cvms/my-app/replicas", json={"node_id": max(one.nodes)}))
    contract = one.chain.apps[cvm["app_id"]]
    contract.any_device = True
    newer = details(await one.call("PATCH", "/cvms/my-app", json={"docker_compose_file": NEWER}))
    one.chain.add_compose_hash(cvm["app_id"], newer["compose_hash"])
    assert (await one.call("PATCH", "/cvms/my-app", json={"docker_compose_file": NEWER})).status_code == 200
    late = await one.call("POST", "/cvms/my-app/commit-replica", json={"token": told["commit_token"]})
    assert (late.status_code, late.json()["message"]) == (466, "The stored compose file has changed since")
    assert await count(one, cvm["app_id"]) == 1


async def test_a_source_that_changes_while_the_contract_is_asked(one: OnChain) -> None:
    cvm = await deployed(one)
    contract = one.chain.apps[cvm["app_id"]]
    contract.any_device = True
    newer = details(await one.call("PATCH", "/cvms/my-app", json={"docker_compose_file": NEWER}))
    one.chain.add_compose_hash(cvm["app_id"], newer["compose_hash"])
    gate = one.cloud.parts.lifecycle.gate
    status = gate.status

    async def meanwhile(*given: Any) -> Any:
        gate.status = status
        changed = await one.call("PATCH", "/cvms/my-app", json={"docker_compose_file": NEWER})
        assert changed.status_code == 200
        return await status(*given)

    gate.status = meanwhile
    refused = await one.call("POST", "/cvms/my-app/replicas", json={})
    assert (refused.status_code, "error_code" in refused.json()) == (409, False)
    assert await count(one, cvm["app_id"]) == 1


@pytest.mark.parametrize("fault", ["reverts", "garbage", "down"])
async def test_nothing_is_copied_when_the_contract_cannot_be_asked(one: OnChain, fault: str) -> None:
    cvm = await deployed(one)
    if fault == "down":
        one.chain.down = True
    else:
        one.chain.apps[cvm["app_id"]].fault = fault
    one.chain.change()
    for path in ("/cvms/my-app/replicas", f"/apps/{cvm['app_id']}/instances"):
        refused = await one.call("POST", path, json={})
        assert refused.status_code == (503 if fault == "down" else 468)
    assert await count(one, cvm["app_id"]) == 1
