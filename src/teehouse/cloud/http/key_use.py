"""The time of last use of a key, written after the answer was sent.

Nobody waits for it, no other unit of work is open then, and when it fails the request was answered all the same.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Final

import structlog
from sqlalchemy.exc import SQLAlchemyError
from starlette.types import ASGIApp, Receive, Scope, Send

from teehouse.cloud.accounts.keys import note_use
from teehouse.cloud.db.engine import Database

_USED: Final = "teehouse.used-keys"

log = structlog.stdlib.get_logger("teehouse.cloud.http")


def used_key(scope: Scope, api_key_id: int, now: datetime) -> None:
    """Have it written that this request used the key."""
    scope[_USED].append((api_key_id, now))


class KeyUseMiddleware:
    """Writes what `used_key` noted. `database` is asked for when it is needed."""

    def __init__(self, app: ASGIApp, *, database: Callable[[], Database]) -> None:
        self._app = app
        self._database = database

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        used: list[tuple[int, datetime]] = []
        scope[_USED] = used
        try:
            await self._app(scope, receive, send)
        finally:
            try:
                for api_key_id, now in used:
                    await note_use(self._database(), api_key_id, now)
            except (SQLAlchemyError, OSError) as error:
                log.warning("use of a key not written down", error=type(error).__name__)
