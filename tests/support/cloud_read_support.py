"""A control plane with rows to read, and a client that asks it in process."""

import atexit
import hashlib
import itertools
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from pydantic import SecretBytes, TypeAdapter
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession

from teehouse.base.clock import FixedClock
from teehouse.cloud.accounts.keys import hash_token
from teehouse.cloud.accounts.models import ApiKey, Membership, User, Workspace
from teehouse.cloud.apps.models import App
from teehouse.cloud.cvms.models import Cvm, CvmEvent, Operation
from teehouse.cloud.db.engine import Database, open_database, sqlite_url
from teehouse.cloud.db.migrate import upgrade
from teehouse.cloud.http.app import create_app
from teehouse.cloud.inventory.models import InstanceType, KmsContract, KmsNode, OsImage
from teehouse.cloud.nodes.models import Node, NodeDevice, NodeImage
from teehouse.cloud.parts import CloudParts
from teehouse.cloud.revisions.models import ComposeFile, Revision
from teehouse.cloud.settings import CloudSettings

NOW = datetime(2026, 3, 20, 8, 0, tzinfo=UTC)
CREATED = datetime(2026, 3, 19, 10, 30, tzinfo=UTC)
KEY, VIEWER_KEY, FOREIGN_KEY = "phak_alice", "phak_viewer", "phak_mallory"
ALICE, MALLORY = 1, 2  # workspaces and users
COMPOSE_YAML = 'services:\n  web:\n    image: nginx:1.27-alpine\n    ports:\n      - "80:80"\n'
COMPOSE: dict[str, Any] = {
    "allowed_envs": ["API_KEY"],
    "docker_compose_file": COMPOSE_YAML,
    "features": ["kms", "tproxy-net"],
    "gateway_enabled": True,
    "kms_enabled": True,
    "manifest_version": 2,
    "name": "",
    "pre_launch_script": "#!/bin/sh\necho hello\n",
    "public_logs": True,
    "public_sysinfo": True,
    "runner": "docker-compose",
}
COMPOSE_TEXT = json.dumps(COMPOSE, separators=(",", ":"))
COMPOSE_HASH = hashlib.sha256(COMPOSE_TEXT.encode()).hexdigest()
DEVICE = "5c1f0e2d3a4b59687786a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0"
IMAGE_HASH = "b3c7e1f20a4d5968778695a4b3c2d1e0f1029384756a7b8c9dae0bf1c2d3e4f5"


def app_id_of(number: int) -> str:
    return hashlib.sha256(b"app %d" % number).hexdigest()[:40]


def uuid_of(number: int) -> str:
    return hashlib.sha256(b"cvm %d" % number).hexdigest()[:32]


def instance_of(number: int) -> str:
    return hashlib.sha256(b"instance %d" % number).hexdigest()[:40]


def dashed(uuid: str) -> str:
    return f"{uuid[:8]}-{uuid[8:12]}-{uuid[12:16]}-{uuid[16:20]}-{uuid[20:]}"


@dataclass
class World:
    """A control plane on a database of its own, and what to ask it with."""

    parts: CloudParts
    client: httpx.AsyncClient
    clock: FixedClock
    statements: list[str] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def database(self) -> Database:
        return self.parts.database

    async def get(
        self, path: str, version: str = "2026-06-23", key: str | None = KEY, **query: Any
    ) -> httpx.Response:
        return await self.client.get(f"/api/v1{path}", params=query, headers=_headers(version, key))

    async def post(
        self, path: str, body: Any, version: str = "2026-06-23", key: str | None = KEY
    ) -> httpx.Response:
        return await self.client.post(f"/api/v1{path}", json=body, headers=_headers(version, key))

    async def add(self, *rows: Any) -> None:
        async with self.database.write() as session:
            await add_rows(session, *rows)

    async def deploy(
        self, number: int, cvms: list[dict[str, Any]] | None = None, *, workspace: int = ALICE, **app: Any
    ) -> App:
        """An app `number` with CVMs; what is not said is as in the examples of cloud-api.md 11."""
        record = make_app(number, workspace, **app)
        rows = [make_cvm(next(self.numbers), record, **cvm) for cvm in ([{}] if cvms is None else cvms)]
        await self.add(record, *rows)
        return record


def _headers(version: str, key: str | None) -> dict[str, str]:
    return {"X-Phala-Version": version} | ({} if key is None else {"X-API-Key": key})


async def add_rows(session: AsyncSession, *rows: Any) -> None:
    for row in rows:
        session.add(row)
        await session.flush()


def make_app(number: int, workspace: int = ALICE, **values: Any) -> App:
    defaults: dict[str, Any] = {
        "id": number, "workspace_id": workspace, "creator_id": workspace, "app_id": app_id_of(number),
        "name": f"app-{number}", "kms_id": 1, "kms_type": "phala", "created_at": CREATED,
        "updated_at": CREATED, "env_pubkey": "e3" * 32,
    }  # fmt: skip
    return App(**defaults | values)


def make_cvm(number: int, app: App, **values: Any) -> Cvm:
    defaults: dict[str, Any] = {
        "id": number, "vm_uuid": uuid_of(number), "workspace_id": app.workspace_id, "app_record_id": app.id,
        "creator_id": app.creator_id, "name": f"cvm-{number}", "status": "running", "node_id": 1,
        "kms_id": app.kms_id, "os_image_id": 1, "base_image": "dstack-0.5.4", "instance_type": "tdx.small",
        "vcpu": 1, "memory_mb": 2048, "disk_gb": 40, "compose_hash": COMPOSE_HASH,
        "instance_id": instance_of(number), "storage_fs": "zfs", "boot_progress": "done",
        "started_at": NOW - timedelta(hours=21, minutes=30), "created_at": CREATED, "updated_at": NOW,
    }  # fmt: skip
    return Cvm(**defaults | values)


def inventory() -> list[Any]:
    """Users, workspaces, keys, nodes, images, KMSs: the off-chain one is 1, one on Base is 2."""
    rows: list[Any] = []
    for number, name in ((ALICE, "alice"), (MALLORY, "mallory")):
        rows += [
            User(id=number, username=name, email=f"{name}@example.org", created_at=CREATED),
            Workspace(id=number, slug=f"{name}-projects", name=f"{name}'s projects", created_at=CREATED),
            Membership(user_id=number, workspace_id=number, role="owner", created_at=CREATED),
        ]
    rows += [
        User(id=3, username="viewer", email="viewer@example.org", created_at=CREATED),
        Membership(user_id=3, workspace_id=ALICE, role="viewer", created_at=CREATED),
        _key(KEY, ALICE, ALICE),
        _key(VIEWER_KEY, ALICE, 3),
        _key(FOREIGN_KEY, MALLORY, MALLORY),
        KmsContract(id=1, slug="phala", contract_address="phala", k256_pubkey="02" + "17" * 32, created_at=CREATED),
        KmsContract(
            id=2, slug="base", contract_address="0x2f83172A49584C017F2B256F0FB2Dca14126Ba9C", chain_id=8453,
            created_at=CREATED,
        ),
        KmsNode(
            id=1, contract_id=1, slug="kms-phala", url="https://kms.example.org", version="v0.5.4",
            kms_type="phala", created_at=CREATED,
        ),
        KmsNode(
            id=2, contract_id=2, slug="kms-base", url="https://kms-base.example.org", version="v0.5.4",
            kms_type="base", gateway_app_id="0x" + "ab" * 20, gateway_app_url="https://gateway.example.org",
            created_at=CREATED,
        ),
        _image(1, "dstack-0.5.4", "0.5.4", os_image_hash=IMAGE_HASH),
        _image(2, "dstack-dev-0.5.4", "0.5.4", is_dev=True),
        _image(3, "dstack-0.5.5", "0.5.5"),
        _node(1, "prod5", "us-west", device_id=DEVICE, ppid="78" * 16, gateway_domain="dstack.example.org"),
        _node(2, "prod6", "eu-north"),
        _node(3, "prod7", "us-west"),
        NodeDevice(id=1, node_id=1, device_id=DEVICE, algorithm_version="v1", os_image_ids=[1, 2]),
        *(NodeImage(node_id=1, os_image_id=image) for image in (1, 2, 3)),
        InstanceType(
            id="tdx.small", name="tdx.small", family="cpu", description="1 vCPU", vcpu=1, memory_mb=2048,
            hourly_rate=Decimal("0.058"),
        ),
        ComposeFile(
            compose_hash=COMPOSE_HASH, body=COMPOSE_TEXT.encode(),
            services=[{"name": "web", "image": "nginx:1.27-alpine", "ports": [80]}],
            docker_compose_hash=hashlib.sha256(COMPOSE_YAML.encode()).hexdigest(),
            pre_launch_script_hash=None, created_at=CREATED,
        ),
    ]  # fmt: skip
    return rows


def _key(token: str, workspace: int, user: int) -> ApiKey:
    return ApiKey(
        workspace_id=workspace, user_id=user, name=token, prefix=token[:12], key_hash=hash_token(token),
        scopes=["*"], source="api", created_at=CREATED, last_used_at=NOW,
    )  # fmt: skip


def _image(number: int, name: str, version: str, **values: Any) -> OsImage:
    return OsImage(id=number, name=name, slug=name, version=version, created_at=CREATED, **values)


def _node(number: int, name: str, region: str, **values: Any) -> Node:
    return Node(
        id=number, name=name, region=region, version="v0.5.4", emulated=True, root="emulated:00", vcpu=64,
        memory_mb=131072, disk_gb=1000, slots=20, created_at=CREATED, **values,
    )  # fmt: skip


def make_revision(number: int, app: App, cvm: int, **values: Any) -> Revision:
    defaults: dict[str, Any] = {
        "id": number, "workspace_id": app.workspace_id, "app_record_id": app.id, "cvm_id": cvm,
        "user_id": app.creator_id, "operation_type": "update", "compose_hash": COMPOSE_HASH,
        "changed": ["docker_compose_file"], "trace_id": "0a" * 16, "correlation_id": f"op-{number}",
        "created_at": NOW,
    }  # fmt: skip
    return Revision(**defaults | values)


def make_operation(number: int, cvm: int, workspace: int = ALICE, **values: Any) -> Operation:
    defaults: dict[str, Any] = {
        "id": number, "workspace_id": workspace, "cvm_id": cvm, "operation_type": "restart", "target": "running",
        "phase": "stopping", "correlation_id": f"op-{number}", "request": {}, "started_at": NOW,
    }  # fmt: skip
    return Operation(**defaults | values)


def make_event(cvm: int, event_name: str, body: str, at: datetime) -> CvmEvent:
    return CvmEvent(workspace_id=ALICE, cvm_id=cvm, event=event_name, body=body, created_at=at)


@contextmanager
def counted(database: Database) -> Iterator[list[str]]:
    """The statements that the database is sent meanwhile."""
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if statement.startswith(("SELECT", "WITH")):
            sent.append(statement)

    event.listen(database.engine.sync_engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(database.engine.sync_engine, "before_cursor_execute", note)


_templates: list[Path] = []


async def _template() -> Path:
    """A database with the inventory, made once per process."""
    if not _templates:
        path = Path(tempfile.mkdtemp(prefix="teehouse-test-")) / "cloud.db"
        database = open_database(sqlite_url(path), pool_size=1)
        await upgrade(database)
        async with database.write() as session:
            await add_rows(session, *inventory())
        await database.dispose()
        _templates.append(path)
        atexit.register(shutil.rmtree, path.parent, ignore_errors=True)
    return _templates[0]


_apps: list[FastAPI] = []


def _app(parts: CloudParts) -> FastAPI:
    """The application, made once per process: its routes find the parts anew in each request."""
    if not _apps:
        _apps.append(create_app(parts))
    _apps[0].state.parts = parts
    return _apps[0]


@asynccontextmanager
async def world(directory: Path, **parts: Any) -> AsyncIterator[World]:
    """The inventory, and no apps."""
    path = directory / "cloud.db"
    url = sqlite_url(path)
    shutil.copyfile(await _template(), path)
    clock = FixedClock(NOW)
    made = CloudParts(
        settings=CloudSettings(database_url=url, secret_key=SecretBytes(bytes(32))),
        database=open_database(url, pool_size=2),
        clock=clock,
        **parts,
    )
    transport = httpx.ASGITransport(_app(made))
    async with httpx.AsyncClient(transport=transport, base_url="http://cloud.example.org") as client:
        yield World(made, client, clock)
    await made.database.dispose()


def conforms(schema: Any, answer: Any) -> None:
    """The schema takes the answer, and knows every member of it."""
    adapter: TypeAdapter[Any] = TypeAdapter(schema)
    assert adapter.dump_python(adapter.validate_python(answer), mode="json", exclude_unset=True) == answer
