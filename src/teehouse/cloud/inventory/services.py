"""Reading what can be asked for: instance types, OS images, KMSs and their contracts.

All of it is the installation's and the same for every workspace, so these are the queries that name none. What is
disabled is for existing CVMs only and is not told here.
"""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import joinedload

from teehouse.cloud.apps.models import App
from teehouse.cloud.errors import not_found
from teehouse.cloud.ids import Kind, decode
from teehouse.cloud.inventory.chains import CHAINS
from teehouse.cloud.inventory.models import InstanceType, KmsContract, KmsNode, KmsType, OsImage
from teehouse.cloud.nodes.models import Node, NodeDevice, NodeImage, NodeKms

OFF_CHAIN: Final = 0  # the chain id of contracts that are none


async def instance_types(session: AsyncSession, family: str | None = None) -> Sequence[InstanceType]:
    """The types in their order, of one family or of all. Raises `CloudError` 404 for a family without any."""
    statement = select(InstanceType).where(InstanceType.enabled)
    if family is not None:
        statement = statement.where(InstanceType.family == family)
    found = (
        await session.scalars(
            statement.order_by(InstanceType.family, InstanceType.display_order, InstanceType.id)
        )
    ).all()
    if family is not None and not found:
        raise not_found("instance type family")
    return found


async def os_images(
    session: AsyncSession, *, is_dev: bool | None, offset: int, limit: int
) -> tuple[Sequence[OsImage], int]:
    """Images, newest first, and how many there are."""
    wanted = [] if is_dev is None else [OsImage.is_dev == is_dev]
    total = await session.scalar(select(func.count()).select_from(OsImage).where(*wanted))
    rows = await session.scalars(
        select(OsImage).where(*wanted).order_by(OsImage.id.desc()).offset(offset).limit(limit)
    )
    return rows.all(), total or 0


async def kms_nodes(
    session: AsyncSession, *, is_onchain: bool | None = None, offset: int = 0, limit: int | None = None
) -> tuple[Sequence[KmsNode], int]:
    """Running KMSs with their contracts, and how many there are."""
    wanted: list[ColumnElement[bool]] = [KmsNode.enabled.is_(True), *_chained(is_onchain)]
    total = await session.scalar(
        select(func.count())
        .select_from(KmsNode)
        .join(KmsContract, KmsContract.id == KmsNode.contract_id)
        .where(*wanted)
    )
    rows = await session.scalars(
        select(KmsNode)
        .join(KmsNode.contract)
        .options(joinedload(KmsNode.contract))
        .where(*wanted)
        .order_by(KmsNode.id)
        .offset(offset)
        .limit(limit)
    )
    return rows.all(), total or 0


async def kms_contracts(
    session: AsyncSession, *, is_onchain: bool | None, offset: int, limit: int
) -> tuple[list[tuple[KmsContract, int]], int]:
    """Contracts, each with its number of running KMSs, and how many contracts there are."""
    wanted = _chained(is_onchain)
    total = await session.scalar(select(func.count()).select_from(KmsContract).where(*wanted))
    rows = await session.execute(
        select(KmsContract, _node_count()).where(*wanted).order_by(KmsContract.id).offset(offset).limit(limit)
    )
    return [(contract, count) for contract, count in rows.all()], total or 0


async def find_kms(session: AsyncSession, text: str, *, app_id: str | None = None) -> KmsNode:
    """The KMS that a path calls by id, slug or type (cloud-api.md 8). Raises `CloudError` 404.

    Where a type fits several, it is the one of the app, else the one that was registered first.
    """
    number = decode(Kind.KMS, text)
    is_type = text.lower() in set(KmsType)
    if number is not None:
        condition: ColumnElement[bool] = KmsNode.id == number
    elif is_type:
        condition = or_(KmsNode.slug == text, KmsNode.kms_type == text.lower())
    else:
        condition = KmsNode.slug == text
    rows = (
        await session.scalars(
            select(KmsNode)
            .options(joinedload(KmsNode.contract))
            .where(KmsNode.enabled, condition)
            .order_by(KmsNode.id)
        )
    ).all()
    if not rows:
        raise not_found("KMS")
    if len(rows) > 1 and app_id is not None:
        own = await session.scalar(select(App.kms_id).where(App.app_id == app_id))
        rows = [row for row in rows if row.id == own] or rows
    return next((row for row in rows if row.slug == text), rows[0])


async def find_contract(session: AsyncSession, text: str) -> tuple[KmsContract, int]:
    """The contract with this id, slug or address, or of the KMS with this id, slug or type, and how many run for it.

    Raises `CloudError` 404.
    """
    number = decode(Kind.KMS_CONTRACT, text)
    by_name = or_(KmsContract.slug == text, func.lower(KmsContract.contract_address) == text.lower())
    row = (
        await session.execute(
            select(KmsContract, _node_count())
            .where(by_name if number is None else KmsContract.id == number)
            .order_by(KmsContract.id)
            .limit(1)
        )
    ).one_or_none()
    if row is not None:
        return row[0], row[1]
    kms = await find_kms(session, text)
    count = await session.scalar(select(_node_count()).where(KmsContract.id == kms.contract_id))
    return kms.contract, count or 0


async def contract_nodes(session: AsyncSession, contract_id: int) -> Sequence[KmsNode]:
    """The KMSs that run for a contract."""
    rows = await session.scalars(
        select(KmsNode).where(KmsNode.contract_id == contract_id, KmsNode.enabled).order_by(KmsNode.id)
    )
    return rows.all()


async def on_chain_contracts(session: AsyncSession, chain: str) -> Sequence[KmsContract]:
    """The contracts of a chain, named as its KMSs name it: `ethereum`, `base`; none where no KMS is on it.

    Raises `CloudError` 404 for a chain that no KMS can be on.
    """
    name = chain.lower()
    if name not in CHAINS:
        raise not_found("chain")
    rows = await session.scalars(
        select(KmsContract)
        .where(
            KmsContract.chain_id != OFF_CHAIN,
            KmsContract.id.in_(select(KmsNode.contract_id).where(KmsNode.kms_type == name)),
        )
        .order_by(KmsContract.id)
    )
    return rows.all()


async def contract_devices(
    session: AsyncSession, contract_ids: Sequence[int]
) -> dict[int, list[tuple[str, str]]]:
    """For each contract the device ids of the nodes that may use it, with the nodes' names."""
    rows = await session.execute(
        select(KmsNode.contract_id, NodeDevice.device_id, Node.name)
        .join(NodeKms, NodeKms.kms_id == KmsNode.id)
        .join(Node, Node.id == NodeKms.node_id)
        .join(NodeDevice, NodeDevice.node_id == Node.id)
        .where(KmsNode.contract_id.in_(contract_ids), NodeDevice.enabled)
        .distinct()
        .order_by(Node.name, NodeDevice.device_id)
    )
    found: dict[int, list[tuple[str, str]]] = {number: [] for number in contract_ids}
    for contract_id, device_id, name in rows.all():
        found[contract_id].append((device_id, name))
    return found


async def contract_images(session: AsyncSession, contract_ids: Sequence[int]) -> dict[int, list[OsImage]]:
    """For each contract the OS images of the nodes that may use it."""
    rows = await session.execute(
        select(KmsNode.contract_id, OsImage)
        .join(NodeKms, NodeKms.kms_id == KmsNode.id)
        .join(NodeImage, NodeImage.node_id == NodeKms.node_id)
        .join(OsImage, OsImage.id == NodeImage.os_image_id)
        .where(KmsNode.contract_id.in_(contract_ids))
        .distinct()
        .order_by(OsImage.id)
    )
    found: dict[int, list[OsImage]] = {number: [] for number in contract_ids}
    for contract_id, image in rows.all():
        found[contract_id].append(image)
    return found


def _chained(is_onchain: bool | None) -> list[ColumnElement[bool]]:
    if is_onchain is None:
        return []
    return [KmsContract.chain_id != OFF_CHAIN if is_onchain else KmsContract.chain_id == OFF_CHAIN]


def _node_count() -> ColumnElement[int]:
    return (
        select(func.count())
        .where(KmsNode.contract_id == KmsContract.id, KmsNode.enabled)
        .correlate(KmsContract)
        .scalar_subquery()
    )
