"""Rows of workspaces, nodes and inventory, for tests that need no more of the control plane than its tables."""

import secrets
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from teehouse.cloud.accounts.models import Quota, User, Workspace
from teehouse.cloud.apps.models import App
from teehouse.cloud.cvms.models import Cvm, Provision
from teehouse.cloud.inventory.models import KmsContract, KmsNode, OsImage
from teehouse.cloud.nodes.models import Node, NodeDevice, NodeImage, NodeKms
from teehouse.cloud.revisions.models import ComposeFile

NOW = datetime(2026, 6, 23, 12, 0, tzinfo=UTC)
DEVICE = "5c" * 32
IMAGE = "dstack-0.5.4"


async def add_workspace(session: AsyncSession, slug: str = "alice", **quota: int) -> Workspace:
    """A workspace with quotas that are large unless said otherwise."""
    workspace = Workspace(slug=slug, name=slug.title(), created_at=NOW)
    session.add(workspace)
    await session.flush()
    limits = {"vm_slots": 1000, "vcpu": 1000, "memory_mb": 10**7, "disk_gb": 10**6, **quota}
    session.add(Quota(workspace_id=workspace.id, **limits))
    await session.flush()
    return workspace


async def add_user(session: AsyncSession, name: str = "alice") -> User:
    user = User(username=name, email=f"{name}@example.org", created_at=NOW)
    session.add(user)
    await session.flush()
    return user


async def add_inventory(session: AsyncSession) -> tuple[OsImage, KmsNode]:
    """One OS image and one off-chain KMS."""
    image = OsImage(name=IMAGE, slug=IMAGE, version="0.5.4", os_image_hash="b3" * 32, created_at=NOW)
    contract = KmsContract(slug="phala", contract_address="phala", created_at=NOW)
    session.add_all([image, contract])
    await session.flush()
    kms = KmsNode(
        contract_id=contract.id,
        slug="kms-local",
        url="https://localhost:1",
        version="v0.5.4",
        kms_type="phala",
        created_at=NOW,
    )
    session.add(kms)
    await session.flush()
    return image, kms


async def add_node(
    session: AsyncSession, image: OsImage, kms: KmsNode, name: str = "prod5", **given: object
) -> Node:
    """A node for 16 processors, 64 GB, 1000 GB of disk and 10 CVMs, unless said otherwise."""
    members: dict[str, object] = {
        "region": "local",
        "version": "teehouse",
        "emulated": True,
        "root": "emulated:00",
        "device_id": DEVICE,
        "vcpu": 16,
        "memory_mb": 65536,
        "disk_gb": 1000,
        "slots": 10,
        "default_kms_id": kms.id,
        "created_at": NOW,
    }
    node = Node(name=name, **{**members, **given})
    session.add(node)
    await session.flush()
    session.add_all(
        [
            NodeImage(node_id=node.id, os_image_id=image.id),
            NodeKms(node_id=node.id, kms_id=kms.id),
            NodeDevice(node_id=node.id, device_id=DEVICE, algorithm_version="1", os_image_ids=[image.id]),
        ]
    )
    await session.flush()
    return node


async def add_provisions(session: AsyncSession, workspace_id: int, count: int) -> list[int]:
    """Numbers of new provisions of the smallest size."""
    if await session.get(ComposeFile, "00" * 32) is None:
        session.add(ComposeFile(compose_hash="00" * 32, body=b"{}", services=[], created_at=NOW))
        await session.flush()
    rows = [
        Provision(
            workspace_id=workspace_id,
            compose_hash="00" * 32,
            name=f"app-{index}",
            vcpu=1,
            memory_mb=2048,
            disk_gb=20,
            settings={},
            created_at=NOW,
            expires_at=NOW,
        )
        for index in range(count)
    ]
    session.add_all(rows)
    await session.flush()
    return [row.id for row in rows]


async def add_cvm(session: AsyncSession, workspace_id: int, node_id: int) -> int:
    """The number of a new CVM, of an app of its own."""
    number = secrets.token_hex(16)
    user = await session.scalar(select(User)) or await add_user(session)
    kms = (await session.scalars(select(KmsNode))).one()
    image = (await session.scalars(select(OsImage))).one()
    common: dict[str, Any] = {
        "workspace_id": workspace_id,
        "creator_id": user.id,
        "kms_id": kms.id,
        "created_at": NOW,
        "updated_at": NOW,
    }
    app = App(app_id=secrets.token_hex(20), name=number, kms_type="phala", **common)
    session.add(app)
    await session.flush()
    cvm = Cvm(
        vm_uuid=number,
        app_record_id=app.id,
        name=f"a{number}",
        node_id=node_id,
        os_image_id=image.id,
        base_image=image.name,
        vcpu=1,
        memory_mb=2048,
        disk_gb=20,
        compose_hash="00" * 32,
        **common,
    )
    session.add(cvm)
    await session.flush()
    return cvm.id
