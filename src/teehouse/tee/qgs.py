"""Quotes from the host's Quote Generation Service over vsock (guest-agent.md 10.8).

Written from the public layout of Intel's `qgs_msg_lib`; not yet run on hardware.

Every message goes as its length (4 bytes, big-endian) and then itself; in it all is little-endian:

    header 16 bytes   major u16 = 1, minor u16, type u32, size u32 (whole message), error code u32
    GET_QUOTE_REQ 0   report size u32, id list size u32, TDREPORT, id list
    GET_QUOTE_RESP 1  selected id size u32, quote size u32, selected id, quote

Rules:

1. The port is the `port=` line of `/etc/tdx-attest.conf`; without file or line there is no service.
2. A message is at most `MESSAGE_LIMIT` bytes, and its length prefix, its `size` and the sizes of its
   parts agree exactly. The other side is the host, which is not trusted.
3. The answer has major version 1, the response's type and error code 0.
4. Connecting, sending and receiving together end at the deadline.
"""

import socket
from collections.abc import Callable
from pathlib import Path

from teehouse.base.codec import Reader
from teehouse.base.findings import EvidenceError, malformed
from teehouse.tee.devicefiles import DeviceFiles
from teehouse.tee.platform import platform_error
from teehouse.tee.sources import QUOTE_BELOW, Deadline, checked_quote, timed_out

GET_QUOTE_REQ = 0
GET_QUOTE_RESP = 1
MAJOR_VERSION = 1
MINOR_VERSION = 0
HEADER_SIZE = 16
ID_LIMIT = 1024  # bytes of the selected attestation key's id
MESSAGE_LIMIT = HEADER_SIZE + 8 + ID_LIMIT + QUOTE_BELOW
CONFIG_LIMIT = 64 << 10  # bytes
HOST_CID = 2
_PREFIX_SIZE = 4

Connect = Callable[[float], socket.socket]


def configured_port(path: Path, files: DeviceFiles) -> int | None:
    """The vsock port of rule 1, or None. Raises `PlatformError` for a file that cannot be understood."""
    if not files.exists(path):
        return None
    try:
        text = files.read(path, CONFIG_LIMIT).decode("utf-8", "replace")
    except OSError as error:
        raise platform_error("tdx.qgs.config", f"{path} cannot be read", found=str(error)) from error
    port = None
    for line in text.splitlines():
        name, equals, value = line.split("#", 1)[0].partition("=")
        if name.strip() != "port" or not equals:
            continue
        digits = value.strip()
        # The highest value means "any port" in vsock.
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 10 and 0 < int(digits) < 0xFFFFFFFF):
            raise platform_error(
                "tdx.qgs.config",
                f"the port in {path} is no vsock port",
                expected="a decimal number from 1 to 4294967294",
                found=digits[:40],
                remedy="write the port of the quote generation service, e.g. port=4050",
            )
        port = int(digits)
    return port


def vsock_connection(port: int) -> Connect:
    """A function that connects to `port` on the host within the seconds it is given. Raises OSError."""

    def connect(seconds: float) -> socket.socket:
        connection = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        try:
            connection.settimeout(seconds)
            connection.connect((HOST_CID, port))
        except BaseException:
            connection.close()
            raise
        return connection

    return connect


def encode_request(report: bytes) -> bytes:
    """GET_QUOTE_REQ for a TDREPORT, without id list, with its length prefix."""
    size = HEADER_SIZE + 8 + len(report)
    header = (
        MAJOR_VERSION.to_bytes(2, "little")
        + MINOR_VERSION.to_bytes(2, "little")
        + GET_QUOTE_REQ.to_bytes(4, "little")
        + size.to_bytes(4, "little")
        + bytes(4)
    )
    body = len(report).to_bytes(4, "little") + bytes(4) + report
    return size.to_bytes(_PREFIX_SIZE, "big") + header + body


def decode_response(message: bytes) -> bytes:
    """The quote in a GET_QUOTE_RESP (without its length prefix). Raises `EvidenceError` (rules 2, 3)."""
    reader = Reader(message, "qgs", limit=MESSAGE_LIMIT)
    major = reader.u16("the major version")
    reader.u16("the minor version")  # newer minor versions only add message types
    kind = reader.u32("the type")
    size = reader.u32("the size")
    code = reader.u32("the error code")
    if major != MAJOR_VERSION or kind != GET_QUOTE_RESP:
        raise malformed(
            "qgs.kind",
            "the answer is no quote response",
            expected=f"version {MAJOR_VERSION}, type {GET_QUOTE_RESP}",
            found=f"version {major}, type {kind}",
        )
    if size != len(message):
        raise malformed(
            "qgs.size",
            "the answer's size is not its own",
            expected=f"{len(message)}",
            found=f"{size}",
        )
    if code:
        raise malformed(
            "qgs.error", "the service refused", expected="error code 0", found=f"error code {code:#x}"
        )
    id_size = reader.u32("the selected id's size")
    quote_size = reader.u32("the quote's size")
    reader.take(id_size, "the selected id", limit=ID_LIMIT)
    quote = reader.take(quote_size, "the quote", limit=QUOTE_BELOW)
    reader.finish()
    return quote


class QgsQuotes:
    """A `QuoteSource` that asks the service; `report` makes a TDREPORT (1024 bytes) over 64 bytes."""

    name = "the quote generation service"

    def __init__(self, connect: Connect, report: Callable[[bytes], bytes]) -> None:
        self._connect = connect
        self._report = report

    def quote(self, report_data: bytes, deadline: Deadline) -> bytes:
        request = encode_request(self._report(report_data))
        try:
            message = self._exchange(request, deadline)
            quote = decode_response(message)
        except TimeoutError as error:
            raise timed_out(self.name) from error
        except OSError as error:
            raise platform_error(
                "tdx.qgs.unreachable",
                f"{self.name} cannot be reached",
                found=str(error),
                remedy="start it on the host, or correct the port in /etc/tdx-attest.conf",
            ) from error
        except EvidenceError as error:
            raise platform_error(
                "tdx.qgs.answer", f"{self.name} did not answer with a quote", found=str(error)
            ) from error
        return checked_quote(quote, report_data, self.name)

    def _exchange(self, request: bytes, deadline: Deadline) -> bytes:
        """Send the request, and the answer's message. Raises OSError, `EvidenceError`."""
        with self._connect(_seconds(deadline)) as connection:
            connection.settimeout(_seconds(deadline))
            connection.sendall(request)
            size = int.from_bytes(_receive(connection, _PREFIX_SIZE, deadline), "big")
            if size > MESSAGE_LIMIT:
                raise malformed(
                    "qgs.too-long",
                    "the answer is too long",
                    expected=f"at most {MESSAGE_LIMIT} bytes",
                    found=f"{size}",
                )
            return _receive(connection, size, deadline)


def _seconds(deadline: Deadline) -> float:
    """A socket's timeout; zero would mean not to block at all, which is not what is meant."""
    left = deadline.left()
    if not left:
        raise TimeoutError
    return left


def _receive(connection: socket.socket, size: int, deadline: Deadline) -> bytes:
    parts = []
    missing = size
    while missing:
        connection.settimeout(_seconds(deadline))
        part = connection.recv(missing)
        if not part:
            raise malformed(
                "qgs.truncated",
                "the connection ends inside the answer",
                expected=f"{size} bytes",
                found=f"{size - missing}",
            )
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
