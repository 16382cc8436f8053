"""Routes of the caller's own account: `/auth/me`, `/user/ssh-keys` (cloud-api.md 10.2)."""

from fastapi import APIRouter, Response

from teehouse.cloud.accounts import ssh_keys
from teehouse.cloud.accounts.models import User, Workspace
from teehouse.cloud.accounts.presenters import current_user, ssh_key_body
from teehouse.cloud.errors import not_found
from teehouse.cloud.http.dependencies import Parts, Reading, Signed, Version, Writing
from teehouse.cloud.ids import Kind, decode
from teehouse.wire.cloud.accounts import (
    CurrentUserV1,
    CurrentUserV2,
    GithubImported,
    GithubProfile,
    GithubSynced,
    NewSshKey,
    SshKeyBody,
)

router = APIRouter(tags=["account"])


@router.get("/auth/me")
async def get_current_user(
    caller: Signed, session: Reading, version: Version
) -> CurrentUserV2 | CurrentUserV1:
    """Who the key belongs to, and its workspace."""
    user = await session.get(User, caller.user_id)
    workspace = await session.get(Workspace, caller.workspace_id)
    if user is None or workspace is None:  # deleted since the key was looked up
        raise not_found("user")
    return current_user(user, workspace, caller.role, version)


@router.get("/users/me")
async def get_user(caller: Signed, session: Reading, version: Version) -> CurrentUserV2 | CurrentUserV1:
    """The former path of `/auth/me`."""
    return await get_current_user(caller, session, version)


@router.get("/user/ssh-keys")
async def list_ssh_keys(caller: Signed, session: Reading) -> list[SshKeyBody]:
    """The user's SSH keys."""
    return [ssh_key_body(row) for row in await ssh_keys.list_keys(session, caller)]


@router.post("/user/ssh-keys")
async def create_ssh_key(body: NewSshKey, caller: Signed, session: Writing, parts: Parts) -> SshKeyBody:
    """Add an SSH key."""
    row = await ssh_keys.add_key(session, caller, body.name, body.public_key, parts.clock.now())
    return ssh_key_body(row)


@router.delete("/user/ssh-keys/{key_id}", status_code=204)
async def delete_ssh_key(key_id: str, caller: Signed, session: Writing) -> Response:
    """Remove an SSH key."""
    await ssh_keys.delete_key(session, caller, decode(Kind.SSH_KEY, key_id))
    return Response(status_code=204)


@router.post("/user/ssh-keys/github-profile")
async def import_github_profile_ssh_keys(body: GithubProfile, caller: Signed, parts: Parts) -> GithubImported:
    """Import the public keys of a GitHub profile; `errors` says why nothing was imported."""
    profile = await ssh_keys.fetch_profile(parts.github_keys, body.github_username)
    async with parts.database.write() as session:
        done = await ssh_keys.import_profiles(session, caller, [profile], parts.clock.now())
    return GithubImported(
        github_username=body.github_username,
        keys_added=done.added,
        keys_skipped=done.skipped,
        errors=done.errors,
    )


@router.post("/user/ssh-keys/github-sync")
async def sync_github_ssh_keys(caller: Signed, parts: Parts) -> GithubSynced:
    """Import anew from every profile that keys were imported from."""
    async with parts.database.read() as session:
        usernames = await ssh_keys.imported_profiles(session, caller)
    if parts.github_keys is None:
        return GithubSynced(
            synced_count=0, keys_added=0, keys_updated=0, keys_removed=0, errors=[ssh_keys.NO_GITHUB]
        )
    profiles = [await ssh_keys.fetch_profile(parts.github_keys, username) for username in usernames]
    async with parts.database.write() as session:
        done = await ssh_keys.import_profiles(session, caller, profiles, parts.clock.now())
    return GithubSynced(
        synced_count=sum(not profile.error for profile in profiles),
        keys_added=done.added,
        keys_updated=done.skipped,
        keys_removed=done.removed,
        errors=done.errors,
    )
