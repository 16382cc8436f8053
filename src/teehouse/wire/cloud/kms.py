"""KMSs, their contracts and their keys (cloud-api.md 10.2, 12.4, 14.1)."""

from teehouse.wire.cloud.base import Body


class KmsContract(Body):
    """A KMS as relying parties see it, at V4. The off-chain one has the address `phala` and chain 0."""

    id: str
    slug: str | None
    label: str | None
    contract_address: str
    chain_id: int
    k256_pubkey: str | None
    ca_pubkey: str | None
    node_count: int


class KmsContractNode(Body):
    """A running KMS of a contract."""

    id: str
    slug: str | None
    url: str
    version: str
    kms_type: str


class KmsContractNodes(Body):
    """GET /kms/{contract}/nodes."""

    items: list[KmsContractNode]
    total: int


class EnvironmentPublicKey(Body):
    """The X25519 key (64 hex digits) that an app's environment is encrypted for, and the KMS's signature over it.

    The signature is 65 bytes in hex, `r || s || recovery id`, of the form without a time. Clients refuse any other
    member.
    """

    public_key: str
    signature: str


class NextAppId(Body):
    """An app id that the workspace's provision with this nonce gets."""

    app_id: str
    nonce: int


class NextAppIds(Body):
    """GET /kms/phala/next_app_id. Clients refuse any other member."""

    app_ids: list[NextAppId]


class OnChainDevice(Body):
    """A node's device; `on_chain_allowed` is None where the chain was not asked."""

    device_id: str
    node_name: str | None
    on_chain_allowed: bool | None


class OnChainImage(Body):
    """An OS image; `on_chain_allowed` is None where the chain was not asked."""

    name: str
    version: str
    os_image_hash: str | None
    on_chain_allowed: bool | None


class OnChainContract(Body):
    """A KMS contract with the devices and images of the nodes that use it."""

    contract_address: str
    chain_id: int
    chain_name: str
    devices: list[OnChainDevice]
    os_images: list[OnChainImage]
    k256_pubkey: str | None = None
    ca_pubkey: str | None = None
    gateway_contract_address: str | None = None


class OnChainKms(Body):
    """GET /kms/on-chain/{chain}."""

    chain_name: str
    chain_id: int
    contracts: list[OnChainContract]
