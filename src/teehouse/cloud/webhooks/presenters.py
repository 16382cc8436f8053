"""Webhooks and deliveries as bodies."""

from teehouse.cloud.ids import Kind, encode
from teehouse.cloud.webhooks.models import DeliveryStatus, Webhook, WebhookDelivery
from teehouse.cloud.webhooks.services import NewSecret
from teehouse.wire.cloud.base import time_text
from teehouse.wire.cloud.webhooks import DeliveryBody, WebhookBody, WebhookCreated


def webhook_body(record: Webhook, changed: list[str] | None = None) -> WebhookBody:
    """A webhook, and what an update changed of it."""
    return WebhookBody(
        id=encode(Kind.WEBHOOK, record.id),
        url=record.url,
        events=record.events,
        description=record.description,
        enabled=record.enabled,
        created_at=time_text(record.created_at),
        updated_at=time_text(record.updated_at),
        changed=changed,
    )


def created_body(new: NewSecret) -> WebhookCreated:
    """A webhook with its secret."""
    return WebhookCreated(**webhook_body(new.record).model_dump(), secret=new.secret)


def delivery_body(row: WebhookDelivery) -> DeliveryBody:
    """A delivery; a next attempt only where there will be one."""
    pending = row.status == DeliveryStatus.PENDING
    return DeliveryBody(
        id=encode(Kind.DELIVERY, row.id),
        event_id=row.event_id,
        event=row.event,
        status=row.status,
        attempts=row.attempts,
        created_at=time_text(row.created_at),
        next_attempt_at=time_text(row.next_attempt_at) if pending else None,
        delivered_at=None if row.delivered_at is None else time_text(row.delivered_at),
        response_status=row.response_status,
        error=row.error,
    )
