"""The nodes as they stand, read for placing and for showing."""

from collections import defaultdict
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from teehouse.cloud.inventory.models import OsImage
from teehouse.cloud.nodes.models import Node, NodeDevice, NodeImage, NodeKms
from teehouse.cloud.nodes.placement import Candidate, Image, Size


def parse_version(text: str) -> tuple[int, ...]:
    """The numbers of an image's version, at most four; those that are no numbers count as 0."""
    parts = text.lstrip("v").split("-")[0].split(".")
    return tuple(int(part) if part.isascii() and part.isdigit() else 0 for part in parts[:4])


async def candidates(session: AsyncSession, node_id: int | None = None) -> tuple[Candidate, ...]:
    """All nodes as they stand, or one; four statements."""
    only = [] if node_id is None else [Node.id == node_id]
    columns: tuple[Any, ...] = (
        Node.id,
        Node.region,
        Node.status,
        Node.listed,
        Node.workspace_id,
        Node.vcpu,
        Node.memory_mb,
        Node.disk_gb,
        Node.gpus,
        Node.used_vcpu,
        Node.used_memory_mb,
        Node.used_disk_gb,
        Node.used_gpus,
        Node.slots,
        Node.used_slots,
    )
    nodes = (await session.execute(select(*columns).where(*only).order_by(Node.id))).all()
    images: dict[int, list[Image]] = defaultdict(list)
    where_images = [] if node_id is None else [NodeImage.node_id == node_id]
    for owner, number, name, version, is_dev, requires_gpu in (
        await session.execute(
            select(
                NodeImage.node_id,
                OsImage.id,
                OsImage.name,
                OsImage.version,
                OsImage.is_dev,
                OsImage.requires_gpu,
            )
            .join(OsImage, OsImage.id == NodeImage.os_image_id)
            .where(*where_images)
        )
    ).all():
        images[owner].append(Image(number, name, parse_version(version), is_dev, requires_gpu))
    kms: dict[int, set[int]] = defaultdict(set)
    where_kms = [] if node_id is None else [NodeKms.node_id == node_id]
    for owner, kms_id in (
        await session.execute(select(NodeKms.node_id, NodeKms.kms_id).where(*where_kms))
    ).all():
        kms[owner].add(kms_id)
    devices: dict[int, set[str]] = defaultdict(set)
    where_devices = [] if node_id is None else [NodeDevice.node_id == node_id]
    for owner, device in (
        await session.execute(
            select(NodeDevice.node_id, NodeDevice.device_id).where(NodeDevice.enabled, *where_devices)
        )
    ).all():
        devices[owner].add(device)
    return tuple(
        Candidate(
            row.id,
            row.region,
            row.status,
            row.listed,
            row.workspace_id,
            Size(row.vcpu, row.memory_mb, row.disk_gb, row.gpus),
            Size(row.used_vcpu, row.used_memory_mb, row.used_disk_gb, row.used_gpus),
            row.slots,
            row.used_slots,
            tuple(images[row.id]),
            frozenset(kms[row.id]),
            frozenset(devices[row.id]),
        )
        for row in nodes
    )
