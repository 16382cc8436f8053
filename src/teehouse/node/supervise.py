"""Watches one program of a CVM: keeps its log, its exit code and its end, whatever becomes of the node process.

Run as a file of its own, `python -I -S supervise.py DIRECTORY LOCK`, with the standard library alone: one such
process stands beside each program of each CVM, so it has to stay small. DIRECTORY is the job's; LOCK is the number
of an inherited descriptor that holds an exclusive lock on `DIRECTORY/lock`. The job comes on standard input as one
JSON object: `argv`, `environment`, `cwd`, `name`, `log`, `log_bytes`, `log_files`, `timeout` (seconds or null). The
answer is one JSON object on standard output: `{}`, or `error` with what stood in the way.

Rules:

1. The lock is held from before the program starts until all its processes are gone. Who finds it free knows that
   nothing runs.
2. The environment comes through the pipe only. A job that was not read whole is not run.
3. `record.json` names supervisor and program by process id and start time, which together are never used twice
   within one boot of the machine, and that boot.
4. The program leads a process group of its own. Processes it leaves behind become this process's children; the
   job ends with the last of them. If the program itself failed, they are killed.
5. SIGTERM stops the job: the group and all children get SIGTERM, and SIGKILL when the seconds in `DIRECTORY/stop`
   (10 without that file) have passed. A job that outlives `timeout` is stopped the same way.
6. Each line of output becomes one line of JSON with the members `log`, `stream` and `time`, in the form of Docker's
   json-file logs. A line of more than 16 KiB becomes several entries, of which the last alone ends in a newline;
   none ends within a character. What is not UTF-8 is replaced.
7. A log is renamed to `LOG.1` before it outgrows `log_bytes`; at most `log_files` files are kept. Output that
   cannot be written is counted and dropped: a full disk does not stop the program.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import select
import signal
import sys
import time
from typing import Any

JOB_LIMIT = 16 * 1024 * 1024  # bytes
LINE_LIMIT = 16 * 1024  # bytes of output in one entry
DEFAULT_STOP_SECONDS = 10.0
KILL_PAUSE = 0.05  # seconds between two rounds of SIGKILL
RECORD = "record.json"
STOP = "stop"
LOCK = "lock"
_PR_SET_CHILD_SUBREAPER = 36
_READ = 64 * 1024
_DESCRIPTORS = 1 << 20  # more than a process has


def start_time(pid: int) -> int | None:
    """When a process began, in clock ticks since the machine's boot; None when there is none, or only its remains."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - pathlib is a third of this program's memory
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in {b"Z", b"X"} else int(fields[19])


def descendants(pid: int) -> list[int]:
    """The children of a process, their children, and so on."""
    offspring: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - as above
        if name.isdecimal():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123 - as above
                parent = int(file.read().rpartition(b")")[2].split()[1])
                offspring.setdefault(parent, []).append(int(name))
    found = list(offspring.get(pid, ()))
    for child in found:  # grows while it is walked
        found += offspring.get(child, ())
    return found


def boot_id() -> str:
    """The kernel's name of the time since this machine's boot, empty where it gives none."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:  # noqa: PTH123 - as above
            return file.read().strip()
    except OSError:
        return ""


def timestamp(nanoseconds: int) -> str:
    """RFC 3339 in UTC with nine digits of fraction."""
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{fraction:09d}Z"


class Log:
    """A log in the json-file form (rules 6 and 7). `dropped` counts entries that could not be written."""

    def __init__(self, path: str, limit: int, files: int) -> None:
        self.path, self.limit, self.files = path, limit, files
        self.dropped = 0
        self._file = -1
        self._size = 0

    def write(self, stream: str, text: bytes) -> None:
        """Append one entry."""
        entry = {"log": text.decode(errors="replace"), "stream": stream, "time": timestamp(time.time_ns())}
        line = json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        try:
            self._room_for(len(line))
            if os.write(self._file, line) != len(line):
                os.ftruncate(self._file, self._size)  # half an entry would spoil the next
                self.dropped += 1
                return
        except OSError:
            self.dropped += 1
            return
        self._size += len(line)

    def _room_for(self, size: int) -> None:
        if self._file < 0:
            self._open()
        if self._size and self._size + size > self.limit:
            os.close(self._file)
            self._file = -1
            for number in range(self.files - 1, 0, -1):
                older = self.path if number == 1 else f"{self.path}.{number - 1}"
                with contextlib.suppress(FileNotFoundError):
                    os.replace(older, f"{self.path}.{number}")  # noqa: PTH105 - no pathlib here
            if self.files == 1:
                os.unlink(self.path)  # noqa: PTH108 - no pathlib here
            self._open()

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(self.path, flags, 0o600)
        self._size = os.fstat(self._file).st_size


class Lines:
    """One output stream, cut into entries (rule 6)."""

    def __init__(self, stream: str, log: Log) -> None:
        self.stream, self.log = stream, log
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Take what was read; nothing means the end of the stream."""
        if not data:
            if self._rest:
                self.log.write(self.stream, self._rest)
                self._rest = b""
            return
        *lines, rest = (self._rest + data).split(b"\n")
        for line in lines:
            self.log.write(self.stream, self._cut(line) + b"\n")
        self._rest = self._cut(rest)

    def _cut(self, line: bytes) -> bytes:
        """Write the pieces of a long line but the last."""
        while len(line) > LINE_LIMIT:
            end = LINE_LIMIT
            while end > LINE_LIMIT - 4 and line[end] & 0xC0 == 0x80:
                end -= 1  # a byte that continues a character
            self.log.write(self.stream, line[:end])
            line = line[end:]
        return line


class Job:
    """One program from its start to the end of its last process."""

    def __init__(self, directory: str, job: dict[str, Any]) -> None:
        self.directory = directory
        self.job = job
        self.log = Log(job["log"], job["log_bytes"], job["log_files"])
        self.leader = 0
        self.kill_at: float | None = None  # on the monotonic clock, once the job is being stopped
        self.stop_asked = False
        self.end_at = None if job["timeout"] is None else time.monotonic() + job["timeout"]
        self.wake = -1
        self.pipes: dict[int, Lines] = {}
        self.record: dict[str, Any] = {
            "name": job["name"],
            "boot": boot_id(),
            "supervisor": [os.getpid(), start_time(os.getpid())],
            "leader": None,
            "started": time.time(),
            "finished": None,
            "exit_code": None,
            "reason": "",
            "dropped": 0,
        }

    def start(self) -> None:
        """Start the program. Raises OSError when it cannot be, and the record says so too."""
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._listen()
        ends = []
        actions: list[tuple[Any, ...]] = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
        for number, stream in ((1, "stdout"), (2, "stderr")):
            reading, writing = os.pipe()
            os.set_blocking(reading, False)
            self.pipes[reading] = Lines(stream, self.log)
            actions.append((os.POSIX_SPAWN_DUP2, writing, number))
            ends.append(writing)
        try:
            os.chdir(self.job["cwd"])
            self.leader = os.posix_spawn(
                self.job["argv"][0],
                self.job["argv"],
                self.job["environment"],
                file_actions=actions,
                setpgroup=0,
                setsigmask=(),
                setsigdef=(signal.SIGPIPE, signal.SIGTERM, signal.SIGINT, signal.SIGHUP),
            )
        except OSError as error:
            self.record.update(finished=time.time(), exit_code=127, reason=f"not started: {error.strerror}")
            self.save()
            raise
        finally:
            for end in ends:
                os.close(end)
        self.job["environment"] = {}
        self.record["leader"] = [self.leader, start_time(self.leader)]
        self.save()

    def _listen(self) -> None:
        """Take signals before anybody learns whom to send them to."""
        self.wake, notify = os.pipe()
        os.set_blocking(self.wake, False)
        os.set_blocking(notify, False)
        signal.set_wakeup_fd(notify, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._ask_stop)

    def save(self) -> None:
        """Write the record whole. A full disk leaves the former one: what runs goes on."""
        self.record["dropped"] = self.log.dropped
        path = f"{self.directory}/{RECORD}"
        with contextlib.suppress(OSError):
            with os.fdopen(os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                json.dump(self.record, file)
            os.replace(f"{path}.new", path)  # noqa: PTH105 - no pathlib here

    def watch(self) -> None:
        """Serve the program until its last process is gone (rules 4 to 7)."""
        poll = select.poll()
        for descriptor in (self.wake, *self.pipes):
            poll.register(descriptor, select.POLLIN)
        while self._reap():
            for descriptor, _ in poll.poll(self._advance(time.monotonic())):
                if descriptor == self.wake:
                    os.read(descriptor, _READ)
                elif not self._read(descriptor):
                    poll.unregister(descriptor)
        for descriptor in tuple(self.pipes):
            with contextlib.suppress(BlockingIOError):  # somebody outside the job holds the other end
                while self._read(descriptor):
                    pass
        for lines in self.pipes.values():
            lines.feed(b"")
        self.record["finished"] = time.time()
        self.save()

    def _advance(self, now: float) -> float | None:
        """Do what time asks for; milliseconds until it asks again."""
        overdue = self.end_at is not None and now >= self.end_at and self.record["exit_code"] is None
        if self.stop_asked or (overdue and self.kill_at is None):
            self._stop("stopped" if self.stop_asked else "timeout", now)
            self.stop_asked = False
        if self.kill_at is not None and now >= self.kill_at:
            self._signal(signal.SIGKILL)
            self.kill_at = now + KILL_PAUSE
        next_at = self.kill_at
        if next_at is None and self.record["exit_code"] is None:
            next_at = self.end_at
        return None if next_at is None else max(0.0, next_at - now) * 1000 + 1

    def _ask_stop(self, *_: object) -> None:
        self.stop_asked = True

    def _stop(self, reason: str, now: float) -> None:
        seconds = DEFAULT_STOP_SECONDS
        path = f"{self.directory}/{STOP}"
        with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii") as file:  # noqa: PTH123 - as above
            seconds = float(file.read())
        if self.kill_at is not None:  # asked again: only the time can become shorter
            self.kill_at = min(self.kill_at, now + seconds)
            return
        self.record["reason"] = reason
        self.kill_at = now + seconds
        if seconds > 0:
            self._signal(signal.SIGTERM)

    def _signal(self, number: int) -> None:
        """To the program's group and to every other descendant, once: a second SIGTERM means haste to many."""
        group = (
            self.leader if self.record["exit_code"] is None else 0
        )  # later the number could be another group's
        if group:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, number)
        for pid in descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                if os.getpgid(pid) != group:
                    os.kill(pid, number)

    def _reap(self) -> bool:
        """Take leave of the children that ended. False when none is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self.leader:
                code = os.waitstatus_to_exitcode(status)
                self.record["exit_code"] = code if code >= 0 else 128 - code
                self.save()
                if code != 0 and self.kill_at is None:
                    self.kill_at = time.monotonic()

    def _read(self, descriptor: int) -> bool:
        """Pass on what the stream holds. False at its end; raises BlockingIOError when it is empty."""
        data = os.read(descriptor, _READ)
        self.pipes[descriptor].feed(data)
        if not data:
            os.close(descriptor)
            del self.pipes[descriptor]
        return bool(data)


def read_job(descriptor: int) -> dict[str, Any]:
    """The job from the pipe. Raises ValueError when it is cut off or too large (rule 2)."""
    data = b""
    while piece := os.read(descriptor, _READ):
        data += piece
        if len(data) > JOB_LIMIT:
            raise ValueError("the job is too large")
    job: dict[str, Any] = json.loads(data)
    return job


def run(directory: str, lock: int, answer: int) -> None:
    """Read the job from standard input, start it, answer, and watch it to its end."""
    os.set_inheritable(lock, False)
    os.set_inheritable(answer, False)
    os.umask(0o077)
    job: Job | None = None
    problem = {}
    try:
        job = Job(directory, read_job(0))
        quiet = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(quiet, number)
        os.umask(0o022)  # what the program writes is the program's business
        job.start()
    except ValueError:
        problem = {"error": "the job was not read whole"}
    except Exception as error:  # noqa: BLE001 - somebody waits for an answer, whatever went wrong
        problem = {"error": getattr(error, "strerror", None) or type(error).__name__}
    if problem:
        fcntl.flock(lock, fcntl.LOCK_UN)  # before anybody can ask
    os.write(answer, json.dumps(problem).encode())
    os.close(answer)
    if job is not None and not problem:
        job.watch()
        fcntl.flock(lock, fcntl.LOCK_UN)


def main() -> None:
    """Leave the caller's session and family, so that its end is not ours."""
    directory, lock = sys.argv[1], int(sys.argv[2])
    # What the caller's event loop let slip into this process is nobody's here; its own ends of our pipes are
    # among it, and would keep them open.
    os.closerange(3, lock)
    os.closerange(lock + 1, _DESCRIPTORS)
    if os.fork():
        os._exit(0)
    os.setsid()
    run(directory, lock, os.dup(1))
    os._exit(0)


if __name__ == "__main__":
    main()
