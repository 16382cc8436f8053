"""Nodes and quotas as bodies (cloud-api.md 10.2, 12.2, 12.4)."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from teehouse.cloud.accounts.models import Workspace
from teehouse.cloud.ids import Kind, encode
from teehouse.cloud.inventory.models import InstanceType, KmsNode
from teehouse.cloud.inventory.presenters import present_kms
from teehouse.cloud.nodes.reservations import Quotas, Usage
from teehouse.cloud.nodes.services import parse_version
from teehouse.cloud.nodes.showing import NodeRecord
from teehouse.wire.cloud.base import time_text

Json = dict[str, Any]
_SCORE_UNIT: Final = 1_000_000
_VERSION_PARTS: Final = 3  # numbers that an image's version has at least


def present_available(workspace: Workspace, quotas: Quotas, records: Sequence[NodeRecord]) -> Json:
    """`AvailableNodes`."""
    return {
        "tier": workspace.tier,
        "capacity": _capacity(quotas),
        "nodes": [_node(record) for record in records],
        "kms_list": [present_kms(kms) for kms in _all_kms(records)],
        "gpu_availability": _gpus(records),
    }


def present_create_resources(
    workspace: Workspace, quotas: Quotas, records: Sequence[NodeRecord], types: Sequence[InstanceType]
) -> Json:
    """`CvmCreateResources`."""
    return {
        "tier": workspace.tier,
        "capacity": _capacity(quotas),
        "nodes": [_node(record) for record in records],
        "kms_nodes": [_kms_node(kms, records) for kms in _all_kms(records)],
        "node_kms_relations": [
            {
                "teepod_id": record.node.id,
                "kms_id": encode(Kind.KMS, kms.id),
                "kms_type": kms.kms_type,
                "kms_contract_id": encode(Kind.KMS_CONTRACT, kms.contract_id),
                "kms_contract_address": kms.contract.contract_address,
                "supported_os_images": [image.name for image in record.images],
            }
            for record in records
            for kms in record.kms
        ],
        "gateway_nodes": [
            {
                "id": f"gateway-{record.node.id}",
                "teepod_id": record.node.id,
                "kms_contract_id": encode(Kind.KMS_CONTRACT, kms.contract_id),
                "rpc_url": None,
                "domain_suffix": record.node.gateway_domain,
                "enabled": True,
            }
            for record in records
            if record.node.gateway_domain is not None
            for kms in record.kms
        ],
        "instance_types": [
            {
                "id": row.id,
                "name": row.name,
                "vcpu": row.vcpu,
                "memory_mb": row.memory_mb,
                "default_disk_size_gb": row.default_disk_gb,
                "requires_gpu": row.gpu_count > 0,
                "requires_gpu_count": row.gpu_count,
                "family": row.family,
                "display_order": row.display_order,
            }
            for row in types
        ],
        "gpu_availability": _gpus(records),
    }


def present_node_ref(record: NodeRecord) -> Json:
    """`NodeRef`."""
    node = record.node
    return {
        "object_type": "node",
        "id": node.id,
        "name": node.name,
        "region": node.region,
        "device_id": None if node.device_id is None else f"0x{node.device_id}",
        "ppid": node.ppid,
        "status": node.status,
        "version": node.version,
        "device_ids": _devices(record, prefix="0x"),
    }


def present_quotas(workspace: Workspace, quotas: Quotas, now: datetime) -> Json:
    """`WorkspaceQuotas`."""
    return {
        "team_slug": workspace.slug,
        "tier": workspace.tier,
        "as_of": time_text(now),
        "quotas": {
            "vm_slots": _meter(quotas.vm_slots),
            "vcpu": _meter(quotas.vcpu),
            "memory_mb": _meter(quotas.memory_mb),
            "disk_gb": _meter(quotas.disk_gb),
        },
        "reserved_nodes": _meter(quotas.reserved_nodes),
        "reserved_gpu": {
            "gpus": _meter(quotas.reserved_gpus),
            "in_use": quotas.reserved_gpus.used,
            "misconfigured": 0,
        },
    }


def _meter(usage: Usage) -> Json:
    return {"limit": usage.limit, "remaining": usage.remaining}


def _capacity(quotas: Quotas) -> Json:
    return {
        "max_instances": quotas.vm_slots.limit,
        "max_vcpu": quotas.vcpu.limit,
        "max_memory": quotas.memory_mb.limit,
        "max_disk": quotas.disk_gb.limit,
    }


def _node(record: NodeRecord) -> Json:
    node, default = record.node, record.default_kms
    return {
        "teepod_id": node.id,
        "name": node.name,
        "listed": node.listed,
        "resource_score": record.score / _SCORE_UNIT,
        "remaining_vcpu": max(0, node.vcpu - node.used_vcpu),
        "remaining_memory": max(0, node.memory_mb - node.used_memory_mb),
        "remaining_cvm_slots": max(0, node.slots - node.used_slots),
        "images": [
            {
                "name": image.name,
                "is_dev": image.is_dev,
                "version": _version(image.version),
                "os_image_hash": image.os_image_hash,
            }
            for image in record.images
        ],
        "support_onchain_kms": any(kms.contract.chain_id != 0 for kms in record.kms),
        "fmspc": node.fmspc,
        "device_id": node.device_id,
        "region_identifier": node.region,
        "default_kms": None if default is None else default.slug,
        "kms_list": [kms.slug for kms in record.kms],
        "device_ids": _devices(record, prefix=""),
    }


def _version(text: str) -> list[int]:
    numbers = list(parse_version(text))
    return numbers + [0] * (_VERSION_PARTS - len(numbers))


def _devices(record: NodeRecord, *, prefix: str) -> list[Json]:
    return [
        {
            "device_id": f"{prefix}{device.device_id}",
            "algorithm_version": device.algorithm_version,
            "os_image_ids": device.os_image_ids,
            "enabled": device.enabled,
        }
        for device in record.devices
    ]


def _all_kms(records: Sequence[NodeRecord]) -> list[KmsNode]:
    """Each KMS once, by number."""
    return [kms for _, kms in sorted({kms.id: kms for record in records for kms in record.kms}.items())]


def _kms_node(kms: KmsNode, records: Sequence[NodeRecord]) -> Json:
    on_chain = kms.contract.chain_id != 0
    names = {image.name for record in records if kms in record.kms for image in record.images}
    return {
        "id": encode(Kind.KMS, kms.id),
        "slug": kms.slug,
        "url": kms.url,
        "version": kms.version,
        "kms_type": kms.kms_type,
        "chain_id": kms.contract.chain_id if on_chain else None,
        "kms_contract_id": encode(Kind.KMS_CONTRACT, kms.contract_id),
        "kms_contract_address": kms.contract.contract_address,
        "gateway_app_id": kms.gateway_app_id,
        "supported_os_images": sorted(names),
    }


def _gpus(records: Sequence[NodeRecord]) -> Json:
    reserved = sum(record.node.gpus for record in records if record.node.workspace_id is not None)
    shared = sum(
        max(0, record.node.gpus - record.node.used_gpus)
        for record in records
        if record.node.workspace_id is None
    )
    return {
        "has_reserved_gpus": reserved > 0,
        "reserved_gpu_count": reserved,
        "has_public_gpus": shared > 0,
        "public_gpu_count": shared,
    }
