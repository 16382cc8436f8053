"""The events of a node: numbered, bounded, followed by any number of readers (`api.NodeEvent`).

Rules:

1. Sequence numbers grow by one. A node that starts begins at the UNIX time in microseconds, so that a reader of an
   earlier life is behind, not ahead; nothing need be stored for that.
2. The last `limit` events are kept. Who asks for events that are no longer kept, or with a number that this life
   never gave, gets a GAP event first, then all that are kept.
3. A reader who is slow costs nothing but his own place: events wait in the one history.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from teehouse.base.clock import Clock
from teehouse.node.api import EventKind, NodeEvent

HISTORY_LIMIT = 4096  # events


class History:
    """The events of this life. `closed` readers end."""

    def __init__(self, clock: Clock, *, limit: int = HISTORY_LIMIT) -> None:
        self._clock = clock
        self._events: deque[NodeEvent] = deque(maxlen=limit)
        self.first = int(clock.now().timestamp() * 1_000_000)
        self._last = self.first - 1
        self._closed = False
        self._more = asyncio.Event()

    def tell(self, cvm_id: str, kind: EventKind, detail: str, correlation_id: str = "") -> NodeEvent:
        """Add an event, and wake the readers."""
        self._last += 1
        event = NodeEvent(self._last, self._clock.now(), cvm_id, kind, detail, correlation_id)
        self._events.append(event)
        self._wake()
        return event

    def close(self) -> None:
        """End all readers."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        self._more.set()
        self._more = asyncio.Event()

    async def follow(self, after: int) -> AsyncIterator[NodeEvent]:
        """The events after the number `after`; 0 for all that are kept (rule 2)."""
        place = after
        if after == 0:
            place = self._oldest() - 1
        while True:
            if not self._oldest() - 1 <= place <= self._last:
                place = self._oldest() - 1
                yield NodeEvent(place, self._clock.now(), "", EventKind.GAP, "events were missed")
            more = self._more
            for event in self._after(place):
                yield event
                place = event.sequence
            if place < self._last:
                continue  # some came, or were dropped, while the reader was at work
            if self._closed:
                return
            await more.wait()

    def _oldest(self) -> int:
        return self._events[0].sequence if self._events else self._last + 1

    def _after(self, place: int) -> list[NodeEvent]:
        missing = self._last - place
        return list(self._events)[-missing:] if missing else []
