"""Reading a chain by one endpoint, in the fastest way that it can (onchain.md 8.1).

Rules:

1. Many calls go as JSON-RPC batches; by aggregate3 where the endpoint refuses batches and the chain has that
   contract; else as single calls, `IN_FLIGHT` at a time. What the endpoint can do is learned from what it
   does, and forgotten after `LEARNED_SECONDS`.
2. Every call names one block by number and the gas it may burn. After the calls (in the same batch where
   there is one) the block is looked at again: another hash means that the chain was reorganised or the
   endpoint is of another chain, and no answer is given.
3. What a contract does wrong is its answer, not ok: reverting, burning its gas, halting, and answering more
   than one answer may have. Every other fault is the endpoint's.
4. A contract called by aggregate3 that fails without a word may have been robbed of its gas by another one:
   it is asked again, alone.
5. Each time a block is pinned the chain's id is asked for and must be the expected one.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

from teehouse.base.findings import CollateralError, EvidenceError, TeehouseError, unavailable
from teehouse.chain.calls import decode_aggregate3, decode_revert, encode_aggregate3
from teehouse.chain.endpoint import BatchRefused, Endpoint, Fault
from teehouse.chain.reader import ADDRESS_SIZE, WORD_SIZE, Answer, Block, Call, Log, Receipt

GAS_CAP: Final = 5_000_000  # of one call; a decision with the longest advisories takes less than two million
AGGREGATE_GAS: Final = 25_000_000  # of one aggregate3; below the caps that nodes have
BATCH_SIZE: Final = 250  # calls of one batch
AGGREGATE_SIZE: Final = 100  # calls of one aggregate3
IN_FLIGHT: Final = 16
LEARNED_SECONDS: Final = 600.0
LOGS_LIMIT: Final = 16 * 1024 * 1024  # bytes of the answer to one eth_getLogs
MULTICALL3: Final = bytes.fromhex("ca11bde05977b3631167028862be2a173976ca11")

_QUANTITY = re.compile(r"0x[0-9a-fA-F]{1,16}\Z")
# How nodes say that a contract, and not they, failed (geth, reth, erigon, nethermind, anvil).
_CONTRACT_FAULT = re.compile(
    r"revert|out ?of ?gas|gas required exceeds|intrinsic gas|invalid ?(?:fe)? ?opcode|opcode|evm error"
    r"|stack (?:under|over)flow|invalid jump|vm execution error|write protection|return data out of bounds",
    re.IGNORECASE,
)
_REVERT_CODE = 3

T = TypeVar("T")


class EndpointReader:
    """One endpoint. Every method raises `CollateralError`; none has a deadline of its own."""

    def __init__(
        self,
        endpoint: Endpoint,
        chain_id: int,
        *,
        confirmations: int = 0,
        gas_cap: int = GAS_CAP,
        multicall: bytes | None = MULTICALL3,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.endpoint = endpoint
        self._chain_id = chain_id
        self._confirmations = confirmations
        self._gas = hex(gas_cap)
        self._multicall = multicall
        self._monotonic = monotonic
        self._learned: dict[str, tuple[float, bool]] = {}  # what, until when, whether it can (rule 1)

    async def head(self) -> Block:
        """The newest block, after the check of the chain's id (rule 5)."""
        requests: list[tuple[str, Sequence[Any]]] = [
            ("eth_chainId", ()),
            ("eth_getBlockByNumber", ("latest", False)),
        ]
        chain_id, block = await self._ask_all(requests)
        self._check_chain(chain_id)
        return self._block(block)

    async def block(self, number: int) -> Block:
        """The block of this number."""
        return self._block(await self._ask("eth_getBlockByNumber", hex(number), False), number)

    async def pinned(self) -> Block:
        """The head less the confirmations; refused while the chain has fewer blocks."""
        head = await self.head()
        return head if not self._confirmations else await self.block(self.confirmed(head.number))

    def confirmed(self, head: int) -> int:
        """The number of the block to read at below this head."""
        if head < self._confirmations:
            raise self.endpoint.failed(
                f"a chain of at least {self._confirmations} blocks",
                f"block {head}",
                "chain.unconfirmed",
            )
        return head - self._confirmations

    async def call_many(self, calls: Sequence[Call], block: Block) -> tuple[Answer, ...]:
        """The answers at this block (rules 1 to 4)."""
        if self._can("batches") is not False:
            try:
                return await self._by_batch(calls, block)
            except BatchRefused:
                self._learn("batches", can=False)
            except CollateralError as error:
                if error.finding.code != "chain.too-long":
                    raise  # a contract that answers megabytes is found by asking alone (rule 3)
        if len(calls) > 1 and await self._has_multicall(block):
            answers = await self._by_aggregate(calls, block)
        else:
            answers = await self._by_singles(calls, block)
        self._check_same(block, await self.block(block.number))
        return answers

    async def code(self, address: bytes, block: Block) -> bytes:
        """The code at an address."""
        return self._bytes(await self._ask("eth_getCode", _hex(address), hex(block.number)))

    async def logs(
        self,
        address: bytes,
        topics: Sequence[bytes | Sequence[bytes] | None],
        from_block: int,
        to_block: int,
    ) -> tuple[Log, ...]:
        """The events of one contract, in their order; those the node took back are none."""
        wanted = [_topic(one) for one in topics]
        found = await self._ask(
            "eth_getLogs",
            {
                "address": _hex(address),
                "topics": wanted,
                "fromBlock": hex(from_block),
                "toBlock": hex(to_block),
            },
            limit=LOGS_LIMIT,
        )
        if not isinstance(found, list):
            raise self._garbage("a list of events")
        logs = [self._log(one) for one in found]
        if any(log.address != address or not from_block <= log.block_number <= to_block for log in logs):
            raise self._garbage("the events of one contract and range")
        return tuple(sorted(logs, key=lambda log: (log.block_number, log.index)))

    async def receipt(self, transaction_hash: bytes) -> Receipt | None:
        """The receipt of a transaction; None while no block has it."""
        found = await self._ask("eth_getTransactionReceipt", _hex(transaction_hash), limit=LOGS_LIMIT)
        if found is None:
            return None
        if not isinstance(found, dict) or not isinstance(found.get("logs"), list):
            raise self._garbage("a receipt")
        logs = tuple(self._log(one) for one in found["logs"])
        block = self._uint(found.get("blockNumber"))
        told = {self._word(found.get("transactionHash")), *(log.transaction_hash for log in logs)}
        if told != {transaction_hash} or any(log.block_number != block for log in logs):
            raise self._garbage("the receipt of one transaction")
        return Receipt(transaction_hash, self._uint(found.get("status")) == 1, block, logs)

    # --- ways (rule 1)

    async def _by_batch(self, calls: Sequence[Call], block: Block) -> tuple[Answer, ...]:
        requests: list[tuple[str, Sequence[Any]]] = [("eth_call", self._call(call, block)) for call in calls]
        again = ("eth_getBlockByNumber", (hex(block.number), False))
        parts = [requests[at : at + BATCH_SIZE] for at in range(0, len(requests), BATCH_SIZE)] or [[]]
        parts[-1] = [*parts[-1], again]  # rule 2
        found: list[Any | Fault] = []
        for part in parts:
            found += await self.endpoint.ask_batch(part)
        if any(isinstance(one, Fault) and not is_contracts(one) for one in found):
            raise BatchRefused("some of its calls")
        self._learn("batches", can=True)
        self._check_same(block, self._block(found.pop(), block.number))
        return tuple(self._answer(one) for one in found)

    async def _by_aggregate(self, calls: Sequence[Call], block: Block) -> tuple[Answer, ...]:
        parts = [calls[at : at + AGGREGATE_SIZE] for at in range(0, len(calls), AGGREGATE_SIZE)]
        return tuple([answer for part in parts for answer in await self._aggregate(part, block)])

    async def _aggregate(self, calls: Sequence[Call], block: Block) -> Sequence[Answer]:
        """One aggregate3; all its calls alone where the whole of it failed or was no answer."""
        data = encode_aggregate3([(call.to, call.data) for call in calls])
        params = {"to": _hex(self._multicall or b""), "data": _hex(data), "gas": hex(AGGREGATE_GAS)}
        try:
            whole = self._answer(await self.endpoint.ask("eth_call", params, hex(block.number)))
            found = decode_aggregate3(whole.data, len(calls))
        except EvidenceError:
            return await self._by_singles(calls, block)
        except CollateralError as error:
            if error.finding.code != "chain.too-long":
                raise
            return await self._by_singles(calls, block)
        unclear = [index for index, (ok, data) in enumerate(found) if not ok and not data]  # rule 4
        alone = await self._by_singles([calls[index] for index in unclear], block)
        answers = [Answer(ok, data) if ok else _denied(data) for ok, data in found]
        for index, answer in zip(unclear, alone, strict=True):
            answers[index] = answer
        return answers

    async def _by_singles(self, calls: Sequence[Call], block: Block) -> tuple[Answer, ...]:
        room = asyncio.Semaphore(IN_FLIGHT)

        async def one(call: Call) -> Answer:
            async with room:
                try:
                    return self._answer(await self.endpoint.ask("eth_call", *self._call(call, block)))
                except CollateralError as error:
                    if error.finding.code != "chain.too-long":
                        raise
                    return Answer(ok=False, reason="the answer is too long")  # rule 3

        return tuple(await gathered([one(call) for call in calls]))

    async def _has_multicall(self, block: Block) -> bool:
        if self._multicall is None:
            return False
        known = self._can("aggregate3")
        if known is None:
            known = bool(await self.code(self._multicall, block))
            self._learn("aggregate3", can=known)
        return known

    def _can(self, what: str) -> bool | None:
        until, can = self._learned.get(what, (0.0, None))
        return can if self._monotonic() < until else None

    def _learn(self, what: str, *, can: bool) -> None:
        self._learned[what] = self._monotonic() + LEARNED_SECONDS, can

    # --- requests and what they give

    def _call(self, call: Call, block: Block) -> tuple[dict[str, str], str]:
        return {"to": _hex(call.to), "data": _hex(call.data), "gas": self._gas}, hex(block.number)

    async def _ask(self, method: str, *params: Any, limit: int | None = None) -> Any:
        bound = {} if limit is None else {"limit": limit}
        return self._result(await self.endpoint.ask(method, *params, **bound))

    async def _ask_all(self, requests: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        if self._can("batches") is not False:
            try:
                found = await self.endpoint.ask_batch(requests)
                if not any(isinstance(one, Fault) for one in found):
                    return found
            except BatchRefused:
                self._learn("batches", can=False)
        return await gathered([self._ask(method, *params) for method, params in requests])

    def _result(self, found: Any | Fault) -> Any:
        if isinstance(found, Fault):
            raise self.endpoint.failed("a result", f"error {found.code}: {found.message}", "chain.fault")
        return found

    def _answer(self, found: Any | Fault) -> Answer:
        if not isinstance(found, Fault):
            return Answer(ok=True, data=self._bytes(found))
        if not is_contracts(found):
            self._result(found)
        return (
            _denied(found.data)
            if found.data
            else Answer(ok=False, reason=found.message or "execution reverted")
        )

    def _check_chain(self, found: Any) -> None:
        chain_id = self._uint(found)
        if chain_id != self._chain_id:
            raise self.endpoint.failed(f"chain {self._chain_id}", f"chain {chain_id}", "chain.wrong-chain")

    def _check_same(self, block: Block, again: Block) -> None:
        if again.hash != block.hash:
            raise unavailable(
                "chain.reorganised",
                f"block {block.number} at {self.endpoint.shown} is another than before",
                expected=block.hash.hex(),
                found=again.hash.hex(),
                remedy="ask again; with more confirmations this does not happen",
            )

    def _block(self, found: Any, number: int | None = None) -> Block:
        if not isinstance(found, dict):
            raise self.endpoint.failed(
                "a block", "none" if found is None else "something else", "chain.no-block"
            )
        block = Block(
            self._uint(found.get("number")), self._word(found.get("hash")), self._uint(found.get("timestamp"))
        )
        if number is not None and block.number != number:
            raise self._garbage(f"block {number}")
        return block

    def _log(self, found: Any) -> Log:
        if not isinstance(found, dict) or not isinstance(found.get("topics"), list) or found.get("removed"):
            raise self._garbage("an event")
        address = self._bytes(found.get("address"))
        if len(address) != ADDRESS_SIZE:
            raise self._garbage("an address of 20 bytes")
        return Log(
            address,
            tuple(self._word(one) for one in found["topics"]),
            self._bytes(found.get("data")),
            self._uint(found.get("blockNumber")),
            self._word(found.get("blockHash")),
            self._word(found.get("transactionHash")),
            self._uint(found.get("logIndex")),
        )

    def _uint(self, found: Any) -> int:
        if not isinstance(found, str) or not _QUANTITY.match(found):
            raise self._garbage("a quantity")
        return int(found, 16)

    def _bytes(self, found: Any) -> bytes:
        try:
            if isinstance(found, str) and found.startswith("0x") and len(found.split()) == 1:
                return bytes.fromhex(found[2:])
        except ValueError:
            pass
        raise self._garbage("bytes in hex")

    def _word(self, found: Any) -> bytes:
        word = self._bytes(found)
        if len(word) != WORD_SIZE:
            raise self._garbage("32 bytes")
        return word

    def _garbage(self, expected: str) -> TeehouseError:
        return self.endpoint.failed(expected, "something else")


async def gathered(work: Sequence[Awaitable[T]]) -> list[T]:
    """The results of all of them; the first failure ends the others and is raised as it is."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _denied(data: bytes) -> Answer:
    return Answer(ok=False, reason=decode_revert(data))


def is_contracts(fault: Fault) -> bool:
    """Whether a contract, and not the endpoint, is at fault (rule 3)."""
    return fault.code == _REVERT_CODE or bool(_CONTRACT_FAULT.search(fault.message))


def _topic(topic: bytes | Sequence[bytes] | None) -> str | list[str] | None:
    if topic is None:
        return None
    return _hex(topic) if isinstance(topic, bytes) else [_hex(one) for one in topic]


def _hex(data: bytes) -> str:
    return f"0x{data.hex()}"
