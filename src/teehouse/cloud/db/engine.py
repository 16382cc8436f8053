"""The database: how it is opened, read from and written to.

Rules:

1. All work goes through `Database.read` or `Database.write`: one session, one transaction, ended with the block. A
   write that returns is committed; one that raises has not happened.
2. SQLite has one writer. In a process, writers wait for each other in line instead of meeting in the database; a
   write begins as `BEGIN IMMEDIATE`, so it never finds out halfway that another process was faster.
3. SQLite runs in WAL mode, where readers do not wait for the writer, with foreign keys on and `synchronous=FULL`:
   what was acknowledged is on the disk.
4. PostgreSQL gets the default isolation, READ COMMITTED. Whoever needs more says so with a guarded UPDATE, a
   unique index or `FOR UPDATE`, which mean the same on both.
5. SQLite is given statistics when it is opened and every now and then (`Database.analyze`): without them it takes
   an index that gives the order for one that finds the rows. PostgreSQL sees to that itself; its compiler of
   expressions, which takes longer than our statements, is off.
6. A machine that is gone is noticed on both sides of a connection to PostgreSQL within half a minute: the locks that
   its sessions held are free then.
7. A database that does not answer is HTTP 503 at the edge (`teehouse.cloud.http.faults`), never a wrong answer.
"""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from teehouse.base.findings import misuse

BUSY_TIMEOUT: Final = 15_000  # milliseconds that a writer of another process is waited for
POOL_TIMEOUT: Final = 10.0  # seconds that a request waits for a connection
RECYCLE: Final = 900  # seconds that a connection to SQLite is used: a new one sees the newest statistics
ANALYZED: Final = 400  # rows of each index that statistics are made of
_WRITE: Final = "teehouse_write"
_SESSION: Final = (
    "-c timezone=utc -c jit=off"
    " -c tcp_keepalives_idle=15 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3"
)
_KEEPALIVES: Final = {"keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3}
_WAL_TURNS: Final = 200
_WAL_PAUSE: Final = 0.01  # seconds


class Database:
    """An engine with its two ways in (rules 1, 2). Close it with `dispose`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self._writing = engine.execution_options(**{_WRITE: True})
        self._reads = async_sessionmaker(engine, expire_on_commit=False)
        self._writes = async_sessionmaker(self._writing, expire_on_commit=False)
        self._turn = asyncio.Lock()
        self._writer: asyncio.Task[Any] | None = None

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self.engine.dialect.name

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """A session that sees one state; what it changes is not kept."""
        async with self._reads() as session:
            yield session

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        """A unit of work: committed when the block ends, rolled back when it raises.

        Blocks do not nest: on SQLite the inner one would wait for the outer one for ever, so it is a RuntimeError.
        """
        if self.dialect != "sqlite":
            async with self._writes() as session, session.begin():
                yield session
            return
        if self._writer is not None and self._writer is asyncio.current_task():
            raise RuntimeError("a unit of work within a unit of work")
        async with self._turn:
            self._writer = asyncio.current_task()
            try:
                async with self._writes() as session, session.begin():
                    yield session
            finally:
                self._writer = None

    async def analyze(self) -> None:
        """Make statistics (rule 5), in some dozen milliseconds whatever the size."""
        if self.dialect == "sqlite":
            async with self.write() as session:
                connection = await session.connection()
                await connection.exec_driver_sql(f"PRAGMA analysis_limit={ANALYZED}")
                await connection.exec_driver_sql("ANALYZE")

    async def dispose(self) -> None:
        """Close all connections."""
        await self.engine.dispose()


def sqlite_url(path: Path) -> str:
    """The URL of a database in a file."""
    return URL.create("sqlite+aiosqlite", database=str(path)).render_as_string()


def open_database(url: str, *, pool_size: int = 10) -> Database:
    """The database at `sqlite+aiosqlite:///PATH` or `postgresql+psycopg://...` (also without the driver's name).

    Nothing is connected yet. Raises `MisuseError` for a URL that is neither; it does not repeat the URL, which may
    hold a password.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise _bad_url("unreadable text") from None
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        return Database(_sqlite(parsed.set(drivername="sqlite+aiosqlite"), pool_size))
    if backend == "postgresql":
        engine = create_async_engine(
            parsed.set(drivername="postgresql+psycopg"),
            pool_size=pool_size,
            max_overflow=pool_size,
            pool_timeout=POOL_TIMEOUT,
            pool_pre_ping=True,  # after a restart of the server, dead connections are replaced and not used
            connect_args={"connect_timeout": 5, "options": _SESSION, **_KEEPALIVES},
        )
        return Database(engine)
    raise _bad_url(backend)


def _bad_url(found: str) -> Exception:
    return misuse(
        "cloud.database-url",
        "URL of the database",
        expected="sqlite+aiosqlite:///PATH or postgresql+psycopg://...",
        found=found,
        remedy="set TEEHOUSE_DATABASE_URL",
    )


def _sqlite(url: URL, pool_size: int) -> AsyncEngine:
    if url.database in (None, "", ":memory:"):
        raise _bad_url("a database in memory, which each connection would have for itself")
    engine = create_async_engine(
        url,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=POOL_TIMEOUT,
        pool_recycle=RECYCLE,
    )

    @event.listens_for(engine.sync_engine, "connect")
    def connected(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        # The driver would begin transactions late, and only for some statements; `begun` does it instead.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT}")
        _into_wal(cursor)
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA temp_store=MEMORY")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begun(connection: Connection) -> None:
        writing = connection.get_execution_options().get(_WRITE, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN DEFERRED")

    return engine


def _into_wal(cursor: DBAPICursor) -> None:
    """Have the file in WAL mode, where it then stays.

    The change itself does not wait for locks: of two processes that begin at the same moment one is told that the
    database is locked, and finds it changed a little later.
    """
    for turn in range(_WAL_TURNS):
        cursor.execute("PRAGMA journal_mode")
        if cursor.fetchone() == ("wal",):
            return
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if turn == _WAL_TURNS - 1:
                raise
            time.sleep(_WAL_PAUSE)
