"""What is read of a chain, and by whom (onchain.md 8.1, 10).

Rules for whoever implements `Reader`:

1. All answers of one `call_many` are of one block, which is told; it is the one asked for, or `pinned()`.
2. The chain's id is checked each time a block is pinned: a wrong chain is `CollateralError`.
3. What a contract does wrong (a revert, all gas burnt, an answer too long) is an `Answer` that is not ok.
   What an endpoint does wrong is `CollateralError`; no answer is then given at all.
4. Nothing lasts longer than the reader's deadline, and no answer is kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

ADDRESS_SIZE: Final = 20  # bytes
WORD_SIZE: Final = 32  # bytes: a hash, a device id, a topic


@dataclass(frozen=True, slots=True)
class Block:
    """One block: number, hash (32 bytes), time in seconds since 1970."""

    number: int
    hash: bytes
    timestamp: int


@dataclass(frozen=True, slots=True)
class Call:
    """A question to a contract: its address (20 bytes) and the calldata."""

    to: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What a contract answered. Where `ok` is False it refused, and `reason` says why; `data` is then empty."""

    ok: bool
    data: bytes = b""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Log:
    """One event: the contract (20 bytes), up to four topics (32 bytes each), data, and where it stands."""

    address: bytes
    topics: tuple[bytes, ...]
    data: bytes
    block_number: int
    block_hash: bytes
    transaction_hash: bytes
    index: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a transaction (its hash: 32 bytes) in the block it stands in; `ok` is False where it failed."""

    transaction_hash: bytes
    ok: bool
    block_number: int
    logs: tuple[Log, ...]


class Reader(Protocol):
    """Reads a chain. Each method raises `CollateralError` by rules 2 and 3."""

    @property
    def chain_id(self) -> int:
        """The id of the chain that is read."""
        ...

    async def pinned(self) -> Block:
        """The block to read at: the head less the confirmations (rule 2)."""
        ...

    async def call_many(
        self, calls: Sequence[Call], block: Block | None = None
    ) -> tuple[Block, tuple[Answer, ...]]:
        """The answers, in the order of the calls, with the block they are of (rule 1)."""
        ...

    async def code(self, address: bytes, block: Block) -> bytes:
        """The code at an address (20 bytes); empty where there is no contract."""
        ...

    async def logs(
        self,
        address: bytes,
        topics: Sequence[bytes | Sequence[bytes] | None],
        from_block: int,
        to_block: int,
    ) -> tuple[Log, ...]:
        """The events of a contract in a range of blocks, both ends included, in their order.

        A topic is its 32 bytes, a choice of several, or None for any.
        """
        ...

    async def receipt(self, transaction_hash: bytes) -> Receipt | None:
        """The receipt of a transaction (32 bytes), confirmed or not; None while no block has it."""
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...
