"""A chain on real anvil: the official client, the commands, the authorisation API, hostile contracts."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.anvil import ChainUp, chain_up
from support.functional_support import run_js
from support.processes import started
from teehouse.chain import app, kms
from teehouse.chain import calls as abi
from teehouse.chain.app import AppQuestion
from teehouse.chain.calls import BootInfo
from teehouse.chain.deploy import created_address
from teehouse.chain.endpoint import Endpoint
from teehouse.chain.history import History, complete, deployments
from teehouse.chain.reader import Answer, Call
from teehouse.chain.rpc_reader import ReaderSettings, RpcReader, open_reader
from teehouse.chain.writer import RpcWriter, parse_key

COMPOSE, DEVICE, IMAGE = b"\xc0" * 32, b"\xde" * 32, b"\x05" * 32
# anvil's second account
STRANGER_KEY = "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"
UNAVAILABLE = {"isAllowed": False, "gatewayAppId": "", "reason": "authorization backend unavailable"}


@pytest.fixture(scope="module")
def chain() -> Iterator[ChainUp]:
    with chain_up() as running:
        yield running


def teehouse(*arguments: object, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "teehouse", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def contract(chain: ChainUp) -> bytes:
    return bytes.fromhex(chain.kms_contract[2:])


@asynccontextmanager
async def writer(chain: ChainUp) -> AsyncIterator[RpcWriter]:
    endpoint = Endpoint(chain.url)
    yield RpcWriter(endpoint, 31337, parse_key(chain.facts["deployer_private_key"]))
    await endpoint.aclose()


async def new_app(chain: ChainUp, *, compose: bytes = COMPOSE, device: bytes = DEVICE) -> bytes:
    """An app of the deployer's, by the factory."""
    async with writer(chain) as account:
        made = abi.DEPLOY_AND_REGISTER_APP(account.address, False, False, False, device, compose)
        receipt = await account.send(contract(chain), made)
    async with await open_reader([chain.url]) as reader:
        block = await reader.pinned()
        found = await deployments(reader, contract(chain), block, from_block=receipt.block_number)
    return next(one.app for one in found if one.transaction_hash == receipt.transaction_hash)


def test_the_official_client_does_all_it_does_on_chain(chain: ChainUp) -> None:  # onchain.md 6
    key = chain.facts["deployer_private_key"]
    answers = run_js("chain.mjs", chain.url, chain.kms_contract, key, STRANGER_KEY)
    deployed = answers["deployed"]
    assert deployed["appId"] == deployed["appAuthAddress"]
    assert deployed["deployer"].lower() == chain.facts["deployer"]
    assert len(set(answers["owners"])) == 1
    assert "No contract at 0x1212" in answers["noKms"]
    assert answers["checked"] == {
        "compose": True,
        "otherCompose": False,
        "device": True,
        "otherDevice": False,
    }
    assert answers["changed"] == {
        "prerequisites": {"allowAnyDevice": False, "deviceAllowed": True, "composeHashAllowed": True},
        "devices": {
            "appAddress": deployed["appId"],
            "owner": answers["owners"][0],
            "allowAnyDevice": False,
            "devices": ["0x" + "d1" * 32],
        },
    }
    assert answers["any"] == {
        "otherDevice": True,
        "prerequisites": {"allowAnyDevice": True, "deviceAllowed": True, "composeHashAllowed": False},
    }
    for check in ("compose", "device"):
        assert "is not the owner of contract" in answers["stranger"][check]
    for transaction in ("remove", "any"):
        assert "OwnableUnauthorizedAccount" in answers["stranger"][transaction]
    assert answers["safe"] == {
        "compose": True,
        "device": True,
        "prerequisites": answers["any"]["prerequisites"],
        "devices": {
            **answers["changed"]["devices"],
            "allowAnyDevice": True,
            "devices": ["0x" + "de" * 32, "0x" + "d1" * 32],
        },
    }
    refused = {name: told["refused"] for name, told in answers["safelyRefused"].items()}
    assert refused.pop("deploy") == answers["noKms"]
    assert {name: word.split("\n")[0] for name, word in refused.items()} == {
        name: word.split("\n")[0] for name, word in answers["stranger"].items()
    }
    # Our own reading of what the client did.
    shown = json.loads(teehouse("governance", "show", deployed["appId"], "--rpc-url", chain.url, "--json"))
    assert shown["compose_hashes"] == ["0x" + "c0" * 32, "0x" + "c1" * 32]
    assert (shown["device_ids"], shown["allow_any_device"]) == (["0x" + "d1" * 32], True)


async def test_every_way_of_reading_gives_the_same(chain: ChainUp) -> None:
    app_id = await new_app(chain)
    calls = [
        Call(app_id, abi.ALLOWED_DEVICE_IDS(DEVICE if number % 3 else number.to_bytes(32)))
        for number in range(200)
    ]
    expected = tuple(Answer(ok=True, data=bool(number % 3).to_bytes(32)) for number in range(200))
    async with await open_reader([chain.url]) as reader:
        (one,) = reader._readers
        block, answers = await reader.call_many(calls)
        assert answers == expected
        one._learn("batches", can=False)
        assert await reader.call_many(calls, block) == (block, expected)
        assert one._can("aggregate3") is True
        one._learn("aggregate3", can=False)
        assert await reader.call_many(calls, block) == (block, expected)


async def test_two_hundred_checks_in_a_tenth_of_a_second(chain: ChainUp) -> None:  # onchain.md 10
    app_id = await new_app(chain)
    questions = [AppQuestion(app_id, number.to_bytes(32), DEVICE) for number in range(200)]
    best = 60.0
    async with await open_reader([chain.url]) as reader:
        for _ in range(20):  # the machine may be busy with other tests
            began = time.perf_counter()
            _, found = await app.verdicts(reader, questions)
            best = min(best, time.perf_counter() - began)
            assert [one.error for one in found] == [""] * 200
    assert best < 0.1


HOSTILE = {
    "reverts": "60006000fd",
    "halts": "fe",
    "burns gas": "5b600056",
    "megabytes": "6207a1206000f3",
    "many megabytes": "623d09006000f3",
    "garbage": "60ff60005260206000f3",
    "nothing": "00",
}


@pytest.mark.parametrize("batches", [True, False])
async def test_hostile_contracts_spoil_nothing_but_their_own_answer(chain: ChainUp, batches: bool) -> None:
    endpoint = Endpoint(chain.url)
    places = {name: bytes([0xB0 + number]) * 20 for number, name in enumerate(HOSTILE)}
    for name, code in HOSTILE.items():
        await endpoint.ask("anvil_setCode", f"0x{places[name].hex()}", f"0x{code}")
    await endpoint.aclose()
    good = await new_app(chain)
    questions = [AppQuestion(place, COMPOSE, DEVICE) for place in (*places.values(), good)]
    began = time.monotonic()
    async with await open_reader([chain.url]) as reader:
        if not batches:
            reader._readers[0]._learn("batches", can=False)
        _, found = await app.verdicts(reader, questions)
    assert time.monotonic() - began < 8
    assert [bool(one.error) for one in found] == [True] * len(HOSTILE) + [False]
    assert [one.is_allowed for one in found] == [False] * len(HOSTILE) + [True]


async def test_the_factory_gives_the_addresses_of_the_rule(chain: ChainUp) -> None:  # onchain.md 4.4
    made = await new_app(chain)
    assert made in [created_address(contract(chain), nonce) for nonce in range(1, 100)]


def test_governance_from_the_command_line(chain: ChainUp, tmp_path: Path) -> None:
    app_id = asyncio.run(new_app(chain)).hex()
    options = ("--rpc-url", chain.url)
    running = tmp_path / "cvms.json"
    running.write_text(
        json.dumps([{"name": "web", "compose_hash": COMPOSE.hex(), "device_id": DEVICE.hex()}])
    )
    tried = teehouse(
        "governance", "dry-run", app_id, "remove-device", DEVICE.hex(), "--cvms", running, *options, code=10
    )
    assert "1 would be refused keys" in tried
    signed = (*options, "--key-file", chain.key_file)
    assert "✓ done in block" in teehouse("governance", "remove-device", app_id, DEVICE.hex(), *signed)
    assert "It is so already" in teehouse("governance", "remove-device", app_id, DEVICE.hex(), *signed)
    shown = json.loads(teehouse("governance", "show", app_id, "--json", *options))
    assert (shown["device_ids"], shown["changes"][-1]["enabled"]) == ([], False)
    stranger = tmp_path / "key"
    stranger.write_text(STRANGER_KEY)
    refused = teehouse(
        "governance", "allow-device", app_id, DEVICE.hex(), *options, "--key-file", stranger, code=10
    )
    assert "OwnableUnauthorizedAccount" in refused
    assert "nothing answers at this address" in teehouse("governance", "show", "11" * 20, *options, code=30)


def test_deployment_is_done_once(chain: ChainUp) -> None:
    arguments = ("chain", "deploy", "--rpc-url", chain.url, "--key-file", chain.key_file, "--json")
    again = json.loads(teehouse(*arguments))
    assert (again["done"], again["kms_contract"]) == ([], chain.kms_contract)
    image = json.loads(teehouse(*arguments, "--os-image", IMAGE.hex()))
    assert image["done"] == [f"OS image 0x{IMAGE.hex()}"]
    assert json.loads(teehouse(*arguments, "--os-image", IMAGE.hex()))["done"] == []


def boot_request(app_id: bytes, **changed: Any) -> dict[str, Any]:
    return {
        "teeVariant": "dstack-tdx",
        "mrAggregated": "a6" * 32,
        "osImageHash": IMAGE.hex(),
        "mrSystem": "55" * 32,
        "appId": app_id.hex(),
        "composeHash": COMPOSE.hex(),
        "instanceId": "",
        "deviceId": DEVICE.hex(),
        "keyProviderInfo": "",
        "tcbStatus": "UpToDate",
        "advisoryIds": [],
        **changed,
    }


def test_authorization_by_the_chain_over_http(tmp_path: Path) -> None:  # onchain.md 5, 10
    with chain_up(tmp_path) as chain:
        teehouse(
            "chain", "deploy", "--rpc-url", chain.url, "--key-file", chain.key_file, "--os-image", IMAGE.hex()
        )
        app_id = asyncio.run(new_app(chain))
        address = chain.url.removeprefix("http://")
        service = started(
            tmp_path / "auth.log",
            (
                "auth",
                "serve",
                "--backend",
                "chain",
                "--kms-contract",
                chain.kms_contract,
                "--tcp",
                "127.0.0.1:0",
            ),
            until="authorization by contract",
            environ={"ETH_RPC_URL": f"http://user:word@{address}/?key=hidden", "ETH_CHAIN_ID": "31337"},
        )
        try:
            with httpx.Client(base_url=service.url(), timeout=20) as client:

                def asked(**changed: Any) -> Any:
                    response = client.post("/bootAuth/app", json=boot_request(app_id, **changed))
                    assert response.status_code == 200
                    return response.json()

                about = client.get("/").json()
                assert about == {
                    "status": "ok",
                    "kmsContractAddr": chain.kms_contract,
                    "ethRpcUrl": chain.url,
                    "gatewayAppId": "",
                    "chainId": 31337,
                    "appAuthImplementation": chain.facts["app_implementation"],
                    "appImplementation": chain.facts["app_implementation"],
                }
                assert asked() == {"isAllowed": True, "reason": "", "gatewayAppId": ""}
                assert asked(composeHash="0x" + COMPOSE.hex())["isAllowed"]  # with 0x
                assert (
                    asked(composeHash="12")["reason"] == "Compose hash not allowed"
                )  # short: padded on the left
                assert asked(appId="12")["reason"] == "App not registered"
                advisories = ["INTEL-SA-" + "9" * 247] * 128
                assert asked(advisoryIds=advisories)["isAllowed"]
                for wrong in ({"composeHash": "00" * 33}, {"advisoryIds": ["x"] * 129}, {"appId": "00" * 21}):
                    assert client.post("/bootAuth/app", json=boot_request(app_id, **wrong)).status_code == 400

                revoke = ("governance", "remove-compose", app_id.hex(), COMPOSE.hex(), "--rpc-url", chain.url)
                teehouse(*revoke, "--key-file", chain.key_file)
                assert asked()["reason"] == "Compose hash not allowed"  # at the next request

                chain.process.popen.send_signal(2)
                chain.process.popen.wait(timeout=20)
                assert asked() == UNAVAILABLE
                assert client.get("/").status_code == 500
        finally:
            service.stop()
        assert not any(secret in service.output() for secret in ("hidden", "word"))
    assert chain.process.popen.returncode == 0


async def test_the_state_of_the_chain_is_kept(tmp_path: Path) -> None:
    with chain_up(tmp_path) as first:
        app_id = await new_app(first)
        async with await open_reader([first.url]) as reader:
            before = await reader.pinned()
    with chain_up(tmp_path) as second:
        assert second.facts["done"] == []
        assert second.kms_contract == first.kms_contract
        async with await open_reader([second.url]) as reader:
            question = AppQuestion(app_id, COMPOSE, DEVICE)
            assert (await app.verdicts(reader, [question], before))[1][0].is_allowed  # the block of that time
            async with writer(second) as account:
                await account.send(app_id, abi.REMOVE_COMPOSE_HASH(COMPOSE))
            assert (await app.verdicts(reader, [question], before))[1][0].is_allowed
            assert not (await app.verdicts(reader, [question]))[1][0].is_allowed
            history = await complete(reader, History(app_id), await reader.pinned())
            assert (history.compose_hashes, history.changes[-1].actor) == (frozenset(), account.address)
        boot = BootInfo(app_id, COMPOSE, bytes(20), DEVICE, bytes(32), bytes(32), IMAGE, "UpToDate", ())
        settings = ReaderSettings(confirmations=1)
        async with await open_reader([second.url], settings) as reader:
            confirmed = await kms.decide_app(reader, contract(second), boot)
            assert confirmed.reason == "OS image is not allowed"
            assert isinstance(reader, RpcReader)
