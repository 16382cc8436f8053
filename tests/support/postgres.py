"""A PostgreSQL cluster of the tests' own: on a socket, without network, gone with the test process that began it.

Each worker of a parallel run has one cluster; each test has a database of its own in it.
"""

import atexit
import functools
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path

import psycopg
import pytest

_PLACES = ("/usr/lib/postgresql/*/bin",)


def _program(name: str) -> str | None:
    """The program's path: Debian keeps those of servers out of PATH."""
    if found := shutil.which(name):
        return str(Path(found).resolve())
    for place in _PLACES:
        for directory in sorted(Path("/").glob(place.lstrip("/")), reverse=True):
            if (directory / name).exists():
                return str(directory / name)
    return None


def available() -> bool:
    """Whether a cluster can be made here."""
    return _program("initdb") is not None and (os.geteuid() != 0 or _unprivileged() is not None)


def require() -> None:
    """Skip the test where there is no PostgreSQL; fail where there must be one."""
    if not available():
        if os.environ.get("CI"):
            pytest.fail("PostgreSQL is not installed")
        pytest.skip("PostgreSQL is not installed")


def _unprivileged() -> str | None:
    """Who runs the cluster when we are root, which PostgreSQL refuses."""
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        return None


class Cluster:
    """A running cluster."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="teehouse-pg-"))
        self._user = _unprivileged() if os.geteuid() == 0 else None
        if self._user:
            shutil.chown(self.directory, self._user)
        self.directory.chmod(0o700)
        self._run("initdb", "-D", f"{self.directory}/data", "-A", "trust", "-U", "teehouse", "--no-sync")
        self._watch = self._watcher()
        self.start()
        atexit.register(self.close)

    def _watcher(self) -> subprocess.Popen[bytes]:
        """A shell that waits for the end of its input, then stops the server and deletes everything.

        The input ends with this process, however that ends: a test run that is killed leaves no server behind.
        """
        script = 'read _; "$1" -D "$2/data" -m immediate -w stop; rm -rf "$2"'
        return subprocess.Popen(
            ["/bin/sh", "-c", script, "sh", str(_program("pg_ctl")), str(self.directory)],
            user=self._user,
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=self._environment(),
            start_new_session=True,
        )

    def _environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(_program(program)), *arguments]
        subprocess.run(
            command,
            check=True,
            user=self._user,
            cwd=self.directory if self._user is None else "/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=self._environment(),
        )

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        options = (
            f"-c listen_addresses='' -c unix_socket_directories={self.directory} -c fsync=off "
            "-c max_connections=200 -c shared_buffers=32MB"
        )
        log = f"{self.directory}/log"
        self._run("pg_ctl", "-D", f"{self.directory}/data", "-o", options, "-l", log, "-w", "start")

    def stop(self, mode: str = "immediate") -> None:
        """Stop it; `immediate` is as a crash."""
        self._run("pg_ctl", "-D", f"{self.directory}/data", "-m", mode, "-w", "stop")

    def url(self, database: str) -> str:
        """The URL of a database."""
        return f"postgresql+psycopg://teehouse@/{database}?host={self.directory}"

    def new_database(self, template: str = "template0") -> str:
        """The URL of a new database, empty or a copy of one that nobody is connected to."""
        name = f"t_{secrets.token_hex(6)}"
        with psycopg.connect(
            host=str(self.directory), user="teehouse", dbname="postgres", autocommit=True
        ) as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY file_copy')
        return self.url(name)

    def close(self) -> None:
        """Stop the server and delete everything."""
        self._watch.communicate()


@functools.cache
def shared_cluster() -> Cluster:
    """The cluster of this process, for tests that do not stop it."""
    return Cluster()
