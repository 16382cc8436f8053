"""Tables of compose files and of the changes made with them.

Rules:

1. The bytes of an app-compose file are stored once, under their SHA-256, and never serialised again: what was
   hashed is what the CVM gets, what a revision shows and what a verifier hashes (cloud-api.md 14.2).
2. A row of `compose_files` gives nobody access: it is reached through a revision, a provision or a CVM, and
   those are bound to a workspace.
3. A revision is written in the transaction that makes the change, and never altered.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column, relationship

from teehouse.cloud.accounts.models import User
from teehouse.cloud.apps.models import App
from teehouse.cloud.cvms.models import Cvm
from teehouse.cloud.db.base import Base, BigKey, hex_text


class OperationType(StrEnum):
    """What a revision or an operation did (cloud-api.md 16; only some of them make a revision)."""

    CREATE = "create"
    UPDATE = "update"
    UPDATE_COMPOSE = "update_compose"
    UPDATE_ENV = "update_env"
    UPDATE_PRE_LAUNCH_SCRIPT = "update_pre_launch_script"
    UPDATE_VISIBILITY = "update_visibility"
    UPDATE_RESOURCES = "update_resources"
    UPDATE_OS_IMAGE = "update_os_image"
    REPLICATE = "replicate"
    START = "start"
    STOP = "stop"
    SHUTDOWN = "shutdown"
    RESTART = "restart"
    DELETE = "delete"


class ComposeFile(Base):
    """An app-compose file (rule 1). `services` are its `{name, image}` pairs, read once so that lists need not."""

    __tablename__ = "compose_files"

    compose_hash: Mapped[str] = mapped_column(hex_text(64), primary_key=True)
    body: Mapped[bytes] = mapped_column(deferred=True)
    services: Mapped[list[dict[str, Any]]]
    docker_compose_hash: Mapped[str | None] = mapped_column(hex_text(64))
    pre_launch_script_hash: Mapped[str | None] = mapped_column(hex_text(64))
    created_at: Mapped[datetime]


class Revision(Base):
    """One change of one CVM: who, what, the exact bytes, and the trace it happened in (32 hex digits).

    `changed` names the fields that were not as before. `encrypted_env` and `user_config` are what the CVM has
    from then on; the latest revision of a CVM is its wanted configuration.
    """

    __tablename__ = "revisions"
    __table_args__ = (
        Index(None, "app_record_id", "id"),
        Index(None, "cvm_id", "id"),
        Index(None, "workspace_id", "id"),
    )

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    workspace_id: Mapped[int] = mapped_column(ForeignKey("workspaces.id"))
    app_record_id: Mapped[int] = mapped_column(ForeignKey("apps.id"))
    cvm_id: Mapped[int] = mapped_column(ForeignKey("cvms.id"))
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    operation_type: Mapped[str] = mapped_column(String(32))
    compose_hash: Mapped[str] = mapped_column(hex_text(64), ForeignKey("compose_files.compose_hash"))
    encrypted_env: Mapped[bytes] = mapped_column(default=b"", deferred=True)
    user_config: Mapped[str] = mapped_column(default="", deferred=True)
    changed: Mapped[list[str]]
    trace_id: Mapped[str | None] = mapped_column(hex_text(32))
    correlation_id: Mapped[str | None] = mapped_column(String(128), index=True)
    created_at: Mapped[datetime]

    app: Mapped[App] = relationship(lazy="raise")
    cvm: Mapped[Cvm] = relationship(lazy="raise")
    user: Mapped[User | None] = relationship(lazy="raise")
    compose: Mapped[ComposeFile] = relationship(lazy="raise")
