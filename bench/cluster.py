"""A PostgreSQL server for the time of a benchmark, on a socket of its own, as Debian's package installs the programs."""

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

SETTINGS = (
    ("listen_addresses", "''"),
    ("shared_buffers", "512MB"),
    ("max_wal_size", "4GB"),  # the data goes in at once, which no database in use sees
    ("max_connections", "100"),
    (
        "autovacuum",
        "off",
    ),  # the filling ends with it; afterwards it would meet one measurement and not another
)


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running server."""

    directory: Path

    def new_database(self, name: str) -> str:
        """The URL of a new database."""
        with psycopg.connect(
            host=str(self.directory), user="teehouse", dbname="postgres", autocommit=True
        ) as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
        return f"postgresql+psycopg://teehouse@/{name}?host={self.directory}"


def _program(name: str) -> str | None:
    if found := shutil.which(name):
        return str(Path(found).resolve())
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    return str(places[0]) if places else None


def _user() -> str | None:
    """Who runs the server when we are root, which PostgreSQL refuses to be run by."""
    try:
        return pwd.getpwnam("postgres").pw_name if os.geteuid() == 0 else None
    except KeyError:
        return None


def available() -> bool:
    """Whether a server can be run here."""
    return _program("initdb") is not None and (os.geteuid() != 0 or _user() is not None)


@contextmanager
def running(directory: Path) -> Iterator[Cluster]:
    """A server with nothing in it, in this folder, which its user can reach."""
    directory.mkdir()
    user = _user()
    if user is not None:
        shutil.chown(directory, user)
    directory.chmod(0o700)
    data = str(directory / "data")
    settings = (*SETTINGS, ("unix_socket_directories", str(directory)))
    options = " ".join(f"-c {name}={value}" for name, value in settings)
    _run(user, ["initdb", "-D", data, "-A", "trust", "-U", "teehouse", "--no-sync"])
    _run(user, ["pg_ctl", "-D", data, "-o", options, "-l", str(directory / "log"), "-w", "start"])
    try:
        yield Cluster(directory)
    finally:
        _run(user, ["pg_ctl", "-D", data, "-m", "immediate", "-w", "stop"])


def _run(user: str | None, command: Sequence[str]) -> None:
    subprocess.run(
        [str(_program(command[0])), *command[1:]],
        check=True,
        user=user,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
    )
