"""Changes of an on-chain app in two phases: 465 to 468, each in its situation (cloud-api.md 13.4, 16)."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from support.cloud_inventory_support import DEVICE
from support.cloud_life_support import BOX
from support.cloud_onchain_support import (
    CHAIN,
    GATEWAY,
    KMS,
    MULTICALL,
    NEWER,
    RPC_URL,
    V1,
    V2,
    VERSIONS,
    OnChain,
    details,
    on_chain,
)
from teehouse.cloud.allowlists.chain_gate import ChainGate
from teehouse.cloud.allowlists.gate import OffChainGate
from teehouse.cloud.allowlists.onchain import OnchainContracts
from teehouse.cloud.cvms.compose import new_compose

CHANGE = {"docker_compose_file": NEWER}
TEXT = {"Content-Type": "text/yaml"}


@pytest.fixture(params=["sqlite", "postgresql"], name="served")
async def _served(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[OnChain]:
    async with on_chain(request.param, tmp_path) as made:
        yield made


@pytest.fixture(name="one")
async def _one(tmp_path: Path) -> AsyncIterator[OnChain]:
    async with on_chain("sqlite", tmp_path) as made:
        yield made


def kms_info(shown: dict[str, Any]) -> dict[str, Any]:
    """`KmsInfo` of the KMS of these tests, with the number it has."""
    return {
        "id": shown["id"],
        "slug": "kms-base-prod5",
        "url": "https://kms.example.org:12001",
        "version": "v0.5.4",
        "chain_id": CHAIN,
        "kms_contract_address": KMS,
        "gateway_app_id": GATEWAY,
        "chain": {
            "id": CHAIN,
            "name": "Base",
            "nativeCurrency": {"name": "Ether", "symbol": "ETH", "decimals": 18},
            "rpcUrls": {"default": {"http": [RPC_URL]}},
            "contracts": {"multicall3": {"address": MULTICALL}},
        },
    }


@pytest.mark.parametrize("version", VERSIONS)
async def test_the_whole_refusal(one: OnChain, version: str) -> None:
    cvm = await one.deploy()
    before = await one.state("my-app")
    refused = await one.call("PATCH", "/cvms/my-app", version, json=CHANGE)
    assert refused.status_code == 465
    body = refused.json()
    told = details(refused)
    assert told["commit_token"].startswith("ct_")
    assert len(told["compose_hash"]) == 64
    token = told["commit_token"]
    api = f"https://cloud.example.org/api/v1/cvms/{cvm['vm_uuid']}/commit-update"
    assert body == {
        "error_code": "ERR-01-005",
        "message": "Compose hash registration required on-chain",
        "details": [
            {"field": "compose_hash", "value": told["compose_hash"]},
            {"field": "app_id", "value": cvm["app_id"]},
            {"field": "device_id", "value": f"0x{DEVICE}"},
            {"field": "kms_info", "value": kms_info(told["kms_info"])},
            {"field": "commit_token", "value": token},
            {"field": "commit_url", "value": f"https://cloud.example.org/commit/{token}"},
            {"field": "api_commit_url", "value": api},
            {
                "field": "onchain_status",
                "value": {"compose_hash_allowed": False, "device_id_allowed": True, "is_allowed": False},
            },
        ],
        "suggestions": ["Register the compose hash with addComposeHash, then commit"],
        "links": [],
        "request_id": body["request_id"],
    }
    assert await one.state("my-app") == before


async def test_deploy_cvm_id_as_the_cli_does(served: OnChain) -> None:
    cvm = await served.deploy()
    first = await served.call("PATCH", f"/cvms/{cvm['vm_uuid'].replace('-', '')}", V1, json=CHANGE)
    told = details(first)
    sent = served.chain.add_compose_hash(cvm["app_id"], told["compose_hash"])
    headers = {"X-Compose-Hash": told["compose_hash"], "X-Transaction-Hash": sent}
    done = await served.call("PATCH", f"/cvms/{cvm['id']}", V1, headers, json={})
    assert (done.status_code, done.json()["changed"]) == (200, ["docker_compose_file"])
    shown = await served.state("my-app")
    assert (shown["cvm"]["compose_hash"], shown["cvm"]["status"]) == (told["compose_hash"], "running")
    assert [one["operation_type"] for one in shown["revisions"]["revisions"]] == ["update_compose", "create"]
    again = await served.call("PATCH", f"/cvms/{cvm['id']}", V1, headers, json={})
    assert (again.status_code, again.json()["error_code"]) == (466, "ERR-01-006")


async def test_prepare_only_then_commit_with_the_token_alone(served: OnChain) -> None:
    cvm = await served.deploy()
    wanted = {"X-Prepare-Only": "true"}
    first = await served.call("PATCH", "/cvms/my-app", V1, wanted, json=CHANGE)
    told = details(first)
    served.chain.add_compose_hash(cvm["app_id"], told["compose_hash"])
    again = await served.call("PATCH", "/cvms/my-app", V1, wanted, json=CHANGE)
    assert again.status_code == 465  # asked to prepare only, nothing is applied though all is allowed
    newer = details(again)
    assert newer["onchain_status"] == {
        "compose_hash_allowed": True, "device_id_allowed": True, "is_allowed": True,
    }  # fmt: skip
    path = newer["api_commit_url"].removeprefix("https://cloud.example.org/api/v1")
    anonymous = served.cloud.client(None)
    body = {"token": newer["commit_token"], "compose_hash": "", "transaction_hash": ""}
    stale = await served.call("POST", path, json=body | {"token": told["commit_token"]}, client=anonymous)
    assert stale.json()["message"] == "A newer change was prepared since; its token counts"
    done = await served.call("POST", path, json=body, client=anonymous)
    assert (done.status_code, done.json()["changed"]) == (200, ["docker_compose_file"])
    twice = await served.call("POST", path, json=body, client=anonymous)
    assert (twice.status_code, twice.json()["message"]) == (466, "The commit token was used")


async def test_what_the_contract_allows_already_is_applied_at_once(one: OnChain) -> None:
    cvm = await one.deploy()
    told = details(await one.call("PATCH", "/cvms/my-app", json=CHANGE))
    one.chain.add_compose_hash(cvm["app_id"], told["compose_hash"])
    done = await one.call("PATCH", "/cvms/my-app", json=CHANGE)
    assert (done.status_code, done.json()["changed"]) == (200, ["docker_compose_file"])
    # Values of the environment, and sizes, are nothing that a contract decides over.
    asked = len(one.chain.asked)
    for body in ({"encrypted_env": BOX}, {"vcpu": 2}):
        assert (await one.call("PATCH", "/cvms/my-app", json=body)).status_code == 200
    assert len(one.chain.asked) == asked


async def test_envs_in_two_phases(served: OnChain) -> None:
    cvm = await served.deploy()
    body = {"encrypted_env": BOX, "env_keys": ["A"]}
    first = await served.call("PATCH", "/cvms/my-app/envs", json=body)
    assert first.status_code == 465
    told = details(first)
    sent = served.chain.add_compose_hash(cvm["app_id"], told["compose_hash"])
    second = {**body, "compose_hash": told["compose_hash"], "transaction_hash": sent}
    done = (await served.call("PATCH", "/cvms/my-app/envs", json=second)).json()
    assert done == {
        "status": "in_progress",
        "message": "Changed: allowed_envs, encrypted_env; the CVM is being updated",
        "correlation_id": done["correlation_id"],
        "changed": ["allowed_envs", "encrypted_env"],
        "allowed_envs_changed": True,
    }
    values = await served.call(
        "PATCH", "/cvms/my-app/envs", json={"encrypted_env": "cd" * 80, "env_keys": ["A"]}
    )
    assert (values.status_code, values.json()["allowed_envs_changed"]) == (200, False)


@pytest.mark.parametrize(
    ("path", "text", "changed"),
    [
        ("docker-compose", NEWER, "docker_compose_file"),
        ("pre-launch-script", "echo hi\n", "pre_launch_script"),
    ],
)
async def test_texts_in_two_phases(one: OnChain, path: str, text: str, changed: str) -> None:
    cvm = await one.deploy()
    first = await one.call("PATCH", f"/cvms/my-app/{path}", V2, TEXT, content=text)
    assert first.status_code == 465
    told = details(first)
    one.chain.add_compose_hash(cvm["app_id"], told["compose_hash"])
    proof = {"X-Compose-Hash": f"0x{told['compose_hash']}", "X-Transaction-Hash": "already-registered"}
    done = await one.call("PATCH", f"/cvms/my-app/{path}", V2, {**TEXT, **proof}, content=text)
    assert (done.status_code, done.json()["status"], done.json()["changed"]) == (
        200,
        "in_progress",
        [changed],
    )


async def test_visibility_in_two_phases(one: OnChain) -> None:
    cvm = await one.deploy()
    first = await one.call(
        "PATCH", "/cvms/my-app/visibility", json={"public_sysinfo": False, "public_logs": False}
    )
    assert first.status_code == 465
    told = details(first)
    one.chain.add_compose_hash(cvm["app_id"], told["compose_hash"])
    body = {"token": told["commit_token"]}
    assert (await one.call("POST", "/cvms/my-app/commit-update", json=body)).status_code == 200


async def test_a_whole_compose_file(one: OnChain) -> None:
    cvm = await one.deploy()
    path = "/cvms/my-app/compose_file"
    found = (await one.call("POST", f"{path}/provision", json={"docker_compose_file": NEWER})).json()
    assert found == {
        "app_id": cvm["app_id"],
        "device_id": DEVICE,
        "compose_hash": new_compose({"docker_compose_file": NEWER}).compose_hash,
        "kms_info": kms_info(found["kms_info"]),
        "compose_hash_registered": False,
    }
    body = {"compose_hash": found["compose_hash"], "encrypted_env": BOX}
    early = await one.call("PATCH", path, json=body)
    assert (early.status_code, early.json()["error_code"]) == (468, "ERR-01-008")
    one.chain.add_compose_hash(cvm["app_id"], found["compose_hash"])
    again = (await one.call("POST", f"{path}/provision", json={"docker_compose_file": NEWER})).json()
    assert again["compose_hash_registered"] is True
    assert (await one.call("PATCH", path, json=body)).status_code == 200


async def prepared(one: OnChain) -> tuple[dict[str, Any], dict[str, Any]]:
    """A CVM, and what its prepared change was answered."""
    cvm = await one.deploy()
    return cvm, details(await one.call("PATCH", "/cvms/my-app", json=CHANGE))


@pytest.mark.parametrize(
    ("token", "compose_hash", "message"),
    [
        ("ct_" + "00" * 16, "", "The commit token is unknown"),
        ("", "", "The commit token is unknown"),
        (None, "00" * 32, "The compose hash is not the one that the token was made for"),
        (None, "0x", "The compose hash is not the one that the token was made for"),
    ],
)
async def test_466(one: OnChain, token: str | None, compose_hash: str, message: str) -> None:
    cvm, told = await prepared(one)
    one.chain.add_compose_hash(cvm["app_id"], told["compose_hash"])
    before = await one.state("my-app")
    body = {"token": told["commit_token"] if token is None else token, "compose_hash": compose_hash}
    refused = await one.call("POST", "/cvms/my-app/commit-update", json=body)
    assert refused.status_code == 466
    assert refused.json() == {
        "error_code": "ERR-01-006", "message": message, "details": [],
        "suggestions": ["Prepare the change again from the beginning"], "links": [],
        "request_id": refused.json()["request_id"],
    }  # fmt: skip
    assert await one.state("my-app") == before


async def test_a_token_of_another_cvm_is_refused_and_stays(one: OnChain) -> None:
    cvm, told = await prepared(one)
    other = await one.deploy("other-app")
    one.chain.add_compose_hash(cvm["app_id"], told["compose_hash"])
    body = {"token": told["commit_token"]}
    wrong = await one.call("POST", f"/cvms/{other['vm_uuid']}/commit-update", json=body)
    assert (wrong.status_code, wrong.json()["error_code"]) == (404, "ERR-03-001")
    assert (await one.call("POST", "/cvms/my-app/commit-update", json=body)).status_code == 200


async def test_fourteen_days(one: OnChain) -> None:
    cvm, told = await prepared(one)
    one.chain.add_compose_hash(cvm["app_id"], told["compose_hash"])
    one.cloud.clock.advance(timedelta(days=14))
    refused = await one.call("POST", "/cvms/my-app/commit-update", json={"token": told["commit_token"]})
    assert (refused.status_code, refused.json()["message"]) == (466, "The commit token's 14 days are over")
    headers = {"X-Compose-Hash": told["compose_hash"]}
    assert (await one.call("PATCH", "/cvms/my-app", V1, headers, json={})).status_code == 466


async def test_a_compose_file_that_changed_meanwhile(one: OnChain) -> None:
    cvm, told = await prepared(one)
    flags = {"public_logs": False}
    hidden = details(await one.call("PATCH", "/cvms/my-app", V1, {"X-Prepare-Only": "true"}, json=flags))
    # The newer change superseded the first; it is committed, and the first is prepared anew over an older file.
    for told_hash in (told["compose_hash"], hidden["compose_hash"]):
        one.chain.add_compose_hash(cvm["app_id"], told_hash)
    third = details(
        await one.call(
            "PATCH", "/cvms/my-app", V1, {"X-Prepare-Only": "true"}, json={"docker_compose_file": NEWER}
        )
    )
    assert (await one.call("PATCH", "/cvms/my-app", json=flags)).status_code == 200
    late = await one.call("POST", "/cvms/my-app/commit-update", json={"token": third["commit_token"]})
    assert (late.status_code, late.json()["error_code"]) == (466, "ERR-01-006")
    assert late.json()["message"] == "The stored compose file has changed since; prepare the change again"


async def test_467(one: OnChain) -> None:
    cvm, told = await prepared(one)
    app, wanted = cvm["app_id"], told["compose_hash"]
    stranger = one.chain.deploy("11" * 32)
    failed = one.chain.add_compose_hash(app, wanted, ok=False)
    other_hash = one.chain.add_compose_hash(app, "22" * 32)
    other_app = one.chain.add_compose_hash(stranger, wanted)
    right = one.chain.add_compose_hash(app, wanted)
    before = await one.state("my-app")
    body = {"token": told["commit_token"]}
    no_proof = "The transaction does not add this compose hash to the app's contract"
    for sent, message in (
        ("0xnonsense", "The transaction hash has 64 hex digits"),
        ("0x" + "ab" * 32, "The transaction is not known yet; try again"),
        (failed, "The transaction failed"),
        (other_hash, no_proof),
        (other_app, no_proof),
    ):
        refused = await one.call("POST", "/cvms/my-app/commit-update", json=body | {"transaction_hash": sent})
        assert (refused.status_code, refused.json()["error_code"]) == (467, "ERR-01-007"), sent
        assert refused.json()["message"] == message
    one.chain.confirmed = one.chain.number - 1
    early = await one.call("POST", "/cvms/my-app/commit-update", json=body | {"transaction_hash": right})
    assert early.json()["message"] == "The transaction is not confirmed yet; try again"
    assert await one.state("my-app") == before
    one.chain.confirmed = None
    done = await one.call("POST", "/cvms/my-app/commit-update", json=body | {"transaction_hash": right})
    assert done.status_code == 200


async def test_a_hash_removed_since_is_refused_in_spite_of_its_proof(one: OnChain) -> None:
    cvm, told = await prepared(one)
    sent = one.chain.add_compose_hash(cvm["app_id"], told["compose_hash"])
    one.chain.apps[cvm["app_id"]].hashes.discard(told["compose_hash"])
    one.chain.change()
    body = {"token": told["commit_token"], "transaction_hash": sent}
    refused = await one.call("POST", "/cvms/my-app/commit-update", json=body)
    assert refused.status_code == 468
    assert refused.json() == {
        "error_code": "ERR-01-008", "message": "The app's contract does not allow this compose hash",
        "details": [
            {
                "field": "compose_hash", "value": told["compose_hash"],
                "message": "not allowed by the app's contract",
            }
        ],
        "suggestions": ["Call addComposeHash, or addDevice, as the contract's owner, then try again"],
        "links": [], "request_id": refused.json()["request_id"],
    }  # fmt: skip


async def test_a_device_that_is_not_allowed_any_more(one: OnChain) -> None:
    cvm, told = await prepared(one)
    contract = one.chain.apps[cvm["app_id"]]
    contract.devices.clear()
    sent = one.chain.add_compose_hash(cvm["app_id"], told["compose_hash"])
    again = await one.call("PATCH", "/cvms/my-app", json=CHANGE)
    assert again.status_code == 465
    told = details(again)
    assert told["onchain_status"] == {
        "compose_hash_allowed": True, "device_id_allowed": False, "is_allowed": False,
    }  # fmt: skip
    body = {"token": told["commit_token"], "transaction_hash": sent}
    refused = await one.call("POST", "/cvms/my-app/commit-update", json=body)
    assert (refused.status_code, details(refused)) == (468, {"device_id": f"0x{DEVICE}"})
    contract.any_device = True
    one.chain.change()
    assert (await one.call("POST", "/cvms/my-app/commit-update", json=body)).status_code == 200


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("reverts", "The app's contract cannot be asked: the contract refused: found not today"),
        ("garbage", "The app's contract cannot be asked: a bool of a contract's answer: expected 0 or 1"),
        (
            "megabytes",
            "The app's contract cannot be asked: a bool of a contract: expected 32 bytes, found 1048576",
        ),
    ],
)
async def test_a_hostile_contract(one: OnChain, fault: str, message: str) -> None:
    cvm, told = await prepared(one)
    before = await one.state("my-app")
    one.chain.apps[cvm["app_id"]].fault = fault
    one.chain.change()
    for answer in (
        await one.call("PATCH", "/cvms/my-app", json={"public_logs": False}),
        await one.call("POST", "/cvms/my-app/commit-update", json={"token": told["commit_token"]}),
    ):
        assert (answer.status_code, answer.json()["error_code"]) == (468, "ERR-01-008")
        assert answer.json()["message"] == message
    assert await one.state("my-app") == before


@pytest.mark.parametrize("how", ["down", "slow", "unknown"])
async def test_a_chain_that_cannot_be_asked(tmp_path: Path, how: str) -> None:
    async with on_chain("sqlite", tmp_path, deadline=0.2) as one:
        cvm, told = await prepared(one)
        before = await one.state("my-app")
        if how == "unknown":
            made = one.cloud.parts.lifecycle
            assert made is not None
            made.gate = ChainGate(OnchainContracts({}), patience=0)
        else:
            setattr(one.chain, how, True)
        sent = one.chain.add_compose_hash(cvm["app_id"], told["compose_hash"])
        for answer in (
            await one.call("PATCH", "/cvms/my-app", json={"public_logs": False}),
            await one.call("POST", "/cvms/my-app/commit-update", json={"token": told["commit_token"]}),
            await one.call(
                "PATCH",
                "/cvms/my-app",
                V1,
                {"X-Compose-Hash": told["compose_hash"], "X-Transaction-Hash": sent},
            ),
        ):
            assert answer.status_code == 503, answer.text
            assert set(answer.json()) == {"detail", "request_id"}
        assert await one.state("my-app") == before
        if how != "unknown":
            setattr(one.chain, how, False)
            body = {"token": told["commit_token"], "transaction_hash": sent}
            assert (await one.call("POST", "/cvms/my-app/commit-update", json=body)).status_code == 200


async def test_without_any_chain_on_chain_apps_do_not_change(one: OnChain) -> None:
    await one.deploy()
    assert one.cloud.parts.lifecycle is not None
    one.cloud.parts.lifecycle.gate = OffChainGate()
    refused = await one.call("PATCH", "/cvms/my-app", json=CHANGE)
    assert refused.status_code == 503
    assert refused.json()["detail"].startswith(f"No way to chain {CHAIN}")
