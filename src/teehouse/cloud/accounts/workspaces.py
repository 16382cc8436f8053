"""Workspaces and their members.

Rules:

W1. A user sees the workspaces it is a member of; everything inside a workspace is reached with a key of that
    workspace only. The path names it once more, and naming another is as if there were none (errors, E3).
W2. Admins manage members, but only an owner makes, changes or removes an owner.
W3. A workspace has an owner at all times.
W4. A user who is not known yet is made by an administrator of the installation only.
"""

from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from teehouse.cloud.accounts.caller import EVERYTHING, Caller
from teehouse.cloud.accounts.keys import NewKey, insert_key
from teehouse.cloud.accounts.models import Membership, Quota, Role, User, Workspace
from teehouse.cloud.errors import denied, not_found, refusal


@dataclass(frozen=True, slots=True)
class Seat:
    """A user's place in a workspace."""

    user: User
    membership: Membership


@dataclass(frozen=True, slots=True)
class Place:
    """A workspace as a member sees it."""

    workspace: Workspace
    membership: Membership


@dataclass(frozen=True, slots=True)
class Added:
    """A new member, and the first key of one who is new in the installation."""

    seat: Seat
    key: NewKey | None = field(repr=False)


def own_workspace(caller: Caller, slug: str) -> None:
    """Raises `CloudError` 404 unless the path names the caller's workspace (W1)."""
    if slug != caller.workspace_slug:
        raise not_found("workspace")


async def list_places(
    session: AsyncSession, caller: Caller, after: int, limit: int
) -> tuple[list[Place], int, bool]:
    """The caller's workspaces after the one with number `after`, how many there are in all, whether more follow."""
    mine = Membership.user_id == caller.user_id
    total = await session.scalar(select(func.count()).select_from(Membership).where(mine))
    rows = await session.execute(
        select(Workspace, Membership)
        .join(Membership, Membership.workspace_id == Workspace.id)
        .where(mine, Workspace.id > after)
        .order_by(Workspace.id)
        .limit(limit + 1)
    )
    places = [Place(workspace, membership) for workspace, membership in rows]
    return places[:limit], total or 0, len(places) > limit


async def find_place(session: AsyncSession, caller: Caller, slug: str) -> Place:
    """One of the caller's workspaces. Raises `CloudError` 404."""
    rows = await session.execute(
        select(Workspace, Membership)
        .join(Membership, Membership.workspace_id == Workspace.id)
        .where(Membership.user_id == caller.user_id, Workspace.slug == slug)
    )
    row = rows.one_or_none()
    if row is None:
        raise not_found("workspace")
    return Place(*row)


async def insert_workspace(
    session: AsyncSession, user_id: int, *, slug: str, name: str, is_default: bool, now: datetime
) -> Place:
    """A workspace that the user owns, with the usual quotas. Raises `CloudError` 409 for a slug that is taken."""
    if await session.scalar(select(Workspace.id).where(Workspace.slug == slug)) is not None:
        raise refusal(409, f"The slug {slug} is taken")
    workspace = Workspace(slug=slug, name=name, created_at=now)
    session.add(workspace)
    await session.flush()
    membership = Membership(
        user_id=user_id, workspace_id=workspace.id, role=Role.OWNER, is_default=is_default, created_at=now
    )
    session.add_all([membership, Quota(workspace_id=workspace.id)])
    await session.flush()
    return Place(workspace, membership)


async def create_workspace(
    session: AsyncSession, caller: Caller, *, slug: str, name: str, now: datetime
) -> tuple[Place, NewKey]:
    """A workspace of the caller's, and its first key: the caller's present one is for another workspace."""
    if EVERYTHING not in caller.scopes:
        raise denied("A new workspace's key has every scope; yours has not")
    place = await insert_workspace(session, caller.user_id, slug=slug, name=name, is_default=False, now=now)
    key = await insert_key(
        session,
        workspace_id=place.workspace.id,
        user_id=caller.user_id,
        name="first key",
        scopes=[EVERYTHING],
        source="api",
        now=now,
    )
    return place, key


async def list_members(
    session: AsyncSession, caller: Caller, offset: int, limit: int
) -> tuple[list[Seat], int]:
    """The members of the caller's workspace, in the order they came, and how many there are."""
    here = Membership.workspace_id == caller.workspace_id
    total = await session.scalar(select(func.count()).select_from(Membership).where(here))
    rows = await session.execute(
        select(User, Membership)
        .join(Membership, Membership.user_id == User.id)
        .where(here)
        .order_by(User.id)
        .offset(offset)
        .limit(limit)
    )
    return [Seat(user, membership) for user, membership in rows], total or 0


async def add_member(
    session: AsyncSession, caller: Caller, *, email: str, username: str | None, role: Role, now: datetime
) -> Added:
    """Give somebody a place in the caller's workspace. Raises `CloudError` (W2, W4; 409 for a member)."""
    caller.require(Role.ADMIN)
    if role is Role.OWNER:
        caller.require(Role.OWNER)
    user = await session.scalar(select(User).where(User.email == email))
    made = user is None
    if user is None:
        user = await _new_user(session, caller, email, username, now)
    elif await session.get(Membership, (user.id, caller.workspace_id)) is not None:
        raise refusal(409, "Already a member")
    membership = Membership(
        user_id=user.id, workspace_id=caller.workspace_id, role=role, is_default=made, created_at=now
    )
    session.add(membership)
    await session.flush()
    if not made:
        return Added(Seat(user, membership), None)
    key = await insert_key(
        session,
        workspace_id=caller.workspace_id,
        user_id=user.id,
        name="first key",
        scopes=[EVERYTHING],
        source="api",
        now=now,
    )
    return Added(Seat(user, membership), key)


async def _new_user(
    session: AsyncSession, caller: Caller, email: str, username: str | None, now: datetime
) -> User:
    if caller.user_role != "admin" or EVERYTHING not in caller.scopes or username is None:
        raise refusal(
            404,
            "Nobody with this email is known here; an administrator of the installation adds new users, "
            "with email and username",
        )
    if await session.scalar(select(User.id).where(User.username == username)) is not None:
        raise refusal(409, f"The username {username} is taken")
    user = User(username=username, email=email, created_at=now)
    session.add(user)
    await session.flush()
    return user


async def change_role(
    session: AsyncSession, caller: Caller, user_id: int | None, role: Role
) -> tuple[Seat, list[str]]:
    """Give a member another role; which fields that changed. Raises `CloudError` (W2, W3, 404)."""
    seat = await _seat(session, caller, user_id)
    if seat.membership.role == role:
        return seat, []
    if role is Role.OWNER:
        caller.require(Role.OWNER)
    elif seat.membership.role == Role.OWNER:
        await _keep_an_owner(session, caller, seat)
    seat.membership.role = role
    return seat, ["role"]


async def remove_member(session: AsyncSession, caller: Caller, user_id: int | None) -> None:
    """Take a member's place away; the member's keys for this workspace end with it. Raises `CloudError`."""
    seat = await _seat(session, caller, user_id)
    if seat.membership.role == Role.OWNER:
        await _keep_an_owner(session, caller, seat)
    await session.delete(seat.membership)


async def _seat(session: AsyncSession, caller: Caller, user_id: int | None) -> Seat:
    caller.require(Role.ADMIN)
    rows = await session.execute(
        select(User, Membership)
        .join(Membership, Membership.user_id == User.id)
        .where(Membership.workspace_id == caller.workspace_id, User.id == user_id)
    )
    row = rows.one_or_none()
    if row is None:
        raise not_found("member")
    return Seat(*row)


async def _keep_an_owner(session: AsyncSession, caller: Caller, seat: Seat) -> None:
    """W2 and W3, before an owner ends to be one. The owners' rows are locked: two of them may leave at once."""
    caller.require(Role.OWNER)
    owners = await session.scalars(
        select(Membership.user_id)
        .where(Membership.workspace_id == caller.workspace_id, Membership.role == Role.OWNER)
        .with_for_update()
    )
    if set(owners) == {seat.user.id}:
        raise refusal(409, "A workspace needs an owner; make somebody else one first")
