"""The control plane of `teehouse up` from outside: deploy, attest, delete; restarts; kill -9 in the midst of work."""

import json
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.processes import Process
from support.up_processes import sample_processes, up
from teehouse.client.cloud import CloudClient, CloudRefusedError
from teehouse.client.cloud.calls import CloudCall

SECONDS = 60


def bash_app(script: str) -> dict[str, Any]:
    return {"runner": "bash", "bash_script": script, "public_logs": True}


def ready_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "t" / "ready.json").read_text(encoding="utf-8"))
    return found


def client_of(folder: Path) -> CloudClient:
    ready = ready_of(folder)
    return CloudClient(ready["api_url"], ready["api_key"])


def get(cloud: CloudClient, path: str) -> Any:
    return cloud.call(CloudCall("GET", path, Any))


def until(condition: Callable[[], Any], *, within: float = SECONDS) -> Any:
    deadline = time.monotonic() + within
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.1)
    return found


def statuses(cloud: CloudClient) -> dict[str, str]:
    page = get(cloud, "/cvms/paginated?page_size=100")
    return {cvm["name"]: cvm["status"] for cvm in page["items"]}


def gone(cloud: CloudClient, app_id: str) -> bool:
    try:
        return cloud.get_app_cvms(app_id) == []
    except CloudRefusedError as error:
        return error.refusal is not None and error.refusal.status == 404


def allowed(directory: Path) -> dict[str, list[str]]:
    listed = json.loads((directory / "state" / "auth-config.json").read_text(encoding="utf-8"))["apps"]
    return {app_id.removeprefix("0x"): entry["composeHashes"] for app_id, entry in listed.items()}


def test_the_sample_is_an_app_of_the_api(teehouse: Any) -> None:
    ready = teehouse.ready
    assert Path(ready["api_key_file"]).read_text(encoding="ascii") == f"{ready['api_key']}\n"
    assert Path(ready["api_key_file"]).stat().st_mode & 0o777 == 0o600
    with teehouse.cloud() as cloud:
        (cvm,) = cloud.get_app_cvms(ready["app_id"])
        assert (cvm.vm_uuid, cvm.instance_id, cvm.compose_hash, cvm.status) == (
            ready["vm_uuid"], ready["instance_id"], ready["compose_hash"], "running",
        )  # fmt: skip
        assert cvm.app_url == ready["agent_url"]
        assert cvm.workspace is not None
        assert cvm.workspace.slug == ready["workspace"]
        assert cvm.os is not None
        assert cvm.os.name in {image["name"] for image in get(cloud, "/os-images?page_size=100")["items"]}


def test_what_operators_look_at_is_there(teehouse: Any) -> None:
    host = teehouse.api_url.removesuffix("/api/v1")
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.json", "/docs"):
        answer = httpx.get(f"{host}{path}")
        assert (path, answer.status_code) == (path, 200)
        assert answer.headers["X-Teehouse-Emulated"] == "true"
    assert teehouse.ready["docs_url"] == f"{host}/docs"
    assert httpx.get(f"{teehouse.api_url}/apps").status_code == 401


def test_an_app_is_deployed_attested_and_deleted(teehouse: Any) -> None:
    script = 'echo "said: $WORD"\nexec sleep 1000\n'
    with teehouse.cloud() as cloud:
        done = cloud.deploy("second-app", bash_app(script), env={"WORD": "milk and sugar"}, poll=0.1)
        assert done.status == "running"
        assert allowed(teehouse.directory)[done.app_id] == [f"0x{done.compose_hash}"]

        (container,) = get(cloud, f"/cvms/{done.vm_uuid}/composition")["containers"]
        log = container["log_endpoint"]
        assert log.startswith("http://127.0.0.1:")
        until(lambda: "said: milk and sugar" in httpx.get(f"{log}?text&bare").text)

        attested = cloud.get_app_attestation(done.app_id)
        (instance,) = attested.instances
        assert (instance.error, instance.vm_uuid) == (None, done.vm_uuid)
        assert instance.quote
        assert instance.compose_file
        assert attested.app_id == done.app_id
        revision = cloud.get_app_revisions(done.app_id).revisions[0]
        raw = cloud.get_app_revision_detail(done.app_id, revision.revision_id, raw_compose_file=True)
        assert script in json.loads(str(raw.compose_file))["bash_script"]

        cloud.call(CloudCall("DELETE", f"/cvms/{done.vm_uuid}", Any))
        until(lambda: gone(cloud, done.app_id))
        assert done.app_id not in allowed(teehouse.directory)
        assert statuses(cloud).keys() == {"sample-app"}


def test_an_updated_app_may_have_its_keys_and_the_former_file_no_longer(teehouse: Any) -> None:
    with teehouse.cloud() as cloud:
        done = cloud.deploy("third-app", bash_app("exec sleep 1000"), poll=0.1)
        place = f"/cvms/{done.vm_uuid}/compose_file"
        found = cloud.call(CloudCall("POST", f"{place}/provision", Any, body=bash_app("exec sleep 2000")))
        assert found["compose_hash"] != done.compose_hash
        cloud.call(CloudCall("PATCH", place, Any, body={"compose_hash": found["compose_hash"]}))
        until(lambda: not get(cloud, f"/cvms/{done.vm_uuid}")["in_progress"])
        assert get(cloud, f"/cvms/{done.vm_uuid}")["status"] == "running"
        assert allowed(teehouse.directory)[done.app_id] == [f"0x{found['compose_hash']}"]
        cloud.call(CloudCall("DELETE", f"/cvms/{done.vm_uuid}", Any))
        until(lambda: gone(cloud, done.app_id))


def test_an_app_is_moved_to_the_other_os_image(teehouse: Any) -> None:
    with teehouse.cloud() as cloud:
        images = {image["name"]: image for image in get(cloud, "/os-images?page_size=100")["items"]}
        assert {name: image["is_dev"] for name, image in images.items()} == {
            "teehouse-emulated-1": False,
            "teehouse-emulated-dev-1": True,
        }
        done = cloud.deploy("moved-app", bash_app("exec sleep 1000"), poll=0.1, prefer_dev=True)
        place = f"/cvms/{done.vm_uuid}"
        assert get(cloud, place)["os"]["name"] == "teehouse-emulated-dev-1"
        change = {"os_image_name": "teehouse-emulated-1"}
        cloud.call(CloudCall("PATCH", f"{place}/os-image", Any, body=change))
        until(lambda: not get(cloud, place)["in_progress"])
        cvm = get(cloud, place)
        assert (cvm["status"], cvm["os"]["name"]) == ("running", "teehouse-emulated-1")
        config = json.loads(cloud.get_app_attestation(done.app_id).instances[0].vm_config or "{}")
        assert config["os_image_hash"] == cvm["os"]["os_image_hash"]
        cloud.call(CloudCall("DELETE", place, Any))
        until(lambda: gone(cloud, done.app_id))


def ends_cleanly(process: Process, folder: Path, number: int = signal.SIGTERM) -> None:
    assert process.stop(number) == 0
    output = process.output() + (folder / "t" / "cloud.log").read_text(encoding="utf-8")
    for word in ("Traceback", "Warning", "never awaited", "never retrieved", "was destroyed"):
        assert word not in output, output[-4000:]


@pytest.mark.timeout(240)
def test_a_restart_keeps_all_and_a_kill_is_gone_on_with(folder: Path) -> None:
    first = up(folder, "one")
    before = ready_of(folder)
    with client_of(folder) as cloud:
        other = cloud.deploy("other-app", bash_app("exec sleep 1000"), poll=0.1)
        stopped = cloud.deploy("still-app", bash_app("exec sleep 1000"), poll=0.1)
        cloud.call(CloudCall("POST", f"/cvms/{stopped.vm_uuid}/stop", Any))
        until(lambda: statuses(cloud)["still-app"] == "stopped")
    ends_cleanly(first, folder)
    assert not sample_processes(folder)

    second = up(folder, "two")
    after = ready_of(folder)
    same = ("api_url", "api_key", "workspace", "app_id", "instance_id", "vm_uuid", "app_url", "compose_hash")
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    with client_of(folder) as cloud:
        until(
            lambda: (
                statuses(cloud) == {"sample-app": "running", "other-app": "running", "still-app": "stopped"}
            )
        )
        assert cloud.get_app_attestation(other.app_id).instances[0].error is None
        # Killed while a deployment and a deletion are under way.
        begun = cloud.deploy("begun-app", bash_app("exec sleep 1000"), wait=False)
        cloud.call(CloudCall("DELETE", f"/cvms/{stopped.vm_uuid}", Any))
    second.kill()
    assert sample_processes(folder)  # what runs goes on without its node

    third = up(folder, "three")
    again = ready_of(folder)
    assert {name: again[name] for name in same} == {name: before[name] for name in same}
    with client_of(folder) as cloud:
        wanted = {"sample-app": "running", "other-app": "running", "begun-app": "running"}
        until(lambda: statuses(cloud) == wanted)
        assert [cvm.vm_uuid for cvm in cloud.get_app_cvms(begun.app_id)] == [begun.vm_uuid]
        assert {begun.app_id, other.app_id, before["app_id"]} == set(allowed(folder / "t"))
    ends_cleanly(third, folder, signal.SIGINT)
    assert not sample_processes(folder)


@pytest.mark.timeout(240)
def test_the_sample_comes_back_when_its_port_is_taken_and_when_it_was_deleted(folder: Path) -> None:
    first = up(folder, "one")
    before = ready_of(folder)
    ends_cleanly(first, folder)
    with socket.create_server(("127.0.0.1", int(before["app_url"].rpartition(":")[2]))):
        second = up(folder, "two")
    after = ready_of(folder)
    assert after["app_url"] != before["app_url"]
    same = ("app_id", "instance_id", "vm_uuid", "compose_hash")
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    with client_of(folder) as cloud:
        kinds = [one.operation_type for one in cloud.get_app_revisions(after["app_id"]).revisions]
        assert kinds == ["update_env", "create"]
        cloud.call(CloudCall("DELETE", f"/cvms/{before['vm_uuid']}", Any))
        until(lambda: gone(cloud, before["app_id"]))
    ends_cleanly(second, folder)
    third = up(folder, "three")
    last = ready_of(folder)
    assert (last["app_id"], last["app_url"]) == (after["app_id"], after["app_url"])
    assert last["vm_uuid"] != before["vm_uuid"]
    ends_cleanly(third, folder)
