"""The published `phala` command 1.1.18, unmodified, against a running Teehouse with a real Docker Engine."""

import html
import json
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.docker_engine import IMAGE, docker_engine
from support.phala_cli import Phala, together
from support.processes import free_port, started

pytestmark = pytest.mark.timeout(300)

SETTLE_SECONDS = 60
SCRIPT = (
    "echo greeting: $$GREETING $$EXTRA | tee /tmp/index.html;",
    "httpd -p 8000 -h /tmp;",
    "trap 'exit 0' TERM; sleep 1000 & wait",
)
COMPOSE = f"""
services:
  web:
    image: {IMAGE}
    command: ["sh", "-c", "{" ".join(SCRIPT)}"]
    environment: [GREETING, EXTRA]
    ports: ["8000"]
"""


@dataclass(frozen=True)
class Served:
    """A Teehouse whose node has an engine, and what its ready.json says."""

    ready: dict[str, Any]

    @property
    def host(self) -> str:
        return str(self.ready["api_url"]).removesuffix("/api/v1")

    def get(self, path: str) -> Any:
        headers = {"X-API-Key": self.ready["api_key"], "X-Phala-Version": "2026-01-21"}
        return httpx.get(f"{self.ready['api_url']}{path}", headers=headers).raise_for_status().json()

    def settle(self, cvm: str, status: str) -> dict[str, Any]:
        """Wait until nothing is under way with the CVM and it has this status."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while (found := self.get(f"/cvms/{cvm}"))["progress"] or found["status"] != status:
            assert time.monotonic() < deadline, found
            assert found["progress"] or found["status"] != "error", self.get(f"/cvms/{cvm}/stats")
            time.sleep(0.2)
        settled: dict[str, Any] = found
        return settled


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with (
        tempfile.TemporaryDirectory(prefix="th-") as engine_directory,
        tempfile.TemporaryDirectory(prefix="th-") as directory,
        docker_engine(Path(engine_directory)) as engine,
    ):
        process = started(
            Path(directory) / "log",
            ("up", "--dir", f"{directory}/t", "--port", str(free_port())),
            until="Ctrl-C ends it",
            environ={**engine.host, "TEEHOUSE_DEVICE_CODE_INTERVAL": "1"},
        )
        try:
            ready = json.loads(Path(directory, "t", "ready.json").read_text(encoding="utf-8"))
            yield Served(ready)
            assert process.stop() == 0, process.output()
        finally:
            process.kill()


@pytest.fixture
def phala(served: Served, tmp_path: Path) -> Phala:
    for name in ("home", "shop"):
        (tmp_path / name).mkdir()
    made = Phala(tmp_path / "home", tmp_path / "shop", served.ready["api_url"])
    (made.project / "docker-compose.yml").write_text(COMPOSE, encoding="utf-8")
    (made.project / ".env").write_text(
        "# of the shop\nexport GREETING='good morning'\nEXTRA=no\n", encoding="utf-8"
    )
    return made


def test_the_life_of_an_app(served: Served, phala: Phala) -> None:
    log_in(served, phala)
    made = phala.json("deploy", "-n", "my-shop", "-c", "docker-compose.yml", "-e", ".env", "-e", "EXTRA=yes")
    assert made["name"] == "my-shop"
    cvm, app_id = str(made["vm_uuid"]), str(made["app_id"])
    together(
        lambda: device_login(served, phala),
        lambda: inventory(served, phala),
        lambda: ssh_keys(served, phala),
        lambda: served.settle(cvm, "running"),
    )
    together(
        lambda: listed(phala, app_id),
        lambda: shown(phala, cvm, app_id),
        lambda: logged(phala),
        lambda: attested(served, phala, app_id),
    )
    updated(served, phala)
    sized_and_restarted(served, phala, app_id)
    replicated(served, phala, app_id)
    deleted(served, phala)


def log_in(served: Served, phala: Phala) -> None:
    """By a key; it is kept where nobody else reads it."""
    assert "Welcome admin!" in phala.run("login", served.ready["api_key"])
    kept = phala.home / "phala" / "credentials.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    profiles = json.loads(kept.read_text(encoding="utf-8"))
    assert list(profiles["profiles"]) == ["default"]
    status = phala.json("status")
    assert (status["username"], status["apiUrl"]) == ("admin", served.ready["api_url"])


def device_login(served: Served, phala: Phala) -> None:
    """Without a key: a person opens the page, shows a key there, and approves."""
    process = phala.begin("login", "--no-open", "--profile", "device")
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"http://\S+/device\?user_code=[\w-]+", line):
            break
    else:
        pytest.fail("the command printed no address")
    with httpx.Client(base_url=served.host, follow_redirects=True) as browser:
        page = browser.get(found.group())
        code = field(page.text, "user_code")
        signed = browser.post("/device/session", data={"api_key": served.ready["api_key"], "user_code": code})
        assert "phala-cli" in signed.text
        form = {"form_token": field(signed.text, "form_token"), "user_code": code, "decision": "approve"}
        assert "Approved" in browser.post("/device/decision", data=form).text
    code_of_exit, printed = phala.end(process)
    assert code_of_exit == 0, printed
    status = phala.json("status", "--profile", "device")
    assert (status["username"], status["profile"]) == ("admin", "device")
    profiles = json.loads((phala.home / "phala" / "credentials.json").read_text(encoding="utf-8"))["profiles"]
    assert profiles["device"]["token"] != served.ready["api_key"]


def field(page: str, name: str) -> str:
    """The value of a form's field."""
    found = re.search(rf'name="{name}" value="([^"]*)"', page)
    assert found, page
    return html.unescape(found.group(1))


def inventory(served: Served, phala: Phala) -> None:
    [node] = phala.json("nodes", "list")["items"]
    assert (node["name"], node["status"]) == ("emulated", "online")
    assert [row[0] for row in phala.table("instance-types", "cpu")][:2] == ["tdx.small", "tdx.medium"]
    [available] = served.get("/teepods/available")["nodes"]
    images = {image["name"]: image["is_dev"] for image in available["images"]}
    production = {name for name, is_dev in images.items() if not is_dev}
    assert {image["name"] for image in phala.json("os-images", "--prod")["items"]} == production


def ssh_keys(served: Served, phala: Phala) -> None:
    key = phala.home / "id.pub"
    key.write_text("ssh-ed25519 " + "AAAAC3NzaC1lZDI1NTE5AAAAI" + "A" * 43 + " me@here\n", encoding="utf-8")
    phala.run("ssh-keys", "add", "--name", "mine", "--key-file", str(key))
    printed = phala.run("ssh-keys", "list")
    found = re.search(r"sshkey_\w+", printed)
    assert found, printed
    assert "mine" in printed
    phala.run("ssh-keys", "remove", found.group())
    assert served.get("/user/ssh-keys") == []


def listed(phala: Phala, app_id: str) -> None:
    for command in (("apps",), ("cvms", "list", "--status", "running")):
        items = {item["appId"]: item for item in phala.json(*command)["items"]}
        assert (items[app_id]["cvmName"], items[app_id]["status"]) == ("my-shop", "running")


def shown(phala: Phala, cvm: str, app_id: str) -> None:
    found = phala.json("cvms", "get", f"app_{app_id}")
    assert (found["vm_uuid"], found["status"], found["os"]["is_dev"]) == (cvm, "running", False)
    assert answers(found) == "greeting: good morning yes\n"
    [container] = phala.json("ps", "my-shop")["containers"]
    assert (container["image"], container["state"]) == (IMAGE, "running")


def answers(cvm: dict[str, Any]) -> str:
    """What the app says where the CVM is told to be reached."""
    [endpoint] = cvm["endpoints"]
    assert endpoint["app"] == endpoint["instance"]
    return httpx.get(endpoint["app"]).raise_for_status().text


def logged(phala: Phala) -> None:
    assert "greeting: good morning yes" in phala.run("logs", "--cvm-id", "my-shop")
    serial = phala.run("logs", "--serial", "--cvm-id", "my-shop", "-n", "100")
    assert "step: keys" in serial.splitlines()


def attested(served: Served, phala: Phala, app_id: str) -> None:
    told = phala.json("cvms", "attestation", "my-shop")
    assert told["is_online"] is True
    assert told["tcb_info"]["app_compose"] == told["compose_file"]
    events = {event["event"]: event["event_payload"] for event in told["tcb_info"]["event_log"]}
    assert events["app-id"] == app_id
    assert served.get("/cvms/my-shop")["compose_hash"] == events["compose-hash"]


def updated(served: Served, phala: Phala) -> None:
    """Another environment, then another compose file: with the second deployment the first is updated."""
    phala.run("envs", "update", "my-shop", "-e", "GREETING=good evening", "-e", "EXTRA=yes")
    before = served.settle("my-shop", "running")
    (phala.project / "docker-compose.yml").write_text(
        COMPOSE.replace("greeting:", "greeting: a very"), encoding="utf-8"
    )
    phala.run("deploy", "--cvm-id", "my-shop", "-c", "docker-compose.yml", "--wait")
    after = served.settle("my-shop", "running")
    assert (after["vm_uuid"], after["app_id"]) == (before["vm_uuid"], before["app_id"])
    assert after["compose_hash"] != before["compose_hash"]
    assert "greeting: a very good evening yes" in phala.run("logs", "dstack-web-1", "--cvm-id", "my-shop")
    assert answers(after) == "greeting: a very good evening yes\n"


def sized_and_restarted(served: Served, phala: Phala, app_id: str) -> None:
    phala.json("cvms", "resize", "my-shop", "--vcpu", "2", "--yes")
    assert served.settle("my-shop", "running")["resource"]["vcpu"] == 2
    phala.run("cvms", "restart", "my-shop")
    assert "a very good evening" in answers(served.settle("my-shop", "running"))
    phala.run("cvms", "stop", "my-shop")
    assert served.settle("my-shop", "stopped")["endpoints"] == []
    phala.run("cvms", "start", f"app_{app_id}")
    cvm = served.settle("my-shop", "running")
    assert "a very good evening" in answers(cvm)
    assert served.get("/cvms/my-shop/network")["public_urls"] == cvm["endpoints"]


def replicated(served: Served, phala: Phala, app_id: str) -> None:
    replica = phala.json("cvms", "replicate", "my-shop", "--node-id", "emulated")
    assert replica["app_id"] == app_id
    served.settle(replica["vm_uuid"], "running")
    both = served.get(f"/apps/{app_id}/cvms")
    assert [answers(cvm) for cvm in both] == ["greeting: a very good evening yes\n"] * 2
    assert len({cvm["endpoints"][0]["app"] for cvm in both}) == 2
    phala.run("cvms", "delete", replica["vm_uuid"], "--force")


def deleted(served: Served, phala: Phala) -> None:
    phala.run("cvms", "delete", "my-shop", "--yes")
    deadline = time.monotonic() + SETTLE_SECONDS
    while {app["name"] for app in served.get("/apps")["dstack_apps"]} != {"sample-app"}:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert "CVM not found" in phala.fails("cvms", "get", "my-shop")
