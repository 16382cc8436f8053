"""Programs of a CVM that outlive the node process: started, found again, stopped (see `supervise`).

Rules:

1. A job's directory says all there is to know: a free lock means that nothing runs under supervision, and the
   record names what ran.
2. A process is signalled only through a descriptor of its own, taken before its start time is compared with the
   record's: another process that got the number meanwhile is never hit.
3. Where the supervisor itself was killed, what it watched is found by its session and group, which the kernel gives
   to nobody else while a member lives, and by the variable `TEEHOUSE_JOB`, which holds the job's directory.
4. At most one supervisor per job: the lock is taken before it starts and handed to it, so that there is no instant
   at which a job is under way unseen.
"""

import asyncio
import contextlib
import fcntl
import json
import math
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from teehouse.base.files import PRIVATE, write_atomic
from teehouse.base.findings import CollateralError, Finding, Outcome, unavailable
from teehouse.node import supervise
from teehouse.node.workload import WorkloadError, refusal

GRACE = 5.0  # seconds a supervisor has, beyond the job's own deadline, to see the end of what it killed
_MARK = "TEEHOUSE_JOB"
_POLL = 0.01  # seconds between two looks at what no descriptor announces
_LAUNCH = 30.0  # seconds until a supervisor that was told its job has answered


@dataclass(frozen=True, slots=True)
class JobSpec:
    """A program: `argv[0]` is an absolute path; `timeout` in seconds bounds the program itself, None does not."""

    name: str
    argv: tuple[str, ...]
    cwd: Path
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    log_bytes: int = 10 * 1024 * 1024
    log_files: int = 3
    timeout: float | None = None


@dataclass(frozen=True, slots=True)
class JobRecord:
    """What the supervisor wrote down. Times are UNIX seconds; processes are (id, start time).

    `reason` is "stopped" or "timeout" when the job was ended, "not started: ..." when it never was.
    """

    name: str
    boot: str
    supervisor: tuple[int, int | None]
    leader: tuple[int, int | None] | None
    started: float
    finished: float | None
    exit_code: int | None
    reason: str
    dropped: int


class Job:
    """One program of a CVM, in a directory of its own, which is made when missing."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()

    def record(self) -> JobRecord | None:
        """The record of the last run; None before the first, and when the machine lost it."""
        try:
            members = json.loads((self.directory / supervise.RECORD).read_bytes())
            leader = members.pop("leader")
            supervisor = tuple(members.pop("supervisor"))
            return JobRecord(
                **members, supervisor=supervisor, leader=None if leader is None else tuple(leader)
            )
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def supervised(self) -> bool:
        """Whether a supervisor is at work (rule 1)."""
        lock = self._lock()
        if lock is None:
            return True
        os.close(lock)
        return False

    def running(self) -> bool:
        """Whether any process of the job lives, its supervisor dead or alive."""
        record = self.record()
        if record is not None and record.finished is not None:
            return False  # a supervisor that has written this has nothing left but to let go of the lock
        return self.supervised() or bool(self._orphans())

    async def start(self, spec: JobSpec) -> None:
        """Start the program and return when it runs.

        Raises `WorkloadError` when the job runs already or the program cannot be started, `CollateralError` when
        the supervisor cannot. A cancelled start leaves nothing behind.
        """
        _check_environment(spec.environment)
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self.running():
            await self._stop_supervised(GRACE)
        lock = self._lock()
        if lock is None or self._orphans():
            if lock is not None:
                os.close(lock)
            raise refusal("workload.running", f"{spec.name} runs already", remedy="stop it first")
        try:
            for name in (supervise.RECORD, supervise.STOP):
                (self.directory / name).unlink(missing_ok=True)
            launch = asyncio.create_task(self._launch(spec, lock))
            try:
                problem = await asyncio.shield(launch)
            except asyncio.CancelledError:
                await asyncio.wait({launch})
                os.close(lock)
                lock = None
                await self.stop(0)
                raise
        finally:
            if lock is not None:
                os.close(lock)
        if problem:
            raise refusal("workload.start", f"{spec.name} could not be started", found=problem)

    async def _launch(self, spec: JobSpec, lock: int) -> str:
        job = {
            "name": spec.name,
            "argv": spec.argv,
            "environment": {**spec.environment, _MARK: str(self.directory)},
            "cwd": str(spec.cwd),
            "log": str(spec.log.absolute()),
            "log_bytes": spec.log_bytes,
            "log_files": spec.log_files,
            "timeout": spec.timeout,
        }
        program = (sys.executable, "-I", "-S", supervise.__file__, str(self.directory), str(lock))
        try:
            process = await asyncio.create_subprocess_exec(
                *program,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                pass_fds=(lock,),
                env={"PATH": os.defpath},
                start_new_session=True,
            )
            async with asyncio.timeout(_LAUNCH):
                answer, _ = await process.communicate(json.dumps(job).encode())
        except OSError as error:  # TimeoutError is one
            raise _no_supervisor(spec.name, error.strerror or type(error).__name__) from error
        if not answer:
            raise _no_supervisor(spec.name, "no answer")
        return str(json.loads(answer).get("error", ""))

    async def ended(self) -> JobRecord | None:
        """Wait until the program itself has ended, or its supervisor has, and return the record."""
        while (record := self.record()) is not None and record.exit_code is None and self.supervised():
            async with _gone(record.leader) as program, _gone(record.supervisor) as supervisor:
                if program is not None and supervisor is not None:
                    await asyncio.wait({program, supervisor}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(_POLL)
        return self.record()

    async def stop(self, deadline: float) -> None:
        """End the job: SIGTERM, after `deadline` seconds SIGKILL. Raises `WorkloadError` if it outlives that."""
        if self.supervised():
            write_atomic(self.directory / supervise.STOP, f"{max(0.0, deadline)}".encode(), mode=PRIVATE)
            await self._stop_supervised(deadline + GRACE)
        await self._stop_orphans(deadline)
        if self.running():
            raise refusal(
                "workload.stop", f"{self.directory.name} does not end", remedy="look at its processes"
            )

    async def _stop_supervised(self, patience: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while self.supervised():
                    record = self.record()
                    async with _gone(None if record is None else record.supervisor, signal.SIGTERM) as gone:
                        if gone is not None:
                            await gone
                    await asyncio.sleep(_POLL)  # it is about to write its record, or to let go of the lock

    async def _stop_orphans(self, deadline: float) -> None:
        """Rule 3."""
        for number, patience in ((signal.SIGTERM, deadline), (signal.SIGKILL, GRACE)):
            if patience <= 0:
                continue
            told: set[int] = set()
            for _ in range(math.ceil(patience / _POLL)):
                living = set(self._orphans())
                if not living:
                    return
                for pid in living - told:  # the later ones were forked while the list was made
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
                told |= living
                await asyncio.sleep(_POLL)

    def _orphans(self) -> list[int]:
        """The processes of a job whose supervisor is gone."""
        record = self.record()
        if record is None or record.finished is not None or not _same_boot(record) or self.supervised():
            return []
        group = (0, None) if record.leader is None else record.leader
        return members(record.supervisor, group, f"{_MARK}={self.directory}".encode())

    def _lock(self) -> int | None:
        """A descriptor that holds the job's lock, or None when a supervisor does."""
        try:
            descriptor = os.open(
                self.directory / supervise.LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE
            )
        except FileNotFoundError:  # no directory, no job
            return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    async def remove(self) -> None:
        """Stop the job at once and forget it."""
        await self.stop(0)
        shutil.rmtree(self.directory, ignore_errors=True)


def _no_supervisor(name: str, found: str) -> CollateralError:
    return unavailable(
        "workload.supervisor",
        f"the supervisor of {name} did not start",
        found=found,
        remedy="look for memory, processes and disk space that ran out",
    )


def _check_environment(environment: Mapping[str, str]) -> None:
    """Names and values that a process can have. The value is secret, the name is not."""
    for name, value in environment.items():
        if not name or "=" in name or "\0" in name + value:
            raise refusal(
                "workload.environment",
                f"environment variable {name[:64]!r}",
                expected="a name without `=`, neither with a zero byte",
            )


def _same_boot(record: JobRecord) -> bool:
    return record.boot == supervise.boot_id()


def members(session: tuple[int, int | None], group: tuple[int, int | None], mark: bytes) -> list[int]:
    """The living processes of a session, of a group, or with an environment variable.

    Session and group are named by their first process's id and start time; where the id is another process's by
    now, the kernel had seen the last member go before.
    """
    wanted = [
        number if supervise.start_time(number) in {None, start} else 0 for number, start in (session, group)
    ]
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
                if fields[0] not in {b"Z", b"X"} and (
                    int(fields[3]) == wanted[0]
                    or int(fields[2]) == wanted[1]
                    or mark in (entry / "environ").read_bytes().split(b"\0")
                ):
                    found.append(int(entry.name))
    return found


@asynccontextmanager
async def _gone(
    process: Sequence[int | None] | None, number: signal.Signals | None = None
) -> AsyncIterator[asyncio.Future[None] | None]:
    """A future that is done when the process has ended, None when it is gone already; a signal on the way (rule 2)."""
    descriptor = -1
    if process is not None and process[0] is not None:
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(process[0])
    if descriptor < 0:
        yield None
        return
    loop = asyncio.get_running_loop()
    try:
        if process is None or process[0] is None or supervise.start_time(process[0]) != process[1]:
            yield None
            return
        if number is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)
        future: asyncio.Future[None] = loop.create_future()
        loop.add_reader(descriptor, _finish, future)
        try:
            yield future
        finally:
            loop.remove_reader(descriptor)
    finally:
        os.close(descriptor)


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def failure(code: str, subject: str, record: JobRecord | None, *, remedy: str = "") -> WorkloadError:
    """What a job that should have succeeded ended with."""
    if record is None or record.exit_code is None:
        found = "its supervisor was killed"
    elif record.reason == "timeout":
        found = "no end within its time"
    else:
        found = f"exit code {record.exit_code}"
    return WorkloadError((Finding(code, subject, Outcome.MISUSE, "exit code 0", found, remedy),))
