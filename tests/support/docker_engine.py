"""A Docker Engine of the tests' own: its socket, data and state in a temporary directory."""

import io
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from teehouse.base.files import locked

IMAGE = "teehouse-test/busybox:1"
_APPLETS = (
    "sh",
    "ls",
    "nc",
    "cat",
    "sleep",
    "echo",
    "env",
    "httpd",
    "wget",
    "hostname",
    "touch",
    "nslookup",
    "tee",
)
_BUSYBOX = Path("/bin/busybox")


@dataclass(frozen=True)
class DockerEngine:
    """`socket` is the engine's; `host` an environment for the node that speaks to it."""

    socket: Path
    docker: str

    @property
    def host(self) -> dict[str, str]:
        return {**os.environ, "DOCKER_HOST": f"unix://{self.socket}"}

    def run(self, *words: str, data: bytes | None = None) -> str:
        """A command of the docker client; what it prints."""
        done = subprocess.run(
            [self.docker, *words], env=self.host, input=data, capture_output=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode().strip()


def _missing(what: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(f"{what}: CI has to have it")
    pytest.skip(what)


@contextmanager
def docker_engine(directory: Path) -> Iterator[DockerEngine]:
    """A running engine with `IMAGE`; skips where there is none to run, which fails in CI."""
    daemon = shutil.which("dockerd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    docker = shutil.which("docker")
    if daemon is None or docker is None or not _BUSYBOX.exists():
        _missing("no dockerd, docker and /bin/busybox here")
        return
    if os.geteuid() != 0:
        _missing("a Docker Engine is started by root alone")
    # Two engines on one machine fight for its bridge and its packet filter.
    with locked(Path(tempfile.gettempdir()) / "teehouse-test-engine.lock"):
        yield from _serve(directory, daemon, docker)


def _serve(directory: Path, daemon: str, docker: str) -> Iterator[DockerEngine]:
    socket = directory / "docker.sock"
    places = {"--data-root": "data", "--exec-root": "exec", "--pidfile": "pid"}
    options = [word for option, name in places.items() for word in (option, str(directory / name))]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [daemon, "--storage-driver", "vfs", "-H", f"unix://{socket}", *options],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        engine = DockerEngine(socket, docker)
        try:
            _wait(process, engine, directory / "log")
            engine.run("import", "-", IMAGE, data=_root_file_system())
            yield engine
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(30)


def _wait(process: subprocess.Popen[bytes], engine: DockerEngine, log: Path) -> None:
    for _ in range(300):
        if process.poll() is not None:
            break
        up = subprocess.run(
            [engine.docker, "info"], env=engine.host, capture_output=True, timeout=60, check=False
        )
        if up.returncode == 0 and engine.socket.exists():
            return
        time.sleep(0.1)
    process.kill()
    _missing(f"dockerd does not start here: {log.read_text()[-500:]}")


def _root_file_system() -> bytes:
    """A file system of nothing but busybox, as a tar archive."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        archive.add(_BUSYBOX.resolve(), "bin/busybox")
        for applet in _APPLETS:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
        temporary = tarfile.TarInfo("tmp")
        temporary.type, temporary.mode = tarfile.DIRTYPE, 0o1777
        archive.addfile(temporary)
    return held.getvalue()
