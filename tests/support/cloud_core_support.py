"""The control plane in the test's process: a database of either kind, the application, callers."""

import atexit
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import structlog
from fastapi import APIRouter, FastAPI
from sqlalchemy import text
from sqlalchemy.engine import make_url

from support import postgres
from teehouse.base.clock import FixedClock
from teehouse.cloud.accounts.bootstrap import First, bootstrap
from teehouse.cloud.db import migrate
from teehouse.cloud.db.engine import Database, open_database, sqlite_url
from teehouse.cloud.db.tables import metadata
from teehouse.cloud.http import routers
from teehouse.cloud.http.app import create_app
from teehouse.cloud.parts import CloudParts
from teehouse.cloud.settings import CloudSettings

NOW = datetime(2026, 6, 23, 12, 0, tzinfo=UTC)
SECRET_KEY = bytes(range(32))
KINDS = ("sqlite", "postgresql")


def database_url(kind: str, directory: Path) -> str:
    """The URL of a new, empty database; skips where there is no PostgreSQL."""
    if kind == "sqlite":
        return sqlite_url(directory / "cloud.db")
    postgres.require()
    return postgres.shared_cluster().new_database()


_migrated: dict[str, str] = {}  # by kind: the path of a file, or the URL of a database, with all tables


_used: list[str] = []  # URLs of PostgreSQL databases that tests have done with
_apps: dict[
    str, FastAPI
] = {}  # applications by their settings and routers; making one takes longer than most tests


async def _emptied() -> str | None:
    """A used database, empty again: several times faster than a new one."""
    if not _used:
        return None
    url = _used.pop()
    database = open_database(url)
    names = ", ".join(f'"{name}"' for name in metadata.tables)
    async with database.write() as session:
        await session.execute(text(f"TRUNCATE {names} RESTART IDENTITY CASCADE"))
    await database.dispose()
    return url


async def migrated_url(kind: str, directory: Path) -> str:
    """The URL of a new database with all tables, copied from one that was migrated once in this process."""
    if kind not in _migrated:
        kept = Path(tempfile.mkdtemp(prefix="teehouse-template-"))
        atexit.register(shutil.rmtree, kept, ignore_errors=True)
        url = database_url(kind, kept)
        database = open_database(url)
        await migrate.upgrade(database)
        await database.dispose()  # the last connection writes SQLite's log into its file
        _migrated[kind] = url if kind == "postgresql" else str(kept / "cloud.db")
    if kind == "postgresql":
        if (url := await _emptied()) is not None:
            return url
        return postgres.shared_cluster().new_database(make_url(_migrated[kind]).database or "")
    shutil.copyfile(_migrated[kind], directory / "cloud.db")
    return sqlite_url(directory / "cloud.db")


@dataclass(slots=True)
class Cloud:
    """A control plane, its first caller, and ways to call it."""

    parts: CloudParts
    app: FastAPI
    clock: FixedClock
    first: First
    clients: list[httpx.AsyncClient] = field(default_factory=list)

    @property
    def database(self) -> Database:
        return self.parts.database

    def client(self, key: str | None = "", **headers: str) -> httpx.AsyncClient:
        """A client with this key, the first caller's when left out, none for None."""
        if key is not None:
            headers["X-API-Key"] = key or self.first.api_key
        client = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app), base_url="http://cloud.test", headers=headers
        )
        self.clients.append(client)
        return client

    async def other(self, slug: str = "other", **given: Any) -> First:
        """Another user with another workspace."""
        async with self.database.write() as session:
            return await bootstrap(
                session,
                self.clock.now(),
                username=given.get("username", slug),
                email=f"{slug}@example.org",
                slug=slug,
                workspace_name=slug.title(),
            )


@asynccontextmanager
async def cloud(
    kind: str,
    directory: Path,
    *,
    signed: Sequence[APIRouter] = (),
    public: Sequence[APIRouter] = (),
    **settings: Any,
) -> AsyncIterator[Cloud]:
    """A control plane on a new database, with the usual routers and some more."""
    structlog.configure(processors=[_drop])
    url = await migrated_url(kind, directory)
    database = open_database(url)
    clock = FixedClock(NOW)
    parts = CloudParts(CloudSettings(database_url=url, secret_key=SECRET_KEY, **settings), database, clock)
    async with database.write() as session:
        first = await bootstrap(
            session, NOW, username="alice", email="alice@example.org", slug="alice", workspace_name="Alice's"
        )
    kept = repr((settings, [id(router) for router in (*signed, *public)]))
    app = _apps.get(kept)
    if app is None:
        app = create_app(
            parts, signed=[*routers.SIGNED, *signed], public=[*routers.PUBLIC, *public], pages=routers.PAGES
        )
        _apps[kept] = app
    app.state.parts = parts
    made = Cloud(parts, app, clock, first)
    try:
        yield made
    finally:
        for client in made.clients:
            await client.aclose()
        await database.dispose()
        if kind == "postgresql":
            _used.append(url)


def _drop(_logger: Any, _name: str, _event: Any) -> Any:
    raise structlog.DropEvent
