"""Scripts of an app: where they lie, what they see of the host, and the one that runs before the app.

Rules:

1. A script sees the opened environment and PATH, HOME, LANG, the two variables by which unmodified SDKs find the
   CVM's sockets (guest-agent.md 1.4), and TEEHOUSE_EMULATED; nothing else of the node's environment. The app may set
   the first three, not the others.
2. HOME and working directory are the CVM's own.
3. The pre-launch script runs in a shell of its own. What it exports reaches the app, as where one shell sources both;
   it is passed on in a file of mode 0600 that is removed before the app starts.
4. A pre-launch script that fails or takes too long ends the start, and what it left behind is stopped. Processes left
   behind by one that succeeded go on until the app is stopped.
"""

import asyncio
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from teehouse.base.files import write_atomic
from teehouse.base.findings import unavailable
from teehouse.node.jobs import Job, JobSpec, failure
from teehouse.node.workload import WorkloadSpec, refusal

SHELL = Path("/bin/bash")
HOST_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SOURCE_AND_EXPORT = 'source "$1"; status=$?; [ "$status" -eq 0 ] || exit "$status"; env -0 > "$2"'
_SHELLS_OWN = frozenset({"_", "PWD", "OLDPWD", "SHLVL"})


class Place:
    """The part of a CVM's directory in which its app lives."""

    def __init__(self, directory: Path) -> None:
        self.root = directory.absolute() / "workload"
        self.home = self.root / "home"
        self.logs = self.root / "logs"
        self.pre_launch = Job(self.root / "pre-launch")

    def make(self) -> None:
        """Make the directories."""
        for directory in (self.root, self.home, self.logs):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def remove(self) -> None:
        """Remove all of it. Raises `WorkloadError` when something stays, as files of a container's root may."""
        shutil.rmtree(self.root, ignore_errors=True)
        if self.root.exists():
            raise refusal(
                "workload.remove",
                f"the app's directory {self.root}",
                expected="to be gone",
                found="files that this user may not remove",
                remedy="remove it as root",
            )

    def log(self, name: str) -> Path:
        """The json-file log of a container or script; `name` is any text."""
        return self.logs / f"{file_name(name)}-json.log"


def file_name(name: str) -> str:
    """`name` as a file's: other characters than letters, digits, `_`, `.` and `-` become `_`; at most 128."""
    kept = "".join(
        sign if sign.isascii() and (sign.isalnum() or sign in "_.-") else "_" for sign in name[:128]
    )
    return kept if kept.strip(".") else f"_{kept}"


def script_environment(spec: WorkloadSpec, home: Path, search_path: str = "") -> dict[str, str]:
    """Rule 1. `search_path` takes the place of the default PATH: this Python's directory, then the host's usual ones."""
    return {
        "PATH": search_path or f"{Path(sys.executable).parent}:{HOST_PATH}",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        **spec.environment,
        "DSTACK_SIMULATOR_ENDPOINT": str(spec.socket_directory.absolute() / "dstack.sock"),
        "TAPPD_SIMULATOR_ENDPOINT": str(spec.socket_directory.absolute() / "tappd.sock"),
        "TEEHOUSE_EMULATED": "1",
    }


def shell(path: Path = SHELL) -> str:
    """The shell's path. Raises `CollateralError` when there is none."""
    if not path.exists():
        raise unavailable(
            "workload.shell",
            "the shell that runs an app's scripts",
            expected=str(path),
            found="no such file",
            remedy="install bash (Debian: apt-get install bash)",
        )
    return str(path)


async def run_pre_launch(
    spec: WorkloadSpec, place: Place, environment: Mapping[str, str], shell_file: Path = SHELL
) -> dict[str, str]:
    """Run the pre-launch script, if there is one; the environment for the app (rules 3 and 4).

    Raises `WorkloadError` (`workload.pre-launch`) when it fails, `CollateralError` when there is no shell.
    """
    path, exported = place.root / "pre-launch.sh", place.root / "exported"
    exported.unlink(missing_ok=True)  # of a start that a crash cut off
    script = spec.app_compose.pre_launch_script
    if not script:
        return dict(environment)
    write_atomic(path, script.encode())
    write_atomic(exported, b"")  # with its mode, before there is something to read
    job = JobSpec(
        name="pre-launch",
        argv=(shell(shell_file), "-c", _SOURCE_AND_EXPORT, "pre-launch", str(path), str(exported)),
        cwd=place.home,
        log=place.log("pre-launch"),
        environment=environment,
        log_bytes=spec.limits.log_bytes,
        log_files=spec.limits.log_files,
        timeout=spec.limits.pre_launch_seconds,
    )
    try:
        await place.pre_launch.start(job)
        record = await place.pre_launch.ended()
        if record is None or record.exit_code != 0:
            await place.pre_launch.stop(0)
            remedy = f"its output is in {job.log.name}"
            raise failure("workload.pre-launch", "the pre-launch script", record, remedy=remedy)
    except asyncio.CancelledError:
        await place.pre_launch.stop(0)
        raise
    else:
        return {**environment, **_read_exported(exported)}
    finally:
        exported.unlink(missing_ok=True)


def _read_exported(path: Path) -> dict[str, str]:
    """The variables that the script's shell had in the end; none when the script ended that shell itself."""
    pairs = (line.partition("=") for line in path.read_text(errors="surrogateescape").split("\0") if line)
    return {name: value for name, _, value in pairs if name not in _SHELLS_OWN}
