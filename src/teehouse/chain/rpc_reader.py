"""The `Reader` of a chain over one or several JSON-RPC endpoints (onchain.md 8.1, 10).

Rules:

1. Without a quorum, endpoints are asked one after the other until one answers, beginning with the one that
   answered last; after `PREFERRED_SECONDS` it begins with the first again. Each has an equal share of the time
   that is left, so that a silent one leaves time for the others.
2. With a quorum of `q`, all endpoints are asked at once and `q` of them must give the same answer, hash of the
   block included; `q` is more than half of them, so that there are never two such answers. The block is the
   newest that the first `q` to answer all have, less the confirmations. As soon as `q` agree the others are not
   waited for.
3. Where no `q` agree and endpoints contradict each other, the refusal "chain.disagreement" names them. One that
   is outvoted is logged.
4. Everything, all attempts and the second look at the block included, ends within `timeout` seconds.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from teehouse.base.findings import CollateralError, misuse, unavailable
from teehouse.chain.endpoint import TIMEOUT, Endpoint, Fault
from teehouse.chain.endpoint_reader import GAS_CAP, MULTICALL3, EndpointReader
from teehouse.chain.reader import Answer, Block, Call, Log, Receipt

PREFERRED_SECONDS: Final = 60.0
ENDPOINTS_LIMIT: Final = 16

_logger = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ReaderSettings:
    """How a chain is read.

    `confirmations` are blocks below the head, `gas_cap` is gas of one call, `timeout` seconds of one method,
    `quorum` endpoints that must agree, `multicall` the address (20 bytes) of aggregate3, None for never.
    """

    confirmations: int = 0
    gas_cap: int = GAS_CAP
    timeout: float = TIMEOUT
    quorum: int = 1
    multicall: bytes | None = MULTICALL3


class RpcReader:
    """A `Reader` over `endpoints`, which it closes; a context manager.

    Raises `MisuseError` for no endpoint, too many, or a quorum that is not more than half of them (rule 2).
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        chain_id: int,
        settings: ReaderSettings | None = None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        settings = settings or ReaderSettings()
        count = len(endpoints)
        if not 1 <= count <= ENDPOINTS_LIMIT:
            raise misuse(
                "chain.endpoints",
                "the endpoints of a chain",
                expected=f"1 to {ENDPOINTS_LIMIT}",
                found=str(count),
            )
        if settings.quorum != 1 and not count < 2 * settings.quorum <= 2 * count:
            raise misuse(
                "chain.quorum",
                f"a quorum among {count} endpoints",
                expected=f"1 for none, or {count // 2 + 1} to {count}",
                found=str(settings.quorum),
            )
        if settings.confirmations < 0:
            raise misuse("chain.confirmations", "confirmations", expected="0 or more")
        self._chain_id = chain_id
        self._settings = settings
        self._monotonic = monotonic
        self._readers = [
            EndpointReader(
                endpoint,
                chain_id,
                confirmations=settings.confirmations,
                gas_cap=settings.gas_cap,
                multicall=settings.multicall,
                monotonic=monotonic,
            )
            for endpoint in endpoints
        ]
        self._preferred = 0, 0.0  # index, until when (rule 1)

    @property
    def chain_id(self) -> int:
        """The id of the chain that is read."""
        return self._chain_id

    @property
    def shown(self) -> str:
        """The first endpoint, as it may be shown: scheme and host."""
        return self._readers[0].endpoint.shown

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the endpoints."""
        for reader in self._readers:
            await reader.endpoint.aclose()

    async def pinned(self) -> Block:
        """The block to read at (rule 2). Raises `CollateralError`."""
        return await self._pinned(self._deadline())

    async def call_many(
        self, calls: Sequence[Call], block: Block | None = None
    ) -> tuple[Block, tuple[Answer, ...]]:
        """The answers at the block, or at `pinned()`. Raises `CollateralError`."""
        deadline = self._deadline()
        if self._has_quorum:
            at = block or await self._pinned(deadline)
            # Nodes word their reasons differently; that a contract refused is what they must agree on.
            return at, await self._agreed(
                lambda reader: reader.call_many(calls, at),
                lambda answers: tuple(answer.data if answer.ok else None for answer in answers),
                f"the answers of block {at.number}",
                deadline,
            )

        async def one(reader: EndpointReader) -> tuple[Block, tuple[Answer, ...]]:
            at = block or await reader.pinned()
            return at, await reader.call_many(calls, at)

        return await self._first(one, deadline)

    async def code(self, address: bytes, block: Block) -> bytes:
        """The code at an address (20 bytes). Raises `CollateralError`."""
        return await self._one(lambda reader: reader.code(address, block), "the code of a contract")

    async def logs(
        self,
        address: bytes,
        topics: Sequence[bytes | Sequence[bytes] | None],
        from_block: int,
        to_block: int,
    ) -> tuple[Log, ...]:
        """The events of a contract in a range of blocks. Raises `CollateralError`."""
        return await self._one(
            lambda reader: reader.logs(address, topics, from_block, to_block), "the events of a contract"
        )

    async def receipt(self, transaction_hash: bytes) -> Receipt | None:
        """The receipt of a transaction (32 bytes), None while no block has it. Raises `CollateralError`."""
        return await self._one(
            lambda reader: reader.receipt(transaction_hash), "the receipt of a transaction"
        )

    @property
    def _has_quorum(self) -> bool:
        return self._settings.quorum > 1

    def _deadline(self) -> float:
        """When everything has to be over (rule 4), in the loop's time."""
        return asyncio.get_running_loop().time() + self._settings.timeout

    async def _pinned(self, deadline: float) -> Block:
        if not self._has_quorum:
            return await self._first(lambda reader: reader.pinned(), deadline)
        heads = await self._heads(deadline)
        number = self._readers[0].confirmed(heads[self._settings.quorum - 1])
        return await self._agreed(
            lambda reader: reader.block(number), lambda block: block, f"block {number}", deadline
        )

    async def _heads(self, deadline: float) -> list[int]:
        """The heads of a quorum of endpoints at least, the newest first; a slow one is not waited for."""
        tasks = [
            asyncio.ensure_future(self._named(reader, lambda reader: reader.head(), deadline))
            for reader in self._readers
        ]
        heads: list[int] = []
        problems: list[CollateralError] = []
        try:
            for task in asyncio.as_completed(tasks):
                _, found = await task
                if isinstance(found, CollateralError):
                    problems.append(found)
                else:
                    heads.append(found.number)
                if len(heads) >= self._settings.quorum:
                    return sorted(heads, reverse=True)
        finally:
            await _ended(tasks)
        raise _all_failed(problems)

    async def _one(self, ask: Callable[[EndpointReader], Awaitable[T]], what: str) -> T:
        deadline = self._deadline()
        if self._has_quorum:
            return await self._agreed(ask, lambda found: found, what, deadline)
        return await self._first(ask, deadline)

    async def _first(self, ask: Callable[[EndpointReader], Awaitable[T]], deadline: float) -> T:
        """Rule 1."""
        place, until = self._preferred
        start = place if self._monotonic() < until else 0
        count = len(self._readers)
        problems = []
        for position in range(count):
            place = (start + position) % count
            now = asyncio.get_running_loop().time()
            share = now + (deadline - now) / (count - position)
            _, found = await self._named(self._readers[place], ask, share)
            if not isinstance(found, CollateralError):
                if position:
                    self._preferred = place, self._monotonic() + PREFERRED_SECONDS
                return found
            problems.append(found)
        raise _all_failed(problems)

    async def _agreed(
        self,
        ask: Callable[[EndpointReader], Awaitable[T]],
        key: Callable[[T], Hashable],
        what: str,
        deadline: float,
    ) -> T:
        """Rules 2 and 3."""
        tasks = [asyncio.ensure_future(self._named(reader, ask, deadline)) for reader in self._readers]
        votes: dict[Hashable, list[str]] = {}
        problems = []
        try:
            for task in asyncio.as_completed(tasks):
                name, found = await task
                if isinstance(found, CollateralError):
                    problems.append(found)
                    continue
                voters = votes.setdefault(key(found), [])
                voters.append(name)
                if len(voters) >= self._settings.quorum:
                    for others in (names for names in votes.values() if names is not voters):
                        _logger.warning("outvoted about %s: %s", what, ", ".join(others))
                    return found
        finally:
            await _ended(tasks)
        if len(votes) > 1:
            groups = sorted(
                (sorted(names) for names in votes.values()), key=lambda names: (-len(names), names)
            )
            raise unavailable(
                "chain.disagreement",
                f"endpoints contradict each other about {what}",
                expected=f"{self._settings.quorum} that agree",
                found=" against ".join(" and ".join(names) for names in groups),
                remedy="find out which of them is wrong",
            )
        raise _all_failed(problems)

    async def _named(
        self, reader: EndpointReader, ask: Callable[[EndpointReader], Awaitable[T]], deadline: float
    ) -> tuple[str, T | CollateralError]:
        """What one endpoint gives until the deadline, with its name."""
        endpoint = reader.endpoint
        try:
            async with asyncio.timeout_at(deadline):
                return endpoint.shown, await ask(reader)
        except TimeoutError:
            expected = f"an answer within its share of {self._settings.timeout:g} seconds"
            return endpoint.shown, endpoint.failed(expected, "none", "chain.timeout")
        except CollateralError as error:
            return endpoint.shown, error


async def open_reader(
    urls: Sequence[str], settings: ReaderSettings | None = None, *, chain_id: int | None = None
) -> RpcReader:
    """A reader over the endpoints at `urls`; without `chain_id` the chain's id is the one the first one tells.

    Raises `MisuseError` as `Endpoint` and `RpcReader` do, `CollateralError` when the id cannot be learned.
    """
    settings = settings or ReaderSettings()
    endpoints = [Endpoint(url, timeout=settings.timeout) for url in urls]
    try:
        if chain_id is None and endpoints:
            async with asyncio.timeout(settings.timeout):
                chain_id = await _told_chain_id(endpoints[0])
        return RpcReader(endpoints, chain_id or 0, settings)
    except BaseException as error:
        for endpoint in endpoints:
            await endpoint.aclose()
        if isinstance(error, TimeoutError):
            expected = f"an answer within {settings.timeout:g} seconds"
            raise endpoints[0].failed(expected, "none", "chain.timeout") from None
        raise


async def _told_chain_id(endpoint: Endpoint) -> int:
    found = await endpoint.ask("eth_chainId")
    if isinstance(found, Fault):
        raise endpoint.failed("the chain's id", f"error {found.code}: {found.message}")
    try:
        return int(found, 16)
    except (TypeError, ValueError):
        raise endpoint.failed("the chain's id", "something else") from None


def _all_failed(problems: Sequence[CollateralError]) -> CollateralError:
    if len(problems) == 1:
        return problems[0]
    codes = {problem.finding.code for problem in problems}
    return unavailable(
        codes.pop() if len(codes) == 1 else "chain.unavailable",
        "no endpoint of the chain answers as it must",
        found="; ".join(str(problem) for problem in problems),
        remedy="check the endpoints",
    )


async def _ended(tasks: Any) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
