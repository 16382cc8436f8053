"""The read model of CVMs: what any version of the API says of a CVM, as it was read (`teehouse.cloud.cvms.loading`)."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from teehouse.wire.cloud.base import uuid_text


@dataclass(frozen=True, slots=True)
class UserRecord:
    """A user, as references show one."""

    id: int
    username: str
    avatar_url: str | None


@dataclass(frozen=True, slots=True)
class WorkspaceRecord:
    """A workspace, as references show one."""

    id: int
    slug: str
    name: str
    avatar_url: str | None


@dataclass(frozen=True, slots=True)
class KmsRecord:
    """A KMS with its contract; `chain_id` 0 and contract address `phala` off chain."""

    id: int
    slug: str
    url: str
    version: str
    kms_type: str
    gateway_app_id: str | None
    gateway_app_url: str | None
    chain_id: int
    contract_address: str
    k256_pubkey: str | None
    rpc_url: str | None
    multicall_address: str | None

    @property
    def on_chain(self) -> bool:
        """Whether a contract decides what is allowed."""
        return self.chain_id != 0


@dataclass(frozen=True, slots=True)
class AppRecord:
    """An app's row."""

    id: int
    workspace_id: int
    creator_id: int
    app_id: str
    name: str
    provision_type: str
    kms_id: int
    kms_type: str
    chain_id: int | None
    contract_address: str | None
    deployer_address: str | None
    env_pubkey: str | None
    listed: bool
    icon_url: str | None
    display_name: str | None
    avatar_url: str | None
    description: str | None
    custom_domain: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class DeviceRecord:
    """A device id of a node."""

    node_id: int
    device_id: str
    algorithm_version: str
    os_image_ids: list[int]
    enabled: bool


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A node's row."""

    id: int
    name: str
    region: str
    status: str
    version: str
    emulated: bool
    root: str
    device_id: str | None
    ppid: str | None
    gateway_domain: str | None
    url: str | None


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """An OS image's row."""

    id: int
    name: str
    version: str
    os_image_hash: str | None
    is_dev: bool


@dataclass(frozen=True, slots=True)
class ComposeRecord:
    """What is shown of a compose file without its bytes; `ports` are those published on the app's addresses."""

    compose_hash: str
    services: tuple[dict[str, Any], ...]
    ports: tuple[int, ...]
    docker_compose_hash: str | None
    pre_launch_script_hash: str | None
    manifest_version: str | None
    runner: str | None
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OperationRecord:
    """The operation under way with a CVM."""

    operation_type: str
    target: str
    phase: str
    correlation_id: str
    started_at: datetime


class CvmRow(NamedTuple):
    """A CVM's row; MB of memory, GB of disk. A tuple, as is `CvmRecord`: a page may have thousands."""

    id: int
    vm_uuid: str
    app_record_id: int
    workspace_id: int
    creator_id: int
    name: str
    status: str
    node_id: int | None
    kms_id: int
    os_image_id: int
    base_image: str
    instance_type: str | None
    vcpu: int
    memory_mb: int
    disk_gb: int
    gpus: int
    compose_hash: str
    instance_id: str | None
    public_logs: bool
    public_sysinfo: bool
    public_tcbinfo: bool
    gateway_enabled: bool
    secure_time: bool
    storage_fs: str | None
    boot_progress: str | None
    boot_error: str | None
    shutdown_progress: str | None
    agent_url: str | None
    published: str | None
    correlation_id: str | None
    started_at: datetime | None
    exited_at: datetime | None
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None

    @property
    def vm_uuid_text(self) -> str:
        """The UUID with dashes."""
        return uuid_text(self.vm_uuid)


class CvmRecord(NamedTuple):
    """A CVM with all it refers to. `rate` is its instance type's listed price per hour."""

    row: CvmRow
    app: AppRecord
    node: NodeRecord | None
    devices: tuple[DeviceRecord, ...]
    kms: KmsRecord
    image: ImageRecord
    compose: ComposeRecord
    workspace: WorkspaceRecord
    creator: UserRecord
    operation: OperationRecord | None
    rate: Decimal | None
