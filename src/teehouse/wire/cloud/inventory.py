"""What can be asked for: instance types, OS images, nodes, quotas (cloud-api.md 10.2, 12.2, 12.3)."""

from teehouse.wire.cloud.base import Body
from teehouse.wire.cloud.references import KmsRef


class InstanceType(Body):
    """A size with a name. `memory_mb` is MB, the disk GB, the price decimal text per hour."""

    id: str
    name: str
    description: str
    vcpu: int
    memory_mb: int
    hourly_rate: str
    requires_gpu: bool
    default_disk_size_gb: int
    family: str | None


class InstanceTypeFamily(Body):
    """A family with its types. Clients refuse any other member."""

    name: str
    items: list[InstanceType]
    total: int


class InstanceTypes(Body):
    """GET /instance-types. Clients refuse any other member."""

    result: list[InstanceTypeFamily]


class FamilyInstanceTypes(Body):
    """GET /instance-types/{family}. Clients refuse any other member."""

    items: list[InstanceType]
    total: int
    family: str


class OsImage(Body):
    """An OS image; `version` is text here."""

    name: str
    slug: str
    version: str
    os_image_hash: str | None
    is_dev: bool
    requires_gpu: bool


class NodeImage(Body):
    """An OS image of a node; `version` is 3 or 4 numbers here."""

    name: str
    is_dev: bool
    version: list[int]
    os_image_hash: str | None = None


class NodeDeviceId(Body):
    """One of a node's device ids, 64 hex digits."""

    device_id: str
    algorithm_version: str
    os_image_ids: list[int]
    enabled: bool


class AvailableNode(Body):
    """A node that takes CVMs. `remaining_memory` is MB; `resource_score` the part of it that is free."""

    teepod_id: int
    name: str
    listed: bool
    resource_score: float
    remaining_vcpu: int
    remaining_memory: int
    remaining_cvm_slots: int
    images: list[NodeImage]
    support_onchain_kms: bool
    fmspc: str | None
    device_id: str | None
    region_identifier: str | None
    default_kms: str | None
    kms_list: list[str]
    device_ids: list[NodeDeviceId]


class Capacity(Body):
    """What a workspace may have at once: CVMs, processors, MB, GB."""

    max_instances: int
    max_vcpu: int
    max_memory: int
    max_disk: int


class GpuAvailability(Body):
    """GPUs of nodes reserved for the workspace, and of nodes that everyone shares."""

    has_reserved_gpus: bool
    reserved_gpu_count: int
    has_public_gpus: bool
    public_gpu_count: int


class AvailableNodes(Body):
    """GET /teepods/available, the best node first."""

    tier: str
    capacity: Capacity
    nodes: list[AvailableNode]
    kms_list: list[KmsRef]
    gpu_availability: GpuAvailability


class KmsNodeResource(Body):
    """A KMS as GET /teepods/cvm-create-resources has it."""

    id: str
    slug: str
    url: str
    version: str
    kms_type: str
    chain_id: int | None
    kms_contract_id: str
    kms_contract_address: str | None
    gateway_app_id: str | None
    supported_os_images: list[str]


class NodeKmsRelation(Body):
    """That CVMs of a node may use a KMS."""

    teepod_id: int
    kms_id: str
    kms_type: str
    kms_contract_id: str
    kms_contract_address: str | None
    supported_os_images: list[str]


class GatewayNode(Body):
    """A gateway in front of a node's CVMs."""

    id: str
    teepod_id: int | None
    kms_contract_id: str
    rpc_url: str | None
    domain_suffix: str | None
    enabled: bool


class InstanceTypeResource(Body):
    """An instance type as GET /teepods/cvm-create-resources has it."""

    id: str
    name: str
    vcpu: int
    memory_mb: int
    default_disk_size_gb: int
    requires_gpu: bool
    requires_gpu_count: int
    family: str | None
    display_order: int | None


class CvmCreateResources(Body):
    """GET /teepods/cvm-create-resources."""

    tier: str
    capacity: Capacity
    nodes: list[AvailableNode]
    kms_nodes: list[KmsNodeResource]
    node_kms_relations: list[NodeKmsRelation]
    gateway_nodes: list[GatewayNode]
    instance_types: list[InstanceTypeResource]
    gpu_availability: GpuAvailability


class Meter(Body):
    """A quota and what is left of it."""

    limit: int
    remaining: int


class QuotaMeters(Body):
    """CVMs, processors, MB of memory, GB of disk."""

    vm_slots: Meter
    vcpu: Meter
    memory_mb: Meter
    disk_gb: Meter


class ReservedGpus(Body):
    """GPUs reserved for the workspace; `misconfigured` are those that cannot be given to a CVM."""

    gpus: Meter
    in_use: int
    misconfigured: int


class WorkspaceQuotas(Body):
    """GET /workspaces/{slug}/quotas."""

    team_slug: str
    tier: str
    as_of: str
    quotas: QuotaMeters
    reserved_nodes: Meter
    reserved_gpu: ReservedGpus
