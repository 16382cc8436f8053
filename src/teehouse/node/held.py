"""Sockets of agents that outlive the node process.

A container that mounts a socket's file has that very socket, and cannot reach another one at the same path. So an
agent that comes back has to come back on the same socket, and somebody has to keep it open meanwhile.

Rules:

1. The keeper is a small process (`hold_sockets`), one for all CVMs below a directory of sockets, there only while
   something is kept. Who connects while the node is away waits in the socket's queue.
2. What the keeper returns is used only if the file at the path is still that socket's, and the socket still listens.
3. Without a keeper an agent works as well; only it comes back on another socket, which is told.
"""

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from teehouse.guest.sockets import UnixListener, adopt_unix
from teehouse.node import hold_sockets

CONTROL = "held"
PATIENCE = 5.0  # seconds for an answer; the keeper's start is in it
_starting = threading.Lock()


class HeldSockets:
    """The keeper of the sockets below `root`, asked by blocking calls, which belong into a thread.

    Names are paths below `root`. No call raises for a keeper that is away or ill: `keep` says so by False.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._control = root / CONTROL

    def take(self, path: Path) -> UnixListener | None:
        """The socket at `path` that is kept, listening and locked (rule 2); None when there is none to be had.

        Raises `MisuseError` when another agent listens there.
        """
        answer, descriptors = self._ask({"take": self._name(path)})
        if answer is None or not descriptors:
            return None
        kept = socket.socket(fileno=descriptors[0])
        try:
            if answer.get("note") == _identity(path) and not _shut_down(kept):
                return adopt_unix(path, kept)
        except BaseException:
            kept.close()
            raise
        kept.close()
        return None

    def keep(self, path: Path, listening: socket.socket) -> bool:
        """Give the keeper a copy of the socket at `path`; starts the keeper when there is none."""
        request = {"keep": self._name(path), "note": _identity(path)}
        with _starting:
            answer, _ = self._ask(request, listening)
            if answer is None and self._start():
                answer, _ = self._ask(request, listening)
        return answer is not None

    def drop(self, directory: Path) -> None:
        """Let go of all that is kept below `directory`; the keeper's door goes with the last of it."""
        with _starting:
            answer, _ = self._ask({"drop": f"{self._name(directory)}/"})
            if answer == {"left": 0}:
                with contextlib.suppress(OSError):
                    self._control.unlink()

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self._root))

    def _ask(
        self, request: dict[str, str], given: socket.socket | None = None
    ) -> tuple[dict[str, Any] | None, list[int]]:
        """The answer and its descriptors; None when nobody answers."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.settimeout(PATIENCE)
            try:
                connection.connect(os.fspath(self._control))
                socket.send_fds(
                    connection, [json.dumps(request).encode()], [] if given is None else [given.fileno()]
                )
                data, descriptors, _, _ = socket.recv_fds(connection, hold_sockets.MESSAGE_LIMIT, 1)
                return (json.loads(data) if data else None), descriptors
            except (OSError, ValueError):
                return None, []

    def _start(self) -> bool:
        """Start the keeper on a door that is open before it runs."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door:
            try:
                self._control.unlink(missing_ok=True)
                door.bind(os.fspath(self._control))
                self._control.chmod(0o600)
                door.listen()
                program = (sys.executable, "-I", "-S", hold_sockets.__file__, str(door.fileno()))
                quiet = subprocess.DEVNULL
                subprocess.run(  # its child stays
                    program,
                    stdin=quiet,
                    stdout=quiet,
                    stderr=quiet,
                    pass_fds=(door.fileno(),),
                    env={"PATH": os.defpath},
                    start_new_session=True,
                    timeout=PATIENCE,
                    check=True,
                )
            except (OSError, subprocess.SubprocessError):
                return False
        return True


def _identity(path: Path) -> str:
    try:
        found = path.lstat()
    except OSError:
        return ""
    return f"{found.st_dev}:{found.st_ino}"


def _shut_down(listening: socket.socket) -> bool:
    poll = select.poll()
    poll.register(listening, 0)
    return any(event & select.POLLHUP for _, event in poll.poll(0))
