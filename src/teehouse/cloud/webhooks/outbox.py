"""What webhooks are to be told, written with what it tells of (`models`, rule 1)."""

import json
import secrets
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from teehouse.cloud.accounts.models import Workspace
from teehouse.cloud.apps.models import App
from teehouse.cloud.cvms.models import Cvm
from teehouse.cloud.webhooks.models import Webhook, WebhookDelivery, WebhookEvent
from teehouse.wire.cloud.base import time_text

VERSION = "1"


async def tell(
    session: AsyncSession, cvm_id: int, event: WebhookEvent, *, now: datetime, error: str | None = None
) -> int:
    """Write a delivery for each webhook that wants the event; how many. The CVM's row is read as it stands."""
    hooks = list(
        (
            await session.execute(
                select(Webhook)
                .join(Cvm, Cvm.workspace_id == Webhook.workspace_id)
                .where(Cvm.id == cvm_id, Webhook.enabled, Webhook.deleted_at.is_(None))
                .order_by(Webhook.id)
            )
        ).scalars()
    )
    wanted = [hook for hook in hooks if not hook.events or event in hook.events]
    if not wanted:
        return 0
    row = (
        await session.execute(
            select(Cvm.vm_uuid, Cvm.name, Cvm.status, App.app_id, Workspace.slug, Workspace.name)
            .join(App, App.id == Cvm.app_record_id)
            .join(Workspace, Workspace.id == Cvm.workspace_id)
            .where(Cvm.id == cvm_id)
        )
    ).one()
    vm_uuid, name, status, app_id, slug, workspace = row
    event_id = "evt_" + secrets.token_hex(8)
    body = {
        "id": event_id,
        "event": event.value,
        "version": VERSION,
        "created_at": time_text(now),
        "workspace": {"id": slug, "name": workspace},
        "data": {
            "cvm_id": f"{vm_uuid[:8]}-{vm_uuid[8:12]}-{vm_uuid[12:16]}-{vm_uuid[16:20]}-{vm_uuid[20:]}",
            "cvm_name": name,
            "app_id": f"0x{app_id}",
            "status": status if error is None else "error",
            **({} if error is None else {"error": error}),
        },
    }
    raw = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    for hook in wanted:
        session.add(
            WebhookDelivery(
                workspace_id=hook.workspace_id,
                webhook_id=hook.id,
                event_id=event_id,
                event=event,
                body=raw,
                next_attempt_at=now,
                created_at=now,
            )
        )
    return len(wanted)
