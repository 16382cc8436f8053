"""Changes that wait for their compose hash to be registered on chain (cloud-api.md 13.4, 16).

Rules:

R1. A token has 128 random bits, is stored as its SHA-256, lasts 14 days and is used once. A newer one of the same
    kind for the same CVM, or app, supersedes it.
R2. Whoever has the token of an update commits it without an API key: the change was decided by the one who
    prepared it.
R3. A compose hash given with the token is the token's. What is left empty is taken from the token.
R4. A transaction hash is proved; with `already-registered`, or none, only the contract's state is asked. In both
    cases the contract allows hash and device when the change is made.
R5. The token of a replica or instance is committed with a key, by a path that names its app: to a caller of another
    workspace both are unknown, and the token can still be used.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, cast

from sqlalchemy import CursorResult, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import joinedload

from teehouse.base.hashes import sha256
from teehouse.cloud.allowlists.gate import GatedApp, OnchainStatus
from teehouse.cloud.apps.models import App
from teehouse.cloud.cvms.lifecycle import Lifecycle
from teehouse.cloud.cvms.models import CommitToken
from teehouse.cloud.cvms.operations import Author
from teehouse.cloud.errors import CloudError, Detail, ErrorCode
from teehouse.cloud.ids import parse_hex
from teehouse.cloud.inventory.models import KmsNode
from teehouse.cloud.inventory.presenters import present_kms

LIFETIME: Final = timedelta(days=14)
ALREADY: Final = "already-registered"
UPDATE: Final = "update"
REPLICA: Final = "replica"
INSTANCE: Final = "instance"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A change that was written down to wait; `token` is told once."""

    token: str
    compose_hash: str


async def gated(session: AsyncSession, app_record_id: int) -> tuple[App, GatedApp]:
    """The app, and what a gate needs to know of it."""
    question = (
        select(App).where(App.id == app_record_id).options(joinedload(App.kms).joinedload(KmsNode.contract))
    )
    app = (await session.execute(question)).scalar_one()
    return app, gated_app(app.app_id, app.kms)


def gated_app(app_id: str, kms: KmsNode) -> GatedApp:
    """An app of a KMS whose contract is loaded. On chain the app's id is its contract's address (cloud-api.md 14.5)."""
    contract = kms.contract
    if not contract.chain_id:
        return GatedApp(app_id, kms.kms_type, None, None)
    return GatedApp(app_id, kms.kms_type, contract.chain_id, f"0x{app_id}", contract.contract_address)


async def prepare(
    session: AsyncSession,
    author: Author,
    kind: str,
    *,
    app_record_id: int,
    cvm_id: int | None,
    compose_hash: str,
    change: dict[str, Any],
    encrypted_env: bytes | None,
    now: datetime,
) -> Prepared:
    """Write the change down to wait (rule R1)."""
    same = CommitToken.cvm_id == cvm_id if cvm_id is not None else CommitToken.app_record_id == app_record_id
    await session.execute(
        update(CommitToken)
        .where(
            same,
            CommitToken.kind == kind,
            CommitToken.used_at.is_(None),
            CommitToken.superseded_at.is_(None),
        )
        .values(superseded_at=now)
        .execution_options(synchronize_session=False)
    )
    token = "ct_" + secrets.token_hex(16)
    session.add(
        CommitToken(
            token_hash=sha256(token.encode()).hex(),
            workspace_id=author.workspace_id,
            user_id=author.user_id,
            app_record_id=app_record_id,
            cvm_id=cvm_id,
            kind=kind,
            compose_hash=compose_hash,
            change=change,
            encrypted_env=encrypted_env,
            created_at=now,
            expires_at=now + LIFETIME,
        )
    )
    await session.flush()
    return Prepared(token, compose_hash)


async def open_token(
    life: Lifecycle,
    token: str,
    kinds: Sequence[str],
    compose_hash: str | None,
    *,
    app_record_id: int | None = None,
) -> CommitToken:
    """The change that the token was made for; it is not used yet (rules R1, R3, R5). Raises ERR-01-006."""
    async with life.database.read() as session:
        row = (
            await session.execute(
                select(CommitToken).where(CommitToken.token_hash == sha256(token.encode()).hex())
            )
        ).scalar_one_or_none()
    if row is None or row.kind not in kinds or app_record_id not in {None, row.app_record_id}:
        raise invalid("The commit token is unknown")
    if row.used_at is not None:
        raise invalid("The commit token was used")
    if row.superseded_at is not None:
        raise invalid("A newer change was prepared since; its token counts")
    if row.expires_at <= life.now():
        raise invalid("The commit token's 14 days are over")
    if compose_hash and parse_hex(compose_hash, 32) != row.compose_hash:
        raise invalid("The compose hash is not the one that the token was made for")
    return row


async def newest_update(session: AsyncSession, cvm_id: int, compose_hash: str, now: datetime) -> CommitToken:
    """The change that waits for this CVM, named by its compose hash instead of its token. Raises ERR-01-006."""
    question = (
        select(CommitToken)
        .where(
            CommitToken.cvm_id == cvm_id,
            CommitToken.kind == UPDATE,
            CommitToken.used_at.is_(None),
            CommitToken.superseded_at.is_(None),
            CommitToken.expires_at > now,
        )
        .order_by(CommitToken.id.desc())
        .limit(1)
    )
    row = (await session.execute(question)).scalar_one_or_none()
    if row is None or row.compose_hash != parse_hex(compose_hash, 32):
        raise invalid("No change with this compose hash waits to be committed")
    return row


async def use_token(session: AsyncSession, row: CommitToken, now: datetime) -> None:
    """Use it up, in the transaction of the change. Raises ERR-01-006 when somebody else was faster."""
    used = await session.execute(
        update(CommitToken)
        .where(
            CommitToken.id == row.id,
            CommitToken.used_at.is_(None),
            CommitToken.superseded_at.is_(None),
        )
        .values(used_at=now)
        .execution_options(synchronize_session=False)
    )
    if not cast("CursorResult[Any]", used).rowcount:
        raise invalid("The commit token was used, or superseded")


async def check_registered(
    life: Lifecycle, app: GatedApp, compose_hash: str, device_id: str | None, transaction_hash: str | None
) -> None:
    """Rule R4. Raises `CloudError` ERR-01-007, ERR-01-008."""
    if transaction_hash and transaction_hash != ALREADY:
        if parse_hex(transaction_hash, 32) is None:
            raise CloudError(ErrorCode.TX_VERIFICATION_FAILED, "The transaction hash has 64 hex digits")
        await life.gate.check_transaction(app, compose_hash, transaction_hash)
    status = await life.gate.status(app, compose_hash, device_id)
    if status is not None and not status.is_allowed:
        raise not_allowed(status, compose_hash, device_id)


def not_allowed(status: OnchainStatus, compose_hash: str, device_id: str | None) -> CloudError:
    """ERR-01-008, which names what is missing."""
    lacking = []
    if not status.compose_hash_allowed:
        lacking.append(Detail("compose_hash", compose_hash, "not allowed by the app's contract"))
    if not status.device_id_allowed:
        lacking.append(
            Detail("device_id", f"0x{device_id}" if device_id else "", "not allowed by the app's contract")
        )
    named = " and ".join(str(detail.field).replace("_", " ") for detail in lacking)
    return CloudError(
        ErrorCode.HASH_NOT_ALLOWED,
        f"The app's contract does not allow this {named}",
        details=lacking,
        suggestions=["Call addComposeHash, or addDevice, as the contract's owner, then try again"],
    )


def registration_required(
    life: Lifecycle,
    app: App,
    prepared: Prepared,
    status: OnchainStatus,
    *,
    device_id: str | None,
    commit_path: str,
) -> CloudError:
    """465 with all that a client needs to go on (cloud-api.md 13.4). `commit_path` is the API's, without prefix."""
    onchain = {
        "compose_hash_allowed": status.compose_hash_allowed,
        "device_id_allowed": status.device_id_allowed,
        "is_allowed": status.is_allowed,
    }
    details = [
        Detail("compose_hash", prepared.compose_hash),
        Detail("app_id", app.app_id),
        Detail("device_id", f"0x{device_id or '00' * 32}"),
        Detail("kms_info", present_kms(app.kms)),
        Detail("commit_token", prepared.token),
        Detail("commit_url", f"{life.public_url}/commit/{prepared.token}"),
        Detail("api_commit_url", f"{life.public_url}/api/v1{commit_path}"),
        Detail("onchain_status", onchain),
    ]
    return CloudError(
        ErrorCode.HASH_REGISTRATION_REQUIRED,
        "Compose hash registration required on-chain",
        details=details,
        suggestions=["Register the compose hash with addComposeHash, then commit"],
    )


def invalid(message: str) -> CloudError:
    """ERR-01-006."""
    return CloudError(
        ErrorCode.HASH_INVALID_OR_EXPIRED,
        message,
        suggestions=["Prepare the change again from the beginning"],
    )
