"""Accounts as bodies, per dated version where these differ (cloud-api.md 12.1)."""

from datetime import datetime
from decimal import Decimal

from teehouse.cloud.accounts.keys import NewKey
from teehouse.cloud.accounts.models import ApiKey, SshKey, User, Workspace
from teehouse.cloud.accounts.workspaces import Added, Place, Seat
from teehouse.cloud.ids import Kind, encode
from teehouse.wire.cloud.accounts import (
    ApiKeyBody,
    ApiKeyCreated,
    Credits,
    CurrentUser,
    CurrentUserV1,
    CurrentUserV2,
    CurrentWorkspace,
    MemberAdded,
    MemberBody,
    MemberChanged,
    SshKeyBody,
    WorkspaceBody,
    WorkspaceCreated,
)
from teehouse.wire.cloud.base import time_text
from teehouse.wire.cloud.versions import ApiVersion


def money(amount: Decimal) -> str:
    """Decimal text with two digits after the point, or as many more as there are."""
    exact = amount.normalize()
    return f"{exact:.2f}" if exact == round(exact, 2) else f"{exact:f}"


def current_user(
    user: User, workspace: Workspace, role: str, version: ApiVersion
) -> CurrentUserV1 | CurrentUserV2:
    """The caller. There are no passwords and no second factors here: keys are the only way in."""
    if version is ApiVersion.V1:
        return CurrentUserV1(
            username=user.username,
            email=user.email,
            credits=float(workspace.balance),
            granted_credits=float(workspace.granted_balance),
            avatar=user.avatar_url or "",
            team_name=workspace.name,
            team_tier=workspace.tier,
        )
    return CurrentUserV2(
        user=CurrentUser(
            username=user.username,
            email=user.email,
            role="admin" if user.role == "admin" else "user",
            avatar=user.avatar_url or "",
            email_verified=user.email_verified,
            totp_enabled=False,
            has_backup_codes=False,
            flag_has_password=False,
        ),
        workspace=CurrentWorkspace(
            id=encode(Kind.WORKSPACE, workspace.id),
            name=workspace.name,
            slug=workspace.slug,
            tier=workspace.tier,
            role=role,
            avatar=workspace.avatar_url,
        ),
        credits=Credits(
            balance=money(workspace.balance),
            granted_balance=money(workspace.granted_balance),
            is_post_paid=False,
            outstanding_amount=None,
        ),
    )


def workspace_body(place: Place) -> WorkspaceBody:
    """A workspace."""
    return WorkspaceBody(
        id=encode(Kind.WORKSPACE, place.workspace.id),
        name=place.workspace.name,
        slug=place.workspace.slug,
        tier=place.workspace.tier,
        role=place.membership.role,
        is_default=place.membership.is_default,
        created_at=time_text(place.workspace.created_at),
    )


def workspace_created(place: Place, key: NewKey) -> WorkspaceCreated:
    """A workspace with its first key."""
    return WorkspaceCreated(**workspace_body(place).model_dump(), api_key=key.token)


def member_body(seat: Seat) -> MemberBody:
    """A member."""
    return MemberBody.model_validate(_member(seat))


def member_changed(seat: Seat, changed: list[str]) -> MemberChanged:
    """A member, and what an update changed."""
    return MemberChanged.model_validate({**_member(seat), "changed": changed})


def member_added(added: Added) -> MemberAdded:
    """A member who was just added."""
    return MemberAdded.model_validate(
        {**_member(added.seat), "api_key": None if added.key is None else added.key.token}
    )


def _member(seat: Seat) -> dict[str, str]:
    return {
        "user_id": encode(Kind.USER, seat.user.id),
        "username": seat.user.username,
        "email": seat.user.email,
        "role": seat.membership.role,
        "created_at": time_text(seat.membership.created_at),
    }


def api_key_body(key: ApiKey) -> ApiKeyBody:
    """A key without its secret part."""
    return ApiKeyBody(
        id=encode(Kind.API_KEY, key.id),
        name=key.name,
        prefix=key.prefix,
        scopes=key.scopes,
        user_id=encode(Kind.USER, key.user_id),
        source=key.source,
        created_at=time_text(key.created_at),
        last_used_at=_time(key.last_used_at),
        expires_at=_time(key.expires_at),
        revoked_at=_time(key.revoked_at),
    )


def api_key_created(new: NewKey) -> ApiKeyCreated:
    """A key with its secret part."""
    return ApiKeyCreated(**api_key_body(new.record).model_dump(), key=new.token)


def ssh_key_body(key: SshKey) -> SshKeyBody:
    """An SSH key."""
    return SshKeyBody(
        id=encode(Kind.SSH_KEY, key.id),
        user_id=encode(Kind.USER, key.user_id),
        name=key.name,
        public_key=key.public_key,
        fingerprint=key.fingerprint,
        key_type=key.key_type,
        source=key.source,
        created_at=time_text(key.created_at),
        updated_at=time_text(key.updated_at),
        key_metadata=key.key_metadata,
        last_synced_at=_time(key.last_synced_at),
    )


def _time(value: datetime | None) -> str | None:
    return None if value is None else time_text(value)
