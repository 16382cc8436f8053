"""Rule 7 of teehouse.guest.sockets: descriptors that are really inherited."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from teehouse.base.findings import MisuseError
from teehouse.guest.sockets import (
    TcpAddress,
    bind_tcp,
    inherited_sockets,
)

# Rule 7


def free_run(length: int) -> int:
    """The first of `length` descriptor numbers in a row that nothing in this process uses."""
    run = 0
    for number in range(100, 1000):
        try:
            os.fstat(number)
            run = 0
        except OSError:
            run += 1
        if run == length:
            return number - length + 1
    raise AssertionError("no free descriptors")


CHILD = """
import json, os, sys
from teehouse.base.findings import MisuseError
from teehouse.guest.sockets import inherited_sockets

if sys.argv[1] == "own":
    os.environ["LISTEN_PID"] = str(os.getpid())
try:
    found = inherited_sockets(os.environ, os.getpid())
except MisuseError as refusal:
    print(json.dumps({"refused": str(refusal)}))
    raise SystemExit
for name, listening in found.items():
    accepted, _ = listening.accept()
    accepted.sendall(name.encode())
    accepted.close()
print(json.dumps({
    "found": {name: [s.fileno(), os.get_inheritable(s.fileno())] for name, s in found.items()},
    "left": sorted(name for name in os.environ if name.startswith("LISTEN_")),
}))
"""


def activate(
    descriptors: list[socket.socket], *, pid: str = "own", count: str | None = None, names: str | None = None
) -> dict[str, object]:
    """What a process finds that starts with these sockets at descriptors 3 and on."""
    # The shell puts each descriptor to its place, as systemd does.
    base = free_run(len(descriptors))
    sources = range(base, base + len(descriptors))
    for one, number in zip(descriptors, sources, strict=True):
        os.dup2(one.fileno(), number, inheritable=True)
    moves = " ".join(f"{target}<&{source} {source}<&-" for target, source in enumerate(sources, 3))
    environ = os.environ | {
        "LISTEN_PID": pid,
        "LISTEN_FDS": str(len(descriptors)) if count is None else count,
    }
    if names is not None:
        environ["LISTEN_FDNAMES"] = names
    try:
        answer = subprocess.run(
            ["/bin/bash", "-c", f'exec "$@" {moves}', "bash", sys.executable, "-c", CHILD, pid],
            env=environ,
            pass_fds=list(sources),
            check=True,
            capture_output=True,
            text=True,
            timeout=30,
        )
    finally:
        for number in sources:
            os.close(number)
    result: dict[str, object] = json.loads(answer.stdout)
    return result


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[list[socket.socket]]:
    sockets = []
    for name in ("one", "two"):
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(tmp_path / name))
        listening.listen()
        sockets.append(listening)
    yield sockets
    for listening in sockets:
        listening.close()


def waiting_clients(pair: list[socket.socket]) -> list[socket.socket]:
    clients = []
    for listening in pair:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(10)
        client.connect(listening.getsockname())
        clients.append(client)
    return clients


def test_7_two_inherited_sockets(pair: list[socket.socket]) -> None:
    clients = waiting_clients(pair)  # who calls before the agent runs is answered by it
    assert activate(pair) == {"found": {"dstack": [3, False], "tappd": [4, False]}, "left": []}
    assert [client.recv(100) for client in clients] == [b"dstack", b"tappd"]
    for client in clients:
        client.close()


def test_7_names_decide_where_they_are_ours(pair: list[socket.socket]) -> None:
    clients = waiting_clients(pair)
    assert activate(pair, names="tappd:dstack") == {
        "found": {"tappd": [3, False], "dstack": [4, False]},
        "left": [],
    }
    assert [client.recv(100) for client in clients] == [b"tappd", b"dstack"]
    for client in clients:
        client.close()


def test_7_systemds_usual_names_say_nothing(pair: list[socket.socket]) -> None:
    clients = waiting_clients(pair)
    found = activate(pair, names="dstack-guest-agent.socket:dstack-guest-agent.socket")
    assert found["found"] == {"dstack": [3, False], "tappd": [4, False]}
    for client in clients:
        client.close()


def test_7_one_of_two(pair: list[socket.socket]) -> None:
    clients = waiting_clients(pair[:1])
    assert activate(pair[:1]) == {"found": {"dstack": [3, False]}, "left": []}
    clients[0].close()


def test_7_another_process_was_meant(pair: list[socket.socket]) -> None:
    assert activate(pair, pid="1") == {"found": {}, "left": []}


@pytest.mark.parametrize("count", ["", "-1", "x", "65", "9999999", "\u0663"])
def test_7_a_count_that_is_none(count: str) -> None:
    environ = {"LISTEN_PID": "7", "LISTEN_FDS": count, "OTHER": "kept"}
    with pytest.raises(MisuseError, match="LISTEN_FDS"):
        inherited_sockets(environ, 7)
    assert environ == {"OTHER": "kept"}


def test_7_no_activation() -> None:
    assert inherited_sockets({}, 7) == {}
    assert inherited_sockets({"LISTEN_PID": "7", "LISTEN_FDS": "0"}, 7) == {}


def test_7_what_is_left_over_is_closed(pair: list[socket.socket]) -> None:
    third, fourth = socket.socketpair()
    base = free_run(4)
    for offset, one in enumerate((*pair, third)):
        os.dup2(one.fileno(), base + offset)
    found = inherited_sockets({"LISTEN_PID": "7", "LISTEN_FDS": "4"}, 7, first=base)
    assert {name: one.fileno() for name, one in found.items()} == {"dstack": base, "tappd": base + 1}
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(base + 2)
    for one in (*found.values(), third, fourth):
        one.close()


def test_7_a_name_twice_counts_once(pair: list[socket.socket]) -> None:
    base = free_run(2)
    for offset, one in enumerate(pair):
        os.dup2(one.fileno(), base + offset)
    environ = {"LISTEN_PID": "7", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "dstack:dstack"}
    found = inherited_sockets(environ, 7, first=base)
    assert {name: one.fileno() for name, one in found.items()} == {"dstack": base}
    found["dstack"].close()


@pytest.mark.parametrize("kind", ["closed", "file", "tcp", "datagram", "connected"])
def test_7_descriptors_that_are_no_listening_unix_sockets(kind: str, tmp_path: Path) -> None:
    makers: dict[str, Callable[[], tuple[socket.socket, ...]]] = {
        "tcp": lambda: (bind_tcp(TcpAddress("127.0.0.1", 0)),),
        "datagram": lambda: (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM),),
        "connected": socket.socketpair,
        "file": tuple,
        "closed": tuple,
    }
    sockets = makers[kind]()
    with (tmp_path / "file").open(
        "w"
    ) as file:  # open before a free number is looked for: it must not be this one
        base = free_run(1)
        if kind == "file":
            os.dup2(file.fileno(), base)
    if sockets:
        os.dup2(sockets[0].fileno(), base)
    with pytest.raises(MisuseError) as caught:
        inherited_sockets({"LISTEN_PID": "7", "LISTEN_FDS": "1"}, 7, first=base)
    assert caught.value.finding.code == "socket.activation"
    assert "ListenStream=/run/dstack.sock" in caught.value.finding.remedy
    if kind != "closed":
        os.close(base)
    for one in sockets:
        one.close()
