"""A bounded reader of little-endian binary structures.

Rules:

1. No read goes past the end; a short input is `<name>.truncated`.
2. A declared length above the limit is `<name>.too-long` before anything is allocated for it.
3. `finish` refuses bytes that are left over: `<name>.trailing`.
"""

from teehouse.base.findings import malformed


class Reader:
    """Reads `data` from the front. `name` begins the codes of its errors (e.g. "quote").

    Raises `EvidenceError` (malformed) from every method.
    """

    __slots__ = ("_data", "_name", "position")

    def __init__(self, data: bytes, name: str, *, limit: int | None = None) -> None:
        if limit is not None and len(data) > limit:
            raise malformed(
                f"{name}.too-long",
                f"{name} is too long",
                expected=f"at most {limit} bytes",
                found=f"{len(data)}",
            )
        self._data = data
        self._name = name
        self.position = 0

    @property
    def left(self) -> int:
        """Bytes not yet read."""
        return len(self._data) - self.position

    def take(self, size: int, what: str = "bytes", *, limit: int | None = None) -> bytes:
        """The next `size` bytes."""
        if limit is not None and size > limit:
            raise malformed(
                f"{self._name}.too-long",
                f"{what} of {self._name} is too long",
                expected=f"at most {limit} bytes",
                found=f"{size}",
            )
        if size < 0 or size > self.left:
            raise malformed(
                f"{self._name}.truncated",
                f"{self._name} ends inside {what}",
                expected=f"{size} bytes at offset {self.position}",
                found=f"{self.left}",
            )
        start = self.position
        self.position += size
        return self._data[start : self.position]

    def uint(self, size: int, what: str = "an integer") -> int:
        """The next little-endian unsigned integer of `size` bytes."""
        return int.from_bytes(self.take(size, what), "little")

    def u8(self, what: str = "a byte") -> int:
        return self.uint(1, what)

    def u16(self, what: str = "a u16") -> int:
        return self.uint(2, what)

    def u32(self, what: str = "a u32") -> int:
        return self.uint(4, what)

    def u64(self, what: str = "a u64") -> int:
        return self.uint(8, what)

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(self.left)

    def finish(self) -> None:
        """Refuse bytes that nobody has read."""
        if self.left:
            raise malformed(
                f"{self._name}.trailing",
                f"{self._name} goes on after its end",
                expected="0 bytes",
                found=f"{self.left}",
            )
