"""SCALE encoding, as far as attestations and signing requests need it (guest-agent.md 11.2).

Compact integers below 2^30, byte strings, text, vectors, options, booleans, fixed little-endian
integers. Compact integers of the big mode are refused: no length here may reach 2^30.
"""

from collections.abc import Callable, Iterable
from typing import TypeVar

from teehouse.base.codec import Reader
from teehouse.base.findings import malformed

T = TypeVar("T")
COMPACT_LIMIT = 1 << 30


def compact(value: int) -> bytes:
    """A compact integer in its shortest form; `value` is below 2^30."""
    if value < 0 or value >= COMPACT_LIMIT:
        raise ValueError("a compact integer here is below 2^30")
    if value < 1 << 6:
        return bytes([value << 2])
    if value < 1 << 14:
        return (value << 2 | 1).to_bytes(2, "little")
    return (value << 2 | 2).to_bytes(4, "little")


def byte_string(value: bytes) -> bytes:
    return compact(len(value)) + value


def text(value: str) -> bytes:
    return byte_string(value.encode())


def boolean(value: bool) -> bytes:
    return b"\x01" if value else b"\x00"


def option(value: bytes | None) -> bytes:
    """An option around an already encoded value."""
    return b"\x00" if value is None else b"\x01" + value


def vector(items: Iterable[bytes]) -> bytes:
    """A vector of already encoded elements."""
    encoded = list(items)
    return compact(len(encoded)) + b"".join(encoded)


class ScaleReader(Reader):
    """Reads SCALE from the front. Raises `EvidenceError` (malformed)."""

    __slots__ = ()

    def compact(self, what: str = "a compact integer") -> int:
        first = self.u8(what)
        mode = first & 3
        if mode == 0:
            return first >> 2
        if mode == 3:
            raise malformed(f"{self._name}.too-long", f"{what} of {self._name} is 2^30 or more")
        size = 2 if mode == 1 else 4
        value = (first | self.uint(size - 1, what) << 8) >> 2
        if value < (1 << 6 if mode == 1 else 1 << 14):
            # Two encodings of one value would let two different byte strings be the same evidence.
            raise malformed(
                f"{self._name}.not-canonical", f"{what} of {self._name} is not in its shortest form"
            )
        return value

    def byte_string(self, what: str = "bytes", *, limit: int | None = None) -> bytes:
        return self.take(self.compact(what), what, limit=limit)

    def text(self, what: str = "text", *, limit: int | None = None) -> str:
        raw = self.byte_string(what, limit=limit)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise malformed(f"{self._name}.not-utf8", f"{what} of {self._name} is not UTF-8") from None

    def boolean(self, what: str = "a boolean") -> bool:
        value = self.u8(what)
        if value > 1:
            raise malformed(
                f"{self._name}.not-bool",
                f"{what} of {self._name} is no boolean",
                expected="0 or 1",
                found=str(value),
            )
        return value == 1

    def option(self, read: Callable[[], T], what: str = "an option") -> T | None:
        return read() if self.boolean(what) else None

    def vector(self, read: Callable[[], T], what: str = "a vector", *, limit: int) -> list[T]:
        """A vector of at most `limit` elements, each read by `read`."""
        count = self.compact(what)
        if count > limit:
            raise malformed(
                f"{self._name}.too-long",
                f"{what} of {self._name} has too many elements",
                expected=f"at most {limit}",
                found=str(count),
            )
        return [read() for _ in range(count)]
