"""Reading a chain, and handing out keys by what it says: `python -m bench.chain`.

anvil runs with the contracts on it (`teehouse chain up`). In this process, on one event loop, all take turns round by
round:

* N CVMs of one app are checked (`chain.app.verdicts`), each with its own compose hash and its own device, by one
  JSON-RPC batch, by aggregate3, by single calls;
* the same N questions to the KMS's contract (`isAppAllowed`, 420 bytes each), by batch;
* the floors: one bare `eth_call` on a kept connection, and the very bytes of the batch, sent and received as they
  are, which is what the node itself takes.

The hand-out is that of bench.kms, from two KMSs in one server process (`python -m bench.chain DIRECTORY`): one asks
a file, the other the chain.
"""

import asyncio
import gc
import http.client
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvloop

from bench.kms import COMPOSE, KMS_COMPOSE, WARM_UP, ask, client_identity, p99, post_request, serve_kms
from bench.processes import running
from teehouse.base.clock import SystemClock
from teehouse.base.findings import CollateralError
from teehouse.base.hashes import sha256
from teehouse.chain import app
from teehouse.chain import calls as abi
from teehouse.chain.app import AppQuestion
from teehouse.chain.calls import BootInfo
from teehouse.chain.deploy import DeployPlan, created_address
from teehouse.chain.endpoint import Endpoint
from teehouse.chain.reader import Block, Call
from teehouse.chain.rpc_reader import ReaderSettings, RpcReader
from teehouse.chain.writer import RpcWriter
from teehouse.collateral.cache import CollateralCache
from teehouse.kms.auth_chain import ChainAuth
from teehouse.stack.anvil import CHAIN_ID, DEPLOYER_KEY, find_anvil
from teehouse.stack.auth_list import allow
from teehouse.stack.chain_serving import serve_chain
from teehouse.stack.cvm_emulated import boot_emulated_cvm
from teehouse.stack.installation import open_installation
from teehouse.stack.kms_emulated import ServiceEvidence
from teehouse.stack.serving import run_until_stopped
from teehouse.wire import kms_pb2

READY = "ready"
ROUNDS = {1: 50, 10: 50, 200: 20, 2000: 5}
AIMS = {"batch": 25.0, "aggregate3": 100.0}  # ms, for 200 CVMs
SINGLES_LIMIT = 200  # CVMs; more would not end within a reader's usual deadline
HAND_OUTS = 150
DEVICE, IMAGE = b"\xde" * 32, b"\x05" * 32


@dataclass(frozen=True, slots=True)
class Measured:
    """Milliseconds: of checks by (way, number of CVMs), and of hand-outs by who decides."""

    checks: dict[tuple[str, int], float]
    hand_outs: dict[str, list[float]]


# Checks


class Raw:
    """One kept connection to the endpoint, and nothing between."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port)

    async def post(self, bodies: list[bytes]) -> None:
        for body in bodies:
            self._connection.request("POST", "/", body, {"content-type": "application/json"})
            self._connection.getresponse().read()


def _requests(calls: list[Call], block: Block) -> bytes:
    return json.dumps(
        [
            {
                "jsonrpc": "2.0",
                "id": number,
                "method": "eth_call",
                "params": [{"to": f"0x{call.to.hex()}", "data": f"0x{call.data.hex()}"}, hex(block.number)],
            }
            for number, call in enumerate(calls)
        ]
    ).encode()


class Checks:
    """The ways to ask about `count` CVMs of one app."""

    def __init__(self, reader: RpcReader, contract: bytes, kms: bytes, count: int) -> None:
        self._reader = reader
        (self._one,) = reader._readers  # noqa: SLF001 - each way is taken by force
        self._questions = [
            AppQuestion(contract, sha256(b"c%d" % at), sha256(b"d%d" % at)) for at in range(count)
        ]
        known = BootInfo(contract, bytes(32), bytes(20), DEVICE, bytes(32), bytes(32), IMAGE, "UpToDate")
        self._decisions = [
            Call(kms, abi.IS_APP_ALLOWED(replace(known, compose_hash=one.compose_hash).values()))
            for one in self._questions
        ]
        self.reads = [Call(contract, abi.ALLOW_ANY_DEVICE())]
        for question in self._questions:
            self.reads.append(Call(contract, abi.ALLOWED_COMPOSE_HASHES(question.compose_hash)))
            self.reads.append(Call(contract, abi.ALLOWED_DEVICE_IDS(question.device_id or b"")))

    def _by(self, *, batches: bool, aggregate3: bool) -> None:
        self._one._learn("batches", can=batches)  # noqa: SLF001 - as above
        self._one._learn("aggregate3", can=aggregate3)  # noqa: SLF001 - as above

    async def batch(self) -> None:
        self._by(batches=True, aggregate3=False)
        await app.verdicts(self._reader, self._questions)

    async def aggregate3(self) -> None:
        self._by(batches=False, aggregate3=True)
        await app.verdicts(self._reader, self._questions)

    async def single(self) -> None:
        self._by(batches=False, aggregate3=False)
        await app.verdicts(self._reader, self._questions)

    async def decisions(self) -> None:
        self._by(batches=True, aggregate3=False)
        await self._reader.call_many(self._decisions)


async def _checks(directory: Path) -> dict[tuple[str, int], float]:
    found: dict[tuple[str, int], float] = {}
    async with serve_chain(directory) as served:
        endpoint = Endpoint(served.anvil.url)
        reader = RpcReader([endpoint], CHAIN_ID, ReaderSettings(timeout=60))
        kms = served.record.kms_contract
        writer = RpcWriter(endpoint, CHAIN_ID, DEPLOYER_KEY)
        await writer.send(
            kms, abi.DEPLOY_AND_REGISTER_APP(writer.address, False, False, False, DEVICE, bytes(32))
        )
        contract, raw = created_address(kms, 1), Raw(served.anvil.url)
        for count, rounds in ROUNDS.items():
            checks = Checks(reader, contract, kms, count)
            block = await reader.pinned()
            bodies = [
                _requests(checks.reads[at : at + 250], block) for at in range(0, len(checks.reads), 250)
            ]
            ways: dict[str, Callable[[], Awaitable[None]]] = {
                "batch": checks.batch,
                "aggregate3": checks.aggregate3,
                "decisions": checks.decisions,
                "node": partial(raw.post, bodies),
                "bare": partial(raw.post, [_requests(checks.reads[:1], block)[1:-1]]),
            }
            if count <= SINGLES_LIMIT:
                ways["single"] = checks.single
            found |= {(name, count): value for name, value in (await _in_turns(ways, rounds)).items()}
        await endpoint.aclose()
    return found


async def _in_turns(ways: dict[str, Callable[[], Awaitable[None]]], rounds: int) -> dict[str, float]:
    """Milliseconds of each, the median; whatever slows the machine meets all."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    gc.disable()
    for number in range(rounds + 2):
        for name, work in ways.items():
            begin = time.perf_counter()
            await work()
            if number >= 2:
                taken[name].append(time.perf_counter() - begin)
    gc.enable()
    return {name: statistics.median(values) * 1000 for name, values in taken.items()}


# Hand-outs


def serve(directory: Path) -> None:
    """Serve both KMSs until SIGTERM; ports and app id are in `ports.json`."""
    installation = open_installation(directory, SystemClock())

    async def main(stop: asyncio.Event) -> None:
        async with AsyncExitStack() as stack:
            cvm = await boot_emulated_cvm(installation, KMS_COMPOSE, "kms-cvm")
            stack.push_async_callback(cvm.log.close)
            measured = cvm.source.app_info(await cvm.source.take(bytes(64)))
            plan = DeployPlan(
                os_images=[measured.os_image_hash],
                kms_aggregated_mrs=[measured.mr_aggregated],
                kms_devices=[measured.device_id],
            )
            served = await stack.enter_async_context(serve_chain(directory, plan=plan))
            endpoint = Endpoint(served.anvil.url)
            stack.push_async_callback(endpoint.aclose)
            kms, writer = served.record.kms_contract, RpcWriter(endpoint, CHAIN_ID, DEPLOYER_KEY)
            compose_hash = sha256(COMPOSE)
            await writer.send(
                kms,
                abi.DEPLOY_AND_REGISTER_APP(writer.address, False, False, True, bytes(32), compose_hash),
            )
            app_id = created_address(kms, 1)
            allow(
                installation.state / "auth-config.json",
                os_image=measured.os_image_hash,
                kms=measured.mr_aggregated,
                app=(app_id, compose_hash),
            )

            async def collateral(_: object) -> Any:
                return installation.current_collateral()

            cache = CollateralCache(collateral, installation.clock)
            own = ServiceEvidence(cvm.source)
            auth = ChainAuth(RpcReader([endpoint], CHAIN_ID), kms, rpc_shown=endpoint.shown)
            ports = {
                "file": await serve_kms(stack, installation, "file", cache, own),
                "chain": await serve_kms(stack, installation, "chain", cache, own, auth=auth),
            }
            facts = {"ports": ports, "app_id": app_id.hex()}
            (directory / "ports.json").write_text(json.dumps(facts), encoding="utf-8")
            print(READY, flush=True)
            await stop.wait()

    run_until_stopped(main)


def _hand_outs(place: Path) -> dict[str, list[float]]:
    with running("-m", "bench.chain", str(place), ready=READY):
        facts = json.loads((place / "ports.json").read_text(encoding="utf-8"))
        installation = open_installation(place, SystemClock())
        context = asyncio.run(client_identity(installation, bytes.fromhex(facts["app_id"])))
        body = kms_pb2.GetAppKeyRequest(api_version=1).SerializeToString()
        request = post_request("/prpc/KMS.GetAppKey", body)
        taken: dict[str, list[float]] = {kind: [] for kind in facts["ports"]}
        gc.disable()
        for number in range(HAND_OUTS + WARM_UP):
            for kind, port in facts["ports"].items():
                begin = time.perf_counter()
                ask(port, context, request)
                if number >= WARM_UP:
                    taken[kind].append((time.perf_counter() - begin) * 1000)
        gc.enable()
    return taken


def measure(directory: Path) -> Measured | None:
    """Both; None where anvil is missing."""
    try:
        find_anvil()
    except CollateralError as error:
        print(f"the chain is not measured: {error}", file=sys.stderr)
        return None
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        checks = runner.run(_checks(directory / "checks"))
    return Measured(checks, _hand_outs(directory / "kms"))


# The report


def section(measured: Measured | None) -> list[str]:
    """The lines of a page in Markdown."""
    title = ["## Reading a chain", ""]
    if measured is None:
        return [*title, "Not measured: anvil was not there."]
    rows = [
        "| CVMs | Batch, ms | aggregate3, ms | Single calls, ms | Node's part, ms | A bare `eth_call`, ms | Decisions, ms |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for count in ROUNDS:
        cells = []
        for way in ("batch", "aggregate3", "single", "node", "bare", "decisions"):
            value = measured.checks.get((way, count))
            if value is None:
                cells.append("-")
                continue
            missed = " (missed)" if count == 200 and value > AIMS.get(way, value) else ""
            cells.append(f"{value:.1f}{missed}")
        rows.append(f"| {count} | {' | '.join(cells)} |")
    hand_outs = [
        f"| {title} | {statistics.median(taken):.1f} | {p99(taken):.1f} |"
        for title, taken in (
            ("a file", measured.hand_outs["file"]),
            ("the chain", measured.hand_outs["chain"]),
        )
    ]
    return [
        *title,
        "Whether the CVMs of one app are on its contract's allow-lists, all with a compose hash and a device of their",
        "own: two calls for each, one for all, at one block, with the chain's id checked before and the block looked",
        f"at again after. anvil answers on the same machine. Medians; for 200 CVMs the aims are {AIMS['batch']:g} ms by batch and",
        f"{AIMS['aggregate3']:g} ms by aggregate3. CVMs that share hash and device cost no further calls.",
        "",
        *rows,
        "",
        "The node's part is the very bytes of the calls, sent and received on a bare connection; it is the same machine's",
        "two cores that answer. The last column asks `isAppAllowed` of the KMS's contract for each CVM, by batch.",
        "",
        "| Hand-out of app keys, authorized by | p50, ms | p99, ms |",
        "| --- | ---: | ---: |",
        *hand_outs,
        "",
        "The chain is asked twice in each hand-out, about the KMS itself and about the app; either time for the chain's id",
        "and its head first, then for the decision and the gateway at that block. Nothing of it is kept.",
    ]


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="teehouse-bench-") as directory:
        print("\n".join(section(measure(Path(directory)))))


if __name__ == "__main__":
    if len(sys.argv) == 2:
        serve(Path(sys.argv[1]))
    else:
        main()
