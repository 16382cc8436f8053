"""What an installation begins with: instance types, its KMS, its nodes and their images.

Rules:

1. All of it may be done again at every start: what is there is brought up to date, nothing is doubled, and what an
   operator changed by hand (prices, what is enabled, listed, or reserved) stays.
2. An image's name says its bytes: a node that has another hash under a known name is refused.
3. A node is known by its name, a KMS by its slug, its contract by chain and address.
4. What a node has taken is never touched here: it follows from the reservations.
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from teehouse.base.findings import misuse
from teehouse.cloud.ids import parse_app_id, parse_hex
from teehouse.cloud.inventory.models import InstanceType, KmsContract, KmsNode, KmsType, OsImage
from teehouse.cloud.nodes.models import Node, NodeDevice, NodeImage, NodeKms, NodeStatus
from teehouse.kms.client.public import KmsMeta
from teehouse.node.api import NodeImage as ImageInfo
from teehouse.node.api import NodeInfo

OFF_CHAIN_ADDRESS: Final = "phala"
DEVICE_ALGORITHM: Final = "v1"  # device id = SHA-256 of the PPID, the only derivation there is (trust.md)
SLOTS: Final = 256  # CVMs that a node takes when nobody says
_MIB: Final = 1024**2
_GIB: Final = 1024**3


@dataclass(frozen=True, slots=True)
class TypeSeed:
    """An instance type as it comes; GB of memory."""

    name: str
    vcpu: int
    memory_gb: int
    hourly_rate: str


DEFAULT_TYPES: Final = (
    TypeSeed("tdx.small", 1, 2, "0.058"),
    TypeSeed("tdx.medium", 2, 4, "0.116"),
    TypeSeed("tdx.large", 4, 8, "0.232"),
    TypeSeed("tdx.xlarge", 8, 16, "0.464"),
    TypeSeed("tdx.2xlarge", 16, 32, "0.928"),
)


async def seed_instance_types(session: AsyncSession) -> None:
    """The types that are missing (rule 1). Sizes and prices are data; nothing charges them."""
    known = set(await session.scalars(select(InstanceType.id)))
    for order, seed in enumerate(DEFAULT_TYPES):
        if seed.name not in known:
            cores = "1 vCPU" if seed.vcpu == 1 else f"{seed.vcpu} vCPUs"
            session.add(
                InstanceType(
                    id=seed.name,
                    name=seed.name,
                    family="cpu",
                    description=f"{cores}, {seed.memory_gb} GB memory",
                    vcpu=seed.vcpu,
                    memory_mb=seed.memory_gb * 1024,
                    hourly_rate=Decimal(seed.hourly_rate),
                    display_order=order,
                )
            )
    await session.flush()


async def register_kms(
    session: AsyncSession,
    meta: KmsMeta,
    *,
    url: str,
    slug: str,
    version: str,
    now: datetime,
    kms_type: KmsType | None = None,
    rpc_url: str | None = None,
    multicall_address: str | None = None,
) -> KmsNode:
    """A running KMS and its contract, by what it tells of itself; `url` may change between starts.

    Of a KMS on chain, `rpc_url` is an endpoint of the chain that is told to clients, so it has no key in it, and
    `multicall_address` is where aggregate3 is answered there. `kms_type` is needed for a chain that is neither
    Ethereum nor Base. Raises `MisuseError` when a contract is known with another root key, the chain has no name,
    or the contract's address is none.
    """
    chain_id, address = _where(meta)
    contract = await _contract(session, meta, address=address, chain_id=chain_id, slug=slug, now=now)
    if chain_id:
        contract.rpc_url, contract.multicall_address = rpc_url, multicall_address
        gateway = parse_app_id(meta.gateway_app_id or "")
        contract.gateway_contract_address = None if gateway is None else f"0x{gateway}"
    kind = kms_type or _kms_type(chain_id)
    node = await session.scalar(select(KmsNode).where(KmsNode.slug == slug))
    if node is None:
        node = KmsNode(
            slug=slug, created_at=now, contract_id=contract.id, kms_type=kind, url=url, version=version
        )
        session.add(node)
    node.contract_id, node.kms_type, node.url, node.version = contract.id, kind, url, version
    node.gateway_app_id = meta.gateway_app_id or None  # empty where the KMS has no gateway
    await session.flush()
    return node


async def register_node(
    session: AsyncSession,
    info: NodeInfo,
    *,
    region: str,
    kms: KmsNode,
    now: datetime,
    slots: int = SLOTS,
    gateway_domain: str | None = None,
    fmspc: str | None = None,
    ppid: str | None = None,
    url: str | None = None,
    bundle: str | None = None,
) -> Node:
    """A node by what it tells of itself, with its images, its device id and a KMS that its CVMs may use.

    `fmspc` has 12 hex digits. Raises `MisuseError` (rule 2).
    """
    node = await session.scalar(select(Node).where(Node.name == info.name))
    if node is None:
        node = Node(name=info.name, created_at=now)
        session.add(node)
    node.region, node.version, node.status = region, info.version, NodeStatus.ONLINE
    node.emulated, node.root = info.emulated, info.root
    node.device_id, node.fmspc, node.ppid = info.device_id.hex(), fmspc, ppid
    node.vcpu = info.capacity.cpu_count
    node.memory_mb = info.capacity.memory_size // _MIB
    node.disk_gb = info.capacity.disk_size // _GIB
    node.slots = slots
    node.url, node.bundle, node.gateway_domain = url, bundle, gateway_domain
    node.default_kms_id = node.default_kms_id or kms.id
    node.last_seen_at = now
    await session.flush()
    images = [await _image(session, image, now) for image in info.images]
    await _relate(session, node, kms, images)
    return node


async def _contract(
    session: AsyncSession, meta: KmsMeta, *, address: str, chain_id: int, slug: str, now: datetime
) -> KmsContract:
    key = meta.k256_public_key.hex()
    row = await session.scalar(
        select(KmsContract).where(
            KmsContract.chain_id == chain_id,
            func.lower(KmsContract.contract_address) == address.lower(),
            KmsContract.k256_pubkey == key,
        )
    )
    if row is None:
        taken = await session.scalar(
            select(KmsContract.k256_pubkey)
            .join(KmsNode, KmsNode.contract_id == KmsContract.id)
            .where(KmsNode.slug == slug)
        )
        if taken is not None and taken != key:
            raise misuse(
                "cloud.kms-changed",
                f"root key of the KMS {slug}",
                expected=taken,
                found=key,
                remedy="apps were deployed under the former key: register another KMS under another slug",
            )
        wanted = OFF_CHAIN_ADDRESS if chain_id == 0 else slug
        first = await session.scalar(select(KmsContract.id).where(KmsContract.slug == wanted))
        row = KmsContract(
            slug=wanted if first is None else f"contract-{slug}"[:64],
            label="Off-chain KMS" if chain_id == 0 else None,
            contract_address=address,
            chain_id=chain_id,
            k256_pubkey=key,
            created_at=now,
        )
        session.add(row)
    row.ca_pubkey = meta.kms_id.hex()
    await session.flush()
    return row


def _where(meta: KmsMeta) -> tuple[int, str]:
    """Chain id and address of the KMS's contract; 0 and `phala` off chain, as a KMS says that has no contract."""
    address = meta.kms_contract_address or ""
    if not meta.chain_id or not address:
        return 0, OFF_CHAIN_ADDRESS
    if parse_hex(address, 20) is None:
        raise misuse(
            "cloud.kms-contract",
            "address of the KMS's contract",
            expected="20 bytes of hex",
            found=address[:80],
            remedy="correct what the KMS's authorisation service tells of itself",
        )
    return meta.chain_id, f"0x{address[-40:]}"


def _kms_type(chain_id: int) -> KmsType:
    known = {0: KmsType.PHALA, 1: KmsType.ETHEREUM, 8453: KmsType.BASE}
    if chain_id not in known:
        raise misuse(
            "cloud.kms-type",
            f"name of chain {chain_id} towards clients",
            expected="ethereum or base",
            found="none",
            remedy="say which of the two it is to call itself: clients know no other",
        )
    return known[chain_id]


async def _image(session: AsyncSession, image: ImageInfo, now: datetime) -> OsImage:
    row = await session.scalar(select(OsImage).where(OsImage.name == image.name))
    digest = image.os_image_hash.hex()
    if row is None:
        row = OsImage(
            name=image.name,
            slug=image.name,
            version=image.version,
            os_image_hash=digest,
            is_dev="-dev-" in image.name,
            requires_gpu="-nvidia-" in image.name,
            created_at=now,
        )
        session.add(row)
        await session.flush()
    elif row.os_image_hash != digest:
        raise misuse(
            "cloud.image-changed",
            f"hash of the OS image {image.name}",
            expected=row.os_image_hash or "none",
            found=digest,
            remedy="give the image another name",
        )
    return row


async def _relate(session: AsyncSession, node: Node, kms: KmsNode, images: list[OsImage]) -> None:
    """Images that the node no longer has go; KMSs and devices stay, with what an operator said of them."""
    numbers = {image.id for image in images}
    known = await session.scalars(select(NodeImage).where(NodeImage.node_id == node.id))
    have = set()
    for row in known.all():
        have.add(row.os_image_id)
        if row.os_image_id not in numbers:
            await session.delete(row)
    session.add_all(NodeImage(node_id=node.id, os_image_id=number) for number in sorted(numbers - have))
    if await session.get(NodeKms, (node.id, kms.id)) is None:
        session.add(NodeKms(node_id=node.id, kms_id=kms.id))
    device = await session.scalar(
        select(NodeDevice).where(NodeDevice.node_id == node.id, NodeDevice.device_id == node.device_id)
    )
    if device is None:
        device = NodeDevice(
            node_id=node.id,
            device_id=node.device_id,
            algorithm_version=DEVICE_ALGORITHM,
            os_image_ids=sorted(numbers),
        )
        session.add(device)
    device.os_image_ids = sorted(numbers)
    await session.flush()
