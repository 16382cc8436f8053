"""Instance types, OS images and KMSs as bodies (cloud-api.md 10.2, 12.3, 12.4)."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from teehouse.cloud.allowlists.services import KmsContractState
from teehouse.cloud.ids import Kind, encode
from teehouse.cloud.inventory.chains import CHAINS, client_chain
from teehouse.cloud.inventory.models import InstanceType, KmsContract, KmsNode, OsImage

Json = dict[str, Any]


def present_instance_type(row: InstanceType) -> Json:
    """`InstanceType`."""
    return {
        "id": row.id,
        "name": row.name,
        "description": row.description,
        "vcpu": row.vcpu,
        "memory_mb": row.memory_mb,
        "hourly_rate": format(row.hourly_rate.normalize(), "f"),
        "requires_gpu": row.gpu_count > 0,
        "default_disk_size_gb": row.default_disk_gb,
        "family": row.family,
    }


def present_families(rows: Sequence[InstanceType]) -> Json:
    """`InstanceTypes`, from rows that are sorted by family."""
    result = []
    for family, members in groupby(rows, key=lambda row: row.family):
        items = [present_instance_type(row) for row in members]
        result.append({"name": family, "items": items, "total": len(items)})
    return {"result": result}


def present_os_image(row: OsImage) -> Json:
    """`OsImage`."""
    return {
        "name": row.name,
        "slug": row.slug,
        "version": row.version,
        "os_image_hash": row.os_image_hash,
        "is_dev": row.is_dev,
        "requires_gpu": row.requires_gpu,
    }


def present_kms(row: KmsNode) -> Json:
    """`KmsInfo`, whose seven members clients want present; contract and chain are those of an on-chain KMS."""
    contract = row.contract
    shown: Json = {
        "id": encode(Kind.KMS, row.id),
        "slug": row.slug,
        "url": row.url,
        "version": row.version,
        "chain_id": None,
        "kms_contract_address": None,
        "gateway_app_id": row.gateway_app_id,
    }
    if contract.chain_id == 0:
        return shown
    return {
        **shown,
        "chain_id": contract.chain_id,
        "kms_contract_address": contract.contract_address,
        **client_chain(contract.chain_id, contract.rpc_url, contract.multicall_address),
    }


def present_contract(row: KmsContract, node_count: int) -> Json:
    """`KmsContract`."""
    return {
        "id": encode(Kind.KMS_CONTRACT, row.id),
        "slug": row.slug,
        "label": row.label,
        "contract_address": row.contract_address,
        "chain_id": row.chain_id,
        "k256_pubkey": row.k256_pubkey,
        "ca_pubkey": row.ca_pubkey,
        "node_count": node_count,
    }


def present_contract_nodes(rows: Iterable[KmsNode]) -> Json:
    """`KmsContractNodes`."""
    items = [
        {
            "id": encode(Kind.KMS, row.id),
            "slug": row.slug,
            "url": row.url,
            "version": row.version,
            "kms_type": row.kms_type,
        }
        for row in rows
    ]
    return {"items": items, "total": len(items)}


def present_on_chain(
    chain: str,
    contracts: Sequence[KmsContract],
    devices: dict[int, list[tuple[str, str]]],
    images: dict[int, list[OsImage]],
    said: Mapping[int, KmsContractState],
) -> Json:
    """`OnChainKms`. What the contract did not say is None."""
    name = chain.lower()
    return {
        "chain_name": name,
        "chain_id": contracts[0].chain_id if contracts else CHAINS[name],
        "contracts": [
            {
                "contract_address": row.contract_address,
                "chain_id": row.chain_id,
                "chain_name": name,
                "devices": [
                    {
                        "device_id": f"0x{device}",
                        "node_name": node,
                        "on_chain_allowed": said[row.id].devices.get(device),
                    }
                    for device, node in devices[row.id]
                ],
                "os_images": [
                    {
                        "name": image.name,
                        "version": image.version,
                        "os_image_hash": image.os_image_hash,
                        "on_chain_allowed": said[row.id].images.get(image.os_image_hash or ""),
                    }
                    for image in images[row.id]
                ],
                "k256_pubkey": row.k256_pubkey,
                "ca_pubkey": row.ca_pubkey,
                "gateway_contract_address": row.gateway_contract_address,
            }
            for row in contracts
        ],
    }
