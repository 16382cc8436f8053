"""A cache of collateral, so that a verdict does not wait for a service (trust.md 12, last paragraph).

Rules:

1. One entry for each family of platforms, CA and kind of quote; at most `size`, the least used goes first.
2. An entry is served until `refresh_after` has passed since it was fetched, then a new one is asked for.
3. When that fails, the former is served as long as it has not expired: until the earliest next update of
   its four documents. The next try is made `retry_after` later. Collateral is never left out.
4. What is fetched already expired is given to the caller, whose verdict will say so, and not kept.
5. Callers that need the same entry at once wait for one fetch.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from teehouse.attestation.abi import Quote
from teehouse.attestation.bundle import Collateral
from teehouse.base.clock import Clock
from teehouse.base.findings import CollateralError, EvidenceError
from teehouse.collateral.platform import CollateralKey, collateral_key

SIZE = 64
REFRESH_AFTER = timedelta(hours=6)
RETRY_AFTER = timedelta(minutes=1)

Fetch = Callable[[Quote], Awaitable[Collateral]]


@dataclass(slots=True)
class _Entry:
    collateral: Collateral | None = None
    expires: datetime | None = None
    due: datetime | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class CollateralCache:
    """Serves collateral by quote; `fetch` is e.g. `PccsClient.collateral`."""

    def __init__(
        self,
        fetch: Fetch,
        clock: Clock,
        *,
        size: int = SIZE,
        refresh_after: timedelta = REFRESH_AFTER,
        retry_after: timedelta = RETRY_AFTER,
    ) -> None:
        self._fetch = fetch
        self._clock = clock
        self._size = size
        self._refresh_after = refresh_after
        self._retry_after = retry_after
        self._entries: OrderedDict[CollateralKey, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    async def collateral(self, quote: Quote) -> Collateral:
        """The collateral of the quote's platform.

        Raises `CollateralError` where there is none, `EvidenceError` for a quote whose platform is unreadable.
        """
        key = collateral_key(quote)
        entry = self._entries.setdefault(key, _Entry())
        self._entries.move_to_end(key)
        while len(self._entries) > self._size:  # rule 1
            self._entries.popitem(last=False)
        async with entry.lock:  # rule 5
            return await self._serve(entry, quote)

    async def _serve(self, entry: _Entry, quote: Quote) -> Collateral:
        now = self._clock.now()
        kept = entry.collateral if entry.expires is not None and now < entry.expires else None
        if kept is not None and entry.due is not None and now < entry.due:  # rule 2
            return kept
        try:
            fetched = await self._fetch(quote)
        except CollateralError:
            if kept is None:
                raise
            entry.due = now + self._retry_after  # rule 3
            return kept
        try:
            expires = fetched.expires()
        except EvidenceError:
            return kept or fetched  # unreadable: the verdict says why, unless the former one still serves
        if expires <= now:
            return kept or fetched  # rule 4
        entry.collateral, entry.expires, entry.due = fetched, expires, now + self._refresh_after
        return fetched
