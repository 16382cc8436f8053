"""Where a control plane that runs apart keeps what it has: folder, database, settings; and what is refused of them.

Rules:

1. The database's URL may hold a password: it comes from the environment or a file, and is in no message.
2. A database that cannot be reached is a `CollateralError` that says why, in the words of its driver.
3. SQLite is for one process: it holds a lock beside the file for as long as it serves.
"""

import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import SecretBytes, ValidationError
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from teehouse.base.files import PRIVATE
from teehouse.base.findings import CollateralError, misuse, unavailable
from teehouse.cloud.db.engine import Database, open_database
from teehouse.cloud.settings import CloudSettings
from teehouse.stack.cloud_folder import DATABASE, CloudFolder, read_private
from teehouse.stack.cloud_serving import sqlite_database

DATABASE_VARIABLE: Final = "TEEHOUSE_DATABASE_URL"
_REASON_LIMIT: Final = 200  # characters


@dataclass(frozen=True, slots=True)
class Place:
    """The folder, and the file of the database's URL where that is not in the environment."""

    directory: Path
    database_url_file: Path | None = None

    @property
    def folder(self) -> CloudFolder:
        """The folder itself."""
        return CloudFolder(self.directory)

    def database_url(self) -> str:
        """Rule 1; of a SQLite file in the folder, where nobody says another. Raises `MisuseError`."""
        if self.database_url_file is not None:
            return read_private(self.database_url_file, "cloud.database-url")
        given = os.environ.get(DATABASE_VARIABLE)
        if given:
            return given
        try:
            return sqlite_database(self.directory / DATABASE)
        except OSError as error:
            raise misuse(
                "cloud.folder", f"the database in {self.directory}", found=error.strerror or str(error)
            ) from error

    def settings(self, *, public_url: str = "http://127.0.0.1:8080") -> CloudSettings:
        """The settings: these, and what `TEEHOUSE_...` says of the rest. Raises `MisuseError`."""
        url, key = self.database_url(), self.folder.secret_key()
        try:
            return CloudSettings(
                database_url=url,
                secret_key=SecretBytes(key),
                public_url=public_url,
                state_directory=self.directory,
            )
        except ValidationError as error:
            names = sorted({f"TEEHOUSE_{str(one['loc'][0]).upper()}" for one in error.errors() if one["loc"]})
            raise misuse(
                "cloud.settings", "settings in the environment", found=f"no good value of {', '.join(names)}"
            ) from None


@asynccontextmanager
async def reached(settings: CloudSettings) -> AsyncIterator[Database]:
    """The database, for the block; what it raises there is told as rule 2 says. Raises `MisuseError`."""
    database = open_database(settings.database_url, pool_size=settings.database_pool_size)
    try:
        with told(settings.database_url):
            yield database
    finally:
        await database.dispose()


@contextmanager
def told(url: str) -> Iterator[None]:
    """Rule 2."""
    try:
        yield
    except SQLAlchemyError as error:
        raise _unreachable(url, error) from None


@contextmanager
def alone(database: Database) -> Iterator[None]:
    """Rule 3, for the block; nothing for PostgreSQL. Raises `MisuseError`."""
    name = database.engine.url.database
    if database.dialect != "sqlite" or not name:
        yield
        return
    descriptor = os.open(f"{name}.serving", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise misuse(
                "cloud.serving",
                f"the database {name}",
                expected="nobody else who serves it",
                found="a control plane that runs",
                remedy="end that one; for several replicas take PostgreSQL",
            ) from None
        yield
    finally:
        os.close(descriptor)


def _unreachable(url: str, error: SQLAlchemyError) -> CollateralError:
    parsed = make_url(url)
    said = str(error.orig if isinstance(error, DBAPIError) else error).strip() or type(error).__name__
    reason = said.splitlines()[0]
    if parsed.password:
        reason = reason.replace(parsed.password, "***")
    return unavailable(
        "cloud.database",
        f"the database {parsed.database or ''} at {parsed.host or 'this machine'}",
        expected="an answer",
        found=reason[:_REASON_LIMIT],
        remedy=f"check {DATABASE_VARIABLE} and the server",
    )
