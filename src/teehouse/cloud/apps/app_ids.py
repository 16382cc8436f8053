"""App ids of the off-chain KMS, from a workspace's nonces (cloud-api.md 14.5).

Rules:

1. The id of a nonce is the first 20 bytes of SHA-256 over a domain, the workspace's 16 random bytes, its number and
   the nonce, these of 8 bytes each: it can be told before the app exists. The random bytes keep control planes apart
   that use the same KMS, which derives an app's keys from its id. Workspaces of the first release have none.
2. A nonce is handed out once: the workspace's counter only grows. One that was asked for by its number moves the
   counter behind it.
"""

from typing import Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from teehouse.base.hashes import sha256
from teehouse.cloud.accounts.models import Workspace
from teehouse.cloud.errors import CloudError, ErrorCode

NONCE_LIMIT: Final = 2**62
_FIRST_DOMAIN: Final = b"teehouse app id v1\0"
_DOMAIN: Final = b"teehouse app id v2\0"


def app_id_of(workspace_id: int, nonce: int, seed: str | None) -> str:
    """The app id, 40 hex digits (rule 1); `seed` is `Workspace.app_id_seed`."""
    domain = _FIRST_DOMAIN if seed is None else _DOMAIN + bytes.fromhex(seed)
    return sha256(domain + workspace_id.to_bytes(8, "big") + nonce.to_bytes(8, "big"))[:20].hex()


async def next_app_ids(session: AsyncSession, workspace_id: int, count: int) -> list[tuple[str, int]]:
    """The ids and nonces that the next deployments get, if nobody is faster. Nothing is taken."""
    question = select(Workspace.next_nonce, Workspace.app_id_seed).where(Workspace.id == workspace_id)
    first, seed = (await session.execute(question)).one()
    return [(app_id_of(workspace_id, nonce, seed), nonce) for nonce in range(first, first + count)]


async def take_app_id(
    session: AsyncSession, workspace_id: int, *, app_id: str | None = None, nonce: int | None = None
) -> tuple[str, int]:
    """An id and its nonce: the next ones, or those asked for (rule 2).

    Raises `CloudError` ERR-02-009 for an id and a nonce that do not belong together.
    """
    # No key of the row changes: rows that refer to the workspace are written meanwhile, another nonce is not taken.
    question = select(Workspace).where(Workspace.id == workspace_id).with_for_update(key_share=True)
    workspace = (await session.execute(question.execution_options(populate_existing=True))).scalar_one()
    if nonce is None:
        nonce = workspace.next_nonce
    elif app_id != app_id_of(workspace_id, nonce, workspace.app_id_seed):
        raise CloudError(
            ErrorCode.INCOMPATIBLE_CONFIG,
            f"app_id is not the one of nonce {nonce} in this workspace",
            suggestions=["Get both from GET /kms/phala/next_app_id"],
        )
    workspace.next_nonce = max(workspace.next_nonce, nonce + 1)
    await session.flush()
    return app_id_of(workspace_id, nonce, workspace.app_id_seed), nonce
