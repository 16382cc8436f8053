"""An app's contract may be anyone's: what it can do to a KMS that asks it (contracts/SPEC.md 5)."""

import contextlib
from typing import Any

import pytest
from eth_abi import encode

from support.evm import (
    BOOT_INFO,
    OWNER,
    STRANGER,
    Chain,
    Halted,
    Reverted,
    boot_info,
    calldata,
    reason,
    word,
)
from support.evm_code import (
    burns,
    burns_at_once,
    delegate_reads,
    returns,
    returns_zeros,
    reverts,
    reverts_zeros,
    writes,
)
from teehouse.chain.artifacts import load

ASK = "isAppAllowed" + BOOT_INFO
AGGREGATE3 = "aggregate3((address,bool,bytes)[])"
COMPOSE, IMAGE = b"\xc0" * 32, b"\x05" * 32
APP_GAS = 1_000_000


@pytest.fixture
def chain() -> Chain:
    return Chain()


@pytest.fixture
def kms(chain: Chain) -> str:
    kms = chain.kms()
    chain.send(kms, "addOsImageHash(bytes32)", [IMAGE])
    return kms


def hostile(chain: Chain, kms: str, code: bytes) -> str:
    app = chain.deploy(code, sender=STRANGER)
    chain.send(kms, "registerApp(address)", [app], sender=STRANGER)
    return app


def asked(chain: Chain, kms: str, app: str, **options: Any) -> bytes:
    return chain.eth_call(kms, calldata(ASK, [boot_info(app_id=app)]), **options)


def answer(allowed: bool, text: str) -> bytes:
    return encode(["bool", "string"], [allowed, text])


@pytest.mark.parametrize(
    "given",
    [answer(True, ""), answer(False, "no"), answer(False, "r" * 1024), answer(True, "why not \u2603")],
    ids=["yes", "no", "longest", "yes with a reason"],
)
def test_the_apps_answer_is_forwarded_as_it_is(chain: Chain, kms: str, given: bytes) -> None:
    app = hostile(chain, kms, returns(given))
    assert asked(chain, kms, app) == given


def test_what_stands_behind_an_answer_is_dropped(chain: Chain, kms: str) -> None:
    app = hostile(chain, kms, returns(answer(False, "no") + b"more" * 300))
    assert asked(chain, kms, app) == answer(False, "no")


GARBAGE = {
    "nothing": b"",
    "a yes alone": word(1),
    "a boolean of two": word(2) + word(64) + word(0),
    "a boolean of all bits": b"\xff" * 32 + word(64) + word(0),
    "a text at the end of the world": word(1) + b"\xff" * 32 + word(0),
    "a text behind the answer": word(1) + word(96),
    "a text longer than the answer": word(1) + word(64) + word(33) + bytes(32),
    "a text of endless length": word(1) + word(64) + b"\xff" * 32,
    "a text that is too long": answer(True, "r" * 1025),
    "random": bytes(index * 151 % 256 for index in range(96)),
}


@pytest.mark.parametrize("given", GARBAGE.values(), ids=GARBAGE)
def test_garbage_reverts(chain: Chain, kms: str, given: bytes) -> None:
    app = hostile(chain, kms, returns(given))
    with pytest.raises(Reverted) as refused:
        asked(chain, kms, app)
    assert refused.value.data == b""


@pytest.mark.parametrize("size", [31, 1121, 5_000, 100_000])
def test_zeros_of_any_length_are_never_a_yes(chain: Chain, kms: str, size: int) -> None:
    app = hostile(chain, kms, returns_zeros(size))
    found = answer(False, "")
    with contextlib.suppress(Reverted):
        found = asked(chain, kms, app)
    assert found == answer(False, "")


@pytest.mark.parametrize("given", [b"", b"\x01", reason("I would rather not"), b"e" * 1120])
def test_the_apps_error_is_forwarded(chain: Chain, kms: str, given: bytes) -> None:
    app = hostile(chain, kms, reverts(given))
    with pytest.raises(Reverted) as refused:
        asked(chain, kms, app)
    assert refused.value.data == given


def test_a_long_error_is_cut(chain: Chain, kms: str) -> None:
    app = hostile(chain, kms, reverts(b"e" * 1121))
    with pytest.raises(Reverted) as refused:
        asked(chain, kms, app)
    assert refused.value.data == b"e" * 1120


@pytest.mark.parametrize(
    "code",
    [burns(), burns_at_once(), returns_zeros(10_000_000), reverts_zeros(10_000_000), writes()],
    ids=["loop", "invalid", "megabytes", "megabytes of error", "write"],
)
def test_an_app_burns_its_share_of_gas_and_no_more(chain: Chain, kms: str, code: bytes) -> None:
    app = hostile(chain, kms, code)
    with pytest.raises(Reverted) as refused:
        asked(chain, kms, app)
    assert refused.value.data == b""
    assert APP_GAS <= refused.value.gas_used < APP_GAS + 60_000


def test_the_kms_does_not_pay_for_a_long_answer(chain: Chain, kms: str) -> None:
    assert asked(chain, kms, hostile(chain, kms, returns_zeros(600_000))) == answer(False, "")
    used = []
    for size in (600_000, 0):  # the most that it can pay for itself, and nothing
        with pytest.raises(Reverted) as refused:
            asked(chain, kms, hostile(chain, kms, reverts_zeros(size)))
        used.append(refused.value.gas_used)
    words = 600_000 // 32
    assert used[0] - used[1] < 3 * words + words**2 // 512 + 1_000  # the app's own memory


def test_an_app_cannot_write_when_it_is_asked(chain: Chain, kms: str) -> None:
    app = hostile(chain, kms, writes())
    with pytest.raises(Reverted):
        chain.send(kms, ASK, [boot_info(app_id=app)])
    assert chain.storage(app, 0) == 0


def test_a_kms_that_is_registered_as_an_app_ends(chain: Chain, kms: str) -> None:
    chain.send(kms, "registerApp(address)", [kms], sender=STRANGER)
    with pytest.raises((Reverted, Halted)):
        asked(chain, kms, kms)


def test_too_little_gas_is_never_a_yes_or_a_no(chain: Chain, kms: str) -> None:
    app = chain.app(any_device=True, compose_hash=COMPOSE)
    chain.send(kms, "registerApp(address)", [app])
    outcomes = set()
    for gas in range(24_000, 60_000, 500):
        try:
            outcomes.add(asked(chain, kms, app, gas=gas))
        except (Reverted, Halted):
            outcomes.add(b"")
    assert outcomes == {b"", answer(True, "")}


def test_a_hostile_app_harms_no_other_in_one_call(chain: Chain, kms: str) -> None:
    multicall = chain.deploy(load("Multicall"))
    codes = [burns(), burns_at_once(), returns(b"garbage"), reverts(reason("no")), reverts_zeros(500_000)]
    bad = [hostile(chain, kms, code) for code in codes]
    good = chain.app(any_device=True, compose_hash=COMPOSE)
    chain.send(kms, "registerApp(address)", [good])
    apps = [app for pair in zip(bad, [good] * len(bad), strict=True) for app in pair]
    calls = [(kms, True, calldata(ASK, [boot_info(app_id=app)])) for app in apps]
    (answers,) = chain.read(multicall, AGGREGATE3, [calls], "((bool,bytes)[])")
    assert list(answers[1::2]) == [(True, answer(True, ""))] * len(bad)
    assert [success for success, _ in answers[::2]] == [False] * len(bad)


def test_another_contract_running_the_kms_code_has_its_own_register(chain: Chain, kms: str) -> None:
    app = chain.app(any_device=True, compose_hash=COMPOSE)
    chain.send(kms, "registerApp(address)", [app])
    thief = chain.deploy(delegate_reads(chain.kms_implementation))
    question = calldata(ASK, [boot_info(app_id=app)])
    assert chain.eth_call(kms, question) == answer(True, "")
    assert chain.eth_call(thief, question) == answer(False, "App not registered")
    with pytest.raises(Reverted):
        chain.transact(thief, calldata("addOsImageHash(bytes32)", [IMAGE]), sender=OWNER)
