"""Tables of accounts: who may do what, and how they prove who they are.

Rules:

1. Whatever proves an identity (API key, device code, session) is stored as its SHA-256 only. All of them have
   at least 128 bits of randomness, so a slow password hash would add nothing but time.
2. A key belongs to one user and one workspace (cloud-api.md 1) and never outlives the membership: callers are
   found by a join over both.
3. Revoked, expired and consumed rows stay, so that what they did can still be explained.
"""

import secrets
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import CheckConstraint, ForeignKey, Index, Numeric, String, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from teehouse.cloud.db.base import Base, BigKey, hex_text


class Role(StrEnum):
    """What a member may do: look, change CVMs, manage members and keys, and everything. `RANKS` orders them."""

    VIEWER = "viewer"
    MEMBER = "member"
    ADMIN = "admin"
    OWNER = "owner"


RANKS: Final[tuple[Role, ...]] = (Role.VIEWER, Role.MEMBER, Role.ADMIN, Role.OWNER)


class DeviceCodeStatus(StrEnum):
    """The way of a device code; CONSUMED once its access token was handed out."""

    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    CONSUMED = "consumed"


class User(Base):
    """A person or a machine account. There are no passwords: keys and device codes are the only ways in."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    username: Mapped[str] = mapped_column(String(64), unique=True)
    email: Mapped[str] = mapped_column(String(254), unique=True)
    role: Mapped[str] = mapped_column(String(16), default="user")  # of the installation: "admin" or "user"
    avatar_url: Mapped[str | None]
    email_verified: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime]


class Workspace(Base):
    """What all apps, CVMs, keys and quotas belong to; `slug` is its name in paths.

    `next_nonce` is the next number that an app id of the off-chain KMS is derived from (cloud-api.md 14.5); it
    only grows, so that a predicted id is never handed out twice. `app_id_seed` are 16 random bytes as hex that go into
    these ids (`apps.app_ids`). Money is shown, and never taken: nothing here
    charges anybody.
    """

    __tablename__ = "workspaces"

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    slug: Mapped[str] = mapped_column(String(64), unique=True)
    name: Mapped[str] = mapped_column(String(128))
    tier: Mapped[str] = mapped_column(String(32), default="free")
    avatar_url: Mapped[str | None]
    next_nonce: Mapped[int] = mapped_column(BigKey, default=0)
    app_id_seed: Mapped[str | None] = mapped_column(hex_text(32), default=lambda: secrets.token_hex(16))
    balance: Mapped[Decimal] = mapped_column(Numeric(18, 6, asdecimal=True), default=Decimal(0))
    granted_balance: Mapped[Decimal] = mapped_column(Numeric(18, 6, asdecimal=True), default=Decimal(0))
    created_at: Mapped[datetime]


class Membership(Base):
    """A user's place in a workspace. `is_default` marks the workspace a device login leads to."""

    __tablename__ = "memberships"
    __table_args__ = (Index(None, "workspace_id", "user_id"),)

    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    workspace_id: Mapped[int] = mapped_column(
        ForeignKey("workspaces.id", ondelete="CASCADE"), primary_key=True
    )
    role: Mapped[str] = mapped_column(String(16))
    is_default: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime]

    user: Mapped[User] = relationship(lazy="raise")
    workspace: Mapped[Workspace] = relationship(lazy="raise")


class ApiKey(Base):
    """A key `phak_...` (rule 1). `prefix` is its shown beginning, `scopes` are words like `cvms:read` or `*`.

    `last_used_at` is written at most once a minute, so that reading does not become writing.
    """

    __tablename__ = "api_keys"
    __table_args__ = (Index(None, "workspace_id", "id"),)

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    workspace_id: Mapped[int] = mapped_column(ForeignKey("workspaces.id", ondelete="CASCADE"))
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(String(128))
    prefix: Mapped[str] = mapped_column(String(16))
    key_hash: Mapped[str] = mapped_column(hex_text(64), unique=True)
    scopes: Mapped[list[str]]
    source: Mapped[str] = mapped_column(String(16))  # "bootstrap", "api", "device"
    created_at: Mapped[datetime]
    last_used_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]

    user: Mapped[User] = relationship(lazy="raise")
    workspace: Mapped[Workspace] = relationship(lazy="raise")


class DeviceCode(Base):
    """A login begun by a program that cannot show a page (cloud-api.md 9, RFC 8628).

    The access token is made when the program comes to fetch it, so it is never stored. `polled_at` is what
    `slow_down` is decided by.
    """

    __tablename__ = "device_codes"
    __table_args__ = (Index(None, "expires_at"),)

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    device_code_hash: Mapped[str] = mapped_column(hex_text(64), unique=True)
    user_code: Mapped[str] = mapped_column(String(16), unique=True)
    client_id: Mapped[str] = mapped_column(String(64))
    scopes: Mapped[list[str]]
    status: Mapped[str] = mapped_column(String(16), default=DeviceCodeStatus.PENDING)
    interval: Mapped[int]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    polled_at: Mapped[datetime | None]
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    workspace_id: Mapped[int | None] = mapped_column(ForeignKey("workspaces.id", ondelete="CASCADE"))
    api_key_id: Mapped[int | None] = mapped_column(ForeignKey("api_keys.id", ondelete="SET NULL"))


class WebSession(Base):
    """A browser that showed an API key. It can do what the key can, and ends with it.

    The token against forged requests is derived from the session's own, so nothing of it is stored.
    """

    __tablename__ = "web_sessions"
    __table_args__ = (Index(None, "expires_at"),)

    token_hash: Mapped[str] = mapped_column(hex_text(64), primary_key=True)
    api_key_id: Mapped[int] = mapped_column(ForeignKey("api_keys.id", ondelete="CASCADE"))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]


class SshKey(Base):
    """A user's public SSH key; the same key once per user, known by its SHA-256 fingerprint."""

    __tablename__ = "ssh_keys"
    # Unlike other rows, these are deleted; their ids must not come back all the same.
    __table_args__ = (UniqueConstraint("user_id", "fingerprint"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(String(128))
    public_key: Mapped[str]
    fingerprint: Mapped[str] = mapped_column(String(64))
    key_type: Mapped[str] = mapped_column(String(64))
    source: Mapped[str] = mapped_column(String(16))
    key_metadata: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    last_synced_at: Mapped[datetime | None]


class Quota(Base):
    """What a workspace may have at once. What it has is counted over its live CVMs and held places."""

    __tablename__ = "quotas"
    __table_args__ = (
        CheckConstraint(
            "vm_slots >= 0 AND vcpu >= 0 AND memory_mb >= 0 AND disk_gb >= 0", name="not_negative"
        ),
    )

    workspace_id: Mapped[int] = mapped_column(
        ForeignKey("workspaces.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    vm_slots: Mapped[int] = mapped_column(server_default=text("16"))
    vcpu: Mapped[int] = mapped_column(server_default=text("32"))
    memory_mb: Mapped[int] = mapped_column(server_default=text("65536"))
    disk_gb: Mapped[int] = mapped_column(server_default=text("1280"))
    reserved_nodes: Mapped[int] = mapped_column(server_default=text("0"))
    reserved_gpus: Mapped[int] = mapped_column(server_default=text("0"))
    api_keys: Mapped[int] = mapped_column(server_default=text("64"))
    webhooks: Mapped[int] = mapped_column(server_default=text("16"))
