"""What is seen of a CVM: state, figures, network, containers, status of many (cloud-api.md 6, 10.3, 12.10)."""

from typing import Annotated

from pydantic import Field, StringConstraints

from teehouse.wire.cloud.base import Body
from teehouse.wire.cloud.references import PublicUrl

STATUS_BATCH_LIMIT = 1000  # CVMs


class CvmState(Body):
    """GET /cvms/{cvm_id}/state. What has no value is left out: null is refused by clients."""

    id: str = ""
    instance_id: str = ""
    name: str
    status: str
    uptime: str = ""
    exited_at: str = ""
    boot_progress: str = ""
    boot_error: str = ""
    shutdown_progress: str = ""


class Disk(Body):
    """A file system: sizes in bytes."""

    name: str
    mount_point: str
    total_size: int
    free_size: int


class SystemInfo(Body):
    """Figures of a guest: bytes, seconds; loads are times 100 (guest-agent.md 7)."""

    os_name: str
    os_version: str
    kernel_version: str
    cpu_model: str
    num_cpus: int
    total_memory: int
    available_memory: int
    used_memory: int
    free_memory: int
    total_swap: int
    used_swap: int
    free_swap: int
    uptime: int
    loadavg_one: float
    loadavg_five: float
    loadavg_fifteen: float
    disks: list[Disk]


class CvmStats(Body):
    """GET /cvms/{cvm_id}/stats."""

    is_online: bool
    is_public: bool = True
    error: str | None
    sysinfo: SystemInfo | None
    status: str | None
    in_progress: bool = False
    boot_progress: str | None
    boot_error: str | None


class CvmNetwork(Body):
    """GET /cvms/{cvm_id}/network."""

    is_online: bool
    is_public: bool = True
    error: str | None
    internal_ip: str | None
    latest_handshake: str | None
    public_urls: list[PublicUrl] | None


class Container(Body):
    """A container; `log_endpoint` needs no further authentication."""

    id: str
    names: list[str]
    image: str
    image_id: str
    command: str | None = None
    created: int
    state: str
    status: str
    log_endpoint: str | None


class CvmComposition(Body):
    """GET /cvms/{cvm_id}/composition."""

    is_online: bool
    is_public: bool = True
    error: str | None
    docker_compose_file: str | None
    manifest_version: int | None
    version: str | None
    runner: str | None
    features: list[str] | None
    containers: list[Container] | None


class UserConfig(Body):
    """GET /cvms/{cvm_id}/user_config."""

    hostname: str | None = None
    ssh_authorized_keys: list[str] = Field(default_factory=list)
    default_gateway_domain: str | None = None


class ImageVariant(Body):
    """One OS image."""

    name: str
    os_image_hash: str | None
    is_current: bool


class AvailableOsImage(Body):
    """One version of GET /cvms/{cvm_id}/available-os-images, as far as the CVM's node has it."""

    version: list[int]
    prod: ImageVariant | None
    dev: ImageVariant | None


class StatusBatchRequest(Body):
    """POST /status/batch: UUIDs with or without dashes."""

    vm_uuids: list[Annotated[str, StringConstraints(max_length=64)]] = Field(max_length=STATUS_BATCH_LIMIT)


class StatusEvent(Body):
    """Something that happened to a CVM; `timestamp` in milliseconds of Unix time."""

    event: str
    body: str
    timestamp: int


class StatusOperation(Body):
    """What is under way with a CVM."""

    type: str
    phase: str
    started_at: str
    correlation_id: str


class BatchStatus(Body):
    """One CVM of POST /status/batch. The last three members from V3 on."""

    vm_uuid: str
    status: str
    uptime: str | None = None
    in_progress: bool
    boot_progress: str | None = None
    boot_error: str | None = None
    operation_type: str | None = None
    operation_started_at: str | None = None
    correlation_id: str | None = None
    shutdown_progress: str | None = None
    events: list[StatusEvent] = Field(default_factory=list)
    operation: StatusOperation | None = None
