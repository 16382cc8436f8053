"""The first user, workspace and key of an installation.

Rules:

1. Done again it changes nothing, and with the key of the first time it gives the same caller: whoever starts the
   control plane keeps the key in a file, and hands it in.
2. The first user administers the installation and owns the first workspace.
"""

from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from teehouse.cloud.accounts.caller import EVERYTHING
from teehouse.cloud.accounts.keys import hash_token, insert_key
from teehouse.cloud.accounts.models import ApiKey, Membership, Role, User, Workspace
from teehouse.cloud.accounts.workspaces import insert_workspace


@dataclass(frozen=True, slots=True)
class First:
    """Whom an installation begins with."""

    user_id: int
    workspace_id: int
    workspace_slug: str
    api_key: str = field(repr=False)


async def bootstrap(
    session: AsyncSession,
    now: datetime,
    *,
    username: str = "admin",
    email: str = "admin@localhost",
    slug: str = "default",
    workspace_name: str = "Default workspace",
    api_key: str | None = None,
) -> First:
    """Make what is missing of the first user, workspace and key. `api_key` is the key of an earlier start."""
    user = await session.scalar(select(User).where(User.username == username))
    if user is None:
        user = User(username=username, email=email, role="admin", email_verified=True, created_at=now)
        session.add(user)
        await session.flush()
    workspace = await session.scalar(select(Workspace).where(Workspace.slug == slug))
    if workspace is None:
        place = await insert_workspace(
            session, user.id, slug=slug, name=workspace_name, is_default=True, now=now
        )
        workspace = place.workspace
    elif await session.get(Membership, (user.id, workspace.id)) is None:
        session.add(
            Membership(
                user_id=user.id, workspace_id=workspace.id, role=Role.OWNER, is_default=True, created_at=now
            )
        )
        await session.flush()
    known = None
    if api_key is not None:
        known = await session.scalar(select(ApiKey).where(ApiKey.key_hash == hash_token(api_key)))
    if known is None or known.revoked_at is not None or api_key is None:
        new = await insert_key(
            session,
            workspace_id=workspace.id,
            user_id=user.id,
            name="first key",
            scopes=[EVERYTHING],
            source="bootstrap",
            now=now,
            token=api_key if known is None else None,
        )
        api_key = new.token
    return First(user.id, workspace.id, workspace.slug, api_key)
