"""Tables of webhooks.

Rules:

1. A delivery is written in the transaction of what it tells of, with the exact bytes that will be sent: what was
   acknowledged is told, and a second attempt sends the same bytes.
2. A secret signs, so it cannot be stored as a hash; it is sealed under the installation's key
   (`teehouse.cloud.secrets`), which is not in the database.
"""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import ForeignKey, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from teehouse.cloud.db.base import Base, BigKey

_PENDING = text("status = 'pending'")


class WebhookEvent(StrEnum):
    """What a webhook can be told of (cloud-api.md 7)."""

    CREATED = "cvm.created"
    STARTED = "cvm.started"
    CREATE_FAILED = "cvm.create_failed"
    RESTARTED = "cvm.restarted"
    UPDATED = "cvm.updated"
    STOPPED = "cvm.stopped"
    DELETED = "cvm.deleted"
    UPDATE_PENDING_APPROVAL = "cvm.update.pending_approval"


class DeliveryStatus(StrEnum):
    """PENDING until delivered, or given up after the last attempt."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


class Webhook(Base):
    """Where a workspace wants to be told. `events` are `WebhookEvent`s; an empty list means all of them."""

    __tablename__ = "webhooks"
    __table_args__ = (Index(None, "workspace_id", "id"),)

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    workspace_id: Mapped[int] = mapped_column(ForeignKey("workspaces.id", ondelete="CASCADE"))
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    url: Mapped[str]
    description: Mapped[str | None]
    events: Mapped[list[str]]
    secret_sealed: Mapped[bytes]
    enabled: Mapped[bool] = mapped_column(default=True)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    deleted_at: Mapped[datetime | None]


class WebhookDelivery(Base):
    """One event on its way to one webhook. `claimed_until` keeps two workers from sending it at once."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        Index(None, "next_attempt_at", "id", postgresql_where=_PENDING, sqlite_where=_PENDING),
        Index(None, "webhook_id", "id"),
    )

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    workspace_id: Mapped[int] = mapped_column(ForeignKey("workspaces.id", ondelete="CASCADE"))
    webhook_id: Mapped[int] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    event_id: Mapped[str] = mapped_column(String(40), index=True)  # "evt_...", the same for all webhooks told
    event: Mapped[str] = mapped_column(String(64))
    body: Mapped[bytes]
    status: Mapped[str] = mapped_column(String(16), default=DeliveryStatus.PENDING)
    attempts: Mapped[int] = mapped_column(default=0)
    next_attempt_at: Mapped[datetime]
    claimed_until: Mapped[datetime | None]
    response_status: Mapped[int | None]
    error: Mapped[str | None]
    created_at: Mapped[datetime]
    delivered_at: Mapped[datetime | None]

    webhook: Mapped[Webhook] = relationship(lazy="raise")
