"""Notifications and watchdog, rule by rule of teehouse.guest.systemd, with real datagrams."""

import asyncio
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from teehouse.base.findings import MisuseError
from teehouse.guest.systemd import Notifier, answers_version, run_watchdog, watchdog_interval


@contextmanager
def receiver(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        listening.settimeout(5)
        yield listening


def nothing_more(listening: socket.socket) -> bool:
    listening.setblocking(False)
    try:
        listening.recv(100)
    except BlockingIOError:
        return True
    return False


# Rules 1 and 2


@pytest.mark.parametrize("abstract", [False, True])
def test_1_2_ready_and_stopping(tmp_path: Path, abstract: bool) -> None:
    address = f"@teehouse-{secrets.token_hex(8)}" if abstract else str(tmp_path / "notify")
    with receiver(address) as listening:
        notifier = Notifier.of({"NOTIFY_SOCKET": address})
        assert notifier.ready()
        assert notifier.stopping()
        assert notifier.alive()
        assert [listening.recv(100) for _ in range(3)] == [b"READY=1", b"STOPPING=1", b"WATCHDOG=1"]
        assert nothing_more(listening)


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}])
def test_1_nobody_to_tell(environ: dict[str, str]) -> None:
    assert not Notifier.of(environ).ready()


# Rule 5


@pytest.mark.parametrize("address", ["nowhere", "a\0b", "x" * 200])
def test_5_what_cannot_be_delivered_is_logged(
    tmp_path: Path, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert not Notifier(str(tmp_path / address)).ready()
    assert "systemd was not told READY=1" in caplog.text


# Rules 3 and 4


@pytest.mark.parametrize(
    ("environ", "interval"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": ""}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "42"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "43"}, None),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": ""}, 15.0),
        ({"WATCHDOG_USEC": "2000000"}, 1.0),
        ({"WATCHDOG_USEC": "1"}, 1.0),
        ({"WATCHDOG_USEC": "2000001"}, 1.0000005),
    ],
)
def test_3_4_interval(environ: dict[str, str], interval: float | None) -> None:
    assert watchdog_interval(environ, 42) == interval


@pytest.mark.parametrize("value", ["0", "-5", "x", "1.5", "9" * 21, "\u0663"])
def test_3_no_time(value: str) -> None:
    with pytest.raises(MisuseError, match="WATCHDOG_USEC"):
        watchdog_interval({"WATCHDOG_USEC": value}, 42)


class OverError(Exception):
    """The test has seen enough."""


async def watched(tmp_path: Path, answers: list[object], interval: float = 15.0) -> tuple[list[str], int]:
    """What happened in order, until the answers are used up; and how many WATCHDOG=1 arrived."""
    happened: list[str] = []
    waiting = list(answers)

    async def sleep(seconds: float) -> None:
        happened.append(f"slept {seconds}")
        if not waiting:
            raise OverError

    async def healthy() -> bool:
        answer = waiting.pop(0)
        happened.append(repr(answer))
        if isinstance(answer, Exception):
            raise answer
        if answer == "hang":
            await asyncio.Event().wait()
        return answer is True

    with receiver(str(tmp_path / "notify")) as listening:
        with pytest.raises(OverError):
            await run_watchdog(Notifier(str(tmp_path / "notify")), interval, healthy, sleep=sleep)
        arrived = 0
        listening.setblocking(False)
        try:
            while listening.recv(100) == b"WATCHDOG=1":
                arrived += 1
        except BlockingIOError:
            return happened, arrived
    raise AssertionError("another message arrived")


async def test_4_only_health_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    happened, arrived = await watched(tmp_path, [True, False, OSError("no connection"), True])
    assert happened == [
        "slept 15.0",
        "True",
        "slept 15.0",
        "False",
        "slept 15.0",
        "OSError('no connection')",
        "slept 15.0",
        "True",
        "slept 15.0",
    ]
    assert arrived == 2
    assert [record.getMessage() for record in caplog.records] == [
        "the health check failed: the agent does not answer as it should",
        "the health check failed: no connection",
    ]


async def test_4_a_check_that_hangs_is_no_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, arrived = await watched(tmp_path, ["hang", True], interval=0.02)
    assert arrived == 1
    assert caplog.messages == ["the health check failed: TimeoutError"]


@pytest.mark.parametrize(
    ("answer", "good"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
        (b"HTTP/1.1 500 Internal Server Error\r\n\r\n", False),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", False),
        (b"HTTP/1.1 2\r\n\r\n", False),
        (b"HTTP/1.1 2xx\r\n\r\n", False),
        (b"ICY 200 OK\r\n\r\n", False),
        (b"HTTP/1.1 200", False),
        (b"", False),
        (b"x" * 5000, False),
    ],
)
async def test_4_the_agents_own_answer(answer: bytes, good: bool) -> None:
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert await answers_version("127.0.0.1", port) is good
    assert requests == [b"GET /prpc/Worker.Version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"]
    with pytest.raises(OSError, match="Connect call failed"):
        await answers_version("127.0.0.1", port)
