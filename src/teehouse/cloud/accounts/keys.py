"""API keys: made, found, listed, revoked.

Rules:

K1. A key is `phak_` and 43 base62 digits, 256 bits of randomness, shown once; its SHA-256 is what is kept.
K2. A key is good while it is not revoked, not expired, and its user still is a member of its workspace.
K3. A key can give away no more than it has.
K4. The time of last use is written at most once a minute, after the answer, in a transaction of its own.
"""

import hashlib
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from teehouse.cloud.accounts.caller import Caller, covers, parse_scopes
from teehouse.cloud.accounts.models import ApiKey, Membership, Quota, Role, User, Workspace
from teehouse.cloud.db.engine import Database
from teehouse.cloud.errors import CloudError, ErrorCode, denied, not_found
from teehouse.cloud.ids import ALPHABET

PREFIX: Final = "phak_"
SHOWN: Final = 12  # characters of a key that lists show
TOKEN_LIMIT: Final = 512  # characters of a credential that is looked at
USE_INTERVAL: Final = timedelta(minutes=1)
RATE: Final = 20  # keys that a workspace makes in a minute at most
_DIGITS: Final = 43


def hash_token(token: str) -> str:
    """What is stored of a credential: SHA-256 as hex (accounts.models, rule 1)."""
    return hashlib.sha256(token.encode()).hexdigest()


def new_token(prefix: str) -> str:
    """A credential of 256 bits of randomness."""
    return prefix + "".join(secrets.choice(ALPHABET) for _ in range(_DIGITS))


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made; `token` is shown now and never again."""

    record: ApiKey
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Authenticated:
    """Whom a credential belongs to. `stale` says that its last use should be written down (K4)."""

    caller: Caller
    stale: bool


async def find_caller(
    session: AsyncSession, token: str, now: datetime, *, request_id: str = "", trace_id: str = ""
) -> Authenticated | None:
    """Who holds this key; None when nobody does (K2). One statement."""
    if not token or len(token) > TOKEN_LIMIT:
        return None
    return await _find(session, ApiKey.key_hash == hash_token(token), now, request_id, trace_id)


async def find_caller_by_key_id(
    session: AsyncSession, api_key_id: int, now: datetime
) -> Authenticated | None:
    """Who holds the key with this number; for sessions that were begun with it."""
    return await _find(session, ApiKey.id == api_key_id, now, "", "")


async def _find(
    session: AsyncSession, condition: object, now: datetime, request_id: str, trace_id: str
) -> Authenticated | None:
    statement = (
        select(ApiKey, User, Workspace, Membership.role)
        .join(User, User.id == ApiKey.user_id)
        .join(Workspace, Workspace.id == ApiKey.workspace_id)
        .join(
            Membership,
            (Membership.user_id == ApiKey.user_id) & (Membership.workspace_id == ApiKey.workspace_id),
        )
        .where(condition, ApiKey.revoked_at.is_(None))  # type: ignore[arg-type]  # a condition of two kinds
    )
    row = (await session.execute(statement)).one_or_none()
    if row is None:
        return None
    key, user, workspace, role = row
    if key.expires_at is not None and key.expires_at <= now:
        return None
    caller = Caller(
        user_id=user.id,
        username=user.username,
        user_role=user.role,
        workspace_id=workspace.id,
        workspace_slug=workspace.slug,
        role=Role(role),
        api_key_id=key.id,
        scopes=frozenset(key.scopes),
        request_id=request_id,
        trace_id=trace_id,
    )
    return Authenticated(caller, key.last_used_at is None or now - key.last_used_at >= USE_INTERVAL)


async def note_use(database: Database, api_key_id: int, now: datetime) -> None:
    """Write down that the key was used (K4)."""
    async with database.write() as session:
        await session.execute(update(ApiKey).where(ApiKey.id == api_key_id).values(last_used_at=now))


async def insert_key(
    session: AsyncSession,
    *,
    workspace_id: int,
    user_id: int,
    name: str,
    scopes: list[str],
    source: str,
    now: datetime,
    expires_at: datetime | None = None,
    token: str | None = None,
) -> NewKey:
    """A new key, without asking whether it may be made. `token` is one that was chosen outside."""
    token = token or new_token(PREFIX)
    record = ApiKey(
        workspace_id=workspace_id,
        user_id=user_id,
        name=name,
        prefix=token[:SHOWN],
        key_hash=hash_token(token),
        scopes=scopes,
        source=source,
        created_at=now,
        expires_at=expires_at,
    )
    session.add(record)
    await session.flush()
    return NewKey(record, token)


async def create_key(
    session: AsyncSession,
    caller: Caller,
    *,
    name: str,
    scopes: list[str],
    now: datetime,
    expires_at: datetime | None = None,
) -> NewKey:
    """A key for the caller in the caller's workspace. Raises `CloudError` (K3, and the quota of keys)."""
    wanted = parse_scopes(scopes)
    if not covers(caller.scopes, wanted):
        raise denied("A key cannot give away scopes that it lacks itself")
    if expires_at is not None and expires_at <= now:
        raise CloudError(ErrorCode.INVALID_REQUEST, "The key would have expired already")
    await _check_limits(session, caller.workspace_id, now)
    return await insert_key(
        session,
        workspace_id=caller.workspace_id,
        user_id=caller.user_id,
        name=name,
        scopes=wanted,
        source="api",
        now=now,
        expires_at=expires_at,
    )


async def _check_limits(session: AsyncSession, workspace_id: int, now: datetime) -> None:
    live = (ApiKey.workspace_id == workspace_id) & ApiKey.revoked_at.is_(None)
    counts = await session.execute(
        select(
            select(func.count()).select_from(ApiKey).where(live).scalar_subquery(),
            select(func.count())
            .select_from(ApiKey)
            .where(ApiKey.workspace_id == workspace_id, ApiKey.created_at > now - timedelta(minutes=1))
            .scalar_subquery(),
            select(Quota.api_keys).where(Quota.workspace_id == workspace_id).scalar_subquery(),
        )
    )
    keys, recent, limit = counts.one()
    if recent >= RATE:
        raise CloudError(
            ErrorCode.TOKEN_RATE_LIMIT,
            f"More than {RATE} keys in a minute",
            suggestions=["Wait a minute"],
            headers={"Retry-After": "60"},
        )
    if limit is not None and keys >= limit:
        raise CloudError(
            ErrorCode.TOKEN_LIMIT_EXCEEDED,
            f"The workspace has {keys} keys, as many as it may have",
            suggestions=["Revoke one that is not used"],
        )


async def list_keys(
    session: AsyncSession, caller: Caller, offset: int, limit: int
) -> tuple[list[ApiKey], int]:
    """Keys of the workspace, newest first, and how many there are: all for an admin, else the caller's own."""
    mine = ApiKey.workspace_id == caller.workspace_id
    if not caller.has_role(Role.ADMIN):
        mine &= ApiKey.user_id == caller.user_id
    total = await session.scalar(select(func.count()).select_from(ApiKey).where(mine))
    rows = await session.scalars(
        select(ApiKey).where(mine).order_by(ApiKey.id.desc()).offset(offset).limit(limit)
    )
    return list(rows), total or 0


async def revoke_key(session: AsyncSession, caller: Caller, number: int | None, now: datetime) -> None:
    """Revoke a key: one's own, or as an admin any. Again is the same. Raises `CloudError` 404."""
    key = await session.get(ApiKey, number) if number is not None else None
    if key is None or key.workspace_id != caller.workspace_id:
        raise not_found("API key")
    if key.user_id != caller.user_id and not caller.has_role(Role.ADMIN):
        raise not_found("API key")
    if key.revoked_at is None:
        key.revoked_at = now
