"""Routes of workspaces: themselves, quotas, members, API keys. Members and keys are our own management endpoints."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from teehouse.cloud.accounts import keys, workspaces
from teehouse.cloud.accounts.models import Role
from teehouse.cloud.accounts.presenters import (
    api_key_body,
    api_key_created,
    member_added,
    member_body,
    member_changed,
    workspace_body,
    workspace_created,
)
from teehouse.cloud.accounts.workspaces import own_workspace
from teehouse.cloud.errors import CloudError, ErrorCode
from teehouse.cloud.http.dependencies import PageRequest, Parts, Reading, Signed, Writing, paging
from teehouse.cloud.ids import Kind, decode, encode
from teehouse.wire.cloud.accounts import (
    ApiKeyBody,
    ApiKeyCreated,
    MemberAdded,
    MemberBody,
    MemberChanged,
    NewApiKey,
    NewMember,
    NewWorkspace,
    RoleChange,
    WorkspaceBody,
    WorkspaceChange,
    WorkspaceChanged,
    WorkspaceCreated,
)
from teehouse.wire.cloud.paging import Cursor, PageA, PageC

router = APIRouter(prefix="/workspaces", tags=["workspaces"])
Page = Annotated[PageRequest, paging(default=20, most=100)]


@router.get("")
async def list_workspaces(
    caller: Signed,
    session: Reading,
    cursor: Annotated[
        str | None, Query(max_length=64, description="`next_cursor` of the page before")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> PageC[WorkspaceBody]:
    """The workspaces that the user is a member of."""
    after = 0 if not cursor else decode(Kind.WORKSPACE, cursor)
    if after is None:
        raise CloudError(ErrorCode.INVALID_REQUEST, "This cursor was never given")
    places, total, more = await workspaces.list_places(session, caller, after, limit)
    following = encode(Kind.WORKSPACE, places[-1].workspace.id) if more else None
    return PageC(
        data=[workspace_body(place) for place in places],
        pagination=Cursor(has_more=more, next_cursor=following, total=total),
    )


@router.post("", status_code=201)
async def create_workspace(
    body: NewWorkspace, caller: Signed, session: Writing, parts: Parts
) -> WorkspaceCreated:
    """Make a workspace; the answer has its first API key, which is not shown again."""
    place, key = await workspaces.create_workspace(
        session, caller, slug=body.slug, name=body.name, now=parts.clock.now()
    )
    return workspace_created(place, key)


@router.get("/{slug}")
async def get_workspace(slug: str, caller: Signed, session: Reading) -> WorkspaceBody:
    """One of the user's workspaces."""
    return workspace_body(await workspaces.find_place(session, caller, slug))


@router.patch("/{slug}")
async def update_workspace(
    slug: str, body: WorkspaceChange, caller: Signed, session: Writing
) -> WorkspaceChanged:
    """Rename a workspace. Its slug stays: links and clients know it."""
    own_workspace(caller, slug)
    caller.require(Role.ADMIN)
    place = await workspaces.find_place(session, caller, slug)
    changed = []
    if body.name is not None and body.name != place.workspace.name:
        place.workspace.name = body.name
        changed.append("name")
    return WorkspaceChanged(**workspace_body(place).model_dump(), changed=changed)


@router.get("/{slug}/members")
async def list_members(slug: str, caller: Signed, session: Reading, page: Page) -> PageA[MemberBody]:
    """Who is in the workspace, with which role."""
    own_workspace(caller, slug)
    seats, total = await workspaces.list_members(session, caller, page.offset, page.page_size)
    return PageA.of([member_body(seat) for seat in seats], total, page.page, page.page_size)


@router.post("/{slug}/members", status_code=201)
async def add_member(
    slug: str, body: NewMember, caller: Signed, session: Writing, parts: Parts
) -> MemberAdded:
    """Add a member, by email; an administrator of the installation may so make a new user."""
    own_workspace(caller, slug)
    added = await workspaces.add_member(
        session,
        caller,
        email=body.email,
        username=body.username,
        role=Role(body.role),
        now=parts.clock.now(),
    )
    return member_added(added)


@router.patch("/{slug}/members/{user_id}")
async def change_member_role(
    slug: str, user_id: str, body: RoleChange, caller: Signed, session: Writing
) -> MemberChanged:
    """Give a member another role."""
    own_workspace(caller, slug)
    number = decode(Kind.USER, user_id)
    return member_changed(*await workspaces.change_role(session, caller, number, Role(body.role)))


@router.delete("/{slug}/members/{user_id}", status_code=204)
async def remove_member(slug: str, user_id: str, caller: Signed, session: Writing) -> Response:
    """Remove a member, whose keys for this workspace end with it."""
    own_workspace(caller, slug)
    await workspaces.remove_member(session, caller, decode(Kind.USER, user_id))
    return Response(status_code=204)


@router.get("/{slug}/api-keys")
async def list_api_keys(slug: str, caller: Signed, session: Reading, page: Page) -> PageA[ApiKeyBody]:
    """The user's keys for this workspace; an admin sees all of them."""
    own_workspace(caller, slug)
    rows, total = await keys.list_keys(session, caller, page.offset, page.page_size)
    return PageA.of([api_key_body(row) for row in rows], total, page.page, page.page_size)


@router.post("/{slug}/api-keys", status_code=201)
async def create_api_key(
    slug: str, body: NewApiKey, caller: Signed, session: Writing, parts: Parts
) -> ApiKeyCreated:
    """Make a key, with at most the scopes of the present one; the answer has it, and it is not shown again."""
    own_workspace(caller, slug)
    if body.expires_at is not None and body.expires_at.tzinfo is None:
        raise CloudError(ErrorCode.INVALID_REQUEST, "expires_at needs a time zone")
    new = await keys.create_key(
        session,
        caller,
        name=body.name,
        scopes=body.scopes,
        now=parts.clock.now(),
        expires_at=body.expires_at,
    )
    return api_key_created(new)


@router.delete("/{slug}/api-keys/{key_id}", status_code=204)
async def revoke_api_key(slug: str, key_id: str, caller: Signed, session: Writing, parts: Parts) -> Response:
    """Revoke a key, at once and for ever."""
    own_workspace(caller, slug)
    await keys.revoke_key(session, caller, decode(Kind.API_KEY, key_id), parts.clock.now())
    return Response(status_code=204)
