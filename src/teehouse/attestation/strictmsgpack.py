"""MessagePack from strangers, bounded, and the many forms in which writers put bytes into it.

Rules:

1. The data is at most `limit` bytes and one value: `<name>.too-long`, `<name>.not-msgpack`.
2. Maps have text keys, none twice: `<name>.duplicate-member`. Extension types are refused.
3. A list has at most `LIST_LIMIT` elements, the value at most `CONTAINER_LIMIT` lists and maps; memory
   stays within a small multiple of the data.
4. Bytes are read from bin, from a list of integers 0 to 255, and from text: hex when all of it is hex,
   else standard base64 (trust.md 9, guest-agent.md 11.3).
"""

from typing import Any

import msgpack  # type: ignore[import-untyped]  # published without type information

from teehouse.attestation import strictjson
from teehouse.base.findings import malformed

LIST_LIMIT = 65536
CONTAINER_LIMIT = 4 * 65536


class _RefusedError(ValueError):
    """A rule is broken; the text ends the code of the finding."""


class _Hooks:
    """Counts containers while they are built."""

    def __init__(self) -> None:
        self._containers = 0

    def _count(self) -> None:
        self._containers += 1
        if self._containers > CONTAINER_LIMIT:
            raise _RefusedError("too-long")

    def members(self, pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
        self._count()
        members = dict(pairs)
        if len(members) != len(pairs):
            raise _RefusedError("duplicate-member")
        return members

    def items(self, items: list[Any]) -> list[Any]:
        self._count()
        return items

    @staticmethod
    def extension(_code: int, _data: bytes) -> Any:
        raise _RefusedError("not-msgpack")


def load(data: bytes, name: str, *, limit: int) -> Any:
    """The value of `data`. Raises `EvidenceError` (malformed) with codes that begin with `name`."""
    if len(data) > limit:
        raise malformed(
            f"{name}.too-long", f"{name} is too long", expected=f"at most {limit} bytes", found=str(len(data))
        )
    hooks = _Hooks()
    try:
        return msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            object_pairs_hook=hooks.members,
            list_hook=hooks.items,
            ext_hook=hooks.extension,
            max_array_len=LIST_LIMIT,
        )
    except _RefusedError as refusal:
        raise malformed(f"{name}.{refusal}", f"{name} is no MessagePack that is read here") from None
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException):
        raise malformed(f"{name}.not-msgpack", f"{name} is no MessagePack") from None


def dumps(value: object) -> bytes:
    """MessagePack of plain values, members in the order of their dicts, bytes as bin."""
    encoded: bytes = msgpack.packb(value, use_bin_type=True)
    return encoded


def member(source: Any, key: str, wanted: type[Any], name: str) -> Any:
    """The member `key`, of this type. Raises `EvidenceError` (malformed)."""
    value = source.get(key) if isinstance(source, dict) else None
    if not isinstance(value, wanted) or isinstance(value, bool):
        raise malformed(
            f"{name}.member",
            f"{key} of {name}",
            expected=wanted.__name__,
            found=strictjson.kind(value),
        )
    return value


def octets(value: Any, what: str, name: str) -> bytes:
    """Bytes in any of their forms (rule 4). Raises `EvidenceError` (malformed)."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, list):
        try:
            return bytes(value)
        except (ValueError, TypeError):
            raise malformed(f"{name}.member", f"{what} of {name} has an element that is no byte") from None
    if isinstance(value, str):
        if strictjson.is_hex(value):
            return bytes.fromhex(value)
        return strictjson.from_base64(value, f"{what} of {name}", name)
    raise malformed(f"{name}.member", f"{what} of {name} are no bytes", found=strictjson.kind(value))
