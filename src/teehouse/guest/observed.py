"""What the agent counts of its own work, for `/metrics`.

Rules:

1. Requests are counted by what they asked for and by outcome: `ok`, `refused` (4xx), `failed` (5xx), `lost`
   (nothing was answered). Both are of finite number, see rule R8 of `rpc.app`.
2. Of quotes the time that the platform took is counted, without the wait for one's turn.
3. Counts belong to one agent and begin anew with it; many agents may run in one process.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

# Upper bounds in seconds; the last bucket has none.
QUOTE_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class QuoteTimes:
    """A histogram: `counts` is cumulative over `QUOTE_BUCKETS`, then of all; `total` in seconds."""

    counts: tuple[int, ...]
    total: float


class Observed:
    """The counts of one agent."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, str]] = Counter()
        self._quotes = [0] * (len(QUOTE_BUCKETS) + 1)
        self._quote_seconds = 0.0

    @property
    def requests(self) -> Mapping[tuple[str, str], int]:
        """How often, by what was asked for and outcome (rule 1)."""
        return self._requests

    @property
    def quotes(self) -> QuoteTimes:
        return QuoteTimes(tuple(accumulate(self._quotes)), self._quote_seconds)

    def request(self, what: str, status: int) -> None:
        """One more request; a status of 0 stands for none."""
        self._requests[what, _outcome(status)] += 1

    def quote(self, seconds: float) -> None:
        """One more quote that the platform gave."""
        self._quotes[bisect_left(QUOTE_BUCKETS, seconds)] += 1
        self._quote_seconds += seconds


def _outcome(status: int) -> str:
    if status == 0:
        return "lost"
    if status >= 500:
        return "failed"
    return "refused" if status >= 400 else "ok"
