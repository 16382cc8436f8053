"""A change that waits to be registered on chain, as its page shows it (cloud-api.md 13.4).

Rules:

1. Who has the token sees what waits and, where it is an update, commits it: as by the API (`registration`, rule R2).
   Replicas and instances are committed by the program that prepared them, which has a key.
2. A chain that does not answer is told in words; what is known without it is shown.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select

from teehouse.base.findings import TeehouseError
from teehouse.cloud.allowlists.gate import GatedApp, OnchainStatus
from teehouse.cloud.cvms.lifecycle import Lifecycle
from teehouse.cloud.cvms.models import Cvm
from teehouse.cloud.cvms.registration import INSTANCE, REPLICA, UPDATE, gated, open_token
from teehouse.cloud.nodes.models import Node


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits. `cvm` names the one of an update; hashes and ids are hex without `0x`.

    `status` is None where no contract was asked, for the reason that `trouble` gives.
    """

    cvm: str | None
    cvm_id: int | None
    app: GatedApp
    compose_hash: str
    device_id: str | None
    created_at: datetime
    expires_at: datetime
    status: OnchainStatus | None
    trouble: str


async def waiting(life: Lifecycle, token: str) -> Waiting:
    """What the token was made for. Raises `CloudError` ERR-01-006."""
    row = await open_token(life, token, (UPDATE, REPLICA, INSTANCE), None)
    async with life.database.read() as session:
        _, app = await gated(session, row.app_record_id)
        question = (
            select(Cvm.name, Node.device_id)
            .outerjoin(Node, Node.id == Cvm.node_id)
            .where(Cvm.id == row.cvm_id)
        )
        found = (await session.execute(question)).one_or_none() if row.kind == UPDATE else None
    cvm, device = (None, None) if found is None else found
    status, trouble = None, ""
    try:
        status = await life.gate.status(app, row.compose_hash, device)
    except TeehouseError as error:
        trouble = error.finding.sentence()
    return Waiting(
        cvm,
        None if found is None else row.cvm_id,
        app,
        row.compose_hash,
        device,
        row.created_at,
        row.expires_at,
        status,
        trouble,
    )
