"""A control plane that changes CVMs, on a node in memory: what the tests of life cycles stand on."""

import asyncio
import atexit
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import select

from support import postgres
from support.cloud_inventory_support import NOW, add_inventory, add_node, add_user, add_workspace
from support.node_memory import MemoryNode
from teehouse.base.clock import FixedClock
from teehouse.cloud.cvms.committing import Committed, commit
from teehouse.cloud.cvms.lifecycle import Lifecycle
from teehouse.cloud.cvms.models import Cvm
from teehouse.cloud.cvms.operations import Author
from teehouse.cloud.cvms.provisioning import provision
from teehouse.cloud.db.engine import Database, open_database, sqlite_url
from teehouse.cloud.db.migrate import upgrade
from teehouse.cloud.inventory.seeding import seed_instance_types
from teehouse.cloud.nodes.directory import KnownNodes
from teehouse.cloud.workflows.inline import InlineWorkflows
from teehouse.cloud.workflows.steps import Steps
from teehouse.node.api import Node
from teehouse.wire.cloud.lifecycle import CommitRequest, ProvisionRequest

YAML = "services:\n  web:\n    image: nginx:1.27-alpine\n    ports:\n      - 80:80\n"
BOX = "ab" * 80


class FixedKeys:
    """The same key for every app."""

    async def environment_key(self, kms_id: int, app_id: str) -> str:
        return "e3" * 32


@dataclass
class Life:
    """The control plane, its node, and who asks."""

    life: Lifecycle
    database: Database
    node: Any
    author: Author
    other: Author
    clock: FixedClock
    workflows: Any
    extra: dict[str, Any] = field(default_factory=dict)

    async def deploy(self, name: str = "my-app", **given: Any) -> Committed:
        """A CVM that runs."""
        committed = await self.begin(name, **given)
        await self.idle()
        return committed

    async def begin(self, name: str = "my-app", **given: Any) -> Committed:
        request = provision_request(name, **given)
        found = await provision(self.life, self.author, request)
        return await commit(
            self.life,
            self.author,
            CommitRequest(
                app_id=found.provision.app_id, compose_hash=found.provision.compose_hash, encrypted_env=BOX
            ),
        )

    async def cvm(self, number: int) -> Cvm:
        async with self.database.read() as session:
            return (await session.execute(select(Cvm).where(Cvm.id == number))).scalar_one()

    async def rows(self, model: Any) -> list[Any]:
        async with self.database.read() as session:
            return list((await session.execute(select(model).order_by(model.id))).scalars())

    async def idle(self) -> None:
        await asyncio.wait_for(self.workflows.idle(), 20)


def provision_request(name: str = "my-app", **given: Any) -> ProvisionRequest:
    compose = given.pop("compose_file", {"docker_compose_file": YAML, "name": ""})
    return ProvisionRequest(name=name, compose_file=compose, **given)


async def fill(database: Database, *, quota: dict[str, int] | None = None) -> tuple[int, Author, Author]:
    """Two workspaces, one node; its number and an author of each workspace."""
    await upgrade(database)
    async with database.write() as session:
        alice = await add_workspace(session, **(quota or {}))
        mallory = await add_workspace(session, "mallory")
        user, other = await add_user(session), await add_user(session, "mallory")
        await seed_instance_types(session)
        image, kms = await add_inventory(session)
        node = await add_node(session, image, kms)
        return node.id, Author(user.id, alice.id, "7a" * 16), Author(other.id, mallory.id)


_template: dict[str, Any] = {}


async def open_filled(path: Path, quota: dict[str, int] | None) -> tuple[Database, int, Author, Author]:
    """A filled database in a file: a copy of one that was made once per process, unless quotas are asked for."""
    if quota is not None:
        database = open_database(sqlite_url(path))
        return database, *(await fill(database, quota=quota))
    if not _template:
        folder = Path(tempfile.mkdtemp(prefix="teehouse-life-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        database = open_database(sqlite_url(folder / "template.sqlite"))
        _template["rows"] = await fill(database)
        await database.dispose()
        _template["path"] = folder / "template.sqlite"
    shutil.copyfile(_template["path"], path)
    return open_database(sqlite_url(path)), *_template["rows"]


@asynccontextmanager
async def living(
    tmp_path: Path, *, node: Node | None = None, quota: dict[str, int] | None = None, kind: str = "sqlite"
) -> AsyncIterator[Life]:
    """A control plane on a database of its own, with operations carried on in this process."""
    clock = FixedClock(NOW)
    if kind == "sqlite":
        database, node_id, author, other = await open_filled(tmp_path / "cloud.sqlite", quota)
    else:
        postgres.require()
        database = open_database(postgres.shared_cluster().new_database())
        node_id, author, other = await fill(database, quota=quota)
    known: Any = node or MemoryNode(clock)
    nodes = KnownNodes({node_id: known})
    steps = Steps(database, nodes, clock, patience=0.2, limit=5)
    workflows = InlineWorkflows(database, steps)
    life = Lifecycle(
        database, nodes, workflows, FixedKeys(), clock=clock, public_url="https://cloud.example.org"
    )
    try:
        yield Life(life, database, known, author, other, clock, workflows)
    finally:
        await workflows.close()
        await database.dispose()
