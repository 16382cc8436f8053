"""Transactions of EIP-1559, encoded and signed (EIP-2718, EIP-1559, EIP-2930's empty access list).

The signature is deterministic (RFC 6979), with the low one of both possible `s`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from coincurve import PrivateKey

from teehouse.base.findings import misuse
from teehouse.base.hashes import keccak256
from teehouse.chain.reader import ADDRESS_SIZE

Item: TypeAlias = "bytes | int | Sequence[Item]"

_TYPE = b"\x02"


@dataclass(frozen=True, slots=True)
class Transaction:
    """What is signed: fees in wei for each unit of gas, `to` has 20 bytes, `value` is in wei."""

    chain_id: int
    nonce: int
    max_priority_fee: int
    max_fee: int
    gas: int
    to: bytes
    data: bytes
    value: int = 0

    def signed(self, key: bytes) -> tuple[bytes, bytes]:
        """The signed transaction and its hash (32 bytes); `key` has 32 bytes. Raises `MisuseError` for no key."""
        fields: tuple[Item, ...] = (
            self.chain_id,
            self.nonce,
            self.max_priority_fee,
            self.max_fee,
            self.gas,
            self.to,
            self.value,
            self.data,
            (),
        )
        signature = private_key(key).sign_recoverable(keccak256(_TYPE + rlp(fields)), hasher=None)
        r, s, parity = int.from_bytes(signature[:32]), int.from_bytes(signature[32:64]), signature[64]
        raw = _TYPE + rlp((*fields, parity, r, s))
        return raw, keccak256(raw)


def private_key(key: bytes) -> PrivateKey:
    """The key of 32 bytes. Raises `MisuseError`, which does not show it."""
    try:
        return PrivateKey(
            key if len(key) == 32 else bytes(32)
        )  # shorter ones would be padded; zero is no key
    except ValueError:
        raise misuse("chain.key", "a private key", expected="a scalar of secp256k1, 32 bytes") from None


def address_of(key: bytes) -> bytes:
    """The account (20 bytes) of a private key (32 bytes). Raises `MisuseError`."""
    return keccak256(private_key(key).public_key.format(compressed=False)[1:])[-ADDRESS_SIZE:]


def rlp(item: Item) -> bytes:
    """Recursive length prefix of a number (0 or more), bytes, or a sequence of those."""
    if isinstance(item, int):
        item = item.to_bytes((item.bit_length() + 7) // 8)
    if isinstance(item, bytes):
        if len(item) == 1 and item[0] < 0x80:
            return item
        return _prefix(0x80, len(item)) + item
    content = b"".join(rlp(one) for one in item)
    return _prefix(0xC0, len(content)) + content


def _prefix(offset: int, size: int) -> bytes:
    if size <= 55:
        return bytes((offset + size,))
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes((offset + 55 + len(length),)) + length
