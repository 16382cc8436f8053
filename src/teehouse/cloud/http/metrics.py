"""The metrics of the HTTP face, as Prometheus reads them.

Rules:

1. Labels are the method, the route as it is declared and the status: a bounded number of series, whatever is asked.
2. Methods that HTTP does not know are counted as OTHER.
"""

from collections.abc import Callable, Iterator
from typing import Final

from teehouse.base.exposition import Metric, Sample, exposition, histogram

BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

Gauge = Callable[[], float]


def known_method(method: str) -> str:
    """The method, or OTHER (rule 2)."""
    return method if method in _METHODS else "OTHER"


class RequestMetrics:
    """Counts of requests by method, route and status, their times by route, and figures that others offer."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, int], int] = {}
        self._times: dict[str, tuple[list[int], list[float]]] = {}
        self._gauges: dict[str, tuple[str, Gauge]] = {}

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request that has been answered."""
        key = (known_method(method), route, status)
        self._counts[key] = self._counts.get(key, 0) + 1
        buckets, total = self._times.setdefault(route, ([0] * (len(BUCKETS) + 1), [0.0]))
        total[0] += seconds
        for place, bound in enumerate((*BUCKETS, float("inf"))):
            buckets[place] += seconds <= bound

    def gauge(self, name: str, text: str, value: Gauge) -> None:
        """Show `value()` under `name`, a full metric name, from now on."""
        self._gauges[name] = (text, value)

    def exposition(self) -> str:
        """All of it as text."""
        return exposition(self._metrics())

    def _metrics(self) -> Iterator[Metric]:
        counts = tuple(
            Sample(count, (("method", method), ("route", route), ("status", str(status))))
            for (method, route, status), count in sorted(self._counts.items())
        )
        yield Metric(
            "teehouse_http_requests_total", "Requests by method, route and status", counts, "counter"
        )
        times = tuple(
            sample
            for route, (buckets, total) in sorted(self._times.items())
            for sample in histogram(BUCKETS, buckets, total[0], (("route", route),))
        )
        yield Metric("teehouse_http_request_seconds", "Time to answer, in seconds", times, "histogram")
        for name, (text, value) in sorted(self._gauges.items()):
            yield Metric(name, text, (Sample(value()),))
