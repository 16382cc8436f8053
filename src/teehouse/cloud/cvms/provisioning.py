"""The first half of a deployment: everything is decided, a place is held, nothing runs (cloud-api.md 12.7, 16).

Rules:

V1. The compose file is made here, once; its hash names the provision from now on.
V2. An app id of the off-chain KMS is fixed here: the next one, or the one asked for, which is this workspace's own,
    or the one of the nonce given with it. With an on-chain KMS the commit brings it: it is the contract's address.
V3. A place is held for `reservation_time`; the provision itself can be committed for longer, and takes another
    place then.
V4. A name has the form of cloud-api.md 8 and is not another live CVM's. It is taken when the provision is committed.
"""

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from teehouse.cloud.apps.app_ids import take_app_id
from teehouse.cloud.apps.models import App
from teehouse.cloud.cvms.compose import Compose, new_compose
from teehouse.cloud.cvms.lifecycle import Lifecycle
from teehouse.cloud.cvms.models import Cvm, Provision
from teehouse.cloud.cvms.operations import Author, store_compose
from teehouse.cloud.cvms.sizes import Chosen, choose_image, choose_kms, choose_size
from teehouse.cloud.errors import CloudError, Detail, ErrorCode
from teehouse.cloud.ids import is_cvm_name, parse_app_id
from teehouse.cloud.inventory.models import KmsNode, KmsType, OsImage
from teehouse.cloud.nodes.models import Node
from teehouse.cloud.nodes.placement import Wanted
from teehouse.cloud.nodes.reservations import reserve
from teehouse.wire.cloud.lifecycle import ProvisionRequest

DEFAULT_KMS = KmsType.PHALA


@dataclass(frozen=True, slots=True)
class Provisioned:
    """What was decided. `environment_key` is 64 hex digits, None for an on-chain KMS."""

    provision: Provision
    node: Node
    image: OsImage
    kms: KmsNode
    environment_key: str | None


async def provision(life: Lifecycle, author: Author, request: ProvisionRequest) -> Provisioned:
    """Decide (rules V1 to V4). Raises `CloudError`; `CollateralError` when the KMS does not answer."""
    check_name(request.name)
    compose = new_compose(request.compose_file, env_keys=request.env_keys)
    async with life.database.write() as session:
        found = await _decide(life, session, author, request, compose)
    app_id = found.provision.app_id
    if app_id is None:
        return found
    key = await life.environment_keys.environment_key(found.kms.id, app_id)
    return Provisioned(found.provision, found.node, found.image, found.kms, key)


async def provisioned_with(
    life: Lifecycle, author: Author, request: ProvisionRequest, nonce: int
) -> tuple[str | None, str] | None:
    """App id and compose hash of the provision that took this nonce for the same request; None for none."""
    compose = new_compose(request.compose_file, env_keys=request.env_keys)
    question = select(Provision.app_id, Provision.compose_hash).where(
        Provision.workspace_id == author.workspace_id,
        Provision.kind == "create",
        Provision.nonce == nonce,
        Provision.compose_hash == compose.compose_hash,
        Provision.name == request.name,
    )
    async with life.database.read() as session:
        row = (await session.execute(question.order_by(Provision.id.desc()).limit(1))).one_or_none()
    return None if row is None else (row.app_id, row.compose_hash)


def check_name(name: str) -> None:
    """Rule V4. Raises `CloudError` ERR-02-008."""
    if not is_cvm_name(name):
        raise CloudError(
            ErrorCode.INVALID_REQUEST,
            "The name has 5 to 63 letters, digits and single hyphens, first a letter, last no hyphen",
            details=[Detail(field="name", value=name[:80], message="not a name of a CVM")],
        )


async def check_name_free(session: AsyncSession, workspace_id: int, name: str) -> None:
    """Raises `CloudError` ERR-01-004."""
    question = select(Cvm.id).where(
        Cvm.workspace_id == workspace_id, Cvm.name == name, Cvm.deleted_at.is_(None)
    )
    if (await session.execute(question)).first() is not None:
        raise name_taken(name)


def name_taken(name: str) -> CloudError:
    """ERR-01-004."""
    return CloudError(
        ErrorCode.DUPLICATE_CVM_NAME,
        f"A CVM named {name} exists in this workspace",
        details=[Detail(field="name", value=name)],
        suggestions=["Choose another name, or update the CVM that has it"],
    )


async def _decide(
    life: Lifecycle, session: AsyncSession, author: Author, request: ProvisionRequest, compose: Compose
) -> Provisioned:
    now = life.now()
    workspace_id = author.workspace_id
    await check_name_free(session, workspace_id, request.name)
    kms = await choose_kms(session, request.kms_id or request.kms_contract or request.kms or DEFAULT_KMS)
    chosen = await choose_size(
        session,
        instance_type=request.instance_type,
        vcpu=request.vcpu,
        memory_mb=request.memory,
        disk_gb=request.disk_size,
        gpus=None if request.gpus is None else request.gpus.count,
    )
    if request.image is not None:
        await choose_image(session, request.image)
    app_id, nonce = await _app_id(session, workspace_id, kms, request)
    await store_compose(session, compose, now)
    row = _row(life, author, request, compose, chosen=chosen, kms=kms)
    row.app_id, row.nonce = app_id, nonce
    session.add(row)
    await session.flush()
    held = await reserve(
        session,
        Wanted(
            workspace_id=workspace_id,
            size=chosen.size,
            node_id=request.node_id if request.node_id is not None else request.teepod_id,
            region=request.region,
            kms_id=kms.id,
            image=request.image,
            prefer_dev=bool(request.prefer_dev),
        ),
        now=now,
        provision_id=row.id,
        expires_at=min(row.expires_at, now + life.reservation_time),
    )
    row.node_id, row.os_image_id = held.node_id, held.image_id
    await session.flush()
    node = (await session.execute(select(Node).where(Node.id == held.node_id))).scalar_one()
    image = (await session.execute(select(OsImage).where(OsImage.id == held.image_id))).scalar_one()
    return Provisioned(row, node, image, kms, None)


def _row(
    life: Lifecycle,
    author: Author,
    request: ProvisionRequest,
    compose: Compose,
    *,
    chosen: Chosen,
    kms: KmsNode,
) -> Provision:
    now = life.now()
    return Provision(
        workspace_id=author.workspace_id,
        user_id=author.user_id,
        kind="create",
        compose_hash=compose.compose_hash,
        name=request.name,
        kms_id=kms.id,
        instance_type=chosen.instance_type,
        vcpu=chosen.size.vcpu,
        memory_mb=chosen.size.memory_mb,
        disk_gb=chosen.size.disk_gb,
        gpus=chosen.size.gpus,
        listed=bool(request.listed),
        settings={"user_config": request.user_config or ""},
        created_at=now,
        expires_at=now + life.provision_time,
    )


async def _app_id(
    session: AsyncSession, workspace_id: int, kms: KmsNode, request: ProvisionRequest
) -> tuple[str | None, int | None]:
    """Rule V2."""
    if kms.contract.chain_id:
        if request.app_id is not None or request.nonce is not None:
            raise CloudError(
                ErrorCode.INCOMPATIBLE_CONFIG, "app_id and nonce are for the off-chain KMS (PHALA) only"
            )
        return None, None
    if request.app_id is None:
        if request.nonce is not None:
            raise CloudError(ErrorCode.INCOMPATIBLE_CONFIG, "nonce needs app_id")
        return await take_app_id(session, workspace_id)
    app_id = parse_app_id(request.app_id)
    if app_id is None:
        raise CloudError(
            ErrorCode.INVALID_REQUEST,
            "app_id has 40 hex digits",
            details=[Detail(field="app_id", value=request.app_id)],
        )
    if request.nonce is not None:
        return await take_app_id(session, workspace_id, app_id=app_id, nonce=request.nonce)
    own = select(App.nonce).where(App.app_id == app_id, App.workspace_id == workspace_id)
    row = (await session.execute(own)).one_or_none()
    if row is None:
        raise CloudError(
            ErrorCode.INCOMPATIBLE_CONFIG,
            "app_id is no app of this workspace, and its nonce is missing",
            suggestions=["Get both from GET /kms/phala/next_app_id"],
        )
    return app_id, row.nonce
