"""The control plane's work: evidence of an app's instances, deployments through the workflow engine, idle memory.

`python -m bench.cloud_work idle DIRECTORY` is a control plane that nobody asks anything.
"""

import asyncio
import gc
import json
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from fastapi import FastAPI
from pydantic import SecretBytes
from sqlalchemy import func, select, update

from bench.memory_node import MemoryNode
from bench.node import server
from bench.processes import resident, running
from teehouse.base.clock import SystemClock
from teehouse.base.listener import Listener
from teehouse.cloud.accounts.bootstrap import First, bootstrap
from teehouse.cloud.accounts.models import Quota
from teehouse.cloud.allowlists.authorisations import NoAuthorisations
from teehouse.cloud.apps.models import App
from teehouse.cloud.attestations.services import Attestations
from teehouse.cloud.attestations.serving import reading_agents
from teehouse.cloud.cvms.models import Cvm, Operation
from teehouse.cloud.db.engine import Database, open_database, sqlite_url
from teehouse.cloud.db.migrate import upgrade
from teehouse.cloud.http.app import create_app
from teehouse.cloud.inventory.models import KmsContract, KmsNode, OsImage
from teehouse.cloud.inventory.seeding import seed_instance_types
from teehouse.cloud.nodes.directory import KnownNodes
from teehouse.cloud.nodes.models import Node, NodeDevice, NodeImage, NodeKms
from teehouse.cloud.parts import CloudParts
from teehouse.cloud.revisions.models import ComposeFile
from teehouse.cloud.settings import CloudSettings
from teehouse.cloud.workflows.serving import working
from teehouse.stack.cloud_serving import IDENT, CloudPlan, cloud_parts
from teehouse.stack.serving import run_until_stopped

INSTANCES = 50
EVIDENCE_ROUNDS = 30
EVIDENCE_AIM = 5.0  # times one instance
DEPLOYS = 200
CALLERS = 8
READY = "ready"
_COMPOSE = {"docker_compose_file": "services:\n  web:\n    image: nginx:1.27-alpine\n", "name": ""}
_ENVIRONMENT = "ab" * 80  # sealed to a key that nobody asks for here


@dataclass(frozen=True, slots=True)
class Measured:
    """Milliseconds of evidence of one instance and of `INSTANCES`; deployments per second by database; MiB."""

    one: list[float]
    many: list[float]
    deploys: dict[str, float]
    idle: float


class FixedKeys:
    """The same environment key for every app, so that no KMS is asked."""

    async def environment_key(self, kms_id: int, app_id: str) -> str:
        assert kms_id
        assert app_id
        return "e3" * 32


@dataclass(slots=True)
class Plane:
    """A control plane with a node in memory."""

    app: FastAPI
    parts: CloudParts
    node: MemoryNode
    first: First

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        """An answer's JSON. The application is called as its server calls it."""
        sent: list[Any] = []
        raw = b"" if body is None else json.dumps(body).encode()
        waiting = [{"type": "http.request", "body": raw, "more_body": False}]
        path = f"/api/v1{path}"
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
            "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
            "headers": [
                (b"host", b"cloud"), (b"x-api-key", self.first.api_key.encode()),
                (b"content-type", b"application/json"), (b"content-length", str(len(raw)).encode()),
            ],
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
        }  # fmt: skip

        async def receive() -> Any:
            return waiting.pop()

        async def send(message: Any) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        answer = b"".join(message.get("body", b"") for message in sent[1:])
        if sent[0]["status"] >= 300:
            raise RuntimeError(f"{method} {path}: {sent[0]['status']} {answer[:500]!r}")
        return json.loads(answer)


@asynccontextmanager
async def plane(url: str, *, chores: bool = True) -> AsyncIterator[Plane]:
    """A control plane on an empty database, with all that it does in the background, or none of it."""
    structlog.configure(processors=[_drop])
    clock = SystemClock()
    database = open_database(url)
    await upgrade(database)
    first = await _inventory(database)
    node = MemoryNode(clock)
    settings = CloudSettings(database_url=url, secret_key=SecretBytes(bytes(32)))
    parts = cloud_parts(CloudPlan(settings, clock, KnownNodes({1: node}), NoAuthorisations()), database)
    assert parts.lifecycle is not None
    parts.lifecycle.environment_keys = FixedKeys()
    parts.attestations = Attestations(kept=0.0)  # each request asks the agents
    app = create_app(parts, lifespans=[reading_agents, *([working] if chores else [])])
    async with app.router.lifespan_context(app):
        yield Plane(app, parts, node, first)


async def _inventory(database: Database) -> First:
    now = SystemClock().now()
    async with database.write() as session:
        first = await bootstrap(session, now)
        limits = dict.fromkeys(("vm_slots", "vcpu", "memory_mb", "disk_gb"), 10**8)
        await session.execute(update(Quota).values(limits))
        await seed_instance_types(session)
        for row in _rows(now):
            session.add(row)
            await session.flush()
    return first


def _rows(now: Any) -> Iterator[Any]:
    yield OsImage(
        id=1, name="dstack-0.5.4", slug="dstack", version="0.5.4", os_image_hash="b3" * 32, created_at=now
    )
    yield KmsContract(id=1, slug="phala", contract_address="phala", created_at=now)
    yield KmsNode(
        id=1,
        contract_id=1,
        slug="kms",
        url="https://127.0.0.1:1",
        version="v0.5.4",
        kms_type="phala",
        created_at=now,
    )
    yield Node(
        id=1, name="memory", region="local", version="0", emulated=True, root="emulated:00", device_id="5c" * 32,
        vcpu=10**8, memory_mb=10**9, disk_gb=10**9, slots=10**6, default_kms_id=1, created_at=now,
    )  # fmt: skip
    yield NodeImage(node_id=1, os_image_id=1)
    yield NodeKms(node_id=1, kms_id=1)
    yield NodeDevice(node_id=1, device_id="5c" * 32, algorithm_version="v1", os_image_ids=[1])


# Deployments


async def deploys(url: str) -> float:
    """Deployments per second, from the first request until the last CVM runs."""
    async with plane(url) as cloud:
        await _deploy_all(cloud, "warm-up", CALLERS)
        gc.collect()
        begin = time.perf_counter()
        await _deploy_all(cloud, "app", DEPLOYS)
        return DEPLOYS / (time.perf_counter() - begin)


async def _deploy_all(cloud: Plane, name: str, count: int) -> None:
    numbers = iter(range(count))

    async def caller() -> None:
        for number in numbers:
            request = {"name": f"{name}-{number:05d}", "compose_file": _COMPOSE, "instance_type": "tdx.small"}
            found = await cloud.call("POST", "/cvms/provision", request)
            commit = {
                "app_id": found["app_id"], "compose_hash": found["compose_hash"], "encrypted_env": _ENVIRONMENT
            }  # fmt: skip
            await cloud.call("POST", "/cvms", commit)

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    open_ones = select(func.count()).where(Operation.finished_at.is_(None))
    while True:
        async with cloud.parts.database.read() as session:
            left = await session.scalar(open_ones)
        if not left:
            break
        await asyncio.sleep(0.01)
    async with cloud.parts.database.read() as session:
        failed = await session.scalar(select(func.count()).where(Operation.outcome != "succeeded"))
    if failed:
        raise RuntimeError(f"{failed} deployments failed")


# Evidence


async def evidence(url: str, agents: dict[str, str]) -> tuple[list[float], list[float]]:
    """Milliseconds of the evidence of an app with one instance, and of one with all of them."""
    async with plane(url, chores=False) as cloud:
        cloud.node.pages = agents
        names = sorted(agents)
        one, many = await _app(cloud, 1, names[:1]), await _app(cloud, 2, names[1:])
        taken: tuple[list[float], list[float]] = ([], [])
        for turn in range(EVIDENCE_ROUNDS + 3):
            for path, instances, times in ((one, 1, taken[0]), (many, INSTANCES, taken[1])):
                begin = time.perf_counter()
                answer = await cloud.call("GET", path)
                if turn >= 3:
                    times.append((time.perf_counter() - begin) * 1000)
                errors = [found["error"] for found in answer["instances"]]
                if errors != [None] * instances:
                    raise RuntimeError(f"{path}: {errors}")
        return taken


async def _app(cloud: Plane, number: int, names: list[str]) -> str:
    now = SystemClock().now()
    database, first = cloud.parts.database, cloud.first
    app_id = f"{number:040x}"
    async with database.write() as session:
        if number == 1:
            session.add(ComposeFile(compose_hash="00" * 32, body=b"{}", services=[], created_at=now))
        session.add(
            App(
                id=number, workspace_id=first.workspace_id, creator_id=first.user_id, app_id=app_id, name="app",
                kms_id=1, kms_type="phala", created_at=now, updated_at=now,
            )
        )  # fmt: skip
        await session.flush()
        session.add_all(
            Cvm(
                vm_uuid=name, workspace_id=first.workspace_id, app_record_id=number, creator_id=first.user_id,
                name=f"cvm-{name}", status="running", node_id=1, kms_id=1, os_image_id=1, base_image="dstack-0.5.4",
                instance_type="tdx.small", vcpu=1, memory_mb=2048, disk_gb=20, compose_hash="00" * 32,
                started_at=now, created_at=now, updated_at=now,
            )
            for name in names
        )  # fmt: skip
    return f"/apps/{app_id}/attestations"


# Memory


def idle(directory: Path) -> None:
    """A control plane on SQLite that listens, until SIGTERM."""

    async def main(stop: asyncio.Event) -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        async with plane(sqlite_url(directory / "idle.db")) as cloud:
            listener = Listener(cloud.app, [listening], ident=IDENT)
            await listener.start()
            print(READY, flush=True)
            await stop.wait()
            await listener.stop()

    run_until_stopped(main)


def _drop(_logger: Any, _name: str, _event: Any) -> Any:
    raise structlog.DropEvent


def measure(directory: Path, urls: dict[str, str]) -> Measured:
    """All of it; `urls` are of empty databases, by kind."""
    with server("kms", str(directory)) as kms:
        key_source = kms.hear()
        with server("node", str(directory), key_source) as node:
            node.hear()
            agents = node.ask(INSTANCES + 1)["pages"]
            one, many = asyncio.run(evidence(sqlite_url(directory / "evidence.db"), agents))
    rates = {kind: asyncio.run(deploys(url)) for kind, url in urls.items()}
    with running("-m", "bench.cloud_work", "idle", str(directory), ready=READY) as process:
        time.sleep(2)  # for what starts in the background
        memory = resident(process.pid)
    return Measured(one, many, rates, memory)


def section(measured: Measured) -> list[str]:
    """The lines of a page in Markdown."""
    one, many = statistics.median(measured.one), statistics.median(measured.many)
    missed = " (missed)" if many > EVIDENCE_AIM * one else ""
    titles = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
    rows = [
        ("Attestations of an app with one instance, p50", f"{one:.1f} ms", ""),
        (f"of one with {INSTANCES} instances, p50", f"{many:.1f} ms", ""),
        ("the same, p99", f"{statistics.quantiles(measured.many, n=100)[98]:.1f} ms", ""),
        ("times one instance", f"{many / one:.1f}{missed}", f"at most {EVIDENCE_AIM:g}"),
        *(
            (f"Deployments per second, {titles[kind]}", f"{rate:.1f}", "")
            for kind, rate in measured.deploys.items()
        ),
        ("Resident memory of an idle control plane", f"{measured.idle:.0f} MiB", ""),
    ]
    return [
        "## Work of the control plane",
        "",
        f"Attestations: {INSTANCES + 1} emulated CVMs on a node in another process on the same processors; each request has every agent",
        "make a new quote, over HTTP on loopback. Deployments: provision and commit through the API, in process, by",
        f"{CALLERS} callers at once, then the workflow with each step recorded, until all {DEPLOYS} CVMs run; the node is in memory",
        "and takes no time. An idle control plane has its workflow engine, its chores and its listener running, on SQLite.",
        "",
        "| | Measured | Aim |",
        "| --- | ---: | ---: |",
        *(f"| {what} | {value} | {aim} |" for what, value, aim in rows),
    ]


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["idle", place]:
            idle(Path(place))
