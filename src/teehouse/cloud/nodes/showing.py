"""The nodes that a workspace may use, with all that is shown of them, in a constant number of statements.

Rules:

1. A workspace sees the nodes that everyone shares and are listed, and those reserved for it; no other's.
2. Available are those that take new CVMs (`placement` rules 1, 2), the best first: reserved ones, then by the part
   that is free.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import joinedload

from teehouse.cloud.inventory.models import KmsNode, OsImage
from teehouse.cloud.nodes.models import Node, NodeDevice, NodeImage, NodeKms, NodeStatus
from teehouse.cloud.nodes.placement import Size, resource_score


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A node with what belongs to it. `score` is in millionths."""

    node: Node
    images: tuple[OsImage, ...]
    kms: tuple[KmsNode, ...]
    devices: tuple[NodeDevice, ...]
    score: int

    @property
    def default_kms(self) -> KmsNode | None:
        """The KMS that its CVMs get when none is asked for."""
        return next((kms for kms in self.kms if kms.id == self.node.default_kms_id), None)


async def available_nodes(
    session: AsyncSession, workspace_id: int, *, image_prefix: str | None = None
) -> list[NodeRecord]:
    """Rule 2. With `image_prefix` only images whose version begins so, and nodes that have one."""
    rows = await session.scalars(
        select(Node).where(visible(workspace_id), Node.status == NodeStatus.ONLINE).order_by(Node.id)
    )
    found = await _complete(session, rows.all(), image_prefix)
    if image_prefix is not None:
        found = [record for record in found if record.images]
    return sorted(found, key=lambda entry: (entry.node.workspace_id is None, -entry.score, entry.node.id))


async def workspace_nodes(
    session: AsyncSession, workspace_id: int, *, offset: int, limit: int
) -> tuple[list[NodeRecord], int]:
    """The nodes that the workspace sees (rule 1), whatever their status, and how many there are."""
    total = await session.scalar(select(func.count()).select_from(Node).where(visible(workspace_id)))
    rows = await session.scalars(
        select(Node).where(visible(workspace_id)).order_by(Node.id).offset(offset).limit(limit)
    )
    return await _complete(session, rows.all(), None), total or 0


def visible(workspace_id: int) -> ColumnElement[bool]:
    """Rule 1."""
    return or_(Node.workspace_id == workspace_id, and_(Node.workspace_id.is_(None), Node.listed))


async def _complete(
    session: AsyncSession, nodes: Sequence[Node], image_prefix: str | None
) -> list[NodeRecord]:
    numbers = [node.id for node in nodes]
    images: dict[int, list[OsImage]] = defaultdict(list)
    images_of = (
        select(NodeImage.node_id, OsImage)
        .join(OsImage, OsImage.id == NodeImage.os_image_id)
        .where(NodeImage.node_id.in_(numbers))
        .order_by(OsImage.id.desc())
    )
    for owner, image in (await session.execute(images_of)).all():
        if image_prefix is None or image.version.startswith(image_prefix):
            images[owner].append(image)
    kms: dict[int, list[KmsNode]] = defaultdict(list)
    kms_of = (
        select(NodeKms.node_id, KmsNode)
        .join(KmsNode, KmsNode.id == NodeKms.kms_id)
        .options(joinedload(KmsNode.contract))
        .where(NodeKms.node_id.in_(numbers), KmsNode.enabled)
        .order_by(KmsNode.id)
    )
    for owner, entry in (await session.execute(kms_of)).all():
        kms[owner].append(entry)
    devices: dict[int, list[NodeDevice]] = defaultdict(list)
    devices_of = select(NodeDevice).where(NodeDevice.node_id.in_(numbers)).order_by(NodeDevice.id)
    for device in await session.scalars(devices_of):
        devices[device.node_id].append(device)
    return [
        NodeRecord(node, tuple(images[node.id]), tuple(kms[node.id]), tuple(devices[node.id]), _score(node))
        for node in nodes
    ]


def _score(node: Node) -> int:
    return resource_score(
        Size(node.vcpu, node.memory_mb, node.disk_gb, node.gpus),
        Size(node.used_vcpu, node.used_memory_mb, node.used_disk_gb, node.used_gpus),
        node.slots,
        node.used_slots,
    )
