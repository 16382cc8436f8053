"""References: short objects that stand for a row in other bodies (cloud-api.md 12.4)."""

from typing import Any, Literal

from teehouse.wire.cloud.base import Body


class UserRef(Body):
    """A user: `usr_...`."""

    object_type: Literal["user"]
    id: str | None = None
    username: str | None = None
    avatar_url: str | None = None


class WorkspaceRef(Body):
    """A workspace: `ws_...`; `slug` is its name in paths."""

    object_type: Literal["workspace"]
    id: str
    name: str
    slug: str | None = None
    avatar_url: str | None = None


class CvmRef(Body):
    """A CVM: `cvm_...`."""

    object_type: Literal["cvm"]
    id: str | None = None
    name: str | None = None
    app_id: str | None = None
    vm_uuid: str | None = None


class DeviceIdRef(Body):
    """One of a node's device ids, `0x` and 64 hex digits, and the OS images that report it."""

    device_id: str
    algorithm_version: str
    os_image_ids: list[int]
    enabled: bool


class NodeRef(Body):
    """A node. `device_id` is the one of its first algorithm, `0x` and 64 hex digits."""

    object_type: Literal["node"]
    id: int | None = None
    name: str | None = None
    region: str | None = None
    device_id: str | None = None
    ppid: str | None = None
    status: str | None = None
    version: str | None = None
    device_ids: list[DeviceIdRef] | None = None


class KmsRef(Body):
    """A running KMS (`KmsInfo` of 12.4). `chain` is a viem chain, for chains that clients do not know (14.4)."""

    id: str
    slug: str | None
    url: str
    version: str
    chain_id: int | None
    kms_contract_address: str | None
    gateway_app_id: str | None
    chain: dict[str, Any] | None = None


class PublicUrl(Body):
    """Where a port of an app is reached: of any of its instances, and of this one."""

    app: str
    instance: str
