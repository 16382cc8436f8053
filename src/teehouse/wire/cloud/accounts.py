"""Bodies of accounts: the caller, workspaces, members, keys, SSH keys, device login (cloud-api.md 9, 12.1)."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from teehouse.wire.cloud.base import Body

NAME_LIMIT = 128  # characters
SCOPES_LIMIT = 16
PUBLIC_KEY_LIMIT = 16 * 1024  # characters

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=NAME_LIMIT)]
Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$")]
Username = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9](?:[a-zA-Z0-9._-]{0,62}[a-zA-Z0-9])?$")]
# One @ with something on either side and a dot-free blank-free rest is as much as can be known without sending mail.
Email = Annotated[str, StringConstraints(max_length=254, pattern=r"^[^@\s\x00-\x1f]+@[^@\s\x00-\x1f]+$")]
RoleName = Literal["viewer", "member", "admin", "owner"]
Scopes = Annotated[
    list[Annotated[str, StringConstraints(min_length=1, max_length=64)]],
    Field(min_length=1, max_length=SCOPES_LIMIT),
]


class CurrentUserV1(Body):
    """`/auth/me` at V1."""

    username: str
    email: str
    credits: float
    granted_credits: float
    avatar: str
    team_name: str
    team_tier: str


class CurrentUser(Body):
    """The user of `/auth/me` from V2 on."""

    username: str
    email: str
    role: Literal["admin", "user"]
    avatar: str
    email_verified: bool
    totp_enabled: bool
    has_backup_codes: bool
    flag_has_password: bool


class CurrentWorkspace(Body):
    """The workspace of the key."""

    id: str
    name: str
    slug: str | None
    tier: str
    role: str
    avatar: str | None = None


class Credits(Body):
    """Money, as decimal text."""

    balance: str
    granted_balance: str
    is_post_paid: bool
    outstanding_amount: str | None


class CurrentUserV2(Body):
    """`/auth/me` from V2 on."""

    user: CurrentUser
    workspace: CurrentWorkspace
    credits: Credits


class WorkspaceBody(Body):
    """A workspace as a member sees it."""

    id: str
    name: str
    slug: str | None
    tier: str
    role: str
    is_default: bool
    created_at: str


class NewWorkspace(Body):
    """A workspace to make."""

    name: Name
    slug: Slug


class WorkspaceChange(Body):
    """What can be changed of a workspace; what is absent stays."""

    name: Name | None = None


class WorkspaceChanged(WorkspaceBody):
    """A workspace, and the names of the fields that an update changed."""

    changed: list[str]


class MemberBody(Body):
    """A member of a workspace."""

    user_id: str
    username: str
    email: str
    role: RoleName
    created_at: str


class MemberChanged(MemberBody):
    """A member, and the names of the fields that an update changed."""

    changed: list[str]


class NewMember(Body):
    """Somebody to add: known by email, or made anew (`username`) by an administrator of the installation."""

    email: Email
    username: Username | None = None
    role: RoleName = "member"


class MemberAdded(MemberBody):
    """A new member; `api_key` is the first key of a user who was made just now, and shown only here."""

    api_key: str | None = None


class RoleChange(Body):
    """The role that a member is to have."""

    role: RoleName


class ApiKeyBody(Body):
    """An API key without its secret part."""

    id: str
    name: str
    prefix: str
    scopes: list[str]
    user_id: str
    source: str
    created_at: str
    last_used_at: str | None
    expires_at: str | None
    revoked_at: str | None


class NewApiKey(Body):
    """An API key to make."""

    name: Name
    scopes: Scopes = Field(default_factory=lambda: ["*"])
    expires_at: datetime | None = None


class ApiKeyCreated(ApiKeyBody):
    """A key that was just made; `key` is shown only here."""

    key: str


class WorkspaceCreated(WorkspaceBody):
    """A workspace that was just made, with its first key, which is shown only here."""

    api_key: str


class SshKeyBody(Body):
    """An SSH key (12.9)."""

    id: str
    user_id: str
    name: str
    public_key: str
    fingerprint: str
    key_type: str
    source: str
    created_at: str
    updated_at: str
    key_metadata: dict[str, Any] | None = None
    last_synced_at: str | None = None


class NewSshKey(Body):
    """An SSH key to add, as the line of a `.pub` file."""

    name: Name
    public_key: Annotated[str, StringConstraints(min_length=1, max_length=PUBLIC_KEY_LIMIT)]


class GithubProfile(Body):
    """Whose keys to import."""

    github_username: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9](?:-?[a-zA-Z0-9]){0,38}$")]


class GithubImported(Body):
    """What came of an import; `errors` says why nothing did."""

    github_username: str
    keys_added: int
    keys_skipped: int
    errors: list[str] = Field(default_factory=list)


class GithubSynced(Body):
    """What came of importing anew from every profile that keys were imported from."""

    synced_count: int
    keys_added: int
    keys_updated: int
    keys_removed: int
    errors: list[str] = Field(default_factory=list)


class DeviceCodeRequest(Body):
    """The beginning of a device login."""

    client_id: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    scope: Annotated[str, StringConstraints(max_length=256)] = "*"


class DeviceCodeBody(Body):
    """What the program shows, and what it asks with (RFC 8628)."""

    device_code: str
    user_code: str
    verification_uri: str
    verification_uri_complete: str
    expires_in: int
    interval: int


class DeviceTokenRequest(Body):
    """Asking whether the login was approved."""

    device_code: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    grant_type: Annotated[str, StringConstraints(max_length=128)]


class DeviceToken(Body):
    """The key that came of it."""

    access_token: str
    token_type: Literal["bearer"] = "bearer"  # noqa: S105 - the name of a scheme
