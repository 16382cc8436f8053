"""What is answered to actions on CVMs (cloud-api.md 10.3, 12.6).

A CVM's id is a number up to V2 and its hashed text from V3 on (2.1).
"""

from typing import Any, Literal

from pydantic import StrictInt, StrictStr

from teehouse.wire.cloud.base import Body
from teehouse.wire.cloud.cvms import TeepodRef
from teehouse.wire.cloud.lifecycle import Changed
from teehouse.wire.cloud.references import KmsRef


class VmAction(Body):
    """The CVM that was made, or that something was begun with (12.6). Memory MB, disk GB."""

    id: StrictInt | StrictStr
    name: str
    status: str
    teepod_id: int
    teepod: TeepodRef | None
    user_id: int
    app_id: str
    vm_uuid: str | None
    instance_id: str | None
    app_url: str | None
    base_image: str | None
    vcpu: int
    memory: int
    disk_size: int
    manifest_version: int | None
    version: str
    runner: str | None
    docker_compose_file: str | None
    features: list[str]
    created_at: str
    encrypted_env_pubkey: str | None
    app_auth_contract_address: str | None
    deployer_address: str | None
    correlation_id: str | None


class Deletion(Body):
    """DELETE /cvms/{cvm_id}: it goes on by itself."""

    status: Literal["deleting"]
    correlation_id: str


class ComposeProvision(Body):
    """POST /cvms/{cvm_id}/compose_file/provision."""

    app_id: str | None
    device_id: str | None
    compose_hash: str
    kms_info: KmsRef | None
    compose_hash_registered: bool


class RefreshedInstanceId(Body):
    """PATCH /cvms/{cvm_id}/instance-id."""

    cvm_id: StrictInt | StrictStr
    identifier: str
    status: Literal["updated", "unchanged", "skipped", "conflict", "error"]
    old_instance_id: str | None = None
    new_instance_id: str | None = None
    source: Literal["teepod_state", "teepod_info", "gateway", "none"]
    verified_with_gateway: bool
    reason: str | None = None


class RefreshedInstanceIds(Body):
    """PATCH /cvms/instance-ids. `total` are all that were meant, `scanned` those that the limit let be looked at."""

    total: int
    scanned: int
    updated: int
    unchanged: int
    skipped: int
    conflicts: int
    errors: int
    items: list[RefreshedInstanceId]


class ConfigurationKey(Body):
    """POST /cvms/pubkey/from_cvm_configuration."""

    app_env_encrypt_pubkey: str | None
    app_id_salt: str
    app_id: str | None


class ComposeUpgrade(Changed):
    """PUT /cvms/app_{app_id}/compose. `detail` is what the deprecated command prints."""

    detail: str


AppComposeObject = dict[
    str, Any
]  # the app-compose file as an object (12.8): members that nobody here knows stay
