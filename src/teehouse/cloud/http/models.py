"""Table of idempotency keys (see `teehouse.cloud.http.idempotency`)."""

from datetime import datetime

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from teehouse.cloud.db.base import Base, hex_text


class IdempotencyKey(Base):
    """A POST that was, or is being, answered, by the caller's key for it.

    `status_code` is None while the first request is at work; it owns the key until `locked_until`, so that a
    process that died does not block the key for ever.
    """

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index(None, "expires_at"),)

    workspace_id: Mapped[int] = mapped_column(
        ForeignKey("workspaces.id", ondelete="CASCADE"), primary_key=True
    )
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(hex_text(64))  # SHA-256 of method, path, query and body
    status_code: Mapped[int | None]
    content_type: Mapped[str | None] = mapped_column(String(128))
    body: Mapped[bytes | None]
    created_at: Mapped[datetime]
    locked_until: Mapped[datetime]
    expires_at: Mapped[datetime]
