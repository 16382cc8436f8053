"""What contracts allow, read from a chain in memory by the reader of the control plane (cloud-api.md 11.8 to 11.10)."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from support.cloud_inventory_support import DEVICE, IMAGE
from support.cloud_onchain_support import (
    CHAIN,
    GATEWAY,
    KMS,
    META,
    OTHER_DEVICE,
    V2,
    V4,
    VERSIONS,
    Contract,
    OnChain,
    ScriptedChain,
    on_chain,
)
from support.cloud_read_support import conforms
from teehouse.base.findings import CollateralError
from teehouse.chain import calls as abi
from teehouse.chain.reader import Call
from teehouse.cloud.allowlists import block_cache
from teehouse.cloud.allowlists.block_cache import BlockCache
from teehouse.cloud.allowlists.chain_gate import ChainGate
from teehouse.cloud.allowlists.gate import GatedApp, OffChainGate, OnchainStatus
from teehouse.cloud.allowlists.onchain import OnchainContracts
from teehouse.cloud.allowlists.services import ContractState, KmsContractState, Question
from teehouse.cloud.errors import CloudError, ErrorCode
from teehouse.cloud.ids import Kind, encode
from teehouse.wire.cloud.allowlists import CvmsAllowed, DeviceAllowlist, IsAllowed
from teehouse.wire.cloud.kms import OnChainKms


@pytest.fixture(name="one")
async def _one(tmp_path: Path) -> AsyncIterator[OnChain]:
    async with on_chain("sqlite", tmp_path) as made:
        yield made


async def three(one: OnChain) -> tuple[str, list[dict[str, Any]]]:
    """An app with three CVMs: two on the first node, one on the other; its contract allows both devices."""
    found = await one.provision(node_id=min(one.nodes))
    app = one.chain.deploy(found["compose_hash"], DEVICE, OTHER_DEVICE)
    cvms = [dict((await one.commit(app, found)).json())]
    for node in sorted(one.nodes):
        copied = await one.call("POST", "/cvms/my-app/replicas", json={"node_id": node})
        assert copied.status_code == 200
        cvms.append(dict(copied.json()))
    return app, cvms


def named(number: int, version: str) -> int | str:
    return number if version in VERSIONS[:2] else encode(Kind.CVM, number)


@pytest.mark.parametrize("version", VERSIONS)
async def test_revoked_then_asked(one: OnChain, version: str) -> None:
    app, cvms = await three(one)
    contract = one.chain.apps[app]
    (digest,) = contract.hashes
    one.chain.asked.clear()
    one.chain.change()
    allowed = (await one.call("POST", f"/apps/{app}/cvms/is-allowed", version, json={})).json()

    def result(cvm: dict[str, Any], device: str, **differs: Any) -> dict[str, Any]:
        return {
            "cvm_id": named(cvm["id"], version), "app_contract_address": f"0x{app}",
            "compose_hash": f"0x{digest}", "device_id": f"0x{device}", "compose_hash_allowed": True,
            "allow_any_device": False, "device_id_allowed": True, "is_allowed": True, "error": None,
        } | differs  # fmt: skip

    devices = [DEVICE, DEVICE, OTHER_DEVICE]
    pairs = list(zip(cvms, devices, strict=True))
    assert allowed == {
        "is_onchain": True, "results": [result(*pair) for pair in pairs], "total": 3, "allowed_count": 3,
        "denied_count": 0, "error_count": 0, "skipped_cvm_ids": [],
    }  # fmt: skip
    conforms(CvmsAllowed, allowed)
    (asked,) = one.chain.asked  # one round trip, each question once
    assert len(asked) == 4
    contract.devices.discard(OTHER_DEVICE)
    one.chain.change()
    some = (await one.call("POST", f"/apps/{app}/cvms/is-allowed", version, json={})).json()
    assert some == allowed | {
        "results": [
            *allowed["results"][:2], result(*pairs[2], device_id_allowed=False, is_allowed=False),
        ],
        "allowed_count": 2, "denied_count": 1,
    }  # fmt: skip
    contract.hashes.clear()
    one.chain.change()
    none = (await one.call("POST", f"/apps/{app}/cvms/is-allowed", version, json={})).json()
    assert (none["allowed_count"], none["denied_count"], none["error_count"]) == (0, 3, 0)
    single = (await one.call("POST", f"/cvms/{cvms[0]['vm_uuid']}/is-allowed", version, json={})).json()
    assert single == result(cvms[0], DEVICE, compose_hash_allowed=False, is_allowed=False)
    conforms(IsAllowed, single)
    body = {"compose_hash": digest, "node_id": max(one.nodes)}
    of_app = (await one.call("POST", f"/apps/{app}/is-allowed", version, json=body)).json()
    expected = result(
        cvms[2], OTHER_DEVICE, compose_hash_allowed=False, device_id_allowed=False, is_allowed=False
    )
    del expected["cvm_id"]
    assert of_app == expected


async def test_the_same_block_is_asked_once(one: OnChain) -> None:
    app, _ = await three(one)
    one.chain.change()
    one.chain.asked.clear()
    for _ in range(3):
        assert (await one.call("POST", f"/apps/{app}/cvms/is-allowed", json={})).status_code == 200
        assert (await one.call("GET", f"/apps/{app}/device-allowlist")).status_code == 200
    assert len(one.chain.asked) == 1
    one.chain.change()
    await one.call("POST", f"/apps/{app}/cvms/is-allowed", json={})
    assert len(one.chain.asked) == 2


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("reverts", "the contract refused: found not today"),
        ("garbage", "a bool of a contract's answer: expected 0 or 1"),
        ("megabytes", "a bool of a contract: expected 32 bytes, found 1048576"),
        (
            "gone",
            "nothing answers at this address: expected a contract (check the address and the chain)",
        ),
        ("down", "the chain does not answer"),
        ("slow", f"Chain {CHAIN} did not answer within 0.3 seconds"),
        ("unknown", f"No way to chain {CHAIN}"),
    ],
)
async def test_faults_are_told_in_each_answer(tmp_path: Path, fault: str, error: str) -> None:
    async with on_chain("sqlite", tmp_path, deadline=0.3) as one:
        app, _ = await three(one)
        if fault in {"down", "slow"}:
            setattr(one.chain, fault, True)
        elif fault == "gone":
            del one.chain.apps[app]
        elif fault == "unknown":
            one.cloud.parts.contracts = OnchainContracts({})
        else:
            one.chain.apps[app].fault = fault
        one.chain.change()
        told = (await one.call("POST", f"/apps/{app}/cvms/is-allowed", json={})).json()
        assert (told["total"], told["allowed_count"], told["denied_count"], told["error_count"]) == (
            3,
            0,
            0,
            3,
        )
        assert {entry["error"] for entry in told["results"]} == {error}
        assert not any(entry["is_allowed"] for entry in told["results"])
        single = (await one.call("POST", "/cvms/my-app/is-allowed", json={})).json()
        assert (single["is_allowed"], single["error"]) == (False, error)
        listed = await one.call("GET", f"/apps/{app}/device-allowlist")
        assert listed.status_code == 200
        assert [device["status"] for device in listed.json()["devices"]] == ["unknown", "unknown"]
        assert listed.json()["allow_any_device"] is None


async def test_no_connection_is_held_while_a_chain_is_slow(tmp_path: Path) -> None:
    async with on_chain("sqlite", tmp_path, deadline=5) as one:
        app, _ = await three(one)
        one.chain.slow = True
        pool: Any = one.cloud.database.engine.pool
        waiting = [
            asyncio.ensure_future(one.call(*call, json={}))
            for call in (
                ("POST", f"/apps/{app}/cvms/is-allowed"),
                ("GET", f"/apps/{app}/device-allowlist"),
                ("POST", "/cvms/my-app/is-allowed"),
                ("GET", "/kms/on-chain/base"),
            )
        ]
        try:
            for _ in range(200):
                await asyncio.sleep(0.01)
                if one.chain.waiting == len(waiting):
                    break
            assert one.chain.waiting == len(waiting)
            assert pool.checkedout() == 0
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)


@pytest.mark.parametrize("version", VERSIONS)
async def test_devices_of_an_app(one: OnChain, version: str) -> None:
    found = await one.provision(node_id=min(one.nodes))
    app = one.chain.deploy(found["compose_hash"], DEVICE)
    cvm = (await one.commit(app, found)).json()
    own = {
        "device_id": f"0x{DEVICE}", "node_name": "prod5", "cvm_ids": [named(cvm["id"], version)],
        "allowed_onchain": True, "status": "allowed",
    }  # fmt: skip
    shown = {
        "is_onchain_kms": True, "allow_any_device": False, "chain_id": CHAIN,
        "app_contract_address": f"0x{app}", "devices": [own],
    }  # fmt: skip
    listed = (await one.call("GET", f"/apps/{app}/device-allowlist", version)).json()
    assert listed == shown
    conforms(DeviceAllowlist, listed)
    # A device that the owner adds is listed before any CVM runs there: it can be removed again.
    one.chain.apps[app].devices = {OTHER_DEVICE}
    one.chain.apps[app].any_device = True
    one.chain.change()
    other = {
        "device_id": f"0x{OTHER_DEVICE}", "node_name": "prod6", "cvm_ids": [], "allowed_onchain": True,
        "status": "allowed",
    }  # fmt: skip
    assert (await one.call("GET", f"/apps/{app}/device-allowlist", version)).json() == shown | {
        "allow_any_device": True,
        "devices": [own | {"allowed_onchain": False, "status": "not_allowed"}, other],
    }


async def test_an_off_chain_app_asks_nobody(one: OnChain) -> None:
    app, _ = await three(one)
    assert app in one.chain.apps
    gate = OffChainGate()
    off = GatedApp(app, "phala", None, None)
    assert await gate.status(off, "00" * 32, None) is None
    await gate.check_transaction(off, "00" * 32, "0x" + "00" * 32)
    real = ChainGate(OnchainContracts({}), patience=0)
    assert await real.status(off, "00" * 32, None) is None
    await real.check_transaction(off, "00" * 32, "no hash")
    with pytest.raises(CollateralError):
        await gate.check_transaction(GatedApp(app, "base", CHAIN, f"0x{app}"), "00" * 32, "")


@pytest.mark.parametrize("version", [V2, V4])
async def test_the_kms_of_a_chain(one: OnChain, version: str) -> None:
    one.chain.kms.devices.add(DEVICE)
    one.chain.kms.images.add("b3" * 32)
    shown = (await one.call("GET", "/kms/on-chain/base", version)).json()
    assert shown == {
        "chain_name": "base",
        "chain_id": CHAIN,
        "contracts": [
            {
                "contract_address": KMS, "chain_id": CHAIN, "chain_name": "base",
                "devices": [
                    {"device_id": f"0x{DEVICE}", "node_name": "prod5", "on_chain_allowed": True},
                    {"device_id": f"0x{OTHER_DEVICE}", "node_name": "prod6", "on_chain_allowed": False},
                ],
                "os_images": [
                    {"name": IMAGE, "version": "0.5.4", "os_image_hash": "b3" * 32, "on_chain_allowed": True}
                ],
                "k256_pubkey": META.k256_public_key.hex(), "ca_pubkey": META.kms_id.hex(),
                "gateway_contract_address": GATEWAY,
            }
        ],
    }  # fmt: skip
    conforms(OnChainKms, shown)
    assert len(one.chain.asked) == 1
    one.chain.down = True
    quiet = (await one.call("GET", "/kms/on-chain/base", version)).json()["contracts"][0]
    assert {entry["on_chain_allowed"] for entry in (*quiet["devices"], *quiet["os_images"])} == {None}
    one.cloud.parts.kms_contracts = None
    assert (await one.call("GET", "/kms/on-chain/base", version)).json()["contracts"] == [quiet]
    assert (await one.call("GET", "/kms/on-chain/ethereum", version)).json()["contracts"] == []


# The reader itself


APP = bytes.fromhex("ab" * 20)
ANY = Call(APP, abi.ALLOW_ANY_DEVICE())


async def test_a_cache_for_one_block() -> None:
    chain = ScriptedChain()
    chain.apps["ab" * 20] = Contract(any_device=True)
    cache = BlockCache(chain)
    assert cache.chain_id == CHAIN
    first, answers = await cache.call_many([ANY, ANY])
    assert [abi.decode_bool(answer.data) for answer in answers] == [True, True]
    assert chain.asked == [[ANY]]
    await cache.call_many([ANY], first)
    assert len(chain.asked) == 1
    chain.change()
    chain.apps["ab" * 20].any_device = False
    second, (answer,) = await cache.call_many([ANY])
    assert (second.number, abi.decode_bool(answer.data)) == (first.number + 1, False)
    await cache.call_many([ANY], first)  # an older block goes through, and is not kept
    chain.confirmed = 3  # an endpoint that is behind
    await cache.call_many([ANY])
    chain.confirmed = None
    await cache.call_many([ANY])
    assert len(chain.asked) == 4
    assert await cache.code(APP, second) == b"\x60"
    assert await cache.receipt(bytes(32)) is None
    with pytest.raises(AssertionError, match="no events"):
        await cache.logs(APP, [], 0, 1)
    await cache.aclose()
    assert chain.closed


async def test_refusals_and_long_answers_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = ScriptedChain()
    chain.apps["ab" * 20] = Contract(fault="reverts")
    cache = BlockCache(chain)
    for fault in ("reverts", "reverts", "megabytes", "megabytes"):
        chain.apps["ab" * 20].fault = fault
        await cache.call_many([ANY])
    assert len(chain.asked) == 4
    monkeypatch.setattr(block_cache, "ANSWERS_LIMIT", 0)
    chain.apps["ab" * 20].fault = ""
    await cache.call_many([ANY])
    await cache.call_many([ANY])
    assert len(chain.asked) == 6


async def test_contracts_of_several_chains() -> None:
    base, ethereum = ScriptedChain(), ScriptedChain(1)
    base.apps["ab" * 20] = Contract({"11" * 32}, {DEVICE})
    contracts = OnchainContracts({CHAIN: base, 1: ethereum})
    assert contracts.chain_ids == {CHAIN, 1}
    question = Question("11" * 32, "")
    (verdict,) = await contracts.ask(CHAIN, "0x" + "AB" * 20, [question])
    assert (verdict.compose_hash_allowed, verdict.device_allowed, verdict.allowed) == (True, None, False)
    (elsewhere,) = await contracts.ask(1, "0x" + "ab" * 20, [question])
    assert elsewhere.error is not None
    assert await contracts.devices(CHAIN, "0x" + "ab" * 20, [DEVICE]) == ContractState(False, {DEVICE: True})
    assert await contracts.kms(CHAIN, KMS, [], []) == KmsContractState()
    assert await contracts.kms(CHAIN, "0x" + "cd" * 20, [DEVICE], []) == KmsContractState()
    await contracts.aclose()
    assert base.closed
    assert ethereum.closed


# The gate itself


async def test_the_gate_without_device_and_without_kms() -> None:
    chain = ScriptedChain()
    chain.apps["ab" * 20] = Contract({"11" * 32}, any_device=True)
    gate = ChainGate(OnchainContracts({CHAIN: chain}), patience=0)
    app = GatedApp("ab" * 20, "base", CHAIN, "0x" + "ab" * 20)
    assert await gate.status(app, "11" * 32, None) == OnchainStatus(True, True)
    chain.change()
    chain.apps["ab" * 20].any_device = False
    assert await gate.status(app, "11" * 32, None) == OnchainStatus(True, False)
    with pytest.raises(CloudError) as caught:
        await gate.check_transaction(app, "11" * 32, "no hash")
    assert caught.value.code is ErrorCode.TX_VERIFICATION_FAILED


async def test_a_transaction_is_waited_for() -> None:
    chain = ScriptedChain()
    gate = ChainGate(OnchainContracts({CHAIN: chain}), patience=10, pause=0.01)
    app = GatedApp("ab" * 20, "base", CHAIN, "0x" + "ab" * 20)
    sent = chain.add_compose_hash("ab" * 20, "11" * 32)
    receipts, chain.receipts = chain.receipts, {}
    chain.confirmed = chain.number - 1
    waiting = asyncio.ensure_future(gate.check_transaction(app, "11" * 32, sent))
    await asyncio.sleep(0.05)
    chain.receipts = receipts  # the endpoint has it now, in a block that is not confirmed
    await asyncio.sleep(0.05)
    assert not waiting.done()
    chain.confirmed = None
    await asyncio.wait_for(waiting, 5)
