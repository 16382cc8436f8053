"""Forgetting what is over: idempotency keys, device codes, sessions; and statistics of what is there.

Nothing depends on it: what has expired is refused whether it is still there or not. A worker calls it now and then
so that tables do not grow for ever.
"""

from datetime import datetime

from teehouse.cloud.accounts import device_login
from teehouse.cloud.db.engine import Database
from teehouse.cloud.http import idempotency


async def forget_expired(database: Database, now: datetime) -> None:
    """Delete it, in one short transaction each; then have the database look at what is left."""
    for forget in (idempotency.forget_expired, device_login.forget_expired):
        async with database.write() as session:
            await forget(session, now)
    await database.analyze()
