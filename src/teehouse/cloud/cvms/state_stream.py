"""The state of a CVM, told until it is what was waited for (cloud-api.md 6).

Rules:

1. Members without a value are left out: clients refuse null.
2. A stream begins with a `state`, tells each change as another one, and at the latest every `interval` seconds one
   more; it ends with `complete` and the state, or with `timeout`.
3. A CVM that is deleted while it is watched completes a wait for `deleted`, and is an `error` for any other; the
   stream ends.
4. A user has at most `STREAMS_LIMIT` streams open in this process.
"""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import select

from teehouse.base.clock import Clock
from teehouse.cloud.cvms.loading import columns_of
from teehouse.cloud.cvms.models import Cvm, CvmStatus
from teehouse.cloud.cvms.presenters import uptime
from teehouse.cloud.cvms.records import CvmRow
from teehouse.cloud.db.engine import Database
from teehouse.cloud.errors import refusal
from teehouse.cloud.ids import Kind, encode
from teehouse.wire.cloud.base import time_text
from teehouse.wire.cloud.versions import ApiVersion

STREAMS_LIMIT: Final = 5
POLL: Final = 0.5  # seconds between two looks at the row

State = dict[str, Any]


async def read_state(database: Database, clock: Clock, cvm_id: int, version: ApiVersion) -> State:
    """The state object (rule 1); of a deleted CVM too."""
    async with database.read() as session:
        values = (await session.execute(select(*columns_of(CvmRow, Cvm)).where(Cvm.id == cvm_id))).one()
    row = CvmRow(*values)
    state = {
        "id": encode(Kind.CVM, row.id) if version >= ApiVersion.V3 else str(row.id),
        "instance_id": row.instance_id,
        "name": row.name,
        "status": row.status,
        "uptime": uptime(row, clock.now()),
        "exited_at": time_text(row.exited_at) if row.exited_at else None,
        "boot_progress": row.boot_progress,
        "boot_error": row.boot_error,
        "shutdown_progress": row.shutdown_progress,
    }
    return {name: value for name, value in state.items() if value}


def frame(event: str, data: State) -> bytes:
    """One server-sent event."""
    return f"event: {event}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


async def watch(
    read: Callable[[], Awaitable[State]],
    target: str,
    *,
    interval: float,
    timeout_seconds: float,
    poll: float = POLL,
) -> AsyncIterator[bytes]:
    """The frames of a stream (rules 2, 3)."""
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout_seconds
    told: State = {}
    told_at = 0.0
    while True:
        state = await read()
        now = loop.time()
        if _news(state) != _news(told) or now - told_at >= interval:
            yield frame("state", state)
            told, told_at = state, now
        if state["status"] == target:
            yield frame("complete", state)
            return
        if state["status"] == CvmStatus.DELETED:
            yield frame("error", {"error": "The CVM was deleted"})
            return
        if now >= end:
            yield frame("timeout", {"error": f"Still {state['status']} after {timeout_seconds:g} seconds"})
            return
        await asyncio.sleep(min(poll, max(0.0, end - now)))


def _news(state: State) -> State:
    """What makes a state another one: time alone does not."""
    return {name: value for name, value in state.items() if name != "uptime"}


class Streams:
    """How many streams each user has open (rule 4)."""

    def __init__(self) -> None:
        self._open: Counter[int] = Counter()

    @contextmanager
    def opened(self, user_id: int) -> Iterator[None]:
        """One more, for the block. Raises `CloudError` 429 for one too many: asked and taken in one step."""
        if self._open[user_id] >= STREAMS_LIMIT:
            raise refusal(429, f"At most {STREAMS_LIMIT} state streams at once", headers={"Retry-After": "5"})
        self._open[user_id] += 1
        try:
            yield
        finally:
            self._open[user_id] -= 1
            if not self._open[user_id]:
                del self._open[user_id]
