"""Tables of apps.

Rules:

1. An app id belongs to one workspace at a time: it decides over keys, and is looked up without a key where
   attestations are public.
2. An app whose last CVM is deleted is no longer shown (`deleted_at`), and keeps its id: deployed again under the
   same id by the same workspace it is the same app, with its revisions.
3. Each filter of GET /apps (cloud-api.md 11.1) is served by an index: those on apps by one of `apps`, those on CVMs
   by `app_facets` (`teehouse.cloud.db.facets`), several of these together by those of `cvms`. Newest first is the
   order of `id`, so every index ends with it and no page has to be sorted. The search for a part of the name is
   served by `teehouse.cloud.db.search`.
"""

from datetime import datetime

from sqlalchemy import ForeignKey, Index, SmallInteger, String, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from teehouse.cloud.accounts.models import User, Workspace
from teehouse.cloud.db.base import Base, BigKey, hex_text
from teehouse.cloud.inventory.models import KmsNode

_LIVE = text("deleted_at IS NULL")


class App(Base):
    """An app: one app id, hence one set of keys. `app_id` is 40 hex digits (20 bytes).

    `kms_type` repeats the KMS's, which never changes, because lists are filtered by it. `nonce` is the number its
    id was derived from (off-chain KMS only); the addresses are those of the on-chain one.
    """

    __tablename__ = "apps"
    __table_args__ = (
        Index(None, "workspace_id", "id", postgresql_where=_LIVE, sqlite_where=_LIVE),
        Index(None, "workspace_id", "listed", "id", postgresql_where=_LIVE, sqlite_where=_LIVE),
        Index(None, "workspace_id", "kms_type", "id", postgresql_where=_LIVE, sqlite_where=_LIVE),
        Index(None, "workspace_id", "kms_id", "id", postgresql_where=_LIVE, sqlite_where=_LIVE),
        Index(None, "workspace_id", "name"),
    )

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    workspace_id: Mapped[int] = mapped_column(ForeignKey("workspaces.id"))
    creator_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    app_id: Mapped[str] = mapped_column(hex_text(40), unique=True)
    name: Mapped[str] = mapped_column(String(128))
    provision_type: Mapped[str] = mapped_column(String(16), default="user")
    kms_id: Mapped[int] = mapped_column(ForeignKey("kms_nodes.id"))
    kms_type: Mapped[str] = mapped_column(String(16))
    nonce: Mapped[int | None] = mapped_column(BigKey)
    chain_id: Mapped[int | None] = mapped_column(BigKey)
    contract_address: Mapped[str | None] = mapped_column(String(42))
    deployer_address: Mapped[str | None] = mapped_column(String(42))
    env_pubkey: Mapped[str | None] = mapped_column(hex_text(64))
    listed: Mapped[bool] = mapped_column(default=False)
    icon_url: Mapped[str | None]
    display_name: Mapped[str | None] = mapped_column(String(128))
    avatar_url: Mapped[str | None]
    description: Mapped[str | None]
    custom_domain: Mapped[str | None] = mapped_column(String(253))
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    deleted_at: Mapped[datetime | None]

    workspace: Mapped[Workspace] = relationship(lazy="raise")
    creator: Mapped[User] = relationship(lazy="raise")
    kms: Mapped[KmsNode] = relationship(lazy="raise")


class AppFacet(Base):
    """An app has a live CVM with this value; `kind` is a `Facet`. Kept by triggers alone (`cloud.db.facets`)."""

    __tablename__ = "app_facets"
    __table_args__ = ({"sqlite_with_rowid": False},)

    workspace_id: Mapped[int] = mapped_column(BigKey, primary_key=True, autoincrement=False)
    kind: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    value: Mapped[str] = mapped_column(hex_text(128), primary_key=True)
    app_record_id: Mapped[int] = mapped_column(BigKey, primary_key=True, autoincrement=False)
