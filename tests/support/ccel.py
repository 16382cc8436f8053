"""Writes boot event logs as firmware does; the other direction of teehouse.tee.ccel."""

from collections.abc import Iterable, Mapping, Sequence

from teehouse.tee.platform import BootEvent

SHA1, SHA256, SHA384 = 0x0004, 0x000B, 0x000C
SIZES: Mapping[int, int] = {SHA1: 20, SHA256: 32, SHA384: 48}


def _u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def first_record(
    algorithms: Sequence[tuple[int, int]] = ((SHA384, 48),),
    *,
    signature: bytes = b"Spec ID Event03\0",
    vendor: bytes = b"",
    event_type: int = 3,
    after: bytes = b"",
) -> bytes:
    event = signature + bytes(4) + b"\x00\x02\x00\x02" + _u32(len(algorithms))
    for algorithm, size in algorithms:
        event += algorithm.to_bytes(2, "little") + size.to_bytes(2, "little")
    event += bytes([len(vendor)]) + vendor + after
    return _u32(1) + _u32(event_type) + bytes(20) + _u32(len(event)) + event


def record(index: int, event_type: int, digests: Sequence[tuple[int, bytes]], payload: bytes) -> bytes:
    body = _u32(index) + _u32(event_type) + _u32(len(digests))
    for algorithm, digest in digests:
        body += algorithm.to_bytes(2, "little") + digest
    return body + _u32(len(payload)) + payload


def encode_ccel(events: Iterable[BootEvent], *, padding: bytes = b"", others: bool = False) -> bytes:
    """A log of these events; with `others` it has SHA-1 and SHA-256 digests around the SHA-384 one."""
    algorithms = [(a, SIZES[a]) for a in (SHA1, SHA384, SHA256)] if others else [(SHA384, 48)]
    table = first_record(algorithms)
    for event in events:
        digests = [(SHA384, event.digest)]
        if others:
            digests = [(SHA1, b"\x11" * 20), (SHA384, event.digest), (SHA256, b"\x22" * 32)]
        table += record(event.imr + 1, event.event_type, digests, event.payload)
    return table + padding
