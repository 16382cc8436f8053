"""Migrations: from an empty database, and from each released one, to the tables of this version.

Rules:

1. Several processes may start at once: on PostgreSQL they wait for each other on an advisory lock, on SQLite on the
   write lock. Each then finds what is left to do.
2. A migration is all or nothing; both databases alter tables inside transactions.
3. A database that is newer than the program is refused: an older program would not understand what is in it.
4. A replica among several changes no tables: it serves a database that is at its own version (`check`), and whoever
   installs the version brings it there.
"""

from pathlib import Path
from typing import Any, Final

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text

from teehouse.base.findings import misuse
from teehouse.cloud.db.engine import Database

_LOCK: Final = 0x7EE40053  # the advisory lock of rule 1
_FOREIGN: Final = ("apps_fts",)  # the full-text table and its parts, made by `teehouse.cloud.db.search`


def is_ours(_item: Any, name: str | None, kind: str, reflected: bool, _other: Any) -> bool:
    """Whether Alembic should compare this object: what is in the database alone may belong to others (DBOS)."""
    if kind == "table" and reflected:
        return name is not None and _known(name)
    return not (kind == "index" and reflected and name == "ix_apps_name_trigrams")


def _known(name: str) -> bool:
    from teehouse.cloud.db.tables import metadata  # noqa: PLC0415 - env.py imports this module first

    return name in metadata.tables and not name.startswith(_FOREIGN)


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    config.attributes["connection"] = connection
    return config


def head() -> str:
    """The newest migration that this program knows."""
    found = ScriptDirectory.from_config(_config()).get_current_head()
    if found is None:
        raise RuntimeError("a distribution without migrations")
    return found


async def upgrade(database: Database, revision: str = "head") -> None:
    """Bring the database to `revision`. Raises `MisuseError` (rule 3)."""

    def run(connection: Connection) -> None:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        try:
            command.upgrade(_config(connection), revision)
        except CommandError as error:
            raise _newer(MigrationContext.configure(connection).get_current_revision()) from error

    async with database.write() as session:
        await (await session.connection()).run_sync(run)
    await database.analyze()


async def check(database: Database) -> None:
    """See that the database is at this version's tables (rule 4). Raises `MisuseError`, and what the database raises."""
    found = await current(database)
    if found == head():
        return
    if found is not None and found not in _revisions():
        raise _newer(found)
    raise misuse(
        "cloud.database-empty" if found is None else "cloud.database-behind",
        "the database does not have the tables of this version",
        expected=f"migration {head()}",
        found="no tables" if found is None else f"migration {found}",
        remedy="run `teehouse cloud init` once, with the same database",
    )


def _revisions() -> frozenset[str]:
    return frozenset(script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions())


def _newer(found: str | None) -> Exception:
    return misuse(
        "cloud.database-newer",
        "the database was written by another version of this program",
        expected=f"a migration up to {head()}",
        found=str(found),
        remedy="run the version that the database belongs to, or restore a copy",
    )


async def downgrade(database: Database, revision: str) -> None:
    """Take the database back to `revision`, `base` for empty. What the migration made is lost."""
    async with database.write() as session:
        await (await session.connection()).run_sync(lambda c: command.downgrade(_config(c), revision))


async def current(database: Database) -> str | None:
    """The migration that the database is at; None for an empty one."""

    def look(connection: Connection) -> str | None:
        return MigrationContext.configure(connection).get_current_revision()

    async with database.read() as session:
        return await (await session.connection()).run_sync(look)
