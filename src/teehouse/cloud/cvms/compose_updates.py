"""Updates of a whole app-compose file in two requests: provision, then commit by hash (cloud-api.md 10.3).

Rules:

1. The file is made from the request as at a deployment, stored, and kept for this CVM under its hash.
2. The commit replaces all members: what the new file has not, the CVM has no longer.
3. With an on-chain KMS the contract must allow the hash by then; nothing is prepared here.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import joinedload

from teehouse.cloud.cvms.changing import Applied, change_cvm
from teehouse.cloud.cvms.comparing import Change
from teehouse.cloud.cvms.compose import new_compose
from teehouse.cloud.cvms.lifecycle import Lifecycle
from teehouse.cloud.cvms.models import Provision
from teehouse.cloud.cvms.operations import Author, compose_body, hold_cvm, store_compose
from teehouse.cloud.cvms.registration import check_registered, gated, invalid
from teehouse.cloud.ids import parse_hex
from teehouse.cloud.inventory.models import KmsNode
from teehouse.cloud.nodes.models import Node


@dataclass(frozen=True, slots=True)
class ProvisionedUpdate:
    """What a client needs to go on; `registered` says whether the contract allows the hash, if there is one."""

    app_id: str
    device_id: str | None
    compose_hash: str
    kms: KmsNode
    registered: bool


async def provision_update(
    life: Lifecycle, author: Author, cvm: str, given: Mapping[str, Any]
) -> ProvisionedUpdate:
    """Rule 1. Raises `CloudError`."""
    members = {name: value for name, value in given.items() if name != "update_env_vars"}
    compose = new_compose(members)
    now = life.now()
    async with life.database.write() as session:
        row = await hold_cvm(session, author.workspace_id, cvm)
        await store_compose(session, compose, now)
        session.add(
            Provision(
                workspace_id=author.workspace_id,
                user_id=author.user_id,
                kind="update",
                compose_hash=compose.compose_hash,
                name=row.name,
                node_id=row.node_id,
                kms_id=row.kms_id,
                vcpu=row.vcpu,
                memory_mb=row.memory_mb,
                disk_gb=row.disk_gb,
                settings={},
                cvm_id=row.id,
                created_at=now,
                expires_at=now + life.provision_time,
            )
        )
        app, gate_app = await gated(session, row.app_record_id)
        device = (await session.execute(select(Node.device_id).where(Node.id == row.node_id))).scalar()
        question = select(KmsNode).where(KmsNode.id == row.kms_id).options(joinedload(KmsNode.contract))
        kms = (await session.execute(question)).scalar_one()
    status = await life.gate.status(gate_app, compose.compose_hash, device)
    registered = status is None or status.compose_hash_allowed
    return ProvisionedUpdate(app.app_id, device, compose.compose_hash, kms, registered)


async def commit_provisioned(
    life: Lifecycle, author: Author, cvm: str, compose_hash: str, encrypted_env: bytes | None
) -> Applied:
    """Rules 2 and 3. Raises `CloudError`; ERR-01-006 for a hash that was not provisioned for this CVM."""
    digits = parse_hex(compose_hash, 32)
    async with life.database.read() as session:
        row = await hold_cvm(session, author.workspace_id, cvm)
        question = select(Provision.id).where(
            Provision.workspace_id == author.workspace_id,
            Provision.kind == "update",
            Provision.cvm_id == row.id,
            Provision.compose_hash == digits,
            Provision.expires_at > life.now(),
        )
        if digits is None or (await session.execute(question.limit(1))).first() is None:
            raise invalid("No compose file with this hash was provisioned for the CVM, or its time is over")
        _, gate_app = await gated(session, row.app_record_id)
        device = (await session.execute(select(Node.device_id).where(Node.id == row.node_id))).scalar()
        before = json.loads(await compose_body(session, row.compose_hash))
        after = json.loads(await compose_body(session, digits))
    await check_registered(life, gate_app, digits, device, None)
    dropped = dict.fromkeys(before.keys() - after.keys())
    change = Change(compose={**dropped, **after}, encrypted_env=encrypted_env)
    return await change_cvm(life, author, str(row.id), change)
