"""Multicall (contracts/SPEC.md 9)."""

import pyrevm
import pytest
from eth_abi import encode

from support.evm import BLOCK_GAS, OWNER, STRANGER, Chain, Reverted, boot_info, calldata, reason, word
from support.evm_code import burns, echoes, returns, reverts, writes
from teehouse.chain.artifacts import load

AGGREGATE3 = "aggregate3((address,bool,bytes)[])"
RESULTS = "((bool,bytes)[])"
FAILED = reason("Multicall3: call failed")
Call = tuple[str, bool, bytes]


@pytest.fixture
def chain() -> Chain:
    return Chain()


@pytest.fixture
def multicall(chain: Chain) -> str:
    return chain.deploy(load("Multicall"))


def aggregated(chain: Chain, multicall: str, calls: list[Call]) -> list[tuple[bool, bytes]]:
    return list(chain.read(multicall, AGGREGATE3, [calls], RESULTS)[0])


def test_results_come_in_the_order_of_the_calls(chain: Chain, multicall: str) -> None:
    answers = [b"", b"one", b"t" * 32, b"three" * 20]
    calls: list[Call] = [(chain.deploy(returns(answer)), False, b"") for answer in answers]
    assert aggregated(chain, multicall, calls) == [(True, answer) for answer in answers]
    assert aggregated(chain, multicall, []) == []


def test_a_failure_that_is_allowed_is_a_result(chain: Chain, multicall: str) -> None:
    good, bad = chain.deploy(returns(b"good")), chain.deploy(reverts(reason("bad")))
    calls: list[Call] = [(good, True, b""), (bad, True, b""), (good, False, b"")]
    assert aggregated(chain, multicall, calls) == [(True, b"good"), (False, reason("bad")), (True, b"good")]


def test_a_failure_that_is_not_allowed_fails_all(chain: Chain, multicall: str) -> None:
    good, bad = chain.deploy(returns(b"good")), chain.deploy(reverts(reason("bad")))
    with pytest.raises(Reverted) as refused:
        aggregated(chain, multicall, [(good, True, b""), (bad, False, b""), (good, True, b"")])
    assert refused.value.data == FAILED


def test_a_call_to_no_code_succeeds_without_data(chain: Chain, multicall: str) -> None:
    assert aggregated(chain, multicall, [(STRANGER, False, b"data")]) == [(True, b"")]


@pytest.mark.parametrize("size", [1280, 1281, 5000])
def test_an_answer_that_is_too_long_is_a_failure_and_not_cut(chain: Chain, multicall: str, size: int) -> None:
    longest, longer = chain.deploy(returns(b"a" * 1279)), chain.deploy(returns(b"a" * size))
    assert aggregated(chain, multicall, [(longest, False, b""), (longer, True, b"")]) == [
        (True, b"a" * 1279),
        (False, b""),
    ]
    with pytest.raises(Reverted) as refused:
        aggregated(chain, multicall, [(longer, False, b"")])
    assert refused.value.data == FAILED


def test_more_or_longer_calls_revert(chain: Chain, multicall: str) -> None:
    target = chain.deploy(returns(b"yes"))
    most: list[Call] = [(target, False, b"c" * 2048)] * 128
    assert aggregated(chain, multicall, most) == [(True, b"yes")] * 128
    for calls in ([*most, most[0]], [(target, True, b"c" * 2049)]):
        with pytest.raises(Reverted) as refused:
            aggregated(chain, multicall, calls)
        assert refused.value.data == b""


def test_the_target_is_called_by_the_multicall_with_its_data(chain: Chain, multicall: str) -> None:
    echo = chain.deploy(echoes())
    for data in (b"", b"d", b"data" * 300):
        assert aggregated(chain, multicall, [(echo, False, data)]) == [(True, word(multicall) + data)]


def test_it_may_send_what_writes(chain: Chain, multicall: str) -> None:
    target = chain.deploy(writes())
    chain.send(multicall, AGGREGATE3, [[(target, False, b"")]])
    assert chain.storage(target, 0) == 1


def test_a_call_that_burns_all_leaves_a_sixty_fourth(chain: Chain, multicall: str) -> None:
    burner, good = chain.deploy(burns()), chain.deploy(returns(b"good"))
    calls: list[Call] = [(burner, True, b""), (good, True, b"")]
    assert aggregated(chain, multicall, calls) == [(False, b""), (True, b"good")]


def test_the_block_and_the_chain_can_be_asked_in_the_same_call(chain: Chain, multicall: str) -> None:
    block = pyrevm.BlockEnv(number=300, timestamp=1_700_000_000)
    chain.evm.set_block_env(block)
    chain.evm.set_balance(STRANGER, 12_345)
    asked = {
        calldata("getBlockNumber()"): 300,
        calldata("getCurrentBlockTimestamp()"): 1_700_000_000,
        calldata("getCurrentBlockGasLimit()"): BLOCK_GAS,
        calldata("getBasefee()"): 0,  # pyrevm calls as eth_call does, without one
        calldata("getChainId()"): 1,
        calldata("getEthBalance(address)", [STRANGER]): 12_345,
    }
    results = aggregated(chain, multicall, [(multicall, False, data) for data in asked])
    assert results == [(True, word(value)) for value in asked.values()]


def test_block_hashes_can_be_asked(chain: Chain, multicall: str) -> None:
    chain.evm.set_block_env(pyrevm.BlockEnv(number=300))
    (last,) = chain.read(multicall, "getLastBlockHash()", [], "(bytes32)")
    assert chain.read(multicall, "getBlockHash(uint256)", [299], "(bytes32)") == (last,)
    assert last != bytes(32)


def test_two_hundred_decisions_in_chunks_of_one_hundred(chain: Chain, multicall: str) -> None:
    kms = chain.kms()
    chain.send(kms, "addOsImageHash(bytes32)", [b"\x05" * 32])
    hashes = [index.to_bytes(32, "big") for index in range(200)]
    app = chain.app(OWNER, any_device=True)
    chain.send(kms, "registerApp(address)", [app])
    for compose_hash in hashes[::3]:
        chain.send(app, "addComposeHash(bytes32)", [compose_hash])
    signature = "isAppAllowed((address,bytes32,address,bytes32,bytes32,bytes32,bytes32,string,string[]))"
    advisories = [f"INTEL-SA-{number:05}" for number in range(10)]
    asked = [
        calldata(signature, [boot_info(app_id=app, compose_hash=compose_hash, advisory_ids=advisories)])
        for compose_hash in hashes
    ]
    assert len(asked[0]) == 420 + 10 * 96
    found = []
    for start in (0, 100):
        found += aggregated(chain, multicall, [(kms, True, data) for data in asked[start : start + 100]])
    yes, no = (
        encode(["bool", "string"], [True, ""]),
        encode(["bool", "string"], [False, "Compose hash not allowed"]),
    )
    assert found == [(True, no if index % 3 else yes) for index in range(200)]
