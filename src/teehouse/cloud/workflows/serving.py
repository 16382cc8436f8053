"""All that a replica of the control plane does beside answering, as one lifespan for `create_app`.

Rules:

1. Workflows are launched before the first request, and closed after the last.
2. Every worker does every chore: each claims what it works on, or may be done twice.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from teehouse.cloud.cvms.lifecycle import Lifecycle
from teehouse.cloud.housekeeping import forget_expired
from teehouse.cloud.nodes.reservations import expire
from teehouse.cloud.parts import CloudParts
from teehouse.cloud.webhooks.delivery import HttpSender, WebhookWorker
from teehouse.cloud.workflows.executors import Claims
from teehouse.cloud.workflows.following import NodeFollowers, in_background, repeat
from teehouse.cloud.workflows.observing import Reconciler

SWEEP: Final = 5.0  # seconds between the rounds of each chore
NODES: Final = 5.0
RECONCILE: Final = 60.0
WEBHOOKS: Final = 1.0
EXPIRE: Final = 30.0
FORGET: Final = 600.0


@asynccontextmanager
async def working(parts: CloudParts) -> AsyncIterator[None]:
    """The lifespan. Nothing is done where the parts have no `lifecycle`."""
    life = parts.lifecycle
    if life is None:
        yield
        return
    reconciler = Reconciler(life.database, life.nodes, life.workflows, life.clock)
    sender = HttpSender()
    webhooks = WebhookWorker(life.database, parts.settings, life.clock, sender)
    claims = None if life.database.dialect == "sqlite" else Claims(life.database.engine)
    followers = NodeFollowers(life.database, life.nodes, reconciler, life.clock, claims=claims)
    await life.workflows.launch()
    try:
        async with in_background(
            repeat("nodes", NODES, followers.look),
            repeat("sweep", SWEEP, life.workflows.sweep),
            repeat("reconcile", RECONCILE, reconciler.run_once),
            repeat("webhooks", WEBHOOKS, webhooks.run_once),
            repeat("expire", EXPIRE, lambda: _expire(life)),
            repeat("forget", FORGET, lambda: forget_expired(life.database, life.now())),
        ):
            yield
    finally:
        await followers.close()
        await life.workflows.close()
        await sender.close()


async def _expire(life: Lifecycle) -> int:
    """Places held beyond their time."""
    async with life.database.write() as session:
        return await expire(session, life.now())
