"""What is answered to changes of CVMs (cloud-api.md 12.6, 12.7)."""

from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from teehouse.cloud.cvms.changing import Applied
from teehouse.cloud.cvms.loading import load_cvms, parse_compose
from teehouse.cloud.cvms.models import Cvm
from teehouse.cloud.cvms.operations import compose_body
from teehouse.cloud.cvms.presenters import (
    Presentation,
    cvm_number_or_id,
    present_cvm,
    present_cvm_detail_v1,
)
from teehouse.cloud.cvms.provisioning import Provisioned
from teehouse.cloud.cvms.records import CvmRecord
from teehouse.cloud.errors import CloudError, ErrorCode
from teehouse.cloud.ids import Kind, encode
from teehouse.cloud.inventory.presenters import present_kms
from teehouse.wire.cloud.base import time_text
from teehouse.wire.cloud.versions import ApiVersion

IN_PROGRESS = "in_progress"
COMPOSE_VERSION = "1.0.0"


def present_provision(found: Provisioned) -> dict[str, Any]:
    """`ProvisionAnswer`."""
    row = found.provision
    return {
        "app_id": row.app_id,
        "app_env_encrypt_pubkey": found.environment_key,
        "compose_hash": row.compose_hash,
        "kms_info": present_kms(found.kms),
        "fmspc": found.node.fmspc,
        "device_id": found.node.device_id,
        "os_image_hash": found.image.os_image_hash,
        "instance_type": row.instance_type,
        "teepod_id": found.node.id,
        "node_id": found.node.id,
        "kms_id": encode(Kind.KMS, found.kms.id),
    }


async def read_cvm(session: AsyncSession, cvm_id: int) -> CvmRecord:
    """A CVM that was just changed, as it stands. Raises `CloudError` when it is gone already."""
    found = await load_cvms(session, Cvm.id == cvm_id)
    if not found:
        raise CloudError(ErrorCode.CVM_NOT_FOUND, "CVM not found")
    return found[0]


async def action_answer(session: AsyncSession, cvm_id: int, how: Presentation) -> dict[str, Any]:
    """The VM action object (cloud-api.md 12.6)."""
    cvm = await read_cvm(session, cvm_id)
    row, node = cvm.row, cvm.node
    members = parse_compose(await compose_body(session, row.compose_hash))
    teepod = None
    if node is not None:
        teepod = {"id": node.id, "name": node.name, "region_identifier": node.region}
    return {
        "id": cvm_number_or_id(row.id, how.version),
        "name": row.name,
        "status": row.status,
        "teepod_id": row.node_id or 0,
        "teepod": teepod,
        "user_id": row.creator_id,
        "app_id": cvm.app.app_id,
        "vm_uuid": row.vm_uuid_text,
        "instance_id": row.instance_id,
        "app_url": None,
        "base_image": row.base_image,
        "vcpu": row.vcpu,
        "memory": row.memory_mb,
        "disk_size": row.disk_gb,
        "manifest_version": _number(members.get("manifest_version")),
        "version": COMPOSE_VERSION,
        "runner": members.get("runner"),
        "docker_compose_file": members.get("docker_compose_file"),
        "features": list(members.get("features", ())),
        "created_at": time_text(row.created_at),
        "encrypted_env_pubkey": cvm.app.env_pubkey,
        "app_auth_contract_address": cvm.app.contract_address,
        "deployer_address": cvm.app.deployer_address,
        "correlation_id": row.correlation_id,
    }


async def instance_answer(session: AsyncSession, cvm_id: int, how: Presentation) -> dict[str, Any]:
    """POST /apps/{app_id}/instances: an action object up to V2, a CVM from V3 on (2.1)."""
    if how.version <= ApiVersion.V2:
        return await action_answer(session, cvm_id, how)
    return present_cvm(await read_cvm(session, cvm_id), how)


async def visibility_answer(session: AsyncSession, applied: Applied, how: Presentation) -> dict[str, Any]:
    """PATCH .../visibility: `CvmDetailV1` at every version, and what changed."""
    cvm = await read_cvm(session, applied.cvm_id)
    return {
        **present_cvm_detail_v1(cvm, how),
        "correlation_id": applied.correlation_id,
        "changed": list(applied.changed),
    }


def changed_answer(applied: Applied, *, status: str | None = None) -> dict[str, Any]:
    """`Changed`. Some routes have a fixed word for the status."""
    return {
        "correlation_id": applied.correlation_id,
        "status": status or applied.status,
        "changed": list(applied.changed),
        "message": applied.message,
    }


def _number(version: Any) -> int | None:
    text = str(version)
    return int(text) if text.isascii() and text.isdigit() else None
