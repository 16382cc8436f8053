"""docs/performance.md from what was measured."""

import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bench.latency import BATCHES, CONNECTIONS, ROUNDS, SINGLE, Samples
from bench.processes import MIXED, STARTS, UPS

RATIO_AIM = 1.5
MEMORY_AIM = 60  # MiB
START_AIM = 300  # ms
UP_AIM = 3000  # ms


@dataclass(frozen=True, slots=True)
class Processes:
    """Memory in MiB, times in milliseconds."""

    idle: float
    after_requests: float
    import_client: float
    help: float
    up: float


def render(measured: Sequence[Samples], processes: Processes) -> str:
    return "\n".join(
        [
            "# Performance",
            "",
            "Written by `make bench`; every number comes from one run of it. Nothing in the tests depends on time.",
            "",
            f"Machine: {_cores()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}.",
            "",
            "## Calls of the guest agent",
            "",
            "One emulated agent, one worker, JSON over its Unix socket, keep-alive. p50 and p99 are of requests one",
            f"after the other on one connection; rates and costs are with {CONNECTIONS} connections.",
            "",
            *_latency(measured),
            "",
            "Costs are the server's processor time for one request. *Crypto* is the bare cryptography of the call,",
            "run in a loop in the same process. *Floor* is an echo route on the same server that runs this cryptography",
            f"once per request. The aim is a cost of at most {RATIO_AIM} times the floor.",
            "",
            *_costs(measured),
            "",
            "## Memory and starts",
            "",
            *_table(
                ("", "Measured", "Aim"),
                [
                    _aimed("Resident memory of an idle emulated agent", processes.idle, MEMORY_AIM, "MiB"),
                    _aimed(
                        f"the same after {MIXED} requests of all kinds", processes.after_requests, None, "MiB"
                    ),
                    _aimed("`import teehouse.client`", processes.import_client, START_AIM, "ms"),
                    _aimed("`teehouse --help`", processes.help, START_AIM, "ms"),
                    _aimed("`teehouse up` in a new folder, to `ready.json`", processes.up, UP_AIM, "ms"),
                ],
            ),
            "",
            "## How it is measured",
            "",
            "* The server is a process of its own on uvloop: the agent with all its listeners, and beside them, in the",
            "  same loop and behind the same `Listener`, the echo route. It reads the body and answers as many bytes as",
            "  the call it is compared with.",
            "* The client is another process: blocking sockets, requests made beforehand, answers read by their length and",
            "  not looked into.",
            f"* There are {ROUNDS} rounds. In each, every call takes its turn with {SINGLE} requests one by one, echo and",
            f"  floor in between, then {BATCHES} batches of one request on each of {CONNECTIONS} connections for the call,",
            "  the echo and the floor. So whatever slows the machine meets all three. A ratio is formed within a round;",
            "  the median over the rounds is given. Nothing is left out of the medians.",
            "* The cryptography calls the libraries directly, with keys loaded. For GetTlsKey that is the derivation of the",
            "  key from random bytes, the signature of the quote, and building and signing a certificate with the same",
            "  extensions by the X.509 library.",
            f"* Starts are whole processes, the median of {STARTS}, of `teehouse up` the median of {UPS}; the file cache",
            "  is warm and modules are compiled. Memory is the resident set as the kernel counts it, shared libraries included.",
            "",
            "## What is kept between calls, and how much of it",
            "",
            "* Of a host: the quoting enclave's report, its signature and the certificate chain, made once.",
            "* Of the measurement log: its last state in the forms it is handed out in (JSON beside a quote, both forms of",
            "  the attestation). An event makes a new state, and the old one goes.",
            "* `Info`: one answer in each encoding, until an event is emitted.",
            "* `GetKey`: 256 answers, of paths and purposes up to 1024 characters together; the least recently used goes.",
            "* Loaded keys: 8 that sign with secp256k1, 8 with ed25519; 16 names of issuers.",
            "",
        ]
    )


def _latency(measured: Sequence[Samples]) -> list[str]:
    rows = []
    for one in measured:
        call, echo = one.itself, one.echo
        rows.append(
            (
                one.call.name,
                f"{one.answer_size}",
                f"{statistics.median(call.latency):.0f}",
                f"{_p99(call.latency):.0f}",
                f"{statistics.median(call.rate):.0f}",
                f"{statistics.median(echo.latency):.0f}",
                f"{_p99(echo.latency):.0f}",
                f"{statistics.median(echo.rate):.0f}",
                f"{statistics.median(one.latency_ratio):.2f}",
            )
        )
    return _table(
        (
            "Call",
            "Answer, bytes",
            "p50, µs",
            "p99, µs",
            "per second",
            "Echo p50",
            "Echo p99",
            "Echo per second",
            "p50 to floor's p50",
        ),
        rows,
    )


def _costs(measured: Sequence[Samples]) -> list[str]:
    rows = []
    for one in measured:
        ratio = statistics.median(one.cost_ratio)
        rows.append(
            (
                one.call.name,
                f"{statistics.median(one.itself.cost):.0f}",
                f"{statistics.median(one.echo.cost):.0f}",
                "0" if one.call.crypto == "none" else f"{statistics.median(one.crypto):.0f}",
                f"{statistics.median(one.floor.cost):.0f}",
                f"{ratio:.2f}" + ("" if ratio <= RATIO_AIM else " (missed)"),
                one.call.crypto_text,
            )
        )
    return _table(
        ("Call", "Cost, µs", "Echo, µs", "Crypto, µs", "Floor, µs", "Cost to floor", "Crypto is"), rows
    )


def _aimed(what: str, measured: float, aim: int | None, unit: str) -> tuple[str, str, str]:
    missed = aim is not None and measured > aim
    value = f"{measured:.0f} {unit}" + (" (missed)" if missed else "")
    return what, value, "" if aim is None else f"at most {aim} {unit}"


def _p99(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]
