"""Bad input through HTTP: the documented code, and everything as it was; updates say what they changed."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select, update

from support.cloud_api_support import API, COMPOSE, Api, api
from support.cloud_inventory_support import IMAGE, NOW
from support.cloud_life_support import YAML
from teehouse.cloud.accounts.models import Quota
from teehouse.cloud.cvms.compose import TEXT_LIMIT
from teehouse.cloud.cvms.models import Cvm, Operation, Provision, Reservation
from teehouse.cloud.inventory.models import OsImage
from teehouse.cloud.nodes.models import Node, NodeImage
from teehouse.cloud.revisions.models import Revision

OTHER = YAML.replace("1.27", "1.28")


@pytest.fixture(params=["sqlite", "postgresql"])
async def served(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Api]:
    async with api(request.param, tmp_path) as made:
        yield made


@pytest.fixture
async def one(tmp_path: Path) -> AsyncIterator[Api]:
    async with api("sqlite", tmp_path) as made:
        yield made


async def state(here: Api) -> dict[str, list[dict[str, Any]]]:
    """All that a refusal has to leave as it was: on the node too."""
    kept: dict[str, list[dict[str, Any]]] = {}
    async with here.cloud.database.read() as session:
        for model in (Cvm, Operation, Provision, Reservation, Node):
            rows = await session.scalars(select(model).order_by(model.id))
            kept[model.__name__] = [
                {column.key: getattr(row, column.key) for column in model.__table__.columns} for row in rows
            ]
        kept["Revision"] = [{"id": number} for number in await session.scalars(select(Revision.id))]
    kept["node"] = [{"specs": dict(here.node.specs), "states": dict(here.node.states)}]
    return kept


async def refused(here: Api, method: str, path: str, body: dict[str, Any]) -> tuple[int, str | None]:
    """Status and code of an answer that changes nothing."""
    before = await state(here)
    answer = await here.call(method, path, json=body)
    assert await state(here) == before, answer.text
    return answer.status_code, answer.json().get("error_code")


async def provision(here: Api, name: str = "my-app", **given: Any) -> httpx.Response:
    body = {"name": name, "compose_file": COMPOSE, "instance_type": "tdx.small", **given}
    return await here.call("POST", "/cvms/provision", json=body)


def commit_of(found: httpx.Response) -> dict[str, Any]:
    assert found.status_code == 200, found.text
    return {name: found.json()[name] for name in ("app_id", "compose_hash")}


async def post_at_once(here: Api, bodies: list[dict[str, Any]]) -> list[httpx.Response]:
    answers = await asyncio.gather(*(here.client.post(f"{API}/cvms", json=body) for body in bodies))
    await here.workflows.idle()
    return list(answers)


async def test_two_commits_of_one_provision_at_once(served: Api) -> None:
    body = commit_of(await provision(served))
    answers = await post_at_once(served, [body, body, body])
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert len({answer.json()["vm_uuid"] for answer in answers}) == 1
    kept = await state(served)
    assert [len(kept[name]) for name in ("Cvm", "Operation", "Reservation")] == [1, 1, 1]
    later = await served.call("POST", "/cvms", json=body)
    assert later.json()["vm_uuid"] == answers[0].json()["vm_uuid"]
    other = body | {"compose_hash": "00" * 32}
    assert await refused(served, "POST", "/cvms", other) == (409, "ERR-03-007")


async def test_a_name_is_taken_once(served: Api) -> None:
    bodies = [commit_of(await provision(served)) for _ in range(2)]
    answers = await post_at_once(served, bodies)
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    (loser,) = (body for body, answer in zip(bodies, answers, strict=True) if answer.status_code == 409)
    assert await refused(served, "POST", "/cvms", loser) == (409, "ERR-01-004")
    again = {"name": "my-app", "compose_file": COMPOSE, "instance_type": "tdx.small"}
    assert await refused(served, "POST", "/cvms/provision", again) == (409, "ERR-01-004")
    cvm = (await served.call("GET", "/cvms/my-app")).json()
    instance = {"name": "my-app"}
    assert await refused(served, "POST", f"/apps/{cvm['app_id']}/instances", instance) == (409, "ERR-01-004")


async def test_a_quota_that_is_used_up(served: Api) -> None:
    cvm = await served.deploy()
    async with served.cloud.database.write() as session:
        await session.execute(update(Quota).values(vm_slots=1, vcpu=1))
    asked: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/cvms/provision", {"name": "second-app", "compose_file": COMPOSE}),
        ("POST", f"/cvms/{cvm['id']}/replicas", {}),
        ("POST", f"/apps/{cvm['app_id']}/instances", {}),
        ("PATCH", f"/cvms/{cvm['id']}", {"vcpu": 2, "docker_compose_file": OTHER}),
        ("PATCH", f"/cvms/{cvm['id']}/resources", {"instance_type": "tdx.medium"}),
    ]
    for method, path, body in asked:
        assert await refused(served, method, path, body) == (400, "ERR-02-015"), path


async def test_what_is_asked_during_a_boot(served: Api) -> None:
    start, waiting, on = served.node.start, asyncio.Event(), asyncio.Event()

    async def slow(*args: Any, **kwargs: Any) -> Any:
        waiting.set()
        await on.wait()
        return await start(*args, **kwargs)

    served.node.start = slow  # type: ignore[method-assign]  # a boot that takes its time
    body = commit_of(await provision(served))
    cvm = (await served.client.post(f"{API}/cvms", json=body)).json()
    await asyncio.wait_for(waiting.wait(), 20)
    path = f"{API}/cvms/{cvm['vm_uuid']}"
    before = await state(served)
    for method, what, given in (
        ("PATCH", "", {"docker_compose_file": OTHER}),
        ("PATCH", "/resources", {"vcpu": 2}),
        ("POST", "/restart", {}),
        ("POST", "/stop", {}),
    ):
        busy = await served.client.request(method, path + what, json=given)
        assert (busy.status_code, "error_code" in busy.json()) == (409, False), what
    assert await state(served) == before
    deleted = await served.client.delete(path)
    assert (deleted.status_code, deleted.json()["status"]) == (200, "deleting")
    again = await served.client.delete(path)
    assert again.json()["correlation_id"] == deleted.json()["correlation_id"]
    on.set()
    await served.workflows.idle()
    assert (await served.client.get(path)).status_code == 404
    kept = await state(served)
    assert (kept["Reservation"], kept["Node"][0]["used_slots"]) == ([], 0)
    assert [row["status"] for row in kept["Cvm"]] == ["deleted"]
    assert [one.phase.value for one in served.node.states.values()] == ["removed"]
    assert (await provision(served)).status_code == 200  # its name is free


@pytest.mark.parametrize("sign", ["a", "é"])
async def test_compose_files_of_256_kib_and_not_more(one: Api, sign: str) -> None:
    """The limit is of bytes, whatever the signs."""
    room = TEXT_LIMIT - len(YAML.encode()) - len("# \n")
    filling = sign * (room // len(sign.encode())) + "." * (room % len(sign.encode()))
    most = f"{YAML}# {filling}\n"
    assert len(most.encode()) == TEXT_LIMIT == 256 * 1024
    cvm = await one.deploy()
    path = f"/cvms/{cvm['id']}"
    asked: list[tuple[str, str, Any]] = [
        ("PATCH", path, lambda text: {"json": {"docker_compose_file": text}}),
        ("PATCH", f"{path}/docker-compose", lambda text: {"content": text.encode()}),
        ("POST", f"{path}/compose_file/provision", lambda text: {"json": {"docker_compose_file": text}}),
        ("POST", f"/apps/{cvm['app_id']}/instances", lambda text: {"json": {"docker_compose_file": text}}),
        (
            "POST",
            "/cvms/provision",
            lambda text: {"json": {"name": "large-app", "compose_file": {"docker_compose_file": text}}},
        ),
        (
            "PUT",
            f"/cvms/app_{cvm['app_id']}/compose",
            lambda text: {"json": {"compose_manifest": {"docker_compose_file": text}}},
        ),
    ]
    for method, where, made in asked:
        before = await state(one)
        larger = await one.call(method, where, **made(f"{most[:-1]}.\n"))
        assert (larger.status_code, larger.json()["error_code"]) == (400, "ERR-01-003"), where
        assert "262145 bytes" in larger.text
        assert "262144 bytes (256 KiB)" in larger.text
        assert await state(one) == before
    await one.call("DELETE", f"/cvms/{cvm['id']}")
    cvm = await one.deploy("small-app")
    for method, where, made in asked:
        named = where.replace(path, f"/cvms/{cvm['id']}")
        if where.startswith("/apps/") or method == "PUT":
            continue  # their app is gone; their way into the file is that of the others
        answer = await one.call(method, named, **made(most))
        assert answer.status_code == 200, f"{where}: {answer.text[:200]}"
    text = await one.call("GET", f"/cvms/{cvm['id']}/docker-compose.yml")
    assert text.text == most


# What changes something, by route; each is asked twice, and the second time nothing is left to change.
CHANGES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "PATCH /workspaces/{slug}": ({"json": {"name": "Other"}}, ["name"]),
    "PATCH /workspaces/{slug}/members/{user_id}": ({"json": {"role": "viewer"}}, ["role"]),
    "PATCH /workspaces/{slug}/webhooks/{webhook_id}": ({"json": {"enabled": False}}, ["enabled"]),
    "PATCH /cvms/{cvm_id}": (
        {"json": {"docker_compose_file": OTHER, "shutdown_timeout": 20, "user_config": "{}"}},
        ["docker_compose_file", "shutdown_timeout", "user_config"],
    ),
    "PATCH /cvms/{cvm_id}/resources": ({"json": {"vcpu": 2, "disk_size": 20}}, ["instance_type", "vcpu"]),
    "PATCH /cvms/{cvm_id}/visibility": (
        {"json": {"public_logs": False, "public_sysinfo": True}},
        ["public_logs"],
    ),
    "PATCH /cvms/{cvm_id}/os-image": ({"json": {"os_image_name": "dstack-0.5.9"}}, ["image"]),
    "PATCH /cvms/{cvm_id}/envs": (
        {"json": {"encrypted_env": "cd" * 80, "env_keys": ["A"]}},
        ["allowed_envs", "encrypted_env"],
    ),
    "PATCH /cvms/{cvm_id}/docker-compose": (
        {"content": YAML.replace("1.27", "1.29")},
        ["docker_compose_file"],
    ),
    "PATCH /cvms/{cvm_id}/pre-launch-script": ({"content": "echo\n"}, ["pre_launch_script"]),
    "PATCH /cvms/{cvm_id}/compose_file": ({"json": {}}, ["name"]),  # its hash is provisioned first
    "PUT /cvms/app_{app_id}/compose": (
        {"json": {"compose_manifest": {"docker_compose_file": YAML.replace("1.27", "1.30")}}},
        ["docker_compose_file"],
    ),
}
# These take over what a node says, and tell it in a form of their own: `status` updated or unchanged.
OTHERWISE = {"PATCH /cvms/{cvm_id}/instance-id", "PATCH /cvms/instance-ids"}


async def test_every_update_says_what_it_changed(one: Api) -> None:
    cvm = await one.deploy()
    base = f"/workspaces/{one.cloud.first.workspace_slug}"
    member = {"email": "m@example.org", "username": "member", "role": "member"}
    hook = {"url": "https://hooks.example.org/x"}
    values = {
        "slug": one.cloud.first.workspace_slug,
        "user_id": (await one.call("POST", f"{base}/members", json=member)).json()["user_id"],
        "webhook_id": (await one.call("POST", f"{base}/webhooks", json=hook)).json()["id"],
        "cvm_id": cvm["vm_uuid"],
        "app_id": cvm["app_id"],
    }
    async with one.cloud.database.write() as session:
        row = (await session.scalars(select(OsImage).where(OsImage.name == IMAGE))).one()
        image = OsImage(
            name="dstack-0.5.9", slug="dstack-0.5.9", version="0.5.9", os_image_hash="b4" * 32, created_at=NOW
        )
        session.add(image)
        await session.flush()
        assert row.id != image.id
        node = (await session.scalars(select(Node.id))).one()
        session.add(NodeImage(node_id=node, os_image_id=image.id))
    routes = {
        f"{method.upper()} {path.removeprefix(API)}"
        for path, methods in one.cloud.app.openapi()["paths"].items()
        for method in methods
        if method in {"patch", "put"}
    }
    assert routes == CHANGES.keys() | OTHERWISE
    for route, (given, changed) in CHANGES.items():
        method, _, path = route.partition(" ")
        path = path.format(**values)
        asked = dict(given)
        if route.endswith("/compose_file"):
            wanted = (await one.call("GET", path)).json() | {"name": "renamed"}
            found = await one.call("POST", f"{path}/provision", json=wanted)
            asked["json"] = {"compose_hash": found.json()["compose_hash"]}
        for expected in (changed, []):
            answer = await one.call(method, path, **asked)
            assert answer.status_code == 200, f"{route}: {answer.text}"
            assert sorted(answer.json()["changed"]) == expected, route
            if path.startswith("/cvms") and "message" in answer.json():
                assert (answer.json()["message"] == "Nothing changed") == (not expected), route
