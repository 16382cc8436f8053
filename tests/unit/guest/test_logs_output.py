"""The forms of a log (guest-agent.md 13.2; rules of `logs_output`)."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teehouse.guest.logs_output import HOLD_LIMIT, LogWriter, Plain
from teehouse.guest.logs_query import LogQuery
from teehouse.guest.logs_source import Frame

TEXT = LogQuery(text=True)
BARE = LogQuery(text=True, bare=True)
ANSI = LogQuery(text=True, bare=True, ansi=True)
FRAMES: list[Frame] = [
    ("stdout", b"\x1b[31mred\x1b[0m\n"),
    ("stderr", 'ü "\\\t\x01\n'.encode()),
    ("console", b"\xff"),
]


def written(query: LogQuery, *batches: list[Frame]) -> bytes:
    writer = LogWriter(query)
    return b"".join(writer.write(batch) for batch in batches) + writer.finish()


def test_rule_1_json_text() -> None:
    assert written(TEXT, FRAMES).decode() == (
        '{"channel":"stdout","message":"\\u001b[31mred\\u001b[0m\\n"}\n'
        '{"channel":"stderr","message":"ü \\"\\\\\\t\\u0001\\n"}\n'
        '{"channel":"console","message":"�"}\n'
    )
    assert written(TEXT, [("stdout", b"")]) == b'{"channel":"stdout","message":""}\n'


def test_rules_1_and_2_base64() -> None:
    assert written(LogQuery(), FRAMES) == (
        b'{"channel":"stdout","message":"G1szMW1yZWQbWzBtCg=="}\n'
        b'{"channel":"stderr","message":"w7wgIlwJAQo="}\n'
        b'{"channel":"console","message":"/w=="}\n'
    )
    assert written(LogQuery(bare=True), FRAMES) == b"G1szMW1yZWQbWzBtCg==\nw7wgIlwJAQo=\n/w==\n"


def test_rule_1_bare_text() -> None:
    assert written(BARE, FRAMES).decode() == 'red\nü "\\\t\x01\n�'
    assert written(ANSI, FRAMES).decode() == '\x1b[31mred\x1b[0m\nü "\\\t\x01\n�'


@pytest.mark.parametrize("query", [BARE, ANSI, TEXT])
def test_rule_3_characters_cut_in_two(query: LogQuery) -> None:
    raw = "a€b\n".encode()
    halves: list[list[Frame]] = [
        [("stdout", raw[:2])],
        [("stderr", b"\xe2"), ("stdout", raw[2:])],
        [("stderr", b"!")],
    ]
    text = written(query, *halves).decode()
    if not query.bare:
        messages = [json.loads(line) for line in text.splitlines()]
        assert messages == [
            {"channel": "stdout", "message": "a"},
            {"channel": "stdout", "message": "€b\n"},
            {"channel": "stderr", "message": "�!"},
        ]
    else:
        assert text == "a€b\n�!"


def test_rule_3_a_character_that_never_ends() -> None:
    assert written(TEXT, [("stdout", b"\xe2\x82")]) == '{"channel":"stdout","message":"�"}\n'.encode()
    assert written(BARE, [("stdout", b"\xe2\x82\n"), ("stdout", b"\xf0\x9f")]).decode() == "�\n�"


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ("\x1b[1;31mx\x1b[m", "x"),
        ("\x1b[?25lx\x1b[2K\x1b[10;20H", "x"),
        ("\x1b]0;title\x07x", "x"),
        ("\x1b]8;;http://a\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bPq#0\x1b\\x", "x"),
        ("\x1b(Bx\x1b=\x1b>\x1bM\x1b7", "x"),
        ("\x1b[38:5:1mx\x1b[1 q", "x"),
        ("\x1b]broken\nnext", "\nnext"),
        ("a\rb\tc\x08", "a\rb\tc\x08"),
        ("\x1b\nx", "\nx"),
        ("x\x1b", "x"),
        ("x\x1b[12", "x"),
        ("\x1b\x1b[m[31mx", "[31mx"),
        ("\x1b[\x01mx", "[\x01mx"),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_rule_4_sequences(raw: str, plain: str, size: int) -> None:
    frames = [[("stdout", raw[at : at + size].encode())] for at in range(0, len(raw), size)]
    assert written(BARE, *frames).decode() == plain
    assert written(ANSI, *frames).decode() == raw


def test_rule_4_a_sequence_is_not_waited_for_without_end() -> None:
    stripper = Plain()
    assert stripper.feed("\x1b]" + "x" * (HOLD_LIMIT - 2)) == ""
    assert stripper.feed("x") == "]" + "x" * (HOLD_LIMIT - 1)


@given(st.text(alphabet="\x1b[]m;1\\\x07P\n x", max_size=60), st.integers(1, 60))
def test_rule_4_how_text_arrives_changes_nothing(raw: str, size: int) -> None:
    pieces = [[("stdout", raw[at : at + size].encode())] for at in range(0, len(raw), size)]
    text = written(BARE, *pieces)
    assert text == written(BARE, [("stdout", raw.encode())])
    assert b"\x1b" not in text


@given(st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(max_size=30)), max_size=10))
def test_every_form_keeps_what_was_written(frames: list[Frame]) -> None:
    lines = [json.loads(line) for line in written(LogQuery(), frames).splitlines()]
    assert [(line["channel"], base64.b64decode(line["message"])) for line in lines] == frames
    bare = written(LogQuery(bare=True), frames).split(b"\n")[:-1]
    assert [base64.b64decode(line) for line in bare] == [data for _, data in frames]
    for channel in ("stdout", "stderr"):
        raw = b"".join(data for name, data in frames if name == channel)
        texts = [json.loads(line) for line in written(TEXT, frames).decode().split("\n")[:-1]]
        assert "".join(one["message"] for one in texts if one["channel"] == channel) == raw.decode(
            errors="replace"
        )


def test_rule_5_errors_stand_on_a_line_of_their_own() -> None:
    writer = LogWriter(BARE)
    assert writer.error('gone "away"') == b'{"error":"gone \\"away\\""}\n'
    writer.write([("stdout", b"cut")])
    assert writer.error("x") == b'\n{"error":"x"}\n'
    writer.write([("stdout", b"line\n")])
    assert writer.error("x") == b'{"error":"x"}\n'
    writer.write([("stdout", b"line\n\x1b[")])
    assert writer.error("x") == b'{"error":"x"}\n'
    writer.write([("stdout", b"line\n\xe2\x82")])
    assert writer.error("x").decode() == '\ufffd\n{"error":"x"}\n'
    assert LogWriter(TEXT).error("x") == b'{"error":"x"}\n'
