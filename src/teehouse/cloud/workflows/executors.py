"""Who is alive: an advisory lock of PostgreSQL for each executor (design.md 6).

Rules:

X1. An executor holds the lock of its name on a connection of its own, for as long as it lives. When the process
    dies, the database drops the lock with the connection.
X2. A lock that was lost with its connection (the database was restarted) is taken again.
X3. Whoever takes another's lock knows that it is dead, and holds the lock only while it takes over the work.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

_SPACE: Final = "teehouse-executor:"
_TAKE = text("SELECT pg_advisory_lock(hashtextextended(:name, 0))")
_TRY = text("SELECT pg_try_advisory_lock(hashtextextended(:name, 0))")
_DROP = text("SELECT pg_advisory_unlock(hashtextextended(:name, 0))")


class ExecutorLock:
    """The lock of one executor (rules X1 to X3)."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._connection: AsyncConnection | None = None

    async def hold(self, executor_id: str) -> None:
        """Hold the lock, if it is not held already. Raises what the database raises."""
        if self._connection is not None:
            with suppress(DBAPIError, OSError):
                await self._connection.execute(text("SELECT 1"))
                return
            await self.release()
        connection = await self._engine.connect()
        try:
            connection = await connection.execution_options(isolation_level="AUTOCOMMIT")
            await connection.execute(_TAKE, {"name": _SPACE + executor_id})
        except BaseException:
            await connection.invalidate()
            raise
        self._connection = connection

    @asynccontextmanager
    async def try_take(self, executor_id: str) -> AsyncIterator[bool]:
        """Another executor's lock, for the block; False when that one is alive."""
        if self._connection is None:
            yield False
            return
        name = {"name": _SPACE + executor_id}
        taken = bool((await self._connection.execute(_TRY, name)).scalar_one())
        try:
            yield taken
        finally:
            if taken:
                await self._connection.execute(_DROP, name)

    async def release(self) -> None:
        """Let go, by ending the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(DBAPIError, OSError):
                await connection.invalidate()
            with suppress(DBAPIError, OSError):
                await connection.close()
