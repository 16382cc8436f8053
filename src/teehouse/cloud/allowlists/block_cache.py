"""A reader of a chain that asks each question once per block (onchain.md 10).

Rules:

1. The block is pinned anew for each set of questions; an answer is kept for that block alone, number and hash. What
   a later block says is never older than the question.
2. Only what a contract answered is kept, not what it refused; answers longer than `ANSWER_LIMIT`, or beyond
   `ANSWERS_LIMIT` of them, are not.
3. Questions about another block than the newest go through.
"""

from collections.abc import Sequence
from typing import Final

from teehouse.chain.reader import Answer, Block, Call, Log, Reader, Receipt

ANSWERS_LIMIT: Final = 20_000
ANSWER_LIMIT: Final = 1024  # bytes


class BlockCache:
    """A `Reader` over another one, which it closes."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._block: Block | None = None
        self._answers: dict[Call, Answer] = {}

    @property
    def chain_id(self) -> int:
        """The id of the chain."""
        return self._reader.chain_id

    async def pinned(self) -> Block:
        """The block to read at; what is kept of an earlier one is forgotten (rule 1). Raises `CollateralError`."""
        block = await self._reader.pinned()
        if block != self._block and (self._block is None or block.number >= self._block.number):
            self._block, self._answers = block, {}
        return block

    async def call_many(
        self, calls: Sequence[Call], block: Block | None = None
    ) -> tuple[Block, tuple[Answer, ...]]:
        """As `Reader`; what is known of the block is not asked again."""
        at = block or await self.pinned()
        known = self._answers if at == self._block else {}
        missing = [call for call in dict.fromkeys(calls) if call not in known]
        told: dict[Call, Answer] = {}
        if missing:
            _, answers = await self._reader.call_many(missing, at)
            told = dict(zip(missing, answers, strict=True))
            if at == self._block:
                self._keep(told)
        return at, tuple(told[call] if call in told else known[call] for call in calls)

    def _keep(self, told: dict[Call, Answer]) -> None:
        """Rule 2."""
        for call, answer in told.items():
            if answer.ok and len(answer.data) <= ANSWER_LIMIT and len(self._answers) < ANSWERS_LIMIT:
                self._answers[call] = answer

    async def code(self, address: bytes, block: Block) -> bytes:
        """As `Reader`."""
        return await self._reader.code(address, block)

    async def logs(
        self,
        address: bytes,
        topics: Sequence[bytes | Sequence[bytes] | None],
        from_block: int,
        to_block: int,
    ) -> tuple[Log, ...]:
        """As `Reader`."""
        return await self._reader.logs(address, topics, from_block, to_block)

    async def receipt(self, transaction_hash: bytes) -> Receipt | None:
        """As `Reader`."""
        return await self._reader.receipt(transaction_hash)

    async def aclose(self) -> None:
        """Close the reader beneath."""
        await self._reader.aclose()
