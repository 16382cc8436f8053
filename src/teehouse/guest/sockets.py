"""The agent's listening sockets: unix, TCP, vsock, and those that systemd hands over.

Sources: guest-agent.md 1.1, 1.2, 1.7. Rules:

1. A unix socket's path is held by an exclusive lock on `<path>.lock`, taken without waiting: where it
   is held, another agent runs, and its socket is left alone. The lock file stays when the agent ends;
   the lock does not outlive its process.
2. What stands at the path is removed only if it is a socket.
3. The socket file has mode 0777, whatever the umask: every program of the CVM may call.
4. On a clean end the socket file is removed, if it is still ours.
5. A path has at most 107 bytes.
6. The paths `<dir>/dstack/<name>` and `<dir>/<name>` are both bound, each by a socket of its own.
   A link from one to the other would dangle in a container that mounts only the directory.
7. Inherited descriptors begin at 3 and count only if LISTEN_PID is this process. Descriptor 3 is
   dstack.sock and 4 tappd.sock, unless LISTEN_FDNAMES has the names `dstack` or `tappd`. Each must be
   a listening unix stream socket; what is left over is closed. The variables are removed.
8. An inherited socket takes the place of the flat path; the other path is bound as ever.
"""

import contextlib
import errno
import fcntl
import os
import socket
import stat
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from teehouse.base.findings import MisuseError, misuse

PATH_LIMIT = 107  # bytes; the kernel's 108 with the final zero
BACKLOG = 1024
SOCKET_MODE = 0o777
FIRST_INHERITED = 3
INHERITED_NAMES = ("dstack", "tappd")
INHERITED_LIMIT = 64
DIRECTORY_NAME = "dstack"
_ACTIVATION = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A socket file."""

    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """Host (name or number) and port; port 0 takes a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class VsockAddress:
    """Context id (0xffffffff: any) and port."""

    cid: int
    port: int

    def __str__(self) -> str:
        return f"vsock:{self.cid:#x}:{self.port}"


Address = UnixAddress | TcpAddress | VsockAddress


@dataclass(slots=True)
class UnixListener:
    """A bound and listening unix socket with its lock; `close` ends both (rule 4).

    `stays` is true where somebody else holds the socket as well: then its file stays.
    """

    socket: socket.socket
    path: Path
    _lock: int
    _identity: tuple[int, int] = field(repr=False)
    stays: bool = False

    def close(self) -> None:
        """Remove the socket file if it is ours, then let go of socket and lock; harmless a second time."""
        if self._lock < 0:
            return
        with contextlib.suppress(OSError):
            found = self.path.lstat()
            if not self.stays and (found.st_dev, found.st_ino) == self._identity:
                self.path.unlink()
        self.socket.close()
        os.close(self._lock)
        self._lock = -1


@dataclass(slots=True)
class Listening:
    """All sockets of one listener. Inherited ones are closed with the rest; their files stay."""

    sockets: tuple[socket.socket, ...]
    bound: tuple[UnixListener, ...] = ()

    def close(self) -> None:
        for one in self.bound:
            one.close()
        for listening in self.sockets:
            listening.close()


def socket_paths(path: Path) -> tuple[Path, ...]:
    """`path`, and its flat twin where it has one (rule 6)."""
    if path.parent.name == DIRECTORY_NAME:
        return (path, path.parent.parent / path.name)
    return (path,)


def bind_unix(path: Path, *, backlog: int = BACKLOG) -> UnixListener:
    """Listen at `path` (rules 1 to 5); makes missing directories. Raises `MisuseError`."""
    raw = os.fsencode(path)
    if len(raw) > PATH_LIMIT or b"\0" in raw:
        raise misuse(
            "socket.path",
            f"the socket path {path} cannot be bound",
            expected=f"at most {PATH_LIMIT} bytes, none of them zero",
            found=f"{len(raw)} bytes",
            remedy="choose a shorter directory, e.g. below /run or /tmp",
        )
    try:
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True)
            path.parent.chmod(0o755)  # as with the socket: a strict umask must not shut it away
        lock = _locked(path)
    except OSError as error:
        raise _refused(str(UnixAddress(path)), error) from error
    try:
        return _bound(path, lock, backlog)
    except BaseException as error:
        os.close(lock)
        if isinstance(error, OSError):
            raise _refused(str(UnixAddress(path)), error) from error
        raise


def adopt_unix(path: Path, listening: socket.socket) -> UnixListener:
    """A socket that listens at `path` already, which a former process bound; its file stays (rules 1, 4).

    Raises `MisuseError` when another agent listens there.
    """
    try:
        lock = _locked(path)
        status = path.lstat()
    except OSError as error:
        raise _refused(str(UnixAddress(path)), error) from error
    return UnixListener(listening, path, lock, (status.st_dev, status.st_ino), stays=True)


def _locked(path: Path) -> int:
    """The descriptor of the lock (rule 1). Raises OSError, `MisuseError`."""
    name = path.with_name(f"{path.name}.lock")
    descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno != errno.EWOULDBLOCK:
            raise
        raise misuse(
            "socket.in-use",
            f"another agent listens at {path}",
            expected=f"{name} not locked",
            found="locked",
            remedy="end the other agent, or give this one another directory",
        ) from error
    return descriptor


def _bound(path: Path, lock: int, backlog: int) -> UnixListener:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise misuse(
                "socket.not-a-socket",
                f"{path} is in the way",
                expected="a socket, or nothing",
                found="something else",
                remedy="move it away; only sockets are replaced",
            )
        path.unlink()
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(os.fspath(path))
        path.chmod(SOCKET_MODE)
        listening.listen(backlog)
        status = path.lstat()
    except BaseException:
        listening.close()
        raise
    return UnixListener(listening, path, lock, (status.st_dev, status.st_ino))


def bind_tcp(address: TcpAddress, *, backlog: int = BACKLOG) -> socket.socket:
    """Listen at a TCP address, the first that its host resolves to. Raises `MisuseError`."""
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, place = found[0]
        listening = socket.socket(family, kind, protocol)
        try:
            # A restart must not wait for the former process's connections to be forgotten.
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(place)
            listening.listen(backlog)
        except BaseException:
            listening.close()
            raise
    except OSError as error:
        raise _refused(str(address), error) from error
    return listening


def bind_vsock(address: VsockAddress, *, backlog: int = BACKLOG) -> socket.socket:
    """Listen at a vsock address. Raises `MisuseError`, also where the kernel has no vsock."""
    try:
        listening = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        try:
            listening.bind((address.cid, address.port))
            listening.listen(backlog)
        except BaseException:
            listening.close()
            raise
    except OSError as error:
        raise _refused(str(address), error) from error
    return listening


def _refused(address: str, error: OSError) -> MisuseError:
    remedy = ""
    if error.errno == errno.EADDRINUSE:
        remedy = "end the program that listens there, or choose another port"
    elif error.errno in {errno.EACCES, errno.EPERM}:
        remedy = "run the agent as root, or choose a place that this user may use"
    elif isinstance(error, socket.gaierror):
        remedy = "give a number or a name that resolves here"
    elif error.errno == errno.EAFNOSUPPORT:
        remedy = "this kernel has no such sockets; leave the listener out"
    return misuse(
        "socket.bind",
        f"the agent cannot listen at {address}",
        found=error.strerror or str(error),
        remedy=remedy,
    )


def listen(address: Address, inherited: socket.socket | None = None) -> Listening:
    """Every socket of one listener (rules 6 and 8). Raises `MisuseError`; then nothing stays bound."""
    if not isinstance(address, UnixAddress):
        if inherited is not None:
            return Listening((inherited,))
        return Listening((bind_tcp(address) if isinstance(address, TcpAddress) else bind_vsock(address),))
    paths = socket_paths(address.path)
    if inherited is not None:
        # The flat path is the last, and where there is one path it is systemd's to bind.
        paths = paths[:-1]
    bound: list[UnixListener] = []
    try:
        bound.extend(bind_unix(path) for path in paths)
    except BaseException:
        for one in bound:
            one.close()
        raise
    first = () if inherited is None else (inherited,)
    return Listening((*first, *(one.socket for one in bound)), tuple(bound))


def inherited_sockets(
    environ: MutableMapping[str, str], pid: int, *, first: int = FIRST_INHERITED
) -> dict[str, socket.socket]:
    """The sockets that systemd handed over, by `dstack` and `tappd` (rule 7). Raises `MisuseError`."""
    owner, count, names = (environ.pop(variable, "") for variable in _ACTIVATION)
    if owner != str(pid):
        return {}
    if not (count.isascii() and count.isdigit() and len(count) < 6 and int(count) <= INHERITED_LIMIT):
        raise misuse(
            "socket.activation",
            "LISTEN_FDS is no number of sockets",
            expected=f"a number from 0 to {INHERITED_LIMIT}",
            found=count[:40],
        )
    roles = _roles(int(count), names.split(":") if names else [])
    sockets: dict[str, socket.socket] = {}
    for descriptor, role in enumerate(roles, first):
        if role is None:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        else:
            sockets[role] = _inherited(descriptor, role)
    return sockets


def _roles(count: int, names: Sequence[str]) -> list[str | None]:
    """What each descriptor is: by its name if any name is one of ours, by its place otherwise."""
    by_name = any(name in INHERITED_NAMES for name in names[:count])
    given = names if by_name else INHERITED_NAMES
    roles: list[str | None] = []
    for index in range(count):
        name = given[index] if index < len(given) else ""
        roles.append(name if name in INHERITED_NAMES and name not in roles else None)
    return roles


def _inherited(descriptor: int, role: str) -> socket.socket:
    try:
        listening = socket.socket(fileno=descriptor)
        suitable = (
            listening.family == socket.AF_UNIX
            and listening.type == socket.SOCK_STREAM
            and listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        )
    except OSError as error:
        raise _unsuitable(descriptor, role, error.strerror or str(error)) from error
    if not suitable:
        listening.detach()  # it is not ours to close
        raise _unsuitable(descriptor, role, "another kind of socket")
    listening.set_inheritable(False)
    return listening


def _unsuitable(descriptor: int, role: str, found: str) -> MisuseError:
    return misuse(
        "socket.activation",
        f"the inherited descriptor {descriptor} cannot be {role}.sock",
        expected="a listening unix stream socket",
        found=found,
        remedy="the socket unit needs ListenStream=/run/dstack.sock, then ListenStream=/run/tappd.sock",
    )
