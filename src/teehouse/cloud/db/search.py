"""Search for a part of an app's name, served by an index on both databases.

Rules:

1. SQLite keeps the trigrams of all names in a full-text table beside `apps`, kept by triggers; PostgreSQL has a
   trigram index (extension pg_trgm), or, where the extension cannot be made, the plain index of names.
2. The search is for the text itself, without regard to case: its wildcards are no wildcards.
3. A text shorter than a trigram cannot be looked up in trigrams; it is matched along the names of the workspace.
"""

from typing import Final

from sqlalchemy import ColumnElement, Connection, column, func, select, table, text

from teehouse.cloud.apps.models import App

TRIGRAM: Final = 3

SQLITE_CREATE: Final = (
    "CREATE VIRTUAL TABLE apps_fts USING fts5(name, content='apps', content_rowid='id', tokenize='trigram')",
    """CREATE TRIGGER apps_fts_insert AFTER INSERT ON apps BEGIN
        INSERT INTO apps_fts(rowid, name) VALUES (new.id, new.name); END""",
    """CREATE TRIGGER apps_fts_delete AFTER DELETE ON apps BEGIN
        INSERT INTO apps_fts(apps_fts, rowid, name) VALUES ('delete', old.id, old.name); END""",
    """CREATE TRIGGER apps_fts_update AFTER UPDATE OF name ON apps BEGIN
        INSERT INTO apps_fts(apps_fts, rowid, name) VALUES ('delete', old.id, old.name);
        INSERT INTO apps_fts(rowid, name) VALUES (new.id, new.name); END""",
)
SQLITE_DROP: Final = (
    "DROP TRIGGER apps_fts_insert",
    "DROP TRIGGER apps_fts_delete",
    "DROP TRIGGER apps_fts_update",
    "DROP TABLE apps_fts",
)
POSTGRES_INDEX: Final = "ix_apps_name_trigrams"


def create_index(connection: Connection) -> None:
    """Make what rule 1 says. `apps` exists already."""
    if connection.dialect.name == "sqlite":
        for statement in SQLITE_CREATE:
            connection.exec_driver_sql(statement)
        return
    known = "SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_trgm'"
    if connection.exec_driver_sql(known).scalar_one():
        connection.exec_driver_sql("CREATE EXTENSION IF NOT EXISTS pg_trgm")
        connection.exec_driver_sql(f"CREATE INDEX {POSTGRES_INDEX} ON apps USING gin (name gin_trgm_ops)")


def drop_index(connection: Connection) -> None:
    """Undo `create_index`."""
    statements = (
        SQLITE_DROP if connection.dialect.name == "sqlite" else (f"DROP INDEX IF EXISTS {POSTGRES_INDEX}",)
    )
    for statement in statements:
        connection.exec_driver_sql(statement)


def name_contains(dialect: str, wanted: str) -> ColumnElement[bool]:
    """The condition that an app's name contains `wanted` (rules 2, 3). `dialect` is `Database.dialect`."""
    if dialect == "sqlite" and len(wanted) >= TRIGRAM:
        phrase = '"' + wanted.replace('"', '""') + '"'
        names = table("apps_fts", column("rowid"))
        return App.id.in_(
            select(names.c.rowid).where(text("apps_fts MATCH :phrase").bindparams(phrase=phrase))
        )
    return name_compared(dialect, wanted)


def name_compared(dialect: str, wanted: str) -> ColumnElement[bool]:
    """The same condition, by looking at each name: for where something else leaves few of them."""
    escaped = wanted.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    if dialect == "postgresql":
        return App.name.ilike(f"%{escaped}%", escape="\\")
    return func.lower(App.name).like(f"%{escaped.lower()}%", escape="\\")
