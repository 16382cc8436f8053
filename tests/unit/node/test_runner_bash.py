"""Runner bash, with real processes. Rule numbers are those of `bash_runner`, `scripts` and `jobs`."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.node_workloads import CVM_ID, entries, printed, spec_of, until
from teehouse.base.findings import CollateralError, MisuseError
from teehouse.node import scripts, supervise
from teehouse.node.bash_runner import BashWorkload, duration
from teehouse.node.jobs import Job, JobRecord
from teehouse.node.workload import ContainerState, Limits, PortsPolicy, WorkloadError, WorkloadSpec


@pytest.fixture
async def workload(tmp_path: Path) -> AsyncIterator[BashWorkload]:
    workload = BashWorkload(CVM_ID, tmp_path, now=lambda: 10.0)
    yield workload
    await workload.remove()


def app_job(workload: BashWorkload) -> Job:
    return Job(workload.place.root / "app")


def record_of(workload: BashWorkload) -> JobRecord:
    record = app_job(workload).record()
    assert record is not None
    return record


def alive(pid: int) -> bool:
    return supervise.start_time(pid) is not None


async def test_a_script_sees_its_environment_and_nothing_else(workload: BashWorkload, tmp_path: Path) -> None:
    spec = spec_of(
        tmp_path, environment={"API_KEY": "s3cret", "HOME": "/app"}, bash_script="pwd; env -u _ | sort"
    )
    await workload.start(spec)
    await until(lambda: record_of(workload).finished is not None)
    home = tmp_path / "workload" / "home"
    assert printed(workload.place.log("shop")).splitlines() == [
        str(home),
        "API_KEY=s3cret",
        f"DSTACK_SIMULATOR_ENDPOINT={tmp_path}/sockets/dstack.sock",
        "HOME=/app",
        "LANG=C.UTF-8",
        f"PATH={Path(sys.executable).parent}:{scripts.HOST_PATH}",
        f"PWD={home}",
        "SHLVL=1",
        f"TAPPD_SIMULATOR_ENDPOINT={tmp_path}/sockets/tappd.sock",
        "TEEHOUSE_EMULATED=1",
        f"TEEHOUSE_JOB={tmp_path}/workload/app",
    ]
    assert "s3cret" not in repr(spec)
    secret_files = [
        path for path in (tmp_path / "workload").rglob("*") if path.is_file() and "log" not in path.name
    ]
    assert all(b"s3cret" not in path.read_bytes() for path in secret_files)


async def test_no_secret_is_in_an_argument_list(workload: BashWorkload, tmp_path: Path) -> None:
    await workload.start(spec_of(tmp_path, environment={"API_KEY": "s3cret"}, bash_script="sleep 60"))
    record = record_of(workload)
    assert record.leader is not None
    seen_by_all = [
        f"{record.supervisor[0]}/cmdline",
        f"{record.leader[0]}/cmdline",
        f"{record.supervisor[0]}/environ",
    ]
    assert all(b"s3cret" not in (Path("/proc") / name).read_bytes() for name in seen_by_all)


async def test_state_from_start_to_end(workload: BashWorkload, tmp_path: Path) -> None:
    assert await workload.state() == []
    assert not await workload.adopt()
    await workload.start(spec_of(tmp_path, bash_script="sleep 60"))
    record = record_of(workload)
    workload._now = lambda: record.started + 300
    running = ContainerState(
        name="shop",
        image="bash",
        state="running",
        status="Up 5 minutes",
        service="shop",
        command="bash app.sh",
        created=int(record.started),
    )
    assert await workload.state() == [running]
    await workload.start(spec_of(tmp_path, bash_script="exit 1"))  # runs already: nothing changes
    assert record_of(workload) == record
    await workload.stop(5)
    finished = record_of(workload).finished
    assert finished is not None
    workload._now = lambda: finished + 3
    [state] = await workload.state()
    assert (state.state, state.status, state.exit_code) == ("exited", "Exited (143) 3 seconds ago", 143)
    await workload.stop(5)
    await workload.remove()
    assert await workload.state() == []
    assert sorted(entry.name for entry in os.scandir(tmp_path)) == ["sockets"]
    await workload.remove()


async def test_an_app_without_a_name_is_called_app(workload: BashWorkload, tmp_path: Path) -> None:
    await workload.start(spec_of(tmp_path, name="", bash_script="exit 3"))
    await until(lambda: record_of(workload).finished is not None)
    [state] = await workload.state()
    assert (state.name, state.exit_code) == ("app", 3)


async def test_another_runner_object_finds_what_runs(workload: BashWorkload, tmp_path: Path) -> None:
    await workload.start(spec_of(tmp_path, bash_script="echo one; sleep 60"))
    again = BashWorkload(CVM_ID, tmp_path)
    assert await again.adopt()
    assert [state.state for state in await again.state()] == ["running"]
    await again.stop(5)
    assert [state.state for state in await workload.state()] == ["exited"]


async def test_what_runs_outlives_the_process_that_started_it(workload: BashWorkload, tmp_path: Path) -> None:
    program = f"""
import asyncio, os, signal, sys
sys.path[:0] = {[str(Path(__file__).parents[2])]!r}
from pathlib import Path
from support.node_workloads import CVM_ID, spec_of
from teehouse.node.bash_runner import BashWorkload
async def main():
    place = Path({str(tmp_path)!r})
    await BashWorkload(CVM_ID, place).start(spec_of(place, bash_script="while :; do echo tick; sleep 0.02; done"))
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    ended = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", program], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert await workload.adopt()
    log = workload.place.log("shop")
    seen = len(entries(log))
    await until(lambda: len(entries(log)) > seen + 3)
    leader = record_of(workload).leader
    assert leader is not None
    await workload.stop(5)
    assert not alive(leader[0])


async def test_what_ignores_the_request_is_killed_at_the_deadline(
    workload: BashWorkload, tmp_path: Path
) -> None:
    script = "trap 'echo asked' TERM; echo ready; while :; do sleep 0.05; done"
    await workload.start(spec_of(tmp_path, bash_script=script))
    log = workload.place.log("shop")
    await until(lambda: printed(log) == "ready\n")
    before = asyncio.get_running_loop().time()
    await workload.stop(0.5)
    assert 0.5 <= asyncio.get_running_loop().time() - before < 3
    assert printed(log) == "ready\nasked\n"
    assert (record_of(workload).exit_code, record_of(workload).reason) == (137, "stopped")


async def test_a_second_request_can_only_hasten_the_end(workload: BashWorkload, tmp_path: Path) -> None:
    await workload.start(
        spec_of(tmp_path, bash_script="trap 'echo asked' TERM; echo ready; while :; do sleep 0.05; done")
    )
    log = workload.place.log("shop")
    await until(lambda: printed(log) == "ready\n")
    slow = asyncio.create_task(workload.stop(60))
    await until(lambda: printed(log) == "ready\nasked\n")
    await workload.stop(0.1)
    await slow
    assert printed(log) == "ready\nasked\n"


async def test_a_script_with_a_trap_ends_as_it_likes(workload: BashWorkload, tmp_path: Path) -> None:
    await workload.start(
        spec_of(tmp_path, bash_script="trap 'echo bye; exit 0' TERM; echo ready; sleep 60 & wait")
    )
    log = workload.place.log("shop")
    await until(lambda: printed(log) == "ready\n")
    await workload.stop(5)
    assert printed(log) == "ready\nbye\n"
    assert record_of(workload).exit_code == 0


async def test_rule_2_what_a_good_script_leaves_behind_goes_on(
    workload: BashWorkload, tmp_path: Path
) -> None:
    await workload.start(
        spec_of(tmp_path, bash_script="sleep 60 & echo $!; setsid sleep 60 & echo $!; exit 0")
    )
    await until(lambda: record_of(workload).exit_code == 0)
    log = workload.place.log("shop")
    await until(
        lambda: log.exists() and len(printed(log).split()) == 2
    )  # what is in the pipes comes after the code
    left = [int(line) for line in printed(log).split()]
    assert [state.state for state in await workload.state()] == ["running"]
    await workload.stop(5)
    assert not any(alive(pid) for pid in left)
    [state] = await workload.state()
    assert (state.state, state.exit_code) == ("exited", 0)


async def test_rule_2_a_bad_script_takes_it_along(workload: BashWorkload, tmp_path: Path) -> None:
    await workload.start(spec_of(tmp_path, bash_script="setsid sleep 60 & echo $!; exit 7"))
    await until(lambda: record_of(workload).finished is not None)
    assert not alive(int(printed(workload.place.log("shop"))))
    assert record_of(workload).exit_code == 7


async def test_jobs_rule_3_a_killed_supervisor_hides_nothing(workload: BashWorkload, tmp_path: Path) -> None:
    script = "sleep 60 & echo $!; (setsid sleep 60 & echo $!); echo ready; exec sleep 60"
    await workload.start(spec_of(tmp_path, bash_script=script))
    log = workload.place.log("shop")
    await until(lambda: printed(log).endswith("ready\n"))
    record = record_of(workload)
    assert record.leader is not None
    os.kill(record.supervisor[0], signal.SIGKILL)
    await until(lambda: not alive(record.supervisor[0]))
    assert await workload.adopt()
    assert [state.state for state in await workload.state()] == ["running"]
    await workload.start(spec_of(tmp_path, bash_script="exit 1"))  # it still runs
    assert record_of(workload) == record
    await workload.stop(5)
    pids = [record.leader[0], *map(int, printed(log).split()[:2])]
    assert not any(alive(pid) for pid in pids)
    [state] = await workload.state()
    assert (state.state, state.exit_code) == ("exited", 255)  # rule 4


async def test_rule_4_the_machine_restarted(workload: BashWorkload, tmp_path: Path) -> None:
    await workload.start(spec_of(tmp_path, bash_script="sleep 60"))
    path = workload.place.root / "app" / "record.json"
    former = path.read_text().replace(supervise.boot_id(), "another boot")
    await workload.stop(5)
    path.write_text(former)
    assert not await workload.adopt()
    [state] = await workload.state()
    assert (state.state, state.exit_code) == ("exited", 255)


async def test_a_record_that_cannot_be_read_is_none(workload: BashWorkload, tmp_path: Path) -> None:
    await workload.start(spec_of(tmp_path, bash_script="exit 0"))
    await until(lambda: record_of(workload).finished is not None)
    for text in ("", "[]", "{}", '{"leader": null, "supervisor": [1, 2]}'):
        (workload.place.root / "app" / "record.json").write_text(text)
        assert await workload.state() == []


async def test_restart_runs_the_new_script(workload: BashWorkload, tmp_path: Path) -> None:
    log = workload.place.log("shop")
    for number in (1, 2):
        await workload.start(spec_of(tmp_path, bash_script=f"echo {number}; sleep 60"))
        await until(lambda number=number: printed(log).endswith(f"{number}\n"))  # type: ignore[misc]  # mypy knows no default in a lambda
        await workload.stop(5)
    assert printed(log) == "1\n2\n"


async def test_pre_launch_comes_first_and_its_exports_reach_the_app(
    workload: BashWorkload, tmp_path: Path
) -> None:
    spec = spec_of(
        tmp_path,
        environment={"API_KEY": "s3cret"},
        pre_launch_script="echo before $API_KEY; export GREETING=$'two\\nlines' KEPT=1; UNSEEN=1\n",
        bash_script='echo "$GREETING $KEPT [$UNSEEN]"',
    )
    await workload.start(spec)
    await until(lambda: record_of(workload).finished is not None)
    assert printed(workload.place.log("pre-launch")) == "before s3cret\n"
    assert printed(workload.place.log("shop")) == "two\nlines 1 []\n"
    assert not (workload.place.root / "exported").exists()


async def test_a_pre_launch_that_ends_its_own_shell_well_exports_nothing(
    workload: BashWorkload, tmp_path: Path
) -> None:
    spec = spec_of(tmp_path, pre_launch_script="export A=1; exit 0", bash_script='echo "[$A]"')
    await workload.start(spec)
    await until(lambda: record_of(workload).finished is not None)
    assert printed(workload.place.log("shop")) == "[]\n"


@pytest.mark.parametrize(
    ("script", "seconds", "found"),
    [
        ("sleep 60 & echo no >&2; exit 4", 30.0, "found exit code 4"),
        ("set -e; false", 30.0, "found exit code 1"),
        ("false", 30.0, "found exit code 1"),
        ("sleep 60", 0.2, "found no end within its time"),
    ],
)
async def test_a_failed_pre_launch_ends_the_start(
    workload: BashWorkload, tmp_path: Path, script: str, seconds: float, found: str
) -> None:
    spec = spec_of(
        tmp_path,
        limits=Limits(pre_launch_seconds=seconds),
        environment={"API_KEY": "s3cret"},
        pre_launch_script=script,
        bash_script="touch never",
    )
    (tmp_path / "workload" / "pre-launch").mkdir(parents=True)
    (tmp_path / "workload" / "pre-launch" / "stop").write_text("0.2")
    with pytest.raises(WorkloadError) as refused:
        await workload.start(spec)
    assert str(refused.value) == (
        f"the pre-launch script: expected exit code 0, {found} (its output is in pre-launch-json.log)"
    )
    assert refused.value.finding.code == "workload.pre-launch"
    assert not Job(tmp_path / "workload" / "pre-launch").running()
    assert not (workload.place.home / "never").exists()
    assert not (workload.place.root / "exported").exists()
    assert await workload.state() == []


async def test_what_pre_launch_left_behind_ends_with_the_app(workload: BashWorkload, tmp_path: Path) -> None:
    spec = spec_of(tmp_path, pre_launch_script="sleep 60 & echo $!", bash_script="sleep 60")
    await workload.start(spec)
    pid = int(printed(workload.place.log("pre-launch")))
    assert alive(pid)
    await workload.stop(5)
    assert not alive(pid)


async def test_a_killed_pre_launch_supervisor_fails_the_start(workload: BashWorkload, tmp_path: Path) -> None:
    spec = spec_of(tmp_path, pre_launch_script="sleep 60", bash_script="exit 0")
    start = asyncio.create_task(workload.start(spec))
    job = Job(workload.place.root / "pre-launch")
    await until(lambda: job.record() is not None)
    record = job.record()
    assert record is not None
    os.kill(record.supervisor[0], signal.SIGKILL)
    with pytest.raises(WorkloadError, match="found its supervisor was killed"):
        await start
    assert not job.running()


@pytest.mark.parametrize("member", ["pre_launch_script", "bash_script"])
async def test_a_cancelled_start_leaves_nothing(workload: BashWorkload, tmp_path: Path, member: str) -> None:
    spec = spec_of(tmp_path, **{"bash_script": "sleep 60", member: "sleep 60"})
    start = asyncio.create_task(workload.start(spec))
    name = "app" if member == "bash_script" else "pre-launch"
    job = Job(workload.place.root / name)
    await until(lambda: (job.directory / "lock").exists() and job.supervised())
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert not job.running()


async def test_what_cannot_be_started(workload: BashWorkload, tmp_path: Path) -> None:
    with pytest.raises(
        WorkloadError, match="member `bash_script`: expected a script, as runner is bash, found nothing"
    ):
        await workload.start(spec_of(tmp_path))
    without = BashWorkload(CVM_ID, tmp_path, shell_file=tmp_path / "bash")
    with pytest.raises(CollateralError, match="found no such file \\(install bash"):
        await without.start(spec_of(tmp_path, bash_script="exit 0"))
    (tmp_path / "bash").write_text("no program")
    with pytest.raises(WorkloadError, match="shop could not be started: found Permission denied"):
        await without.start(spec_of(tmp_path, bash_script="exit 0"))
    for name, value in (("", "x"), ("A=B", "x"), ("A", "s3cret\0")):
        with pytest.raises(WorkloadError, match="environment variable") as refused:
            await workload.start(spec_of(tmp_path, environment={name: value}, bash_script="exit 0"))
        assert "s3cret" not in str(refused.value)
    with pytest.raises(MisuseError, match="CVM id"):
        BashWorkload("../x", tmp_path)


async def test_a_supervisor_that_cannot_start_is_said(
    workload: BashWorkload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nowhere"))
    with pytest.raises(
        CollateralError, match="the supervisor of shop did not start: found No such file or directory"
    ):
        await workload.start(spec_of(tmp_path, bash_script="exit 0"))
    assert not app_job(workload).running()


async def test_a_supervisor_that_says_nothing_is_said(
    workload: BashWorkload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "__file__", str(tmp_path / "nowhere.py"))
    with pytest.raises(CollateralError, match="the supervisor of shop did not start: found no answer"):
        await workload.start(spec_of(tmp_path, bash_script="exit 0"))
    assert not app_job(workload).running()


async def test_a_supervisor_under_way_counts_as_running(workload: BashWorkload, tmp_path: Path) -> None:
    """Jobs rule 4: with the lock handed over and no record yet, a start finds the place taken."""
    lock = app_job(workload)._lock()
    assert lock is not None
    os.close(lock)
    app_job(workload).directory.mkdir(parents=True)
    lock = app_job(workload)._lock()
    assert lock is not None
    assert await workload.adopt()
    with pytest.raises(WorkloadError, match="shop runs already \\(stop it first\\)"):
        await app_job(workload).start(spec_job(tmp_path))
    os.close(lock)
    assert not await workload.adopt()


def spec_job(tmp_path: Path) -> "scripts.JobSpec":
    return scripts.JobSpec(name="shop", argv=("/bin/true",), cwd=tmp_path, log=tmp_path / "log")


async def test_the_machine_cannot_end_what_it_should(
    workload: BashWorkload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await workload.start(spec_of(tmp_path, bash_script="sleep 60"))
    with monkeypatch.context() as patch:
        patch.setattr("teehouse.node.jobs.GRACE", 0.05)
        patch.setattr(signal, "pidfd_send_signal", lambda *_: None)
        with pytest.raises(WorkloadError, match="app does not end"):
            await workload.stop(0)
    await workload.stop(0)


async def test_what_cannot_be_removed_is_said(
    workload: BashWorkload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await workload.start(spec_of(tmp_path, bash_script="exit 0"))
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda *_, **__: None)
        with pytest.raises(WorkloadError, match="found files that this user may not remove"):
            await workload.remove()


async def test_what_a_crash_left_of_the_environment_is_removed(
    workload: BashWorkload, tmp_path: Path
) -> None:
    workload.place.make()
    (workload.place.root / "exported").write_text("KEY=s3cret")
    await workload.start(spec_of(tmp_path, bash_script="exit 0"))
    assert not (workload.place.root / "exported").exists()


def test_names_become_file_names(tmp_path: Path) -> None:
    place = scripts.Place(tmp_path)
    names = ["shop", "a b/c", "..", "ü", "x" * 200]
    assert [place.log(name).name for name in names] == [
        "shop-json.log",
        "a_b_c-json.log",
        "_..-json.log",
        "_-json.log",
        "x" * 128 + "-json.log",
    ]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (3599, "59 minutes"),
        (3600, "About an hour"),
        (47 * 3600, "47 hours"),
        (48 * 3600, "2 days"),
        (14 * 86400, "2 weeks"),
        (60 * 86400, "2 months"),
        (730 * 86400, "2 years"),
    ],
)
def test_durations_read_as_the_engine_writes_them(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_an_address_that_strangers_reach_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MisuseError, match=r"expected 127\.0\.0\.1, found 0\.0\.0\.0 .*--unsafe-expose"):
        PortsPolicy(address="0.0.0.0")  # noqa: S104 - that is what is refused
    assert PortsPolicy(address="0.0.0.0", unsafe_expose=True).address == "0.0.0.0"  # noqa: S104 - asked for
    spec = spec_of(tmp_path, bash_script="exit 0")
    with pytest.raises(MisuseError, match="CVM id: expected 32 lower-case hex digits, found 'no'"):
        WorkloadSpec("no", spec.directory, spec.app_compose, spec.socket_directory)
