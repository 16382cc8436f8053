"""The quote generation service, rule by rule of teehouse.tee.qgs, against a fake on a unix socket."""

import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.tee_support import CONFIG, REPORT_DATA, FakeKernel, error, fake_qgs, fake_quote, response
from teehouse.base.findings import EvidenceError
from teehouse.tee.platform import PlatformError
from teehouse.tee.qgs import (
    ID_LIMIT,
    MESSAGE_LIMIT,
    QgsQuotes,
    configured_port,
    decode_response,
    encode_request,
    vsock_connection,
)
from teehouse.tee.sources import QUOTE_BELOW, Deadline

TD_REPORT = bytes(range(256)) * 4


def report(report_data: bytes) -> bytes:
    assert report_data == REPORT_DATA
    return TD_REPORT


def ask(directory: Path, answer: bytes | None, seconds: float = 5) -> tuple[bytes | str, list[bytes]]:
    """The quote, or the code of the refusal; and the requests that the service got."""
    requests: list[bytes] = []

    def reply(request: bytes) -> bytes | None:
        requests.append(request)
        return answer

    with fake_qgs(directory, reply) as connect:
        try:
            return QgsQuotes(connect, report).quote(REPORT_DATA, Deadline.after(seconds)), requests
        except PlatformError as refusal:
            return refusal.finding.code, requests


def test_a_quote_is_asked_for_and_given(tmp_path: Path) -> None:
    quote, requests = ask(tmp_path, response(fake_quote(), selected=b"\x07" * 16, minor=1))
    assert quote == fake_quote()
    # Intel's qgs_msg_lib.h: prefix, header (1, 0, GET_QUOTE_REQ, 16+8+1024, 0), report size, no id list.
    head = bytes.fromhex("00000418 0100 0000 00000000 18040000 00000000 00040000 00000000")
    assert requests == [head + TD_REPORT]
    assert encode_request(TD_REPORT) == head + TD_REPORT


# Rule 1


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("port=4050\n", 4050),
        ("# the host's service\n port = 4051 # usual\nother=1\n", 4051),
        ("port=1\nport=2", 2),
        ("", None),
        ("#port=4050\nport\nports=3\n", None),
        ("port=4294967294", 4294967294),
    ],
)
def test_1_port(text: str, port: int | None) -> None:
    assert configured_port(CONFIG, FakeKernel(files={CONFIG: text.encode()})) == port


@pytest.mark.parametrize("value", ["", "0", "-1", "x", "4_050", "4294967295", "9" * 5000, "\u0663"])
def test_1_no_port(value: str) -> None:
    with pytest.raises(PlatformError) as caught:
        configured_port(CONFIG, FakeKernel(files={CONFIG: f"port={value}".encode()}))
    assert caught.value.finding.code == "tdx.qgs.config"
    assert len(str(caught.value)) < 400


def test_1_no_file_and_a_file_that_is_no_configuration() -> None:
    assert configured_port(CONFIG, FakeKernel()) is None
    with pytest.raises(PlatformError, match="cannot be read"):
        configured_port(CONFIG, FakeKernel(files={CONFIG: bytes((64 << 10) + 1)}))


# Rules 2 and 3


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\0\0",
        response(fake_quote())[:-1],
        response(fake_quote(), prefix=MESSAGE_LIMIT + 1),
        response(fake_quote(), size=1),
        response(fake_quote(), major=2),
        response(fake_quote(), kind=3),
        response(b"", code=0x12001),
        response(fake_quote(), quote_size=4999),
        response(fake_quote(), quote_size=5001),
        response(fake_quote(), selected_size=1),
        response(fake_quote(), selected=bytes(ID_LIMIT + 1)),
        response(fake_quote(size=QUOTE_BELOW + 1)),
        b"\0\0\0\3abc",
        bytes(4),
    ],
    ids=[
        "nothing",
        "half-a-prefix",
        "cut",
        "long-prefix",
        "size",
        "major",
        "type",
        "error-code",
        "short-quote-size",
        "long-quote-size",
        "selected-size",
        "long-id",
        "long-quote",
        "no-header",
        "empty",
    ],
)
def test_2_3_answers_that_are_none(tmp_path: Path, answer: bytes) -> None:
    assert ask(tmp_path, answer)[0] == "tdx.qgs.answer"


@pytest.mark.parametrize(
    ("quote", "code"),
    [
        (fake_quote(size=1020), "tdx.quote.size"),
        (fake_quote(size=QUOTE_BELOW), "tdx.quote.size"),
        (b"", "tdx.quote.size"),
        (fake_quote(version=3), "tdx.quote.version"),
        (fake_quote(bytes(64)), "tdx.quote.other-report-data"),
    ],
)
def test_answers_that_are_no_quote_of_ours(tmp_path: Path, quote: bytes, code: str) -> None:
    assert ask(tmp_path, response(quote))[0] == code


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("size", [1021, QUOTE_BELOW - 1])
def test_quotes_at_the_bounds(tmp_path: Path, version: int, size: int) -> None:
    quote = fake_quote(version=version, size=size)
    assert ask(tmp_path, response(quote))[0] == quote


@given(st.binary(max_size=QUOTE_BELOW), st.binary(max_size=ID_LIMIT), st.integers(0, 0xFFFF))
def test_what_is_written_is_read(quote: bytes, selected: bytes, minor: int) -> None:
    assert decode_response(response(quote, selected=selected, minor=minor)[4:]) == quote


@given(st.binary(max_size=64), st.integers(0, 64))
def test_any_bytes_are_an_answer_or_refused(noise: bytes, kept: int) -> None:
    with pytest.raises(EvidenceError):
        decode_response(response(fake_quote())[4:][:kept] + noise)


# Rule 4


def test_4_a_service_that_never_answers(tmp_path: Path) -> None:
    assert ask(tmp_path, None, seconds=0.05)[0] == "tdx.quote.timeout"


def test_4_a_deadline_that_is_over_connects_to_nothing(tmp_path: Path) -> None:
    assert ask(tmp_path, response(fake_quote()), seconds=0) == ("tdx.quote.timeout", [])


def test_a_service_that_is_not_there() -> None:
    def connect(seconds: float) -> socket.socket:
        raise error(111)

    with pytest.raises(PlatformError) as caught:
        QgsQuotes(connect, report).quote(REPORT_DATA, Deadline.after(1))
    assert caught.value.finding.code == "tdx.qgs.unreachable"
    assert "/etc/tdx-attest.conf" in str(caught.value)


def test_vsock_goes_to_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    class Connection:
        def __init__(self, family: int, kind: int) -> None:
            calls.append((family, kind))

        def settimeout(self, seconds: float) -> None:
            calls.append(seconds)

        def connect(self, address: tuple[int, int]) -> None:
            calls.append(address)
            if address[1] == 1:
                raise error(111)

        def close(self) -> None:
            calls.append("closed")

    monkeypatch.setattr(socket, "socket", Connection)
    vsock_connection(4050)(2.5)
    assert calls == [(socket.AF_VSOCK, socket.SOCK_STREAM), 2.5, (2, 4050)]
    with pytest.raises(OSError, match="refused"):
        vsock_connection(1)(1)
    assert calls[3:] == [(socket.AF_VSOCK, socket.SOCK_STREAM), 1, (2, 1), "closed"]
