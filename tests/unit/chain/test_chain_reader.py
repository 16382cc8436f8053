"""One endpoint: its ways, its faults, and what they mean (endpoint.py, endpoint_reader.py)."""

import socket
import subprocess
import sys
import time
from typing import Any

import pytest

from support.chain_support import ADDRESS, CHAIN_ID, FakeNode, Refusal, reader_of, reverting
from support.evm import reason, word
from teehouse.base.findings import CollateralError, MisuseError
from teehouse.chain.artifacts import load
from teehouse.chain.calls import ALLOWED_DEVICE_IDS
from teehouse.chain.endpoint import ANSWER_LIMIT, BATCH_LIMIT, Endpoint
from teehouse.chain.endpoint_reader import (
    AGGREGATE_SIZE,
    BATCH_SIZE,
    LEARNED_SECONDS,
    MULTICALL3,
)
from teehouse.chain.reader import Answer, Block, Call, Receipt
from teehouse.chain.rpc_reader import ReaderSettings, open_reader

HOSTILE = b"\xbb" * 20


def even(data: bytes) -> bytes:
    """A contract of the tests: allows what ends in an even byte."""
    return word(1 - data[-1] % 2)


def node_with_contract(**settings: Any) -> FakeNode:
    node = FakeNode(**settings)
    node.contracts[ADDRESS] = even
    return node


def asked(count: int) -> list[Call]:
    return [Call(ADDRESS, ALLOWED_DEVICE_IDS(word(number))) for number in range(count)]


def expected(count: int) -> tuple[Answer, ...]:
    return tuple(Answer(ok=True, data=word(1 - number % 2)) for number in range(count))


def block_of(node: FakeNode, number: int) -> Block:
    return Block(number, node.hash(number), number * 12)


def with_multicall(node: FakeNode) -> FakeNode:
    """The node with aggregate3 at its canonical address, before the contracts of the test."""
    chain = node.with_evm()
    chain.evm.insert_account_info("0x" + MULTICALL3.hex(), _account(load("Multicall").runtime))
    return node


def _account(code: bytes) -> Any:
    import pyrevm

    return pyrevm.AccountInfo(code=code)


# A contract on the EVM: returns 1 when the last byte of its argument is even, else 0.
EVEN_CODE = bytes.fromhex("60043560011660011860005260206000f3")
BURNING_CODE = bytes.fromhex("5b600056")  # an endless loop


# --- ways (rule 1)


async def test_two_hundred_calls_are_two_posts() -> None:
    node = node_with_contract()
    async with node.reader() as reader:
        assert await reader.call_many(asked(200)) == (block_of(node, 100), expected(200))
    assert node.posts == [2, 201]  # pinning; then all calls and the second look at the block


async def test_long_batches_are_cut() -> None:
    node = node_with_contract()
    async with node.reader() as reader:
        block = await reader.pinned()
        assert (await reader.call_many(asked(2 * BATCH_SIZE + 1), block))[1] == expected(2 * BATCH_SIZE + 1)
    assert node.posts == [2, BATCH_SIZE, BATCH_SIZE, 2]


async def test_a_batch_may_come_back_in_any_order() -> None:
    node = node_with_contract()
    node.batch_refusal = lambda answers: answers[::-1]
    async with node.reader() as reader:
        assert (await reader.call_many(asked(10)))[1] == expected(10)
    assert node.posts == [2, 11]


REFUSALS = {
    "status": None,
    "one object": lambda answers: {
        "jsonrpc": "2.0",
        "id": None,
        "error": {"code": -32600, "message": "no batch"},
    },
    "missing": lambda answers: answers[:-1],
    "twice": lambda answers: [*answers[:-1], answers[0]],
    "unasked": lambda answers: [*answers, {"jsonrpc": "2.0", "id": 10**9, "result": "0x"}],
    "no objects": lambda answers: [1] * len(answers),
    "partial": lambda answers: [
        answers[0],
        *({**answer, "error": {"code": -32005, "message": "limit exceeded"}} for answer in answers[1:]),
    ],
}


@pytest.mark.parametrize("name", REFUSALS)
async def test_without_batches_calls_go_singly(name: str) -> None:
    node = node_with_contract()
    node.batch_limit, node.batch_refusal = 0, REFUSALS[name]
    now = [0.0]
    async with reader_of(node, monotonic=lambda: now[0]) as reader:
        assert await reader.call_many(asked(20)) == (block_of(node, 100), expected(20))
        if name != "partial":  # a batch of pinning that fails in part teaches nothing yet
            assert node.posts[0] == 2
            assert set(node.posts[1:]) == {0}
        node.posts.clear()
        await reader.call_many(asked(2))
        assert set(node.posts) == {0}  # it was learned
        node.posts.clear()
        now[0] = LEARNED_SECONDS + 1
        node.batch_limit, node.batch_refusal = None, None
        await reader.call_many(asked(2))
        assert node.posts == [2, 3]  # and forgotten


async def test_without_batches_calls_go_by_aggregate3() -> None:
    node = with_multicall(FakeNode())
    node.batch_limit = 0
    assert node.evm is not None
    contract = node.evm.deploy(_deploying(EVEN_CODE))
    calls = [Call(bytes.fromhex(contract[2:]), ALLOWED_DEVICE_IDS(word(number))) for number in range(150)]
    async with node.reader() as reader:
        assert (await reader.call_many(calls))[1] == expected(150)
    assert node.asked.count("eth_call") == -(-150 // AGGREGATE_SIZE)


async def test_a_contract_that_burns_its_gas_does_not_burn_that_of_others() -> None:  # rule 4
    node = with_multicall(FakeNode())
    node.batch_limit = 0
    assert node.evm is not None
    good, hostile = (
        bytes.fromhex(node.evm.deploy(_deploying(code))[2:]) for code in (EVEN_CODE, BURNING_CODE)
    )
    calls = [Call(to, ALLOWED_DEVICE_IDS(word(0))) for to in (good, hostile, good)]
    async with node.reader() as reader:
        answers = (await reader.call_many(calls))[1]
    assert answers == (
        Answer(ok=True, data=word(1)),
        Answer(ok=False, reason="EVM error OutOfGas"),
        Answer(ok=True, data=word(1)),
    )


@pytest.mark.parametrize("garbage", [b"", word(7), word(32) + word(3)])
async def test_an_aggregate3_that_answers_nonsense_is_not_used(garbage: bytes) -> None:
    node = node_with_contract()
    node.batch_limit = 0
    node.codes[MULTICALL3] = b"\1"
    node.contracts[MULTICALL3] = lambda data: garbage
    async with node.reader() as reader:
        assert (await reader.call_many(asked(3)))[1] == expected(3)


async def test_an_aggregate3_that_answers_megabytes_is_not_used() -> None:
    node = node_with_contract()
    node.batch_limit = 0
    node.codes[MULTICALL3] = b"\1"
    node.contracts[MULTICALL3] = lambda data: bytes(ANSWER_LIMIT)
    async with node.reader() as reader:
        assert (await reader.call_many(asked(3)))[1] == expected(3)


async def test_no_calls_at_all_look_at_the_block_only() -> None:
    node = node_with_contract()
    async with node.reader() as reader:
        assert await reader.call_many(()) == (block_of(node, 100), ())


def _deploying(runtime: bytes) -> bytes:
    """Code that deploys `runtime`."""
    size = len(runtime)
    return bytes((0x60, size, 0x60, 12, 0x60, 0, 0x39, 0x60, size, 0x60, 0, 0xF3)) + runtime


# --- what is a contract's fault, and what an endpoint's (rule 3)


@pytest.mark.parametrize("batch_limit", [None, 0])
@pytest.mark.parametrize(
    ("contract", "why"),
    [
        (reverting(reason("Invalid app ID")), "Invalid app ID"),
        (reverting(), "execution reverted"),
        (reverting(b"\xff" * 100), "reverted with 0x" + "ff" * 32),
    ],
)
async def test_a_revert_is_an_answer(batch_limit: int | None, contract: Any, why: str) -> None:
    node = node_with_contract()
    node.batch_limit = batch_limit
    node.contracts[HOSTILE] = contract
    async with node.reader() as reader:
        _, (first, second) = await reader.call_many([Call(HOSTILE, b""), *asked(1)])
    assert (first, second) == (Answer(ok=False, reason=why), *expected(1))


@pytest.mark.parametrize(
    "message", ["out of gas", "invalid opcode: INVALID", "EVM error InvalidFEOpcode", "VM execution error."]
)
async def test_halting_is_an_answer(message: str) -> None:
    def halting(_: bytes) -> bytes:
        raise Refusal(-32000, message)

    node = node_with_contract()
    node.contracts[HOSTILE] = halting
    async with node.reader() as reader:
        assert (await reader.call_many([Call(HOSTILE, b"")]))[1] == (Answer(ok=False, reason=message),)


async def test_megabytes_of_one_contract_are_its_answer() -> None:
    node = node_with_contract()
    node.contracts[HOSTILE] = lambda data: bytes(BATCH_LIMIT // 2)
    async with node.reader() as reader:
        _, answers = await reader.call_many([Call(HOSTILE, b""), *asked(2)])
    assert answers == (Answer(ok=False, reason="the answer is too long"), *expected(2))


async def test_every_call_has_a_gas_cap() -> None:
    node, seen = node_with_contract(), []

    def call(request: dict[str, str], tag: str) -> str:
        seen.append((request["gas"], tag))
        return "0x" + word(1).hex()

    node.methods["eth_call"] = call
    async with node.reader(gas_cap=1234) as reader:
        await reader.call_many(asked(2))
    assert seen == [(hex(1234), "0x64")] * 2


async def test_another_fault_is_the_endpoints() -> None:
    node = node_with_contract()

    def broken(_: bytes) -> bytes:
        raise Refusal(-32005, "daily request count exceeded")

    node.contracts[ADDRESS] = broken
    with pytest.raises(CollateralError) as refused:
        async with node.reader() as reader:
            await reader.call_many(asked(2))
    assert refused.value.finding.code == "chain.fault"
    assert "daily request count exceeded" in str(refused.value)


BROKEN: dict[str, dict[str, Any]] = {
    "down": {"down": True},
    "no JSON": {"body": b"<html>"},
    "deep": {"body": b"[" * 100_000},
    "a number": {"body": b"7"},
    "megabytes": {"body": b"x" * (BATCH_LIMIT + 1)},
    "server error": {"status": 502, "body": b"bad gateway"},
    "redirect": {"status": 302, "headers": {"location": "http://elsewhere.test/"}, "body": b""},
    "compressed": {"headers": {"content-encoding": "gzip"}, "body": b"\x1f\x8b"},
    "neither": {"body": b'{"jsonrpc":"2.0","id":1}'},
    "another id": {"body": b'{"jsonrpc":"2.0","id":12345,"result":"0x1"}'},
    "no error object": {"body": b'{"jsonrpc":"2.0","id":1,"error":"no"}'},
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("batches", [True, False])
async def test_a_broken_endpoint_is_unavailable_and_its_key_not_shown(name: str, batches: bool) -> None:
    node = node_with_contract()
    for attribute, value in BROKEN[name].items():
        setattr(node, attribute, value)
    async with node.reader() as reader:
        if not batches:
            reader._readers[0]._learn("batches", can=False)
        with pytest.raises(CollateralError) as refused:
            await reader.call_many(asked(1))
    assert node.name in str(refused.value)
    assert not any(secret in str(refused.value) for secret in ("secret", "hidden", "/v1"))


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("eth_chainId", 31337),
        ("eth_chainId", "0x" + "f" * 17),
        ("eth_getBlockByNumber", []),
        ("eth_getBlockByNumber", {"number": "0x1", "hash": "0x12", "timestamp": "0x0"}),
        ("eth_call", None),
        ("eth_call", "0x1"),
        ("eth_call", "0x 12"),
        ("eth_call", "12"),
        ("eth_call", "0xzz"),
    ],
)
async def test_garbage_is_unavailable(method: str, answer: Any) -> None:
    node = node_with_contract()
    node.methods[method] = lambda *_: answer
    async with node.reader() as reader:
        with pytest.raises(CollateralError):
            await reader.call_many(asked(1))


# --- blocks (rules 2, 5)


async def test_another_chain_is_refused_at_each_pinning() -> None:
    node = node_with_contract()
    async with node.reader() as reader:
        await reader.call_many(asked(1))
        node.chain_id = 1
        with pytest.raises(CollateralError) as refused:
            await reader.call_many(asked(1))
    assert refused.value.finding.code == "chain.wrong-chain"
    assert (refused.value.finding.expected, refused.value.finding.found) == (f"chain {CHAIN_ID}", "chain 1")


async def test_confirmations_are_counted_from_the_head() -> None:
    node = node_with_contract(head=5)
    async with node.reader(confirmations=5) as reader:
        assert (await reader.call_many(asked(1)))[0] == block_of(node, 0)
        node.head = 4
        with pytest.raises(CollateralError) as refused:
            await reader.call_many(asked(1))
    assert refused.value.finding.code == "chain.unconfirmed"


async def test_a_reorganisation_above_the_confirmed_block_changes_nothing() -> None:
    node = node_with_contract()
    async with node.reader(confirmations=3) as reader:
        block = await reader.pinned()
        node.forks[98] = "other"
        assert await reader.call_many(asked(1), block) == (block_of(node, 97), expected(1))


@pytest.mark.parametrize("batch_limit", [None, 0])
async def test_a_reorganisation_below_the_confirmed_block_gives_no_answer(batch_limit: int | None) -> None:
    node = node_with_contract()
    node.batch_limit = batch_limit
    async with node.reader(confirmations=3) as reader:
        block = await reader.pinned()
        node.forks[97] = "other"
        with pytest.raises(CollateralError) as refused:
            await reader.call_many(asked(2), block)
    assert refused.value.finding.code == "chain.reorganised"


async def test_a_block_that_the_endpoint_has_not_is_unavailable() -> None:
    node = node_with_contract()
    async with node.reader() as reader:
        with pytest.raises(CollateralError):
            await reader.call_many(asked(1), Block(101, node.hash(101), 0))
        with pytest.raises(CollateralError) as refused:
            await reader.call_many((), Block(101, node.hash(101), 0))
    assert refused.value.finding.code == "chain.no-block"


# --- the deadline


@pytest.mark.parametrize("delay", [10.0, 0.15])
async def test_nothing_lasts_longer_than_the_deadline(delay: float) -> None:
    node = node_with_contract()
    node.delay, node.batch_limit = delay, 0
    began = time.monotonic()
    async with node.reader(timeout=0.3) as reader:
        with pytest.raises(CollateralError) as refused:
            await reader.call_many(asked(200))
    assert refused.value.finding.code == "chain.timeout"
    assert time.monotonic() - began < 2


# --- events, receipts, code


async def test_events_come_in_their_order() -> None:
    node = FakeNode()
    node.add_event(ADDRESS, [word(1), word(2)], b"\2", at=7)
    node.add_event(ADDRESS, [word(1)], b"\1", at=6)
    node.add_event(HOSTILE, [word(1)], at=6)
    node.add_event(ADDRESS, [word(3)], b"\3", at=9)
    async with node.reader() as reader:
        logs = await reader.logs(ADDRESS, (), 0, 8)
        assert [(log.block_number, log.data, log.block_hash) for log in logs] == [
            (6, b"\1", node.hash(6)),
            (7, b"\2", node.hash(7)),
        ]
        assert [log.data for log in await reader.logs(ADDRESS, ([word(1), word(3)],), 0, 9)] == [
            b"\1",
            b"\2",
            b"\3",
        ]
        assert [log.data for log in await reader.logs(ADDRESS, (None, word(2)), 0, 9)] == [b"\2"]


@pytest.mark.parametrize(
    "changed",
    [
        {"address": "0x" + "bb" * 20},
        {"address": "0x12"},
        {"blockNumber": "0xff"},
        {"topics": None},
        {"topics": ["0x12"]},
        {"removed": True},
        None,
    ],
)
async def test_events_that_are_none_are_refused(changed: dict[str, Any] | None) -> None:
    node = FakeNode()
    node.add_event(ADDRESS, [word(1)], at=6)
    event = node.events[0]
    node.methods["eth_getLogs"] = lambda _: {} if changed is None else [{**event, **changed}]
    async with node.reader() as reader:
        with pytest.raises(CollateralError):
            await reader.logs(ADDRESS, (), 0, 8)


async def test_code_and_receipts_are_read() -> None:
    node = FakeNode()
    node.codes[ADDRESS] = b"\xfe"
    node.add_event(ADDRESS, [word(1)], at=6)
    event = node.events[0]
    identity = event["transactionHash"]
    node.receipts[identity] = {
        "transactionHash": identity,
        "status": "0x0",
        "blockNumber": "0x6",
        "blockHash": event["blockHash"],
        "logs": [event],
    }
    async with node.reader() as reader:
        assert await reader.code(ADDRESS, block_of(node, 100)) == b"\xfe"
        assert await reader.code(HOSTILE, block_of(node, 100)) == b""
        assert await reader.receipt(word(9)) is None
        found = await reader.receipt(bytes.fromhex(identity[2:]))
        assert found == Receipt(bytes.fromhex(identity[2:]), False, 6, await reader.logs(ADDRESS, (), 6, 6))


# --- URLs


@pytest.mark.parametrize(
    "url", ["", "ftp://host/", "http://", "http://host:x/", "http://host/#part", "host:8545"]
)
def test_another_url_is_misuse(url: str) -> None:
    with pytest.raises(MisuseError):
        Endpoint(url)


async def test_of_a_url_scheme_host_and_port_are_shown() -> None:
    for url, shown in {
        "https://user:word@rpc.test/v3/KEY?k=KEY": "https://rpc.test",
        "http://127.0.0.1:8545": "http://127.0.0.1:8545",
        "http://[::1]:8545/": "http://[::1]:8545",
    }.items():
        endpoint = Endpoint(url)
        assert (endpoint.shown, repr(endpoint)) == (shown, f"Endpoint({shown!r})")
        await endpoint.aclose()


async def test_a_silent_listener_is_not_waited_for() -> None:
    """A real socket that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(CollateralError) as refused:
            await open_reader([url], ReaderSettings(timeout=0.2))
    assert refused.value.finding.code == "chain.timeout"


def test_reading_and_writing_leave_the_recursion_limit_alone() -> None:
    """With a limit raised as far as eth_account's imports raise it, deeply nested JSON ends the process."""
    program = (
        "import sys; before = sys.getrecursionlimit()\n"
        "import teehouse.chain.deploy, teehouse.chain.rpc_reader, teehouse.kms.auth_chain, teehouse.cli.governing\n"
        "assert 'eth_account' not in sys.modules and sys.getrecursionlimit() == before"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
