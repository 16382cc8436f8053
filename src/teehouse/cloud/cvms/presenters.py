"""CVMs as the dated versions show them (cloud-api.md 11.1, 11.3, 12.5), from one read model.

Rules:

1. At V1 a CVM is known by its number or its UUID, in V2 lists and from V3 on by `cvm_...`; the detail and the
   state of V2 give the number as text, which is what both published clients accept (2.2).
2. What clients refuse as null is left out where there is no value.
3. Answers are plain objects of JSON members. Their schemas are in `teehouse.wire.cloud`; lists are not validated
   against them again when they are sent.
4. Prices are what is listed; nothing is charged.
5. Where the app and the agent's pages are reached: `addresses`.
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, Protocol

from teehouse.cloud.cvms.addresses import agent_url, dashboard_url, gateway_domain, public_urls
from teehouse.cloud.cvms.models import CvmStatus
from teehouse.cloud.cvms.records import CvmRecord, CvmRow, KmsRecord, NodeRecord, UserRecord, WorkspaceRecord
from teehouse.cloud.ids import Kind, encode
from teehouse.cloud.inventory.chains import client_chain
from teehouse.wire.cloud.base import time_text
from teehouse.wire.cloud.versions import ApiVersion

_BILLING_INTERVAL: Final = "hourly"
Json = dict[str, Any]


class LogLinks(Protocol):
    """Makes URLs of logs that carry their own permission."""

    def serial(self, vm_uuid: str) -> str | None:
        """Where the boot log of a CVM (32 hex digits) is read; the URL contains a `?`."""
        ...


class NoLogLinks:
    """Where no logs are served."""

    def serial(self, vm_uuid: str) -> str | None:  # noqa: ARG002 - the Protocol's argument
        return None


NO_LINKS: Final = NoLogLinks()


@dataclass(frozen=True, slots=True)
class Presentation:
    """What an answer depends on beside the rows: version, time of the request, links to logs."""

    version: ApiVersion
    now: datetime
    links: LogLinks = NO_LINKS


def present_cvm(cvm: CvmRecord, how: Presentation) -> Json:
    """A CVM in a list of CVMs: `CvmV1`, `CvmV2` or `CvmV3`."""
    if how.version is ApiVersion.V1:
        return _cvm_v1(cvm, how)
    return _cvm_v2(cvm, how) if how.version is ApiVersion.V2 else _cvm_v3(cvm, how)


def present_cvm_in_app(cvm: CvmRecord, how: Presentation) -> Json:
    """A CVM within an app: `CvmBasicV1`, `CvmV2` or `CvmV3`."""
    return _cvm_basic_v1(cvm) if how.version is ApiVersion.V1 else present_cvm(cvm, how)


def present_cvm_of_app(cvm: CvmRecord, how: Presentation) -> Json:
    """A CVM in the list of an app's CVMs (11.3).

    At V1 the published clients disagree about the object; one with the members of both satisfies both (2.2).
    """
    if how.version is ApiVersion.V1:
        return _cvm_v3(cvm, how) | _cvm_v1(cvm, how)
    return present_cvm(cvm, how)


def present_cvm_info(cvm: CvmRecord, how: Presentation, compose_file: Json) -> Json:
    """GET /cvms/{cvm_id}: `CvmDetailV1`, `CvmInfoV2` or `CvmInfoV3` (rule 1)."""
    if how.version is ApiVersion.V1:
        return present_cvm_detail_v1(cvm, how)
    answer = present_cvm(cvm, how) | {"compose_file": compose_file}
    if how.version is ApiVersion.V2:
        answer["id"] = str(cvm.row.id)
    return answer


def cvm_number_or_id(number: int, version: ApiVersion) -> int | str:
    """A CVM in action results and allow-lists: its number up to V2, `cvm_...` from V3 on (2.1)."""
    return number if version <= ApiVersion.V2 else encode(Kind.CVM, number)


def user_ref(user: UserRecord) -> Json:
    return {
        "object_type": "user",
        "id": encode(Kind.USER, user.id),
        "username": user.username,
        "avatar_url": user.avatar_url,
    }


def workspace_ref(workspace: WorkspaceRecord) -> Json:
    return {
        "object_type": "workspace",
        "id": encode(Kind.WORKSPACE, workspace.id),
        "name": workspace.name,
        "slug": workspace.slug,
        "avatar_url": workspace.avatar_url,
    }


def node_ref(node: NodeRecord) -> Json:
    return {
        "object_type": "node",
        "id": node.id,
        "name": node.name,
        "region": node.region,
        "device_id": _prefixed(node.device_id),
        "ppid": node.ppid,
        "status": node.status,
        "version": node.version,
    }


def kms_ref(kms: KmsRecord) -> Json:
    """`KmsInfo`. Without contract and chain for the off-chain KMS."""
    shown: Json = {
        "id": encode(Kind.KMS, kms.id),
        "slug": kms.slug,
        "url": kms.url,
        "version": kms.version,
        "chain_id": kms.chain_id if kms.on_chain else None,
        "kms_contract_address": kms.contract_address if kms.on_chain else None,
        "gateway_app_id": kms.gateway_app_id,
    }
    return shown | (client_chain(kms.chain_id, kms.rpc_url, kms.multicall_address) if kms.on_chain else {})


def uptime(row: CvmRow, now: datetime) -> str:
    """How long the CVM has run: `21h 30m`; empty for one that does not run."""
    if row.status != CvmStatus.RUNNING or row.started_at is None:
        return ""
    minutes, seconds = divmod(max(0, int((now - row.started_at).total_seconds())), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes}m"
    return f"{minutes}m {seconds}s" if minutes else f"{seconds}s"


@lru_cache(64)
def money(amount: Decimal) -> str:
    """Decimal text without trailing zeros: `0.058`."""
    return format(amount.normalize(), "f")


def present_cvm_detail_v1(cvm: CvmRecord, how: Presentation) -> Json:
    """`CvmDetailV1`; PATCH .../visibility answers with it at every version."""
    row = cvm.row
    return {
        "id": row.id,
        "name": row.name,
        "status": row.status,
        "in_progress": cvm.operation is not None,
        "teepod_id": row.node_id,
        "teepod": _teepod(cvm.node),
        "app_id": cvm.app.app_id,
        "vm_uuid": row.vm_uuid_text,
        "instance_id": row.instance_id,
        "vcpu": row.vcpu,
        "memory": row.memory_mb,
        "disk_size": row.disk_gb,
        "base_image": row.base_image,
        "encrypted_env_pubkey": cvm.app.env_pubkey,
        "listed": cvm.app.listed,
        "project_id": None,
        "project_type": cvm.compose.runner,
        "instance_type": row.instance_type,
        "public_sysinfo": row.public_sysinfo,
        "public_logs": row.public_logs,
        "dapp_dashboard_url": dashboard_url(cvm),
        "syslog_endpoint": how.links.serial(row.vm_uuid),
        "kms_info": kms_ref(cvm.kms),
        "contract_address": cvm.app.contract_address,
        "deployer_address": cvm.app.deployer_address,
        "scheduled_delete_at": None,
        "public_urls": public_urls(cvm),
        "gateway_domain": gateway_domain(cvm),
        "machine_info": _machine(row),
        "updated_at": time_text(row.updated_at),
    }


def _cvm_basic_v1(cvm: CvmRecord) -> Json:
    row, node = cvm.row, cvm.node
    return {
        "vm_uuid": row.vm_uuid_text,
        "app_id": cvm.app.app_id,
        "name": row.name,
        "status": row.status,
        "vcpu": row.vcpu,
        "memory": row.memory_mb,
        "disk_size": row.disk_gb,
        "teepod_id": 0 if node is None else node.id,
        "teepod_name": "" if node is None else node.name,
        "region_identifier": None if node is None else node.region,
        "kms_type": cvm.kms.kms_type,
        "instance_type": row.instance_type,
        "listed": cvm.app.listed,
        "base_image": row.base_image,
        "kms_slug": cvm.kms.slug,
        "kms_id": encode(Kind.KMS, cvm.kms.id),
        "instance_id": row.instance_id,
        "machine_info": _machine(row),
        "updated_at": time_text(row.updated_at),
    }


def _cvm_v1(cvm: CvmRecord, how: Presentation) -> Json:
    row = cvm.row
    hosted = {
        "id": row.vm_uuid_text,
        "name": row.name,
        "status": row.status,
        "uptime": uptime(row, how.now),
        "app_url": agent_url(cvm),
        "app_id": cvm.app.app_id,
        "instance_id": row.instance_id,
        "configuration": None,
        "exited_at": None if row.exited_at is None else time_text(row.exited_at),
        "boot_progress": row.boot_progress,
        "boot_error": row.boot_error,
        "shutdown_progress": row.shutdown_progress,
        "image_version": row.base_image,
    }
    return {
        "hosted": hosted,
        "name": row.name,
        "managed_user": {"id": cvm.creator.id, "username": cvm.creator.username},
        "node": _teepod(cvm.node),
        "listed": cvm.app.listed,
        "status": row.status,
        "in_progress": cvm.operation is not None,
        "dapp_dashboard_url": dashboard_url(cvm),
        "syslog_endpoint": how.links.serial(row.vm_uuid),
        "allow_upgrade": cvm.operation is None,
        "project_id": None,
        "project_type": cvm.compose.runner,
        "billing_period": _period(cvm),
        "kms_info": kms_ref(cvm.kms),
        "vcpu": row.vcpu,
        "memory": row.memory_mb,
        "disk_size": row.disk_gb,
        "gateway_domain": gateway_domain(cvm),
        "public_urls": public_urls(cvm),
        "machine_info": _machine(row),
        "updated_at": time_text(row.updated_at),
    }


def _cvm_v2(cvm: CvmRecord, how: Presentation) -> Json:  # noqa: ARG001 - as its neighbours
    row, operation = cvm.row, cvm.operation
    answer: Json = {
        "id": encode(Kind.CVM, row.id),
        "name": row.name,
        "app_id": cvm.app.app_id,
        "vm_uuid": row.vm_uuid_text,
        "instance_id": row.instance_id,
        "resource": {
            "instance_type": row.instance_type,
            "vcpu": row.vcpu,
            "memory_in_gb": row.memory_mb // 1024 if row.memory_mb % 1024 == 0 else row.memory_mb / 1024,
            "disk_in_gb": row.disk_gb,
            "gpus": row.gpus,
            "compute_billing_price": None if cvm.rate is None else money(cvm.rate),
            "billing_period": _period(cvm),
        },
        "node_info": None if cvm.node is None else node_ref(cvm.node),
        "os": {
            "name": cvm.image.name,
            "version": cvm.image.version,
            "is_dev": cvm.image.is_dev,
            "os_image_hash": cvm.image.os_image_hash,
        },
        "kms_type": cvm.kms.kms_type,
        "kms_info": {
            "chain_id": cvm.kms.chain_id if cvm.kms.on_chain else None,
            "dstack_kms_address": cvm.kms.contract_address if cvm.kms.on_chain else None,
            "dstack_app_address": cvm.app.contract_address,
            "deployer_address": cvm.app.deployer_address,
            "rpc_endpoint": cvm.kms.rpc_url,
            "encrypted_env_pubkey": cvm.app.env_pubkey,
        },
        "status": row.status,
        "progress": None
        if operation is None
        else {
            "target": operation.target,
            "started_at": time_text(operation.started_at),
            "correlation_id": operation.correlation_id,
        },
        "compose_hash": row.compose_hash,
        "gateway": {"base_domain": gateway_domain(cvm), "cname": None},
        "services": list(cvm.compose.services),
        "endpoints": public_urls(cvm),
        "public_logs": row.public_logs,
        "public_sysinfo": row.public_sysinfo,
        "public_tcbinfo": row.public_tcbinfo,
        "gateway_enabled": row.gateway_enabled,
        "secure_time": row.secure_time,
        "listed": cvm.app.listed,
        "workspace": workspace_ref(cvm.workspace),
        "creator": user_ref(cvm.creator),
    }
    if row.storage_fs is not None:  # rule 2
        answer["storage_fs"] = row.storage_fs
    return answer


def _cvm_v3(cvm: CvmRecord, how: Presentation) -> Json:
    row = cvm.row
    answer = _cvm_v2(cvm, how)
    answer["kms_info"]["k256_pubkey"] = cvm.kms.k256_pubkey
    if cvm.node is not None:
        answer["node_info"]["device_ids"] = [
            {
                "device_id": _prefixed(device.device_id),
                "algorithm_version": device.algorithm_version,
                "os_image_ids": device.os_image_ids,
                "enabled": device.enabled,
            }
            for device in cvm.devices
        ]
    rate = None if cvm.rate is None else money(cvm.rate)
    return answer | {
        "in_progress": cvm.operation is not None,
        "docker_compose_hash": cvm.compose.docker_compose_hash,
        "pre_launch_script_hash": cvm.compose.pre_launch_script_hash,
        "logs": {
            "serial": how.links.serial(row.vm_uuid),
            "stdout": None,
            "stderr": None,
            "container_log_base": None,
        },
        "created_at": time_text(row.created_at),
        "deleted_at": None if row.deleted_at is None else time_text(row.deleted_at),
        "project_type": cvm.compose.runner,
        "updated_at": time_text(row.updated_at),
        "app_url": agent_url(cvm),
        "base_image": row.base_image,
        "features": list(cvm.compose.features),
        "runner": cvm.compose.runner,
        "manifest_version": cvm.compose.manifest_version,
        "hourly_rate": None if rate is None else {"total": rate, "compute": rate, "disk": "0"},
        "billing_interval": _BILLING_INTERVAL,
        "gpu_rental_order": None,
    }


def _machine(row: CvmRow) -> Json:
    return {"vcpu": row.vcpu, "memory": row.memory_mb, "disk_size": row.disk_gb, "gpu_count": row.gpus}


def _teepod(node: NodeRecord | None) -> Json | None:
    if node is None:
        return None
    return {"id": node.id, "name": node.name, "region_identifier": node.region}


def _period(cvm: CvmRecord) -> str:
    return "skip" if cvm.rate is None else "hourly"


def _prefixed(digits: str | None) -> str | None:
    return None if digits is None else f"0x{digits}"
