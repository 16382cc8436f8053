"""Logs: throughput beside `docker logs`, and how late a line reaches many followers. `python -m bench.logs`.

A container writes 100 MB in lines of 100 bytes; then `docker logs` and each form of the page read it in turn, round
by round, so that what slows the machine meets all. The page is served by a process of its own, whose processor time
and resident memory are taken from the kernel. A line's delay is from the timestamp that its writer gave it (for a
container that is the engine) to its arrival at the follower; all followers are one other process.
"""

import asyncio
import contextlib
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import uvloop

from bench.processes import running
from teehouse.base.clock import SystemClock
from teehouse.base.listener import Listener
from teehouse.guest.docker_logs import DockerLogSource
from teehouse.guest.file_logs import FileLogSource, LogFile
from teehouse.guest.logs_page import LogsPage
from teehouse.guest.logs_source import LogSource
from teehouse.guest.sockets import UnixAddress, listen
from teehouse.node import supervise
from teehouse.rpc.app import RpcApp
from teehouse.wire.methods import Unknown

TESTS = Path(__file__).resolve().parents[1] / "tests"
READY = "ready"
LINE = 100  # bytes
MEGABYTES = 100
ROUNDS = 5
FOLLOWERS = 100
LINES = 150  # followed
SIZE = ("-o", os.devnull, "-w", "%{size_download}")
PAUSE = 0.05  # seconds between two of them
GROWTH_AIM = 16  # MiB
RATE_AIM = 0.5  # of the rate of `docker logs`
FORMS = {
    "bare text": "text&bare",
    "bare text with timestamps": "text&bare&timestamps",
    "JSON, text": "text",
    "JSON, base64": "",
}
_CONTAINER_LOG = f"""
line=$(printf '%0{LINE - 1}d' 7); block=""; i=0
while [ $i -lt 100 ]; do block="$block$line
"; i=$((i+1)); done
i=0; while [ $i -lt {MEGABYTES * 100} ]; do printf '%s' "$block"; i=$((i+1)); done
"""
_WORDS = "while :; do echo tick; sleep {}; done"


@dataclass(slots=True)
class Reading:
    """What reading the whole log cost, by round: MB per second, and the server's seconds of processor time."""

    rate: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Measured:
    """`growth` in MiB, delays in milliseconds, by where the log comes from."""

    readings: dict[str, Reading]
    growth: float
    delays: dict[str, list[float]]


# The server


def serve(directory: Path, docker: Path) -> None:
    """Two pages: of the engine at `docker.sock`, of the log file in `directory`."""

    async def locate(_name: str) -> LogFile:
        return LogFile(directory / "log", lambda: True)

    async def run() -> None:
        async with (
            page(directory / "engine.sock", DockerLogSource(docker)),
            page(directory / "files.sock", FileLogSource(locate)),
        ):
            print(READY, flush=True)
            await asyncio.Event().wait()

    uvloop.run(run())


@asynccontextmanager
async def page(path: Path, source: LogSource) -> AsyncIterator[None]:
    made = LogsPage(source, SystemClock(), public=True)
    app = RpcApp(lambda _: Unknown(""), {}, extra_routes=[made.route()])
    listening = listen(UnixAddress(path))
    listener = Listener(app, listening.sockets, ident="bench")
    await listener.start()
    yield


# The client


def curl(path: Path, name: str, query: str) -> list[str]:
    return ["curl", "-sf", "--unix-socket", str(path), f"http://bench/logs/{name}?{query}&tail=all"]


def printed(command: Sequence[str]) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def timed(command: Sequence[str], environment: dict[str, str] | None = None) -> float:
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    return time.perf_counter() - begin


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int, member: str) -> float:
    """MiB: `VmRSS`, resident now, or `VmHWM`, the most that ever was."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(member):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"the kernel tells no {member}")


async def follow(path: Path, name: str, delays: list[float]) -> None:
    """One follower: the delay of each line, in milliseconds."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(f"GET /logs/{name}?follow&text&bare&timestamps&tail=0 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    for _ in range(LINES):
        line = await reader.readuntil(b"\n")
        while len(line) < 30:  # the chunk's size
            line = await reader.readuntil(b"\n")
        now = time.time()
        stamp = datetime.strptime(line[:19].decode(), "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC).timestamp()
        delays.append((now - stamp - float(b"0." + line[20:29])) * 1000)
    writer.close()


async def follow_many(path: Path, name: str) -> list[float]:
    delays: list[list[float]] = [[] for _ in range(FOLLOWERS)]
    await asyncio.gather(*(follow(path, name, one) for one in delays))
    # The first lines find followers that are still arriving.
    return list(itertools.chain.from_iterable(one[LINES // 10 :] for one in delays))


@contextmanager
def writing(log: supervise.Log) -> Iterator[None]:
    """A line now and then, as a workload's supervisor writes it."""
    end = threading.Event()

    def write() -> None:
        while not end.wait(PAUSE):
            log.write("stdout", b"tick\n")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def measure(directory: Path) -> Measured | None:
    """None where there is no engine to measure."""
    sys.path.insert(0, str(TESTS))
    import pytest  # noqa: PLC0415 - what the tests start an engine with says through pytest that there is none

    from support.docker_engine import IMAGE, docker_engine  # noqa: PLC0415 - on the path from here on

    with contextlib.ExitStack() as stack:
        try:
            engine = stack.enter_context(docker_engine(directory))
        except pytest.skip.Exception:
            return None
        start = ["run", "-d", "--network", "none"]
        engine.run(*start, "--name", "big", IMAGE, "sh", "-c", _CONTAINER_LOG)
        while engine.run("inspect", "--format", "{{.State.Running}}", "big") == "true":
            time.sleep(0.2)
        log = supervise.Log(str(directory / "log"), 40_000_000, 3)
        for _ in range(MEGABYTES * 10_000):
            log.write("stdout", b"7" * (LINE - 1) + b"\n")
        server = stack.enter_context(
            running("-m", "bench.logs", str(directory), str(engine.socket), ready=READY)
        )
        readings, growth = read_whole(server.pid, directory, [engine.docker, "logs", "big"], engine.host)
        engine.run(*start, "--name", "ticking", IMAGE, "sh", "-c", _WORDS.format(PAUSE))
        delays = {"container": uvloop.run(follow_many(directory / "engine.sock", "ticking"))}
        engine.run("rm", "-f", "ticking")
        with writing(log):
            delays["bash app"] = uvloop.run(follow_many(directory / "files.sock", "app"))
    return Measured(readings, growth, delays)


def read_whole(
    pid: int, directory: Path, docker: list[str], environment: dict[str, str]
) -> tuple[dict[str, Reading], float]:
    """All forms in turn, beside `docker logs`; and the growth of the server's resident memory."""
    readings = {name: Reading() for name in ("docker logs", *FORMS, "bash app, bare text")}
    timed(curl(directory / "engine.sock", "big", "tail=1"))
    before = memory(pid, "VmRSS")
    held = int(printed([*curl(directory / "files.sock", "app", "text&bare"), *SIZE])) / 1_000_000
    for _ in range(ROUNDS):
        readings["docker logs"].rate.append(MEGABYTES / timed(docker, environment))
        for name, query in FORMS.items():
            measure_one(readings[name], pid, curl(directory / "engine.sock", "big", query), MEGABYTES)
        measure_one(
            readings["bash app, bare text"], pid, curl(directory / "files.sock", "app", "text&bare"), held
        )
    return readings, memory(pid, "VmHWM") - before


def measure_one(reading: Reading, pid: int, command: Sequence[str], megabytes: float) -> None:
    used = cpu_seconds(pid)
    taken = timed(command)
    reading.rate.append(megabytes / taken)
    reading.cpu.append((cpu_seconds(pid) - used) / megabytes * 100)


# The report


def section(measured: Measured | None) -> list[str]:
    """The lines of a page in Markdown."""
    if measured is None:
        return ["## Logs", "", "There was no Docker Engine to measure."]
    docker = measured.readings["docker logs"].rate
    rows = [
        "| Read whole | MB/s | of `docker logs` | Agent's CPU, s per 100 MB |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, reading in measured.readings.items():
        ratio = statistics.median(ours / theirs for ours, theirs in zip(reading.rate, docker, strict=True))
        missed = " (missed)" if ratio < RATE_AIM else ""
        cpu = f"{statistics.median(reading.cpu):.2f}" if reading.cpu else ""
        rows.append(f"| {name} | {statistics.median(reading.rate):.1f} | {ratio:.2f}{missed} | {cpu} |")
    missed = " (missed)" if measured.growth > GROWTH_AIM else ""
    late = [f"| Delay of a line, {FOLLOWERS} followers | p50, ms | p99, ms |", "| --- | ---: | ---: |"]
    for name, delays in measured.delays.items():
        p99 = statistics.quantiles(delays, n=100)[98]
        late.append(f"| {name} | {statistics.median(delays):.1f} | {p99:.1f} |")
    return [
        "## Logs",
        "",
        f"A container wrote {MEGABYTES} MB in lines of {LINE} bytes. Medians of {ROUNDS} rounds, in each of which",
        f"`docker logs` and every form took its turn; the aim is at least {RATE_AIM} of its rate.",
        "",
        *rows,
        "",
        f"Resident memory of the agent grew by at most {measured.growth:.1f} MiB{missed}; the aim is {GROWTH_AIM} MiB.",
        "",
        *late,
        "",
        "A bash app's log is looked at every 50 ms; a container's delay counts from the engine's own timestamp.",
    ]


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="teehouse-bench-") as directory:
        print("\n".join(section(measure(Path(directory)))))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        serve(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        main()
