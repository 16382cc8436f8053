"""The second half of a deployment: the provision becomes a CVM, once (cloud-api.md 16).

Rules:

T1. A provision is committed by one guarded UPDATE, in the transaction that makes app, CVM, revision and operation.
    The same commit again, at once or later, is answered with the CVM that came of it. Of provisions with one hash
    for several contracts each commit takes another, also when they come at once.
T2. The same app id with another compose hash than it was committed with is refused (ERR-03-007), while the app
    has CVMs.
T3. A provision that is unknown or whose time is over is refused (ERR-01-006).
T4. A place that is held no longer is taken anew, on the node that was decided if it has room.
T5. With an on-chain KMS the app id is the address of the app's contract, and that contract allows the compose hash
    on the node's device first (ERR-01-008). Such a provision has no app id of its own: while the app has CVMs, it
    gets no other one this way (T2); instances are added for that.
T6. An app stays with its KMS: its keys come from there.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, cast
from uuid import uuid4

from sqlalchemy import CursorResult, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import joinedload

from teehouse.cloud.apps.models import App
from teehouse.cloud.cvms.compose import Compose, stored_compose
from teehouse.cloud.cvms.environment import parse_box
from teehouse.cloud.cvms.lifecycle import Lifecycle
from teehouse.cloud.cvms.models import Cvm, Provision
from teehouse.cloud.cvms.operations import Author, add_revision, begin, compose_body
from teehouse.cloud.cvms.provisioning import name_taken
from teehouse.cloud.cvms.registration import gated_app, not_allowed
from teehouse.cloud.cvms.sizes import kms_numbers
from teehouse.cloud.errors import CloudError, Detail, ErrorCode, not_found
from teehouse.cloud.ids import parse_app_id, parse_hex
from teehouse.cloud.inventory.models import KmsNode, OsImage
from teehouse.cloud.nodes.models import Node
from teehouse.cloud.nodes.placement import Size, Wanted
from teehouse.cloud.nodes.reservations import Held, reserve, take_over
from teehouse.cloud.revisions.models import OperationType
from teehouse.wire.cloud.lifecycle import CommitRequest

_LATEST: Final = 50  # provisions of one compose hash that a commit looks at, and takes at most a try each


@dataclass(frozen=True, slots=True)
class Committed:
    """The CVM, and the operation that boots it; none when it had been committed before."""

    cvm_id: int
    operation_id: int | None
    correlation_id: str | None


async def commit(life: Lifecycle, author: Author, request: CommitRequest) -> Committed:
    """Make the CVM (rules T1 to T5). Raises `CloudError`."""
    compose_hash = parse_hex(request.compose_hash, 32)
    app_id = None if request.app_id is None else parse_app_id(request.app_id)
    if compose_hash is None or (request.app_id is not None and app_id is None):
        raise CloudError(ErrorCode.INVALID_REQUEST, "compose_hash has 64 hex digits, app_id has 40")
    _check_addresses(request, app_id)
    box = parse_box(request.encrypted_env) or b""
    for _ in range(_LATEST):
        found = await _find(life, author, compose_hash, app_id, kms=request.kms_id)
        if found.cvm_id is not None:
            return Committed(found.cvm_id, None, None)
        await _check_allowed(life, found, app_id)
        key = await _environment_key(life, found, app_id)
        try:
            async with life.database.write() as session:
                done = await _commit(
                    life, session, author, found, request=request, app_id=app_id, box=box, key=key
                )
        except IntegrityError as error:
            raise name_taken(found.name) from error
        if done is not None:
            if done.operation_id is not None:
                await life.workflows.start(done.operation_id)
            return done
    raise _expired()


def _check_addresses(request: CommitRequest, app_id: str | None) -> None:
    """The contract is the app's own, and who deployed it has an address. Raises `CloudError` ERR-02-008."""
    wrong = None
    if request.contract_address and parse_hex(request.contract_address, 20) != app_id:
        wrong = Detail("contract_address", request.contract_address, "not the address that app_id is")
    elif request.deployer_address and parse_hex(request.deployer_address, 20) is None:
        wrong = Detail("deployer_address", request.deployer_address, "no address")
    if wrong is not None:
        raise CloudError(ErrorCode.INVALID_REQUEST, f"{wrong.field}: {wrong.message}", details=[wrong])


async def _find(
    life: Lifecycle, author: Author, compose_hash: str, app_id: str | None, *, kms: str | None
) -> Provision:
    """The provision that is meant: the newest with this hash and app id, of the KMS that was named."""
    mine = (Provision.workspace_id == author.workspace_id, Provision.kind == "create")
    async with life.database.read() as session:
        question = select(Provision).where(*mine, Provision.compose_hash == compose_hash)
        rows = list((await session.execute(question.order_by(Provision.id.desc()).limit(_LATEST))).scalars())
        named = await kms_numbers(session, kms) if kms else None
        rows = [row for row in rows if named is None or row.kms_id in named]
        fitting = [row for row in rows if app_id is None or row.app_id in {None, app_id}]
        exact = [row for row in fitting if row.app_id == app_id] or fitting
        committed = [row for row in exact if row.cvm_id is not None and row.app_id == app_id]
        for row in committed:
            alive = select(Cvm.id).where(Cvm.id == row.cvm_id, Cvm.deleted_at.is_(None))
            if (await session.execute(alive)).first() is not None:
                return row
        now = life.now()
        for row in exact:
            if row.committed_at is None and row.expires_at > now:
                return row
        if app_id is not None:
            other = select(Provision.id).where(
                *mine, Provision.app_id == app_id, Provision.committed_at.is_not(None)
            )
            if (await session.execute(other.limit(1))).first() is not None:
                raise _committed_otherwise(app_id)
    raise _expired()


async def _check_allowed(life: Lifecycle, found: Provision, app_id: str | None) -> None:
    """Rule T5."""
    async with life.database.read() as session:
        kms = await _kms(session, found)
        device = (
            await session.execute(select(Node.device_id).where(Node.id == found.node_id))
        ).scalar_one_or_none()
    if not kms.contract.chain_id:
        return
    if app_id is None:
        raise CloudError(ErrorCode.INVALID_REQUEST, "app_id is the address of the app's contract")
    status = await life.gate.status(gated_app(app_id, kms), found.compose_hash, device)
    if status is not None and not status.is_allowed:
        raise not_allowed(status, found.compose_hash, device)


async def _kms(session: AsyncSession, found: Provision) -> KmsNode:
    question = select(KmsNode).where(KmsNode.id == found.kms_id).options(joinedload(KmsNode.contract))
    return (await session.execute(question)).scalar_one()


async def _environment_key(life: Lifecycle, found: Provision, app_id: str | None) -> str | None:
    """The key that the app's environment is sealed for, to be shown; asked before anything is written."""
    wanted = found.app_id or app_id
    if wanted is None:
        return None
    async with life.database.read() as session:
        known = select(App.env_pubkey).where(App.app_id == wanted)
        if (key := (await session.execute(known)).scalar_one_or_none()) is not None:
            return str(key)
    if found.kms_id is None:
        return None
    return await life.environment_keys.environment_key(found.kms_id, wanted)


async def _commit(
    life: Lifecycle,
    session: AsyncSession,
    author: Author,
    found: Provision,
    *,
    request: CommitRequest,
    app_id: str | None,
    box: bytes,
    key: str | None,
) -> Committed | None:
    """Rule T1; None when somebody else has committed it meanwhile."""
    now = life.now()
    guarded = (
        update(Provision)
        .where(Provision.id == found.id, Provision.committed_at.is_(None), Provision.expires_at > now)
        .values(committed_at=now, app_id=found.app_id or app_id)
        .execution_options(synchronize_session=False)
    )
    if not cast("CursorResult[Any]", await session.execute(guarded)).rowcount:
        return None
    provision = (
        await session.execute(
            select(Provision).where(Provision.id == found.id).execution_options(populate_existing=True)
        )
    ).scalar_one()
    compose = stored_compose(await compose_body(session, provision.compose_hash))
    app = await _app(session, author, provision, request=request, key=key, now=now)
    held = await _place(session, provision, now)
    image = (
        await session.execute(select(OsImage).where(OsImage.id == (held.image_id or provision.os_image_id)))
    ).scalar_one()
    cvm = new_cvm(author, app, compose, image, node_id=held.node_id, now=now)
    cvm.name = provision.name
    cvm.kms_id = app.kms_id
    cvm.instance_type = provision.instance_type
    cvm.vcpu, cvm.memory_mb = provision.vcpu, provision.memory_mb
    cvm.disk_gb, cvm.gpus = provision.disk_gb, provision.gpus
    session.add(cvm)
    await session.flush()
    await take_over(session, provision.id, cvm.id)
    provision.cvm_id = cvm.id
    operation = await begin(session, cvm, OperationType.CREATE, author, now=now)
    await add_revision(
        session,
        cvm,
        OperationType.CREATE,
        author,
        now=now,
        changed=[],
        encrypted_env=box,
        user_config=provision.settings.get("user_config", ""),
        correlation_id=operation.correlation_id,
    )
    return Committed(cvm.id, operation.id, operation.correlation_id)


def new_cvm(
    author: Author, app: App, compose: Compose, image: OsImage, *, node_id: int, now: datetime
) -> Cvm:
    """A row for a new CVM, without name, size and KMS."""
    return Cvm(
        vm_uuid=uuid4().hex,
        workspace_id=author.workspace_id,
        app_record_id=app.id,
        creator_id=author.user_id or app.creator_id,
        node_id=node_id,
        os_image_id=image.id,
        base_image=image.name,
        compose_hash=compose.compose_hash,
        desired="running",
        generation=0,
        created_at=now,
        updated_at=now,
        **compose_columns(compose),
    )


def compose_columns(compose: Compose) -> dict[str, Any]:
    """What a CVM's row repeats of its compose file."""
    return {
        "public_logs": compose.flag("public_logs"),
        "public_sysinfo": compose.flag("public_sysinfo"),
        "public_tcbinfo": compose.flag("public_tcbinfo", default=True),
        "gateway_enabled": compose.flag("gateway_enabled"),
        "secure_time": compose.flag("secure_time"),
        "storage_fs": compose.members.get("storage_fs"),
    }


async def _place(session: AsyncSession, provision: Provision, now: datetime) -> Held:
    """Rule T4."""
    wanted = Wanted(
        workspace_id=provision.workspace_id,
        size=Size(provision.vcpu, provision.memory_mb, provision.disk_gb, provision.gpus),
        node_id=provision.node_id,
        kms_id=provision.kms_id,
        image=(
            await session.execute(select(OsImage.name).where(OsImage.id == provision.os_image_id))
        ).scalar_one_or_none(),
    )
    return await reserve(session, wanted, now=now, provision_id=provision.id)


async def _app(
    session: AsyncSession,
    author: Author,
    provision: Provision,
    *,
    request: CommitRequest,
    key: str | None,
    now: datetime,
) -> App:
    """The app of this id, or a new one (`apps.models`, rules 1 and 2)."""
    question = select(App).where(App.app_id == provision.app_id).with_for_update()
    app = (await session.execute(question)).scalar_one_or_none()
    if app is not None:
        if app.workspace_id != author.workspace_id:
            raise not_found("app")
        await _check_same_app(session, app, provision)
        if app.deleted_at is not None:
            app.deleted_at, app.name, app.listed = None, provision.name, provision.listed
        app.updated_at = now
        return app
    kms = await _kms(session, provision)
    if author.user_id is None:
        raise not_found("user")
    on_chain = bool(kms.contract.chain_id)
    app = App(
        workspace_id=author.workspace_id,
        creator_id=author.user_id,
        app_id=provision.app_id,
        name=provision.name,
        kms_id=kms.id,
        kms_type=kms.kms_type,
        nonce=provision.nonce,
        chain_id=kms.contract.chain_id or None,
        contract_address=_address(request.contract_address or provision.app_id) if on_chain else None,
        deployer_address=_address(request.deployer_address) if on_chain else None,
        env_pubkey=key,
        listed=provision.listed,
        created_at=now,
        updated_at=now,
    )
    session.add(app)
    await session.flush()
    return app


def _address(text: str | None) -> str | None:
    """An address as clients wrote it, in upper and lower case, behind `0x`."""
    return f"0x{text[-40:]}" if text else None


async def _check_same_app(session: AsyncSession, app: App, provision: Provision) -> None:
    """Rules T5 and T6 for an app that is there already. Raises ERR-02-009, ERR-03-007."""
    question = select(KmsNode).where(KmsNode.id == app.kms_id).options(joinedload(KmsNode.contract))
    its = (await session.execute(question)).scalar_one()
    kms = await _kms(session, provision)
    if its.contract_id != kms.contract_id:
        raise CloudError(
            ErrorCode.INCOMPATIBLE_CONFIG,
            f"The app's keys come from the KMS {its.slug}, and the provision is for {kms.slug}",
            details=[Detail("kms_id", kms.slug)],
            suggestions=["Provision again with the app's own KMS"],
        )
    alive = select(Cvm.id).where(Cvm.app_record_id == app.id, Cvm.deleted_at.is_(None)).limit(1)
    if kms.contract.chain_id and (await session.execute(alive)).first() is not None:
        raise _committed_otherwise(app.app_id)


def _committed_otherwise(app_id: str) -> CloudError:
    return CloudError(
        ErrorCode.CVM_APP_ID_CONFLICT,
        "The app id was committed with another compose hash",
        details=[Detail(field="app_id", value=app_id)],
        suggestions=["Provision again, or update the CVM"],
    )


def _expired() -> CloudError:
    return CloudError(
        ErrorCode.HASH_INVALID_OR_EXPIRED,
        "There is no provision with this compose hash, or its time is over",
        suggestions=["Provision again"],
    )
