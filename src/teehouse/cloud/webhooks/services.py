"""A workspace's webhooks: made, changed, looked at.

Rules:

1. A workspace has at most its quota of them. Members may look, admins change.
2. The secret is shown when it is made, and when it is replaced; the former one is then worth nothing.
3. A change says which fields are not as before; one that changes nothing writes nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from teehouse.cloud.accounts.caller import Caller
from teehouse.cloud.accounts.models import Quota, Role
from teehouse.cloud.errors import CloudError, ErrorCode, not_found
from teehouse.cloud.secrets import seal, unseal
from teehouse.cloud.settings import CloudSettings
from teehouse.cloud.webhooks.models import DeliveryStatus, Webhook, WebhookDelivery
from teehouse.cloud.webhooks.signing import PURPOSE, new_secret


@dataclass(frozen=True, slots=True)
class NewSecret:
    """A webhook and the secret it signs with from now on."""

    record: Webhook
    secret: str = field(repr=False)


def secret_of(settings: CloudSettings, webhook: Webhook) -> str:
    """The secret that the webhook signs with. Raises `CollateralError`."""
    return unseal(settings, PURPOSE, str(webhook.workspace_id), webhook.secret_sealed).decode()


def _sealed(settings: CloudSettings, workspace_id: int, secret: str) -> bytes:
    return seal(settings, PURPOSE, str(workspace_id), secret.encode())


async def create(
    session: AsyncSession, settings: CloudSettings, caller: Caller, given: Mapping[str, Any], now: datetime
) -> NewSecret:
    """A webhook. Raises `CloudError` (rule 1)."""
    caller.require(Role.ADMIN)
    live = (Webhook.workspace_id == caller.workspace_id) & Webhook.deleted_at.is_(None)
    have = await session.scalar(select(func.count()).select_from(Webhook).where(live)) or 0
    quota = await session.get(Quota, caller.workspace_id)
    if quota is not None and have >= quota.webhooks:
        raise CloudError(
            ErrorCode.RESOURCE_LIMIT_EXCEEDED, f"The workspace has {have} webhooks, as many as it may have"
        )
    secret = new_secret()
    record = Webhook(
        workspace_id=caller.workspace_id,
        user_id=caller.user_id,
        secret_sealed=_sealed(settings, caller.workspace_id, secret),
        created_at=now,
        updated_at=now,
        **given,
    )
    session.add(record)
    await session.flush()
    return NewSecret(record, secret)


async def find(session: AsyncSession, caller: Caller, number: int | None) -> Webhook:
    """A webhook of the workspace. Raises `CloudError` 404."""
    record = await session.get(Webhook, number) if number is not None else None
    if record is None or record.workspace_id != caller.workspace_id or record.deleted_at is not None:
        raise not_found("webhook")
    return record


async def list_all(
    session: AsyncSession, caller: Caller, offset: int, limit: int
) -> tuple[list[Webhook], int]:
    """The workspace's webhooks, newest first, and how many there are."""
    mine = (Webhook.workspace_id == caller.workspace_id) & Webhook.deleted_at.is_(None)
    total = await session.scalar(select(func.count()).select_from(Webhook).where(mine))
    rows = await session.scalars(
        select(Webhook).where(mine).order_by(Webhook.id.desc()).offset(offset).limit(limit)
    )
    return list(rows), total or 0


async def change(
    session: AsyncSession, caller: Caller, number: int | None, given: Mapping[str, Any], now: datetime
) -> tuple[Webhook, list[str]]:
    """The webhook with these fields, and the names of those that were not so before (rule 3)."""
    caller.require(Role.ADMIN)
    record = await find(session, caller, number)
    changed = [name for name, value in given.items() if getattr(record, name) != value]
    for name in changed:
        setattr(record, name, given[name])
    if changed:
        record.updated_at = now
    return record, changed


async def replace_secret(
    session: AsyncSession, settings: CloudSettings, caller: Caller, number: int | None, now: datetime
) -> NewSecret:
    """Another secret (rule 2)."""
    caller.require(Role.ADMIN)
    record = await find(session, caller, number)
    secret = new_secret()
    record.secret_sealed = _sealed(settings, record.workspace_id, secret)
    record.updated_at = now
    return NewSecret(record, secret)


async def delete(session: AsyncSession, caller: Caller, number: int | None, now: datetime) -> None:
    """Tell it nothing more."""
    caller.require(Role.ADMIN)
    record = await find(session, caller, number)
    record.deleted_at = now
    record.enabled = False


async def deliveries(
    session: AsyncSession, caller: Caller, number: int | None, offset: int, limit: int
) -> tuple[list[WebhookDelivery], int]:
    """What was sent to a webhook, newest first, and how many there are."""
    record = await find(session, caller, number)
    sent = WebhookDelivery.webhook_id == record.id
    total = await session.scalar(select(func.count()).select_from(WebhookDelivery).where(sent))
    rows = await session.scalars(
        select(WebhookDelivery).where(sent).order_by(WebhookDelivery.id.desc()).offset(offset).limit(limit)
    )
    return list(rows), total or 0


async def redeliver(
    session: AsyncSession, caller: Caller, number: int | None, delivery: int | None, now: datetime
) -> WebhookDelivery:
    """Send it once more, with all its attempts before it. Raises `CloudError` 404."""
    caller.require(Role.ADMIN)
    record = await find(session, caller, number)
    row = await session.get(WebhookDelivery, delivery) if delivery is not None else None
    if row is None or row.webhook_id != record.id:
        raise not_found("delivery")
    row.status = DeliveryStatus.PENDING
    row.attempts = 0
    row.next_attempt_at = now
    row.claimed_until = None
    return row
