"""Tables of the hosts that run CVMs.

Rules:

1. What a node has taken (`used_*`) always equals the sum of its `reservations`; both change in one transaction.
   The counters exist so that a place is taken by one guarded UPDATE, which needs no lock that spans statements
   and gives the same answer on SQLite and on PostgreSQL: two requests can never both get the last place.
2. No secret of the way to a node is stored: `bundle` names the certificates on the control plane's disk.
"""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from teehouse.cloud.db.base import Base, BigKey, JsonColumn, hex_text
from teehouse.cloud.inventory.models import KmsNode, OsImage


class NodeStatus(StrEnum):
    """ONLINE takes new CVMs; DRAINING keeps those it has; OFFLINE does not answer."""

    ONLINE = "online"
    DRAINING = "draining"
    OFFLINE = "offline"


class Node(Base):
    """A host. `workspace_id` is set for one that is reserved for a workspace; `url` is None for one in process.

    Capacities are processors, MB of memory, GB of disk, CVMs and GPUs. `device_id` is the one of the node's first
    algorithm; all of them are in `node_devices`. `incarnation` is the node process's, `event_cursor` the last
    event of it that was taken in.
    """

    __tablename__ = "nodes"
    __table_args__ = (
        Index(None, "region", "id"),
        CheckConstraint(
            "used_vcpu >= 0 AND used_memory_mb >= 0 AND used_disk_gb >= 0 AND used_slots >= 0 AND used_gpus >= 0",
            name="used_not_negative",
        ),
    )

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    region: Mapped[str] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(16), default=NodeStatus.ONLINE)
    version: Mapped[str] = mapped_column(String(64))
    listed: Mapped[bool] = mapped_column(default=True)
    workspace_id: Mapped[int | None] = mapped_column(ForeignKey("workspaces.id"), index=True)
    url: Mapped[str | None]
    bundle: Mapped[str | None]
    emulated: Mapped[bool]
    root: Mapped[str] = mapped_column(String(128))  # TrustedRoot.name that its quotes verify under
    device_id: Mapped[str | None] = mapped_column(hex_text(64), index=True)
    ppid: Mapped[str | None] = mapped_column(hex_text(64))
    fmspc: Mapped[str | None] = mapped_column(hex_text(12))
    gateway_domain: Mapped[str | None] = mapped_column(String(253))
    default_kms_id: Mapped[int | None] = mapped_column(ForeignKey("kms_nodes.id"))
    vcpu: Mapped[int]
    memory_mb: Mapped[int]
    disk_gb: Mapped[int]
    slots: Mapped[int]
    gpus: Mapped[int] = mapped_column(default=0)
    used_vcpu: Mapped[int] = mapped_column(default=0)
    used_memory_mb: Mapped[int] = mapped_column(default=0)
    used_disk_gb: Mapped[int] = mapped_column(default=0)
    used_slots: Mapped[int] = mapped_column(default=0)
    used_gpus: Mapped[int] = mapped_column(default=0)
    incarnation: Mapped[int | None] = mapped_column(BigKey)
    event_cursor: Mapped[int] = mapped_column(BigKey, default=0)
    last_seen_at: Mapped[datetime | None]
    created_at: Mapped[datetime]


class NodeDevice(Base):
    """A device id of a node: an allow-list may hold the one of an older or a newer derivation (12.2)."""

    __tablename__ = "node_devices"
    __table_args__ = (UniqueConstraint("node_id", "device_id"),)

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    node_id: Mapped[int] = mapped_column(ForeignKey("nodes.id", ondelete="CASCADE"))
    device_id: Mapped[str] = mapped_column(hex_text(64), index=True)
    algorithm_version: Mapped[str] = mapped_column(String(16))
    os_image_ids: Mapped[list[int]] = mapped_column(JsonColumn)
    enabled: Mapped[bool] = mapped_column(default=True)


class NodeImage(Base):
    """An OS image that a node can boot."""

    __tablename__ = "node_images"
    __table_args__ = (Index(None, "os_image_id", "node_id"),)

    node_id: Mapped[int] = mapped_column(ForeignKey("nodes.id", ondelete="CASCADE"), primary_key=True)
    os_image_id: Mapped[int] = mapped_column(ForeignKey("os_images.id"), primary_key=True)

    image: Mapped[OsImage] = relationship(lazy="raise")


class NodeKms(Base):
    """A KMS that CVMs of a node may use."""

    __tablename__ = "node_kms"
    __table_args__ = (Index(None, "kms_id", "node_id"),)

    node_id: Mapped[int] = mapped_column(ForeignKey("nodes.id", ondelete="CASCADE"), primary_key=True)
    kms_id: Mapped[int] = mapped_column(ForeignKey("kms_nodes.id"), primary_key=True)

    kms: Mapped[KmsNode] = relationship(lazy="raise")
