"""The supervisor, as functions and as a process of the test's own. Rule numbers are those of `supervise`."""

import fcntl
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.node_workloads import entries, printed
from teehouse.node import supervise

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # the child does nothing else


class Supervised:
    """A supervisor in a process of its own, on a job in `directory`."""

    def __init__(self, directory: Path, script: str, **members: Any) -> None:
        self.directory, self.log = directory, directory / "log"
        job = {
            "name": "app",
            "argv": ["/bin/bash", "-c", script],
            "environment": {"PATH": os.defpath},
            "cwd": str(directory),
            "log": str(self.log),
            "log_bytes": 1_000_000,
            "log_files": 2,
            "timeout": None,
            **members,
        }
        self.start(json.dumps(job).encode())

    def start(self, job: bytes) -> None:
        self.lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT)
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        reading, writing = os.pipe()
        hearing, answering = os.pipe()

        def supervisor() -> None:
            os.dup2(reading, 0)
            for descriptor in (reading, writing, hearing):
                os.close(descriptor)
            former = Path.cwd()
            supervise.run(str(self.directory), self.lock, answering)
            os.chdir(former)  # what measures coverage writes where it began

        self.process = multiprocessing.get_context("fork").Process(target=supervisor)
        self.process.start()
        for descriptor in (reading, answering, self.lock):
            os.close(descriptor)
        os.write(writing, job)
        os.close(writing)
        with os.fdopen(hearing, "rb") as file:
            self.answer = json.loads(file.read())

    @property
    def record(self) -> dict[str, Any]:
        record: dict[str, Any] = json.loads((self.directory / "record.json").read_bytes())
        return record

    def stop(self, seconds: str = "5") -> None:
        (self.directory / "stop").write_text(seconds)
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGTERM)

    def ended(self) -> dict[str, Any]:
        self.process.join(20)
        assert not self.process.is_alive()
        assert self.record["finished"] is not None
        return self.record


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_program_from_start_to_end(tmp_path: Path) -> None:
    supervised = Supervised(tmp_path, "echo out; echo err >&2; printf open; exit 3")
    assert supervised.answer == {}
    record = supervised.ended()
    assert record.pop("started") <= record.pop("finished")
    assert record.pop("leader")[0] > 0
    assert record == {
        "name": "app",
        "boot": supervise.boot_id(),
        "supervisor": [supervised.process.pid, record["supervisor"][1]],
        "exit_code": 3,
        "reason": "",
        "dropped": 0,
    }
    seen = entries(supervised.log)
    assert sorted((entry["stream"], entry["log"]) for entry in seen) == [
        ("stderr", "err\n"),
        ("stdout", "open"),
        ("stdout", "out\n"),
    ]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", entry["time"]) for entry in seen)
    assert (supervised.log.stat().st_mode & 0o777, (tmp_path / "record.json").stat().st_mode & 0o777) == (
        0o600,
        0o600,
    )
    lock = os.open(tmp_path / "lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # rule 1: it is free again
    os.close(lock)


def test_rule_5_the_end_comes_in_two_steps(tmp_path: Path) -> None:
    supervised = Supervised(
        tmp_path, "trap 'echo asked' TERM; (setsid sleep 60 &); echo ready; while :; do sleep 0.05; done"
    )
    wait_for(lambda: printed(supervised.log) == "ready\n")
    supervised.stop("60")
    wait_for(lambda: printed(supervised.log) == "ready\nasked\n")
    supervised.stop("0.1")
    record = supervised.ended()
    assert (record["exit_code"], record["reason"]) == (137, "stopped")
    assert printed(supervised.log) == "ready\nasked\n"  # SIGTERM came once


@pytest.mark.parametrize("seconds", ["0", "no number"])
def test_rule_5_at_once_and_by_default(tmp_path: Path, seconds: str) -> None:
    supervised = Supervised(tmp_path, "exec sleep 60")
    supervised.stop(seconds)
    assert supervised.ended()["exit_code"] == (137 if seconds == "0" else 143)


def test_rule_5_a_time_that_ran_out(tmp_path: Path) -> None:
    record = Supervised(tmp_path, "exec sleep 60", timeout=0.1).ended()
    assert (record["exit_code"], record["reason"]) == (143, "timeout")


def test_rule_4_the_time_is_the_programs_own(tmp_path: Path) -> None:
    supervised = Supervised(tmp_path, "sleep 0.3 & exit 0", timeout=0.1)
    assert (supervised.ended()["exit_code"], supervised.record["reason"]) == (0, "")


def test_rule_4_a_failed_program_takes_its_children_along(tmp_path: Path) -> None:
    began = time.monotonic()
    assert Supervised(tmp_path, "setsid sleep 60 & sleep 60 & exit 5").ended()["exit_code"] == 5
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ({"argv": ["/nowhere/program"]}, "No such file or directory"),
        ({"cwd": "/nowhere"}, "No such file or directory"),
        ({"argv": ["/etc/passwd"]}, "Permission denied"),
        ({"environment": None}, "TypeError"),
    ],
)
def test_a_program_that_does_not_start(tmp_path: Path, members: dict[str, Any], problem: str) -> None:
    supervised = Supervised(tmp_path, "", **members)
    assert supervised.answer == {"error": problem}
    supervised.process.join(10)
    if problem != "TypeError":  # nobody's error but ours: there is no record, and the answer tells
        record = supervised.ended()
        assert (record["exit_code"], record["reason"]) == (127, f"not started: {problem}")


@pytest.mark.parametrize("job", [b"", b'{"argv": ["/bin/tr', b" " * (supervise.JOB_LIMIT + 1)])
def test_rule_2_a_job_that_is_cut_off_is_not_run(tmp_path: Path, job: bytes) -> None:
    reading, writing = os.pipe()
    if len(job) > supervise.JOB_LIMIT:  # more than a pipe holds
        os.close(writing)
        os.close(reading)
        (tmp_path / "job").write_bytes(job)
        reading = os.open(tmp_path / "job", os.O_RDONLY)
    else:
        os.write(writing, job)
        os.close(writing)
    with pytest.raises(ValueError, match=r"the job is too large|Expecting|Unterminated"):
        supervise.read_job(reading)
    os.close(reading)


def test_rule_2_the_caller_hears_of_it(tmp_path: Path) -> None:
    supervised = Supervised.__new__(Supervised)
    supervised.directory = tmp_path
    supervised.start(b"{")
    assert supervised.answer == {"error": "the job was not read whole"}
    assert not (tmp_path / "record.json").exists()
    supervised.process.join(10)


def test_output_that_somebody_outside_holds_open_does_not_hold_the_job(tmp_path: Path) -> None:
    supervised = Supervised(
        tmp_path, "printf half; read -r; exit 0 <&0", argv=["/bin/bash", "-c", "printf half; sleep 0.2"]
    )
    leader = supervised.record["leader"][0]
    wait_for(lambda: Path(f"/proc/{leader}/fd/1").exists())
    held = os.open(f"/proc/{leader}/fd/1", os.O_WRONLY)
    supervised.ended()
    os.close(held)
    assert printed(supervised.log) == "half"


def test_the_program_itself_runs_as_a_file_of_its_own(tmp_path: Path) -> None:
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    command = [sys.executable, "-I", "-S", supervise.__file__, str(tmp_path), str(lock)]
    done = subprocess.run(command, input=b"", capture_output=True, pass_fds=(lock,), timeout=20, check=True)
    os.close(lock)
    assert json.loads(done.stdout) == {"error": "the job was not read whole"}


def test_it_is_a_small_program() -> None:
    """What it loads decides what each CVM costs."""
    program = f"import runpy, sys; runpy.run_path({supervise.__file__!r}); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, timeout=20, check=True
    )
    heavy = {
        "asyncio",
        "subprocess",
        "pathlib",
        "typing_extensions",
        "logging",
        "socket",
        "threading",
        "tempfile",
    }
    assert heavy & set(done.stdout.decode().split()) == set()


def test_rule_6_long_lines_are_cut_between_characters(tmp_path: Path) -> None:
    log = supervise.Log(str(tmp_path / "log"), 10_000_000, 1)
    lines = supervise.Lines("stdout", log)
    text = "ü" + "€" * 12_000 + "\nshort\n"
    data = text.encode()
    for at in range(0, len(data), 1000):
        lines.feed(data[at : at + 1000])
    lines.feed(b"rest")
    lines.feed(b"")
    lines.feed(b"")
    pieces = [entry["log"] for entry in entries(tmp_path / "log")]
    assert "".join(pieces) == text + "rest"
    assert [piece.endswith("\n") for piece in pieces] == [False, False, True, True, False]
    assert [len(piece.encode()) for piece in pieces[:2]] == [16382, 16383]


@given(st.lists(st.binary(max_size=40_000), max_size=4))
def test_rule_6_nothing_is_lost_or_added(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    lines = supervise.Lines("stderr", supervise.Log(str(path), 100_000_000, 1))
    for piece in [*filter(None, pieces), b""]:
        lines.feed(piece)
    data = b"".join(pieces)
    if data.isascii():
        assert printed(path, "stderr").encode() == data
    else:
        assert printed(path, "stderr").count("\n") == data.count(b"\n")


def test_rule_7_a_log_is_bounded(tmp_path: Path) -> None:
    log = supervise.Log(str(tmp_path / "log"), 300, 3)
    for number in range(20):
        log.write("stdout", f"{number:02}\n".encode())
    names = ["log.2", "log.1", "log"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert all((tmp_path / name).stat().st_size <= 300 for name in names)
    kept = [entry["log"] for name in names for entry in entries(tmp_path / name)]
    assert kept == [f"{number:02}\n" for number in range(20 - len(kept), 20)]
    again = supervise.Log(str(tmp_path / "log"), 300, 3)  # after a restart it goes on where it was
    again.write("stdout", b"20\n")
    assert [entry["log"] for name in names for entry in entries(tmp_path / name)][-1] == "20\n"


def test_rule_7_one_file_is_emptied(tmp_path: Path) -> None:
    log = supervise.Log(str(tmp_path / "log"), 10, 1)
    for text in (b"a\n", b"b\n"):  # each entry is larger than the bound, and kept
        log.write("stdout", text)
    assert [path.name for path in tmp_path.iterdir()] == ["log"]
    assert printed(tmp_path / "log") == "b\n"


def test_rule_7_a_full_disk_costs_entries_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = supervise.Log("/dev/full", 1000, 2)
    full.write("stdout", b"lost\n")
    assert full.dropped == 1
    log = supervise.Log(str(tmp_path / "log"), 1000, 2)
    log.write("stdout", b"first\n")
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:5]))
        log.write("stdout", b"cut\n")
    log.write("stdout", b"last\n")
    assert log.dropped == 1
    assert printed(tmp_path / "log") == "first\nlast\n"


def test_what_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    child = subprocess.Popen(["/bin/true"])
    wait_for(lambda: b") Z " in Path(f"/proc/{child.pid}/stat").read_bytes())
    assert supervise.start_time(child.pid) is None
    child.wait()
    assert supervise.start_time(child.pid) is None
    assert supervise.start_time(os.getpid()) is not None
    monkeypatch.setattr("builtins.open", _nothing_opens)
    assert supervise.boot_id() == ""


def _nothing_opens(*_: object, **__: object) -> None:
    raise FileNotFoundError
