"""Calls against their floor, taken in the same run.

Every round measures, for each call in turn and request by request, the call, the echo route with a body and
an answer of the same sizes, and the floor, which is the echo route with the call's bare cryptography inside:
whatever slows the machine down meets all three. A ratio is formed within a round, and the median over the
rounds is reported.
"""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.calls import Call, calls
from bench.client import Connection, request

ROUNDS = 40
SINGLE = 40  # requests one after the other on one connection, in each round
CONNECTIONS = 8
BATCHES = 12  # of one request on each of the connections, in each round
CRYPTO = 40
WARM_UP = 60


@dataclass(slots=True)
class Load:
    """What one kind of request cost: a latency for each, a rate and a cost of the server for each round.

    Latency and cost (the server's processor time per request) are in microseconds.
    """

    latency: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    cost: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Samples:
    """All of one call. `crypto` in microseconds of processor time; the ratios are call to floor."""

    call: Call
    answer_size: int
    itself: Load = field(default_factory=Load)
    echo: Load = field(default_factory=Load)
    floor: Load = field(default_factory=Load)
    crypto: list[float] = field(default_factory=list)
    latency_ratio: list[float] = field(default_factory=list)
    cost_ratio: list[float] = field(default_factory=list)


class Bench:
    """Connections to the agent and to the echo route of one server."""

    def __init__(self, directory: Path) -> None:
        self._agent = [Connection(directory / "dstack.sock") for _ in range(CONNECTIONS)]
        self._echo = [Connection(directory / "echo.sock") for _ in range(CONNECTIONS)]

    def run(self, rounds: int = ROUNDS) -> list[Samples]:
        measured = []
        for call in calls():
            samples = Samples(call, len(self._agent[0].body(call.requests())))
            measured.append(samples)
            for _ in range(WARM_UP):
                self._agent[0].ask(call.requests())
        gc.disable()
        for _ in range(rounds):
            gc.collect()
            for samples in measured:
                self._round(samples)
        gc.enable()
        return measured

    def close(self) -> None:
        for connection in (*self._agent, *self._echo):
            connection.close()

    def _round(self, samples: Samples) -> None:
        call, size = samples.call, samples.answer_size
        body = call.requests().partition(b"\r\n\r\n")[2]
        echo = request(f"/echo/{size}", body)
        floor = request(f"/floor/{call.crypto}/{size}", body)
        kinds: list[tuple[Load, list[Connection], Callable[[], bytes]]] = [
            (samples.itself, self._agent, call.requests),
            (samples.echo, self._echo, lambda: echo),
            (samples.floor, self._echo, lambda: floor),
        ]
        for _, connections, requests in kinds:
            connections[0].ask(requests())
        latencies: list[list[float]] = [[], [], []]
        for _ in range(SINGLE):
            for found, (_, connections, requests) in zip(latencies, kinds, strict=True):
                found.append(_one(connections[0], requests()))
        for found, (load, connections, requests) in zip(latencies, kinds, strict=True):
            load.latency += found
            self._batches(load, connections, requests)
        samples.crypto.append(self._number(f"/crypto/{call.crypto}/{CRYPTO}"))
        samples.latency_ratio.append(statistics.median(latencies[0]) / statistics.median(latencies[2]))
        samples.cost_ratio.append(samples.itself.cost[-1] / samples.floor.cost[-1])

    def _batches(self, load: Load, connections: Sequence[Connection], requests: Callable[[], bytes]) -> None:
        raws = [[requests() for _ in connections] for _ in range(BATCHES)]
        count = BATCHES * len(connections)
        used = self._number("/cpu")
        begin = time.perf_counter()
        for batch in raws:
            for connection, raw in zip(connections, batch, strict=True):
                connection.send(raw)
            for connection in connections:
                connection.receive()
        load.rate.append(count / (time.perf_counter() - begin))
        load.cost.append((self._number("/cpu") - used) / count)

    def _number(self, path: str) -> float:
        """Microseconds, as the server tells nanoseconds."""
        return int(self._echo[0].body(request(path, b""))) / 1000


def _one(connection: Connection, raw: bytes) -> float:
    begin = time.perf_counter_ns()
    connection.ask(raw)
    return (time.perf_counter_ns() - begin) / 1000
