"""Which doors of `teehouse agent --emulated` have the pages, and what they keep to themselves (guest-agent.md 1.1, 13.1)."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from support.processes import free_port, started

CLOSED = {"manifest_version": 2, "name": "closed", "runner": "bash", "bash_script": "", "kms_enabled": True}


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    compose = tmp_path / "app-compose.json"
    compose.write_text(json.dumps(CLOSED), encoding="utf-8")
    address = f"127.0.0.1:{free_port()}"
    arguments = ("agent", "--emulated", "--dir", str(tmp_path / "agent"), "--tcp", address)
    process = started(tmp_path / "log", (*arguments, "--compose", str(compose)), until="dashboard:")
    (tmp_path / "agent" / "url").write_text(process.url(), encoding="utf-8")
    yield tmp_path / "agent"
    process.kill()


def door(path: Path) -> httpx.Client:
    return httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://dstack")


def test_pages_are_outside_and_keys_inside(directory: Path) -> None:
    url = (directory / "url").read_text(encoding="utf-8")
    with (
        door(directory / "external.sock") as outside,
        door(directory / "dstack.sock") as inside,
        httpx.Client(base_url=url) as everything,
    ):
        for client in (outside, everything):
            page = client.get("/")
            assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
            assert page.headers["x-app-version"].startswith("v0.5.11 (")
            assert page.headers["x-teehouse-emulated"] == "true"
            assert "No workload is attached to this agent." in page.text
            metrics = client.get("/metrics")
            assert (metrics.status_code, metrics.json()) == (404, {"error": "Sysinfo API is disabled"})
            logs = client.get("/logs/web-1")
            assert (logs.status_code, logs.json()) == (404, {"error": "Logs API is disabled"})
            assert client.get("/prpc/Worker.Version").status_code == 200
        for method in ("GetKey", "GetTlsKey", "GetQuote", "Attest", "Sign", "EmitEvent", "DeriveKey"):
            for path in (f"/{method}", f"/prpc/{method}", f"/prpc/Worker.{method}"):
                assert outside.post(path, json={}).status_code == 404, path
        assert inside.get("/").status_code == 404
        assert inside.get("/static/dashboard.css").status_code == 404
        assert inside.get("/GetKey").status_code == 200
        assert everything.get("/GetKey").status_code == 200
