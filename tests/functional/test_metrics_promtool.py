"""`/metrics` before Prometheus' own parser."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from support.functional_support import need
from support.processes import free_port, started
from teehouse.cloud.http.metrics import RequestMetrics

# Names that the field's agents have, and Prometheus' linter does not like (guest-agent.md 13.3).
FIXED_NAMES = {
    'system_memory_total non-counter metrics should not have "_total" suffix',
    'system_swap_total non-counter metrics should not have "_total" suffix',
}


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    arguments = ("agent", "--emulated", "--dir", str(tmp_path / "agent"), "--tcp", f"127.0.0.1:{free_port()}")
    process = started(tmp_path / "log", arguments, until="dashboard:")
    yield process.url()
    process.kill()


def test_prometheus_reads_the_control_planes_metrics() -> None:
    promtool = need("promtool", "prometheus")
    metrics = RequestMetrics()
    metrics.gauge("teehouse_cvms", "CVMs that run", lambda: 2)
    for seconds in (0.001, 0.3, 100.0):
        metrics.count("GET", '/a"b', 200, seconds)
    checked = subprocess.run(
        [promtool, "check", "metrics"],
        input=metrics.exposition().encode(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (checked.returncode, checked.stderr) == (0, b"")


def test_prometheus_reads_every_metric(url: str) -> None:
    promtool = need("promtool", "prometheus")
    with httpx.Client(base_url=url) as client:
        for path in ("/", "/prpc/Worker.Info", "/GetQuote?report_data=00", "/nowhere", "/Sign?algorithm=x"):
            client.get(path)
        text = client.get("/metrics").content
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, timeout=60, check=False
    )
    complaints = {line for line in checked.stderr.decode().splitlines() if line}
    assert complaints == FIXED_NAMES
    assert checked.returncode == 3  # read, with remarks; 1 would be a text that cannot be read
    broken = text.replace(b'os_name="', b"os_name=", 1)
    refused = subprocess.run(
        [promtool, "check", "metrics"], input=broken, capture_output=True, timeout=60, check=False
    )
    assert refused.returncode == 1
