"""Requests made from the OpenAPI description: no fault, no status and no body that it does not tell of.

For each operation schemathesis makes requests that fit the description and some that do not. Half of the paths and
bodies get the ids of what there is, in every spelling, so that more is reached than refusals. The seed is fixed;
`TEEHOUSE_OPENAPI_EXAMPLES` asks for another number of examples for each operation.
"""

import asyncio
import os
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis.generation import GenerationMode
from schemathesis.openapi import from_dict
from schemathesis.specs.openapi import checks
from sqlalchemy import select

from support.cloud_api_support import Api, api
from support.cloud_inventory_support import IMAGE
from support.cloud_life_support import BOX, YAML
from teehouse.cloud.ids import Kind, encode
from teehouse.cloud.revisions.models import Revision
from teehouse.cloud.webhooks.models import WebhookDelivery

EXAMPLES = int(os.environ.get("TEEHOUSE_OPENAPI_EXAMPLES", "3"))  # of each kind for each operation
PARTS = 2  # tests that the operations are spread over
CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
VERSIONS = ("2025-10-28", "2026-01-21", "2026-05-22", "2026-06-23")
# What cannot be answered here, because it needs somebody else: 503 is right then.
ELSEWHERE = (
    "/kms/{kms}/pubkey/{app_id}",  # asks the KMS
    "/user/ssh-keys/github-",  # asks GitHub
)
# Bodies that the description leaves open.
OPEN_BODIES = {"/compose_file/provision": {"docker_compose_file": YAML}}


@dataclass
class World:
    """An application with something of each kind, and what paths and bodies may say to find it."""

    api: Api
    paths: Mapping[str, list[str]]
    members: Mapping[str, list[Any]]


async def filled(here: Api) -> World:
    first, second = await here.deploy("first-app"), await here.deploy("second-app")
    slug = here.cloud.first.workspace_slug
    base = f"/workspaces/{slug}"
    hook = (await here.call("POST", f"{base}/webhooks", json={"url": "https://hooks.example.org/x"})).json()
    line = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA alice"
    ssh = (await here.call("POST", "/user/ssh-keys", json={"name": "laptop", "public_key": line})).json()
    key = (await here.call("POST", f"{base}/api-keys", json={"name": "spare"})).json()
    member = await here.call(
        "POST", f"{base}/members", json={"email": "m@example.org", "username": "member", "role": "member"}
    )
    await here.call("POST", f"/cvms/{second['vm_uuid']}/restart", json={})
    async with here.cloud.database.read() as session:
        revisions = [encode(Kind.REVISION, one) for one in await session.scalars(select(Revision.id))]
        deliveries = [encode(Kind.DELIVERY, one) for one in await session.scalars(select(WebhookDelivery.id))]
    cvms = [
        first["vm_uuid"],
        first["vm_uuid"].replace("-", ""),
        second["vm_uuid"],
        str(second["id"]),
        encode(Kind.CVM, first["id"]),
        "second-app",
        f"app_{second['app_id']}",
    ]
    apps = [first["app_id"], f"0x{first['app_id'].upper()}", f"app_{second['app_id']}"]
    device = (await here.call("POST", "/auth/device/code", json={"client_id": "phala-cli"})).json()
    hashes = [
        one["compose_hash"]
        for one in (await here.call("GET", f"/apps/{apps[0]}/revisions")).json()["revisions"]
    ]
    tokens = []
    here.gate.on_chain = True
    for path, body in (
        (f"/cvms/{cvms[0]}", {"public_logs": False}),
        (f"/cvms/{cvms[0]}/replicas", {}),
        (f"/apps/{apps[0]}/instances", {}),
    ):
        method = "PATCH" if body else "POST"
        refused = await here.call(method, path, json=body, headers={"X-Prepare-Only": "true"})
        told = {one["field"]: one["value"] for one in refused.json()["details"]}
        tokens.append(told["commit_token"])
        here.gate.allowed.add(told["compose_hash"])
    here.gate.on_chain = False
    return World(
        here,
        {
            "slug": [slug],
            "webhook_id": [hook["id"]],
            "delivery_id": deliveries or ["dlv_none"],
            "key_id": [ssh["id"], key["id"]],
            "user_id": [member.json()["user_id"]],
            "app_id": apps,
            "revision_id": revisions,
            "cvm_id": cvms,
            "kms": ["phala", "kms-local", "kms_none"],
            "contract": ["phala"],
            "chain": ["base", "ethereum"],
            "family": ["cpu", "gpu"],
        },
        {
            "compose_hash": hashes,
            "app_id": apps,
            "vm_uuids": [cvms[:3]],
            "node_id": [1, None],
            "teepod_id": [1],
            "encrypted_env": [BOX],
            "docker_compose_file": [YAML, YAML.replace("1.27", "1.28")],
            "compose_file": [{"docker_compose_file": YAML}],
            "compose_manifest": [{"docker_compose_file": YAML}],
            "instance_type": ["tdx.small", "tdx.medium"],
            "image": [IMAGE],
            "os_image_name": [IMAGE],
            "token": tokens,
            "transaction_hash": ["already-registered"],
            "public_key": [line.replace("AAAA alice", "AAAB bob")],
            "email": ["other@example.org"],
            "device_code": [device["device_code"]],
            "name": ["third-app", "fourth-app", "first-app"],
            "vcpu": [1, 2],
            "memory": [2048],
            "disk_size": [20, 40],
            "cvm_ids": [cvms],
        },
    )


class Runner:
    """A loop with the world in it, for tests that are no coroutines themselves."""

    def __init__(self, directory: Path, loop: asyncio.Runner) -> None:
        self._directory = directory
        self._number = 0
        self._loop = loop
        self._stack = AsyncExitStack()
        self.world: World

    def renew(self) -> None:
        """Everything anew: what was deleted by one operation is there for the next."""
        self._loop.run(self._renew())

    async def _renew(self) -> None:
        await self._stack.aclose()
        self._number += 1
        directory = self._directory / str(self._number)
        directory.mkdir()
        self.world = await filled(await self._stack.enter_async_context(api("sqlite", directory)))

    def call(self, sent: requests.PreparedRequest) -> httpx.Response:
        return self._loop.run(self._call(sent))

    async def _call(self, sent: requests.PreparedRequest) -> httpx.Response:
        here = self.world.api
        answer = await here.client.request(
            sent.method or "", sent.url or "", content=sent.body or b"", headers=dict(sent.headers)
        )
        await here.workflows.idle()
        return answer

    def close(self) -> None:
        self._loop.run(self._stack.aclose())


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    with asyncio.Runner() as loop, closing(Runner(tmp_path, loop)) as made:
        made.renew()
        yield made


def known(draw: Any, world: World, case: schemathesis.Case) -> None:
    """Put what there is into most of the places where it fits."""
    for name in list(case.path_parameters or {}):
        if name in world.paths and draw(st.integers(0, 9)) < 8:
            case.path_parameters[name] = draw(st.sampled_from(world.paths[name]))
    if isinstance(case.body, dict):
        _known_members(draw, world, case.body)
        for word, members in OPEN_BODIES.items():
            if word in case.operation.path and draw(st.integers(0, 3)):
                case.body |= members
    elif isinstance(case.body, str) and draw(st.booleans()):
        case.body = draw(st.sampled_from(world.members["docker_compose_file"]))
    if case.query and "target" in case.query:
        case.query["target"] = "running"  # a wait for anything else takes the time that it is given


def _known_members(draw: Any, world: World, body: dict[str, Any]) -> None:
    for name in list(body):
        if name in world.members and draw(st.integers(0, 3)):
            body[name] = draw(st.sampled_from(world.members[name]))
        elif draw(st.booleans()):
            del body[name]


def request_of(case: schemathesis.Case, version: str) -> requests.PreparedRequest:
    asked = case.as_transport_kwargs(base_url="http://cloud.test")
    headers = {
        name: value
        for name, value in (asked.pop("headers") or {}).items()
        if name.lower() not in {"x-api-key", "authorization"}
    }
    headers["X-Phala-Version"] = version
    return requests.Request(headers=headers, **asked).prepare()


@pytest.mark.timeout(120 + 60 * EXAMPLES)
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize(
    "mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["fitting", "broken"]
)
def test_every_answer_is_one_that_is_described(runner: Runner, part: int, mode: GenerationMode) -> None:
    described = from_dict(runner.world.api.cloud.app.openapi())
    operations = [one.ok() for one in described.get_all_operations()]
    assert len(operations) > 80
    reached: dict[str, set[int]] = {}
    mine = sorted(operations[part::PARTS], key=lambda one: one.method.upper() == "DELETE")
    for operation in mine:
        if operation.method.upper() == "DELETE":
            runner.renew()
        _examine(runner, operation, mode, reached.setdefault(operation.label, set()))
    if mode is GenerationMode.POSITIVE:
        done = sum(any(status < 300 for status in found) for found in reached.values())
        assert done * 2 > len(reached), reached  # most operations do what they are for


def _examine(runner: Runner, operation: Any, mode: GenerationMode, reached: set[int]) -> None:
    @given(st.data())
    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def examine(data: st.DataObject) -> None:
        try:
            case = data.draw(operation.as_strategy(generation_mode=mode))
        except schemathesis.errors.SchemathesisError:
            return
        known(data.draw, runner.world, case)
        version = data.draw(st.sampled_from(VERSIONS))
        sent = request_of(case, version)
        answer = runner.call(sent)
        reached.add(answer.status_code)
        elsewhere = any(where in operation.path for where in ELSEWHERE)
        assert answer.status_code < 500 or (answer.status_code == 503 and elsewhere), (
            f"{operation.label}: {answer.status_code} {answer.text[:300]} for {sent.url} {sent.body!r:.300}"
        )
        case.validate_response(answer, checks=CHECKS)

    with suppress(Unsatisfiable):  # of some operations no request is broken
        examine()
