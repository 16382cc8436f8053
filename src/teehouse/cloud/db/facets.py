"""Which apps have a live CVM with which status, image, instance type, node and region: `app_facets`.

A workspace may have a hundred thousand apps with ten CVMs each. To count the apps of a filter from their CVMs would
take a million entries of an index; here it takes one entry per app, in the order that pages have.

Rules:

1. There is a row for (workspace, kind, value, app) exactly when the app is not deleted and has a live CVM with this
   value. Triggers see to that, whoever writes to `cvms`, `apps` and `nodes`.
2. On SQLite, which has one writer, the triggers act at once.
3. On PostgreSQL they act when the transaction ends, and wait for each other by app: two transactions that change
   two CVMs of one app see each other's change, and hold this lock after all their others, so that they cannot wait
   for one another in a circle. Within a transaction that writes, these rows are as before it.
4. What is kept is derived: `fill` makes it anew. A migration that makes `cvms`, `apps` or `nodes` anew under its
   old name (SQLite drops a table's triggers with it) calls `drop` before and `create` after.
"""

from collections.abc import Iterator
from enum import IntEnum
from typing import Final

from sqlalchemy import Connection

_LOCK: Final = 0x7EE4  # first half of the advisory locks of rule 3; the second is the app's number


class Facet(IntEnum):
    """What a row says of an app. Values of `NODE` are the node's number as text, of `REGION` the node's region."""

    STATUS = 1
    BASE_IMAGE = 2
    INSTANCE_TYPE = 3
    NODE = 4
    REGION = 5


_COLUMNS: Final = {
    Facet.STATUS: "status",
    Facet.BASE_IMAGE: "base_image",
    Facet.INSTANCE_TYPE: "instance_type",
    Facet.NODE: "node_id",
}
_WATCHED: Final = (*_COLUMNS.values(), "deleted_at")
_INTO: Final = "INSERT INTO app_facets (workspace_id, kind, value, app_record_id)"
_TRIGGERS: Final = {
    "cvms_facets_insert": "cvms",
    "cvms_facets_update": "cvms",
    "cvms_facets_delete": "cvms",
    "apps_facets_update": "apps",
    "nodes_facets_update": "nodes",
}


def create(connection: Connection) -> None:
    """Make the triggers. The tables exist already."""
    for statement in _sqlite() if connection.dialect.name == "sqlite" else _postgres():
        connection.exec_driver_sql(statement)


def drop(connection: Connection) -> None:
    """Drop the triggers."""
    for name, table in _TRIGGERS.items():
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql(f"DROP TRIGGER {name}")
        else:
            connection.exec_driver_sql(f"DROP TRIGGER {name} ON {table}")
            connection.exec_driver_sql(f"DROP FUNCTION {name}()")


def fill(connection: Connection) -> None:
    """Make the rows anew from the CVMs that there are."""
    connection.exec_driver_sql("DELETE FROM app_facets")
    connection.exec_driver_sql(f"{_INTO} {_held('c.deleted_at IS NULL')}")


def _value(kind: Facet, row: str) -> str:
    """SQL for the value that a CVM's row has."""
    if kind is Facet.NODE:
        return f"CAST({row}.node_id AS VARCHAR(128))"
    if kind is Facet.REGION:
        return f"(SELECT n.region FROM nodes n WHERE n.id = {row}.node_id)"  # noqa: S608 - names of ours, no input
    return f"{row}.{_COLUMNS[kind]}"


def _held(condition: str) -> str:
    """SQL for the rows that there should be for the CVMs `c` of this condition, of apps that are not deleted."""
    sources = (
        f"SELECT c.workspace_id, {kind:d} AS kind, {_value(kind, 'c')} AS value, c.app_record_id FROM cvms c"  # noqa: S608 - as above
        f" JOIN apps a ON a.id = c.app_record_id AND a.deleted_at IS NULL WHERE {condition}"
        for kind in Facet
    )
    # UNION leaves one of each.
    return f"SELECT * FROM ({' UNION '.join(sources)}) AS held WHERE value IS NOT NULL"  # noqa: S608 - as above


def _add(row: str) -> Iterator[str]:
    """SQL to add what the trigger's row, a live CVM, has."""
    values = " UNION ALL ".join(f"SELECT {kind:d} AS kind, {_value(kind, row)} AS value" for kind in Facet)
    yield (
        f"{_INTO} SELECT {row}.workspace_id, v.kind, v.value, {row}.app_record_id FROM ({values}) AS v"  # noqa: S608 - as above
        f" WHERE v.value IS NOT NULL AND {row}.deleted_at IS NULL AND EXISTS"
        f" (SELECT 1 FROM apps WHERE id = {row}.app_record_id AND deleted_at IS NULL) ON CONFLICT DO NOTHING"
    )


def _take_away(row: str) -> Iterator[str]:
    """SQL to take away what the trigger's row had and no live CVM of the app has now."""
    for kind in Facet:
        has = (
            f"{_COLUMNS[kind]} = {row}.{_COLUMNS[kind]}" if kind in _COLUMNS else _in_region(f"{row}.node_id")
        )
        yield (
            f"DELETE FROM app_facets WHERE workspace_id = {row}.workspace_id AND kind = {kind:d}"  # noqa: S608 - as above
            f" AND value = {_value(kind, row)} AND app_record_id = {row}.app_record_id AND NOT EXISTS"
            f" (SELECT 1 FROM cvms WHERE app_record_id = {row}.app_record_id AND deleted_at IS NULL AND {has})"
        )


def _in_region(node: str) -> str:
    return f"node_id IN (SELECT m.id FROM nodes n JOIN nodes m ON m.region = n.region WHERE n.id = {node})"  # noqa: S608 - as above


def _revive() -> Iterator[str]:
    """SQL for an app that came to be deleted, or deployed again."""
    held = _held("c.app_record_id = new.id AND c.deleted_at IS NULL")
    yield f"{_INTO} {held} ON CONFLICT DO NOTHING"
    live = "FROM cvms c WHERE c.app_record_id = new.id AND c.deleted_at IS NULL"
    values = " UNION ".join(f"SELECT {kind:d}, {_value(kind, 'c')} {live}" for kind in Facet)
    yield (
        "DELETE FROM app_facets WHERE new.deleted_at IS NOT NULL AND workspace_id = new.workspace_id"  # noqa: S608 - as above
        f" AND app_record_id = new.id AND (kind, value) IN ({values})"
    )


def _move() -> Iterator[str]:
    """SQL for a node that is in another region than before: the new one for its apps, the old one where no more."""
    here = "SELECT app_record_id FROM cvms WHERE node_id = new.id AND deleted_at IS NULL"
    there = "SELECT 1 FROM cvms c JOIN nodes n ON n.id = c.node_id WHERE c.deleted_at IS NULL AND n.region"
    yield (
        f"{_INTO} SELECT DISTINCT c.workspace_id, {Facet.REGION:d}, new.region, c.app_record_id FROM cvms c"  # noqa: S608 - as above
        " JOIN apps a ON a.id = c.app_record_id AND a.deleted_at IS NULL WHERE c.node_id = new.id"
        " AND c.deleted_at IS NULL ON CONFLICT DO NOTHING"
    )
    yield (
        f"DELETE FROM app_facets WHERE kind = {Facet.REGION:d} AND value = old.region"  # noqa: S608 - as above
        f" AND app_record_id IN ({here}) AND NOT EXISTS"
        f" ({there} = old.region AND c.app_record_id = app_facets.app_record_id)"
    )


def _differs(columns: tuple[str, ...], words: str) -> str:
    return " OR ".join(f"old.{column} {words} new.{column}" for column in columns)


def _sqlite() -> Iterator[str]:
    """Rule 2."""

    def trigger(name: str, when: str, body: Iterator[str], condition: str) -> str:
        return f"CREATE TRIGGER {name} AFTER {when} WHEN {condition} BEGIN {'; '.join(body)}; END"

    changed = f"UPDATE OF {', '.join(_WATCHED)} ON cvms"
    yield trigger("cvms_facets_insert", "INSERT ON cvms", _add("new"), "new.deleted_at IS NULL")
    yield trigger(
        "cvms_facets_update",
        changed,
        iter([*_add("new"), *_take_away("old")]),
        _differs(_WATCHED, "IS NOT"),
    )
    yield trigger("cvms_facets_delete", "DELETE ON cvms", _take_away("old"), "old.deleted_at IS NULL")
    yield trigger(
        "apps_facets_update",
        "UPDATE OF deleted_at ON apps",
        _revive(),
        "(old.deleted_at IS NULL) <> (new.deleted_at IS NULL)",
    )
    yield trigger("nodes_facets_update", "UPDATE OF region ON nodes", _move(), "old.region <> new.region")


def _postgres() -> Iterator[str]:
    """Rule 3."""

    def trigger(name: str, when: str, body: Iterator[str], condition: str, apps: str) -> Iterator[str]:
        lock = (
            f"PERFORM pg_advisory_xact_lock({_LOCK}, mod(app, 2147483647)::integer) FROM ({apps}) AS changed"
        )
        statements = "; ".join([lock, *body])
        yield (
            f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS"
            f" $$ BEGIN {statements}; RETURN NULL; END $$"
        )
        yield (
            f"CREATE CONSTRAINT TRIGGER {name} AFTER {when} DEFERRABLE INITIALLY DEFERRED"
            f" FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION {name}()"
        )

    differs = "IS DISTINCT FROM"
    yield from trigger(
        "cvms_facets_insert",
        "INSERT ON cvms",
        _add("new"),
        "new.deleted_at IS NULL",
        "SELECT new.app_record_id AS app",
    )
    yield from trigger(
        "cvms_facets_update",
        f"UPDATE OF {', '.join(_WATCHED)} ON cvms",
        iter([*_add("new"), *_take_away("old")]),
        _differs(_WATCHED, differs),
        "SELECT new.app_record_id AS app",
    )
    yield from trigger(
        "cvms_facets_delete",
        "DELETE ON cvms",
        _take_away("old"),
        "old.deleted_at IS NULL",
        "SELECT old.app_record_id AS app",
    )
    yield from trigger(
        "apps_facets_update",
        "UPDATE OF deleted_at ON apps",
        _revive(),
        "(old.deleted_at IS NULL) <> (new.deleted_at IS NULL)",
        "SELECT new.id AS app",
    )
    yield from trigger(
        "nodes_facets_update",
        "UPDATE OF region ON nodes",
        _move(),
        "old.region <> new.region",
        "SELECT DISTINCT app_record_id AS app FROM cvms WHERE node_id = new.id AND deleted_at IS NULL ORDER BY 1",
    )
