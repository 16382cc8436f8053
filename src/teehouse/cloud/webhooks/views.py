"""Routes of webhooks: `/workspaces/{slug}/webhooks`. They are our own; no published client calls them."""

from typing import Annotated

from fastapi import APIRouter, Response

from teehouse.cloud.accounts.workspaces import own_workspace
from teehouse.cloud.http.dependencies import PageRequest, Parts, Reading, Signed, Writing, paging
from teehouse.cloud.ids import Kind, decode
from teehouse.cloud.webhooks import services
from teehouse.cloud.webhooks.presenters import created_body, delivery_body, webhook_body
from teehouse.wire.cloud.paging import PageA
from teehouse.wire.cloud.webhooks import (
    DeliveryBody,
    NewWebhook,
    WebhookBody,
    WebhookChange,
    WebhookCreated,
)

router = APIRouter(prefix="/workspaces/{slug}/webhooks", tags=["webhooks"])
Page = Annotated[PageRequest, paging(default=20, most=100)]


@router.get("", response_model_exclude_none=False)
async def list_webhooks(slug: str, caller: Signed, session: Reading, page: Page) -> PageA[WebhookBody]:
    """The workspace's webhooks, newest first."""
    own_workspace(caller, slug)
    rows, total = await services.list_all(session, caller, page.offset, page.page_size)
    return PageA.of([webhook_body(row) for row in rows], total, page.page, page.page_size)


@router.post("", status_code=201)
async def create_webhook(
    *, slug: str, body: NewWebhook, caller: Signed, session: Writing, parts: Parts
) -> WebhookCreated:
    """Add a webhook; the answer has its secret, which is not shown again."""
    own_workspace(caller, slug)
    now = parts.clock.now()
    return created_body(await services.create(session, parts.settings, caller, body.model_dump(), now))


@router.get("/{webhook_id}")
async def get_webhook(slug: str, webhook_id: str, caller: Signed, session: Reading) -> WebhookBody:
    """One webhook."""
    own_workspace(caller, slug)
    return webhook_body(await services.find(session, caller, decode(Kind.WEBHOOK, webhook_id)))


@router.patch("/{webhook_id}")
async def update_webhook(
    *, slug: str, webhook_id: str, body: WebhookChange, caller: Signed, session: Writing, parts: Parts
) -> WebhookBody:
    """Change a webhook; the answer says what was not so before."""
    own_workspace(caller, slug)
    given = {name: value for name, value in body.model_dump(exclude_unset=True).items() if value is not None}
    number = decode(Kind.WEBHOOK, webhook_id)
    return webhook_body(*await services.change(session, caller, number, given, parts.clock.now()))


@router.delete("/{webhook_id}", status_code=204)
async def delete_webhook(
    slug: str, webhook_id: str, caller: Signed, session: Writing, parts: Parts
) -> Response:
    """Remove a webhook."""
    own_workspace(caller, slug)
    await services.delete(session, caller, decode(Kind.WEBHOOK, webhook_id), parts.clock.now())
    return Response(status_code=204)


@router.post("/{webhook_id}/secret")
async def replace_webhook_secret(
    *, slug: str, webhook_id: str, caller: Signed, session: Writing, parts: Parts
) -> WebhookCreated:
    """Sign with another secret from now on; the answer has it."""
    own_workspace(caller, slug)
    number = decode(Kind.WEBHOOK, webhook_id)
    now = parts.clock.now()
    return created_body(await services.replace_secret(session, parts.settings, caller, number, now))


@router.get("/{webhook_id}/deliveries")
async def list_webhook_deliveries(
    *, slug: str, webhook_id: str, caller: Signed, session: Reading, page: Page
) -> PageA[DeliveryBody]:
    """What was sent to it, newest first."""
    own_workspace(caller, slug)
    number = decode(Kind.WEBHOOK, webhook_id)
    rows, total = await services.deliveries(session, caller, number, page.offset, page.page_size)
    return PageA.of([delivery_body(row) for row in rows], total, page.page, page.page_size)


@router.post("/{webhook_id}/deliveries/{delivery_id}/redeliver")
async def redeliver_webhook(
    *, slug: str, webhook_id: str, delivery_id: str, caller: Signed, session: Writing, parts: Parts
) -> DeliveryBody:
    """Send the same bytes once more."""
    own_workspace(caller, slug)
    return delivery_body(
        await services.redeliver(
            session,
            caller,
            decode(Kind.WEBHOOK, webhook_id),
            decode(Kind.DELIVERY, delivery_id),
            parts.clock.now(),
        )
    )
