"""What is known of one CVM, changed on disk first and told to those who follow the node's events.

Rules:

1. A change is on disk before it counts. One that cannot be written is refused (`strict`), or, where it tells of what
   has happened already, counts in memory alone.
2. Changes come one after the other, and are finished although their caller is cancelled.
3. The phase changes by `api.TRANSITIONS` and not otherwise.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from teehouse.base.findings import TeehouseError, misuse
from teehouse.node.api import TRANSITIONS, EventKind
from teehouse.node.history import History
from teehouse.node.store import CvmRecord, NodeStore

# Makes of a record the next one, or None when nothing is to change.
Change = Callable[[CvmRecord], CvmRecord | None]
T = TypeVar("T")

_logger = logging.getLogger(__name__)


class Journal:
    """The record of one CVM; `record` is the last one."""

    def __init__(self, store: NodeStore, history: History, record: CvmRecord) -> None:
        self.record = record
        self._store = store
        self._history = history
        self._lock = asyncio.Lock()

    async def change(self, change: Change, *, strict: bool) -> bool:
        """Change the record; whether there was anything to change. Raises `CollateralError` where `strict`."""
        return await to_the_end(self._change(change, strict))

    async def _change(self, change: Change, strict: bool) -> bool:
        async with self._lock:
            before = self.record
            record = change(before)
            if record is None:
                return False
            if record.phase is not before.phase and record.phase not in TRANSITIONS[before.phase]:
                raise misuse(
                    "node.transition", f"a CVM cannot go from {before.phase.value} to {record.phase.value}"
                )
            try:
                await asyncio.to_thread(self._store.save, record)
            except TeehouseError as error:
                if strict:
                    raise
                _logger.error("cvm %s: %s", record.cvm_id, error)  # noqa: TRY400 - the sentence says all
            self.record = record
            self._tell_difference(before, record)
        return True

    def _tell_difference(self, before: CvmRecord, record: CvmRecord) -> None:
        if record.phase is not before.phase:
            self.tell(EventKind.PHASE, record.phase.value)
        if record.error is not None and record.error is not before.error:
            self.tell(EventKind.ERROR, record.error.sentence())

    def tell(self, kind: EventKind, detail: str) -> None:
        """An event about this CVM."""
        self._history.tell(self.record.cvm_id, kind, detail, self.record.correlation_id)


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Let `work` finish although its caller may be cancelled; the caller waits for it all the same."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # looked at: nobody is left to be told
        raise
