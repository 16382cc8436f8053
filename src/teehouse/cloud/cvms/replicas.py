"""More CVMs of an app: copies of one, and instances with a configuration of their own (cloud-api.md 10.1, 10.3, 16).

Rules:

P1. A replica has the configuration of its source: compose file, environment, size, image. It goes to the node that
    was asked for, else to the source's, else, when that is full, to any other.
P2. Its name is the source's with the next free number behind it, unless one was given.
P3. Of an app with several CVMs the newest is copied, or the newest with the compose hash that was asked for.
P4. A compose file of its own makes another hash; with an on-chain KMS hash and device must be allowed first, else
    the change is prepared and answered with 465. The node is chosen before the contract is asked, and stays: the
    contract allows devices.
P5. What is made is what was decided over: when the source's compose file is another one by then, the copy is
    refused, prepared (ERR-01-006) or not (409).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from teehouse.cloud.apps.models import App
from teehouse.cloud.cvms.committing import new_cvm
from teehouse.cloud.cvms.compose import Compose, changed_compose, stored_compose
from teehouse.cloud.cvms.lifecycle import Lifecycle
from teehouse.cloud.cvms.models import CommitToken, Cvm
from teehouse.cloud.cvms.operations import Author, add_revision, begin, compose_body, hold_cvm, store_compose
from teehouse.cloud.cvms.provisioning import check_name, check_name_free, name_taken
from teehouse.cloud.cvms.registration import (
    INSTANCE,
    REPLICA,
    check_registered,
    gated,
    invalid,
    open_token,
    prepare,
    registration_required,
    use_token,
)
from teehouse.cloud.errors import CloudError, Detail, ErrorCode, busy, not_found
from teehouse.cloud.ids import NAME_MOST, parse_app_id, parse_hex
from teehouse.cloud.inventory.models import OsImage
from teehouse.cloud.nodes.models import Node
from teehouse.cloud.nodes.placement import Size, Wanted
from teehouse.cloud.nodes.reservations import Held, find_place, reserve
from teehouse.cloud.revisions.models import OperationType
from teehouse.cloud.workflows.spec import latest_revision
from teehouse.wire.cloud.lifecycle import CommitTokenRequest

_NUMBERED = re.compile(r"-\d{1,6}$")


@dataclass(frozen=True, slots=True)
class Copy:
    """What a replica is to be. `compose` are members of the app-compose file that differ from the source's."""

    node_id: int | None = None
    name: str | None = None
    encrypted_env: bytes | None = field(default=None, repr=False)
    compose: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def as_json(self) -> dict[str, Any]:
        """All but the environment, as a commit token keeps it."""
        return {"node_id": self.node_id, "name": self.name, "compose": dict(self.compose)}


@dataclass(frozen=True, slots=True)
class Copied:
    """The new CVM, and the operation that boots it."""

    cvm_id: int
    operation_id: int
    correlation_id: str


async def replicate(
    life: Lifecycle,
    author: Author,
    cvm: str,
    copy: Copy,
    *,
    compose_hash: str | None = None,
    prepare_only: bool = False,
) -> Copied:
    """Copy the CVM that a path calls `cvm` (rules P1 to P4). Raises `CloudError`."""
    async with life.database.read() as session:
        source = await hold_cvm(session, author.workspace_id, cvm)
        if compose_hash and parse_hex(compose_hash, 32) != source.compose_hash:
            source = await _newest(session, author, source.app_record_id, compose_hash)
    return await _copy(life, author, source, copy, kind=REPLICA, prepare_only=prepare_only)


async def add_instance(
    life: Lifecycle,
    author: Author,
    app_id: str,
    copy: Copy,
    *,
    compose_hash: str | None = None,
    prepare_only: bool = False,
) -> Copied:
    """Add an instance to an app (rules P1 to P4). Raises `CloudError`."""
    source = await _source_of_app(life, author, app_id, compose_hash)
    return await _copy(life, author, source, copy, kind=INSTANCE, prepare_only=prepare_only)


async def commit_copy(
    life: Lifecycle, caller: Author, app_record_id: int, given: CommitTokenRequest
) -> Copied:
    """Make the replica or instance of this app that a token was made for. Raises `CloudError`.

    A token of another workspace, or app, is unknown here and stays as it is.
    """
    row = await open_token(
        life, given.token, (REPLICA, INSTANCE), given.compose_hash, app_record_id=app_record_id
    )
    author = Author(row.user_id, row.workspace_id, caller.trace_id)
    async with life.database.read() as session:
        question = select(Cvm).where(Cvm.id == row.cvm_id, Cvm.deleted_at.is_(None))
        source = (await session.execute(question)).scalar_one_or_none()
        if source is None:
            raise CloudError(ErrorCode.CVM_NOT_FOUND, "CVM not found")
        _, gate_app = await gated(session, source.app_record_id)
        device = await _device(session, row.change["node_id"])
    await check_registered(life, gate_app, row.compose_hash, device, given.transaction_hash)
    copy = Copy(**row.change, encrypted_env=row.encrypted_env)
    return await _make(life, author, source.id, copy, compose_hash=row.compose_hash, token=row)


async def commit_replica(life: Lifecycle, caller: Author, cvm: str, given: CommitTokenRequest) -> Copied:
    """The same, with the app as that of the CVM that a path calls `cvm`."""
    async with life.database.read() as session:
        source = await hold_cvm(session, caller.workspace_id, cvm)
    return await commit_copy(life, caller, source.app_record_id, given)


async def commit_instance(life: Lifecycle, caller: Author, app_id: str, given: CommitTokenRequest) -> Copied:
    """The same, with the app as a path calls it."""
    async with life.database.read() as session:
        number = await _app_number(session, caller, app_id)
    return await commit_copy(life, caller, number, given)


async def _source_of_app(life: Lifecycle, author: Author, app_id: str, compose_hash: str | None) -> Cvm:
    async with life.database.read() as session:
        number = await _app_number(session, author, app_id)
        return await _newest(session, author, number, compose_hash)


async def _app_number(session: AsyncSession, author: Author, app_id: str) -> int:
    question = select(App.id).where(
        App.app_id == parse_app_id(app_id),
        App.workspace_id == author.workspace_id,
        App.deleted_at.is_(None),
    )
    number = (await session.execute(question)).scalar_one_or_none()
    if number is None:
        raise not_found("app")
    return number


async def _newest(session: AsyncSession, author: Author, app_record_id: int, compose_hash: str | None) -> Cvm:
    """Rule P3."""
    question = select(Cvm).where(
        Cvm.app_record_id == app_record_id,
        Cvm.workspace_id == author.workspace_id,
        Cvm.deleted_at.is_(None),
    )
    if compose_hash:
        question = question.where(Cvm.compose_hash == parse_hex(compose_hash, 32))
    found = (await session.execute(question.order_by(Cvm.id.desc()).limit(1))).scalar_one_or_none()
    if found is None:
        raise CloudError(
            ErrorCode.CVM_NOT_FOUND,
            "The app has no such CVM to copy",
            details=[Detail(field="compose_hash", value=compose_hash)] if compose_hash else [],
        )
    return found


async def _copy(
    life: Lifecycle, author: Author, source: Cvm, copy: Copy, *, kind: str, prepare_only: bool
) -> Copied:
    """Rule P4, then the copy."""
    if copy.name is not None:
        check_name(copy.name)
    async with life.database.read() as session:
        app, gate_app = await gated(session, source.app_record_id)
        compose = await _compose(session, source, copy)
        device = None
        if gate_app.chain_id is not None:
            place = await find_place(session, await _wanted(session, source, copy))
            copy = replace(copy, node_id=place.node_id)
            device = await _device(session, place.node_id)
    status = await life.gate.status(gate_app, compose.compose_hash, device)
    if status is not None and (prepare_only or not status.is_allowed):
        now = life.now()
        async with life.database.write() as session:
            await store_compose(session, compose, now)
            prepared = await prepare(
                session,
                author,
                kind,
                app_record_id=source.app_record_id,
                cvm_id=source.id,
                compose_hash=compose.compose_hash,
                change=copy.as_json(),
                encrypted_env=copy.encrypted_env,
                now=now,
            )
        path = f"/cvms/{source.vm_uuid_text}/commit-replica"
        if kind == INSTANCE:
            path = f"/apps/{app.app_id}/instances"
        raise registration_required(life, app, prepared, status, device_id=device, commit_path=path)
    return await _make(life, author, source.id, copy, compose_hash=compose.compose_hash)


async def _make(
    life: Lifecycle,
    author: Author,
    source_id: int,
    copy: Copy,
    *,
    compose_hash: str,
    token: CommitToken | None = None,
) -> Copied:
    """The copy, with this compose hash (rule P5)."""
    name = copy.name or ""
    try:
        async with life.database.write() as session:
            question = select(Cvm).where(Cvm.id == source_id, Cvm.deleted_at.is_(None))
            source = (await session.execute(question)).scalar_one_or_none()
            if source is None:
                raise CloudError(ErrorCode.CVM_NOT_FOUND, "CVM not found")
            name = copy.name or await _free_name(session, source)
            if copy.name is not None:
                await check_name_free(session, source.workspace_id, name)
            if (await _compose(session, source, copy)).compose_hash != compose_hash:
                if token is not None:
                    raise invalid("The stored compose file has changed since")
                raise busy("The CVM was changed at the same moment; try again")
            if token is not None:
                await use_token(session, token, life.now())
            copied = await _write(life, session, author, source, copy, name=name)
    except IntegrityError as error:
        raise name_taken(name) from error
    await life.workflows.start(copied.operation_id)
    return copied


async def _write(
    life: Lifecycle, session: AsyncSession, author: Author, source: Cvm, copy: Copy, *, name: str
) -> Copied:
    now = life.now()
    compose = await _compose(session, source, copy)
    await store_compose(session, compose, now)
    app = (await session.execute(select(App).where(App.id == source.app_record_id))).scalar_one()
    wanted = await _wanted(session, source, copy)
    image = (await session.execute(select(OsImage).where(OsImage.id == source.os_image_id))).scalar_one()
    cvm = new_cvm(author, app, compose, image, node_id=wanted.node_id or 0, now=now)
    cvm.node_id = None
    cvm.name, cvm.kms_id, cvm.instance_type = name, source.kms_id, source.instance_type
    cvm.vcpu, cvm.memory_mb = source.vcpu, source.memory_mb
    cvm.disk_gb, cvm.gpus = source.disk_gb, source.gpus
    cvm.shutdown_timeout, cvm.allow_force_stop = source.shutdown_timeout, source.allow_force_stop
    session.add(cvm)
    await session.flush()
    held: Held = await reserve(session, wanted, now=now, cvm_id=cvm.id)
    cvm.node_id = held.node_id
    operation = await begin(
        session, cvm, OperationType.REPLICATE, author, now=now, request={"source": source.id}
    )
    before = await latest_revision(session, source.id)
    box = copy.encrypted_env
    if box is None:
        box = before.encrypted_env if before else b""
    await add_revision(
        session,
        cvm,
        OperationType.REPLICATE,
        author,
        now=now,
        changed=sorted(copy.compose),
        encrypted_env=box,
        user_config=before.user_config if before else "",
        correlation_id=operation.correlation_id,
    )
    return Copied(cvm.id, operation.id, operation.correlation_id)


async def _wanted(session: AsyncSession, source: Cvm, copy: Copy) -> Wanted:
    """Where the replica goes (rule P1)."""
    size = Size(source.vcpu, source.memory_mb, source.disk_gb, source.gpus)
    asked = Wanted(
        workspace_id=source.workspace_id,
        size=size,
        node_id=copy.node_id if copy.node_id is not None else source.node_id,
        kms_id=source.kms_id,
        image=source.base_image,
    )
    if copy.node_id is not None:
        try:
            await find_place(session, asked)
        except CloudError as error:
            if error.code is ErrorCode.OS_IMAGE_NOT_COMPATIBLE:
                raise CloudError(
                    ErrorCode.REPLICA_IMAGE_NOT_AVAILABLE,
                    "The node does not have the CVM's OS image",
                    details=[Detail(field="node_id", value=copy.node_id)],
                ) from error
            raise
        return asked
    try:
        await find_place(session, asked)
    except CloudError:
        return Wanted(
            workspace_id=source.workspace_id,
            size=size,
            kms_id=source.kms_id,
            image=source.base_image,
        )
    return asked


async def _compose(session: AsyncSession, source: Cvm, copy: Copy) -> Compose:
    body = await compose_body(session, source.compose_hash)
    return changed_compose(body, copy.compose) if copy.compose else stored_compose(body)


async def _device(session: AsyncSession, node_id: int) -> str | None:
    return (await session.execute(select(Node.device_id).where(Node.id == node_id))).scalar()


async def _free_name(session: AsyncSession, source: Cvm) -> str:
    """Rule P2."""
    stem = _NUMBERED.sub("", source.name)[: NAME_MOST - 7].rstrip("-") or "instance"
    question = select(Cvm.name).where(
        Cvm.workspace_id == source.workspace_id, Cvm.deleted_at.is_(None), Cvm.name.startswith(f"{stem}-")
    )
    taken = set((await session.execute(question)).scalars())
    number = 2
    while f"{stem}-{number}" in taken:
        number += 1
    return f"{stem}-{number}"
