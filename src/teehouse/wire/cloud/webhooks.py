"""Bodies of the management of webhooks. What is sent to them is cloud-api.md 7."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from teehouse.wire.cloud.base import Body

URL_LIMIT = 2048  # characters
EventName = Literal[
    "cvm.created",
    "cvm.started",
    "cvm.create_failed",
    "cvm.restarted",
    "cvm.updated",
    "cvm.stopped",
    "cvm.deleted",
    "cvm.update.pending_approval",
]
WebhookUrl = Annotated[str, StringConstraints(max_length=URL_LIMIT, pattern=r"^https?://[^\s\x00-\x1f]+$")]
Events = Annotated[list[EventName], Field(max_length=16)]
Description = Annotated[str, StringConstraints(max_length=256)]


class NewWebhook(Body):
    """A webhook to add. No events means all of them."""

    url: WebhookUrl
    events: Events = Field(default_factory=list)
    description: Description | None = None
    enabled: bool = True


class WebhookChange(Body):
    """What is to be changed; what is absent stays."""

    url: WebhookUrl | None = None
    events: Events | None = None
    description: Description | None = None
    enabled: bool | None = None


class WebhookBody(Body):
    """A webhook without its secret. `changed` names what an update changed."""

    id: str
    url: str
    events: list[str]
    description: str | None
    enabled: bool
    created_at: str
    updated_at: str
    changed: list[str] | None = None


class WebhookCreated(WebhookBody):
    """A webhook with its secret, which is shown when it is made and when it is replaced, and not again."""

    secret: str


class DeliveryBody(Body):
    """An event on its way to a webhook, or arrived, or given up."""

    id: str
    event_id: str
    event: str
    status: str
    attempts: int
    created_at: str
    next_attempt_at: str | None
    delivered_at: str | None
    response_status: int | None
    error: str | None
