"""The control plane put together: database, workflows and API on one socket (design.md 4, 6).

Rules:

1. The database is brought to this version's tables before anything is asked of it. A SQLite file is its owner's alone.
2. Workflows begin before the first request is answered and end after the last; what is under way then stays
   recorded, and is gone on with at the next start.
3. Apps on chain are changed where a reader of their chain is there, and refused where it is not. One answer of a
   chain, however many reads it takes, has `CHAIN_SECONDS`; a transaction is waited for `PATIENCE` seconds.
4. One process is all of it, or a part: the API, which writes down what is to be done, or a worker, which does it and
   answers on /healthz, /readyz and /metrics alone.
"""

import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from pathlib import Path

from teehouse.base.clock import Clock
from teehouse.base.files import PRIVATE
from teehouse.base.listener import Listener
from teehouse.chain.reader import Reader
from teehouse.cloud.allowlists.authorisations import Authorisations
from teehouse.cloud.allowlists.chain_gate import ChainGate
from teehouse.cloud.allowlists.gate import OffChainGate
from teehouse.cloud.allowlists.onchain import OnchainContracts
from teehouse.cloud.attestations.serving import reading_agents
from teehouse.cloud.cvms.lifecycle import Lifecycle
from teehouse.cloud.db.engine import Database, open_database, sqlite_url
from teehouse.cloud.db.migrate import upgrade
from teehouse.cloud.http.app import create_app
from teehouse.cloud.inventory.env_keys import AskedKmsKeys, EnvironmentKeysByKms
from teehouse.cloud.nodes.directory import NodeDirectory
from teehouse.cloud.parts import CloudParts
from teehouse.cloud.settings import CloudSettings
from teehouse.cloud.workflows.announcing import AnnouncedWorkflows, hearing
from teehouse.cloud.workflows.api import Workflows
from teehouse.cloud.workflows.durable import DbosWorkflows
from teehouse.cloud.workflows.serving import working
from teehouse.cloud.workflows.steps import Steps

IDENT = "Teehouse control plane"


class Role(Enum):
    """What a process is (rule 4)."""

    ALL = "all"
    API = "api"
    WORKER = "worker"


CHAIN_SECONDS = 10.0
PATIENCE = 15.0
PAUSE = 0.5  # seconds between two looks for a transaction


@dataclass(frozen=True, slots=True)
class CloudPlan:
    """What a control plane is made of. `headers` go into every answer.

    `chains` are the readers of the chains that apps are on, by chain id; the control plane closes them.
    """

    settings: CloudSettings
    clock: Clock
    nodes: NodeDirectory
    authorisations: Authorisations
    headers: Sequence[tuple[str, str]] = ()
    chains: Mapping[int, Reader] = field(default_factory=dict)
    role: Role = Role.ALL


def sqlite_database(path: Path) -> str:
    """The URL of a SQLite database in a file, which is made when it is missing (rule 1). Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE))
    path.chmod(PRIVATE)  # its journals get the same mode
    return sqlite_url(path)


@asynccontextmanager
async def opened_database(settings: CloudSettings) -> AsyncIterator[Database]:
    """The database with this version's tables. Raises `MisuseError`, and what the database raises."""
    database = open_database(settings.database_url, pool_size=settings.database_pool_size)
    try:
        await upgrade(database)
        yield database
    finally:
        await database.dispose()


@asynccontextmanager
async def serving_cloud(
    plan: CloudPlan, database: Database, listening: socket.socket
) -> AsyncIterator[CloudParts]:
    """Serve on `listening`, which is closed in the end, for as long as the context lasts (rule 2)."""
    contracts = OnchainContracts(plan.chains, deadline=CHAIN_SECONDS) if plan.chains else None
    parts = cloud_parts(plan, database, contracts)
    app = create_app(
        parts,
        lifespans={
            Role.ALL: (reading_agents, working, hearing),
            Role.API: (reading_agents,),
            Role.WORKER: (working, hearing),
        }[plan.role],
        **({"signed": (), "public": (), "pages": ()} if plan.role is Role.WORKER else {}),
    )
    listener = Listener(app, [listening], ident=IDENT, headers=plan.headers)
    try:
        async with app.router.lifespan_context(app):
            try:
                await listener.start()
                yield parts
            finally:
                await listener.stop()
    finally:
        if contracts is not None:
            await contracts.aclose()


def cloud_parts(plan: CloudPlan, database: Database, contracts: OnchainContracts | None = None) -> CloudParts:
    """The parts of the application, its workflows on DBOS; `contracts` over the plan's chains (rule 3)."""
    settings, clock = plan.settings, plan.clock
    keys = AskedKmsKeys(clock)
    checks: dict[str, Callable[[], str | None]] = {}
    workflows: Workflows
    if plan.role is Role.API:
        workflows = AnnouncedWorkflows(database)
    else:
        steps = Steps(database, plan.nodes, clock, authorisations=plan.authorisations)
        workflows = durable = DbosWorkflows(database, steps, clock)
        checks["workflows"] = durable.trouble
    lifecycle = Lifecycle(
        database,
        plan.nodes,
        workflows,
        EnvironmentKeysByKms(database, keys),
        OffChainGate() if contracts is None else ChainGate(contracts, patience=PATIENCE, pause=PAUSE),
        clock,
        provision_time=timedelta(seconds=settings.provision_seconds),
        reservation_time=timedelta(seconds=settings.reservation_seconds),
        public_url=settings.public_url,
    )
    return CloudParts(
        settings,
        database,
        clock=clock,
        kms_keys=keys,
        nodes=plan.nodes,
        contracts=contracts,
        kms_contracts=contracts,
        lifecycle=lifecycle,
        checks=checks,
    )
