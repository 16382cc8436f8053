"""DstackApp behind its proxy: first policy, decision, changes of policy (contracts/SPEC.md 2 and 3)."""

from typing import Any

import pytest
from eth_abi import encode

from support.evm import (
    BOOT_INFO,
    INITIALIZE_5,
    INITIALIZE_6,
    NEW_OWNER,
    OWNER,
    STRANGER,
    ZERO,
    Chain,
    Event,
    Reverted,
    boot_info,
    calldata,
    error,
    events,
    keccak,
    reason,
    word,
)
from teehouse.chain.artifacts import load

COMPOSE, DEVICE, OTHER, NONE = b"\xc0" * 32, b"\xde" * 32, b"\x07" * 32, bytes(32)
ASK = "isAppAllowed" + BOOT_INFO
TCB, HASH, MACHINE = "TCB status is not up to date", "Compose hash not allowed", "Device not allowed"
FLAGS = ("upgradesDisabled()", "requireTcbUpToDate()", "allowAnyDevice()")


@pytest.fixture
def chain() -> Chain:
    return Chain()


def asked(chain: Chain, app: str, **changed: Any) -> tuple[Any, ...]:
    return chain.read(app, ASK, [boot_info(app_id=app, **changed)], "(bool,string)")


def flag(chain: Chain, app: str, getter: str) -> bool:
    return bool(chain.read(app, getter, [], "(bool)")[0])


def listed(chain: Chain, app: str, getter: str, value: bytes) -> bool:
    return bool(chain.read(app, f"{getter}(bytes32)", [value], "(bool)")[0])


def policy(app: str, actor: str, name: str, value: bytes, *, enabled: bool) -> Event:
    return Event(app, "PolicyChanged", (actor, keccak(name.encode()), value, enabled))


# The first policy


@pytest.mark.parametrize(
    "flags", [(False, False, False), (True, False, True), (False, True, False), (True, True, True)]
)
def test_six_arguments_set_owner_and_policy(chain: Chain, flags: tuple[bool, bool, bool]) -> None:
    implementation = chain.deploy(load("DstackApp"))
    first = calldata(INITIALIZE_6, [NEW_OWNER, *flags, DEVICE, COMPOSE])
    app = chain.deploy(load("Proxy"), implementation, first)
    assert tuple(flag(chain, app, getter) for getter in FLAGS) == flags
    assert chain.read(app, "owner()", [], "(address)") == (NEW_OWNER,)
    assert chain.read(app, "pendingOwner()", [], "(address)") == (ZERO,)
    assert listed(chain, app, "allowedDeviceIds", DEVICE)
    assert listed(chain, app, "allowedComposeHashes", COMPOSE)
    assert not listed(chain, app, "allowedDeviceIds", COMPOSE)
    assert not listed(chain, app, "allowedComposeHashes", DEVICE)


@pytest.mark.parametrize("tail", [b"", b"\x01" * 33])
def test_five_arguments_leave_the_tcb_unrequired(chain: Chain, tail: bytes) -> None:
    implementation = chain.deploy(load("DstackApp"))
    first = calldata(INITIALIZE_5, [NEW_OWNER, True, True, DEVICE, COMPOSE])
    app = chain.deploy(load("Proxy"), implementation, first + tail)
    assert tuple(flag(chain, app, getter) for getter in FLAGS) == (True, False, True)
    assert chain.read(app, "owner()", [], "(address)") == (NEW_OWNER,)
    assert listed(chain, app, "allowedDeviceIds", DEVICE)
    assert listed(chain, app, "allowedComposeHashes", COMPOSE)


def test_a_zero_device_and_a_zero_compose_hash_are_no_entries(chain: Chain) -> None:
    app = chain.app()
    assert not listed(chain, app, "allowedDeviceIds", NONE)
    assert not listed(chain, app, "allowedComposeHashes", NONE)
    assert [found.name for found in events(chain.last.logs)] == [
        "Upgraded",
        "OwnershipTransferred",
        "Initialized",
    ]


def test_the_first_policy_is_logged_whole(chain: Chain) -> None:
    implementation = chain.deploy(load("DstackApp"))
    first = calldata(INITIALIZE_6, [NEW_OWNER, True, True, True, DEVICE, COMPOSE])
    app = chain.deploy(load("Proxy"), implementation, first, sender=STRANGER)
    assert events(chain.last.logs) == [
        Event(app, "Upgraded", (implementation,)),
        Event(app, "OwnershipTransferred", (ZERO, NEW_OWNER)),
        Event(app, "UpgradesDisabled", ()),
        policy(app, STRANGER, "upgrades-disabled", NONE, enabled=True),
        Event(app, "RequireTcbUpToDateSet", (True,)),
        policy(app, STRANGER, "require-tcb-up-to-date", NONE, enabled=True),
        Event(app, "AllowAnyDeviceSet", (True,)),
        policy(app, STRANGER, "allow-any-device", NONE, enabled=True),
        Event(app, "DeviceAdded", (DEVICE,)),
        policy(app, STRANGER, "device", DEVICE, enabled=True),
        Event(app, "ComposeHashAdded", (COMPOSE,)),
        policy(app, STRANGER, "compose-hash", COMPOSE, enabled=True),
        Event(app, "Initialized", (1,)),
    ]


@pytest.mark.parametrize(
    "again",
    [
        calldata(INITIALIZE_6, [STRANGER, False, False, True, DEVICE, COMPOSE]),
        calldata(INITIALIZE_5, [STRANGER, False, True, DEVICE, COMPOSE]),
    ],
    ids=["six", "five"],
)
def test_an_app_is_initialised_once_and_its_implementation_never(chain: Chain, again: bytes) -> None:
    app = chain.app(compose_hash=COMPOSE)
    implementation = chain.deploy(load("DstackApp"))
    assert events(chain.last.logs) == [Event(implementation, "Initialized", (2**64 - 1,))]
    for target in (app, implementation):
        with pytest.raises(Reverted) as refused:
            chain.transact(target, again, sender=STRANGER)
        assert refused.value.data == error("InvalidInitialization()")


@pytest.mark.parametrize(
    "first",
    [
        calldata(INITIALIZE_6, [ZERO, False, False, False, DEVICE, COMPOSE]),
        calldata(INITIALIZE_5, [ZERO, False, False, DEVICE, COMPOSE]),
    ],
    ids=["six", "five"],
)
def test_an_app_needs_an_owner(chain: Chain, first: bytes) -> None:
    implementation = chain.deploy(load("DstackApp"))
    with pytest.raises(Reverted) as refused:
        chain.deploy(load("Proxy"), implementation, first)
    assert refused.value.data == reason("invalid owner address")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01",
        bytes.fromhex("ffffffff"),
        calldata(INITIALIZE_5, [OWNER, False, False, DEVICE, COMPOSE])[:-1],
        calldata("other(address,bool,bool,bytes32,bytes32)", [OWNER, False, False, DEVICE, COMPOSE]),
        calldata(INITIALIZE_5, [OWNER, False, False, DEVICE, COMPOSE])[:36] + word(2) + bytes(96),
        calldata(INITIALIZE_5, [OWNER, False, False, DEVICE, COMPOSE])[:4] + b"\xff" * 32 + bytes(128),
    ],
    ids=["nothing", "one byte", "unknown", "short", "other name", "no boolean", "no address"],
)
def test_nothing_else_is_answered(chain: Chain, data: bytes) -> None:
    app = chain.app()
    implementation = chain.deploy(load("DstackApp"))
    for target in (app, implementation):
        with pytest.raises(Reverted) as refused:
            chain.transact(target, data)
        assert refused.value.data == b""


# The decision


@pytest.mark.parametrize(
    "status", ["", "uptodate", "UpToDate ", "UpToDat", "UpToDate\0", "OutOfDate", "U" * 128]
)
def test_tcb_must_be_up_to_date_where_that_is_required(chain: Chain, status: str) -> None:
    app = chain.app(require_up_to_date=True, compose_hash=COMPOSE, device=DEVICE)
    assert asked(chain, app, tcb_status=status) == (False, TCB)
    assert asked(chain, app) == (True, "")
    chain.send(app, "setRequireTcbUpToDate(bool)", [False])
    assert asked(chain, app, tcb_status=status) == (True, "")


def test_the_compose_hash_must_be_listed(chain: Chain) -> None:
    app = chain.app(compose_hash=COMPOSE, device=DEVICE)
    assert asked(chain, app, compose_hash=OTHER) == (False, HASH)
    assert asked(chain, app, compose_hash=NONE) == (False, HASH)
    assert asked(chain, app) == (True, "")


def test_the_device_must_be_listed_unless_any_is_allowed(chain: Chain) -> None:
    app = chain.app(compose_hash=COMPOSE, device=DEVICE)
    assert asked(chain, app, device_id=OTHER) == (False, MACHINE)
    chain.send(app, "setAllowAnyDevice(bool)", [True])
    assert asked(chain, app, device_id=OTHER) == (True, "")
    assert asked(chain, app, device_id=NONE) == (True, "")


def test_the_first_reason_is_given(chain: Chain) -> None:
    app = chain.app(require_up_to_date=True)
    assert asked(chain, app, tcb_status="Revoked") == (False, TCB)
    assert asked(chain, app) == (False, HASH)
    chain.send(app, "addComposeHash(bytes32)", [COMPOSE])
    assert asked(chain, app) == (False, MACHINE)
    chain.send(app, "addDevice(bytes32)", [DEVICE])
    assert asked(chain, app) == (True, "")


def test_the_rest_of_the_boot_info_is_not_looked_at(chain: Chain) -> None:
    app = chain.app(compose_hash=COMPOSE, device=DEVICE)
    info = boot_info(
        app_id=STRANGER,
        instance_id=ZERO,
        mr_aggregated=NONE,
        mr_system=NONE,
        os_image_hash=NONE,
        advisory_ids=["INTEL-SA-00001", "", "INTEL-SA-00837"],
    )
    assert chain.read(app, ASK, [info], "(bool,string)") == (True, "")


def test_the_longest_boot_info_is_judged(chain: Chain) -> None:
    app = chain.app(compose_hash=COMPOSE, device=DEVICE)
    assert asked(chain, app, tcb_status="s" * 128, advisory_ids=["a" * 256] * 128) == (True, "")


@pytest.mark.parametrize(
    "changed",
    [{"tcb_status": "s" * 129}, {"advisory_ids": ["a" * 257]}, {"advisory_ids": ["a"] * 129}],
    ids=["status", "advisory", "advisories"],
)
def test_a_longer_boot_info_reverts(chain: Chain, changed: dict[str, Any]) -> None:
    app = chain.app(compose_hash=COMPOSE, device=DEVICE)
    with pytest.raises(Reverted):
        asked(chain, app, **changed)


def test_a_removed_entry_is_refused_at_the_next_question(chain: Chain) -> None:
    app = chain.app(compose_hash=COMPOSE, device=DEVICE)
    chain.send(app, "removeComposeHash(bytes32)", [COMPOSE])
    assert asked(chain, app) == (False, HASH)
    chain.send(app, "addComposeHash(bytes32)", [COMPOSE])
    chain.send(app, "removeDevice(bytes32)", [DEVICE])
    assert asked(chain, app) == (False, MACHINE)


# Changes of policy

CHANGES = [
    ("addComposeHash(bytes32)", OTHER, "ComposeHashAdded", "compose-hash", True),
    ("removeComposeHash(bytes32)", OTHER, "ComposeHashRemoved", "compose-hash", False),
    ("addDevice(bytes32)", OTHER, "DeviceAdded", "device", True),
    ("removeDevice(bytes32)", OTHER, "DeviceRemoved", "device", False),
    ("setAllowAnyDevice(bool)", True, "AllowAnyDeviceSet", "allow-any-device", True),
    ("setAllowAnyDevice(bool)", False, "AllowAnyDeviceSet", "allow-any-device", False),
    ("setRequireTcbUpToDate(bool)", True, "RequireTcbUpToDateSet", "require-tcb-up-to-date", True),
    ("setRequireTcbUpToDate(bool)", False, "RequireTcbUpToDateSet", "require-tcb-up-to-date", False),
]


@pytest.mark.parametrize("change", CHANGES, ids=[f"{change[0]} {change[4]}" for change in CHANGES])
def test_each_change_is_logged_twice(chain: Chain, change: tuple[str, bytes | bool, str, str, bool]) -> None:
    signature, argument, name, about, enabled = change
    app = chain.app()
    receipt = chain.send(app, signature, [argument])
    value = argument if isinstance(argument, bytes) else NONE
    assert events(receipt.logs) == [
        Event(app, name, (argument,)),
        policy(app, OWNER, about, value, enabled=enabled),
    ]
    plain, policy_changed = receipt.logs
    signature_type = "bytes32" if isinstance(argument, bytes) else "bool"
    assert plain.topics == (keccak(f"{name}({signature_type})".encode()),)
    assert plain.data == encode([signature_type], [argument])
    assert policy_changed.topics == (
        keccak(b"PolicyChanged(address,bytes32,bytes32,bool)"),
        word(OWNER),
        word(about),
        value,
    )
    assert policy_changed.data == word(int(enabled))


@pytest.mark.parametrize("signature", ["addComposeHash(bytes32)", "removeComposeHash(bytes32)"])
def test_a_change_to_what_is_so_already_is_logged_all_the_same(chain: Chain, signature: str) -> None:
    app = chain.app(compose_hash=COMPOSE)
    first, second = (events(chain.send(app, signature, [COMPOSE]).logs) for _ in range(2))
    assert first == second
    assert len(second) == 2


@pytest.mark.parametrize(
    ("signature", "argument"),
    [*((change[0], change[1]) for change in CHANGES), ("disableUpgrades()", None)],
)
@pytest.mark.parametrize("sender", [STRANGER, NEW_OWNER], ids=["stranger", "pending"])
def test_policy_is_the_owners_alone(chain: Chain, signature: str, argument: object, sender: str) -> None:
    app = chain.app()
    chain.send(app, "transferOwnership(address)", [NEW_OWNER])
    with pytest.raises(Reverted) as refused:
        chain.send(app, signature, [] if argument is None else [argument], sender=sender)
    assert refused.value.data == error("OwnableUnauthorizedAccount(address)", sender)


def test_no_function_of_the_policy_takes_ether(chain: Chain) -> None:
    app = chain.app()
    for signature, argument, *_ in CHANGES:
        with pytest.raises(Reverted):
            chain.send(app, signature, [argument], value=1)
    assert chain.evm.get_balance(app) == 0


def test_what_the_app_says_of_itself(chain: Chain) -> None:
    app = chain.app()
    assert chain.read(app, "version()", [], "(uint256)") == (2,)
    assert chain.read(app, "UPGRADE_INTERFACE_VERSION()", [], "(string)") == ("5.0.0",)


def test_apps_know_nothing_of_one_another(chain: Chain) -> None:
    first, second = chain.app(), chain.app(NEW_OWNER)
    chain.send(first, "addComposeHash(bytes32)", [COMPOSE])
    assert listed(chain, first, "allowedComposeHashes", COMPOSE)
    assert not listed(chain, second, "allowedComposeHashes", COMPOSE)
    with pytest.raises(Reverted):
        chain.send(second, "addComposeHash(bytes32)", [COMPOSE])
