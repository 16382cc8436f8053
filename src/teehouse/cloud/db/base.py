"""What all tables have in common: naming, column types, UTC times.

Rules:

1. Times are UTC with a time zone, in PostgreSQL as `timestamptz`, in SQLite as text without zone.
2. Record ids are integers, handed out by the database; `teehouse.cloud.ids` turns them into the opaque ids of
   cloud-api.md 8, so that no second column and no second index is needed for these.
3. Identifiers in hex are kept as lower-case text without `0x` and compared byte by byte (collation C), so that
   their index also serves a search by prefix.
4. Rows are bound to a workspace by a column of their own, not through a join: every query can say it.
5. Relationships never load by themselves (`lazy="raise"`): what a query needs, it names, and the number of
   statements does not grow with the rows.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, Integer, LargeBinary, MetaData, String, Text
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.types import TypeDecorator, TypeEngine

NAMING: Final = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}


class UtcDateTime(TypeDecorator[datetime]):
    """An instant (rule 1). Refuses one without a time zone."""

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(TIMESTAMP(timezone=True))
        return dialect.type_descriptor(DateTime())

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("an instant without a time zone")
        value = value.astimezone(UTC)
        return value if dialect.name == "postgresql" else value.replace(tzinfo=None)

    def result_processor(
        self,
        dialect: Dialect,
        coltype: object,  # noqa: ARG002 - SQLAlchemy passes it by name or position
    ) -> Callable[[Any], datetime | None]:
        """In one step from what the driver gives: a page may have thousands of instants."""
        return _from_postgresql if dialect.name == "postgresql" else _from_sqlite


def _from_postgresql(value: datetime | None) -> datetime | None:
    return None if value is None else value.astimezone(UTC)


def _from_sqlite(value: str | None) -> datetime | None:
    return None if value is None else datetime.fromisoformat(value).replace(tzinfo=UTC)


def hex_text(digits: int) -> String:
    """Text of so many hex digits, or less, compared byte by byte (rule 3)."""
    return String(digits).with_variant(String(digits, collation="C"), "postgresql")


# SQLite hands out row ids for a column declared INTEGER only.
BigKey: Final = BigInteger().with_variant(Integer(), "sqlite")
JsonColumn: Final = JSON().with_variant(JSONB(), "postgresql")


class Base(DeclarativeBase):
    """The declarative base of all tables."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {  # noqa: RUF012 - the name and form SQLAlchemy reads
        datetime: UtcDateTime(),
        str: Text(),
        bytes: LargeBinary(),
        dict[str, Any]: JsonColumn,
        list[str]: JsonColumn,
        list[dict[str, Any]]: JsonColumn,
    }
