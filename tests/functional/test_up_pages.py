"""The guest API document's curl examples for logs, metrics and dashboard, against `teehouse up`."""

import json
import subprocess
from typing import Any

import pytest

from support.functional_support import need


@pytest.fixture
def get(teehouse: Any) -> Any:
    curl = need("curl", "curl")

    def one(path: str, *options: str) -> str:
        url = f"{teehouse.ready['agent_url']}{path}"
        done = subprocess.run(
            [curl, "-s", *options, url], capture_output=True, text=True, check=False, timeout=30
        )
        return done.stdout

    return one


def test_logs(teehouse: Any, get: Any) -> None:
    name = teehouse.ready["workload"]
    started = f"serving on {teehouse.ready['app_url'].replace('localhost', '127.0.0.1')}"
    (line,) = [
        line
        for line in get(f"/logs/{name}?text&bare&timestamps&tail=30").splitlines()
        if line.endswith(started)
    ]
    assert line.split(" ", 1)[0].endswith("Z")
    assert started in get(f"/logs/{name}?text&bare&since=1h").splitlines()
    first = json.loads(get(f"/logs/{name}?text").splitlines()[0])
    assert first == {"channel": "stdout", "message": f"{started}\n"}
    followed = get(f"/logs/{name}?text&bare&timestamps&follow=true", "--max-time", "2")
    assert started in followed
    assert json.loads(get("/logs/another-app?text&bare")) == {"error": "No such container: another-app"}


def test_metrics(teehouse: Any, get: Any) -> None:
    lines = get("/metrics").splitlines()
    assert any(line.startswith('system_os_name{os_name="') for line in lines)
    emulated = [line for line in lines if line.startswith("teehouse_emulated{")]
    assert emulated == [f'teehouse_emulated{{root="{teehouse.ready["root"]}"}} 1']


def test_dashboard(teehouse: Any, get: Any) -> None:
    page = get("/")
    for text in (
        "Worker Information",
        "EMULATED",
        teehouse.ready["root"],
        teehouse.ready["app_id"],
        "/metrics",
    ):
        assert text in page
    assert f'href="/logs/{teehouse.ready["workload"]}?text' in page
