"""Device-code login (cloud-api.md 9, RFC 8628), and the browser sessions that approve it.

Rules:

D1. A device code has 256 bits of randomness; a user code eight letters without vowels, so that it spells nothing
    and is read without mistake. Looking one up needs an API key, so there is no guessing at it.
D2. Who approves gives the program a key of the workspace it is in, with the scopes that were asked for and that
    the approving key has itself. It is made when the program fetches it, and fetched once.
D3. Refusals are those of RFC 8628: `authorization_pending`; `slow_down` for a program that asks again too soon;
    `expired_token`; `access_denied`; `invalid_grant` for a code that nobody was given.
D4. A session is begun by showing an API key, does what the key can, and ends with it. Its forms carry a token
    derived from the session's own, which another site cannot know.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from teehouse.cloud.accounts.caller import EVERYTHING, Caller, covers, parse_scopes
from teehouse.cloud.accounts.keys import (
    NewKey,
    find_caller,
    find_caller_by_key_id,
    hash_token,
    insert_key,
    new_token,
)
from teehouse.cloud.accounts.models import DeviceCode, DeviceCodeStatus, WebSession
from teehouse.cloud.errors import CloudError, denied, not_found
from teehouse.cloud.settings import CloudSettings

GRANT_TYPE: Final = "urn:ietf:params:oauth:grant-type:device_code"
LETTERS: Final = "BCDFGHJKLMNPQRSTVWXZ"
_SESSION_LIMIT: Final = 256  # characters of a cookie that is looked at
_CODE = re.compile(rf"[{LETTERS}]{{8}}")


class OAuthRefusal(Exception):  # noqa: N818 - a regular answer of the protocol, not an error of ours
    """An answer of D3: the protocol's word for it, and a sentence."""

    def __init__(self, error: str, description: str) -> None:
        super().__init__(error)
        self.error = error
        self.description = description


@dataclass(frozen=True, slots=True)
class Begun:
    """A login that was begun."""

    device_code: str = field(repr=False)
    user_code: str


async def begin(
    session: AsyncSession, settings: CloudSettings, *, client_id: str, scope: str, now: datetime
) -> Begun:
    """Begin a login. Raises `OAuthRefusal` `invalid_scope`."""
    try:
        scopes = parse_scopes(scope.split() or [EVERYTHING])
    except CloudError as error:
        raise OAuthRefusal("invalid_scope", error.message) from error
    letters = "".join(secrets.choice(LETTERS) for _ in range(8))
    begun = Begun(new_token("phdc_"), f"{letters[:4]}-{letters[4:]}")
    session.add(
        DeviceCode(
            device_code_hash=hash_token(begun.device_code),
            user_code=begun.user_code,
            client_id=client_id,
            scopes=scopes,
            interval=settings.device_code_interval,
            created_at=now,
            expires_at=now + timedelta(seconds=settings.device_code_seconds),
        )
    )
    await session.flush()
    return begun


async def fetch(session: AsyncSession, device_code: str, now: datetime) -> NewKey | OAuthRefusal:
    """The key of an approved login (D2). A refusal is returned, not raised: that a program asked is kept (D3)."""
    row = await session.scalar(
        select(DeviceCode).where(DeviceCode.device_code_hash == hash_token(device_code)).with_for_update()
    )
    if row is None or row.status == DeviceCodeStatus.CONSUMED:
        return OAuthRefusal("invalid_grant", "This device code was never given, or was used")
    if row.expires_at <= now:
        return OAuthRefusal("expired_token", "The code has expired; begin again")
    if row.status == DeviceCodeStatus.DENIED:
        return OAuthRefusal("access_denied", "The login was denied")
    if row.status == DeviceCodeStatus.PENDING:
        # A little less than the interval: the program's clock and the network are not exact.
        hasty = row.polled_at is not None and now - row.polled_at < timedelta(seconds=row.interval * 0.8)
        row.polled_at = now
        if hasty:
            row.interval += 5
            return OAuthRefusal("slow_down", "Ask less often")
        return OAuthRefusal("authorization_pending", "Waiting for the user")
    assert row.user_id is not None and row.workspace_id is not None  # noqa: S101, PT018 - approved rows have both
    key = await insert_key(
        session,
        workspace_id=row.workspace_id,
        user_id=row.user_id,
        name=f"device login of {row.client_id}",
        scopes=row.scopes,
        source="device",
        now=now,
    )
    row.status = DeviceCodeStatus.CONSUMED
    row.api_key_id = key.record.id
    return key


def normal_user_code(text: str) -> str | None:
    """The code as it is stored, from what a person typed; None for what is none."""
    letters = re.sub(r"[\s-]", "", text[:40]).upper()
    return f"{letters[:4]}-{letters[4:]}" if _CODE.fullmatch(letters) else None


async def find_pending(session: AsyncSession, user_code: str, now: datetime) -> DeviceCode:
    """The login that waits under this code. Raises `CloudError` 404."""
    code = normal_user_code(user_code)
    row = await session.scalar(select(DeviceCode).where(DeviceCode.user_code == code)) if code else None
    if row is None or row.status != DeviceCodeStatus.PENDING or row.expires_at <= now:
        raise not_found("code")
    return row


async def decide(
    session: AsyncSession, caller: Caller, user_code: str, *, approve: bool, now: datetime
) -> None:
    """Approve or deny a login. Raises `CloudError`: no such code, or scopes that the caller lacks (D2)."""
    row = await find_pending(session, user_code, now)
    if approve and not covers(caller.scopes, row.scopes):
        raise denied("Your key lacks scopes that the program asks for")
    outcome = await session.execute(
        update(DeviceCode)
        .where(DeviceCode.id == row.id, DeviceCode.status == DeviceCodeStatus.PENDING)
        .values(
            status=DeviceCodeStatus.APPROVED if approve else DeviceCodeStatus.DENIED,
            user_id=caller.user_id,
            workspace_id=caller.workspace_id,
        )
        .execution_options(synchronize_session=False)
        .returning(DeviceCode.id)
    )
    if outcome.one_or_none() is None:
        raise not_found("code")


async def begin_session(
    session: AsyncSession, settings: CloudSettings, api_key: str, now: datetime
) -> tuple[str, Caller] | None:
    """A session's token and caller, for an API key (D4); None for a key that is none."""
    found = await find_caller(session, api_key, now)
    if found is None:
        return None
    token = new_token("phws_")
    session.add(
        WebSession(
            token_hash=hash_token(token),
            api_key_id=found.caller.api_key_id,
            created_at=now,
            expires_at=now + timedelta(seconds=settings.session_seconds),
        )
    )
    await session.flush()
    return token, found.caller


async def session_caller(session: AsyncSession, token: str, now: datetime) -> Caller | None:
    """Whose session this is; None when it ended, or its key did."""
    if not token or len(token) > _SESSION_LIMIT:
        return None
    row = await session.get(WebSession, hash_token(token))
    if row is None or row.expires_at <= now:
        return None
    found = await find_caller_by_key_id(session, row.api_key_id, now)
    return None if found is None else found.caller


async def end_session(session: AsyncSession, token: str) -> None:
    """End a session."""
    await session.execute(delete(WebSession).where(WebSession.token_hash == hash_token(token)))


def form_token(session_token: str) -> str:
    """What the forms of a session carry (D4)."""
    return hashlib.sha256(b"teehouse form " + session_token.encode()).hexdigest()


def is_form_token(session_token: str, given: str) -> bool:
    """Whether a form came from this session."""
    return hmac.compare_digest(form_token(session_token).encode(), given.encode())


async def forget_expired(session: AsyncSession, now: datetime) -> None:
    """Delete sessions and device codes that are over; a code that was used stays a day, for whoever asks."""
    await session.execute(delete(WebSession).where(WebSession.expires_at <= now))
    await session.execute(delete(DeviceCode).where(DeviceCode.expires_at <= now - timedelta(days=1)))
