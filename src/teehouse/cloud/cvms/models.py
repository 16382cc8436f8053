"""Tables of CVMs.

Rules:

1. A name is taken by one live CVM of a workspace; that a row is live is `deleted_at IS NULL`. The rows of deleted
   CVMs stay: revisions tell of them.
2. `status` is what was last seen or is under way (cloud-api.md 15), `desired` what is wanted. Only the operation
   under way on a CVM moves `status` through states ending in `ing`; the reconciler compares the two.
3. At most one operation is unfinished per CVM. The index of `operations` says so; nothing else has to.
4. The indexes named `ix_cvms_filter_...` serve several filters of GET /apps at once (one alone is served by
   `app_facets`); each ends with the app, so that the apps are read from the index alone. Node and region are
   filtered by `node_id`.
5. Memory is MB, disk GB, as requests have it.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ForeignKey, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from teehouse.cloud.accounts.models import User, Workspace
from teehouse.cloud.apps.models import App
from teehouse.cloud.db.base import Base, BigKey, hex_text
from teehouse.cloud.inventory.models import KmsNode, OsImage
from teehouse.cloud.nodes.models import Node

_LIVE = text("deleted_at IS NULL")
_UNFINISHED = text("finished_at IS NULL")


class CvmStatus(StrEnum):
    """The machine of cloud-api.md 15. Clients take anything ending in `ing` but `running` for a transition."""

    CREATING = "creating"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    ERROR = "error"
    EXITED = "exited"
    DELETING = "deleting"
    DELETED = "deleted"


class Desired(StrEnum):
    """What a CVM is wanted to be."""

    RUNNING = "running"
    STOPPED = "stopped"
    DELETED = "deleted"


class Cvm(Base):
    """A CVM. `vm_uuid` is 32 hex digits, as nodes name it (bodies show it with dashes: `vm_uuid_text`).

    `compose_hash` is the wanted one; environment and user configuration are in its latest revision. `base_image`
    repeats the image's name, which never changes, because lists are filtered by it. `generation` grows with each
    change of what is wanted, so that a slow worker can see that it comes too late.
    """

    __tablename__ = "cvms"
    __table_args__ = (
        Index(
            "uq_cvms_workspace_id_name_live",
            "workspace_id",
            "name",
            unique=True,
            postgresql_where=_LIVE,
            sqlite_where=_LIVE,
        ),
        Index(None, "workspace_id", "id", postgresql_where=_LIVE, sqlite_where=_LIVE),
        Index(None, "app_record_id", "id", postgresql_where=_LIVE, sqlite_where=_LIVE),
        Index(
            "ix_cvms_filter_status",
            "workspace_id",
            "status",
            "instance_type",
            "base_image",
            "node_id",
            "app_record_id",
            postgresql_where=_LIVE,
            sqlite_where=_LIVE,
        ),
        Index(
            "ix_cvms_filter_instance_type",
            "workspace_id",
            "instance_type",
            "base_image",
            "node_id",
            "app_record_id",
            postgresql_where=_LIVE,
            sqlite_where=_LIVE,
        ),
        Index(
            "ix_cvms_filter_node",
            "workspace_id",
            "node_id",
            "base_image",
            "app_record_id",
            postgresql_where=_LIVE,
            sqlite_where=_LIVE,
        ),
        Index(None, "node_id", "id", postgresql_where=_LIVE, sqlite_where=_LIVE),
        Index(None, "instance_id"),
    )

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    vm_uuid: Mapped[str] = mapped_column(hex_text(32), unique=True)
    workspace_id: Mapped[int] = mapped_column(ForeignKey("workspaces.id"))
    app_record_id: Mapped[int] = mapped_column(ForeignKey("apps.id"))
    creator_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    name: Mapped[str] = mapped_column(String(63))
    status: Mapped[str] = mapped_column(String(16), default=CvmStatus.CREATING)
    desired: Mapped[str] = mapped_column(String(16), default=Desired.RUNNING)
    generation: Mapped[int] = mapped_column(default=0)
    node_id: Mapped[int | None] = mapped_column(ForeignKey("nodes.id"))
    kms_id: Mapped[int] = mapped_column(ForeignKey("kms_nodes.id"))
    os_image_id: Mapped[int] = mapped_column(ForeignKey("os_images.id"))
    base_image: Mapped[str] = mapped_column(String(128))
    instance_type: Mapped[str | None] = mapped_column(String(64))
    vcpu: Mapped[int]
    memory_mb: Mapped[int]
    disk_gb: Mapped[int]
    gpus: Mapped[int] = mapped_column(default=0)
    compose_hash: Mapped[str] = mapped_column(hex_text(64), ForeignKey("compose_files.compose_hash"))
    instance_id: Mapped[str | None] = mapped_column(hex_text(40))
    public_logs: Mapped[bool] = mapped_column(default=True)
    public_sysinfo: Mapped[bool] = mapped_column(default=True)
    public_tcbinfo: Mapped[bool] = mapped_column(default=True)
    gateway_enabled: Mapped[bool] = mapped_column(default=True)
    secure_time: Mapped[bool] = mapped_column(default=False)
    storage_fs: Mapped[str | None] = mapped_column(String(8))
    shutdown_timeout: Mapped[int | None]  # seconds
    allow_force_stop: Mapped[bool] = mapped_column(default=True)
    boot_progress: Mapped[str | None]
    boot_error: Mapped[str | None]
    shutdown_progress: Mapped[str | None]
    agent_url: Mapped[str | None]  # its agent's pages, as the node reaches them; while it runs
    published: Mapped[str | None]  # `addresses.published_text`, while it runs; NULL: not yet asked for
    correlation_id: Mapped[str | None] = mapped_column(String(128))  # of the last operation
    started_at: Mapped[datetime | None]
    exited_at: Mapped[datetime | None]
    observed_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    deleted_at: Mapped[datetime | None]

    app: Mapped[App] = relationship(lazy="raise")
    workspace: Mapped[Workspace] = relationship(lazy="raise")
    creator: Mapped[User] = relationship(lazy="raise")
    node: Mapped[Node | None] = relationship(lazy="raise")
    kms: Mapped[KmsNode] = relationship(lazy="raise")
    image: Mapped[OsImage] = relationship(lazy="raise")

    @property
    def vm_uuid_text(self) -> str:
        """The UUID with dashes."""
        u = self.vm_uuid
        return f"{u[:8]}-{u[8:12]}-{u[12:16]}-{u[16:20]}-{u[20:]}"


class Provision(Base):
    """The first half of a deployment or of a compose file's update: all that was decided, until it is committed.

    `kind` is "create", "update" (of `cvm_id`) or "instance". `settings` keeps what only the commit needs.
    `committed_at` is set by one guarded UPDATE, so that a provision is committed once; `cvm_id` is then what came
    of it, and the same commit again answers with that (cloud-api.md 16).
    """

    __tablename__ = "provisions"
    __table_args__ = (
        Index(None, "workspace_id", "compose_hash", "id"),
        Index(None, "workspace_id", "app_id", "id"),
        Index(None, "expires_at"),
    )

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    workspace_id: Mapped[int] = mapped_column(ForeignKey("workspaces.id"))
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    kind: Mapped[str] = mapped_column(String(16), default="create")
    compose_hash: Mapped[str] = mapped_column(hex_text(64), ForeignKey("compose_files.compose_hash"))
    app_id: Mapped[str | None] = mapped_column(hex_text(40))
    nonce: Mapped[int | None] = mapped_column(BigKey)
    name: Mapped[str] = mapped_column(String(63))
    node_id: Mapped[int | None] = mapped_column(ForeignKey("nodes.id"))
    kms_id: Mapped[int | None] = mapped_column(ForeignKey("kms_nodes.id"))
    os_image_id: Mapped[int | None] = mapped_column(ForeignKey("os_images.id"))
    instance_type: Mapped[str | None] = mapped_column(String(64))
    vcpu: Mapped[int]
    memory_mb: Mapped[int]
    disk_gb: Mapped[int]
    gpus: Mapped[int] = mapped_column(default=0)
    listed: Mapped[bool] = mapped_column(default=False)
    settings: Mapped[dict[str, Any]]
    cvm_id: Mapped[int | None] = mapped_column(ForeignKey("cvms.id"))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    committed_at: Mapped[datetime | None]


class Reservation(Base):
    """A place on a node, held for a provision until `expires_at`, or taken by a CVM (see `nodes.models`, rule 1).

    A CVM, and a provision, have at most one each.
    """

    __tablename__ = "reservations"
    __table_args__ = (
        Index(None, "node_id", "id"),
        Index(None, "expires_at"),
        Index(None, "workspace_id", "id"),
    )

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    workspace_id: Mapped[int] = mapped_column(ForeignKey("workspaces.id"))
    node_id: Mapped[int] = mapped_column(ForeignKey("nodes.id"))
    provision_id: Mapped[int | None] = mapped_column(ForeignKey("provisions.id"), unique=True)
    cvm_id: Mapped[int | None] = mapped_column(ForeignKey("cvms.id"), unique=True)
    vcpu: Mapped[int]
    memory_mb: Mapped[int]
    disk_gb: Mapped[int]
    gpus: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]


class Operation(Base):
    """Something under way with a CVM, or done (rule 3). `target` is the status that it works towards.

    `phase` is the step it is at; `error` says why it failed, as a finding. `request` is what it was asked to do,
    enough to go on after a crash. `workflow_id` is the durable workflow's.
    """

    __tablename__ = "operations"
    __table_args__ = (
        Index(
            "uq_operations_cvm_id_unfinished",
            "cvm_id",
            unique=True,
            postgresql_where=_UNFINISHED,
            sqlite_where=_UNFINISHED,
        ),
        Index(None, "cvm_id", "id"),
        Index(None, "workspace_id", "id"),
    )

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    workspace_id: Mapped[int] = mapped_column(ForeignKey("workspaces.id"))
    cvm_id: Mapped[int] = mapped_column(ForeignKey("cvms.id"))
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    operation_type: Mapped[str] = mapped_column(String(32))
    target: Mapped[str] = mapped_column(String(16))
    phase: Mapped[str] = mapped_column(String(64), default="pending")
    outcome: Mapped[str | None] = mapped_column(String(16))  # "succeeded", "failed", "superseded"
    correlation_id: Mapped[str] = mapped_column(String(128), unique=True)
    workflow_id: Mapped[str | None] = mapped_column(String(128), unique=True)
    trace_id: Mapped[str | None] = mapped_column(hex_text(32))
    request: Mapped[dict[str, Any]]
    error: Mapped[dict[str, Any] | None]
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


class CvmEvent(Base):
    """Something that happened to a CVM, in words for people; shown by POST /status/batch."""

    __tablename__ = "cvm_events"
    __table_args__ = (Index(None, "cvm_id", "id"),)

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    workspace_id: Mapped[int] = mapped_column(ForeignKey("workspaces.id"))
    cvm_id: Mapped[int] = mapped_column(ForeignKey("cvms.id"))
    operation_id: Mapped[int | None] = mapped_column(ForeignKey("operations.id"))
    event: Mapped[str] = mapped_column(String(64))
    body: Mapped[str]
    created_at: Mapped[datetime]


class CommitToken(Base):
    """A change that waits for its compose hash to be registered on chain (cloud-api.md 13.4, 16).

    Stored as its SHA-256; lasts 14 days, is used once, and a newer one of the same kind for the same CVM, or app,
    supersedes it. `change` is the change itself, as it will be applied.
    """

    __tablename__ = "commit_tokens"
    __table_args__ = (
        Index(None, "cvm_id", "kind", "id"),
        Index(None, "app_record_id", "kind", "id"),
        Index(None, "expires_at"),
    )

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    token_hash: Mapped[str] = mapped_column(hex_text(64), unique=True)
    workspace_id: Mapped[int] = mapped_column(ForeignKey("workspaces.id"))
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    app_record_id: Mapped[int] = mapped_column(ForeignKey("apps.id"))
    cvm_id: Mapped[int | None] = mapped_column(ForeignKey("cvms.id"))
    kind: Mapped[str] = mapped_column(String(16))  # "update", "replica", "instance"
    compose_hash: Mapped[str] = mapped_column(hex_text(64), ForeignKey("compose_files.compose_hash"))
    change: Mapped[dict[str, Any]]
    encrypted_env: Mapped[bytes | None]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]
    superseded_at: Mapped[datetime | None]
