"""Several endpoints: fail-over and quorum (rpc_reader.py)."""

import time

import pytest

from support.chain_support import ADDRESS, CHAIN_ID, FakeNode, reader_of, reverting
from support.evm import reason, word
from teehouse.base.findings import CollateralError, MisuseError
from teehouse.chain.reader import Answer, Block, Call
from teehouse.chain.rpc_reader import (
    ENDPOINTS_LIMIT,
    PREFERRED_SECONDS,
    ReaderSettings,
    RpcReader,
    open_reader,
)

CALL = Call(ADDRESS, b"\1\2\3\4")
YES = Answer(ok=True, data=word(1))
NO = Answer(ok=True, data=word(0))


def nodes(*answers: int, head: int = 100) -> list[FakeNode]:
    made = []
    for answer in answers:
        node = FakeNode(head=head)
        node.contracts[ADDRESS] = lambda data, answer=answer: word(answer)  # type: ignore[misc] - bound now
        made.append(node)
    return made


def block(number: int = 100) -> Block:
    return Block(number, FakeNode().hash(number), number * 12)


# --- rule 1


async def test_the_next_endpoint_answers_for_one_that_is_down() -> None:
    first, second = nodes(1, 1)
    first.down = True
    async with reader_of(first, second) as reader:
        assert await reader.call_many([CALL]) == (block(), (YES,))


async def test_an_endpoint_of_another_chain_is_passed_over() -> None:
    first, second = nodes(0, 1)
    first.chain_id = 1
    async with reader_of(first, second) as reader:
        assert await reader.call_many([CALL]) == (block(), (YES,))


async def test_a_silent_endpoint_leaves_time_for_the_next() -> None:
    first, second = nodes(0, 1)
    first.delay = 30
    began = time.monotonic()
    async with reader_of(first, second, timeout=0.6) as reader:
        assert await reader.call_many([CALL]) == (block(), (YES,))
        assert time.monotonic() - began < 0.6
        began = time.monotonic()
        await reader.call_many([CALL])
        assert time.monotonic() - began < 0.25  # it begins with the one that answered


async def test_after_a_while_it_begins_with_the_first_again() -> None:
    first, second = nodes(0, 1)
    first.down, now = True, [0.0]
    async with reader_of(first, second, monotonic=lambda: now[0]) as reader:
        await reader.call_many([CALL])
        first.down = False
        assert (await reader.call_many([CALL]))[1] == (YES,)
        now[0] = PREFERRED_SECONDS + 1
        assert (await reader.call_many([CALL]))[1] == (NO,)


async def test_when_all_fail_each_is_named() -> None:
    first, second = nodes(1, 1)
    first.down, second.chain_id = True, 5
    async with reader_of(first, second) as reader:
        with pytest.raises(CollateralError) as refused:
            await reader.call_many([CALL])
    assert refused.value.finding.code == "chain.unavailable"
    assert first.name in str(refused.value)
    assert f"{second.name}: expected chain {CHAIN_ID}, found chain 5" in str(refused.value)


async def test_a_block_of_one_endpoint_is_no_block_of_another_branch() -> None:
    first, second = nodes(1, 1)
    second.forks[0] = "other"
    async with reader_of(first, second) as reader:
        pinned = await reader.pinned()
        first.down = True
        with pytest.raises(CollateralError) as refused:
            await reader.call_many([CALL], pinned)
    assert "is another than before" in str(refused.value)


# --- rules 2 and 3


async def test_two_of_three_that_agree_outvote_a_liar(caplog: pytest.LogCaptureFixture) -> None:
    liar, *honest = nodes(1, 0, 0)
    for node in honest:
        node.delay = 0.05  # the liar is heard first
    async with reader_of(liar, *honest, quorum=2) as reader:
        assert await reader.call_many([CALL]) == (block(), (NO,))
    assert caplog.messages == [f"outvoted about the answers of block 100: {liar.name}"]


async def test_a_liar_breaks_a_quorum_of_all_and_is_named() -> None:
    liar, *honest = nodes(1, 0, 0)
    async with reader_of(liar, *honest, quorum=3) as reader:
        with pytest.raises(CollateralError) as refused:
            await reader.call_many([CALL])
    finding = refused.value.finding
    names = " and ".join(sorted(node.name for node in honest))
    assert (finding.code, finding.expected, finding.found) == (
        "chain.disagreement",
        "3 that agree",
        f"{names} against {liar.name}",
    )


async def test_a_liar_about_blocks_is_outvoted() -> None:
    liar, *honest = nodes(1, 0, 0)
    liar.forks[0] = "lie"
    async with reader_of(liar, *honest, quorum=2) as reader:
        assert await reader.call_many([CALL]) == (block(), (NO,))


async def test_a_liar_with_a_silent_endpoint_gives_no_answer() -> None:
    liar, honest, silent = nodes(1, 0, 0)
    silent.delay = 30
    began = time.monotonic()
    async with reader_of(liar, honest, silent, quorum=2, timeout=0.4) as reader:
        with pytest.raises(CollateralError) as refused:
            await reader.call_many([CALL])
    assert refused.value.finding.code == "chain.disagreement"
    assert time.monotonic() - began < 2


async def test_a_slow_endpoint_is_not_waited_for() -> None:
    first, second, slow = nodes(1, 1, 1)
    slow.delay = 30
    began = time.monotonic()
    async with reader_of(first, second, slow, quorum=2) as reader:
        assert await reader.call_many([CALL]) == (block(), (YES,))
    assert time.monotonic() - began < 2


async def test_the_block_is_the_newest_that_a_quorum_has() -> None:
    ahead, down, behind = nodes(1, 1, 1)
    ahead.head, behind.head, down.down = 1000, 90, True  # who runs ahead alone does not decide
    async with reader_of(ahead, down, behind, quorum=2, confirmations=10) as reader:
        assert await reader.call_many([CALL]) == (block(80), (YES,))


async def test_without_a_quorum_that_answers_each_is_named() -> None:
    first, second, third = nodes(1, 1, 1)
    second.down, third.chain_id = True, 5
    async with reader_of(first, second, third, quorum=2) as reader:
        with pytest.raises(CollateralError) as refused:
            await reader.call_many([CALL])
        assert refused.value.finding.code == "chain.unavailable"
        with pytest.raises(CollateralError) as refused:
            await reader.call_many([CALL], Block(200, bytes(32), 0))
    assert first.name in str(refused.value)
    assert second.name in str(refused.value)


async def test_endpoints_agree_that_a_contract_refused_in_other_words() -> None:
    first, second = nodes(1, 1)
    first.contracts[ADDRESS] = reverting(reason("no"))
    second.contracts[ADDRESS] = reverting()
    async with reader_of(first, second, quorum=2) as reader:
        _, (answer,) = await reader.call_many([CALL])
    assert not answer.ok


async def test_code_and_events_need_the_quorum_too() -> None:
    first, second = nodes(1, 1)
    first.codes[ADDRESS] = b"\1"
    first.add_event(ADDRESS, [word(1)])
    async with reader_of(first, second, quorum=2) as reader:
        for asked in (reader.code(ADDRESS, block()), reader.logs(ADDRESS, (), 0, 100)):
            with pytest.raises(CollateralError) as refused:
                await asked
            assert refused.value.finding.code == "chain.disagreement"
        second.codes, second.events = first.codes, first.events
        assert await reader.code(ADDRESS, block()) == b"\1"
        assert len(await reader.logs(ADDRESS, (), 0, 100)) == 1


@pytest.mark.parametrize(
    ("count", "quorum"), [(0, 1), (ENDPOINTS_LIMIT + 1, 1), (3, 0), (4, 2), (3, 4), (1, 2)]
)
async def test_other_numbers_are_misuse(count: int, quorum: int) -> None:
    with pytest.raises(MisuseError):
        reader_of(*(FakeNode() for _ in range(count)), quorum=quorum)


async def test_confirmations_below_zero_are_misuse() -> None:
    with pytest.raises(MisuseError):
        reader_of(FakeNode(), confirmations=-1)


# --- opening


async def test_the_chain_tells_its_id_where_nobody_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    node = FakeNode(chain_id=8453)
    monkeypatch.setattr("teehouse.chain.rpc_reader.Endpoint", lambda url, **_: node.endpoint())
    async with await open_reader([node.name]) as reader:
        assert isinstance(reader, RpcReader)
        assert (reader.chain_id, reader.shown) == (8453, node.name)
    node.methods["eth_chainId"] = lambda: None
    with pytest.raises(CollateralError):
        await open_reader([node.name])
    del node.methods["eth_chainId"]
    node.down = True
    with pytest.raises(CollateralError):
        await open_reader([node.name])
    async with await open_reader([node.name], ReaderSettings(), chain_id=1) as reader:
        assert reader.chain_id == 1
    with pytest.raises(MisuseError):
        await open_reader([])
