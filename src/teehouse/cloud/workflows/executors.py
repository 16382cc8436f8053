"""Who is alive: an advisory lock of PostgreSQL for each executor (design.md 6).

Rules:

X1. An executor holds the lock of its name on a connection of its own, for as long as it lives. When the process
    dies, the database drops the lock with the connection.
X2. A lock that was lost with its connection (the database was restarted) is taken again.
X3. Whoever takes another's lock knows that it is dead, and holds the lock only while it takes over the work.
X4. What one process alone does at a time, it holds a claim for: a lock by name. All claims of a process are on one
    connection; with that they are lost, and whoever held them finds out by `Claims.alive`.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

_SPACE: Final = "teehouse-executor:"
_CLAIMS: Final = "teehouse-claim:"
_TAKE = text("SELECT pg_advisory_lock(hashtextextended(:name, 0))")
_TRY = text("SELECT pg_try_advisory_lock(hashtextextended(:name, 0))")
_DROP_ALL = text("SELECT pg_advisory_unlock_all()")
_DROP = text("SELECT pg_advisory_unlock(hashtextextended(:name, 0))")


class _Locks:
    """Advisory locks on a connection of their own, and lost with it."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._connection: AsyncConnection | None = None

    async def _stand(self) -> bool:
        """Whether the connection is still there, and with it the locks; where it is not, it is forgotten."""
        if self._connection is None:
            return False
        with suppress(DBAPIError, OSError):
            await self._connection.execute(text("SELECT 1"))
            return True
        await self._leave()
        return False

    async def _let_go(self) -> None:
        """Give all locks back at once, and end the connection."""
        if self._connection is not None:
            with suppress(DBAPIError, OSError):
                await self._connection.execute(_DROP_ALL)
        await self._leave()

    async def _leave(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(DBAPIError, OSError):
                await connection.invalidate()
            with suppress(DBAPIError, OSError):
                await connection.close()


class ExecutorLock(_Locks):
    """The lock of one executor (rules X1 to X3)."""

    def __init__(self, engine: AsyncEngine) -> None:
        super().__init__(engine)
        self._held = False

    async def hold(self, executor_id: str) -> bool:
        """Hold the lock; whether it has been held ever since it was first (rule X2). Raises what the database raises."""
        if await self._stand():
            return True
        connection = await self._engine.connect()
        try:
            connection = await connection.execution_options(isolation_level="AUTOCOMMIT")
            await connection.execute(_TAKE, {"name": _SPACE + executor_id})
        except BaseException:
            await connection.invalidate()
            raise
        self._connection = connection
        first, self._held = not self._held, True
        return first

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
        """Let go at once, and end the connection."""
        await self._let_go()


class Claims(_Locks):
    """What this process alone does at the moment (rule X4)."""

    def __init__(self, engine: AsyncEngine) -> None:
        super().__init__(engine)
        self._turn = asyncio.Lock()  # a connection does one thing at a time

    async def alive(self) -> bool:
        """Whether all that was taken is still held. Nothing is held any more where it is not."""
        async with self._turn:
            return await self._stand()

    async def take(self, name: str) -> bool:
        """Take a claim that is not held already; False where another process has it. Raises what the database raises."""
        async with self._turn:
            if self._connection is None:
                connection = await self._engine.connect()
                self._connection = await connection.execution_options(isolation_level="AUTOCOMMIT")
            try:
                return bool((await self._connection.execute(_TRY, {"name": _CLAIMS + name})).scalar_one())
            except BaseException:
                await self._leave()
                raise

    async def drop(self, name: str) -> None:
        """Give a claim back; one that was lost is given back already."""
        async with self._turn:
            if self._connection is not None:
                with suppress(DBAPIError, OSError):
                    await self._connection.execute(_DROP, {"name": _CLAIMS + name})

    async def close(self) -> None:
        """Give all of them back at once."""
        async with self._turn:
            await self._let_go()
