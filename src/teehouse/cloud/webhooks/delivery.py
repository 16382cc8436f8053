"""Deliveries on their way: sent, signed, tried again (cloud-api.md 7).

Rules:

1. Any 2xx within 10 seconds is success. All else is failure, redirects included: they are not followed.
2. After a failure come three more attempts, 1 minute, 10 minutes and 1 hour later; then it is given up.
3. A delivery is claimed before it is sent, by a guarded UPDATE, for longer than an attempt takes: two workers do
   not send it at once, and one that dies does not keep it. Whoever took longer than its claim settles nothing.
4. Every attempt sends the same bytes, with the time of the attempt in its signature.
5. Of an answer, the status is kept and nothing else; of a failure without one, its kind.
6. Deliveries that are due are sent side by side: an endpoint that does not answer keeps none of the others waiting.
7. A webhook that is disabled or deleted is told nothing any more: what waits for it is given up.
"""

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Protocol, cast

import httpx
import structlog
from sqlalchemy import CursorResult, or_, select, update
from sqlalchemy.orm import joinedload

from teehouse.base.clock import Clock
from teehouse.base.findings import TeehouseError
from teehouse.cloud.db.engine import Database
from teehouse.cloud.settings import CloudSettings
from teehouse.cloud.webhooks.models import DeliveryStatus, WebhookDelivery
from teehouse.cloud.webhooks.services import secret_of
from teehouse.cloud.webhooks.signing import headers

TIMEOUT: Final = 10.0  # seconds
RETRIES: Final = (timedelta(minutes=1), timedelta(minutes=10), timedelta(hours=1))
CLAIM: Final = timedelta(seconds=60)
BATCH: Final = 20

_log = structlog.get_logger(__name__)


class Sender(Protocol):
    """Sends one request."""

    async def post(self, url: str, body: bytes, headers: dict[str, str]) -> int:
        """The status of the answer. Raises `httpx.HTTPError`, `OSError` when there is none."""
        ...


class HttpSender:
    """By HTTP, without following redirects, without reading what is answered."""

    def __init__(self, *, timeout: float = TIMEOUT) -> None:
        self._client = httpx.AsyncClient(timeout=timeout, follow_redirects=False, trust_env=False)
        self._timeout = timeout

    async def post(self, url: str, body: bytes, headers: dict[str, str]) -> int:
        async with (
            asyncio.timeout(self._timeout),
            self._client.stream("POST", url, content=body, headers=headers) as answer,
        ):
            return answer.status_code

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


@dataclass(frozen=True, slots=True)
class _Outcome:
    status: int | None
    error: str | None


class WebhookWorker:
    """Sends what is due (rules 1 to 7)."""

    def __init__(self, database: Database, settings: CloudSettings, clock: Clock, sender: Sender) -> None:
        self._database = database
        self._settings = settings
        self._clock = clock
        self._sender = sender

    async def run_once(self) -> int:
        """Send what is due now, at most `BATCH`; how many attempts were made."""
        now = self._clock.now()
        async with self._database.read() as session:
            free = or_(WebhookDelivery.claimed_until.is_(None), WebhookDelivery.claimed_until <= now)
            due = (
                select(WebhookDelivery.id)
                .where(
                    WebhookDelivery.status == DeliveryStatus.PENDING,
                    WebhookDelivery.next_attempt_at <= now,
                    free,
                )
                .order_by(WebhookDelivery.next_attempt_at, WebhookDelivery.id)
                .limit(BATCH)
            )
            numbers = list((await session.execute(due)).scalars())
        return sum(await asyncio.gather(*(self._one(number) for number in numbers)))

    async def _one(self, number: int) -> bool:
        if not await self._claim(number, self._clock.now()):
            return False
        await self._attempt(number)
        return True

    async def _claim(self, number: int, now: datetime) -> bool:
        """Rule 3."""
        free = or_(WebhookDelivery.claimed_until.is_(None), WebhookDelivery.claimed_until <= now)
        async with self._database.write() as session:
            claimed = await session.execute(
                update(WebhookDelivery)
                .where(
                    WebhookDelivery.id == number,
                    WebhookDelivery.status == DeliveryStatus.PENDING,
                    WebhookDelivery.next_attempt_at
                    <= now,  # another worker's attempt may have failed meanwhile
                    free,
                )
                .values(claimed_until=now + CLAIM)
            )
            return bool(cast("CursorResult[Any]", claimed).rowcount)

    async def _attempt(self, number: int) -> None:
        async with self._database.read() as session:
            question = select(WebhookDelivery).where(WebhookDelivery.id == number)
            row = (await session.execute(question.options(joinedload(WebhookDelivery.webhook)))).scalar_one()
        hook, now = row.webhook, self._clock.now()
        if not hook.enabled or hook.deleted_at is not None:
            await self._settle(row, _Outcome(None, "the webhook is disabled"), last=True)
            return
        try:
            signed = headers(secret_of(self._settings, hook), row.event_id, row.event, row.body, now)
            outcome = _Outcome(await self._sender.post(hook.url, row.body, signed), None)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            outcome = _Outcome(None, type(error).__name__)
        except TeehouseError as error:
            outcome = _Outcome(None, error.finding.code)
        await self._settle(row, outcome, last=row.attempts >= len(RETRIES))

    async def _settle(self, row: WebhookDelivery, outcome: _Outcome, *, last: bool) -> None:
        """Rules 1, 2 and 5."""
        now = self._clock.now()
        delivered = outcome.status is not None and 200 <= outcome.status < 300
        values: dict[str, Any] = {
            "attempts": row.attempts + 1,
            "claimed_until": None,
            "response_status": outcome.status,
            "error": outcome.error,
        }
        if delivered:
            values |= {"status": DeliveryStatus.DELIVERED, "delivered_at": now}
        elif last:
            values |= {"status": DeliveryStatus.FAILED}
        else:
            values |= {"next_attempt_at": now + RETRIES[row.attempts]}
        async with self._database.write() as session:
            await session.execute(
                update(WebhookDelivery)
                .where(WebhookDelivery.id == row.id, WebhookDelivery.attempts == row.attempts)
                .values(**values)
            )
        _log.info("webhook", event_id=row.event_id, delivered=delivered, attempts=row.attempts + 1)
