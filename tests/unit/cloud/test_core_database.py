"""The database: migrations, units of work, the search (rules of `teehouse.cloud.db`)."""

import asyncio
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, inspect, select, text
from sqlalchemy.exc import IntegrityError, StatementError

from support.cloud_core_support import KINDS, NOW, database_url, migrated_url
from support.cloud_inventory_support import add_inventory, add_user, add_workspace
from teehouse.base.findings import MisuseError
from teehouse.cloud.accounts.models import User, Workspace
from teehouse.cloud.apps.models import App
from teehouse.cloud.db import migrate
from teehouse.cloud.db.engine import Database, open_database
from teehouse.cloud.db.search import name_contains
from teehouse.cloud.db.tables import metadata

both = pytest.mark.parametrize("kind", KINDS)


def _tables(connection: Connection) -> set[str]:
    return set(inspect(connection).get_table_names())


async def _names(database: Database) -> set[str]:
    async with database.read() as session:
        return await (await session.connection()).run_sync(_tables)


@both
async def test_from_an_empty_database_and_back(kind: str, tmp_path: Path) -> None:
    database = open_database(database_url(kind, tmp_path))
    assert await migrate.current(database) is None
    await migrate.upgrade(database)
    await migrate.upgrade(database)
    assert await migrate.current(database) == migrate.head()
    assert set(metadata.tables) <= await _names(database)
    await migrate.downgrade(database, "base")
    assert await _names(database) == {"alembic_version"}
    await migrate.upgrade(database)
    await database.dispose()


@both
async def test_the_tables_are_those_of_the_models(kind: str, tmp_path: Path) -> None:
    database = open_database(await migrated_url(kind, tmp_path))

    def differences(connection: Connection) -> list[object]:
        options = {"include_object": migrate.is_ours, "compare_type": True}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))

    async with database.read() as session:
        assert await (await session.connection()).run_sync(differences) == []
    await database.dispose()


@both
async def test_tables_of_others_are_left_alone(kind: str, tmp_path: Path) -> None:
    database = open_database(database_url(kind, tmp_path))
    async with database.write() as session:
        await session.execute(text("CREATE TABLE theirs (id integer)"))
    await migrate.upgrade(database)
    assert "theirs" in await _names(database)
    await database.dispose()


@both
async def test_several_processes_migrate_at_once(kind: str, tmp_path: Path) -> None:
    url = database_url(kind, tmp_path)
    databases = [open_database(url) for _ in range(4)]
    await asyncio.gather(*(migrate.upgrade(database) for database in databases))
    assert await migrate.current(databases[0]) == migrate.head()
    for database in databases:
        await database.dispose()


@both
async def test_a_newer_database_is_refused(kind: str, tmp_path: Path) -> None:
    database = open_database(await migrated_url(kind, tmp_path))
    async with database.write() as session:
        await session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(MisuseError) as caught:
        await migrate.upgrade(database)
    assert (caught.value.finding.code, caught.value.finding.found) == ("cloud.database-newer", "9999")
    await database.dispose()


@both
async def test_a_unit_of_work_is_kept_or_never_was(kind: str, tmp_path: Path) -> None:
    database = open_database(await migrated_url(kind, tmp_path))

    async def half() -> None:
        async with database.write() as session:
            await add_workspace(session, "gone")
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        await half()
    async with database.write() as session:
        await add_workspace(session, "kept")
    async with database.read() as session:
        session.add(Workspace(slug="read", name="x", created_at=NOW))
        await session.flush()
    async with database.read() as session:
        assert list(await session.scalars(select(Workspace.slug))) == ["kept"]
    await database.dispose()


@both
async def test_writers_at_once_lose_nothing(kind: str, tmp_path: Path) -> None:
    url = await migrated_url(kind, tmp_path)
    databases = [open_database(url) for _ in range(2)]  # as two processes
    async with databases[0].write() as session:
        number = (await add_workspace(session)).id

    async def add_one(database: Database) -> None:
        async with database.write() as session:
            row = await session.get_one(Workspace, number, with_for_update=True)
            row.next_nonce += 1

    await asyncio.gather(*(add_one(databases[turn % 2]) for turn in range(40)))
    async with databases[0].read() as session:
        assert (await session.get_one(Workspace, number)).next_nonce == 40
    for database in databases:
        await database.dispose()


@both
async def test_references_hold(kind: str, tmp_path: Path) -> None:
    database = open_database(await migrated_url(kind, tmp_path))
    with pytest.raises(IntegrityError):
        async with database.write() as session:
            await session.execute(text("INSERT INTO quotas (workspace_id) VALUES (4711)"))
    await database.dispose()


@both
async def test_instants_come_back_in_utc(kind: str, tmp_path: Path) -> None:
    database = open_database(await migrated_url(kind, tmp_path))
    there = datetime(2026, 6, 23, 14, 0, 0, 123456, timezone(timedelta(hours=2)))
    async with database.write() as session:
        session.add(User(username="a", email="a@b", created_at=there))
    async with database.read() as session:
        found = (await session.scalars(select(User.created_at))).one()
        assert list(await session.scalars(select(User.id).where(User.created_at == there))) == [1]
    assert (found, found.tzinfo) == (datetime(2026, 6, 23, 12, 0, 0, 123456, UTC), UTC)
    with pytest.raises(StatementError, match="without a time zone"):
        async with database.write() as session:
            session.add(User(username="b", email="b@b", created_at=datetime(2026, 1, 1)))  # noqa: DTZ001 - the point
    await database.dispose()


async def test_sqlite_is_set_as_it_should_be(tmp_path: Path) -> None:
    database = open_database(await migrated_url("sqlite", tmp_path))
    async with database.read() as session:
        found = {
            name: (await session.execute(text(f"PRAGMA {name}"))).scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 15000}
    await database.dispose()


async def test_readers_do_not_wait_for_the_writer(tmp_path: Path) -> None:
    database = open_database(await migrated_url("sqlite", tmp_path))
    async with database.write() as session:
        await add_workspace(session, "new")
        async with database.read() as reader:
            assert list(await reader.scalars(select(Workspace.slug))) == []
    await database.dispose()


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("mysql://x", "mysql"),
        ("nonsense", "unreadable text"),
        ("sqlite://", "a database in memory, which each connection would have for itself"),
        ("sqlite:///:memory:", "a database in memory, which each connection would have for itself"),
    ],
)
def test_urls_that_are_refused(url: str, found: str) -> None:
    with pytest.raises(MisuseError) as caught:
        open_database(url)
    assert caught.value.finding.found == found


def test_a_password_is_not_repeated() -> None:
    with pytest.raises(MisuseError) as caught:
        open_database("mysql://user:hunter2@host/x")
    assert "hunter2" not in str(caught.value)


NAMES = ["My-App", "my-app-2", "other", "per%cent", "under_score", 'quo"te', "back\\slash", "Grüße-app"]


@both
@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("my-app", ["My-App", "my-app-2"]),
        ("APP", ["My-App", "my-app-2", "Grüße-app"]),
        ("pp", ["My-App", "my-app-2", "Grüße-app"]),
        ("-2", ["my-app-2"]),
        ("r%c", ["per%cent"]),
        ("%", ["per%cent"]),
        ("_", ["under_score"]),
        ("r_s", ["under_score"]),
        ("___", []),
        ('o"t', ['quo"te']),
        ("k\\s", ["back\\slash"]),
        ("\\", ["back\\slash"]),
        ("grüße", ["Grüße-app"]),
        ("OR NOT", []),
        ("* OR", []),
        ("nothing like it", []),
    ],
)
async def test_the_search_finds_parts_of_names(
    kind: str, wanted: str, found: list[str], tmp_path: Path
) -> None:
    database = open_database(await migrated_url(kind, tmp_path))
    async with database.write() as session:
        workspace, user = await add_workspace(session), await add_user(session)
        _, kms = await add_inventory(session)
        session.add_all(
            App(
                workspace_id=workspace.id,
                creator_id=user.id,
                app_id=f"{number:040x}",
                name=name,
                kms_id=kms.id,
                kms_type="phala",
                created_at=NOW,
                updated_at=NOW,
            )
            for number, name in enumerate(NAMES)
        )
    async with database.read() as session:
        rows = await session.scalars(
            select(App.name).where(name_contains(database.dialect, wanted)).order_by(App.id)
        )
        assert list(rows) == found
    await database.dispose()


async def test_the_search_follows_changes_of_names(tmp_path: Path) -> None:
    database = open_database(await migrated_url("sqlite", tmp_path))
    async with database.write() as session:
        workspace, user = await add_workspace(session), await add_user(session)
        _, kms = await add_inventory(session)
        app = App(
            workspace_id=workspace.id,
            creator_id=user.id,
            app_id="0" * 40,
            name="before",
            kms_id=kms.id,
            kms_type="phala",
            created_at=NOW,
            updated_at=NOW,
        )
        session.add(app)
        await session.flush()
        app.name = "after"

    async def found(wanted: str) -> list[str]:
        async with database.read() as session:
            return list(await session.scalars(select(App.name).where(name_contains("sqlite", wanted))))

    assert (await found("before"), await found("after")) == ([], ["after"])
    async with database.write() as session:
        await session.execute(text("DELETE FROM apps"))
    assert await found("after") == []
    await database.dispose()


async def test_units_of_work_do_not_nest_on_sqlite(tmp_path: Path) -> None:
    database = open_database(await migrated_url("sqlite", tmp_path))

    async def nested() -> None:
        async with database.write(), database.write():
            pass

    with pytest.raises(RuntimeError, match="within"):
        await nested()
    async with database.write() as session:
        await add_workspace(session)
    await database.dispose()
