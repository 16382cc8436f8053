"""Every route with a key of another workspace: 404 or 403, and nothing of it in any answer.

The routes are those that the application has; a route that is added is walked too, and one whose path names something
new makes the test ask for it here.
"""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from support.cloud_core_support import NOW, Cloud, cloud
from support.cloud_inventory_support import add_inventory, add_node
from teehouse.cloud.accounts.models import ApiKey, SshKey
from teehouse.cloud.apps.models import App
from teehouse.cloud.cvms.lifecycle import Lifecycle
from teehouse.cloud.cvms.models import Cvm
from teehouse.cloud.http.context import API
from teehouse.cloud.ids import Kind, encode
from teehouse.cloud.revisions.models import ComposeFile, Revision
from teehouse.cloud.webhooks.models import WebhookDelivery

APP_ID = "3f1c9a5e7b2d4c6f8091a2b3c4d5e6f708192a3b"
INSTANCE_ID = "a67d32cf10b4e5d6c7f8091a2b3c4d5e6f708192"
VM_UUID = "1a09d70626864e0a8b1d323ff0e3504b"
COMPOSE_HASH = "89f8d7d970b32d078713748e55ea366c6a38d3bc65277f508aabc4eca4f41fd3"
SECRET_NAME = "alices-secret-app"
COMPOSE = "services:\n  web:\n    image: nginx:1.27-alpine\n"

# Routes whose path names nothing of a workspace: what an installation offers to all of its users.
SHARED = ("/instance-types", "/os-images", "/kms", "/teepods")
# Routes that answer without a key, with the reason.
OPEN = {
    "POST /auth/device/code": "getting a key is what it is for",
    "POST /auth/device/token": "the device code is the credential",
    "GET /apps/{app_id}/attestations": "attestations are for everybody (cloud-api.md 1)",
    "GET /cvms/{vm_uuid}/serial-log": "the signed link is the credential",
    "POST /cvms/{cvm_id}/commit-update": "the one-time token is the credential (cloud-api.md 16)",
}
# Strings that a body has to have for its schema, by member; anything else gets a word.
WORDS = {
    "url": "https://example.org",
    "slug": "other-slug",
    "email": "somebody@example.org",
    "compose_hash": COMPOSE_HASH,
    "app_id": APP_ID,
    "node_id": 1,
    "encrypted_env": "00" * 60,
    "role": "member",
    "docker_compose_file": COMPOSE,
}
# Bodies that the schema leaves open, and that have to make sense before anything is looked up.
BODIES: dict[str, dict[str, Any]] = {
    "POST /cvms/{cvm_id}/compose_file/provision": {"docker_compose_file": COMPOSE},
    "PUT /cvms/app_{app_id}/compose": {"compose_manifest": {"docker_compose_file": COMPOSE}},
}


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    path: str
    operation: Mapping[str, Any]

    @property
    def name(self) -> str:
        return f"{self.method} {self.path.removeprefix(API)}"

    @property
    def open(self) -> bool:
        return self.name in OPEN

    @property
    def parameters(self) -> list[str]:
        return [p["name"] for p in self.operation.get("parameters", ()) if p["in"] == "path"]


def routes(here: Cloud) -> list[Route]:
    return [
        Route(method.upper(), path, operation)
        for path, methods in here.app.openapi()["paths"].items()
        for method, operation in methods.items()
    ]


class Walk:
    """Paths and bodies for every route, naming what belongs to the first caller."""

    def __init__(self, here: Cloud, values: Mapping[str, str]) -> None:
        self._schemas = here.app.openapi().get("components", {}).get("schemas", {})
        self._values = values

    def path(self, route: Route) -> str:
        path = route.path
        for name in route.parameters:
            # A key is an SSH key under /user, an API key elsewhere.
            value = self._values.get(f"{name} {path.split('/')[3]}") or self._values.get(name)
            assert value is not None, f"{route.path}: say in this test what {{{name}}} of alice is"
            path = path.replace(f"{{{name}}}", value)
        return path

    def body(self, route: Route) -> dict[str, Any]:
        content = route.operation.get("requestBody", {}).get("content", {})
        if route.name in BODIES:
            return {"json": BODIES[route.name]}
        if "application/json" in content:
            return {"json": self._example(content["application/json"].get("schema", {}), "")}
        for kind in content:
            return {"content": COMPOSE.encode(), "headers": {"Content-Type": kind}}
        return {"headers": {"Content-Type": "application/json"}}

    def _example(self, schema: Mapping[str, Any], name: str) -> Any:
        if "$ref" in schema:
            return self._example(self._schemas[schema["$ref"].rpartition("/")[2]], name)
        for word in ("anyOf", "oneOf", "allOf"):
            if word in schema:
                return self._example(schema[word][0], name)
        if name in WORDS:
            return WORDS[name]
        if "const" in schema or "enum" in schema:
            return schema.get("const", *schema.get("enum", [None])[:1])
        match schema.get("type"):
            case "object":
                members = schema.get("properties", {})
                return {one: self._example(members[one], one) for one in schema.get("required", ())}
            case "array":
                return [self._example(schema["items"], name)] * schema.get("minItems", 0)
            case "integer" | "number":
                return schema.get("minimum", 1)
            case "boolean":
                return True
            case _:
                return "a-word"


async def _alices_things(here: Cloud) -> dict[str, str]:
    """Something of each kind in the first workspace; the names of all of it, as paths have them."""
    client = here.client()
    base = f"{API}/workspaces/alice"
    hook = (await client.post(f"{base}/webhooks", json={"url": "https://alices.example.org"})).json()
    key_line = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA alice"
    ssh = (
        await client.post(f"{API}/user/ssh-keys", json={"name": "alices-laptop", "public_key": key_line})
    ).json()
    workspace_id, user_id = here.first.workspace_id, here.first.user_id
    async with here.database.write() as session:
        image, kms = await add_inventory(session)
        node = await add_node(session, image, kms)
        app = App(
            workspace_id=workspace_id,
            creator_id=user_id,
            app_id=APP_ID,
            name=SECRET_NAME,
            kms_id=kms.id,
            kms_type="phala",
            created_at=NOW,
            updated_at=NOW,
        )
        compose = ComposeFile(
            compose_hash=COMPOSE_HASH,
            body=b'{"docker_compose_file":"services: {}"}',
            services=[],
            created_at=NOW,
        )
        session.add_all([app, compose])
        await session.flush()
        cvm = Cvm(
            vm_uuid=VM_UUID,
            workspace_id=workspace_id,
            app_record_id=app.id,
            creator_id=user_id,
            name=SECRET_NAME,
            status="running",
            node_id=node.id,
            kms_id=kms.id,
            os_image_id=image.id,
            base_image=image.name,
            vcpu=1,
            memory_mb=2048,
            disk_gb=20,
            compose_hash=COMPOSE_HASH,
            instance_id=INSTANCE_ID,
            created_at=NOW,
            updated_at=NOW,
        )
        session.add(cvm)
        await session.flush()
        revision = Revision(
            workspace_id=workspace_id,
            app_record_id=app.id,
            cvm_id=cvm.id,
            user_id=user_id,
            operation_type="create",
            compose_hash=COMPOSE_HASH,
            changed=[],
            created_at=NOW,
        )
        delivery = WebhookDelivery(
            workspace_id=workspace_id,
            webhook_id=1,
            event_id="evt_1",
            event="cvm.created",
            body=b"{}",
            next_attempt_at=NOW,
            created_at=NOW,
        )
        session.add_all([revision, delivery])
        await session.flush()
        key = (await session.scalars(select(ApiKey.id).where(ApiKey.user_id == user_id))).one()
        assert (await session.scalars(select(SshKey.user_id))).one() == user_id
        return {
            "slug": "alice",
            "webhook_id": hook["id"],
            "delivery_id": encode(Kind.DELIVERY, delivery.id),
            "key_id user": ssh["id"],
            "key_id workspaces": encode(Kind.API_KEY, key),
            "user_id": encode(Kind.USER, user_id),
            "app_id": APP_ID,
            "revision_id": encode(Kind.REVISION, revision.id),
            "cvm_id": VM_UUID,
            "vm_uuid": VM_UUID,
            "kms": kms.slug,
            "contract": "phala",
            "chain": "base",
            "family": "cpu",
        }


class _Never:
    """A part that nobody without a right may reach."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was reached")


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Cloud]:
    async with cloud("sqlite", tmp_path) as made:
        never: Any = _Never()
        made.parts.lifecycle = Lifecycle(made.database, made.parts.nodes, never, never, clock=made.clock)
        yield made


def _is_shared(route: Route) -> bool:
    return route.path.removeprefix(API).startswith(SHARED)


async def test_no_route_gives_or_changes_anything_of_another_workspace(here: Cloud) -> None:
    values = await _alices_things(here)
    walk = Walk(here, values)
    client = here.client((await here.other()).api_key)
    before = await _dump(here)
    walked = 0
    for route in routes(here):
        if route.open:
            continue
        answer = await client.request(route.method, walk.path(route), **walk.body(route))
        told = f"{route.method} {route.path}: {answer.status_code} {answer.text[:200]}"
        if route.parameters and not _is_shared(route):
            assert answer.status_code in {403, 404}, told
        else:
            assert answer.status_code < 500 or answer.status_code == 503, told  # no KMS runs here
        for secret in (SECRET_NAME, "alices", VM_UUID, "1a09d706-2686", "alice@example.org"):
            assert secret not in answer.text, told
        walked += 1
    assert walked > 20
    assert await _dump(here) == before


async def test_every_way_to_name_a_cvm_or_an_app_stays_in_the_workspace(here: Cloud) -> None:
    values = await _alices_things(here)
    walk = Walk(here, values)
    client = here.client((await here.other()).api_key)
    cvm_names = [
        VM_UUID,
        "1a09d706-2686-4e0a-8b1d-323ff0e3504b",
        f"app_{APP_ID}",
        f"instance_{INSTANCE_ID}",
        f"app_{INSTANCE_ID}",
        APP_ID,
        INSTANCE_ID,
        encode(Kind.CVM, 1),
        "1",
        SECRET_NAME,
    ]
    for name, spellings in (("cvm_id", cvm_names), ("app_id", [APP_ID, f"0x{APP_ID}", f"app_{APP_ID}"])):
        for route in routes(here):
            if route.method != "GET" or name not in route.parameters or route.open or _is_shared(route):
                continue
            for spelling in spellings:
                path = walk.path(route).replace(values[name], spelling)
                answer = await client.get(path)
                assert answer.status_code in {403, 404}, f"{path}: {answer.status_code}"


async def test_every_route_but_the_open_ones_needs_a_key(here: Cloud) -> None:
    walk = Walk(here, await _alices_things(here))
    client = here.client(None)
    for route in routes(here):
        answer = await client.request(route.method, walk.path(route), **walk.body(route))
        assert (answer.status_code == 401) == (not route.open), f"{route.method} {route.path}"


async def test_a_viewer_changes_nothing(here: Cloud) -> None:
    walk = Walk(here, await _alices_things(here))
    added = await here.client().post(
        f"{API}/workspaces/alice/members",
        json={"email": "v@example.org", "username": "viewer", "role": "viewer"},
    )
    client = here.client(added.json()["api_key"])
    before = await _dump(here)
    for route in routes(here):
        path = walk.path(route)
        if route.method == "GET" or route.open or path.startswith(f"{API}/user/"):
            continue
        answer = await client.request(route.method, path, **walk.body(route))
        reads = path.endswith(("/is-allowed", "/status/batch"))
        assert reads or answer.status_code == 403, f"{route.method} {path}: {answer.status_code}"
    assert await _dump(here) == before


async def _dump(here: Cloud) -> str:
    """All that the first workspace has, as text."""
    async with here.database.read() as session:
        rows = {}
        for model in (App, Cvm, Revision, WebhookDelivery, ApiKey, SshKey):
            for row in await session.scalars(select(model)):
                if getattr(row, "workspace_id", here.first.workspace_id) == here.first.workspace_id:
                    rows[f"{model.__name__} {row.id}"] = {
                        column.key: str(getattr(row, column.key))
                        for column in model.__table__.columns
                        if column.key not in {"last_used_at", "body", "encrypted_env", "user_config"}
                    }
        return json.dumps(rows, sort_keys=True)
