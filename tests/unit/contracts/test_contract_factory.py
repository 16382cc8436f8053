"""The factory and register of DstackKms (contracts/SPEC.md 6)."""

from typing import Any

import pytest

from support.evm import (
    DEPLOY_5,
    DEPLOY_6,
    NEW_OWNER,
    OWNER,
    STRANGER,
    ZERO,
    Chain,
    Event,
    Halted,
    Reverted,
    calldata,
    create_address,
    events,
    keccak,
    reason,
    word,
)
from support.evm_code import calls_back
from teehouse.chain.artifacts import load

COMPOSE, DEVICE = b"\xc0" * 32, b"\xde" * 32
SIX = [NEW_OWNER, True, True, False, DEVICE, COMPOSE]
FIVE = [NEW_OWNER, True, False, DEVICE, COMPOSE]


@pytest.fixture
def chain() -> Chain:
    return Chain()


@pytest.fixture
def kms(chain: Chain) -> str:
    return chain.kms()


def deployed(chain: Chain, kms: str, signature: str, arguments: list[Any], sender: str = OWNER) -> str:
    return "0x" + chain.send(kms, signature, arguments, sender=sender).output[12:].hex()


def registered(chain: Chain, kms: str, app: str) -> bool:
    return bool(chain.read(kms, "registeredApps(address)", [app], "(bool)")[0])


def policy(kms: str, actor: str, name: str, value: bytes, *, enabled: bool = True) -> Event:
    return Event(kms, "PolicyChanged", (actor, keccak(name.encode()), value, enabled))


def test_anyone_registers_any_app_but_zero(chain: Chain, kms: str) -> None:
    app = "0x" + "ee" * 20
    assert not registered(chain, kms, app)
    receipt = chain.send(kms, "registerApp(address)", [app], sender=STRANGER)
    assert registered(chain, kms, app)
    assert events(receipt.logs) == [
        Event(kms, "AppRegistered", (app,)),
        policy(kms, STRANGER, "registered-app", word(app)),
    ]
    assert receipt.logs[0].topics == (keccak(b"AppRegistered(address)"),)
    assert receipt.logs[0].data == word(app)
    with pytest.raises(Reverted) as refused:
        chain.send(kms, "registerApp(address)", [ZERO])
    assert refused.value.data == reason("Invalid app ID")


@pytest.mark.parametrize(
    ("signature", "arguments", "flags"),
    [(DEPLOY_6, SIX, (True, True, False)), (DEPLOY_5, FIVE, (True, False, False))],
    ids=["six", "five"],
)
def test_anyone_deploys_an_app_with_its_policy(
    chain: Chain, kms: str, signature: str, arguments: list[Any], flags: tuple[bool, ...]
) -> None:
    receipt = chain.send(kms, signature, arguments, sender=STRANGER)
    app = create_address(kms, 1)
    assert receipt.output == word(app)
    assert registered(chain, kms, app)
    getters = ("upgradesDisabled()", "requireTcbUpToDate()", "allowAnyDevice()")
    assert tuple(chain.read(app, getter, [], "(bool)")[0] for getter in getters) == flags
    assert chain.read(app, "owner()", [], "(address)") == (NEW_OWNER,)
    assert chain.read(app, "allowedComposeHashes(bytes32)", [COMPOSE], "(bool)") == (True,)
    assert chain.read(app, "allowedDeviceIds(bytes32)", [DEVICE], "(bool)") == (True,)
    assert chain.code(app) == load("Proxy").runtime
    found = events(receipt.logs)
    assert found[0] == Event(app, "Upgraded", (chain.app_implementation,))
    assert policy(app, kms, "compose-hash", COMPOSE) in found
    assert found[-3:] == [
        Event(kms, "AppRegistered", (app,)),
        policy(kms, STRANGER, "registered-app", word(app)),
        Event(kms, "AppDeployedViaFactory", (app, STRANGER)),
    ]
    assert receipt.logs[-1].topics == (
        keccak(b"AppDeployedViaFactory(address,address)"),
        word(app),
        word(STRANGER),
    )
    assert receipt.logs[-1].data == b""


@pytest.mark.parametrize(("signature", "arguments"), [(DEPLOY_6, SIX), (DEPLOY_5, FIVE)], ids=["six", "five"])
def test_the_factory_refuses_an_app_without_owner(
    chain: Chain, kms: str, signature: str, arguments: list[Any]
) -> None:
    with pytest.raises(Reverted) as refused:
        chain.send(kms, signature, [ZERO, *arguments[1:]])
    assert refused.value.data == reason("Invalid owner address")


def test_app_ids_follow_the_proxys_nonce_whoever_calls(chain: Chain, kms: str) -> None:
    calls = [
        (DEPLOY_6, SIX, OWNER),
        (DEPLOY_5, FIVE, STRANGER),
        (DEPLOY_5, FIVE, STRANGER),
        (DEPLOY_6, SIX, NEW_OWNER),
    ]
    made = [deployed(chain, kms, *call) for call in calls]
    assert made == [create_address(kms, nonce) for nonce in (1, 2, 3, 4)]


def test_a_failed_deployment_leaves_the_next_id_as_it_was(chain: Chain, kms: str) -> None:
    with pytest.raises(Reverted):
        chain.send(kms, DEPLOY_6, [ZERO, *SIX[1:]])
    assert deployed(chain, kms, DEPLOY_6, SIX) == create_address(kms, 1)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x86\x18",
        bytes.fromhex("ffffffff"),
        calldata(DEPLOY_5, FIVE)[:-1],
        calldata("other(address,bool,bool,bytes32,bytes32)", FIVE),
        calldata(DEPLOY_5, FIVE)[:36] + word(2) + bytes(96),
        calldata(DEPLOY_5, FIVE)[:4] + b"\xff" * 32 + bytes(128),
    ],
    ids=["nothing", "two bytes", "unknown", "short", "other name", "no boolean", "no address"],
)
def test_the_kms_answers_nothing_else(chain: Chain, kms: str, data: bytes) -> None:
    with pytest.raises(Reverted) as refused:
        chain.transact(kms, data)
    assert refused.value.data == b""


def test_an_app_under_construction_cannot_deploy_another(chain: Chain, kms: str) -> None:
    back = chain.deploy(calls_back(calldata(DEPLOY_5, FIVE)))
    chain.send(kms, "setAppImplementation(address)", [back])
    with pytest.raises(Reverted) as refused:
        chain.send(kms, DEPLOY_5, FIVE)
    assert refused.value.gas_used < 1_000_000  # by the lock, not by recursion without end
    harmless = chain.deploy(calls_back(calldata("registerApp(address)", [STRANGER])))
    chain.send(kms, "setAppImplementation(address)", [harmless])
    app = deployed(chain, kms, DEPLOY_5, FIVE)
    assert app == create_address(kms, 1)
    assert registered(chain, kms, app)


def test_the_blueprint_is_not_a_contract_to_call(chain: Chain, kms: str) -> None:
    assert chain.code(chain.blueprint) == load("ProxyBlueprint").runtime
    assert chain.code(chain.blueprint).startswith(bytes.fromhex("fe7100") + load("Proxy").bytecode[:16])
    with pytest.raises(Halted, match="InvalidFEOpcode"):
        chain.transact(chain.blueprint, b"")
