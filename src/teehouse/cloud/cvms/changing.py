"""Changes of a CVM's configuration: some fields, applied at once (cloud-api.md 10.3, 13.3, 16).

Rules:

H1. Only fields that a request says are changed. What is then as before is no change; the answer names the fields
    that are not, and a change of nothing writes nothing and restarts nothing.
H2. The compose file is made anew from the stored one, and its hash decides whether it changed.
H3. A change that makes a new compose hash of an on-chain app waits for the hash to be registered, unless the
    contract allows it, and the CVM's device, already. It is prepared and answered with 465.
H4. Everything is one transaction: place, row, compose file, revision, operation. A refusal leaves all as it was.
H5. A change of what the node is told restarts a CVM that runs; a change of the control plane's own settings
    (`shutdown_timeout`, `allow_force_stop`) does not.
H6. Disks only grow.
H7. With `allow_restart` false, a change that restarts the CVM (rule H5) is refused; a CVM that is stopped has
    nothing to restart.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from teehouse.cloud.allowlists.gate import OnchainStatus
from teehouse.cloud.cvms.committing import compose_columns
from teehouse.cloud.cvms.comparing import Change, Found, compare
from teehouse.cloud.cvms.lifecycle import Lifecycle
from teehouse.cloud.cvms.models import Cvm
from teehouse.cloud.cvms.operations import (
    Author,
    add_revision,
    begin,
    check_idle,
    hold_cvm,
    hold_cvm_number,
    new_correlation_id,
    store_compose,
)
from teehouse.cloud.cvms.registration import (
    UPDATE,
    Prepared,
    check_registered,
    gated,
    newest_update,
    open_token,
    prepare,
    registration_required,
    use_token,
)
from teehouse.cloud.errors import CloudError, ErrorCode
from teehouse.cloud.nodes.models import Node
from teehouse.cloud.nodes.placement import Size
from teehouse.cloud.nodes.reservations import resize
from teehouse.cloud.revisions.models import OperationType
from teehouse.cloud.webhooks.models import WebhookEvent
from teehouse.cloud.webhooks.outbox import tell

_COMPOSE_KINDS: Final[Mapping[str, OperationType]] = {
    "docker_compose_file": OperationType.UPDATE_COMPOSE,
    "bash_script": OperationType.UPDATE_COMPOSE,
    "pre_launch_script": OperationType.UPDATE_PRE_LAUNCH_SCRIPT,
    "allowed_envs": OperationType.UPDATE_ENV,
    "encrypted_env": OperationType.UPDATE_ENV,
    "public_logs": OperationType.UPDATE_VISIBILITY,
    "public_sysinfo": OperationType.UPDATE_VISIBILITY,
    "public_tcbinfo": OperationType.UPDATE_VISIBILITY,
    "vcpu": OperationType.UPDATE_RESOURCES,
    "memory": OperationType.UPDATE_RESOURCES,
    "disk_size": OperationType.UPDATE_RESOURCES,
    "gpus": OperationType.UPDATE_RESOURCES,
    "instance_type": OperationType.UPDATE_RESOURCES,
    "image": OperationType.UPDATE_OS_IMAGE,
}


@dataclass(frozen=True, slots=True)
class Applied:
    """What came of a change. `operation_id` is None where nothing runs anew."""

    cvm_id: int
    correlation_id: str
    status: str
    changed: tuple[str, ...]
    operation_id: int | None = None

    @property
    def message(self) -> str:
        """One sentence."""
        if not self.changed:
            return "Nothing changed"
        how = "the CVM is being updated" if self.operation_id is not None else "the CVM goes on as it is"
        return f"Changed: {', '.join(self.changed)}; {how}"


async def change_cvm(
    life: Lifecycle, author: Author, cvm: str, change: Change, *, prepare_only: bool = False
) -> Applied:
    """Apply the change (rules H1 to H7). Raises `CloudError`; 465 for one that was prepared.

    `prepare_only` prepares an on-chain app's change also when the contract allows the hash already.
    """
    async with life.database.read() as session:
        found = await compare(session, await hold_cvm(session, author.workspace_id, cvm), change)
        app, gate_app = await gated(session, found.cvm.app_record_id)
        device = await _device(session, found.cvm)
    status: OnchainStatus | None = None
    if found.compose_changed:
        status = await life.gate.status(gate_app, found.compose.compose_hash, device)
    if status is not None and (prepare_only or not status.is_allowed):
        prepared = await _prepare(life, author, found, change)
        path = f"/cvms/{found.cvm.vm_uuid_text}/commit-update"
        raise registration_required(life, app, prepared, status, device_id=device, commit_path=path)
    return await _apply(life, author, found.cvm.id, change, base=found.cvm.compose_hash)


async def commit_update(
    life: Lifecycle, token: str, compose_hash: str | None, transaction_hash: str | None, *, cvm: str | None
) -> Applied:
    """Apply the change that a token was made for. `cvm` is what the path calls its CVM. Raises `CloudError`."""
    row = await open_token(life, token, (UPDATE,), compose_hash)
    author = Author(row.user_id, row.workspace_id)
    async with life.database.read() as session:
        held = await hold_cvm_number(session, row.workspace_id, row.cvm_id or 0)
        if cvm is not None and (await hold_cvm(session, row.workspace_id, cvm)).id != held.id:
            raise CloudError(ErrorCode.CVM_NOT_FOUND, "CVM not found")
        _, gate_app = await gated(session, held.app_record_id)
        device = await _device(session, held)
    await check_registered(life, gate_app, row.compose_hash, device, transaction_hash)
    change = Change.from_json(row.change, row.encrypted_env)
    return await _apply(life, author, held.id, change, token=row)


async def commit_by_hash(
    life: Lifecycle, author: Author, cvm: str, compose_hash: str, transaction_hash: str | None
) -> Applied:
    """The second phase without a token: the newest prepared change of the CVM, if its hash is this one."""
    async with life.database.read() as session:
        held = await hold_cvm(session, author.workspace_id, cvm)
        row = await newest_update(session, held.id, compose_hash, life.now())
        _, gate_app = await gated(session, held.app_record_id)
        device = await _device(session, held)
    await check_registered(life, gate_app, row.compose_hash, device, transaction_hash)
    return await _apply(life, author, held.id, Change.from_json(row.change, row.encrypted_env), token=row)


async def _prepare(life: Lifecycle, author: Author, found: Found, change: Change) -> Prepared:
    now = life.now()
    async with life.database.write() as session:
        await store_compose(session, found.compose, now)
        await tell(session, found.cvm.id, WebhookEvent.UPDATE_PENDING_APPROVAL, now=now)
        return await prepare(
            session,
            author,
            UPDATE,
            app_record_id=found.cvm.app_record_id,
            cvm_id=found.cvm.id,
            compose_hash=found.compose.compose_hash,
            change=change.as_json(),
            encrypted_env=change.encrypted_env,
            now=now,
        )


async def _apply(
    life: Lifecycle,
    author: Author,
    cvm_id: int,
    change: Change,
    *,
    base: str | None = None,
    token: Any = None,
) -> Applied:
    """Rule H4. `base` is the compose hash that the gate was asked about a change of."""
    now = life.now()
    async with life.database.write() as session:
        cvm = await hold_cvm_number(session, author.workspace_id, cvm_id)
        await check_idle(session, cvm)
        found = await compare(session, cvm, change)
        if token is not None:
            if found.compose.compose_hash != token.compose_hash:
                raise CloudError(
                    ErrorCode.HASH_INVALID_OR_EXPIRED,
                    "The stored compose file has changed since; prepare the change again",
                )
            await use_token(session, token, now)
        elif base is not None and base != cvm.compose_hash:
            raise CloudError(None, "The CVM was changed at the same moment; try again", status=409)
        applied = await _write(session, author, found, change, now)
    if applied.operation_id is not None:
        await life.workflows.start(applied.operation_id)
    return applied


async def _write(
    session: AsyncSession, author: Author, found: Found, change: Change, now: datetime
) -> Applied:
    cvm = found.cvm
    changed = found.changed
    if not changed:
        return Applied(cvm.id, new_correlation_id(), cvm.status, ())
    if found.compose_changed:
        await store_compose(session, found.compose, now)
        cvm.compose_hash = found.compose.compose_hash
        for name, value in compose_columns(found.compose).items():
            setattr(cvm, name, value)
    size = found.chosen.size
    if size != Size(cvm.vcpu, cvm.memory_mb, cvm.disk_gb, cvm.gpus):
        await resize(session, cvm.id, size)
        cvm.vcpu, cvm.memory_mb, cvm.disk_gb, cvm.gpus = size.parts()
    cvm.instance_type = found.chosen.instance_type
    if found.image is not None:
        cvm.os_image_id, cvm.base_image = found.image.id, found.image.name
    for name, value in change.settings.items():
        setattr(cvm, name, value)
    cvm.updated_at = now
    kind = kind_of(changed)
    operation = None
    if found.needs_node:
        operation = await begin(session, cvm, kind, author, now=now, request={"changed": changed})
    correlation_id = operation.correlation_id if operation else new_correlation_id()
    await add_revision(
        session,
        cvm,
        kind,
        author,
        now=now,
        changed=changed,
        encrypted_env=found.encrypted_env,
        user_config=found.user_config,
        correlation_id=correlation_id,
    )
    return Applied(cvm.id, correlation_id, cvm.status, tuple(changed), operation.id if operation else None)


def kind_of(changed: list[str]) -> OperationType:
    """What kind of change this is: one of its own kind where all fields are of it, else UPDATE."""
    kinds = {_COMPOSE_KINDS.get(name, OperationType.UPDATE) for name in changed}
    return kinds.pop() if len(kinds) == 1 else OperationType.UPDATE


async def _device(session: AsyncSession, cvm: Cvm) -> str | None:
    question = select(Node.device_id).where(Node.id == cvm.node_id)
    return (await session.execute(question)).scalar_one_or_none()
