"""Tables of what can be asked for: instance types, OS images, KMSs and their contracts."""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from sqlalchemy import ForeignKey, Numeric, String
from sqlalchemy.orm import Mapped, mapped_column, relationship

from teehouse.cloud.db.base import Base, BigKey, hex_text


class KmsType(StrEnum):
    """The words of cloud-api.md 15, as answers carry them; requests write them in upper case."""

    PHALA = "phala"
    ETHEREUM = "ethereum"
    BASE = "base"
    LEGACY = "legacy"


class InstanceType(Base):
    """A size with a name. Sizes and prices are data; an `enabled` of false hides it from new CVMs only."""

    __tablename__ = "instance_types"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)  # "tdx.small"
    name: Mapped[str] = mapped_column(String(64))
    family: Mapped[str] = mapped_column(String(32), index=True)
    description: Mapped[str]
    vcpu: Mapped[int]
    memory_mb: Mapped[int]
    default_disk_gb: Mapped[int] = mapped_column(default=20)
    gpu_count: Mapped[int] = mapped_column(default=0)
    hourly_rate: Mapped[Decimal] = mapped_column(Numeric(12, 6, asdecimal=True))
    display_order: Mapped[int] = mapped_column(default=0)
    enabled: Mapped[bool] = mapped_column(default=True)


class OsImage(Base):
    """An OS image. Its name says its bytes: neither name nor hash ever change, so CVMs keep the name beside it."""

    __tablename__ = "os_images"

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    name: Mapped[str] = mapped_column(String(128), unique=True)
    slug: Mapped[str] = mapped_column(String(128))
    version: Mapped[str] = mapped_column(String(32))  # "0.5.4"
    os_image_hash: Mapped[str | None] = mapped_column(hex_text(64))
    is_dev: Mapped[bool] = mapped_column(default=False)
    requires_gpu: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime]


class KmsContract(Base):
    """A KMS as relying parties see it: a contract on a chain, or `phala` and chain 0 for the off-chain one.

    `rpc_url` is an endpoint that clients may use, so it carries no key; `multicall_address` is where aggregate3
    is answered on that chain. Both are told to clients.
    """

    __tablename__ = "kms_contracts"

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    slug: Mapped[str] = mapped_column(String(64), unique=True)
    label: Mapped[str | None] = mapped_column(String(128))
    contract_address: Mapped[str] = mapped_column(String(42))
    chain_id: Mapped[int] = mapped_column(BigKey, default=0)
    k256_pubkey: Mapped[str | None] = mapped_column(hex_text(130))
    ca_pubkey: Mapped[str | None]
    gateway_contract_address: Mapped[str | None] = mapped_column(String(42))
    rpc_url: Mapped[str | None]
    multicall_address: Mapped[str | None] = mapped_column(String(42))
    created_at: Mapped[datetime]


class KmsNode(Base):
    """A running KMS. `kms_type` is what `{kms}` in a path may also be (cloud-api.md 8)."""

    __tablename__ = "kms_nodes"

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    contract_id: Mapped[int] = mapped_column(ForeignKey("kms_contracts.id"), index=True)
    slug: Mapped[str] = mapped_column(String(64), unique=True)
    url: Mapped[str]
    version: Mapped[str] = mapped_column(String(32))
    kms_type: Mapped[str] = mapped_column(String(16), index=True)
    gateway_app_id: Mapped[str | None] = mapped_column(String(42))
    gateway_app_url: Mapped[str | None]
    enabled: Mapped[bool] = mapped_column(default=True)
    created_at: Mapped[datetime]

    contract: Mapped[KmsContract] = relationship(lazy="raise")
