"""Idempotency keys: a POST that is sent again with the same `Idempotency-Key` is not done again.

Rules:

1. A key is 1 to 255 printable ASCII characters and belongs to the workspace that sent it. Without a valid API key
   it means nothing: the request is refused, or is one that needs none and has its own one-time token.
2. The same key with another method, path, query or body is refused with 422: it is a mistake of the caller's.
3. While the first request is at work the second gets 409, transient. If its process died, the key is free again
   after `LOCK`.
4. Only a success is remembered, with its exact bytes, for `idempotency_seconds`. A refusal changed nothing, so
   the same request may succeed later.
5. A replayed answer says so: `Idempotency-Replayed: true`.
"""

import hashlib
import re
from collections.abc import MutableMapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import structlog
from sqlalchemy import and_, delete, or_, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from teehouse.cloud.db.engine import Database
from teehouse.cloud.errors import CloudError, ErrorCode, busy, refusal
from teehouse.cloud.http.context import API
from teehouse.cloud.http.dependencies import caller_of, parts_of
from teehouse.cloud.http.faults import UNAVAILABLE, error_response
from teehouse.cloud.http.models import IdempotencyKey

HEADER: Final = "Idempotency-Key"
REPLAYED: Final = "Idempotency-Replayed"
LOCK: Final = timedelta(seconds=60)
_KEY = re.compile(r"[\x21-\x7e]{1,255}")

log = structlog.stdlib.get_logger("teehouse.cloud.http")


@dataclass(frozen=True, slots=True)
class _Claim:
    """A request's hold on its key. The instant of the lock tells it from a later holder's."""

    workspace_id: int
    key: str
    fingerprint: str
    locked_until: datetime

    def mine(self) -> Any:
        return and_(
            IdempotencyKey.workspace_id == self.workspace_id,
            IdempotencyKey.key == self.key,
            IdempotencyKey.locked_until == self.locked_until,
        )


class IdempotencyMiddleware:
    """Rules 1 to 5 around the POSTs of the API."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        posted = scope["type"] == "http" and scope["method"] == "POST" and scope["path"].startswith(f"{API}/")
        key = Headers(scope=scope).get(HEADER) if posted else None
        if key is None:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            await self._keyed(request, key, send)
        except CloudError as error:
            await error_response(request, error)(scope, receive, send)
        except SQLAlchemyError as error:
            log.warning("idempotency key not looked up", error=type(error).__name__)
            await error_response(request, refusal(503, UNAVAILABLE))(scope, receive, send)

    async def _keyed(self, request: Request, key: str, send: Send) -> None:
        if not _KEY.fullmatch(key):
            raise CloudError(
                ErrorCode.INVALID_REQUEST, f"{HEADER} has 1 to 255 printable ASCII characters without blanks"
            )
        caller = await caller_of(request)
        if caller is None:
            await self._app(request.scope, request.receive, send)
            return
        parts = parts_of(request)
        body = await request.body()
        now = parts.clock.now()
        claim = _Claim(caller.workspace_id, key, _fingerprint(request.scope, body), now + LOCK)
        lasting = timedelta(seconds=parts.settings.idempotency_seconds)
        known = await _take(parts.database, claim, now, now + lasting)
        if known is not None:
            await _known_answer(known, claim)(request.scope, request.receive, send)
            return
        answer = _Answer(send)
        try:
            await self._app(request.scope, _Replay(request.receive, body), answer.take)
        finally:
            await _settle(parts.database, claim, answer)
        await answer.deliver()


def _fingerprint(scope: MutableMapping[str, Any], body: bytes) -> str:
    digest = hashlib.sha256()
    for piece in (scope["method"].encode(), scope["path"].encode(), scope["query_string"], body):
        digest.update(len(piece).to_bytes(8, "big") + piece)
    return digest.hexdigest()


async def _take(
    database: Database, claim: _Claim, now: datetime, expires_at: datetime
) -> IdempotencyKey | None:
    """Take the key; else what is known of it."""
    named = (IdempotencyKey.workspace_id == claim.workspace_id) & (IdempotencyKey.key == claim.key)
    over = or_(
        IdempotencyKey.expires_at <= now,
        IdempotencyKey.status_code.is_(None) & (IdempotencyKey.locked_until <= now),
    )
    try:
        async with database.write() as session:
            await session.execute(delete(IdempotencyKey).where(named, over))
            session.add(
                IdempotencyKey(
                    workspace_id=claim.workspace_id,
                    key=claim.key,
                    fingerprint=claim.fingerprint,
                    created_at=now,
                    locked_until=claim.locked_until,
                    expires_at=expires_at,
                )
            )
    except IntegrityError:
        async with database.read() as session:
            known = await session.get(IdempotencyKey, (claim.workspace_id, claim.key))
        if known is None:  # it was given back this very moment
            raise busy("A request with this idempotency key has just ended; try again") from None
        return known
    return None


def _known_answer(known: IdempotencyKey, claim: _Claim) -> Response:
    if known.fingerprint != claim.fingerprint:
        raise refusal(422, f"This {HEADER} was used for another request")
    if known.status_code is None:
        raise CloudError(
            None,
            "A request with this idempotency key is at work; try again",
            status=409,
            headers={"Retry-After": "1"},
        )
    return Response(known.body, known.status_code, {REPLAYED: "true"}, known.content_type)


async def _settle(database: Database, claim: _Claim, answer: "_Answer") -> None:
    """Remember a success, give the key back otherwise (rule 4). Its failure does not undo what was done."""
    try:
        async with database.write() as session:
            if 200 <= answer.status < 300:
                await session.execute(
                    update(IdempotencyKey)
                    .where(claim.mine())
                    .values(status_code=answer.status, content_type=answer.content_type, body=answer.body)
                )
            else:
                await session.execute(delete(IdempotencyKey).where(claim.mine()))
    except SQLAlchemyError as error:
        log.warning("idempotency key not settled", error=type(error).__name__)


async def forget_expired(session: AsyncSession, now: datetime) -> None:
    """Delete what is remembered no longer."""
    await session.execute(delete(IdempotencyKey).where(IdempotencyKey.expires_at <= now))


class _Answer:
    """An answer that is held back until it is remembered."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message = {}
        self._chunks: list[bytes] = []

    @property
    def status(self) -> int:
        status: int = self._start.get("status", 500)
        return status

    @property
    def content_type(self) -> str | None:
        return Headers(raw=self._start.get("headers", [])).get("content-type")

    @property
    def body(self) -> bytes:
        return b"".join(self._chunks)

    async def take(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
        else:
            self._chunks.append(message.get("body", b""))

    async def deliver(self) -> None:
        await self._send(self._start)
        await self._send({"type": "http.response.body", "body": self.body})


class _Replay:
    """A body that was read already, then what the client does after it."""

    def __init__(self, receive: Receive, body: bytes) -> None:
        self._receive = receive
        self._body: bytes | None = body

    async def __call__(self) -> Message:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}
