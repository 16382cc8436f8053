"""Addresses: given on the command line, or found free and kept."""

import ipaddress
import socket
from contextlib import suppress
from pathlib import Path

from teehouse.base.files import write_atomic
from teehouse.base.findings import misuse
from teehouse.guest.sockets import TcpAddress

LOOPBACK = "127.0.0.1"
_PORT_LIMIT = 65535


def kept_port(path: Path) -> socket.socket:
    """A socket on the loopback port of the last time, which `path` tells; on a free one where that is taken.

    So whoever knew the address before a restart finds it again. Raises OSError.
    """
    try:
        known = int(path.read_text("ascii"))
    except (OSError, ValueError):
        known = 0
    if 0 < known <= _PORT_LIMIT:
        with suppress(OSError):
            return socket.create_server((LOOPBACK, known))
    listening = socket.create_server((LOOPBACK, 0))
    write_atomic(path, str(listening.getsockname()[1]).encode())
    return listening


def loopback_address(text: str) -> TcpAddress:
    """`HOST:PORT` or `[HOST]:PORT` of this machine's loopback. Raises `MisuseError`.

    An emulated agent gives every key to whoever reaches it, so other addresses are refused.
    """
    host, _, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not port.isdecimal() or int(port) > _PORT_LIMIT or not bare:
        raise misuse("address.form", "no such address", expected="HOST:PORT", found=text)
    if bare == "localhost":
        bare = "127.0.0.1"
    try:
        loopback = ipaddress.ip_address(bare).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise misuse(
            "address.exposed",
            "an emulated agent gives its keys to whoever reaches it",
            expected="a loopback address",
            found=text,
            remedy="use 127.0.0.1, or forward a port to it yourself",
        )
    return TcpAddress(bare, int(port))


def http_url(listening: socket.socket) -> str:
    """The URL of what listens on a bound TCP socket."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
