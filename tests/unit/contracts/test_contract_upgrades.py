"""Proxies, storage and upgrades of app and KMS (contracts/SPEC.md 1 and 7)."""

from collections.abc import Callable
from typing import Any

import pytest

from support.evm import (
    IMPLEMENTATION_SLOT,
    INITIALIZE_6,
    NEW_OWNER,
    OWNER,
    STRANGER,
    ZERO,
    Chain,
    Event,
    Halted,
    Reverted,
    calldata,
    error,
    events,
    keccak,
    reason,
    word,
)
from support.evm_code import burns_at_once, returns, returns_zeros, reverts
from teehouse.chain.artifacts import load

UPGRADE = "upgradeToAndCall(address,bytes)"
UUID = "proxiableUUID()"
ELSEWHERE = error("UUPSUnauthorizedCallContext()")
COMPOSE, DEVICE = b"\xc0" * 32, b"\xde" * 32
KINDS = ("app", "kms")


@pytest.fixture
def chain() -> Chain:
    return Chain()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def proxy(chain: Chain, kind: str) -> str:
    return chain.app() if kind == "app" else chain.kms()


def newer(chain: Chain, kind: str) -> str:
    """Another implementation of the same kind."""
    if kind == "app":
        return chain.deploy(load("DstackApp"))
    return chain.deploy(load("DstackKms"), chain.blueprint)


def implementation(chain: Chain, proxy: str) -> str:
    return f"0x{chain.storage(proxy, IMPLEMENTATION_SLOT):040x}"


def refused(action: Callable[[], Any]) -> bytes:
    with pytest.raises(Reverted) as caught:
        action()
    return caught.value.data


def ownership(chain: Chain, proxy: str) -> tuple[str, str]:
    (owner,), (pending,) = (
        chain.read(proxy, f"{name}()", [], "(address)") for name in ("owner", "pendingOwner")
    )
    return owner, pending


# The proxy itself


@pytest.mark.parametrize("name", ["Proxy", "KmsProxy"])
def test_a_proxy_stands_before_code_alone(chain: Chain, name: str) -> None:
    expected = error("ERC1967InvalidImplementation(address)", STRANGER)
    assert refused(lambda: chain.deploy(load(name), STRANGER, b"")) == expected


@pytest.mark.parametrize("name", ["Proxy", "KmsProxy"])
def test_a_proxy_takes_ether_only_for_its_initialiser(chain: Chain, name: str) -> None:
    code = chain.deploy(returns(b""))
    assert refused(lambda: chain.deploy(load(name), code, b"", value=1)) == error("ERC1967NonPayable()")
    proxy = chain.deploy(load(name), code, b"data", value=1)
    assert chain.evm.get_balance(proxy) == 1


@pytest.mark.parametrize("name", ["Proxy", "KmsProxy"])
def test_an_initialiser_that_fails_fails_the_deployment_with_its_error(chain: Chain, name: str) -> None:
    wordy, silent = chain.deploy(reverts(reason("no"))), chain.deploy(reverts(b""))
    assert refused(lambda: chain.deploy(load(name), wordy, b"data")) == reason("no")
    assert refused(lambda: chain.deploy(load(name), silent, b"data")) == error("FailedCall()")


@pytest.mark.parametrize(
    ("name", "data", "longest"),
    [("Proxy", b"1234", 4096), ("KmsProxy", b"1234", 98304), ("KmsProxy", b"12345", 4096)],
)
def test_answers_pass_a_proxy_unchanged_up_to_its_bound(
    chain: Chain, name: str, data: bytes, longest: int
) -> None:
    for size in (0, 1, 31, 32, 4095, 4096):
        answer = bytes(index * 7 % 251 for index in range(size))
        proxy = chain.deploy(load(name), chain.deploy(returns(answer)), b"")
        assert chain.eth_call(proxy, data) == answer
    for size in (longest - 1, longest, longest + 1):
        proxy = chain.deploy(load(name), chain.deploy(returns_zeros(size)), b"")
        assert chain.eth_call(proxy, data) == bytes(min(size, longest))


@pytest.mark.parametrize("name", ["Proxy", "KmsProxy"])
@pytest.mark.parametrize("data", [b"", b"1234", b"12345"])
def test_errors_pass_a_proxy_unchanged(chain: Chain, name: str, data: bytes) -> None:
    for text in (b"", b"\x01", b"e" * 20_000):
        proxy = chain.deploy(load(name), chain.deploy(reverts(text)), b"")
        assert refused(lambda at=proxy: chain.eth_call(at, data)) == text


@pytest.mark.parametrize("name", ["Proxy", "KmsProxy"])
def test_a_call_to_a_proxy_may_carry_ether_where_the_implementation_takes_it(chain: Chain, name: str) -> None:
    proxy = chain.deploy(load(name), chain.deploy(returns(b"")), b"")
    chain.transact(proxy, b"", value=7)
    assert chain.evm.get_balance(proxy) == 7


# Storage


def test_owner_initialisation_and_implementation_are_in_their_namespaces(chain: Chain, proxy: str) -> None:
    chain.send(proxy, "transferOwnership(address)", [NEW_OWNER])

    def at(name: str) -> int:
        number = int.from_bytes(keccak(name.encode())) - 1
        return chain.storage(proxy, int.from_bytes(keccak(word(number))) & ~0xFF)

    assert int.from_bytes(keccak(b"eip1967.proxy.implementation")) - 1 == IMPLEMENTATION_SLOT
    assert at("openzeppelin.storage.Ownable") == int(OWNER, 16)
    assert at("openzeppelin.storage.Ownable2Step") == int(NEW_OWNER, 16)
    assert at("openzeppelin.storage.Initializable") == 1
    assert chain.code(implementation(chain, proxy))


def test_the_apps_variables_are_in_their_slots(chain: Chain) -> None:
    app = chain.app(disable_upgrades=True, device=DEVICE, compose_hash=COMPOSE)
    assert [chain.storage(app, slot) for slot in range(5)] == [0, 1, 0, 0, 0]
    chain.send(app, "setAllowAnyDevice(bool)", [True])
    assert [chain.storage(app, slot) for slot in range(5)] == [0, 1, 0, 0, 1]
    chain.send(app, "setRequireTcbUpToDate(bool)", [True])
    assert [chain.storage(app, slot) for slot in range(5)] == [0, 1, 0, 1, 1]
    for slot, key in ((0, COMPOSE), (2, DEVICE)):  # Vyper hashes slot and key in this order
        assert chain.storage(app, int.from_bytes(keccak(word(slot) + key))) == 1


def test_the_kms_variables_are_in_their_slots(chain: Chain) -> None:
    kms = chain.kms()
    chain.send(kms, "registerApp(address)", [STRANGER])
    chain.send(kms, "setGatewayAppId(string)", ["gateway"])
    chain.send(kms, "setKmsInfo((bytes,bytes,bytes,bytes))", [(b"k" * 33, b"c", b"q", b"e")])
    keys = {6: b"\x06" * 32, 7: b"\x07" * 32, 8: b"\x08" * 32}
    for slot, add in ((6, "addKmsAggregatedMr"), (7, "addKmsDevice"), (8, "addOsImageHash")):
        chain.send(kms, f"{add}(bytes32)", [keys[slot]])
    assert [chain.storage(kms, slot) for slot in range(10)] == [0] * 9 + [int(chain.app_implementation, 16)]
    for slot, key in ((5, word(STRANGER)), *keys.items()):
        assert chain.storage(kms, int.from_bytes(keccak(word(slot) + key))) == 1

    def base(name: str) -> int:
        return int.from_bytes(keccak(word(int.from_bytes(keccak(name)) - 1))) & ~0xFF

    info = base(b"teehouse.kms.info")
    sizes = [0, 17, 34, 34 + 513]  # each value is its length and its words
    assert [chain.storage(kms, info + at) for at in sizes] == [33, 1, 1, 1]
    assert chain.storage(kms, base(b"teehouse.kms.gateway-app-id")) == len("gateway")


# Upgrades


def test_an_upgrade_changes_the_code_and_nothing_else(chain: Chain, kind: str, proxy: str) -> None:
    chain.send(proxy, "transferOwnership(address)", [NEW_OWNER])
    add, getter = (
        ("addDevice", "allowedDeviceIds") if kind == "app" else ("addKmsDevice", "kmsAllowedDeviceIds")
    )
    chain.send(proxy, f"{add}(bytes32)", [DEVICE])
    target = newer(chain, kind)
    receipt = chain.send(proxy, UPGRADE, [target, b""])
    assert implementation(chain, proxy) == target
    assert ownership(chain, proxy) == (OWNER, NEW_OWNER)
    assert chain.read(proxy, f"{getter}(bytes32)", [DEVICE], "(bool)") == (True,)
    assert events(receipt.logs) == [
        Event(proxy, "PolicyChanged", (OWNER, keccak(b"implementation-upgrade"), word(target), True)),
        Event(proxy, "Upgraded", (target,)),
    ]
    assert receipt.logs[1].topics == (keccak(b"Upgraded(address)"), word(target))
    assert chain.send(proxy, UPGRADE, [newer(chain, kind), b""]).logs


def test_an_upgrade_may_call_the_new_code_in_the_same_transaction(
    chain: Chain, kind: str, proxy: str
) -> None:
    add, getter = (
        ("addDevice", "allowedDeviceIds") if kind == "app" else ("addKmsDevice", "kmsAllowedDeviceIds")
    )
    target = newer(chain, kind)
    receipt = chain.send(proxy, UPGRADE, [target, calldata(f"{add}(bytes32)", [DEVICE])])
    assert chain.read(proxy, f"{getter}(bytes32)", [DEVICE], "(bool)") == (True,)
    assert [found.name for found in events(receipt.logs)][:2] == ["PolicyChanged", "Upgraded"]
    assert {found.address for found in events(receipt.logs)} == {proxy}


def test_a_call_that_fails_undoes_the_upgrade_and_tells_why(chain: Chain, kind: str, proxy: str) -> None:
    before, target = implementation(chain, proxy), newer(chain, kind)
    again = calldata("initialize(address,address)", [STRANGER, ZERO])
    if kind == "app":
        again = calldata(INITIALIZE_6, [STRANGER, False, False, True, DEVICE, COMPOSE])
    assert refused(lambda: chain.send(proxy, UPGRADE, [target, again])) == error("InvalidInitialization()")
    assert refused(lambda: chain.send(proxy, UPGRADE, [target, b"none"])) == error("FailedCall()")
    assert implementation(chain, proxy) == before


def test_an_upgrade_is_the_owners_alone(chain: Chain, kind: str, proxy: str) -> None:
    target = newer(chain, kind)
    chain.send(proxy, "transferOwnership(address)", [NEW_OWNER])
    for sender in (STRANGER, NEW_OWNER):
        expected = error("OwnableUnauthorizedAccount(address)", sender)
        assert refused(lambda by=sender: chain.send(proxy, UPGRADE, [target, b""], sender=by)) == expected


def test_an_upgrade_with_ether_needs_a_call(chain: Chain, kind: str, proxy: str) -> None:
    target = newer(chain, kind)
    assert refused(lambda: chain.send(proxy, UPGRADE, [target, b""], value=1)) == error("ERC1967NonPayable()")
    assert chain.evm.get_balance(proxy) == 0


def test_an_implementation_cannot_be_upgraded_itself(chain: Chain, kind: str, proxy: str) -> None:
    target, own = newer(chain, kind), implementation(chain, proxy)
    assert refused(lambda: chain.send(own, UPGRADE, [target, b""])) == ELSEWHERE
    assert refused(lambda: chain.send(own, UPGRADE, [target, b""], sender=STRANGER)) == ELSEWHERE


def test_an_upgrade_is_refused_where_the_proxy_names_other_code(chain: Chain, kind: str, proxy: str) -> None:
    # An EIP-1167 clone runs the code but names no implementation.
    own = implementation(chain, proxy)
    clone = bytes.fromhex(
        "3d602d80600a3d3981f3363d3d373d3d3d363d73" + own[2:] + "5af43d82803e903d91602b57fd5bf3"
    )
    at = chain.deploy(clone)
    assert refused(lambda: chain.send(at, UPGRADE, [newer(chain, kind), b""])) == ELSEWHERE
    assert refused(lambda: chain.read(at, UUID, [], "(bytes32)")) == ELSEWHERE


def test_only_an_implementation_names_its_slot(chain: Chain, proxy: str) -> None:
    own = implementation(chain, proxy)
    assert chain.read(own, UUID, [], "(bytes32)") == (word(IMPLEMENTATION_SLOT),)
    assert refused(lambda: chain.read(proxy, UUID, [], "(bytes32)")) == ELSEWHERE


@pytest.mark.parametrize(
    "code",
    [returns(b""), returns(bytes(31)), reverts(reason("no")), burns_at_once(), None],
    ids=["nothing", "short", "reverts", "burns", "no code"],
)
def test_code_that_names_no_slot_is_refused(chain: Chain, proxy: str, code: bytes | None) -> None:
    target = STRANGER if code is None else chain.deploy(code)
    expected = error("ERC1967InvalidImplementation(address)", target)
    assert refused(lambda: chain.send(proxy, UPGRADE, [target, b""])) == expected


def test_a_proxy_is_refused_as_an_implementation(chain: Chain, kind: str, proxy: str) -> None:
    other = chain.deploy(load("Proxy"), newer(chain, kind), b"")
    for target in (proxy, other):
        expected = error("ERC1967InvalidImplementation(address)", target)
        assert refused(lambda at=target: chain.send(proxy, UPGRADE, [at, b""])) == expected


def test_code_of_another_slot_is_refused(chain: Chain, proxy: str) -> None:
    target = chain.deploy(returns(word(1)))
    expected = error("UUPSUnsupportedProxiableUUID(bytes32)", word(1))
    assert refused(lambda: chain.send(proxy, UPGRADE, [target, b""])) == expected


def test_a_longer_call_with_an_upgrade_reverts(chain: Chain, kind: str, proxy: str) -> None:
    target = newer(chain, kind)
    fits = calldata("addDevice(bytes32)" if kind == "app" else "addKmsDevice(bytes32)", [DEVICE]).ljust(
        4096, b"\0"
    )
    assert refused(lambda: chain.send(proxy, UPGRADE, [target, fits + b"\0"])) == b""
    assert chain.send(proxy, UPGRADE, [target, fits]).logs


def test_disabled_upgrades_stay_disabled(chain: Chain) -> None:
    app = chain.app()
    target = newer(chain, "app")
    assert chain.read(app, "upgradesDisabled()", [], "(bool)") == (False,)
    assert events(chain.send(app, "disableUpgrades()").logs) == [
        Event(app, "UpgradesDisabled", ()),
        Event(app, "PolicyChanged", (OWNER, keccak(b"upgrades-disabled"), bytes(32), True)),
    ]
    assert chain.read(app, "upgradesDisabled()", [], "(bool)") == (True,)
    expected = reason("Upgrades are permanently disabled")
    assert refused(lambda: chain.send(app, UPGRADE, [target, b""])) == expected
    chain.send(app, "transferOwnership(address)", [NEW_OWNER])
    chain.send(app, "acceptOwnership()", sender=NEW_OWNER)
    assert refused(lambda: chain.send(app, UPGRADE, [target, b""], sender=NEW_OWNER)) == expected


def test_an_app_born_without_upgrades_has_none(chain: Chain) -> None:
    app = chain.app(disable_upgrades=True)
    expected = reason("Upgrades are permanently disabled")
    assert refused(lambda: chain.send(app, UPGRADE, [newer(chain, "app"), b""])) == expected


def test_an_upgrade_may_be_the_last(chain: Chain) -> None:
    app = chain.app()
    target = newer(chain, "app")
    chain.send(app, UPGRADE, [target, calldata("disableUpgrades()")])
    assert implementation(chain, app) == target
    assert refused(lambda: chain.send(app, UPGRADE, [newer(chain, "app"), b""])) == reason(
        "Upgrades are permanently disabled"
    )


def test_an_upgrade_out_of_gas_is_none(chain: Chain, kind: str, proxy: str) -> None:
    before, target = implementation(chain, proxy), newer(chain, kind)
    outcomes = set()
    for gas in range(24_000, 60_000, 500):
        try:
            chain.send(proxy, UPGRADE, [target, b""], gas=gas)
        except (Reverted, Halted):
            outcomes.add("refused")
            assert implementation(chain, proxy) == before
        else:
            outcomes.add("upgraded")
            assert implementation(chain, proxy) == target
            chain.send(proxy, UPGRADE, [before, b""])
    assert outcomes == {"refused", "upgraded"}
