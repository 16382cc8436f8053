"""Deployments with an on-chain KMS: provision, the caller's contract, commit (cloud-api.md 12.7, 13.2, 16)."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from support.cloud_inventory_support import DEVICE
from support.cloud_life_support import BOX
from support.cloud_onchain_support import (
    CHAIN,
    GATEWAY,
    KMS,
    META,
    MULTICALL,
    OTHER_DEVICE,
    OWNER,
    RPC_URL,
    V1,
    V2,
    V3,
    VERSIONS,
    OnChain,
    details,
    on_chain,
    registered,
)
from teehouse.base.findings import MisuseError
from teehouse.base.hashes import keccak256
from teehouse.cloud.allowlists.chain_gate import ChainGate
from teehouse.cloud.allowlists.onchain import OnchainContracts
from teehouse.cloud.apps.models import App
from teehouse.cloud.inventory.models import KmsContract, KmsType
from teehouse.cloud.inventory.seeding import register_kms
from teehouse.cloud.nodes.models import NodeKms

CHAIN_SHOWN = {
    "id": CHAIN,
    "name": "Base",
    "nativeCurrency": {"name": "Ether", "symbol": "ETH", "decimals": 18},
    "rpcUrls": {"default": {"http": [RPC_URL]}},
    "contracts": {"multicall3": {"address": MULTICALL}},
}


@pytest.fixture(name="one")
async def _one(tmp_path: Path) -> AsyncIterator[OnChain]:
    async with on_chain("sqlite", tmp_path) as made:
        yield made


def checksummed(address: str) -> str:
    """The address as viem writes it, in upper and lower case (EIP-55)."""
    digest = keccak256(address.encode()).hex()
    letters = (
        digit.upper() if int(nibble, 16) > 7 else digit
        for digit, nibble in zip(address, digest[:40], strict=True)
    )
    return f"0x{''.join(letters)}"


@pytest.mark.parametrize("version", VERSIONS)
async def test_provision_tells_what_a_contract_needs(one: OnChain, version: str) -> None:
    found = await one.provision(version=version, node_id=min(one.nodes), prefer_dev=False)
    assert found == {
        "app_id": None,
        "app_env_encrypt_pubkey": None,
        "compose_hash": found["compose_hash"],
        "kms_info": {
            "id": found["kms_id"],
            "slug": "kms-base-prod5",
            "url": "https://kms.example.org:12001",
            "version": "v0.5.4",
            "chain_id": CHAIN,
            "kms_contract_address": KMS,
            "gateway_app_id": GATEWAY,
            "chain": CHAIN_SHOWN,
        },
        "fmspc": None,
        "device_id": DEVICE,
        "os_image_hash": "b3" * 32,
        "instance_type": "tdx.small",
        "teepod_id": min(one.nodes),
        "node_id": min(one.nodes),
        "kms_id": found["kms_id"],
    }
    assert one.chain.asked == []


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_deploy_as_the_cli_does(tmp_path: Path, kind: str) -> None:
    async with on_chain(kind, tmp_path) as one:
        found = await one.provision()
        app = one.chain.deploy(found["compose_hash"], found["device_id"])
        address = checksummed(app)
        key = await one.commit(app, found, app_id=address, contract_address=address, encrypted_env=BOX)
        assert key.status_code == 200, key.text
        made = key.json()
        assert {name: made[name] for name in ("app_id", "status", "app_auth_contract_address", "deployer_address")} == {
            "app_id": app, "status": "creating", "app_auth_contract_address": address, "deployer_address": OWNER,
        }  # fmt: skip
        assert len(one.chain.asked) == 1  # one round trip
        (spec,) = one.nodes[found["node_id"]].specs.values()
        assert spec.app_id == bytes.fromhex(app)
        # The same commit again gives the same CVM, whatever the contract says by now.
        one.chain.apps[app].hashes.clear()
        again = await one.commit(app, found, app_id=address, contract_address=address)
        assert again.json()["vm_uuid"] == made["vm_uuid"]
        shown = (await one.call("GET", "/cvms/my-app", V3)).json()
        assert shown["kms_type"] == "base"
        assert shown["kms_info"] == {
            "chain_id": CHAIN, "dstack_kms_address": KMS, "dstack_app_address": address,
            "deployer_address": OWNER, "rpc_endpoint": RPC_URL, "encrypted_env_pubkey": "e3" * 32,
            "k256_pubkey": META.k256_public_key.hex(),
        }  # fmt: skip
        detail = (await one.call("GET", "/cvms/my-app", V1)).json()
        assert detail["kms_info"]["chain"] == CHAIN_SHOWN
        assert detail["contract_address"] == address


async def test_the_first_contract_of_an_app_is_its_address(one: OnChain) -> None:
    found = await one.provision()
    app = one.chain.deploy(found["compose_hash"], any_device=True)
    done = await one.commit(app, found, kms_id=None, contract_address=None, deployer_address="")
    assert done.json()["app_auth_contract_address"] == f"0x{app}"
    assert done.json()["deployer_address"] is None


@pytest.mark.parametrize(
    ("given", "status", "code"),
    [
        ({"contract_address": "0x" + "77" * 20}, 400, "ERR-02-008"),
        ({"contract_address": "0x77"}, 400, "ERR-02-008"),
        ({"deployer_address": "0x" + "77" * 21}, 400, "ERR-02-008"),
        ({"app_id": None, "contract_address": None}, 400, "ERR-02-008"),
        ({"kms_id": "kms-unknown"}, 466, "ERR-01-006"),
    ],
)
async def test_commits_that_make_no_sense(
    one: OnChain, given: dict[str, Any], status: int, code: str
) -> None:
    found = await one.provision()
    app = one.chain.deploy(found["compose_hash"], any_device=True)
    refused = await one.commit(app, found, **given)
    assert (refused.status_code, refused.json()["error_code"]) == (status, code)
    assert (await one.call("GET", "/apps")).json()["total"] == 0
    assert (await one.commit(app, found)).status_code == 200


async def test_468_at_commit_names_what_is_missing(one: OnChain) -> None:
    found = await one.provision(node_id=min(one.nodes))
    app = one.chain.deploy("11" * 32, OTHER_DEVICE)
    contract = one.chain.apps[app]
    refused = await one.commit(app, found)
    assert (refused.status_code, details(refused)) == (
        468, {"compose_hash": found["compose_hash"], "device_id": f"0x{DEVICE}"},
    )  # fmt: skip
    assert refused.json()["message"] == "The app's contract does not allow this compose hash and device id"
    contract.hashes.add(found["compose_hash"])
    one.chain.change()
    assert details(await one.commit(app, found)) == {"device_id": f"0x{DEVICE}"}
    contract.devices.add(DEVICE)
    one.chain.kms.apps.clear()
    one.chain.change()
    unknown = await one.commit(app, found)
    assert (unknown.status_code, unknown.json()["message"]) == (
        468,
        "The KMS's contract does not know this app",
    )
    one.chain.kms.apps.add(app)
    one.chain.change()
    assert (await one.commit(app, found)).status_code == 200


async def test_no_contract_at_the_address(one: OnChain) -> None:
    found = await one.provision()
    refused = await one.commit("ab" * 20, found)
    assert (refused.status_code, refused.json()["error_code"]) == (468, "ERR-01-008")
    assert refused.json()["message"].startswith(
        "The app's contract cannot be asked: nothing answers at this address"
    )
    assert details(refused) == {"app_contract_address": "0x" + "ab" * 20}
    one.chain.down = True
    assert (await one.commit("ab" * 20, found)).status_code == 503


async def test_provisions_of_one_compose_hash_go_to_several_contracts_at_once(one: OnChain) -> None:  # T1
    found = [await one.provision(f"app-{number}", node_id=min(one.nodes)) for number in range(4)]
    assert len({each["compose_hash"] for each in found}) == 1
    apps = [one.chain.deploy(each["compose_hash"], each["device_id"]) for each in found]
    answers = await asyncio.gather(*(one.commit(*pair) for pair in zip(apps, found, strict=True)))
    assert [answer.status_code for answer in answers] == [200] * 4
    assert [answer.json()["app_id"] for answer in answers] == apps
    assert {answer.json()["name"] for answer in answers} == {f"app-{number}" for number in range(4)}
    fifth = await one.commit(one.chain.deploy(found[0]["compose_hash"], found[0]["device_id"]), found[0])
    assert (fifth.status_code, fifth.json()["error_code"]) == (466, "ERR-01-006")


async def test_an_app_id_of_another_workspace_is_no_app(one: OnChain) -> None:
    cvm = await one.deploy()
    other = await one.cloud.other("mallory")
    client = one.cloud.client(other.api_key)
    body = {
        "name": "their-app",
        "compose_file": {"docker_compose_file": cvm["docker_compose_file"]},
        "kms": "BASE",
    }
    found = (await one.call("POST", "/cvms/provision", V1, json=body, client=client)).json()
    one.chain.add_compose_hash(cvm["app_id"], found["compose_hash"])
    one.chain.apps[cvm["app_id"]].any_device = True
    stolen = await one.call(
        "POST", "/cvms", V1, client=client,
        json={"app_id": cvm["app_id"], "compose_hash": found["compose_hash"], "encrypted_env": BOX},
    )  # fmt: skip
    assert stolen.status_code == 404
    assert (await one.call("GET", "/apps", V2, client=client)).json()["total"] == 0


async def test_another_compose_hash_for_an_app_is_a_conflict(one: OnChain) -> None:
    cvm = await one.deploy()
    body = {"docker_compose_file": "services:\n  db:\n    image: postgres:17\n"}
    found = await one.provision("second-app", compose_file=body)
    one.chain.add_compose_hash(cvm["app_id"], found["compose_hash"])
    one.chain.apps[cvm["app_id"]].any_device = True
    refused = await one.commit(cvm["app_id"], found)
    assert (refused.status_code, refused.json()["error_code"]) == (409, "ERR-03-007")
    assert (await one.call("DELETE", "/cvms/my-app")).status_code == 200
    again = await one.commit(cvm["app_id"], found)
    assert (again.status_code, again.json()["app_id"]) == (200, cvm["app_id"])


async def test_app_ids_and_nonces_are_for_the_other_kms(one: OnChain) -> None:
    body = {
        "name": "my-app",
        "compose_file": {"docker_compose_file": "services: {a: {image: b}}"},
        "kms": "BASE",
    }
    for given in ({"app_id": "ab" * 20}, {"nonce": 1}, {"app_id": "ab" * 20, "nonce": 1}):
        refused = await one.call("POST", "/cvms/provision", V1, json=body | given)
        assert (refused.status_code, refused.json()["error_code"]) == (400, "ERR-02-009")
    ids = (await one.call("GET", "/kms/phala/next_app_id", V2, params={"counts": 2})).json()["app_ids"]
    assert [one["nonce"] for one in ids] == [ids[0]["nonce"], ids[0]["nonce"] + 1]


async def second_chain(one: OnChain) -> None:
    """Another KMS with the same contract address, on Ethereum, which all nodes may use."""
    async with one.cloud.database.write() as session:
        meta = replace(META, chain_id=1)
        kms = await register_kms(
            session, meta, url="https://kms-1.example.org", slug="kms-ethereum", version="v0.5.4",
            now=one.cloud.clock.now(),
        )  # fmt: skip
        session.add_all(NodeKms(node_id=number, kms_id=kms.id) for number in one.nodes)
        assert kms.kms_type == KmsType.ETHEREUM


async def test_the_kms_that_a_commit_names_is_the_provisions(one: OnChain) -> None:
    await second_chain(one)
    base = await one.provision()
    ethereum = await one.provision("other-app", kms="ETHEREUM")
    assert base["compose_hash"] == ethereum["compose_hash"]
    app = one.chain.deploy(base["compose_hash"], any_device=True)
    # The newest provision with this hash is for a chain that nobody here can ask: the named one counts.
    assert (await one.commit(app, base, kms_id=None)).status_code == 503
    for name in (base["kms_info"]["slug"], base["kms_id"], "BASE"):
        done = await one.commit(app, base, kms_id=name)
        assert (done.status_code, done.json()["name"]) == (200, "my-app")


async def test_an_app_stays_with_its_kms(one: OnChain) -> None:
    await second_chain(one)
    cvm = await one.deploy()
    assert (await one.call("DELETE", "/cvms/my-app")).status_code == 200
    found = await one.provision("other-app", kms="ETHEREUM")
    made = one.cloud.parts.lifecycle
    assert made is not None
    made.gate = ChainGate(OnchainContracts({1: one.chain}), patience=0)
    one.chain.apps[cvm["app_id"]].any_device = True
    refused = await one.commit(cvm["app_id"], found)
    assert (refused.status_code, refused.json()["error_code"]) == (400, "ERR-02-009")
    assert "kms-base-prod5" in refused.json()["message"]


async def test_registering_the_kms_again_brings_it_up_to_date(one: OnChain) -> None:
    meta = replace(META, kms_contract_address=KMS.lower(), gateway_app_id="any")
    async with one.cloud.database.write() as session:
        await register_kms(
            session, meta, url="https://kms.example.org", slug="kms-base-prod5", version="v0.5.5",
            now=one.cloud.clock.now(), rpc_url="https://other.example.org",
        )  # fmt: skip
    async with one.cloud.database.read() as session:
        (contract,) = (await session.scalars(select(KmsContract))).all()
        assert (await session.scalars(select(App))).all() == []
    assert (contract.contract_address, contract.rpc_url, contract.multicall_address) == (
        KMS, "https://other.example.org", None,
    )  # fmt: skip
    assert contract.gateway_contract_address is None
    shown = (await one.call("GET", "/kms/kms-base-prod5", V2)).json()
    assert shown["chain"] == CHAIN_SHOWN | {
        "rpcUrls": {"default": {"http": ["https://other.example.org"]}}, "contracts": {},
    }  # fmt: skip
    listed = (await one.call("GET", "/kms", V2, params={"is_onchain": "true"})).json()
    assert listed["items"] == [shown]


async def test_a_kms_contract_without_address_is_refused(one: OnChain) -> None:
    async with one.cloud.database.write() as session:
        with pytest.raises(MisuseError) as caught:
            await registered(session, replace(META, kms_contract_address="0x1234"))
    assert caught.value.finding.code == "cloud.kms-contract"
