"""Telling systemd that the agent is ready, alive, stopping (guest-agent.md 1.7).

Rules:

1. Messages are datagrams to the unix socket in NOTIFY_SOCKET; a leading `@` means the abstract name
   space. Without the variable nothing is sent.
2. READY=1 goes out whenever there is somebody to tell, with or without watchdog; STOPPING=1 at the end.
3. The watchdog counts if WATCHDOG_USEC is set and WATCHDOG_PID, if set, is this process.
4. Every max(WATCHDOG_USEC / 2, 1 s) the agent's health is asked for; WATCHDOG=1 follows a good answer
   only. A check that fails, raises or takes longer than the interval is no answer.
5. A message that cannot be delivered is logged: the agent does not end because nobody listens.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping

from teehouse.base.findings import misuse

SHORTEST_INTERVAL = 1.0  # seconds
HEALTH_PATH = "/prpc/Worker.Version"
_STATUS_LINE_LIMIT = 1024  # bytes

_log = logging.getLogger(__name__)

Health = Callable[[], Awaitable[bool]]


class Notifier:
    """Sends to `address`, the value of NOTIFY_SOCKET; empty or None: to nobody (rule 1)."""

    def __init__(self, address: str | None) -> None:
        self._address = address or ""

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> "Notifier":
        """The notifier for this process's environment."""
        return cls(environ.get("NOTIFY_SOCKET"))

    def ready(self) -> bool:
        """Say that every listener listens. Whether it was delivered."""
        return self._send(b"READY=1")

    def stopping(self) -> bool:
        """Say that the agent ends. Whether it was delivered."""
        return self._send(b"STOPPING=1")

    def alive(self) -> bool:
        """Answer the watchdog. Whether it was delivered."""
        return self._send(b"WATCHDOG=1")

    def _send(self, message: bytes) -> bool:
        if not self._address:
            return False
        place = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
                sender.sendto(message, place)
        except (OSError, ValueError) as error:  # ValueError: a zero byte inside a path
            _log.warning("systemd was not told %s: %s", message.decode(), error)
            return False
        return True


def watchdog_interval(environ: Mapping[str, str], pid: int) -> float | None:
    """Seconds between two health checks, or None without watchdog (rules 3, 4). Raises `MisuseError`."""
    allowed = environ.get("WATCHDOG_USEC", "")
    if not allowed or environ.get("WATCHDOG_PID", "") not in {"", str(pid)}:
        return None
    if not (allowed.isascii() and allowed.isdigit() and len(allowed) <= 20 and int(allowed)):
        raise misuse(
            "systemd.watchdog",
            "WATCHDOG_USEC is no time",
            expected="a number of microseconds above 0",
            found=allowed[:40],
        )
    return max(int(allowed) / 2 / 1_000_000, SHORTEST_INTERVAL)


async def run_watchdog(
    notifier: Notifier,
    interval: float,
    healthy: Health,
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Rule 4, until it is cancelled; the first check is one interval after the start."""
    while True:
        await sleep(interval)
        if await _good(healthy, interval):
            notifier.alive()


async def _good(healthy: Health, interval: float) -> bool:
    try:
        async with asyncio.timeout(interval):
            good = await healthy()
    except Exception as error:  # noqa: BLE001 - whatever the check may raise, the answer is no
        _log.warning("the health check failed: %s", str(error) or type(error).__name__)
        return False
    if not good:
        _log.warning("the health check failed: the agent does not answer as it should")
    return good


async def answers_version(host: str, port: int) -> bool:
    """Whether `GET /prpc/Worker.Version` there is answered by a 2xx status. Raises OSError."""
    reader, writer = await asyncio.open_connection(host, port, limit=_STATUS_LINE_LIMIT)
    try:
        writer.write(f"GET {HEALTH_PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        try:
            line = await reader.readuntil(b"\r\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return False
        version, _, rest = line.partition(b" ")
        return version.startswith(b"HTTP/1.") and rest[:1] == b"2" and rest[:3].isdigit()
    finally:
        writer.close()
