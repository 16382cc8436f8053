"""What requests ask to be done with CVMs (cloud-api.md 10.3, 13), and what they are answered (12.6, 12.7).

Null means "not said", as published clients send it.
"""

from typing import Annotated, Any

from pydantic import Field, StringConstraints

from teehouse.wire.cloud.base import Body
from teehouse.wire.cloud.references import KmsRef

HEX_LIMIT = 2 * 1024 * 1024 + 2  # characters of a sealed environment
TEXT_LIMIT = 1024 * 1024  # characters; the compose file's own limit is told in its own words
EnvName = Annotated[str, StringConstraints(max_length=256)]  # the name of an environment variable


class Gpus(Body):
    """How many GPUs."""

    count: int = Field(ge=0, le=64)
    product_name: str | None = Field(default=None, max_length=128)


class ProvisionRequest(Body):
    """POST /cvms/provision (13.2). `teepod_id` and `node_id` mean the same; memory MB, disk GB."""

    name: str = Field(max_length=256)
    compose_file: dict[str, Any]
    listed: bool | None = None
    kms: str | None = Field(default=None, max_length=64)
    kms_id: str | None = Field(default=None, max_length=64)
    kms_contract: str | None = Field(default=None, max_length=64)
    instance_type: str | None = Field(default=None, max_length=64)
    vcpu: int | None = Field(default=None, ge=1, le=1024)
    memory: int | None = Field(default=None, ge=128, le=16 * 1024 * 1024)
    disk_size: int | None = Field(default=None, ge=1, le=1024 * 1024)
    gpus: Gpus | None = None
    teepod_id: int | None = Field(default=None, ge=0, lt=2**63)
    node_id: int | None = Field(default=None, ge=0, lt=2**63)
    region: str | None = Field(default=None, max_length=64)
    image: str | None = Field(default=None, max_length=128)
    prefer_dev: bool | None = None
    app_id: str | None = Field(default=None, max_length=64)
    nonce: int | None = Field(default=None, ge=0, lt=2**62)
    env_keys: list[EnvName] | None = Field(default=None, max_length=4096)
    user_config: str | None = Field(default=None, max_length=TEXT_LIMIT)


class ProvisionAnswer(Body):
    """What was decided (12.7)."""

    app_id: str | None
    app_env_encrypt_pubkey: str | None
    compose_hash: str
    kms_info: KmsRef | None
    fmspc: str | None
    device_id: str | None
    os_image_hash: str | None
    instance_type: str | None
    teepod_id: int | None
    node_id: int | None
    kms_id: str | None


class CommitRequest(Body):
    """POST /cvms."""

    compose_hash: str = Field(max_length=80)
    app_id: str | None = Field(default=None, max_length=64)
    encrypted_env: str | None = Field(default=None, max_length=HEX_LIMIT)
    env_keys: list[EnvName] | None = Field(default=None, max_length=4096)
    kms_id: str | None = Field(default=None, max_length=64)
    contract_address: str | None = Field(default=None, max_length=64)
    deployer_address: str | None = Field(default=None, max_length=64)


class PatchRequest(Body):
    """PATCH /cvms/{cvm_id}, first phase; also its parts, of which some have routes of their own."""

    docker_compose_file: str | None = Field(default=None, max_length=TEXT_LIMIT)
    pre_launch_script: str | None = Field(default=None, max_length=TEXT_LIMIT)
    allowed_envs: list[EnvName] | None = Field(default=None, max_length=4096)
    public_logs: bool | None = None
    public_sysinfo: bool | None = None
    public_tcbinfo: bool | None = None
    encrypted_env: str | None = Field(default=None, max_length=HEX_LIMIT)
    user_config: str | None = Field(default=None, max_length=TEXT_LIMIT)
    gpus: Gpus | None = None
    vcpu: int | None = Field(default=None, ge=1, le=1024)
    memory: int | None = Field(default=None, ge=128, le=16 * 1024 * 1024)
    disk_size: int | None = Field(default=None, ge=1, le=1024 * 1024)
    instance_type: str | None = Field(default=None, max_length=64)
    image: str | None = Field(default=None, max_length=128)
    shutdown_timeout: int | None = Field(default=None, ge=10, le=1200)
    allow_force_stop: bool | None = None
    allow_restart: bool | None = None


class ResourcesRequest(Body):
    """PATCH /cvms/{cvm_id}/resources; the CLI sends `allow_restart` as 0 or 1."""

    vcpu: int | None = Field(default=None, ge=1, le=1024)
    memory: int | None = Field(default=None, ge=128, le=16 * 1024 * 1024)
    disk_size: int | None = Field(default=None, ge=1, le=1024 * 1024)
    instance_type: str | None = Field(default=None, max_length=64)
    allow_restart: bool | None = None


class VisibilityRequest(Body):
    """PATCH /cvms/{cvm_id}/visibility."""

    public_sysinfo: bool | None = None
    public_logs: bool | None = None
    public_tcbinfo: bool | None = None


class OsImageRequest(Body):
    """PATCH /cvms/{cvm_id}/os-image."""

    os_image_name: str = Field(max_length=128)


class EnvsRequest(Body):
    """PATCH /cvms/{cvm_id}/envs; the second phase repeats the first and adds the last two."""

    encrypted_env: str = Field(max_length=HEX_LIMIT)
    env_keys: list[EnvName] | None = Field(default=None, max_length=4096)
    compose_hash: str | None = Field(default=None, max_length=80)
    transaction_hash: str | None = Field(default=None, max_length=80)


class ComposeCommitRequest(Body):
    """PATCH /cvms/{cvm_id}/compose_file."""

    compose_hash: str = Field(max_length=80)
    encrypted_env: str | None = Field(default=None, max_length=HEX_LIMIT)
    env_keys: list[EnvName] | None = Field(default=None, max_length=4096)
    update_env_vars: bool | None = None


class CommitTokenRequest(Body):
    """POST .../commit-update and .../commit-replica; the CLI sends empty text for what it does not know."""

    token: str = Field(max_length=128)
    compose_hash: str | None = Field(default=None, max_length=80)
    transaction_hash: str | None = Field(default=None, max_length=80)


class ReplicaRequest(Body):
    """POST /cvms/{cvm_id}/replicas."""

    node_id: int | None = Field(default=None, ge=0, lt=2**63)
    encrypted_env: str | None = Field(default=None, max_length=HEX_LIMIT)
    compose_hash: str | None = Field(default=None, max_length=80)


class InstanceRequest(Body):
    """POST /apps/{app_id}/instances."""

    name: str | None = Field(default=None, max_length=256)
    node_id: int | None = Field(default=None, ge=0, lt=2**63)
    docker_compose_file: str | None = Field(default=None, max_length=TEXT_LIMIT)
    pre_launch_script: str | None = Field(default=None, max_length=TEXT_LIMIT)
    encrypted_env: str | None = Field(default=None, max_length=HEX_LIMIT)
    compose_hash: str | None = Field(default=None, max_length=80)
    token: str | None = Field(default=None, max_length=128)
    transaction_hash: str | None = Field(default=None, max_length=80)


class RestartRequest(Body):
    """POST /cvms/{cvm_id}/restart."""

    force: bool = False


class InstanceIdRequest(Body):
    """PATCH /cvms/{cvm_id}/instance-id."""

    overwrite: bool | None = None
    dry_run: bool | None = None


class InstanceIdsRequest(Body):
    """PATCH /cvms/instance-ids."""

    cvm_ids: list[Annotated[str, StringConstraints(max_length=128)] | int] | None = Field(
        default=None, max_length=500
    )
    running_only: bool | None = None
    missing_only: bool | None = None
    overwrite: bool | None = None
    dry_run: bool | None = None
    limit: int | None = Field(default=None, ge=1, le=500)


class Changed(Body):
    """What a change is answered: its correlation id, the status, and which fields were not as before."""

    correlation_id: str
    status: str
    changed: list[str]
    message: str | None = None
    allowed_envs_changed: bool | None = None
