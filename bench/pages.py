"""`/metrics` and the dashboard of one agent: how long a page takes, client included."""

import json
import re
import statistics
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from bench.processes import running

ROUNDS = 500
AIM = 5.0  # ms, for the 99th percentile of /metrics


@dataclass(frozen=True, slots=True)
class Measured:
    """Milliseconds of each request, by path."""

    times: dict[str, list[float]]


def measure(directory: Path) -> Measured:
    arguments = ("-m", "teehouse", "agent", "--emulated", "--dir", str(directory), "--tcp", "127.0.0.1:0")
    with running(*arguments, ready="  export DSTACK_SIMULATOR_ENDPOINT=http") as process:
        url = _url(process.pid)
        return Measured({path: [_timed(f"{url}{path}") for _ in range(ROUNDS)] for path in ("/metrics", "/")})


def section(measured: Measured) -> list[str]:
    lines = [
        "## Pages of an agent",
        "",
        f"{ROUNDS} requests one after the other over loopback, a new connection each, client included. The aim for",
        f"`/metrics` is a p99 of at most {AIM:g} ms.",
        "",
        "| Page | p50 ms | p99 ms |",
        "| --- | ---: | ---: |",
    ]
    for path, times in measured.times.items():
        p99 = statistics.quantiles(times, n=100)[98]
        missed = " (missed)" if path == "/metrics" and p99 > AIM else ""
        lines.append(f"| `{path}` | {statistics.median(times):.1f} | {p99:.1f}{missed} |")
    return lines


def _timed(url: str) -> float:
    begin = time.perf_counter()
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own server
        answer.read()
    return (time.perf_counter() - begin) * 1000


def _url(pid: int) -> str:
    """Where the process listens on TCP, from the kernel's tables."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        found = re.fullmatch(r"socket:\[(\d+)\]", str(entry.readlink()))
        if found:
            inodes.add(found.group(1))
    for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and fields[9] in inodes:
            return f"http://127.0.0.1:{int(fields[1].rpartition(':')[2], 16)}"
    raise RuntimeError(json.dumps({"pid": pid, "error": "no listening socket"}))
