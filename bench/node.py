"""CVMs on one node: the boot of one, and of many at once; what each takes. `python -m bench.node`.

The node is one process (`python -m bench.node node DIRECTORY KMS_URL`, on uvloop), its KMS another, both emulated
and of one installation. The apps do nothing: a workload that only says that it runs stands in for their runners, so what is
measured is the node's own part: the machine, the measurements, the keys over RA-TLS, the agent on its sockets. The
node does one order after the other, a line of JSON each, and answers with one.
"""

import asyncio
import contextlib
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from bench.client import Connection, request
from bench.processes import PATIENCE
from teehouse.attestation.identity import derive_app_id
from teehouse.base.clock import SystemClock
from teehouse.base.hashes import sha256
from teehouse.kms.client.appkeys import DEFAULT_PATIENCE
from teehouse.node.api import CvmPhase, CvmSpec, EventKind, Resources, settled
from teehouse.node.boot import BootParts
from teehouse.node.key_source import KmsKeySource
from teehouse.node.local import LocalNode, NodeSettings
from teehouse.node.workload import ContainerState, WorkloadSpec
from teehouse.stack.driver_emulated import EmulatedDriver
from teehouse.stack.installation import open_installation
from teehouse.stack.kms_emulated import allow, serve_kms
from teehouse.stack.node_emulated import BUILD
from teehouse.stack.serving import run_until_stopped
from teehouse.wire.app_compose import AppCompose

SINGLE = 30  # boots one after the other
MANY = 200
CONNECTIONS = 8  # of the load, to other CVMs
REQUESTS = 5000  # that are measured
BOOT_AIM = 150  # ms
MEMORY_AIM = 1.0  # MiB
_COMPOSE = json.dumps(
    {"manifest_version": 2, "name": "app", "runner": "bash", "bash_script": "true", "key_provider": "kms"}
).encode()
_GET_KEY = request("/GetKey", json.dumps({"path": "measured"}).encode())
_LOAD = (
    request("/GetQuote", json.dumps({"report_data": "11" * 64}).encode()),
    request("/GetKey", json.dumps({"path": "load"}).encode()),
    request("/Info", b"{}"),
)


@dataclass(frozen=True, slots=True)
class Measured:
    """Boots in milliseconds; `many` seconds until all of `MANY` ran; `memory` MiB for each CVM; GetKey in ms."""

    boots: list[float]
    many: float
    resident: float
    memory: float
    quiet: list[float]
    loaded: list[float]
    load_rate: float


# The servers


class NoWorkload:
    """A `Workload` without an app."""

    async def start(self, spec: WorkloadSpec) -> None:
        pass

    async def stop(self, deadline: float) -> None:
        pass

    async def remove(self) -> None:
        pass

    async def state(self) -> list[ContainerState]:
        return []

    async def adopt(self) -> bool:
        return True


def no_workload(_cvm_id: str, _directory: Path, _compose: AppCompose) -> NoWorkload:
    return NoWorkload()


def serve_kms_alone(directory: Path) -> None:
    """The KMS of the installation, until SIGTERM; prints its address."""
    installation = open_installation(directory, SystemClock())

    async def main(stop: asyncio.Event) -> None:
        async with serve_kms(installation) as kms:
            allow(kms.auth_file, app=(derive_app_id(_COMPOSE), sha256(_COMPOSE)))
            _say(kms.url)
            await stop.wait()

    run_until_stopped(main)


def serve_node(directory: Path, kms_url: str) -> None:
    """The node, until its standard input ends."""
    installation = open_installation(directory, SystemClock())
    parts = BootParts(
        driver=EmulatedDriver(installation.pki),
        key_source=KmsKeySource(installation.clock, patience=replace(DEFAULT_PATIENCE, exchange_limit=120.0)),
        clock=installation.clock,
        kms_urls=(kms_url,),
        build=BUILD,
    )
    settings = NodeSettings("bench", Resources(4096, 4096 * 1024**3, 0), sockets=directory.resolve() / "s")

    async def main(_stop: asyncio.Event) -> None:
        async with LocalNode(installation.state / "node", settings, parts, no_workload) as node:
            _say("")
            while line := await asyncio.to_thread(sys.stdin.readline):
                _say(await _boot(node, int(line)))

    run_until_stopped(main)


async def _boot(node: LocalNode, count: int) -> dict[str, Any]:
    """Create CVMs, then start them all: seconds from the first start until all run, and what is resident then."""
    ids = [uuid.uuid4().hex for _ in range(count)]
    for cvm_id in ids:
        await node.create(CvmSpec(cvm_id, "app", _COMPOSE, disk_size=0))
    waiting = set(ids)
    begin = time.perf_counter()
    starts = asyncio.gather(*(node.start(cvm_id) for cvm_id in ids))
    async for event in node.events():
        if event.cvm_id in waiting and event.kind is EventKind.ERROR:
            raise RuntimeError(event.detail)
        if event.kind is EventKind.PHASE and event.detail == CvmPhase.RUNNING.value:
            waiting.discard(event.cvm_id)
        if not waiting:
            break
    seconds = time.perf_counter() - begin
    await starts
    for cvm_id in ids:
        await settled(node, cvm_id, timeout_seconds=PATIENCE)
    states = [await node.state(cvm_id) for cvm_id in ids]
    pages = {state.cvm_id: state.endpoints.pages_url for state in states if state.endpoints is not None}
    gc.collect()
    return {"ids": ids, "pages": pages, "seconds": seconds, "resident": _resident()}


def _resident() -> float:
    """MiB of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1024**2


def load(sockets: list[str]) -> None:
    """Ask agents without a pause, one request on each connection at a time, until standard input ends; the rate."""
    connections = [Connection(Path(path)) for path in sockets]
    ended: list[str] = []
    threading.Thread(target=lambda: ended.append(sys.stdin.readline()), daemon=True).start()
    count, begin = 0, time.perf_counter()
    while not ended:
        for raw in _LOAD:
            for connection in connections:
                connection.send(raw)
            for connection in connections:
                connection.receive()
            count += len(connections)
    _say(count / (time.perf_counter() - begin))


def _say(what: object) -> None:
    print(json.dumps(what), flush=True)


# The measurement


class Server:
    """One of the processes, spoken to in lines of JSON."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def hear(self) -> Any:
        line = _stream(self._process.stdout).readline()
        if not line:
            raise RuntimeError("a server ended")
        return json.loads(line)

    def ask(self, what: int) -> Any:
        pipe = _stream(self._process.stdin)
        pipe.write(f"{what}\n")
        pipe.flush()
        return self.hear()


def _stream(pipe: IO[str] | None) -> IO[str]:
    if pipe is None:
        raise RuntimeError("not a pipe")
    return pipe


@contextmanager
def server(*arguments: str) -> Iterator[Server]:
    """`python -m bench.node` with these arguments, until the end of the context."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.node", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Server(process)
    finally:
        _stream(process.stdin).close()
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        process.wait(PATIENCE)


def measure(directory: Path) -> Measured:
    """Boot one CVM after the other, then many at once; then ask one of them, alone and while others are asked."""
    # Sockets have short paths, and the folder of a benchmark may not.
    with tempfile.TemporaryDirectory(prefix="th-", dir=directory) as place, server("kms", place) as kms:
        url = kms.hear()
        with server("node", place, url) as node:
            node.hear()
            for _ in range(3):  # what is loaded and cached at the first
                node.ask(1)
            single = [node.ask(1) for _ in range(SINGLE)]
            before = single[-1]["resident"]
            many = node.ask(MANY)
            sockets = [str(Path(place) / "s" / cvm_id / "dstack.sock") for cvm_id in many["ids"]]
            connection = Connection(Path(sockets[0]))
            quiet = get_keys(connection)
            with server("load", *sockets[1 : CONNECTIONS + 1]) as others:
                time.sleep(0.5)
                loaded = get_keys(connection)
                rate = others.ask(0)
            connection.close()
    return Measured(
        boots=[one["seconds"] * 1000 for one in single],
        many=many["seconds"],
        resident=many["resident"],
        memory=(many["resident"] - before) / MANY,
        quiet=quiet,
        loaded=loaded,
        load_rate=rate,
    )


def get_keys(connection: Connection) -> list[float]:
    """Milliseconds of `GetKey` of one path, one after the other."""
    connection.body(_GET_KEY)
    taken = []
    for _ in range(REQUESTS):
        begin = time.perf_counter()
        connection.ask(_GET_KEY)
        taken.append((time.perf_counter() - begin) * 1000)
    return taken


# The report


def section(measured: Measured) -> list[str]:
    """The lines of a page in Markdown."""
    boot = statistics.median(measured.boots)
    rows = [
        ("Boot of one CVM, p50", f"{boot:.0f} ms" + _missed(boot, BOOT_AIM), f"at most {BOOT_AIM} ms"),
        ("the same, p99", f"{_p99(measured.boots):.0f} ms", ""),
        (f"{MANY} CVMs, from the first start until all run", f"{measured.many:.1f} s", ""),
        (
            "Resident memory of each of them",
            f"{measured.memory:.2f} MiB" + _missed(measured.memory, MEMORY_AIM),
            f"at most {MEMORY_AIM:g} MiB",
        ),
        (f"of the node with {MANY + SINGLE + 3} CVMs", f"{measured.resident:.0f} MiB", ""),
        ("`GetKey` of one of them, p50", f"{statistics.median(measured.quiet):.2f} ms", ""),
        ("p99", f"{_p99(measured.quiet):.2f} ms", ""),
        (f"p50 while {CONNECTIONS} others are asked", f"{statistics.median(measured.loaded):.2f} ms", ""),
        ("p99", f"{_p99(measured.loaded):.2f} ms", ""),
    ]
    return [
        "## CVMs on one node",
        "",
        "Emulated CVMs whose apps do nothing, with keys from a KMS in another process on the same processors. A boot is",
        "from `start` to phase running: measurements, the hand-out of keys over RA-TLS, the agent on its sockets, the",
        f"state on disk. The median of {SINGLE} boots one after the other; then {MANY} started at once.",
        "",
        "| | Measured | Aim |",
        "| --- | ---: | ---: |",
        *(f"| {what} | {value} | {aim} |" for what, value, aim in rows),
        "",
        f"The load is {CONNECTIONS} connections to {CONNECTIONS} other CVMs that ask `GetQuote`, `GetKey` and `Info` in turn without",
        f"a pause, {measured.load_rate:.0f} requests per second beside the ones that are measured. All agents share one thread.",
    ]


def _missed(measured: float, aim: float) -> str:
    return " (missed)" if measured > aim else ""


def _p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="teehouse-bench-") as directory:
        print("\n".join(section(measure(Path(directory)))))


if __name__ == "__main__":
    match sys.argv[1:]:
        case []:
            main()
        case ["kms", directory]:
            serve_kms_alone(Path(directory))
        case ["node", directory, url]:
            serve_node(Path(directory), url)
        case ["load", *sockets]:
            load(sockets)
