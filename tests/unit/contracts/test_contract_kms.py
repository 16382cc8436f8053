"""DstackKms behind its proxy: decisions, lists and what it publishes (contracts/SPEC.md 4)."""

from typing import Any

import pytest
from eth_abi import encode

from support.evm import (
    BOOT_INFO,
    DEPLOY_5,
    DEPLOY_6,
    NEW_OWNER,
    OWNER,
    STRANGER,
    ZERO,
    Chain,
    Event,
    Reverted,
    boot_info,
    calldata,
    create_address,
    error,
    events,
    keccak,
    reason,
    word,
)
from teehouse.chain.artifacts import load

COMPOSE, DEVICE, IMAGE, MR, OTHER = b"\xc0" * 32, b"\xde" * 32, b"\x05" * 32, b"\xa6" * 32, b"\x07" * 32
INITIALIZE = "initialize(address,address)"
SET_INFO = "setKmsInfo((bytes,bytes,bytes,bytes))"
INFO = "(bytes,bytes,bytes,bytes)"
SIX = [NEW_OWNER, True, True, False, DEVICE, COMPOSE]
FIVE = [NEW_OWNER, True, False, DEVICE, COMPOSE]
TCB, OS_IMAGE = "TCB status is not up to date", "OS image is not allowed"
AGGREGATED, MACHINE = "Aggregated MR not allowed", "KMS is not allowed to boot on this device"
LISTS = [
    ("addOsImageHash", "removeOsImageHash", "allowedOsImages", "OsImageHash", "os-image"),
    (
        "addKmsAggregatedMr",
        "removeKmsAggregatedMr",
        "kmsAllowedAggregatedMrs",
        "KmsAggregatedMr",
        "kms-aggregated-mr",
    ),
    ("addKmsDevice", "removeKmsDevice", "kmsAllowedDeviceIds", "KmsDevice", "kms-device"),
]


@pytest.fixture
def chain() -> Chain:
    return Chain()


@pytest.fixture
def kms(chain: Chain) -> str:
    return chain.kms()


def asked(chain: Chain, kms: str, question: str, **changed: Any) -> tuple[Any, ...]:
    return chain.read(kms, question + BOOT_INFO, [boot_info(**changed)], "(bool,string)")


def policy(kms: str, actor: str, name: str, value: bytes, *, enabled: bool = True) -> Event:
    return Event(kms, "PolicyChanged", (actor, keccak(name.encode()), value, enabled))


# Initialisation


def test_a_kms_starts_with_owner_and_app_implementation(chain: Chain, kms: str) -> None:
    assert chain.read(kms, "owner()", [], "(address)") == (OWNER,)
    assert chain.read(kms, "appImplementation()", [], "(address)") == (chain.app_implementation,)
    assert events(chain.last.logs) == [
        Event(kms, "Upgraded", (chain.kms_implementation,)),
        Event(kms, "OwnershipTransferred", (ZERO, OWNER)),
        Event(kms, "AppImplementationSet", (chain.app_implementation,)),
        policy(kms, OWNER, "app-implementation", word(chain.app_implementation)),
        Event(kms, "Initialized", (1,)),
    ]
    assert chain.read(kms, "kmsInfo()", [], INFO) == (b"", b"", b"", b"")
    assert chain.read(kms, "gatewayAppId()", [], "(string)") == ("",)


def test_a_kms_may_start_without_app_implementation(chain: Chain) -> None:
    chain.kms()
    bare = chain.deploy(load("KmsProxy"), chain.kms_implementation, calldata(INITIALIZE, [NEW_OWNER, ZERO]))
    assert [found.name for found in events(chain.last.logs)] == [
        "Upgraded",
        "OwnershipTransferred",
        "Initialized",
    ]
    for signature, arguments in ((DEPLOY_6, SIX), (DEPLOY_5, FIVE), (DEPLOY_6, [ZERO, *SIX[1:]])):
        with pytest.raises(Reverted) as refused:
            chain.send(bare, signature, arguments)
        assert refused.value.data == reason("DstackApp implementation not set")


def test_a_kms_needs_an_owner(chain: Chain) -> None:
    chain.kms()
    first = calldata(INITIALIZE, [ZERO, chain.app_implementation])
    with pytest.raises(Reverted) as refused:
        chain.deploy(load("KmsProxy"), chain.kms_implementation, first)
    assert refused.value.data == error("OwnableInvalidOwner(address)", ZERO)


def test_a_kms_is_initialised_once_and_its_implementation_never(chain: Chain, kms: str) -> None:
    for target in (kms, chain.kms_implementation):
        with pytest.raises(Reverted) as refused:
            chain.send(target, INITIALIZE, [STRANGER, chain.app_implementation], sender=STRANGER)
        assert refused.value.data == error("InvalidInitialization()")


# The decisions


def test_the_root_keys_go_to_a_listed_kms_alone_and_the_first_reason_is_given(chain: Chain, kms: str) -> None:
    ask = "isKmsAllowed"
    assert asked(chain, kms, ask, tcb_status="OutOfDate") == (False, TCB)
    assert asked(chain, kms, ask) == (False, OS_IMAGE)
    chain.send(kms, "addOsImageHash(bytes32)", [IMAGE])
    assert asked(chain, kms, ask) == (False, AGGREGATED)
    chain.send(kms, "addKmsAggregatedMr(bytes32)", [MR])
    assert asked(chain, kms, ask) == (False, MACHINE)
    chain.send(kms, "addKmsDevice(bytes32)", [DEVICE])
    assert asked(chain, kms, ask) == (True, "")
    assert asked(chain, kms, ask, tcb_status="uptodate", os_image_hash=OTHER) == (False, TCB)
    assert asked(chain, kms, ask, os_image_hash=OTHER, mr_aggregated=OTHER) == (False, OS_IMAGE)
    assert asked(chain, kms, ask, mr_aggregated=OTHER, device_id=OTHER) == (False, AGGREGATED)
    assert asked(chain, kms, ask, device_id=OTHER) == (False, MACHINE)
    assert asked(
        chain, kms, ask, app_id=STRANGER, compose_hash=OTHER, mr_system=OTHER, advisory_ids=["x"]
    ) == (True, "")


def test_an_apps_keys_need_registration_image_code_and_the_apps_own_answer(chain: Chain, kms: str) -> None:
    app = chain.app()
    about = {"app_id": app}
    assert asked(chain, kms, "isAppAllowed", **about) == (False, "App not registered")
    chain.send(kms, "registerApp(address)", [app], sender=STRANGER)
    assert asked(chain, kms, "isAppAllowed", **about) == (False, OS_IMAGE)
    chain.send(kms, "addOsImageHash(bytes32)", [IMAGE])
    assert asked(chain, kms, "isAppAllowed", **about) == (False, "Compose hash not allowed")
    chain.send(app, "addComposeHash(bytes32)", [COMPOSE])
    assert asked(chain, kms, "isAppAllowed", **about) == (False, "Device not allowed")
    chain.send(app, "addDevice(bytes32)", [DEVICE])
    assert asked(chain, kms, "isAppAllowed", **about) == (True, "")
    chain.send(app, "setRequireTcbUpToDate(bool)", [True])
    assert asked(chain, kms, "isAppAllowed", **about, tcb_status="") == (False, TCB)
    assert asked(chain, kms, "isAppAllowed", **about, os_image_hash=OTHER) == (False, OS_IMAGE)


@pytest.mark.parametrize("app", [STRANGER, "0x" + "00" * 19 + "04"], ids=["account", "precompile"])
def test_an_app_without_code_is_refused(chain: Chain, kms: str, app: str) -> None:
    chain.send(kms, "addOsImageHash(bytes32)", [IMAGE])
    chain.send(kms, "registerApp(address)", [app])
    expected = (False, "App not deployed or invalid address")
    assert asked(chain, kms, "isAppAllowed", app_id=app) == expected


@pytest.mark.parametrize("question", ["isAppAllowed", "isKmsAllowed"])
@pytest.mark.parametrize(
    "changed",
    [{"tcb_status": "s" * 129}, {"advisory_ids": ["a" * 257]}, {"advisory_ids": ["a"] * 129}],
    ids=["status", "advisory", "advisories"],
)
def test_the_kms_bounds_the_boot_info(chain: Chain, kms: str, question: str, changed: dict[str, Any]) -> None:
    with pytest.raises(Reverted):
        asked(chain, kms, question, **changed)


def test_the_longest_boot_info_reaches_the_app(chain: Chain, kms: str) -> None:
    chain.send(kms, "addOsImageHash(bytes32)", [IMAGE])
    made = chain.send(kms, DEPLOY_5, [OWNER, False, True, DEVICE, COMPOSE])
    app = "0x" + made.output[12:].hex()
    longest = {"tcb_status": "s" * 128, "advisory_ids": ["a" * 256] * 128}
    assert asked(chain, kms, "isAppAllowed", app_id=app, **longest) == (True, "")


# The owner's lists


@pytest.mark.parametrize("entry", LISTS, ids=[entry[3] for entry in LISTS])
def test_each_list_is_kept_and_logged(chain: Chain, kms: str, entry: tuple[str, str, str, str, str]) -> None:
    add, remove, getter, event, about = entry
    read = (f"{getter}(bytes32)", [OTHER], "(bool)")
    assert chain.read(kms, *read) == (False,)
    for signature, name, enabled in ((add, "Added", True), (remove, "Removed", False)):
        receipt = chain.send(kms, f"{signature}(bytes32)", [OTHER])
        assert chain.read(kms, *read) == (enabled,)
        assert events(receipt.logs) == [
            Event(kms, event + name, (OTHER,)),
            policy(kms, OWNER, about, OTHER, enabled=enabled),
        ]
        assert receipt.logs[0].topics == (keccak(f"{event}{name}(bytes32)".encode()),)
        assert receipt.logs[0].data == OTHER


def test_the_lists_are_separate(chain: Chain, kms: str) -> None:
    for add, _, own, _, _ in LISTS:
        value = keccak(add.encode())
        chain.send(kms, f"{add}(bytes32)", [value])
        for _, _, getter, _, _ in LISTS:
            assert chain.read(kms, f"{getter}(bytes32)", [value], "(bool)") == (getter == own,)


OWNERS_ONLY: list[tuple[str, list[Any]]] = [
    *((f"{name}(bytes32)", [OTHER]) for entry in LISTS for name in entry[:2]),
    ("setAppImplementation(address)", [STRANGER]),
    (SET_INFO, [(b"k", b"c", b"q", b"e")]),
    ("setKmsQuote(bytes)", [b"q"]),
    ("setKmsEventlog(bytes)", [b"e"]),
    ("setGatewayAppId(string)", ["g"]),
]


@pytest.mark.parametrize(("signature", "arguments"), OWNERS_ONLY)
def test_the_policy_of_a_kms_is_its_owners_alone(
    chain: Chain, kms: str, signature: str, arguments: list[Any]
) -> None:
    with pytest.raises(Reverted) as refused:
        chain.send(kms, signature, arguments, sender=STRANGER)
    assert refused.value.data == error("OwnableUnauthorizedAccount(address)", STRANGER)
    with pytest.raises(Reverted) as with_ether:
        chain.send(kms, signature, arguments, value=1)
    assert with_ether.value.data == b""


def test_the_app_implementation_is_set_and_never_unset(chain: Chain, kms: str) -> None:
    with pytest.raises(Reverted) as refused:
        chain.send(kms, "setAppImplementation(address)", [ZERO])
    assert refused.value.data == reason("Invalid implementation address")
    newer = chain.deploy(load("DstackApp"))
    receipt = chain.send(kms, "setAppImplementation(address)", [newer])
    assert events(receipt.logs) == [
        Event(kms, "AppImplementationSet", (newer,)),
        policy(kms, OWNER, "app-implementation", word(newer)),
    ]
    assert receipt.logs[0].topics == (keccak(b"AppImplementationSet(address)"),)
    made = events(chain.send(kms, DEPLOY_6, SIX).logs)
    assert made[0] == Event(create_address(kms, 1), "Upgraded", (newer,))


# KMS info and gateway


def test_kms_info_is_kept_and_its_public_key_logged(chain: Chain, kms: str) -> None:
    info = (b"\x02" + b"k" * 32, b"ca" * 45, b"quote" * 1001, b'{"event":1}' * 2000)
    receipt = chain.send(kms, SET_INFO, [info])
    assert chain.read(kms, "kmsInfo()", [], INFO) == info
    assert events(receipt.logs) == [
        Event(kms, "KmsInfoSet", (info[0],)),
        policy(kms, OWNER, "kms-info", keccak(info[0])),
    ]
    assert receipt.logs[0].topics == (keccak(b"KmsInfoSet(bytes)"),)
    assert receipt.logs[0].data == encode(["bytes"], [info[0]])


def test_quote_and_event_log_change_alone_and_without_an_event(chain: Chain, kms: str) -> None:
    chain.send(kms, SET_INFO, [(b"key", b"ca", b"quote", b"log")])
    assert chain.send(kms, "setKmsQuote(bytes)", [b"other quote"]).logs == ()
    assert chain.read(kms, "kmsInfo()", [], INFO) == (b"key", b"ca", b"other quote", b"log")
    assert chain.send(kms, "setKmsEventlog(bytes)", [b""]).logs == ()
    assert chain.read(kms, "kmsInfo()", [], INFO) == (b"key", b"ca", b"other quote", b"")


def test_the_largest_kms_info_passes_the_proxy(chain: Chain, kms: str) -> None:
    info = (b"k" * 512, b"c" * 512, b"q" * 16384, b"e" * 65536)
    chain.send(kms, SET_INFO, [info], gas=100_000_000)
    assert chain.read(kms, "kmsInfo()", [], INFO) == info


@pytest.mark.parametrize("member", range(4))
def test_larger_kms_info_reverts(chain: Chain, kms: str, member: int) -> None:
    sizes = [512, 512, 16384, 65536]
    info = [b""] * 4
    info[member] = b"x" * (sizes[member] + 1)
    with pytest.raises(Reverted):
        chain.send(kms, SET_INFO, [tuple(info)])
    with pytest.raises(Reverted):
        chain.send(kms, "setKmsQuote(bytes)", [b"x" * 16385])
    with pytest.raises(Reverted):
        chain.send(kms, "setKmsEventlog(bytes)", [b"x" * 65537])


def test_the_gateways_app_id_is_kept_and_logged(chain: Chain, kms: str) -> None:
    for text in ("0x" + "ab" * 20, "g" * 256, ""):
        receipt = chain.send(kms, "setGatewayAppId(string)", [text])
        assert chain.read(kms, "gatewayAppId()", [], "(string)") == (text,)
        assert events(receipt.logs) == [
            Event(kms, "GatewayAppIdSet", (text,)),
            policy(kms, OWNER, "gateway-app-id", keccak(text.encode())),
        ]
        assert receipt.logs[0].topics == (keccak(b"GatewayAppIdSet(string)"),)
    with pytest.raises(Reverted):
        chain.send(kms, "setGatewayAppId(string)", ["g" * 257])
