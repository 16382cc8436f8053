"""CVMs in lists and by themselves, as the dated versions have them (cloud-api.md 11.1, 11.3, 12.5)."""

from typing import Any, Literal

from pydantic import Field

from teehouse.wire.cloud.base import Body
from teehouse.wire.cloud.references import KmsRef, NodeRef, PublicUrl, UserRef, WorkspaceRef

KmsTypeName = Literal["phala", "ethereum", "base", "legacy"]


class MachineInfo(Body):
    """Processors, MB of memory, GB of disk."""

    vcpu: int
    memory: int
    disk_size: int
    gpu_count: int | None = None


class CvmBasicV1(Body):
    """A CVM within an app at V1. `memory` is MB, `disk_size` GB."""

    vm_uuid: str | None
    app_id: str
    name: str = ""
    status: str
    vcpu: int
    memory: int
    disk_size: int
    teepod_id: int
    teepod_name: str
    region_identifier: str | None = None
    kms_type: str | None = None
    instance_type: str | None = None
    listed: bool | None = None
    base_image: str | None = None
    kms_slug: str | None = None
    kms_id: str | None = None
    instance_id: str | None = None
    machine_info: MachineInfo | None = None
    updated_at: str | None = None


class Hosted(Body):
    """What the node says of a CVM. `id` is its UUID."""

    id: str
    name: str
    status: str
    uptime: str
    app_url: str | None
    app_id: str
    instance_id: str | None
    configuration: Any = None
    exited_at: str | None
    boot_progress: str | None
    boot_error: str | None
    shutdown_progress: str | None
    image_version: str | None


class ManagedUser(Body):
    """A user by number (V1)."""

    id: int
    username: str


class TeepodRef(Body):
    """A node by number (V1)."""

    id: int
    name: str
    region_identifier: str | None = None


class CvmV1(Body):
    """A CVM in a list at V1."""

    hosted: Hosted
    name: str
    managed_user: ManagedUser | None
    node: TeepodRef | None
    listed: bool = False
    status: str
    in_progress: bool = False
    dapp_dashboard_url: str | None
    syslog_endpoint: str | None
    allow_upgrade: bool = False
    project_id: str | None
    project_type: str | None
    billing_period: str | None
    kms_info: KmsRef | None
    vcpu: int | None
    memory: int | None
    disk_size: int | None
    gateway_domain: str | None
    public_urls: list[PublicUrl]
    machine_info: MachineInfo | None = None
    updated_at: str | None = None


class Resource(Body):
    """The size of a CVM. `compute_billing_price` is what its instance type is listed at, per hour."""

    instance_type: str | None = None
    vcpu: int | None = None
    memory_in_gb: float | None = None
    disk_in_gb: int | None = None
    gpus: int | None = None
    compute_billing_price: str | None = None
    billing_period: Literal["skip", "hourly", "monthly"] | None = None


class OsInfo(Body):
    """The OS image of a CVM."""

    name: str | None = None
    version: str | None = None
    is_dev: bool | None = None
    os_image_hash: str | None = None


class CvmKmsInfo(Body):
    """The KMS of a CVM, and the key its environment is sealed for. `k256_pubkey` from V3 on."""

    chain_id: int | None = None
    dstack_kms_address: str | None = None
    dstack_app_address: str | None = None
    deployer_address: str | None = None
    rpc_endpoint: str | None = None
    encrypted_env_pubkey: str | None = None
    k256_pubkey: str | None = None


class Progress(Body):
    """The operation under way: the status it works towards, since when, and its correlation id."""

    target: str | None = None
    started_at: str | None = None
    correlation_id: str | None = None


class Gateway(Body):
    """Under which domain an app is reached."""

    base_domain: str | None = None
    cname: str | None = None


class CvmV2(Body):
    """A CVM at V2. `id` is the number as text (cloud-api.md 2.2)."""

    id: str
    name: str
    app_id: str | None = None
    vm_uuid: str | None = None
    instance_id: str | None = None
    resource: Resource
    node_info: NodeRef | None = None
    os: OsInfo | None = None
    kms_type: KmsTypeName | None = None
    kms_info: CvmKmsInfo | None = None
    status: str
    progress: Progress | None = None
    compose_hash: str | None = None
    gateway: Gateway
    services: list[dict[str, Any]] = Field(default_factory=list)
    endpoints: list[PublicUrl] | None = None
    public_logs: bool = True
    public_sysinfo: bool = True
    public_tcbinfo: bool = True
    gateway_enabled: bool = True
    secure_time: bool = False
    listed: bool = False
    storage_fs: str = "ext4"
    workspace: WorkspaceRef | None = None
    creator: UserRef | None = None


class CvmLogs(Body):
    """Where the logs of a CVM are read."""

    serial: str | None = None
    stdout: str | None = None
    stderr: str | None = None
    container_log_base: str | None = None


class HourlyRate(Body):
    """Listed prices per hour."""

    total: str | None = None
    compute: str | None = None
    disk: str | None = None


class CvmV3(CvmV2):
    """A CVM at V3 and V4. `id` is `cvm_...`."""

    in_progress: bool = False
    docker_compose_hash: str | None = None
    pre_launch_script_hash: str | None = None
    logs: CvmLogs = CvmLogs()
    created_at: str | None = None
    deleted_at: str | None = None
    project_type: str | None = None
    updated_at: str | None = None
    app_url: str | None = None
    base_image: str | None = None
    features: list[str] | None = None
    runner: str | None = None
    manifest_version: str | None = None
    hourly_rate: HourlyRate | None = None
    billing_interval: str | None = None
    gpu_rental_order: dict[str, Any] | None = None


class CvmInfoV2(CvmV2):
    """GET /cvms/{cvm_id} at V2."""

    compose_file: dict[str, Any] | str | None = None


class CvmInfoV3(CvmV3):
    """GET /cvms/{cvm_id} at V3 and V4."""

    compose_file: dict[str, Any] | str | None = None


class CvmDetailV1(Body):
    """GET /cvms/{cvm_id} at V1, and PATCH .../visibility at every version. `syslog_endpoint` contains a `?`."""

    id: int
    name: str
    status: str
    in_progress: bool = False
    teepod_id: int | None
    teepod: TeepodRef | None = None
    app_id: str
    vm_uuid: str | None
    instance_id: str | None
    vcpu: int
    memory: int
    disk_size: int
    base_image: str | None
    encrypted_env_pubkey: str | None
    listed: bool = False
    project_id: str | None = None
    project_type: str | None = None
    instance_type: str | None = None
    public_sysinfo: bool = True
    public_logs: bool = True
    dapp_dashboard_url: str | None = None
    syslog_endpoint: str | None = None
    kms_info: KmsRef | None = None
    contract_address: str | None = None
    deployer_address: str | None = None
    scheduled_delete_at: str | None = None
    public_urls: list[PublicUrl] = Field(default_factory=list)
    gateway_domain: str | None = None
    machine_info: MachineInfo | None = None
    updated_at: str | None = None


class CvmPageV1(Body):
    """GET /cvms/paginated at V1 (form A of cloud-api.md 4)."""

    items: list[CvmV1]
    total: int
    page: int
    page_size: int
    pages: int


class CvmPageV2(Body):
    """GET /cvms/paginated at V2."""

    items: list[CvmV2]
    total: int
    page: int
    page_size: int
    pages: int


class CvmPageV3(Body):
    """GET /cvms/paginated at V3 and V4."""

    items: list[CvmV3]
    total: int
    page: int
    page_size: int
    pages: int
