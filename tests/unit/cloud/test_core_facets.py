"""`app_facets` says what the live CVMs of live apps have, whoever writes (rules of `teehouse.cloud.db.facets`)."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, column, delete, event, insert, inspect, select, table, text, update

from support.cloud_core_support import KINDS, database_url, migrated_url
from support.cloud_read_support import NOW, add_rows, inventory, make_app, make_cvm
from teehouse.cloud.apps.filters import AppFilters, filter_options
from teehouse.cloud.apps.models import App, AppFacet
from teehouse.cloud.apps.services import list_apps
from teehouse.cloud.cvms.models import Cvm
from teehouse.cloud.db import facets, migrate
from teehouse.cloud.db.engine import Database, open_database
from teehouse.cloud.db.facets import Facet
from teehouse.cloud.db.together import Source, Together
from teehouse.cloud.inventory.models import InstanceType, OsImage
from teehouse.cloud.nodes.models import Node, NodeDevice

both = pytest.mark.parametrize("kind", KINDS)
Rows = set[tuple[int, int, str, int]]


@asynccontextmanager
async def filled(kind: str, directory: Path) -> AsyncIterator[Database]:
    """The inventory of the reading tests, and no apps."""
    database = open_database(await migrated_url(kind, directory))
    try:
        async with database.write() as session:
            await add_rows(session, *inventory())
        yield database
    finally:
        await database.dispose()


async def kept(database: Database) -> Rows:
    columns = (AppFacet.workspace_id, AppFacet.kind, AppFacet.value, AppFacet.app_record_id)
    async with database.read() as session:
        return {tuple(row) for row in (await session.execute(select(*columns))).all()}


async def expected(database: Database) -> Rows:
    """Rule 1, from the rows themselves."""
    async with database.read() as session:
        regions = {node.id: node.region for node in await session.scalars(select(Node))}
        live = set(await session.scalars(select(App.id).where(App.deleted_at.is_(None))))
        cvms = list(await session.scalars(select(Cvm).where(Cvm.deleted_at.is_(None))))
    rows: Rows = set()
    for cvm in (one for one in cvms if one.app_record_id in live):
        node = None if cvm.node_id is None else str(cvm.node_id)
        values = {
            Facet.STATUS: cvm.status, Facet.BASE_IMAGE: cvm.base_image, Facet.INSTANCE_TYPE: cvm.instance_type,
            Facet.NODE: node, Facet.REGION: None if cvm.node_id is None else regions[cvm.node_id],
        }  # fmt: skip
        rows |= {
            (cvm.workspace_id, int(facet), value, cvm.app_record_id)
            for facet, value in values.items()
            if value is not None
        }
    return rows


@both
async def test_every_way_of_writing_is_followed(kind: str, tmp_path: Path) -> None:
    chance = random.Random(7)  # noqa: S311 - the same changes in every run
    async with filled(kind, tmp_path) as database:
        async with database.write() as session:
            await add_rows(session, *(make_app(number, 1 + number % 2) for number in range(1, 7)))
        number = 0
        for _turn in range(120):
            async with database.write() as session:
                for _ in range(chance.randrange(1, 4)):  # several changes in one transaction
                    number += 1
                    app = await session.get_one(App, chance.randrange(1, 7))
                    await _change(chance, session, number, app)
            assert await kept(database) == await expected(database)
        assert await kept(database)


async def _change(chance: random.Random, session: Any, number: int, app: App) -> None:
    some = chance.randrange(1, number + 1)
    values: dict[str, Any] = {
        "status": chance.choice(["running", "stopped", "creating"]),
        "base_image": chance.choice(["dstack-0.5.4", "dstack-0.5.5"]),
        "instance_type": chance.choice(["tdx.small", None]),
        "node_id": chance.choice([1, 2, 3, None]),
    }
    match chance.randrange(8):
        case 0 | 1 | 2:
            await add_rows(session, make_cvm(number, app, **values))
        case 3 | 4:
            wanted = dict(chance.sample(sorted(values.items()), chance.randrange(1, 4)))
            await session.execute(update(Cvm).where(Cvm.id == some).values(**wanted))
        case 5:
            when = chance.choice([NOW, None])
            await session.execute(update(Cvm).where(Cvm.id == some).values(deleted_at=when))
        case 6:
            app.deleted_at = None if app.deleted_at else NOW
        case _:
            region = chance.choice(["us-west", "eu-north", "moon"])
            await session.execute(update(Node).where(Node.id == chance.randrange(1, 4)).values(region=region))
            await session.execute(delete(Cvm).where(Cvm.id == some))
    await session.flush()


@both
async def test_two_transactions_on_one_app_see_each_other(kind: str, tmp_path: Path) -> None:
    async with filled(kind, tmp_path) as database:
        async with database.write() as session:
            app = make_app(1)
            await add_rows(session, app, *(make_cvm(number, app) for number in range(1, 13)))

        async def stop(number: int) -> None:
            async with database.write() as session:
                await session.execute(update(Cvm).where(Cvm.id == number).values(status="stopped"))
                await asyncio.sleep(
                    0.01
                )  # the others change theirs meanwhile, where there may be several writers

        await asyncio.gather(*(stop(number) for number in range(1, 13)))
        assert await kept(database) == await expected(database)
        assert {row[2] for row in await kept(database) if row[1] == Facet.STATUS} == {"stopped"}


@both
async def test_made_anew_they_are_the_same(kind: str, tmp_path: Path) -> None:
    async with filled(kind, tmp_path) as database:
        async with database.write() as session:
            app = make_app(1)
            await add_rows(session, app, make_cvm(1, app), make_cvm(2, app, node_id=None, status="error"))
        before = await kept(database)
        async with database.write() as session:
            connection = await session.connection()
            await connection.run_sync(facets.drop)
            await session.execute(delete(AppFacet))
            await session.execute(update(Cvm).values(status="stopped"))  # nobody notices
        assert await kept(database) == set()
        async with database.write() as session:
            await session.execute(update(Cvm).where(Cvm.id == 1).values(status="running"))
            await session.execute(update(Cvm).where(Cvm.id == 2).values(status="error"))
            connection = await session.connection()
            await connection.run_sync(facets.create)
            await connection.run_sync(facets.fill)
        assert await kept(database) == before == await expected(database)


@both
async def test_a_database_of_before_is_filled_by_its_migration(kind: str, tmp_path: Path) -> None:
    database = open_database(database_url(kind, tmp_path))
    await _filled_at(database, "0002")
    await migrate.upgrade(database)
    assert await kept(database) == await expected(database) != set()
    await migrate.downgrade(database, "0002")
    async with database.write() as session:
        await session.execute(text("UPDATE cvms SET status = 'stopped'"))  # no trigger is left
    await database.dispose()


@both
@pytest.mark.parametrize("revision", [f"{number:04}" for number in range(1, int(migrate.head()))])
async def test_a_database_of_each_version_is_brought_to_this_one(
    kind: str, revision: str, tmp_path: Path
) -> None:
    database = open_database(database_url(kind, tmp_path))
    await _filled_at(database, revision)
    await migrate.upgrade(database)
    assert await migrate.current(database) == migrate.head()
    assert await kept(database) == await expected(database) != set()
    async with database.read() as session:
        cvms = (await session.execute(select(Cvm).order_by(Cvm.id))).scalars().all()
        apps = (await session.execute(select(App))).scalars().all()
    assert [(cvm.id, cvm.status) for cvm in cvms] == [(1, "running"), (2, "error")]
    assert [app.name for app in apps] == [make_app(1).name]
    await database.dispose()


async def _filled_at(database: Database, revision: str) -> None:
    """An app with two CVMs, and what they refer to, in the tables of an earlier version."""
    await migrate.upgrade(database, revision)
    async with database.write() as session:
        connection = await session.connection()
        for row in [*inventory(), app := make_app(1), make_cvm(1, app), make_cvm(2, app, status="error")]:
            known = await connection.run_sync(_columns, type(row).__tablename__)
            columns = [one for one in type(row).__table__.columns if one.name in known]
            # A table without what the models of today fill in by themselves.
            before = table(type(row).__tablename__, *(column(one.name, one.type) for one in columns))
            members = {one.name: _value(row, one) for one in columns}
            members = {name: value for name, value in members.items() if value is not None}
            await session.execute(insert(before).values(**members))


def _columns(connection: Connection, name: str) -> set[str]:
    return {found["name"] for found in inspect(connection).get_columns(name)}


def _value(row: Any, of: Any) -> Any:
    value = getattr(row, of.name)
    if value is not None or of.default is None:
        return value
    return of.default.arg(None) if of.default.is_callable else of.default.arg


EACH = [
    AppFilters(), AppFilters(status=("running",)), AppFilters(status=("running", "error")), AppFilters(listed=True),
    AppFilters(base_image="dstack-0.5.4"), AppFilters(instance_type="tdx.small"), AppFilters(kms_slug="kms-base"),
    AppFilters(kms_type="phala"), AppFilters(node="prod5"), AppFilters(region="us-west"), AppFilters(search="app-1"),
    AppFilters(search="0123abcd"), AppFilters(status=("running",), base_image="dstack-0.5.4"),
    AppFilters(instance_type="tdx.small", region="us-west"), AppFilters(node="prod5", base_image="dstack-0.5.4"),
    AppFilters(
        "app-1", ("running",), False, "dstack-0.5.4", "tdx.small", "kms-phala", "phala", "prod5", "us-west"
    ),
]  # fmt: skip


@both
async def test_each_filter_is_served_by_an_index(kind: str, tmp_path: Path) -> None:
    """No statement of a list walks along a whole table that grows with the number of apps."""
    async with filled(kind, tmp_path) as database:
        async with database.write() as session:
            for number in range(1, 41):
                app = make_app(number)
                await add_rows(session, app, make_cvm(number, app))
        found: dict[str, list[str]] = {}
        for filters in EACH:
            found |= {f"{filters}: {s}": plan for s, plan in (await _plans(database, filters)).items()}
        assert len(found) >= len(EACH) * 2
        walked = {statement: plan for statement, plan in found.items() if _walks(kind, plan)}
        assert walked == {}


async def _plans(database: Database, filters: AppFilters) -> dict[str, list[str]]:
    sent: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        if statement.startswith(("SELECT", "WITH")):
            sent.append((statement, parameters))

    engine = database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    async with database.read() as session:
        for offset in (0, 20):
            await list_apps(session, 1, filters, offset=offset, limit=20)
        await filter_options(session, 1)
    event.remove(engine, "before_cursor_execute", note)
    plans = {}
    async with database.engine.connect() as connection:
        words = "EXPLAIN QUERY PLAN " if database.dialect == "sqlite" else "EXPLAIN "
        if database.dialect == "postgresql":
            await connection.execute(text("SET enable_seqscan = off"))  # for 40 rows it would be right
        for statement, parameters in sent:
            rows = (await connection.exec_driver_sql(words + statement, parameters)).all()
            plans[statement] = [str(row[-1]) for row in rows]
    return plans


def _walks(kind: str, plan: list[str]) -> bool:
    tables = ("apps", "cvms", "app_facets", "operations", "compose_files")
    if kind == "sqlite":
        return any(line.split()[:2] == ["SCAN", table] for line in plan for table in tables)
    return any(f"Seq Scan on {table}" in line for line in plan for table in tables)


async def test_sqlite_is_given_statistics(tmp_path: Path) -> None:
    async with filled("sqlite", tmp_path) as database:
        await database.analyze()
        async with database.read() as session:
            found = await session.execute(text("SELECT DISTINCT tbl FROM sqlite_stat1"))
            assert {"nodes", "kms_nodes", "users"} <= set(found.scalars())


@both
async def test_rows_of_several_tables_come_together(kind: str, tmp_path: Path) -> None:
    together = Together([
        Source("images", (OsImage.id, OsImage.name, OsImage.is_dev, OsImage.os_image_hash), OsImage.id),
        Source("rates", (InstanceType.id, InstanceType.hourly_rate), InstanceType.id),
        Source("devices", (NodeDevice.node_id, NodeDevice.os_image_ids), NodeDevice.node_id),
    ])  # fmt: skip
    async with filled(kind, tmp_path) as database, database.read() as session:
        found = await together.fetch(session, {"images": [2, 3], "rates": {"tdx.small"}, "devices": [1, 2]})
        rate = await session.scalar(select(InstanceType.hourly_rate))
        assert {name: sorted(rows) for name, rows in found.items()} == {
            "images": [(2, "dstack-dev-0.5.4", True, None), (3, "dstack-0.5.5", False, None)],
            "rates": [("tdx.small", rate)],
            "devices": [(1, [1, 2])],
        }
        nothing: dict[str, list[int]] = {"images": [], "rates": [], "devices": []}
        assert await together.fetch(session, nothing) == nothing


def test_instants_are_not_read_together() -> None:
    with pytest.raises(TypeError, match="not read together"):
        Together([Source("images", (OsImage.created_at,), OsImage.id)])
