"""The engine's multiplexed stream (rules of `logs_frames`)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.logs_support import frame
from teehouse.base.findings import Outcome
from teehouse.guest.logs_frames import PIECE_LIMIT, Demultiplexer
from teehouse.guest.logs_source import Frame

CHANNEL = st.sampled_from(["stdin", "stdout", "stderr"])


def fed(*data: bytes) -> tuple[list[Frame], Demultiplexer]:
    demultiplexer = Demultiplexer()
    frames = [one for piece in data for one in demultiplexer.feed(piece)]
    return frames + demultiplexer.finish(), demultiplexer


def test_rule_1_frames() -> None:
    # guest-agent.md 13.2: stream 1 stdout, 2 stderr, 0 stdin, three zero bytes, u32 BE length
    raw = bytes.fromhex("0100000000000003") + b"ab\n" + bytes.fromhex("0200000000000001") + b"c"
    raw += bytes.fromhex("0000000000000000")
    frames, demultiplexer = fed(raw)
    assert frames == [("stdout", b"ab\n"), ("stderr", b"c"), ("stdin", b"")]
    assert demultiplexer.fault is None


@given(
    st.lists(st.tuples(CHANNEL, st.binary(max_size=40)), max_size=8), st.lists(st.integers(1, 50), min_size=1)
)
def test_rule_2_how_bytes_arrive_changes_nothing(frames: list[Frame], sizes: list[int]) -> None:
    raw = b"".join(frame(*one) for one in frames)
    pieces, at = [], 0
    while at < len(raw):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(raw[at : at + size])
        at += size
    found, demultiplexer = fed(*pieces)
    assert found == frames
    assert demultiplexer.fault is None


@pytest.mark.parametrize("read", [1000, 65_536, 65_544, 1_000_000])
def test_rule_2_long_frames_come_in_pieces(read: int) -> None:
    content = bytes(range(256)) * 1024  # 256 KiB
    content = content[:-1]
    raw = frame("stderr", content) + frame("stdout", b"x" * PIECE_LIMIT) + frame("stdout", b"end")
    frames, demultiplexer = fed(*(raw[at : at + read] for at in range(0, len(raw), read)))
    assert [len(data) for _, data in frames] == [65_536] * 3 + [65_535, 65_536, 3]
    assert b"".join(data for channel, data in frames if channel == "stderr") == content
    assert demultiplexer.fault is None


def test_rule_2_a_frame_of_four_gigabytes_is_not_waited_for() -> None:
    demultiplexer = Demultiplexer()
    assert demultiplexer.feed(b"\x01\0\0\0\xff\xff\xff\xff" + b"y" * 65_536) == [("stdout", b"y" * 65_536)]
    for _ in range(100):
        assert demultiplexer.feed(b"y" * 65_536) == [("stdout", b"y" * 65_536)]


def test_rule_3_the_engine_says_why() -> None:
    frames, demultiplexer = fed(
        frame("stdout", b"a\n") + frame("engine", b"Error grabbing logs: EOF\n"), b"more"
    )
    assert frames == [("stdout", b"a\n")]
    assert demultiplexer.fault is not None
    assert demultiplexer.fault.finding.code == "logs.engine-stream"
    assert str(demultiplexer.fault) == "Error grabbing logs: EOF"
    assert str(fed(frame("engine", b"\n"))[1].fault) == "the container engine broke the log off"
    assert len(str(fed(frame("engine", b"x" * 5000))[1].fault)) == 1000


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (b"\x04\0\0\0\0\0\0\1", "04000000"),
        (b"\x01\0\0\1\0\0\0\1", "01000001"),
        (b"HTTP/1.1", "48545450"),
        (b"\x03\0\0\0\0\1\0\1", "03000000"),
    ],
)
def test_rule_3_other_headers(header: bytes, found: str) -> None:
    frames, demultiplexer = fed(frame("stdout", b"a"), header, frame("stdout", b"never"))
    assert frames == [("stdout", b"a")]
    assert demultiplexer.fault is not None
    assert demultiplexer.fault.finding.code == "logs.engine-frame"
    assert demultiplexer.fault.finding.found == found
    assert demultiplexer.fault.finding.outcome is Outcome.COLLATERAL_MISSING


@pytest.mark.parametrize(
    ("raw", "left"),
    [
        (b"\x01\0\0", []),
        (b"\x01\0\0\0\0\0\0\x05", []),
        (b"\x01\0\0\0\0\0\0\x05abc", [("stdout", b"abc")]),
        (b"\x02\0\0\0\0\2\0\0abc", [("stderr", b"abc")]),
        (b"\x02\0\0\0\0\2\0\0", []),
    ],
)
def test_rules_3_and_4_an_end_within_a_frame(raw: bytes, left: list[Frame]) -> None:
    frames, demultiplexer = fed(frame("stdout", b"before") + raw)
    assert frames == [("stdout", b"before"), *left]
    assert demultiplexer.fault is not None
    assert demultiplexer.fault.finding.found == "its end"
    assert demultiplexer.finish() == []


def test_rule_4_the_engines_words_cut_off() -> None:
    frames, demultiplexer = fed(b"\x03\0\0\0\0\0\0\x09no sp")
    assert (frames, str(demultiplexer.fault)) == ([], "no sp")


@given(st.binary(max_size=300), st.integers(1, 300))
def test_any_bytes_give_frames_or_a_fault(raw: bytes, size: int) -> None:
    frames, demultiplexer = fed(*(raw[at : at + size] for at in range(0, len(raw), size)))
    whole, other = fed(raw)
    assert (frames, str(demultiplexer.fault)) == (whole, str(other.fault))
    if demultiplexer.fault is None:
        assert b"".join(frame(*one) for one in frames) == raw
