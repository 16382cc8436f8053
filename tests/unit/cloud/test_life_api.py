"""Changes of CVMs through the API, as published clients send them (cloud-api.md 13)."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from support.cloud_api_support import API, COMPOSE, V2, V4, Api, api
from support.cloud_life_support import BOX, YAML


@pytest.fixture(params=["sqlite", "postgresql"])
async def served(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Api]:
    async with api(request.param, tmp_path) as made:
        yield made


async def test_deploy_as_the_cli_does(served: Api) -> None:
    cvm = await served.deploy()
    assert (cvm["name"], cvm["status"], cvm["vcpu"], cvm["memory"]) == ("my-app", "creating", 1, 2048)
    assert cvm["encrypted_env_pubkey"] == "e3" * 32
    assert cvm["docker_compose_file"] == YAML
    assert isinstance(cvm["id"], int)
    again = await served.call("POST", f"/cvms/{cvm['vm_uuid'].replace('-', '')}/start", headers=V2)
    assert (again.json()["status"], again.json()["instance_id"]) == (
        "running",
        served.node.states[cvm["vm_uuid"].replace("-", "")].instance_id.hex(),
    )
    newest = await served.call("POST", "/cvms/my-app/shutdown", headers=V4)
    assert newest.json()["id"].startswith("cvm_")


async def test_updates_tell_what_changed(served: Api) -> None:
    cvm = await served.deploy()
    path = f"/cvms/{cvm['id']}"
    uuid = cvm["vm_uuid"].replace("-", "")
    before = served.node.specs[uuid]
    other = YAML.replace("1.27", "1.28")
    answer = await served.call("PATCH", path, json={"docker_compose_file": other, "public_logs": True})
    assert (answer.status_code, answer.json()["changed"]) == (200, ["docker_compose_file"])
    assert answer.json()["correlation_id"] == served.node.states[uuid].correlation_id
    assert served.node.states[uuid].boot_count == 2
    same = await served.call("PATCH", path, json={"docker_compose_file": other})
    assert (same.json()["changed"], same.json()["message"]) == ([], "Nothing changed")
    assert served.node.states[uuid].boot_count == 2
    quiet = await served.call("PATCH", path, json={"shutdown_timeout": 30})
    assert quiet.json()["changed"] == ["shutdown_timeout"]
    assert served.node.states[uuid].boot_count == 2
    resized = await served.call(
        "PATCH", f"{path}/resources", json={"vcpu": 2, "memory": 2048, "allow_restart": 1}
    )
    assert resized.json()["changed"] == ["vcpu", "instance_type"]
    assert served.node.specs[uuid].cpu_count == 2
    seen = await served.call(
        "PATCH", f"{path}/visibility", json={"public_logs": False, "public_tcbinfo": None}
    )
    assert (seen.json()["changed"], seen.json()["public_logs"]) == (["public_logs"], False)
    envs = await served.call(
        "PATCH", f"{path}/envs", json={"encrypted_env": "cd" * 80, "env_keys": ["A", "B"]}
    )
    assert (envs.json()["status"], envs.json()["allowed_envs_changed"]) == ("in_progress", True)
    script = await served.call(
        "PATCH", f"{path}/pre-launch-script", content="echo hello\n", headers={"Content-Type": "text/plain"}
    )
    assert script.json()["changed"] == ["pre_launch_script"]
    assert served.node.specs[uuid].app_id == before.app_id
    assert served.node.specs[uuid].encrypted_env == bytes.fromhex("cd" * 80)
    app = (await served.call("GET", f"/apps/{cvm['app_id']}/revisions")).json()
    assert [one["operation_type"] for one in app["revisions"]] == [
        "update_pre_launch_script",
        "update_env",
        "update_visibility",
        "update_resources",
        "update",
        "update_compose",
        "create",
    ]


async def test_two_updates_at_once(served: Api) -> None:
    cvm = await served.deploy()
    files = [YAML.replace("1.27", version) for version in ("1.28", "1.29")]
    answers = await asyncio.gather(
        *(
            served.client.patch(f"{API}/cvms/{cvm['id']}", json={"docker_compose_file": text})
            for text in files
        )
    )
    await served.workflows.idle()
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    (refused,) = (answer.json() for answer in answers if answer.status_code == 409)
    assert "error_code" not in refused
    won = next(text for text, answer in zip(files, answers, strict=True) if answer.status_code == 200)
    assert won in served.node.specs[cvm["vm_uuid"].replace("-", "")].compose.decode().replace("\\n", "\n")


async def test_a_change_on_chain_waits_for_its_hash(served: Api) -> None:
    cvm = await served.deploy()
    served.gate.on_chain = True
    path = f"/cvms/{cvm['id']}"
    change = {"docker_compose_file": YAML.replace("1.27", "1.28")}
    refused = await served.call("PATCH", path, json=change)
    assert (refused.status_code, refused.json()["error_code"]) == (465, "ERR-01-005")
    details = {entry["field"]: entry["value"] for entry in refused.json()["details"]}
    assert details["app_id"] == cvm["app_id"]
    assert details["onchain_status"] == {
        "compose_hash_allowed": False,
        "device_id_allowed": True,
        "is_allowed": False,
    }
    headers = {"X-Compose-Hash": "0x" + details["compose_hash"], "X-Transaction-Hash": "0x" + "ab" * 32}
    early = await served.call("PATCH", path, json={}, headers=headers)
    assert (early.status_code, early.json()["error_code"]) == (468, "ERR-01-008")
    served.gate.allowed.add(details["compose_hash"])
    anonymous = served.cloud.client(None)
    body = {"token": details["commit_token"], "compose_hash": "", "transaction_hash": ""}
    done = await anonymous.post(f"{API}{path}/commit-update", json=body)
    await served.workflows.idle()
    assert (done.status_code, done.json()["changed"]) == (200, ["docker_compose_file"])
    twice = await anonymous.post(f"{API}{path}/commit-update", json=body)
    assert (twice.status_code, twice.json()["error_code"]) == (466, "ERR-01-006")
    assert served.gate.proved == ["0x" + "ab" * 32]


async def test_a_token_of_a_copy_is_of_its_workspace(served: Api) -> None:
    """Rule R5: to others it is unknown, and it can still be used."""
    cvm = await served.deploy()
    served.gate.on_chain = True
    mallory = served.cloud.client((await served.cloud.other()).api_key)
    paths = {
        f"/cvms/{cvm['vm_uuid']}/replicas": f"/cvms/{cvm['vm_uuid']}/commit-replica",
        f"/apps/{cvm['app_id']}/instances": f"/apps/{cvm['app_id']}/instances",
    }
    for begin, commit in paths.items():
        served.gate.allowed.clear()
        refused = await served.call("POST", begin, json={})
        assert refused.status_code == 465, refused.text
        details = {entry["field"]: entry["value"] for entry in refused.json()["details"]}
        assert details["api_commit_url"].endswith(commit)
        served.gate.allowed.add(details["compose_hash"])
        body = {
            "token": details["commit_token"],
            "compose_hash": "",
            "transaction_hash": "already-registered",
        }
        foreign = await mallory.post(API + commit, json=body)
        assert foreign.status_code == 404, foreign.text
        done = await served.call("POST", commit, json=body)
        assert (done.status_code, done.json()["app_id"]) == (200, cvm["app_id"])
        assert await served.status(done.json()["vm_uuid"]) == "running"
        twice = await served.call("POST", commit, json=body)
        assert (twice.status_code, twice.json()["error_code"]) == (466, "ERR-01-006")
    served.gate.allowed.clear()
    refused = await served.call("POST", f"/cvms/{cvm['vm_uuid']}/replicas", json={})
    token = next(one["value"] for one in refused.json()["details"] if one["field"] == "commit_token")
    served.gate.on_chain = False
    another = await served.deploy("another-app")
    lost = await served.call("POST", f"/cvms/{another['vm_uuid']}/commit-replica", json={"token": token})
    assert (lost.status_code, lost.json()["error_code"]) == (466, "ERR-01-006")


async def test_a_change_that_may_not_restart(served: Api) -> None:
    """Rule H7."""
    cvm = await served.deploy()
    path, uuid = f"/cvms/{cvm['id']}", cvm["vm_uuid"].replace("-", "")
    spec = served.node.specs[uuid]
    other = {"docker_compose_file": YAML.replace("1.27", "1.28")}
    asked: list[tuple[str, str, dict[str, Any]]] = [
        ("PATCH", path, {"vcpu": 2, "allow_restart": False}),
        ("PATCH", f"{path}/resources", {"vcpu": 2, "memory": 2048, "disk_size": 20, "allow_restart": 0}),
        ("PUT", f"/cvms/app_{cvm['app_id']}/compose", {"compose_manifest": other, "allow_restart": False}),
    ]
    for method, where, body in asked:
        refused = await served.call(method, where, json=body)
        assert (refused.status_code, refused.json()["error_code"]) == (400, "ERR-02-009"), where
    assert (served.node.specs[uuid], served.node.states[uuid].boot_count) == (spec, 1)
    assert (await served.call("GET", f"/apps/{cvm['app_id']}/revisions")).json()["total"] == 1
    quiet = await served.call("PATCH", path, json={"shutdown_timeout": 30, "vcpu": 1, "allow_restart": False})
    assert quiet.json()["changed"] == ["shutdown_timeout"]
    await served.call("POST", f"{path}/stop")
    for method, where, body in asked[1:]:
        assert (await served.call(method, where, json=body)).json()["changed"], where
    assert (served.node.specs[uuid].cpu_count, served.node.states[uuid].boot_count) == (2, 1)


async def test_replicas_and_instances(served: Api) -> None:
    cvm = await served.deploy()
    copy = await served.call("POST", f"/cvms/{cvm['vm_uuid']}/replicas", json={"node_id": None}, headers=V2)
    assert (copy.status_code, copy.json()["name"], copy.json()["app_id"]) == (200, "my-app-2", cvm["app_id"])
    instance = await served.call(
        "POST", f"/apps/{cvm['app_id']}/instances", json={"name": "third-one"}, headers=V4
    )
    assert (instance.json()["name"], instance.json()["resource"]["vcpu"]) == ("third-one", 1)
    several = await served.call("POST", f"/cvms/app_{cvm['app_id']}/stop")
    assert (several.status_code, several.json()["error_code"]) == (409, "ERR-03-010")
    gone = await served.call("DELETE", f"/cvms/{cvm['vm_uuid']}")
    assert gone.status_code == 200
    lost = await served.call("POST", f"/cvms/{cvm['vm_uuid']}/start")
    assert (lost.status_code, lost.json()["error_code"]) == (404, "ERR-03-001")


async def test_a_cvm_is_copied_by_way_of_its_app(served: Api) -> None:
    cvm, other = await served.deploy(), await served.deploy("other-app")
    copy = await served.call(
        "POST", f"/apps/0x{cvm['app_id']}/cvms/{cvm['vm_uuid']}/replicas", json={}, headers=V2
    )
    assert (copy.status_code, copy.json()["name"], copy.json()["app_id"]) == (200, "my-app-2", cvm["app_id"])
    for app in (other["app_id"], "no-app"):
        lost = await served.call("POST", f"/apps/{app}/cvms/{cvm['vm_uuid']}/replicas", json={})
        assert (lost.status_code, lost.json()["error_code"]) == (404, "ERR-03-001")


async def test_an_app_of_runner_bash_is_read_and_written_back_as_it_is(served: Api) -> None:
    compose = {"runner": "bash", "bash_script": "exec sleep 9\n", "name": ""}
    found = (
        await served.call("POST", "/cvms/provision", json={"name": "bash-app", "compose_file": compose})
    ).json()
    made = await served.call(
        "POST", "/cvms", json={"app_id": found["app_id"], "compose_hash": found["compose_hash"]}
    )
    assert made.status_code == 200, made.text
    # What the JavaScript client asks of each (cloud-api.md 12.8).
    read = (await served.call("GET", "/cvms/bash-app/compose_file")).json()
    assert (read["docker_compose_file"], read["bash_script"]) == ("", "exec sleep 9\n")
    back = await served.call("POST", "/cvms/bash-app/compose_file/provision", json=read)
    assert back.json()["compose_hash"] == found["compose_hash"]


async def test_instance_ids_and_the_old_endpoints(served: Api) -> None:
    body = {
        "teepod_id": 1,
        "name": "old_one",
        "vcpu": 1,
        "memory": 2048,
        "disk_size": 20,
        "compose_manifest": COMPOSE,
        "listed": False,
    }
    nodes = (await served.call("GET", "/teepods/available")).json()["nodes"]
    body["teepod_id"] = nodes[0]["teepod_id"]
    key = (await served.call("POST", "/cvms/pubkey/from_cvm_configuration", json=body)).json()
    made = await served.call(
        "POST", "/cvms/from_cvm_configuration", json={**body, **key, "encrypted_env": BOX}, headers=V2
    )
    assert (made.status_code, made.json()["name"]) == (200, "old-one")
    assert made.json()["app_id"] == key["app_id"]
    changed = {**COMPOSE, "docker_compose_file": YAML.replace("1.27", "1.28")}
    put = await served.call("PUT", f"/cvms/app_{key['app_id']}/compose", json={"compose_manifest": changed})
    assert (put.status_code, put.json()["changed"]) == (200, ["docker_compose_file"])
    one = await served.call("PATCH", f"/cvms/{made.json()['id']}/instance-id", json={}, headers=V2)
    assert (one.json()["status"], one.json()["cvm_id"]) == ("unchanged", made.json()["id"])
    many = await served.call("PATCH", "/cvms/instance-ids", json={"limit": 10}, headers=V4)
    assert (many.json()["total"], many.json()["unchanged"], many.json()["errors"]) == (1, 1, 0)
    state = await served.call("GET", f"/cvms/{made.json()['id']}/state", headers=V2)
    assert (state.json()["status"], state.json()["id"]) == ("running", str(made.json()["id"]))


async def test_a_whole_compose_file_in_two_requests(served: Api) -> None:
    cvm = await served.deploy()
    path = f"/cvms/{cvm['id']}/compose_file"
    wanted = {"docker_compose_file": YAML, "name": "renamed", "features": ["kms"]}
    found = (await served.call("POST", f"{path}/provision", json={**wanted, "update_env_vars": False})).json()
    assert (found["app_id"], found["compose_hash_registered"]) == (cvm["app_id"], True)
    done = await served.call(
        "PATCH", path, json={"compose_hash": found["compose_hash"], "encrypted_env": None}
    )
    assert done.json()["changed"] == ["features", "name"]
    unknown = await served.call("PATCH", path, json={"compose_hash": "00" * 32})
    assert unknown.json()["error_code"] == "ERR-01-006"


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"docker_compose_file": "services: {}"}, 400, "ERR-01-003"),
        ({"docker_compose_file": "x" * 262_145}, 400, "ERR-01-003"),
        ({"image": "dstack-9.9.9"}, 400, "ERR-02-010"),
        ({"instance_type": "tdx.huge"}, 400, "ERR-02-001"),
        ({"disk_size": 1}, 400, "ERR-02-008"),
        ({"vcpu": 17}, 400, "ERR-02-003"),
        ({"vcpu": 33}, 400, "ERR-02-015"),
        ({"encrypted_env": "zz"}, 400, "ERR-02-008"),
    ],
)
async def test_changes_that_are_refused_leave_all_as_it_was(
    tmp_path: Path, change: dict[str, Any], status: int, code: str
) -> None:
    async with api("sqlite", tmp_path) as served:
        cvm = await served.deploy()
        before = served.node.specs[cvm["vm_uuid"].replace("-", "")]
        answer = await served.call("PATCH", f"/cvms/{cvm['id']}", json=change)
        assert (answer.status_code, answer.json()["error_code"]) == (status, code)
        assert served.node.specs[cvm["vm_uuid"].replace("-", "")] == before
        revisions = (await served.call("GET", f"/apps/{cvm['app_id']}/revisions")).json()
        assert revisions["total"] == 1
