"""Fakes of what a TDX guest's kernel and host offer: configfs-tsm, RTMR attributes, the quote service."""

import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from teehouse.base.hashes import INITIAL_REGISTER, extend

ENTRY = Path("/sys/kernel/config/tsm/report/com.intel.dcap")
REGISTERS = Path("/sys/devices/virtual/misc/tdx_guest/measurements")
DEVICE = Path("/dev/tdx_guest")
CONFIG = Path("/etc/tdx-attest.conf")
CCEL = Path("/sys/firmware/acpi/tables/data/CCEL")
REPORT_DATA = bytes(range(64))


def fake_quote(report_data: bytes = REPORT_DATA, *, version: int = 4, size: int = 5000) -> bytes:
    """Bytes shaped as a quote as far as a source of quotes looks: version, report data, size."""
    at = 574 if version == 5 else 568
    head = version.to_bytes(2, "little") + bytes(at - 2) + report_data
    return (head + b"\x5a" * max(size - len(head), 0))[:size]


@dataclass
class FakeKernel:
    """A `DeviceFiles` in memory, with the behaviour of configfs-tsm and of the RTMR attribute.

    `interrupt` runs between our write and our read: another process that comes in between.
    """

    tsm: bool = True
    registers: bool = True
    provider: str = "tdx_guest\n"
    generation: int = 0
    register: bytes = INITIAL_REGISTER
    files: dict[Path, bytes] = field(default_factory=dict)
    quote: Callable[[bytes], bytes] = fake_quote
    failures: dict[str, list[OSError]] = field(default_factory=dict)
    interrupt: Callable[["FakeKernel"], None] | None = None
    swallow: int = 0  # that many writes to inblob are lost without an error
    made: list[Path] = field(default_factory=list)
    inblob: bytes = b""

    def _fail(self, name: str) -> None:
        waiting = self.failures.get(name)
        if waiting:
            raise waiting.pop(0)

    def exists(self, path: Path) -> bool:
        if path == REGISTERS / "rtmr3:sha384":
            return self.registers
        return path in self.files

    def make_directory(self, path: Path) -> None:
        self._fail("directory")
        if not self.tsm:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        if path not in self.made:
            self.made.append(path)

    def write(self, path: Path, data: bytes) -> None:
        self._fail(path.name)
        if path.name == "inblob":
            if self.swallow:
                self.swallow -= 1
                return
            self.inblob = data
            self.generation = (self.generation + 1) % (1 << 32)
            if self.interrupt:
                self.interrupt(self)
        else:
            assert path == REGISTERS / "rtmr3:sha384"
            self.register = extend(self.register, data)

    def read(self, path: Path, limit: int) -> bytes:
        self._fail(path.name)
        answers: dict[str, Callable[[], bytes]] = {
            "provider": self.provider.encode,
            "generation": f"{self.generation}\n".encode,
            "outblob": lambda: self.quote(self.inblob),
            "rtmr3:sha384": lambda: self.register,
        }
        if path in self.files:
            data = self.files[path]
        elif path.name in answers:
            data = answers[path.name]()
        else:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        if len(data) > limit:
            raise OSError(errno.EFBIG, "too big", str(path))
        return data


def error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def response(quote: bytes, *, selected: bytes = b"", **changed: int) -> bytes:
    """A GET_QUOTE_RESP with its length prefix; `changed` sets header and size fields to other values."""
    size = 16 + 8 + len(selected) + len(quote)
    fields = {"major": 1, "minor": 0, "kind": 1, "size": size, "code": 0}
    fields |= {"selected_size": len(selected), "quote_size": len(quote), "prefix": size} | changed
    return (
        fields["prefix"].to_bytes(4, "big")
        + fields["major"].to_bytes(2, "little")
        + fields["minor"].to_bytes(2, "little")
        + b"".join(
            fields[name].to_bytes(4, "little")
            for name in ("kind", "size", "code", "selected_size", "quote_size")
        )
        + selected
        + quote
    )


@contextmanager
def fake_qgs(
    directory: Path, answer: Callable[[bytes], bytes | None]
) -> Iterator[Callable[[float], socket.socket]]:
    """A quote service on a unix socket; yields the function that connects to it.

    `answer` gets each whole request with its prefix; None keeps the client waiting.
    """
    path = directory / "qgs.sock"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen()
    held: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            held.append(connection)
            with suppress(OSError):
                prefix = connection.recv(4, socket.MSG_WAITALL)
                request = connection.recv(int.from_bytes(prefix, "big"), socket.MSG_WAITALL)
                reply = answer(prefix + request)
                if reply is not None:
                    connection.sendall(reply)
                    connection.close()

    thread = threading.Thread(target=serve)
    thread.start()

    def connect(seconds: float) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(seconds)
        connection.connect(str(path))
        return connection

    try:
        yield connect
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for connection in held:
            connection.close()
        thread.join()
