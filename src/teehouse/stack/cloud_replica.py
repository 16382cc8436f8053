"""`teehouse cloud serve`: a replica of the control plane, until it is stopped.

Rules:

1. It serves a database that `teehouse cloud init` has brought to its version, with the secret key of all replicas,
   and with the bundle of each node that is registered; else it does not start. What it lacks later, /readyz says.
2. On SQLite there is one process, which is all of it. On PostgreSQL there may be any number, of any role.
3. Nothing that a second replica would need to know is kept in the process: what is kept are connections, and copies
   with bounds (docs/operations/control-plane.md).
4. When it is to stop, it says so on /readyz first, and serves `drain` seconds more. What is under way then is gone
   on with by another worker, or at the next start.
"""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from teehouse.base.clock import Clock, SystemClock
from teehouse.base.findings import misuse
from teehouse.chain.reader import Reader
from teehouse.cli.chain_options import ChainOptions
from teehouse.cloud import installation
from teehouse.cloud.allowlists.authorisations import Authorisations, NoAuthorisations
from teehouse.cloud.db import migrate
from teehouse.cloud.db.engine import Database
from teehouse.cloud.http.logs import configure_logs
from teehouse.cloud.workflows.following import in_background, repeat
from teehouse.guest.sockets import bind_tcp
from teehouse.node.bundle import parse_address
from teehouse.stack.addresses import http_url
from teehouse.stack.auth_list import FileAuthorisations
from teehouse.stack.cloud_nodes import BundledNodes
from teehouse.stack.cloud_place import Place, alone, reached
from teehouse.stack.cloud_serving import CloudPlan, Role, serving_cloud
from teehouse.stack.serving import end_start, run_until_stopped

LOOK: Final = 5.0  # seconds between two looks at nodes and their bundles


@dataclass(frozen=True, slots=True)
class ReplicaOptions:
    """The options of `teehouse cloud serve`. `public_url` is None for the address that is served; `drain` in seconds.

    `auth_file` is the list that an off-chain KMS goes by; None where somebody else keeps it.
    """

    place: Place
    tcp: str
    role: Role = Role.ALL
    public_url: str | None = None
    auth_file: Path | None = None
    chain: ChainOptions | None = None
    drain: float = 0.0


def run_replica(options: ReplicaOptions) -> None:
    """Serve until SIGINT or SIGTERM. Raises `TeehouseError`."""
    configure_logs()
    run_until_stopped(lambda stop: serve_replica(options, SystemClock(), stop, _say))


async def serve_replica(
    options: ReplicaOptions, clock: Clock, stop: asyncio.Event, ready: Callable[[Role, str], None]
) -> None:
    """Serve until `stop` is set; `ready` hears of the role and the address. Raises `TeehouseError`."""
    address = parse_address(options.tcp)
    async with AsyncExitStack() as stack:
        listening = bind_tcp(address)
        stack.callback(listening.close)
        served = http_url(listening)
        settings = options.place.settings(public_url=options.public_url or served)
        database = await stack.enter_async_context(reached(settings))
        stack.enter_context(alone(database))
        _check_role(options.role, database)
        await migrate.check(database)
        async with database.read() as session:
            await installation.check(session, settings)
        nodes = BundledNodes(database, options.place.folder, clock)
        stack.push_async_callback(nodes.close)
        await _all_reachable(nodes)
        plan = CloudPlan(
            settings,
            clock,
            nodes,
            _authorisations(options.auth_file),
            chains=await _chains(options.chain),
            role=options.role,
        )
        parts = await stack.enter_async_context(serving_cloud(plan, database, listening))
        parts.checks["nodes"] = nodes.trouble
        async with in_background(repeat("bundles", LOOK, nodes.look)):
            end_start()
            ready(options.role, served)
            await stop.wait()
            parts.checks["process"] = lambda: "stopping"  # rule 4
            await asyncio.sleep(options.drain)


def _check_role(role: Role, database: Database) -> None:
    """Rule 2."""
    if database.dialect == "sqlite" and role is not Role.ALL:
        raise misuse(
            "cloud.role",
            "role of a control plane on SQLite",
            expected=Role.ALL.value,
            found=role.value,
            remedy="take PostgreSQL to serve the API and to work in different processes",
        )


async def _all_reachable(nodes: BundledNodes) -> None:
    """Rule 1."""
    await nodes.look()
    trouble = nodes.trouble()
    if trouble is not None:
        raise misuse(
            "cloud.node-bundle",
            "the bundles of the nodes",
            expected="one for each node, in this replica's folder",
            found=trouble,
            remedy="copy `nodes` from another replica, or make it with `teehouse node bundle --controller`",
        )


def _authorisations(path: Path | None) -> Authorisations:
    return NoAuthorisations() if path is None else FileAuthorisations(path)


async def _chains(options: ChainOptions | None) -> dict[int, Reader]:
    if options is None:
        return {}
    reader = await options.open()
    return {reader.chain_id: reader}


def _say(role: Role, url: str) -> None:
    what = {Role.ALL: "control plane", Role.API: "API", Role.WORKER: "worker"}[role]
    print(f"{what} at {url}", flush=True)  # noqa: T201 - what a user waits for
