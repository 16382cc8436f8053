"""The TD HOB list: how the firmware of a TD is told about memory, measured first into RTMR0 (trust.md 11.1).

Rules:

1. Memory is 2 GiB exactly, or `SPLIT_MEMORY` (2816 MiB) and more; other sizes are unsupported.
2. The witness is at most 4096 bytes, its integers at most five each, its ranges at most
   `WITNESS_RANGE_LIMIT`; nothing follows them.
3. The ranges that firmware accepts beforehand are disjoint, not empty, and end below 2 GiB.
"""

import struct

from teehouse.base.codec import Reader
from teehouse.base.findings import malformed, unsupported

TWO_GIB = 0x80000000
SPLIT_MEMORY = 0xB0000000  # from this size on, QEMU's q35 puts memory above 2 GiB behind 4 GiB
WITNESS_LIMIT = 4096
WITNESS_RANGE_LIMIT = 256
_PAGE = 4096
_RESOURCE_MEMORY = 0
_RESOURCE_UNACCEPTED = 7


def td_hob_list(witness: bytes, memory_size: int) -> bytes:
    """The hand-off block list that the firmware of a TD is given, as it is measured into RTMR0.

    `witness` is LEB128: base page, HOB page from there, number of ranges, then for each accepted
    range its first page from the base and its number of pages. Memory is 2 GiB, or 2816 MiB and more.

    Raises `EvidenceError`: unsupported for another memory size, malformed for the witness.
    """
    if memory_size != TWO_GIB and memory_size < SPLIT_MEMORY:
        raise unsupported(
            "image.memory-size",
            "memory size of the TD",
            expected="2 GiB, or 2816 MiB and more",
            found=f"{memory_size} bytes",
        )
    if memory_size >= 1 << 52:
        raise malformed("image.memory-size", "memory size of the TD is beyond its address space")
    base, hob_delta, accepted = _witness(witness)
    blocks = bytearray(struct.pack("<HHIII", 1, 56, 0, 9, 0) + bytes(40))
    start = 0
    for first, end in accepted:
        if first > start:
            blocks += _resource(_RESOURCE_UNACCEPTED, start, first)
        blocks += _resource(_RESOURCE_MEMORY, first, end)
        start = end
    blocks += _resource(_RESOURCE_UNACCEPTED, start, TWO_GIB)
    if memory_size > TWO_GIB:
        blocks += _resource(_RESOURCE_UNACCEPTED, 1 << 32, (1 << 32) + memory_size - TWO_GIB)
    end_of_list = (base + hob_delta) * _PAGE + len(blocks) + 8
    struct.pack_into("<Q", blocks, 48, end_of_list)
    return bytes(blocks)


def _resource(kind: int, start: int, end: int) -> bytes:
    """A resource descriptor HOB, 48 bytes, for memory from `start` up to `end`."""
    return struct.pack("<HHI16xIIQQ", 3, 48, 0, kind, 7, start, end - start)


def _witness(witness: bytes) -> tuple[int, int, list[tuple[int, int]]]:
    """Base page, HOB page from there, and the accepted ranges (start, end in bytes), sorted and disjoint."""
    code = "image.td-hob"
    reader = Reader(witness, code, limit=WITNESS_LIMIT)
    base = _leb128(reader)
    hob_delta = _leb128(reader)
    count = _leb128(reader)
    if count > WITNESS_RANGE_LIMIT:
        raise malformed(
            code,
            "TD HOB witness has too many ranges",
            expected=f"at most {WITNESS_RANGE_LIMIT}",
            found=str(count),
        )
    ranges: list[tuple[int, int]] = []
    for _ in range(count):
        first = base + _leb128(reader)
        ranges.append((first * _PAGE, (first + _leb128(reader)) * _PAGE))
    reader.finish()
    ranges.sort()
    previous = 0
    for start, end in ranges:
        if start < previous or end <= start or end >= TWO_GIB:
            raise malformed(
                code,
                "accepted ranges of the TD HOB witness",
                expected="disjoint, not empty, below 2 GiB",
                found=f"{start:#x} to {end:#x}",
            )
        previous = end
    return base, hob_delta, ranges


def _leb128(reader: Reader) -> int:
    """An unsigned LEB128 integer of at most five bytes: page numbers here stay far below 2^35."""
    value = 0
    for place in range(5):
        byte = reader.u8("the witness")
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value
    raise malformed("image.td-hob", "an integer of the TD HOB witness is too long")
