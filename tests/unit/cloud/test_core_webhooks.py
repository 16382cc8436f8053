"""The management of webhooks, and their signatures (cloud-api.md 7)."""

import hashlib
import hmac
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from support.cloud_core_support import KINDS, NOW, SECRET_KEY, Cloud, cloud
from teehouse.base.findings import CollateralError
from teehouse.cloud.ids import Kind, decode
from teehouse.cloud.secrets import seal, unseal
from teehouse.cloud.settings import CloudSettings
from teehouse.cloud.webhooks import services, signing
from teehouse.cloud.webhooks.models import DeliveryStatus, Webhook, WebhookDelivery

HOOKS = "/api/v1/workspaces/alice/webhooks"
URL = "https://hooks.example.org/teehouse"


@pytest.fixture(params=KINDS)
async def here(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Cloud]:
    async with cloud(request.param, tmp_path) as made:
        yield made


async def test_a_webhook_from_making_to_removal(here: Cloud) -> None:
    client = here.client()
    made = (await client.post(HOOKS, json={"url": URL, "events": ["cvm.created"]})).json()
    assert made == {
        "id": made["id"],
        "url": URL,
        "events": ["cvm.created"],
        "description": None,
        "enabled": True,
        "created_at": "2026-06-23T12:00:00Z",
        "updated_at": "2026-06-23T12:00:00Z",
        "changed": None,
        "secret": made["secret"],
    }
    assert made["secret"].startswith("whsec_")
    shown = {name: value for name, value in made.items() if name != "secret"}
    path = f"{HOOKS}/{made['id']}"
    assert (await client.get(path)).json() == shown
    assert (await client.get(HOOKS)).json() == {
        "items": [shown],
        "total": 1,
        "page": 1,
        "page_size": 20,
        "pages": 1,
    }
    here.clock.advance(timedelta(minutes=1))
    changed = (await client.patch(path, json={"url": URL, "enabled": False, "description": "x"})).json()
    assert changed == {
        **shown,
        "enabled": False,
        "description": "x",
        "updated_at": "2026-06-23T12:01:00Z",
        "changed": ["description", "enabled"],
    }
    here.clock.advance(timedelta(minutes=1))
    assert (await client.patch(path, json={"enabled": False})).json() == {**changed, "changed": []}
    assert (await client.delete(path)).status_code == 204
    for answer in (await client.get(path), await client.delete(path), await client.patch(path, json={})):
        assert answer.status_code == 404
    assert (await client.get(HOOKS)).json()["total"] == 0


async def test_the_secret_is_sealed_and_replaced(here: Cloud) -> None:
    client = here.client()
    made = (await client.post(HOOKS, json={"url": URL})).json()

    async def stored() -> Webhook:
        async with here.database.read() as session:
            return (await session.scalars(select(Webhook))).one()

    assert made["secret"].encode() not in (await stored()).secret_sealed
    assert services.secret_of(here.parts.settings, await stored()) == made["secret"]
    replaced = (await client.post(f"{HOOKS}/{made['id']}/secret")).json()
    assert replaced["secret"] != made["secret"]
    assert services.secret_of(here.parts.settings, await stored()) == replaced["secret"]


async def test_deliveries_are_listed_and_sent_again(here: Cloud) -> None:
    client = here.client()
    made = (await client.post(HOOKS, json={"url": URL})).json()
    number = decode(Kind.WEBHOOK, made["id"])
    async with here.database.write() as session:
        session.add(
            WebhookDelivery(
                workspace_id=here.first.workspace_id,
                webhook_id=number,
                event_id="evt_1",
                event="cvm.created",
                body=b"{}",
                status=DeliveryStatus.FAILED,
                attempts=4,
                next_attempt_at=NOW,
                response_status=500,
                error="status 500",
                created_at=NOW,
            )
        )
    path = f"{HOOKS}/{made['id']}/deliveries"
    listed = (await client.get(path)).json()
    failed: dict[str, Any] = {
        "id": listed["items"][0]["id"],
        "event_id": "evt_1",
        "event": "cvm.created",
        "status": "failed",
        "attempts": 4,
        "created_at": "2026-06-23T12:00:00Z",
        "next_attempt_at": None,
        "delivered_at": None,
        "response_status": 500,
        "error": "status 500",
    }
    assert listed["items"] == [failed]
    here.clock.advance(timedelta(hours=1))
    again = (await client.post(f"{path}/{failed['id']}/redeliver")).json()
    assert again == {
        **failed,
        "status": "pending",
        "attempts": 0,
        "next_attempt_at": "2026-06-23T13:00:00Z",
    }
    assert (await client.post(f"{path}/whd_00000000/redeliver")).status_code == 404
    assert (await client.post(f"{path}/nonsense/redeliver")).status_code == 404


async def test_members_look_and_admins_change(here: Cloud) -> None:
    made = (await here.client().post(HOOKS, json={"url": URL})).json()
    bob = (
        await here.client().post(
            "/api/v1/workspaces/alice/members", json={"email": "b@example.org", "username": "bob"}
        )
    ).json()
    member = here.client(bob["api_key"])
    assert (await member.get(HOOKS)).json()["total"] == 1
    path = f"{HOOKS}/{made['id']}"
    refused = [
        await member.post(HOOKS, json={"url": URL}),
        await member.patch(path, json={"enabled": False}),
        await member.delete(path),
        await member.post(f"{path}/secret"),
        await member.post(f"{path}/deliveries/whd_00000000/redeliver"),
    ]
    assert [(a.status_code, a.json()["error_code"]) for a in refused] == [(403, "ERR-06-006")] * 5


async def test_webhooks_are_limited_in_number(here: Cloud) -> None:
    client = here.client()
    for _ in range(16):
        assert (await client.post(HOOKS, json={"url": URL})).status_code == 201
    answer = await client.post(HOOKS, json={"url": URL})
    assert (answer.status_code, answer.json()["error_code"]) == (400, "ERR-04-003")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"url": "ftp://example.org"},
        {"url": "https://"},
        {"url": "https://a b"},
        {"url": "https://" + "a" * 2048},
        {"url": URL, "events": ["cvm.unknown"]},
        {"url": URL, "events": ["cvm.created"] * 17},
        {"url": URL, "description": "x" * 257},
    ],
)
async def test_webhooks_that_cannot_be(tmp_path: Path, body: dict[str, Any]) -> None:
    async with cloud("sqlite", tmp_path) as here:
        assert (await here.client().post(HOOKS, json=body)).status_code == 422


def test_a_signature_as_the_documentation_says() -> None:
    # cloud-api.md 7: HMAC-SHA256(secret, timestamp + "." + raw body), lower-case hex after "sha256=".
    secret, body, now = "whsec_test", b'{"id":"evt_1"}', datetime(2026, 3, 19, 10, 30, tzinfo=UTC)
    digest = hmac.new(b"whsec_test", b'1773916200.{"id":"evt_1"}', hashlib.sha256).hexdigest()
    assert signing.headers(secret, "evt_1", "cvm.created", body, now) == {
        "Content-Type": "application/json",
        "User-Agent": "PhalaCloud-Webhook/1.0",
        "X-Webhook-Id": "evt_1",
        "X-Webhook-Event": "cvm.created",
        "X-Webhook-Timestamp": "1773916200",
        "X-Webhook-Signature": f"sha256={digest}",
    }
    signed = f"sha256={digest}"
    assert signing.is_signed(secret, "1773916200", body, signed, now + timedelta(seconds=300))
    assert signing.is_signed(secret, "1773916200", body, signed, now - timedelta(seconds=300))
    refused = [
        signing.is_signed(secret, "1773916200", body, signed, now + timedelta(seconds=301)),
        signing.is_signed(secret, "1773916200", body, signed, now - timedelta(seconds=301)),
        signing.is_signed(secret, "1773916201", body, signed, now),
        signing.is_signed("whsec_other", "1773916200", body, signed, now),
        signing.is_signed(secret, "1773916200", body + b" ", signed, now),
        signing.is_signed(secret, "1773916200", body, digest, now),
        signing.is_signed(secret, "now", body, signed, now),
        signing.is_signed(secret, "9" * 5000, body, signed, now),
        signing.is_signed(secret, "1773916200", body, "\N{SNOWMAN}", now),
    ]
    assert refused == [False] * len(refused)


def test_sealed_secrets_open_in_their_place_only() -> None:
    settings = CloudSettings(database_url="sqlite://", secret_key=SECRET_KEY)
    sealed = seal(settings, "purpose", "1", b"secret")
    assert unseal(settings, "purpose", "1", sealed) == b"secret"
    assert seal(settings, "purpose", "1", b"secret") != sealed
    other = CloudSettings(database_url="sqlite://", secret_key=bytes(32))
    for key, purpose, place, what in (
        (other, "purpose", "1", sealed),
        (settings, "other", "1", sealed),
        (settings, "purpose", "2", sealed),
        (settings, "purpose", "1", sealed[:-1]),
        (settings, "purpose", "1", b""),
    ):
        with pytest.raises(CollateralError) as caught:
            unseal(key, purpose, place, what)
        assert caught.value.finding.code == "cloud.sealed"
