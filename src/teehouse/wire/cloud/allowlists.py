"""What a contract allows (cloud-api.md 11.8 to 11.10). CVMs are numbers up to V2, `cvm_...` from V3 on."""

from pydantic import Field, StrictInt

from teehouse.wire.cloud.base import Body

CvmNumberOrId = StrictInt | str


class Device(Body):
    """A device id, and which CVMs of the app run on it. `status` is `allowed`, `not_allowed` or `unknown`."""

    device_id: str
    node_name: str | None
    cvm_ids: list[CvmNumberOrId]
    allowed_onchain: bool
    status: str


class DeviceAllowlist(Body):
    """GET /apps/{app_id}/device-allowlist. Off chain nothing but the first member says anything."""

    is_onchain_kms: bool
    allow_any_device: bool | None = None
    chain_id: int | None = None
    app_contract_address: str | None = None
    devices: list[Device] = Field(default_factory=list)


class IsAllowedRequest(Body):
    """POST /apps/{app_id}/is-allowed: 32 bytes of hex each, with or without `0x`."""

    compose_hash: str = Field(min_length=1, max_length=66)
    node_id: int | None = None
    device_id: str | None = Field(default=None, max_length=66)
    chain_id: int | None = None


class CvmIsAllowedRequest(Body):
    """POST /cvms/{cvm_id}/is-allowed: what is given is asked about instead of what the CVM has."""

    compose_hash: str | None = Field(default=None, min_length=1, max_length=66)
    node_id: int | None = None
    device_id: str | None = Field(default=None, max_length=66)


class IsAllowed(Body):
    """One answer of a contract. `error` says why it could not be asked; then nothing is allowed."""

    cvm_id: CvmNumberOrId | None = None
    app_contract_address: str
    compose_hash: str
    device_id: str
    compose_hash_allowed: bool
    allow_any_device: bool
    device_id_allowed: bool | None = None
    is_allowed: bool
    error: str | None = None


class CvmsAllowed(Body):
    """POST /apps/{app_id}/cvms/is-allowed. Skipped are CVMs without node, device id or compose hash."""

    is_onchain: bool
    results: list[IsAllowed] = Field(default_factory=list)
    total: int = 0
    allowed_count: int = 0
    denied_count: int = 0
    error_count: int = 0
    skipped_cvm_ids: list[CvmNumberOrId] = Field(default_factory=list)
