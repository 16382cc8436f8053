"""A user's SSH keys.

Rules:

S1. A key is one line: type, base64, comment. The type inside the base64 is the one in front of it, and is one of
    `KEY_TYPES`. DSA is not: nobody should log in with it.
S2. A key is known by its SHA-256 fingerprint, as `ssh-keygen -l` prints it; a user has it once.
S3. Keys of a GitHub profile are fetched by whoever the parts name (`github_keys`). Without such a way the answer
    says so, in the form the clients read; nothing is guessed.
S4. Importing anew adds what the profile has and removes what it has no more, and touches no key of another source.
"""

import base64
import binascii
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from teehouse.base.findings import TeehouseError
from teehouse.cloud.accounts.caller import Caller
from teehouse.cloud.accounts.models import SshKey
from teehouse.cloud.errors import CloudError, ErrorCode, not_found, refusal

KEY_TYPES: Final = frozenset(
    {
        "ssh-ed25519",
        "ssh-rsa",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "sk-ssh-ed25519@openssh.com",
        "sk-ecdsa-sha2-nistp256@openssh.com",
    }
)
KEYS_LIMIT: Final = 100  # of one user
SOURCE_API: Final = "api"
SOURCE_GITHUB: Final = "github"
NO_GITHUB: Final = (
    "This control plane has no way to GitHub; add the public key itself with POST /user/ssh-keys"
)

GithubKeys = Callable[[str], Awaitable[Sequence[str]]]  # username -> lines; raises TeehouseError


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key that was read (S1, S2)."""

    text: str
    key_type: str
    comment: str
    fingerprint: str


@dataclass(slots=True)
class Imported:
    """What an import did."""

    added: int = 0
    skipped: int = 0
    removed: int = 0
    errors: list[str] = field(default_factory=list)


def parse_public_key(line: str) -> PublicKey:
    """The key of a line. Raises `CloudError` for what is none (S1)."""
    line = line.strip()
    words = line.split(None, 2)
    if len(words) < 2 or not line.replace("\t", " ").isprintable():
        raise _not_a_key("one line: type, base64, comment")
    key_type, encoded = words[0], words[1]
    if key_type not in KEY_TYPES:
        raise _not_a_key(f"a type among {', '.join(sorted(KEY_TYPES))}")
    try:
        blob = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        raise _not_a_key("base64 after the type") from None
    size = int.from_bytes(blob[:4], "big")
    if blob[4 : 4 + size] != key_type.encode() or len(blob) <= 4 + size:
        raise _not_a_key(f"a key of the type {key_type} in the base64")
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    comment = words[2] if len(words) > 2 else ""
    return PublicKey(" ".join(words), key_type, comment, f"SHA256:{digest}")


def _not_a_key(expected: str) -> CloudError:
    return CloudError(
        ErrorCode.INVALID_REQUEST,
        "This is no SSH public key",
        suggestions=[f"Send {expected}, as a .pub file has it"],
    )


async def list_keys(session: AsyncSession, caller: Caller) -> list[SshKey]:
    """The caller's keys, oldest first; at most `KEYS_LIMIT`."""
    rows = await session.scalars(select(SshKey).where(SshKey.user_id == caller.user_id).order_by(SshKey.id))
    return list(rows)


async def add_key(session: AsyncSession, caller: Caller, name: str, line: str, now: datetime) -> SshKey:
    """Add a key. Raises `CloudError`: no key, 409 for one that is there, too many."""
    key = parse_public_key(line)
    present = await list_keys(session, caller)
    if any(row.fingerprint == key.fingerprint for row in present):
        raise refusal(409, "This SSH key is there already")
    if len(present) >= KEYS_LIMIT:
        raise CloudError(ErrorCode.RESOURCE_LIMIT_EXCEEDED, f"A user has at most {KEYS_LIMIT} SSH keys")
    row = _row(caller, key, now, name=name)
    session.add(row)
    await session.flush()
    return row


async def delete_key(session: AsyncSession, caller: Caller, number: int | None) -> None:
    """Remove one of the caller's keys. Raises `CloudError` 404."""
    row = await session.get(SshKey, number) if number is not None else None
    if row is None or row.user_id != caller.user_id:
        raise not_found("SSH key")
    await session.delete(row)


@dataclass(frozen=True, slots=True)
class Profile:
    """What a GitHub profile has, or why that is not known."""

    username: str
    lines: Sequence[str] = ()
    error: str = ""


async def fetch_profile(github_keys: GithubKeys | None, username: str) -> Profile:
    """The keys of a profile (S3). It may take seconds: no transaction waits for it."""
    if github_keys is None:
        return Profile(username, error=NO_GITHUB)
    try:
        return Profile(username, await github_keys(username))
    except TeehouseError as error:
        return Profile(username, error=str(error))


async def imported_profiles(session: AsyncSession, caller: Caller) -> list[str]:
    """The GitHub users that keys of the caller were imported from."""
    rows = await list_keys(session, caller)
    return sorted(
        {str((row.key_metadata or {}).get("github_username")) for row in rows if row.source == SOURCE_GITHUB}
    )


async def import_profiles(
    session: AsyncSession, caller: Caller, profiles: Sequence[Profile], now: datetime
) -> Imported:
    """Take over what was fetched (S4). A profile that could not be fetched keeps what it has here."""
    done = Imported()
    for profile in profiles:
        if profile.error:
            done.errors.append(profile.error)
        else:
            await _take_over(
                session, caller, username=profile.username, lines=profile.lines, now=now, done=done
            )
    return done


async def _take_over(
    session: AsyncSession,
    caller: Caller,
    *,
    username: str,
    lines: Sequence[str],
    now: datetime,
    done: Imported,
) -> None:
    present = {row.fingerprint: row for row in await list_keys(session, caller)}
    seen: set[str] = set()
    for line in lines[:KEYS_LIMIT]:
        try:
            key = parse_public_key(line)
        except CloudError as error:
            done.errors.append(f"{username}: {error.message}")
            continue
        seen.add(key.fingerprint)
        if (row := present.get(key.fingerprint)) is not None:
            done.skipped += 1
            row.last_synced_at = now if row.source == SOURCE_GITHUB else row.last_synced_at
        elif len(present) >= KEYS_LIMIT:
            done.errors.append(f"{username}: a user has at most {KEYS_LIMIT} SSH keys")
        else:
            name = f"{username}@github {len(seen)}"
            row = _row(caller, key, now, name=name, metadata={"github_username": username})
            row.last_synced_at = now
            session.add(row)
            present[key.fingerprint] = row
            done.added += 1
    for fingerprint, row in present.items():
        theirs = row.source == SOURCE_GITHUB and (row.key_metadata or {}).get("github_username") == username
        if theirs and fingerprint not in seen:
            await session.delete(row)
            done.removed += 1
    await session.flush()


def _row(
    caller: Caller, key: PublicKey, now: datetime, *, name: str, metadata: dict[str, Any] | None = None
) -> SshKey:
    return SshKey(
        user_id=caller.user_id,
        name=name,
        public_key=key.text,
        fingerprint=key.fingerprint,
        key_type=key.key_type,
        source=SOURCE_API if metadata is None else SOURCE_GITHUB,
        key_metadata=metadata,
        created_at=now,
        updated_at=now,
    )
