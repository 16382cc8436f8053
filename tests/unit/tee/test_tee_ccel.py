"""Boot event logs, rule by rule of teehouse.tee.ccel."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.ccel import SHA1, SHA256, SHA384, encode_ccel, first_record, record
from teehouse.base.findings import EvidenceError, Outcome
from teehouse.tee.ccel import ALGORITHM_LIMIT, RECORD_LIMIT, TABLE_LIMIT, parse_ccel
from teehouse.tee.platform import BootEvent

DIGEST = bytes(range(48))
EVENT = BootEvent(imr=0, event_type=10, digest=DIGEST, payload=b"ACPI DATA")

events = st.builds(
    BootEvent,
    imr=st.integers(0, 2),
    event_type=st.integers(0, 0xFFFFFFFF).filter(lambda kind: kind != 3),
    digest=st.binary(min_size=48, max_size=48),
    payload=st.binary(max_size=100),
)


def parsed(table: bytes) -> tuple[object, object]:
    """("read", the events) or (the outcome, the code)."""
    try:
        return "read", parse_ccel(table)
    except EvidenceError as refusal:
        return refusal.finding.outcome, refusal.finding.code


def code(table: bytes) -> object:
    outcome, found = parsed(table)
    assert outcome is Outcome.MALFORMED
    return found


def test_a_log_written_by_hand_reads_as_the_standard_says() -> None:
    # TCG PC Client Platform Firmware Profile: TCG_PCR_EVENT with a TCG_EfiSpecIDEvent, then TCG_PCR_EVENT2.
    table = bytes.fromhex(
        "01000000 03000000 0000000000000000000000000000000000000000 21000000"
        "53706563204944204576656e74303300 00000000 00 02 00 02 01000000 0c00 3000 00"
        "01000000 0b000080 01000000 0c00"
        "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f"
        "03000000 aabbcc"
        "03000000 0a000000 01000000 0c00"
        "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f"
        "09000000 414350492044415441"
        "ffffffff ffffffff"
    )
    assert parse_ccel(table) == (
        BootEvent(imr=0, event_type=0x8000000B, digest=DIGEST, payload=b"\xaa\xbb\xcc"),
        BootEvent(imr=2, event_type=10, digest=DIGEST, payload=b"ACPI DATA"),
    )


@given(
    st.lists(events, max_size=8),
    st.sampled_from([b"", b"\xff" * 64, bytes(64), b"\xff" * 4, b"\0\0"]),
    st.booleans(),
)
def test_what_is_written_is_read(log: list[BootEvent], padding: bytes, others: bool) -> None:
    assert parse_ccel(encode_ccel(log, padding=padding, others=others)) == tuple(log)


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_a_log_or_refused(noise: bytes, headed: bool) -> None:
    assert parsed(first_record() + noise if headed else noise)[0] in {"read", Outcome.MALFORMED}


@settings(max_examples=50)
@given(st.lists(events, min_size=1, max_size=3), st.data())
def test_a_cut_log_is_shorter_or_refused(log: list[BootEvent], data: st.DataObject) -> None:
    table = encode_ccel(log)
    cut = data.draw(st.integers(0, len(table) - 1))
    outcome, events_or_code = parsed(table[:cut])
    if outcome == "read":
        assert events_or_code in [tuple(log[:count]) for count in range(len(log))]
    else:
        assert events_or_code == "ccel.truncated"


# Rule 1


@pytest.mark.parametrize(
    "table",
    [first_record(signature=b"Spec ID Event02\0"), first_record(event_type=4)],
    ids=["signature", "type"],
)
def test_1_another_beginning(table: bytes) -> None:
    assert code(table) == "ccel.signature"


@pytest.mark.parametrize(
    "algorithms",
    [
        [],
        [(SHA256, 32)],
        [(SHA384, 32)],
        [(SHA384, 48), (SHA384, 48)],
        [(SHA384, 48), (0x7777, 65)],
        [(SHA384, 48), *((0x100 + i, 32) for i in range(ALGORITHM_LIMIT))],
    ],
    ids=["none", "no-sha384", "sha384-of-32", "twice", "long-digest", "too-many"],
)
def test_1_algorithms(algorithms: list[tuple[int, int]]) -> None:
    assert code(first_record(algorithms)) == "ccel.algorithms"


def test_1_as_many_algorithms_as_allowed() -> None:
    algorithms = [(SHA384, 48), *((0x100 + i, 64) for i in range(ALGORITHM_LIMIT - 1))]
    assert parse_ccel(first_record(algorithms, vendor=b"acme")) == ()


def test_1_the_first_record_ends_where_it_says() -> None:
    assert code(first_record(after=b"x")) == "ccel.trailing"


# Rule 2


@pytest.mark.parametrize("index", [0, 4, 5, 0xFFFFFFFE])
def test_2_registers_that_are_not_the_firmwares(index: int) -> None:
    assert code(first_record() + record(index, 10, [(SHA384, DIGEST)], b"x")) == "ccel.register"


# Rule 3


@pytest.mark.parametrize(
    "digests",
    [
        [],
        [(SHA1, bytes(20))],
        [(SHA256, bytes(32))],
        [(SHA384, DIGEST), (SHA384, DIGEST)],
        [(SHA384, DIGEST), (SHA1, bytes(20)), (SHA1, bytes(20))],
    ],
    ids=["none", "no-sha384", "unannounced", "twice", "too-many"],
)
def test_3_digests(digests: list[tuple[int, bytes]]) -> None:
    table = first_record([(SHA384, 48), (SHA1, 20)]) + record(1, 10, digests, b"x")
    assert code(table) == "ccel.digests"


# Rule 4


def test_4_no_action_extends_nothing() -> None:
    silent = record(0, 3, [(SHA384, bytes(48))], b"StartupLocality\0\3")
    assert parse_ccel(first_record() + silent + encode_ccel([EVENT])[len(first_record()) :]) == (EVENT,)


# Rule 5


def test_5_zeros_of_the_last_event_are_not_the_end() -> None:
    last = BootEvent(imr=1, event_type=0, digest=bytes(48), payload=bytes(7))
    assert parse_ccel(encode_ccel([EVENT, last], padding=bytes(100))) == (EVENT, last)


def test_5_nothing_is_read_after_the_end() -> None:
    assert parse_ccel(encode_ccel([EVENT], padding=b"\xff" * 4 + b"anything")) == (EVENT,)


# Rule 6


def test_6_the_table_has_a_bound() -> None:
    padded = encode_ccel([EVENT]).ljust(TABLE_LIMIT, b"\0")
    assert parse_ccel(padded) == (EVENT,)
    assert code(padded + b"\0") == "ccel.too-long"


def test_6_the_log_has_a_bound() -> None:
    assert len(parse_ccel(encode_ccel([EVENT] * RECORD_LIMIT))) == RECORD_LIMIT
    assert code(encode_ccel([EVENT] * (RECORD_LIMIT + 1))) == "ccel.too-many"
