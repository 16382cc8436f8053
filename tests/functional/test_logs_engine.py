"""Logs of a real Docker Engine beside what `docker logs` says, and of a bash app (guest-agent.md 13.2, 22 #9)."""

import asyncio
import json
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

import httpx
import pytest

from support.docker_engine import IMAGE, DockerEngine, docker_engine
from support.logs_support import Served, serving
from support.node_workloads import CVM_ID, spec_of
from teehouse.guest.docker_logs import DockerLogSource
from teehouse.guest.file_logs import FileLogSource, LogFile
from teehouse.node.bash_runner import BashWorkload

pytestmark = pytest.mark.timeout(300)

SCRIPT = """
for i in 1 2 3 4 5 6 7 8; do
  echo "line $i"; echo "error $i" >&2; sleep 0.4
done
printf '\\033[31mred\\033[0m \\303\\274 \\377\\n'
printf 'no end'
"""
CHANNELS = ("stdout", "stderr")


def run_to_its_end(engine: DockerEngine, name: str, script: str, *options: str) -> None:
    engine.run("run", "-d", "--name", name, "--network", "none", *options, IMAGE, "sh", "-c", script)
    engine.run("wait", name)


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerEngine]:
    # Sockets have short paths.
    with tempfile.TemporaryDirectory(prefix="th-") as directory, docker_engine(Path(directory)) as engine:
        run_to_its_end(engine, "done", SCRIPT)
        yield engine


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="th-") as directory:
        yield Path(directory)


@pytest.fixture
async def served(engine: DockerEngine, place: Path) -> AsyncIterator[Served]:
    async with serving(place, DockerLogSource(engine.socket)) as served:
        yield served


def docker_logs(engine: DockerEngine, *options: str) -> dict[str, bytes]:
    done = subprocess.run(
        [engine.docker, "logs", *options], env=engine.host, capture_output=True, timeout=60, check=True
    )
    return {"stdout": done.stdout, "stderr": done.stderr}


async def by_channel(served: Served, query: str, name: str = "done") -> dict[str, str]:
    """The messages of the JSON form, joined for each channel."""
    lines = (await served.text(f"text&{query}", name)).splitlines()
    found = [json.loads(line) for line in lines]
    return {
        channel: "".join(one["message"] for one in found if one["channel"] == channel) for channel in CHANNELS
    }


async def stamps(served: Served) -> list[int]:
    """The second in which each entry of `done` was written."""
    messages = (await served.text("text&bare&timestamps&tail=all", "done")).splitlines()
    return [int(datetime.fromisoformat(f"{line[:19]}+00:00").timestamp()) for line in messages]


@pytest.mark.parametrize(
    ("query", "options"),
    [
        ("", []),
        ("tail=all", []),
        ("tail=0", ["--tail", "0"]),
        ("tail=5", ["--tail", "5"]),
        ("timestamps", ["--timestamps"]),
        ("timestamps&tail=3", ["--timestamps", "--tail", "3"]),
        ("since={mid}", ["--since", "{mid}"]),
        ("until={mid}", ["--until", "{mid}"]),
        ("since={first}&until={mid}&timestamps", ["--since", "{first}", "--until", "{mid}", "--timestamps"]),
        ("tail=8&until={mid}", ["--tail", "8", "--until", "{mid}"]),
        ("tail=8&since={mid}", ["--tail", "8", "--since", "{mid}"]),
        ("follow", ["--follow"]),
    ],
)
async def test_what_is_sent_is_what_docker_logs_prints(
    served: Served, engine: DockerEngine, query: str, options: list[str]
) -> None:
    seconds = await stamps(served)
    assert len(seconds) == 18
    bounds = {"first": seconds[0], "mid": seconds[0] + 2}
    printed = docker_logs(engine, *(option.format(**bounds) for option in options), "done")
    expected = {channel: content.decode(errors="replace") for channel, content in printed.items()}
    assert await by_channel(served, query.format(**bounds)) == expected


async def test_forms(served: Served) -> None:
    plain = await served.text("text&bare&tail=2", "done")
    assert plain == "red \u00fc \ufffd\nno end"
    assert await served.text("text&bare&ansi&tail=2", "done") == "\x1b[31mred\x1b[0m \u00fc \ufffd\nno end"
    assert await served.text("tail=1", "done") == '{"channel":"stdout","message":"bm8gZW5k"}\n'
    assert await served.text("bare&tail=1", "done") == "bm8gZW5k\n"


async def test_names(served: Served, engine: DockerEngine) -> None:
    identity = engine.run("inspect", "--format", "{{.Id}}", "done")
    for name in ("done", identity, identity[:12]):
        assert (await served.text("text&bare&tail=1", name)) == "no end"
    assert await served.refusal("/logs/nobody") == (404, {"error": "No such container: nobody"})
    assert await served.refusal("/logs/b%C3%BCro%20%3Fa") == (
        404,
        {"error": "No such container: b\u00fcro ?a"},
    )
    assert await served.refusal("/logs/done%2Fjson%3F") == (400, {"error": "Invalid container name"})


async def test_a_terminal(served: Served, engine: DockerEngine) -> None:
    run_to_its_end(engine, "tty", "echo out; echo err >&2", "-t")
    assert await served.text("text&bare", "tty") == "out\r\nerr\r\n"
    messages = [json.loads(line) for line in (await served.text("text", "tty")).splitlines()]
    assert {one["channel"] for one in messages} == {"console"}
    assert "".join(one["message"] for one in messages) == "out\r\nerr\r\n"


async def test_lines_of_ten_megabytes(served: Served, engine: DockerEngine) -> None:
    script = "busybox dd if=/dev/zero bs=1000000 count=10 2>/dev/null | busybox tr '\\0' x; echo; echo end"
    run_to_its_end(engine, "long", script)
    lines = (await served.text("text&bare&tail=all", "long")).split("\n")
    assert [len(line) for line in lines] == [10_000_000, 3, 0]
    assert (await served.text("text&bare&tail=1", "long")) == "end\n"


async def test_follow_through_rotations_to_the_end(served: Served, engine: DockerEngine) -> None:
    script = "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); [ $((i%100)) = 0 ] && sleep 0.1; done"
    rotation = ["--log-opt", "max-size=20k", "--log-opt", "max-file=5"]
    engine.run("run", "-d", "--name", "rotating", "--network", "none", *rotation, IMAGE, "sh", "-c", script)
    text = await served.text("text&bare&follow&tail=all", "rotating")
    numbers = [int(line.split()[1]) for line in text.splitlines()]
    assert sorted(set(numbers)) == list(range(3000))  # the engine itself repeats some


async def test_a_line_arrives_while_it_runs_and_a_removed_container_ends(
    served: Served, engine: DockerEngine
) -> None:
    script = "while read line; do echo got $line; done < /tmp/pipe"
    script = f"busybox mkfifo /tmp/pipe; {script}; sleep 1000"
    engine.run("run", "-d", "--name", "live", "--network", "none", IMAGE, "sh", "-c", script)
    async with served.client.stream("GET", "/logs/live?text&bare&follow") as answer:
        pieces = answer.aiter_text()
        await asyncio.to_thread(engine.run, "exec", "live", "sh", "-c", "echo one > /tmp/pipe")
        assert await asyncio.wait_for(anext(pieces), 2) == "got one\n"
        await asyncio.to_thread(engine.run, "rm", "-f", "live")
        assert [piece async for piece in pieces] == []
    assert await served.refusal("/logs/live") == (404, {"error": "No such container: live"})


@asynccontextmanager
async def bash_app(directory: Path, script: str) -> AsyncIterator[Served]:
    workload = BashWorkload(CVM_ID, directory)
    await workload.start(spec_of(directory, name="done", bash_script=script))

    async def locate(name: str) -> LogFile | None:
        return LogFile(workload.place.log(name), workload._job.running) if name == "done" else None

    try:
        async with serving(directory, FileLogSource(locate)) as served:
            yield served
    finally:
        await workload.remove()


async def test_a_bash_app_logs_the_same(served: Served, place: Path) -> None:
    (place / "bash").mkdir()
    async with bash_app(place / "bash", SCRIPT) as bash:
        text = await bash.text("text&bare&follow&tail=all", "done")
        assert text.endswith("red \u00fc \ufffd\nno end")
        # Which of two channels comes first is chance, so no tail ends between them.
        for query in ("", "tail=all", "tail=2", "tail=0", "since=1h", "until=1h", "follow", "tail=1&ansi"):
            assert await by_channel(bash, query) == await by_channel(served, query)
        stamped = (await bash.text("text&bare&timestamps&tail=1", "done")).split(" ", 1)
        assert len(stamped[0]) == 30
        assert stamped[1] == "no end"


async def test_no_engine(place: Path) -> None:
    async with serving(place, DockerLogSource(place / "docker.sock")) as served:
        answer: httpx.Response = await served.client.get("/logs/app")
        assert answer.status_code == 500
        assert answer.json()["error"].startswith("the container engine does not answer")
