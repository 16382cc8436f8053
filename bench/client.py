"""A client that costs next to nothing: blocking sockets, requests made beforehand, answers not looked into."""

import socket
from pathlib import Path

_RECEIVE = 256 * 1024  # bytes; more than any answer here
_LENGTH = b"content-length: "


def request(path: str, body: bytes) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Connection:
    """One kept-alive connection to a Unix socket."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(30)
        self._socket.connect(str(path))

    def send(self, raw: bytes) -> None:
        self._socket.sendall(raw)

    def receive(self) -> bytes:
        """The next answer, head and body; none is asked for before the last one was received."""
        data = self._socket.recv(_RECEIVE)
        head = data.find(b"\r\n\r\n")
        while head < 0:
            data += self._more()
            head = data.find(b"\r\n\r\n")
        start = data.index(_LENGTH) + len(_LENGTH)
        whole = head + 4 + int(data[start : data.index(b"\r", start)])
        while len(data) < whole:
            data += self._more()
        return data

    def ask(self, raw: bytes) -> bytes:
        self._socket.sendall(raw)
        return self.receive()

    def body(self, raw: bytes) -> bytes:
        """The body of an answer that has to be 200."""
        answer = self.ask(raw)
        head, _, body = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(f"{head.splitlines()[0]!r}: {body[:200]!r}")
        return body

    def close(self) -> None:
        self._socket.close()

    def _more(self) -> bytes:
        more = self._socket.recv(_RECEIVE)
        if not more:
            raise ConnectionError("the server closed the connection")
        return more
