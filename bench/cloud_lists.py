"""GET /apps of one workspace with 1,000 and with 100,000 apps, beside the bare SQL of the same page.

The application is called in process, as its server calls it: everything but the socket. The bare SQL is written by
hand, on a connection of the same driver: how many apps match, the apps of the page, and their CVMs joined with what
they refer to, fetched and not looked at. Both take turns, so that whatever slows the machine meets both.
"""
# ruff: noqa: S608 - SQL of names and numbers of ours

import gc
import json
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import structlog
from fastapi import FastAPI
from pydantic import SecretBytes

from bench import cloud_data
from teehouse.base.clock import FixedClock
from teehouse.cloud.db.engine import Database, open_database
from teehouse.cloud.db.migrate import upgrade
from teehouse.cloud.http.app import create_app
from teehouse.cloud.parts import CloudParts
from teehouse.cloud.settings import CloudSettings

SIZES = (1_000, 100_000)
ROUNDS = 40
WARM_UP = 8  # psycopg prepares a statement when it comes for the sixth time
TIMES, EXTRA, GROWTH = 3.0, 5.0, 2.0  # the aims: times the SQL plus ms; from the smaller to the larger
_LIVE = "workspace_id = 1 AND deleted_at IS NULL"
_FACET = "SELECT app_record_id AS id FROM app_facets WHERE workspace_id = 1 AND kind = {} AND value = '{}'"
_APP = (
    "id, creator_id, app_id, name, provision_type, kms_id, kms_type, chain_id, contract_address, env_pubkey, listed,"
    " icon_url, display_name, avatar_url, description, custom_domain, created_at"
)
_CVM = (
    "c.id, c.vm_uuid, c.app_record_id, c.name, c.status, c.base_image, c.instance_type, c.vcpu, c.memory_mb,"
    " c.disk_gb, c.gpus, c.compose_hash, c.instance_id, c.public_logs, c.public_sysinfo, c.public_tcbinfo,"
    " c.gateway_enabled, c.secure_time, c.storage_fs, c.boot_progress, c.boot_error, c.shutdown_progress,"
    " c.correlation_id, c.started_at, c.exited_at, c.created_at, c.updated_at, c.deleted_at, n.name, n.region,"
    " n.status, n.version, n.device_id, n.ppid, n.gateway_domain, d.device_id, d.algorithm_version, d.os_image_ids,"
    " d.enabled, k.slug, k.url, k.version, k.kms_type, t.chain_id, t.contract_address, t.k256_pubkey, i.name,"
    " i.version, i.os_image_hash, i.is_dev, u.username, u.avatar_url, y.hourly_rate, o.target, o.started_at,"
    " o.correlation_id"
)
_JOINED = (
    " FROM cvms c LEFT JOIN nodes n ON n.id = c.node_id LEFT JOIN node_devices d ON d.node_id = n.id"
    " JOIN kms_nodes k ON k.id = c.kms_id JOIN kms_contracts t ON t.id = k.contract_id"
    " JOIN os_images i ON i.id = c.os_image_id JOIN users u ON u.id = c.creator_id"
    " LEFT JOIN instance_types y ON y.id = c.instance_type"
    " LEFT JOIN operations o ON o.cvm_id = c.id AND o.finished_at IS NULL"
)


@dataclass(frozen=True, slots=True)
class Case:
    """A request, and SQL for the numbers of the apps that match."""

    name: str
    query: str
    numbers: str
    size: int = 20
    last: bool = False


@dataclass(slots=True)
class Taken:
    """Milliseconds of one case in one database; `total` apps match, `answer` bytes say so."""

    ours: list[float]
    sql: list[float]
    total: int
    answer: int


Ask = Callable[[str], Awaitable[bytes]]
Fetch = Callable[[str], Awaitable[Sequence[Any]]]
Measured = dict[str, dict[int, dict[str, Taken]]]  # by database, size and case


async def _all_together(apps: int, fetch: Fetch) -> tuple[str, str]:
    """A request with every filter, met by a CVM in the middle, and its SQL."""
    ((image, size, node, region, kms, slug, kind, name),) = await fetch(
        "SELECT c.base_image, c.instance_type, n.id, n.region, k.id, k.slug, k.kms_type, a.name FROM cvms c"
        " JOIN apps a ON a.id = c.app_record_id JOIN nodes n ON n.id = c.node_id JOIN kms_nodes k ON k.id = a.kms_id"
        f" WHERE a.id BETWEEN {apps // 2} AND {apps // 2 + 50} AND a.listed AND c.status = 'running'"
        " ORDER BY c.id LIMIT 1"
    )
    word = name.partition("-")[0]
    query = (
        f"status=running&listed=true&base_image={image}&instance_type={size}&kms_slug={slug}&kms_type={kind}"
        f"&node=node-{node}&region={region}&search={word}"
    )
    return query, (
        "SELECT DISTINCT a.id FROM cvms c JOIN apps a ON a.id = c.app_record_id WHERE c.workspace_id = 1"
        f" AND c.deleted_at IS NULL AND c.status = 'running' AND c.instance_type = '{size}'"
        f" AND c.base_image = '{image}' AND c.node_id = {node} AND a.deleted_at IS NULL AND a.listed"
        f" AND a.kms_id = {kms} AND a.name LIKE '%{word}%'"
    )


async def cases(dialect: str, apps: int, fetch: Fetch) -> list[Case]:
    """What is asked of a database with so many apps."""
    every = f"SELECT id FROM apps WHERE {_LIVE}"
    name = cloud_data.name_of(apps // 2)[:-2]
    if dialect == "sqlite":
        found = f"{every} AND id IN (SELECT rowid FROM apps_fts WHERE apps_fts MATCH '\"{name}\"')"
    else:
        found = f"{every} AND name ILIKE '%{name}%'"
    query, together = await _all_together(apps, fetch)
    return [
        Case("no filter", "", every),
        Case("no filter, page of 100", "page_size=100", every, size=100),
        Case("last page", f"page={apps // 20}", every, last=True),
        Case("status", "status=running", _FACET.format(1, "running")),
        Case("listed", "listed=true", f"{every} AND listed"),
        Case("base_image", "base_image=dstack-0.5.5", _FACET.format(2, "dstack-0.5.5")),
        Case("instance_type", "instance_type=tdx.small", _FACET.format(3, "tdx.small")),
        Case("kms_slug", "kms_slug=kms-base", f"{every} AND kms_id = 3"),
        Case("kms_type", "kms_type=phala", f"{every} AND kms_type = 'phala'"),
        Case("node", "node=node-7", _FACET.format(4, "7")),
        Case("region", "region=us-west", _FACET.format(5, "us-west")),
        Case("search", f"search={name}", found),
        Case("all filters", query, together),
    ]


@dataclass(slots=True)
class Plane:
    """One database: the application on it, a bare connection to it, and what is asked."""

    ask: Ask
    fetch: Fetch
    cases: list[Case]


async def measure(urls: Mapping[int, str]) -> dict[int, dict[str, Taken]]:
    """Fill new databases, by their number of apps, and ask them in turn."""
    structlog.configure(processors=[_drop])
    async with AsyncExitStack() as stack:
        planes = {size: await stack.enter_async_context(_plane(url, size)) for size, url in urls.items()}
        taken: dict[int, dict[str, Taken]] = {size: {} for size in planes}
        for several in zip(*(plane.cases for plane in planes.values()), strict=True):
            turns = dict(zip(planes, several, strict=True))
            for size, case in turns.items():
                taken[size][case.name] = await _first(case, planes[size])
            gc.collect()
            for _ in range(ROUNDS):
                for size, case in turns.items():
                    await _turn(case, planes[size], taken[size][case.name])
    return taken


@asynccontextmanager
async def _plane(url: str, apps: int) -> AsyncIterator[Plane]:
    database = open_database(url)
    filled = await cloud_data.fill(database, apps)
    await upgrade(database)  # as at every start
    settings = CloudSettings(database_url=url, secret_key=SecretBytes(bytes(32)))
    app = create_app(CloudParts(settings, database, FixedClock(cloud_data.NOW)))
    async with database.engine.connect() as connection:
        fetch = fetcher(database, (await connection.get_raw_connection()).driver_connection)
        yield Plane(asker(app, filled.first.api_key), fetch, await cases(database.dialect, apps, fetch))
    await database.dispose()


def asker(app: FastAPI, key: str) -> Ask:
    """Calls the application as its server does."""

    async def ask(query: str, path: str = "/api/v1/apps") -> bytes:
        sent: list[Any] = []
        waiting = [{"type": "http.request", "body": b"", "more_body": False}]
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
            "path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": "",
            "headers": [(b"host", b"cloud"), (b"x-api-key", key.encode())], "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }  # fmt: skip

        async def receive() -> Any:
            return waiting.pop()

        async def send(message: Any) -> None:
            sent.append(message)

        await app(scope, receive, send)
        body = b"".join(message.get("body", b"") for message in sent[1:])
        if sent[0]["status"] != 200:
            raise RuntimeError(f"{path}?{query}: {sent[0]['status']} {body[:300]!r}")
        return body

    return ask


def fetcher(database: Database, driver: Any) -> Fetch:
    """All rows of a statement, by the driver alone."""

    async def fetch(statement: str) -> Sequence[Any]:
        if database.dialect == "sqlite":
            rows: Sequence[Any] = await driver.execute_fetchall(statement)
            return rows
        cursor = await driver.execute(statement)
        found: Sequence[Any] = await cursor.fetchall()
        return found

    return fetch


async def _page(case: Case, fetch: Fetch) -> tuple[int, list[int], int]:
    """The bare SQL of a page: the total, the apps, and how many CVMs."""
    total = int((await fetch(f"SELECT count(*) FROM ({case.numbers}) AS found"))[0][0])
    order = "1" if case.last else "1 DESC"
    numbers = f"{case.numbers} ORDER BY {order} LIMIT {case.size}"
    rows = await fetch(f"SELECT {_APP} FROM apps WHERE id IN ({numbers}) ORDER BY id DESC")
    listed = ", ".join(str(row[0]) for row in rows)
    cvms = await fetch(
        f"SELECT {_CVM}{_JOINED} WHERE c.workspace_id + 0 = 1 AND c.deleted_at IS NULL"
        f" AND c.app_record_id IN ({listed}) ORDER BY c.id DESC"
    )
    return total, [row[0] for row in rows], len(cvms)


async def _first(case: Case, plane: Plane) -> Taken:
    """Compare the answer with the SQL's, and repeat both until all is as it will be."""
    answer = await plane.ask(case.query)
    page = json.loads(answer)
    total, numbers, cvms = await _page(case, plane.fetch)
    shown = (page["total"], len(page["dstack_apps"]), sum(app["cvm_count"] for app in page["dstack_apps"]))
    if shown != (total, len(numbers), cvms) or not total:
        raise RuntimeError(f"{case.name}: the answer has {shown}, the SQL {(total, len(numbers), cvms)}")
    for _ in range(WARM_UP):
        await plane.ask(case.query)
        await _page(case, plane.fetch)
    return Taken([], [], total, len(answer))


async def _turn(case: Case, plane: Plane, taken: Taken) -> None:
    begin = time.perf_counter()
    await _page(case, plane.fetch)
    middle = time.perf_counter()
    await plane.ask(case.query)
    end = time.perf_counter()
    taken.sql.append((middle - begin) * 1000)
    taken.ours.append((end - middle) * 1000)


def _drop(_logger: Any, _name: str, _event: Any) -> Any:
    raise structlog.DropEvent


# The report


def section(measured: Measured, missing: Sequence[str]) -> list[str]:
    """The lines of a page in Markdown."""
    small, large = SIZES
    lines = [
        "## Lists of the control plane",
        "",
        f"`GET /apps` of one workspace that has {large:,} apps, {large * 10:,} CVMs and {large * 30:,} revisions, a page of 20 apps",
        "with about 200 CVMs unless said otherwise, called in process; in the same loop, in turn, the bare SQL of that",
        "page by hand on the same driver: the total, the apps, their CVMs joined with what they refer to.",
        f"{ROUNDS} rounds, in each of which a database of {small:,} apps has its turn as well; growth is the median of the",
        f"rounds. The aim is {TIMES:g} times the SQL plus {EXTRA:g} ms, and a growth of at most {GROWTH:g} times.",
    ]
    for dialect, sizes in measured.items():
        title = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}[dialect]
        lines += [
            "",
            f"| {title} | Matching | SQL p50, ms | SQL p99 | `/apps` p50 | `/apps` p99 | Allowed p50 | p50 of {small:,} | Growth |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        ]
        for name, taken in sizes[large].items():
            ours, sql = statistics.median(taken.ours), statistics.median(taken.sql)
            of_small = sizes[small][name].ours
            before = statistics.median(of_small)
            growth = statistics.median(a / b for a, b in zip(taken.ours, of_small, strict=True))
            allowed = TIMES * sql + EXTRA
            lines.append(
                f"| {name} | {taken.total:,} | {sql:.1f} | {_p99(taken.sql):.1f} | {ours:.1f}{_missed(ours, allowed)}"
                f" | {_p99(taken.ours):.1f} | {allowed:.1f} | {before:.1f}"
                f" | {growth:.2f}{_missed(growth, GROWTH)} |"
            )
    lines += [f"\n{title} is left out: it is not installed here." for title in missing]
    return lines


def _missed(measured: float, aim: float) -> str:
    return " (missed)" if measured > aim else ""


def _p99(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=100)[98]
