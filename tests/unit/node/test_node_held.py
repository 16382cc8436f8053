"""Sockets that outlive the node process (`node.held`, `node.hold_sockets`); the numbers are rules of the former."""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.node_support import short_directory
from teehouse.base.findings import MisuseError
from teehouse.guest.sockets import UnixListener, bind_unix
from teehouse.node import held
from teehouse.node.held import CONTROL, HeldSockets
from teehouse.node.hold_sockets import Holder


@pytest.fixture
def root() -> Iterator[Path]:
    directory = short_directory()
    (directory / "cvm").mkdir()
    yield directory
    HeldSockets(directory).drop(directory / "cvm")


@pytest.fixture
def listener(root: Path) -> Iterator[UnixListener]:
    made = bind_unix(root / "cvm" / "dstack.sock")
    made.stays = True
    yield made
    made.close()


def called(path: Path) -> socket.socket:
    caller = socket.socket(socket.AF_UNIX)
    caller.connect(str(path))
    return caller


def keepers(root: Path) -> list[int]:
    """The processes that hold the control socket of `root`; they are no children of this one."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and b"hold_sockets.py" in _read(entry / "cmdline"):
            inodes = {
                line.split()[6]
                for line in Path("/proc/net/unix").read_text().splitlines()
                if line.endswith(f" {root / CONTROL}")
            }
            links = [_link(each) for each in _descriptors(entry)]
            if any(f"socket:[{inode}]" in links for inode in inodes):
                found.append(int(entry.name))
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _descriptors(process: Path) -> list[Path]:
    try:
        return list((process / "fd").iterdir())
    except OSError:
        return []


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""


def test_1_a_socket_comes_back_and_its_callers_have_waited(root: Path, listener: UnixListener) -> None:
    kept, path = HeldSockets(root), listener.path
    before = path.stat().st_ino
    assert kept.keep(path, listener.socket)
    assert len(keepers(root)) == 1
    assert (root / CONTROL).stat().st_mode & 0o777 == 0o600
    listener.close()  # as the end of the process would

    caller = called(path)
    caller.sendall(b"waited")
    again = kept.take(path)
    assert again is not None
    accepted, _ = again.socket.accept()
    assert accepted.recv(10) == b"waited"
    assert path.stat().st_ino == before
    with pytest.raises(MisuseError, match="another agent listens"):
        kept.take(path)
    again.close()
    assert path.stat().st_ino == before  # it is kept still
    for one in (caller, accepted):
        one.close()


def test_1_the_keeper_ends_with_the_last_that_is_kept(root: Path, listener: UnixListener) -> None:
    kept = HeldSockets(root)
    (root / "other").mkdir()
    other = bind_unix(root / "other" / "dstack.sock")
    assert kept.keep(listener.path, listener.socket)
    assert kept.keep(other.path, other.socket)
    assert len(keepers(root)) == 1
    kept.drop(root / "other")
    other.close()
    assert kept.take(root / "other" / "dstack.sock") is None
    assert len(keepers(root)) == 1
    kept.drop(root / "cvm")
    assert sorted(path.name for path in root.iterdir()) == ["cvm", "other"]
    for _ in range(500):
        if not keepers(root):
            break
        time.sleep(0.01)
    assert keepers(root) == []
    kept.drop(root / "cvm")  # nothing is left to be asked


def test_1_what_is_kept_twice_is_kept_once(root: Path, listener: UnixListener) -> None:
    kept = HeldSockets(root)
    assert kept.keep(listener.path, listener.socket)
    listener.path.unlink()
    other = socket.socket(socket.AF_UNIX)
    other.bind(str(listener.path))
    other.listen()
    assert kept.keep(listener.path, other)
    listener.close()
    other.close()
    caller = called(listener.path)
    again = kept.take(listener.path)
    assert again is not None
    again.close()
    caller.close()


def test_2_a_socket_whose_file_is_another_is_not_used(root: Path, listener: UnixListener) -> None:
    kept = HeldSockets(root)
    assert kept.keep(listener.path, listener.socket)
    listener.close()
    listener.path.rename(root / "away")  # its inode is not given to the next one
    assert kept.take(listener.path) is None
    bind_unix(listener.path).close()
    assert kept.take(listener.path) is None


def test_2_a_socket_that_was_shut_down_is_not_used(root: Path, listener: UnixListener) -> None:
    kept = HeldSockets(root)
    assert kept.keep(listener.path, listener.socket)
    listener.socket.shutdown(socket.SHUT_RDWR)
    listener.close()
    assert kept.take(listener.path) is None


def test_3_without_a_keeper_nothing_is_kept(
    root: Path, listener: UnixListener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held.sys, "executable", "/nowhere/python")
    kept = HeldSockets(root)
    assert kept.take(listener.path) is None
    assert not kept.keep(listener.path, listener.socket)


def test_3_a_keeper_that_died_is_replaced(root: Path, listener: UnixListener) -> None:
    kept = HeldSockets(root)
    assert kept.keep(listener.path, listener.socket)
    [keeper] = keepers(root)
    os.kill(keeper, 9)
    while keepers(root):
        time.sleep(0.01)
    assert kept.take(listener.path) is None
    assert kept.keep(listener.path, listener.socket)


# The keeper itself, in this process


@pytest.fixture
def door() -> Iterator[Path]:
    path = short_directory() / "door"
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listening.bind(str(path))
    listening.listen()
    thread = threading.Thread(target=Holder(listening).serve)
    thread.start()
    yield path
    ask(path, {"drop": ""})
    thread.join(10)
    assert not thread.is_alive()


def ask(door: Path, request: object, *given: int) -> tuple[bytes, list[int]]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(str(door))
        data = request if isinstance(request, bytes) else json.dumps(request).encode()
        socket.send_fds(connection, [data], list(given))
        answer, descriptors, _, _ = socket.recv_fds(connection, 4096, 1)
        return answer, descriptors


def test_the_keeper_answers(door: Path) -> None:
    reading, writing = os.pipe()
    assert ask(door, {"keep": "a/b", "note": "n"}, writing) == (b"{}", [])
    os.close(writing)
    answer, [back] = ask(door, {"take": "a/b"})
    assert json.loads(answer) == {"note": "n"}
    os.write(back, b"x")
    assert os.read(reading, 1) == b"x"
    os.close(back)
    assert ask(door, {"take": "a"}) == (b"{}", [])
    assert ask(door, {"drop": "b/"}) == (b'{"left": 1}', [])
    assert ask(door, {"keep": "a/b", "note": "m"}, reading) == (b"{}", [])  # in the place of the former
    assert os.read(reading, 1) == b""  # whose last copy is gone
    os.close(reading)


@pytest.mark.parametrize(
    "request_", [b"{", b"[]", b'{"keep":"a"}', b'{"keep":"a","note":"b"}', b'{"x":1}', b""]
)
def test_the_keeper_outlives_nonsense(door: Path, request_: bytes) -> None:
    assert ask(door, request_) == (b"", [])
    assert ask(door, {"take": "a"}) == (b"{}", [])
