r"""The boot event log of a TDX guest: the data of the ACPI table CCEL, a TCG2 crypto-agile log.

Sources: TCG PC Client Platform Firmware Profile (records), UEFI confidential computing measurement
(register indices), guest-agent.md 10.5. Tested against logs of our own making; not yet read on
hardware.

    first record   index u32, type u32 = 3 (no action), 20 zero bytes, size u32, event:
                   "Spec ID Event03\0", class u32, minor, major, errata, uintn size u8 each,
                   number of algorithms u32, (id u16, digest size u16) each, vendor size u8, vendor data
    every other    index u32, type u32, number of digests u32, (id u16, digest) each, size u32, event

Rules:

1. The first record names the algorithms; SHA-384 with 48 bytes is among them. There are at most
   `ALGORITHM_LIMIT`, none twice.
2. A record's register index counts from one: 1 to 3 are RTMR0 to RTMR2. Index 0 is MRTD, which
   nothing extends after the build, and 4 is RTMR3, which belongs to the running system: refused.
3. A record has one digest for each algorithm it uses, every one named in the first record, SHA-384
   among them.
4. Records of type 3 say something and extend nothing: left out.
5. The log ends at index 0xFFFFFFFF, where only zeros are left, or where the table ends.
6. The table is at most `TABLE_LIMIT` bytes, the log at most `RECORD_LIMIT` records after the first.
"""

from teehouse.base.codec import Reader
from teehouse.base.findings import EvidenceError, malformed
from teehouse.base.hashes import REGISTER_SIZE
from teehouse.tee.platform import RUNTIME_REGISTER, BootEvent

TABLE_LIMIT = 1 << 20  # bytes
RECORD_LIMIT = 4096
ALGORITHM_LIMIT = 8
DIGEST_LIMIT = 64  # bytes
SIGNATURE = b"Spec ID Event03\0"
NO_ACTION = 3
SHA384 = 0x000C  # TPM_ALG_SHA384
END = b"\xff" * 4


def parse_ccel(table: bytes) -> tuple[BootEvent, ...]:
    """The events that extended RTMR0 to RTMR2, in order. Raises `EvidenceError` (malformed)."""
    reader = Reader(table, "ccel", limit=TABLE_LIMIT)
    sizes = _algorithms(reader)
    events: list[BootEvent] = []
    written = len(table.rstrip(b"\0"))
    records = 0
    while reader.position < written and table[reader.position : reader.position + 4] != END:
        records += 1
        if records > RECORD_LIMIT:
            raise malformed(
                "ccel.too-many", "the boot event log is too long", expected=f"at most {RECORD_LIMIT} records"
            )
        event = _event(reader, sizes)
        if event is not None:
            events.append(event)
    return tuple(events)


def _algorithms(reader: Reader) -> dict[int, int]:
    """Digest sizes by algorithm, out of the first record (rule 1)."""
    reader.u32("the first record's index")
    kind = reader.u32("the first record's type")
    reader.take(20, "the first record's digest")
    event = Reader(reader.take(reader.u32("the first record's size"), "the first record"), "ccel")
    if kind != NO_ACTION or event.take(len(SIGNATURE), "the signature") != SIGNATURE:
        raise malformed(
            "ccel.signature",
            "the boot event log does not begin as one",
            expected="a record of type 3 with the signature Spec ID Event03",
            found=f"type {kind}",
        )
    event.take(8, "class and versions")
    count = event.u32("the number of algorithms")
    if count > ALGORITHM_LIMIT:
        raise malformed(
            "ccel.algorithms",
            "the boot event log names too many algorithms",
            expected=f"at most {ALGORITHM_LIMIT}",
            found=f"{count}",
        )
    sizes: dict[int, int] = {}
    for _ in range(count):
        algorithm = event.u16("an algorithm")
        size = event.u16("a digest size")
        if algorithm in sizes or size > DIGEST_LIMIT:
            raise _algorithm_error(f"algorithm {algorithm:#06x} twice, or with {size} bytes")
        sizes[algorithm] = size
    event.take(event.u8("the vendor data's size"), "the vendor data")
    event.finish()
    if sizes.get(SHA384) != REGISTER_SIZE:
        raise _algorithm_error("none")
    return sizes


def _algorithm_error(found: str) -> EvidenceError:
    return malformed(
        "ccel.algorithms",
        "the boot event log's algorithms cannot be used",
        expected=f"SHA-384 (0x000c) with {REGISTER_SIZE} bytes, each once, at most {DIGEST_LIMIT} bytes",
        found=found,
    )


def _event(reader: Reader, sizes: dict[int, int]) -> BootEvent | None:
    """The next record, or None for one that extends nothing (rules 2 to 4)."""
    index = reader.u32("a register index")
    kind = reader.u32("an event type")
    count = reader.u32("the number of digests")
    if count > len(sizes):
        raise malformed(
            "ccel.digests",
            "a boot event has too many digests",
            expected=f"at most {len(sizes)}",
            found=f"{count}",
        )
    digests: dict[int, bytes] = {}
    for _ in range(count):
        algorithm = reader.u16("a digest's algorithm")
        if algorithm not in sizes or algorithm in digests:
            raise malformed(
                "ccel.digests",
                "a boot event has a digest that the log does not announce, or has it twice",
                expected=", ".join(f"{known:#06x}" for known in sizes),
                found=f"{algorithm:#06x}",
            )
        digests[algorithm] = reader.take(sizes[algorithm], "a digest")
    payload = reader.take(reader.u32("an event's size"), "an event's data")
    if kind == NO_ACTION:
        return None
    if not 1 <= index <= RUNTIME_REGISTER:
        raise malformed(
            "ccel.register",
            "a boot event extends a register that is not the firmware's",
            expected=f"an index from 1 to {RUNTIME_REGISTER}",
            found=f"{index}",
        )
    if SHA384 not in digests:
        raise malformed("ccel.digests", "a boot event has no SHA-384 digest")
    return BootEvent(imr=index - 1, event_type=kind, digest=digests[SHA384], payload=payload)
