"""What is said when nothing can be placed (cloud-api.md 3.2)."""

from typing import Final

from teehouse.cloud.errors import CloudError, Detail, ErrorCode
from teehouse.cloud.nodes.placement import Lack, Wanted

_LOOK: Final = "List the nodes with GET /teepods/available"

_TEXTS: Final[dict[Lack, tuple[ErrorCode, str | None, str]]] = {
    Lack.NODES: (ErrorCode.RESOURCE_NOT_AVAILABLE, None, "No node is registered"),
    Lack.NODE_UNKNOWN: (ErrorCode.NODE_NOT_FOUND, "node_id", "The requested node does not exist"),
    Lack.NODE_CLOSED: (
        ErrorCode.TEEPOD_NOT_ACCESSIBLE,
        "node_id",
        "No node that this workspace may use takes new CVMs",
    ),
    Lack.REGION: (ErrorCode.RESOURCE_NOT_AVAILABLE, "region", "No usable node is in the requested region"),
    Lack.KMS: (ErrorCode.RESOURCE_NOT_AVAILABLE, "kms_id", "No usable node offers the requested KMS"),
    Lack.IMAGE: (ErrorCode.OS_IMAGE_NOT_COMPATIBLE, "image", "No usable node has a fitting OS image"),
    Lack.DEVICE: (
        ErrorCode.RESOURCE_NOT_AVAILABLE,
        "device_id",
        "No usable node is a device that the app may run on",
    ),
    Lack.CAPACITY_UNKNOWN: (
        ErrorCode.NODE_CAPACITY_NOT_CONFIGURED,
        "node_id",
        "The capacity of the node is not configured",
    ),
    Lack.GPU: (ErrorCode.INSUFFICIENT_GPU, "gpus", "Not enough free GPUs"),
    Lack.VCPU: (ErrorCode.INSUFFICIENT_VCPU, "vcpu", "Not enough free vCPUs"),
    Lack.MEMORY: (ErrorCode.INSUFFICIENT_MEMORY, "memory", "Not enough free memory"),
    Lack.DISK: (ErrorCode.RESOURCE_NOT_AVAILABLE, "disk_size", "Not enough free disk space"),
    Lack.SLOTS: (ErrorCode.INSUFFICIENT_SLOTS, None, "No free slot for a CVM"),
}


def not_placed(lack: Lack, wanted: Wanted) -> CloudError:
    """The refusal for what the nearest candidate lacked (rule 10 of `placement`)."""
    code, field, message = _TEXTS[lack]
    asked = {
        "node_id": wanted.node_id,
        "region": wanted.region,
        "image": wanted.image,
        "vcpu": wanted.size.vcpu,
        "memory": wanted.size.memory_mb,
        "disk_size": wanted.size.disk_gb,
        "gpus": wanted.size.gpus,
    }
    details = [] if field is None else [Detail(field=field, value=asked.get(field), message=message)]
    return CloudError(code, message, details=details, suggestions=[_LOOK])


def quota_used_up(field: str, wanted: int, limit: int, remaining: int) -> CloudError:
    """ERR-02-015. `field` is one of the quotas' names (10.2)."""
    message = f"The workspace's quota of {field} is used up: {wanted} wanted, {remaining} of {limit} left"
    return CloudError(
        ErrorCode.QUOTA_EXCEEDED,
        message,
        details=[Detail(field=field, value=wanted, message=f"{remaining} of {limit} left")],
        suggestions=["Delete CVMs that are not needed, or ask the operator for a larger quota"],
    )
