"""Changing what a chain says: transactions signed here, sent, and waited for (onchain.md 10).

Rules:

1. A transaction is tried out first (`eth_estimateGas`): what a contract would refuse is `EvidenceError` with its
   reason, and is never sent.
2. The nonce is the account's next one with the pending ones counted; of one writer, one transaction is on its
   way at a time. A nonce that somebody else took meanwhile is tried again, `NONCE_TRIES` times in all.
3. A transaction is signed for one chain, whose id the endpoint must tell before.
4. A receipt is waited for until the deadline; what is still on its way then is `CollateralError` with its hash.
5. The key is nowhere shown.
"""

import asyncio
import re
from typing import Any, Final, Protocol

from teehouse.base.findings import CollateralError, MisuseError, TeehouseError, misuse, rejected, unavailable
from teehouse.chain.calls import decode_revert
from teehouse.chain.endpoint import Endpoint, Fault
from teehouse.chain.endpoint_reader import EndpointReader, is_contracts
from teehouse.chain.reader import Receipt
from teehouse.chain.transaction import Transaction, address_of

TIMEOUT: Final = 60.0  # seconds of one transaction; a block of a public chain takes 12
NONCE_TRIES: Final = 3
GAS_ROOM: Final = 1.25  # of the estimate: state may change until the transaction is in a block
TIP: Final = 1_000_000_000  # wei for each unit of gas

_KEY = re.compile(r"(?:0x)?([0-9a-fA-F]{64})\s*\Z")
_NONCE_FAULT = re.compile(r"nonce too low|already known|replacement transaction underpriced", re.IGNORECASE)
_FUNDS_FAULT = re.compile(r"insufficient funds|sender doesn't have enough funds", re.IGNORECASE)
_FIRST_PAUSE, _LAST_PAUSE = 0.01, 0.5  # seconds between two looks for a receipt


class Writer(Protocol):
    """Changes a chain in the name of one account."""

    @property
    def address(self) -> bytes:
        """The account, 20 bytes."""
        ...

    @property
    def chain_id(self) -> int:
        """The id of the chain that is written to."""
        ...

    async def send(self, to: bytes, data: bytes) -> Receipt:
        """Call a contract (20 bytes) and wait until a block has it.

        Raises `EvidenceError` when the contract refuses, `CollateralError` when the chain cannot be reached or
        does not take it in time, `MisuseError` when the account has too little to pay with.
        """
        ...


def parse_key(text: str) -> bytes:
    """The private key (32 bytes) of 64 hex digits, with or without 0x. Raises `MisuseError`, without the text."""
    match = _KEY.match(text.strip())
    if match is None:
        raise misuse("chain.key", "a private key", expected="64 hex digits")
    return bytes.fromhex(match[1])


class RpcWriter:
    """A `Writer` over one endpoint, which stays its maker's to close. Raises `MisuseError` for a key that is none."""

    def __init__(self, endpoint: Endpoint, chain_id: int, key: bytes, *, timeout: float = TIMEOUT) -> None:
        self._address = address_of(key)
        self._endpoint = endpoint
        self._reader = EndpointReader(endpoint, chain_id)
        self._chain_id = chain_id
        self._key = key
        self._timeout = timeout
        self._lock = asyncio.Lock()

    @property
    def address(self) -> bytes:
        """The account, 20 bytes."""
        return self._address

    @property
    def chain_id(self) -> int:
        """The id of the chain that is written to."""
        return self._chain_id

    async def send(self, to: bytes, data: bytes) -> Receipt:
        """Call a contract and wait until a block has it; what it raises stands at `Writer`."""
        sent: bytes | None = None
        try:
            async with self._lock, asyncio.timeout(self._timeout):
                sent = await self._submitted(to, data)
                return await self._mined(sent)
        except TimeoutError:
            found = "none" if sent is None else f"transaction 0x{sent.hex()}, in no block yet"
            raise unavailable(
                "chain.pending",
                f"the chain at {self._endpoint.shown}",
                expected=f"the transaction in a block within {self._timeout:g} seconds",
                found=found,
                remedy="look for it later; it may still be taken",
            ) from None

    async def _submitted(self, to: bytes, data: bytes) -> bytes:
        """The hash of the transaction, sent (rules 1 to 3)."""
        for left in reversed(range(NONCE_TRIES)):
            raw, transaction_hash = (await self._transaction(to, data)).signed(self._key)
            found = await self._endpoint.ask("eth_sendRawTransaction", f"0x{raw.hex()}")
            if not isinstance(found, Fault):
                return transaction_hash
            if not left or not _NONCE_FAULT.search(found.message):
                raise self._refused(found)
        raise AssertionError("the loop returns or raises")  # pragma: no cover

    async def _transaction(self, to: bytes, data: bytes) -> Transaction:
        head = await self._reader.head()  # rule 3: it checks the chain's id
        call = {"from": f"0x{self._address.hex()}", "to": f"0x{to.hex()}", "data": f"0x{data.hex()}"}
        nonce, gas, max_fee = await asyncio.gather(
            self._quantity("eth_getTransactionCount", call["from"], "pending"),
            self._quantity("eth_estimateGas", call),
            self._max_fee(head.number),
        )
        return Transaction(self._chain_id, nonce, TIP, max_fee, int(gas * GAS_ROOM), to, data)

    async def _max_fee(self, number: int) -> int:
        """Twice the base fee of the head, and a tip: enough for six full blocks."""
        block = await self._endpoint.ask("eth_getBlockByNumber", hex(number), False)
        base = _quantity(block.get("baseFeePerGas")) if isinstance(block, dict) else None
        if base is None:
            raise self._endpoint.failed("a chain that has a base fee (EIP-1559)", "another")
        return 2 * base + TIP

    async def _quantity(self, method: str, *params: Any) -> int:
        found = await self._endpoint.ask(method, *params)
        if isinstance(found, Fault):
            raise self._refused(found)
        value = _quantity(found)
        if value is None:
            raise self._endpoint.failed("a quantity", "something else")
        return value

    async def _mined(self, transaction_hash: bytes) -> Receipt:
        pause = _FIRST_PAUSE
        while (receipt := await self._reader.receipt(transaction_hash)) is None:
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LAST_PAUSE)
        if not receipt.ok:
            raise rejected(
                "chain.reverted",
                f"transaction 0x{transaction_hash.hex()} was refused in block {receipt.block_number}",
                remedy="the state has changed since it was tried out; look and try again",
            )
        return receipt

    def _refused(self, fault: Fault) -> TeehouseError:
        if _FUNDS_FAULT.search(fault.message):
            return _poor(self._address)
        if is_contracts(fault):
            reason = decode_revert(fault.data) if fault.data else fault.message
            return rejected("chain.denied", "the contract refused", found=reason)
        return self._failed(fault)

    def _failed(self, fault: Fault) -> CollateralError:
        return self._endpoint.failed(
            "a transaction taken", f"error {fault.code}: {fault.message}", "chain.fault"
        )


def _poor(address: bytes) -> MisuseError:
    return misuse(
        "chain.funds",
        f"account 0x{address.hex()} has too little to pay the transaction with",
        remedy="send it some, or use another account",
    )


def _quantity(found: Any) -> int | None:
    try:
        return int(found, 16)
    except (TypeError, ValueError):
        return None
