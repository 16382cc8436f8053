"""What a node is told a CVM is to be: its row, its compose file's exact bytes, its latest revision."""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import undefer

from teehouse.cloud.apps.models import App
from teehouse.cloud.cvms.models import Cvm
from teehouse.cloud.inventory.models import KmsNode
from teehouse.cloud.revisions.models import ComposeFile, Revision
from teehouse.node.api import CvmSpec

MIB = 1024**2
GIB = 1024**3


async def node_spec(session: AsyncSession, cvm: Cvm) -> CvmSpec:
    """The specification of the CVM as it is wanted now."""
    compose, app_id, kms_url = (
        await session.execute(
            select(ComposeFile.body, App.app_id, KmsNode.url)
            .select_from(ComposeFile)
            .join(App, App.id == cvm.app_record_id)
            .join(KmsNode, KmsNode.id == cvm.kms_id)
            .where(ComposeFile.compose_hash == cvm.compose_hash)
        )
    ).one()
    revision = await latest_revision(session, cvm.id)
    return CvmSpec(
        cvm_id=cvm.vm_uuid,
        name=cvm.name,
        compose=compose,
        encrypted_env=revision.encrypted_env if revision else b"",
        user_config=revision.user_config if revision else "",
        app_id=bytes.fromhex(app_id),
        cpu_count=cvm.vcpu,
        memory_size=cvm.memory_mb * MIB,
        disk_size=cvm.disk_gb * GIB,
        image=cvm.base_image,
        kms_urls=(kms_url,),
    )


async def latest_revision(session: AsyncSession, cvm_id: int) -> Revision | None:
    """The revision that says how the CVM is wanted, with its environment; None before the first."""
    return (
        await session.execute(
            select(Revision)
            .where(Revision.cvm_id == cvm_id)
            .order_by(Revision.id.desc())
            .limit(1)
            .options(undefer(Revision.encrypted_env), undefer(Revision.user_config))
        )
    ).scalar_one_or_none()
