"""Listening sockets, rule by rule of teehouse.guest.sockets."""

import errno
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from teehouse.base.findings import MisuseError
from teehouse.guest.sockets import (
    PATH_LIMIT,
    Listening,
    TcpAddress,
    UnixAddress,
    VsockAddress,
    bind_tcp,
    bind_unix,
    bind_vsock,
    listen,
    socket_paths,
)


@pytest.fixture
def strict_umask() -> Iterator[None]:
    former = os.umask(0o077)
    yield
    os.umask(former)


def greet(path: Path, listening: socket.socket) -> bytes:
    """What goes through a connection made at `path` and accepted by `listening`."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(path))
        accepted, _ = listening.accept()
        with accepted:
            accepted.sendall(b"hello")
        return client.recv(100)


def refused(path: Path) -> MisuseError:
    with pytest.raises(MisuseError) as caught:
        bind_unix(path)
    return caught.value


# Rule 1


def test_1_two_agents_in_one_process(tmp_path: Path) -> None:
    path = tmp_path / "dstack.sock"
    first = bind_unix(path)
    refusal = refused(path)
    assert refusal.finding.code == "socket.in-use"
    assert "another agent" in str(refusal)
    assert "end the other agent" in str(refusal)
    assert greet(path, first.socket) == b"hello"
    first.close()
    bind_unix(path).close()


def test_1_an_agent_that_was_killed_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    path = tmp_path / "dstack.sock"
    script = (
        "import sys; from pathlib import Path; from teehouse.guest.sockets import bind_unix\n"
        "kept = bind_unix(Path(sys.argv[1])); print('bound', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"bound\n"
        assert refused(path).finding.code == "socket.in-use"
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert path.is_socket()
    mine = bind_unix(path)
    assert greet(path, mine.socket) == b"hello"
    mine.close()


def test_1_the_lock_file_is_private_and_stays(tmp_path: Path) -> None:
    bind_unix(tmp_path / "a.sock").close()
    lock = tmp_path / "a.sock.lock"
    assert stat.S_IMODE(lock.stat().st_mode) == 0o600
    lock.unlink()
    lock.symlink_to(tmp_path / "elsewhere")
    assert refused(tmp_path / "a.sock").finding.code == "socket.bind"


@pytest.mark.parametrize(
    ("number", "found", "remedy"),
    [
        (errno.ENOLCK, "No locks available", ""),
        (
            errno.EACCES,
            "Permission denied",
            "run the agent as root, or choose a place that this user may use",
        ),
    ],
)
def test_1_a_lock_that_cannot_be_had_for_another_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, found: str, remedy: str
) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("teehouse.guest.sockets.fcntl.flock", no_locks)
    finding = refused(tmp_path / "a.sock").finding
    assert (finding.code, finding.found, finding.remedy) == ("socket.bind", found, remedy)


# Rule 2


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_2_only_sockets_are_replaced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "dstack.sock"
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "nowhere")
    before = path.lstat()
    assert refused(path).finding.code == "socket.not-a-socket"
    assert path.lstat().st_ino == before.st_ino
    path.rmdir() if kind == "directory" else path.unlink()
    bind_unix(path).close()  # the refusal let go of the lock


# Rule 3


@pytest.mark.usefixtures("strict_umask")
def test_3_every_program_may_call(tmp_path: Path) -> None:
    one = bind_unix(tmp_path / "dstack" / "dstack.sock")
    assert stat.S_IMODE(one.path.stat().st_mode) == 0o777
    assert stat.S_IMODE(one.path.parent.stat().st_mode) == 0o755
    one.close()


# Rule 4


def test_4_a_clean_end_removes_the_file(tmp_path: Path) -> None:
    one = bind_unix(tmp_path / "dstack.sock")
    one.close()
    one.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dstack.sock.lock"]
    assert one.socket.fileno() == -1


def test_4_anothers_file_is_left(tmp_path: Path) -> None:
    one = bind_unix(tmp_path / "dstack.sock")
    one.path.unlink()
    one.path.write_text("precious")
    one.close()
    assert one.path.read_text() == "precious"
    other = bind_unix(tmp_path / "tappd.sock")
    other.path.unlink()
    other.close()


# Rule 5


def test_5_the_longest_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # relative, so that the test's own place does not count
    longest = Path("s" * PATH_LIMIT)
    one = bind_unix(longest)
    assert greet(longest, one.socket) == b"hello"
    one.close()
    for path in (Path("s" * (PATH_LIMIT + 1)), Path("\u00e4" * 54), Path("a\0b")):
        finding = refused(path).finding
        assert (finding.code, finding.remedy) == (
            "socket.path",
            "choose a shorter directory, e.g. below /run or /tmp",
        )


def test_a_place_where_nothing_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert refused(tmp_path / "file" / "dstack.sock").finding.code == "socket.bind"


def test_a_failure_while_binding_lets_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, backlog: int) -> None:
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))

    with monkeypatch.context() as patched:
        patched.setattr(socket.socket, "listen", refuse)
        assert refused(tmp_path / "dstack.sock").finding.found == "Address already in use"
    bind_unix(tmp_path / "dstack.sock").close()


# Rules 6 and 8


def test_6_paths() -> None:
    assert socket_paths(Path("/var/run/dstack/tappd.sock")) == (
        Path("/var/run/dstack/tappd.sock"),
        Path("/var/run/tappd.sock"),
    )
    assert socket_paths(Path("/srv/app/tappd.sock")) == (Path("/srv/app/tappd.sock"),)


def check(listening: Listening, paths: list[Path]) -> None:
    assert len(listening.sockets) == len(paths)
    for one, path in zip(listening.sockets, paths, strict=True):
        assert path.is_socket()
        assert not path.is_symlink()
        assert greet(path, one) == b"hello"


def test_6_both_paths_answer(tmp_path: Path) -> None:
    directory, flat = tmp_path / "dstack" / "dstack.sock", tmp_path / "dstack.sock"
    listening = listen(UnixAddress(directory))
    check(listening, [directory, flat])
    listening.close()
    assert not directory.exists()
    assert not flat.exists()


def test_6_if_one_path_is_refused_none_stays(tmp_path: Path) -> None:
    (tmp_path / "dstack.sock").write_text("precious")
    with pytest.raises(MisuseError, match="in the way"):
        listen(UnixAddress(tmp_path / "dstack" / "dstack.sock"))
    assert not (tmp_path / "dstack" / "dstack.sock").exists()
    bind_unix(tmp_path / "dstack" / "dstack.sock").close()


def test_8_an_inherited_socket_is_the_flat_path(tmp_path: Path) -> None:
    directory, flat = tmp_path / "dstack" / "dstack.sock", tmp_path / "dstack.sock"
    given = socket.socket(socket.AF_UNIX)
    given.bind(str(flat))
    given.listen()
    listening = listen(UnixAddress(directory), given)
    check(listening, [flat, directory])
    listening.close()
    assert flat.is_socket()
    assert not directory.exists()


@pytest.mark.parametrize("address", [UnixAddress(Path("/srv/app/dstack.sock")), TcpAddress("127.0.0.1", 1)])
def test_8_an_inherited_socket_is_the_only_one(address: UnixAddress | TcpAddress) -> None:
    given = socket.socket(socket.AF_UNIX)
    listening = listen(address, given)
    assert (listening.sockets, listening.bound) == ((given,), ())
    listening.close()
    assert given.fileno() == -1


# TCP and vsock


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1:0"), ("::1", "[::1]:0")])
def test_tcp(host: str, shown: str) -> None:
    address = TcpAddress(host, 0)
    assert str(address) == shown
    try:
        listening = listen(address)
    except MisuseError as refusal:
        pytest.skip(f"no such address here: {refusal}")
    with socket.create_connection(listening.sockets[0].getsockname()[:2], timeout=5):
        listening.sockets[0].accept()[0].close()
    listening.close()
    assert listening.sockets[0].fileno() == -1


def test_tcp_port_in_use() -> None:
    with bind_tcp(TcpAddress("127.0.0.1", 0)) as first:
        port = first.getsockname()[1]
        with pytest.raises(MisuseError) as caught:
            bind_tcp(TcpAddress("127.0.0.1", port))
    assert str(caught.value) == (
        f"the agent cannot listen at 127.0.0.1:{port}: found Address already in use "
        "(end the program that listens there, or choose another port)"
    )


def test_tcp_names_that_do_not_resolve() -> None:
    with pytest.raises(MisuseError, match="a name that resolves"):
        bind_tcp(TcpAddress("no-such-host.invalid", 1))


class FakeVsock:
    """Records what is bound; fails as told. Not every kernel has vsock."""

    calls: ClassVar[list[object]] = []
    failure: OSError | None = None

    def __init__(self, family: int, kind: int) -> None:
        assert (family, kind) == (socket.AF_VSOCK, socket.SOCK_STREAM)

    def bind(self, address: tuple[int, int]) -> None:
        if FakeVsock.failure:
            raise FakeVsock.failure
        FakeVsock.calls.append(address)

    def listen(self, backlog: int) -> None:
        assert backlog > 0

    def close(self) -> None:
        FakeVsock.calls.append("closed")


def test_vsock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", FakeVsock)
    address = VsockAddress(0xFFFFFFFF, 8000)
    assert str(address) == "vsock:0xffffffff:8000"
    listening = listen(address)
    assert FakeVsock.calls == [(0xFFFFFFFF, 8000)]
    listening.close()
    assert FakeVsock.calls == [(0xFFFFFFFF, 8000), "closed"]
    monkeypatch.setattr(FakeVsock, "failure", OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT)))
    with pytest.raises(MisuseError, match="leave the listener out"):
        bind_vsock(address)
