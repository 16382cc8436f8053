"""What the outside may see and do (guest-agent.md 13.1; 22, items 10 and 11)."""

import json
from pathlib import Path
from typing import Any

import pytest

from support.guest_agent import agent
from support.pages_support import Document, FixedContainers, outside, shown
from teehouse.guest.containers import Container
from teehouse.wire.methods import METHODS

WEB = Container("web-1", "running", "Up")
CLOSED: dict[str, Any] = {"public_logs": False, "public_sysinfo": False, "public_tcbinfo": False}
OPEN: dict[str, Any] = {"public_logs": True, "public_sysinfo": True, "public_tcbinfo": True}


async def test_10_closed_gates(tmp_path: Path) -> None:
    async with (
        agent(tmp_path, compose=CLOSED) as made,
        outside(made, containers=FixedContainers((WEB,))) as client,
        made.door("internal") as inside,
    ):
        for path in ("/metrics", "/metrics?x=1"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()) == (404, {"error": "Sysinfo API is disabled"})
            assert answer.headers["content-type"] == "application/json"
        for path in ("/logs/web-1", "/logs/web-1?tail=abc", "/logs/unknown", "/logs/%2e%2e", "/logs/"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()) == (404, {"error": "Logs API is disabled"})
        page = Document((await client.get("/")).text)
        assert "TCB info is not public" in page.words
        assert "Events in RTMR3 not public" in page.words
        for hidden in ("Operating System", "Memory Usage", "RTMR0", "MRTD", "Follow", "Logs"):
            assert hidden not in page.words
        assert page.all("textarea") == []
        assert not any(str(link["href"]).startswith(("/metrics", "/logs")) for link in page.all("a"))
        assert "web-1 running Up" in page.words
        outer = (await client.get("/prpc/Worker.Info")).json()
        assert (outer["tcb_info"], outer["vm_config"]) == ("", "")
        inner = (await inside.get("/Info")).json()
        assert inner["tcb_info"]
        assert inner["vm_config"]
        assert inner["tcb_info"] not in page.text


async def test_10_open_gates(tmp_path: Path) -> None:
    async with agent(tmp_path, compose=OPEN) as made, outside(made) as client:
        assert (await client.get("/metrics")).status_code == 200
        assert (await client.get("/logs/web-1")).json() == {"error": "No such container: web-1"}
        outer = (await client.get("/prpc/Worker.Info")).json()
        assert outer["tcb_info"]
        page = Document((await client.get("/")).text)
        assert outer["tcb_info"] in page.text


async def test_the_defaults_of_app_compose(tmp_path: Path) -> None:
    async with agent(tmp_path) as made, outside(made) as client:
        assert (await client.get("/metrics")).status_code == 404
        assert (await client.get("/logs/web-1")).status_code == 404
        assert "MRTD" in Document((await client.get("/")).text).words


async def test_10_pages_are_not_inside(tmp_path: Path) -> None:
    async with agent(tmp_path, compose=OPEN) as made, made.door("internal") as inside:
        for path in ("/", "/metrics", "/logs/web-1", "/static/dashboard.css"):
            assert (await inside.get(path)).status_code == 404


async def test_11_no_method_that_gives_keys_is_reached_from_outside(tmp_path: Path) -> None:
    hidden = [(service, name) for service in ("DstackGuest", "Tappd") for name in METHODS[service]]
    async with agent(tmp_path, compose=OPEN) as made, outside(made) as client:
        before = len(made.log.events)
        for service, name in hidden:
            for form in (
                f"/{name}",
                f"/v0/{name}",
                f"/{service}.{name}",
                f"/prpc/{service}.{name}",
                f"/prpc/v0/{service}.{name}",
                f"/logs/../{name}",
                f"/static/../{name}",
            ):
                for answer in (await client.get(form), await client.post(form, json={})):
                    assert answer.status_code == 404, form
            if name not in METHODS["Worker"]:
                assert (await client.post(f"/prpc/{name}", json={})).status_code == 404
        assert len(made.log.events) == before
        stored = json.loads(made.keys.to_json())
        secrets = (stored["k256_key"], stored["disk_crypt_key"])
        assert all(secrets)
        everything = "".join(
            [(await client.get(path)).text for path in ("/", "/metrics", "/prpc/Worker.Info")]
        )
        assert not any(secret in everything for secret in secrets)


@pytest.mark.parametrize("path", ["/", "/metrics", "/static/dashboard.css", "/logs/web-1"])
async def test_pages_are_read_only(tmp_path: Path, path: str) -> None:
    async with agent(tmp_path, compose=OPEN) as made, outside(made) as client:
        for verb in ("POST", "PUT", "DELETE", "PATCH"):
            answer = await client.request(verb, path, json={})
            assert (answer.status_code, answer.json()) == (405, {"error": "Method not allowed"})


async def test_a_head_is_answered_without_a_body(tmp_path: Path) -> None:
    async with agent(tmp_path, compose=OPEN) as made, outside(made) as client:
        for path in ("/", "/metrics"):
            answer = await client.head(path)
            assert answer.status_code == 200


async def test_on_the_address_that_serves_everything(tmp_path: Path) -> None:
    async with agent(tmp_path, compose=OPEN) as made, made.door("all", extra_routes=shown(made)) as client:
        assert (await client.get("/")).status_code == 200
        assert (await client.get("/GetKey?path=a")).status_code == 200
