"""Operations that one process writes and another carries on: how workers hear of them at once.

Rules:

N1. What is to be done stands in the database before it is announced. An announcement only saves time: one that is
    lost is made up for by the workers' `sweep`.
N2. All workers hear of an operation, and each begins it under the same workflow id: the first to write that down
    carries it on.
N3. Announcements need PostgreSQL, and a connection of a session's own: no pool of statements in between.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, cast

import psycopg
import structlog
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from teehouse.cloud.db.engine import Database
from teehouse.cloud.parts import CloudParts
from teehouse.cloud.workflows.following import in_background

CHANNEL: Final = "teehouse_operations"
PAUSE: Final = 2.0  # seconds before a connection that was lost is made anew
ALIVE: Final = 15.0  # seconds without an announcement, after which the connection is looked at
_TELL = text("SELECT pg_notify(:channel, :operation)")

_log = structlog.get_logger(__name__)

Begin = Callable[[int], Awaitable[None]]


class AnnouncedWorkflows:
    """`Workflows` of a process that carries nothing on itself (rules N1, N3)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def launch(self) -> None:
        """Nothing to do."""

    async def start(self, operation_id: int) -> None:
        try:
            async with self._database.write() as session:
                await session.execute(_TELL, {"channel": CHANNEL, "operation": str(operation_id)})
        except (SQLAlchemyError, OSError) as error:
            _log.warning("operation not announced", operation=operation_id, reason=type(error).__name__)

    async def sweep(self) -> int:
        return 0

    async def close(self) -> None:
        """Nothing to do."""


async def listen(database: Database, begin: Begin, *, pause: float = PAUSE, alive: float = ALIVE) -> None:
    """Begin what is announced (rule N2), until cancelled."""
    while True:
        try:
            await _listen(database, begin, alive)
        except (SQLAlchemyError, psycopg.Error, OSError) as error:
            _log.warning("announcements not heard", reason=type(error).__name__)
        await asyncio.sleep(pause)


@asynccontextmanager
async def hearing(parts: CloudParts) -> AsyncIterator[None]:
    """A lifespan for workers, within that of the workflows."""
    life = parts.lifecycle
    if life is None or life.database.dialect != "postgresql":
        yield
        return
    async with in_background(listen(life.database, life.workflows.start)):
        yield


async def _listen(database: Database, begin: Begin, alive: float) -> None:
    connection = await database.engine.connect()
    try:
        connection = await connection.execution_options(isolation_level="AUTOCOMMIT")
        raw = cast("psycopg.AsyncConnection[Any]", (await connection.get_raw_connection()).driver_connection)
        await raw.execute(f"LISTEN {CHANNEL}")
        while True:
            async for notice in raw.notifies(timeout=alive):
                if notice.payload.isdecimal():
                    await _begin(begin, int(notice.payload))
            await raw.execute("SELECT 1")
    finally:
        with suppress(DBAPIError, OSError):
            await connection.invalidate()  # it listens: nobody else may have it
        with suppress(DBAPIError, OSError):
            await connection.close()


async def _begin(begin: Begin, operation_id: int) -> None:
    """Rule N1: what fails here, whatever it is, is begun by the next sweep."""
    try:
        await begin(operation_id)
    except Exception as error:  # noqa: BLE001 - the engine's own faults are of many kinds
        _log.warning("operation not begun", operation=operation_id, reason=type(error).__name__)
