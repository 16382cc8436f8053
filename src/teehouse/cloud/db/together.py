"""Rows of several tables, by their keys, in one statement.

A list refers to a few rows each of half a dozen small tables. A statement for each takes longer to send, run and
read than its rows are worth; here all come as text, under the name of their source.

Rules:

1. The statement is the same text each time but for the number of keys: it is built once.
2. Values come back as the column's Python type. Columns are integers, booleans, text, decimals or JSON.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import JSON, Boolean, Integer, Numeric, String, TextClause, bindparam, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.types import TypeEngine

_TRUE: Final = frozenset({"1", "true"})  # as SQLite and PostgreSQL write it


@dataclass(frozen=True, slots=True)
class Source:
    """Columns of a table, of the rows whose `key` is wanted; `joined` is SQL after the table's name."""

    name: str
    columns: tuple[InstrumentedAttribute[Any], ...]
    key: InstrumentedAttribute[Any]
    joined: str = ""


class Together:
    """Sources that are read together."""

    def __init__(self, sources: Sequence[Source]) -> None:
        width = max(len(source.columns) for source in sources)
        parts = [_select(source, width) for source in sorted(sources, key=lambda one: -len(one.columns))]
        keys = [bindparam(source.name, type_=source.key.type, expanding=True) for source in sources]
        self._statement: TextClause = text(" UNION ALL ".join(parts)).bindparams(*keys)
        self._decoders = {
            source.name: tuple(_decoder(column.type) for column in source.columns) for source in sources
        }

    async def fetch(
        self, session: AsyncSession, wanted: Mapping[str, Iterable[Any]]
    ) -> dict[str, list[tuple[Any, ...]]]:
        """The rows of each source with these keys, in no order."""
        keys = {name: list(wanted[name]) for name in self._decoders}
        found: dict[str, list[tuple[Any, ...]]] = {name: [] for name in self._decoders}
        connection = await session.connection()
        for name, *values in (await connection.execute(self._statement, keys)).all():
            found[name].append(
                tuple(
                    value if value is None or decode is None else decode(value)
                    for value, decode in zip(values, self._decoders[name], strict=False)
                )
            )
        return found


def _select(source: Source, width: int) -> str:
    columns = [f"CAST({column.class_.__tablename__}.{column.key} AS TEXT)" for column in source.columns]
    columns += ["NULL"] * (width - len(columns))
    table = source.key.class_.__tablename__
    return (
        f"SELECT '{source.name}', {', '.join(columns)} FROM {table}{source.joined}"  # noqa: S608 - names of ours
        f" WHERE {table}.{source.key.key} IN :{source.name}"
    )


def _decoder(kind: TypeEngine[Any]) -> Callable[[str], Any] | None:
    """From the text of a value. Raises TypeError for a type that is not of rule 2."""
    if isinstance(kind, Boolean):
        return _TRUE.__contains__
    if isinstance(kind, Integer):
        return int
    if isinstance(kind, Numeric):
        return Decimal
    if isinstance(kind, JSON):
        return json.loads
    if isinstance(kind, String):
        return None
    raise TypeError(f"values of {kind!r} are not read together")
