"""Keeps the listening sockets of a node's agents open while the node process is away (`node.held`).

Run as a file of its own, `python -I -S hold_sockets.py DESCRIPTOR`, with the standard library alone; DESCRIPTOR is an
inherited listening socket (unix, SOCK_SEQPACKET) on which it is asked. A request is one message, a JSON object, and
so is the answer:

* `{"keep": NAME, "note": TEXT}` with one descriptor: hold it, in the place of a former one. Answer `{}`.
* `{"take": NAME}`: `{"note": TEXT}` with a copy of the descriptor, or `{}`.
* `{"drop": PREFIX}`: let go of everything whose name begins so. Answer `{"left": NUMBER}`.

Rules:

1. Only the user of this process is answered.
2. One request for each connection, in time: nobody can keep the others waiting.
3. When nothing is left after a drop, the process closes its door, then answers, then ends: who hears that nothing is
   left knows that the next one to be asked is another process.
"""

import contextlib
import json
import os
import resource
import socket
import struct
import sys
from typing import Any

MESSAGE_LIMIT = 4096  # bytes
PATIENCE = 2.0  # seconds for a request
_DESCRIPTORS = 1 << 20  # more than a process has


class Holder:
    """What is held: descriptor and note, by name."""

    def __init__(self, door: socket.socket) -> None:
        self.door = door
        self.held: dict[str, tuple[int, str]] = {}

    def serve(self) -> None:
        """Answer until nothing is left after a drop (rule 3)."""
        while self.door.fileno() >= 0:
            connection, _ = self.door.accept()
            with connection, contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                connection.settimeout(PATIENCE)
                if _user(connection) == os.getuid():
                    self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        data, descriptors, _, _ = socket.recv_fds(connection, MESSAGE_LIMIT, 1)
        try:
            answer, given = self._do(json.loads(data), descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        socket.send_fds(connection, [json.dumps(answer).encode()], given)

    def _do(self, request: dict[str, Any], descriptors: list[int]) -> tuple[dict[str, Any], list[int]]:
        """The answer, and the descriptors that go with it. Takes what it keeps out of `descriptors`."""
        if "keep" in request:
            name, note = str(request["keep"]), str(request["note"])
            descriptor = descriptors[0] if descriptors else -1
            if descriptor < 0:
                raise ValueError("nothing to keep")
            self._forget(name)
            self.held[name] = (descriptors.pop(), note)
            return {}, []
        if "take" in request:
            found = self.held.get(request["take"])
            return ({}, []) if found is None else ({"note": found[1]}, [found[0]])
        prefix = str(request["drop"])
        for name in [name for name in self.held if name.startswith(prefix)]:
            self._forget(name)
        if not self.held:
            self.door.close()
        return {"left": len(self.held)}, []

    def _forget(self, name: str) -> None:
        known = self.held.pop(name, None)
        if known is not None:
            os.close(known[0])


def _user(connection: socket.socket) -> int:
    """Who is at the other end."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int(struct.unpack("3i", credentials)[1])


def main() -> None:
    """Leave the caller's session and family, so that its end is not ours."""
    descriptor = int(sys.argv[1])
    os.closerange(3, descriptor)
    os.closerange(descriptor + 1, _DESCRIPTORS)
    if os.fork():
        os._exit(0)
    os.setsid()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    Holder(socket.socket(fileno=descriptor)).serve()
    os._exit(0)


if __name__ == "__main__":
    main()
