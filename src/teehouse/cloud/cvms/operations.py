"""Operations and revisions: how a change of a CVM is written down, in the transaction that makes it.

Rules:

O1. A CVM has one unfinished operation. Another one is refused as busy (409 without code, transient), but for a
    deletion, which supersedes what is under way.
O2. An operation fixes its plan, and what the CVM is wanted to be from now on.
O3. Its correlation id is in the answer, in the CVM's state, in the revision, on the node and in the log. It is
    the id of its workflow too.
"""

import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import undefer

from teehouse.cloud.accounts.caller import Caller
from teehouse.cloud.cvms.compose import Compose
from teehouse.cloud.cvms.lookup import find_cvm
from teehouse.cloud.cvms.models import Cvm, Desired, Operation
from teehouse.cloud.errors import CloudError, ErrorCode, busy
from teehouse.cloud.revisions.models import ComposeFile, OperationType, Revision
from teehouse.cloud.tracing import note_operation
from teehouse.cloud.workflows.journal import SUPERSEDED
from teehouse.cloud.workflows.plan import STATUS, plan, target

_DESIRED: Final = {
    OperationType.START: Desired.RUNNING,
    OperationType.RESTART: Desired.RUNNING,
    OperationType.CREATE: Desired.RUNNING,
    OperationType.REPLICATE: Desired.RUNNING,
    OperationType.STOP: Desired.STOPPED,
    OperationType.SHUTDOWN: Desired.STOPPED,
    OperationType.DELETE: Desired.DELETED,
}


@dataclass(frozen=True, slots=True)
class Author:
    """Who changes something, in which workspace and trace."""

    user_id: int | None
    workspace_id: int
    trace_id: str | None = None

    @classmethod
    def of(cls, caller: Caller) -> "Author":
        """The caller as an author."""
        return cls(caller.user_id, caller.workspace_id, caller.trace_id or None)


def new_correlation_id() -> str:
    """128 random bits, as nodes and headers may carry them."""
    return secrets.token_hex(16)


async def hold_cvm(session: AsyncSession, workspace_id: int, text: str) -> Cvm:
    """The CVM that a path calls `text`, which nobody else changes in this transaction. Raises `CloudError`."""
    return await hold_cvm_number(session, workspace_id, await find_cvm(session, workspace_id, text))


async def hold_cvm_number(session: AsyncSession, workspace_id: int, cvm_id: int) -> Cvm:
    """The same for a number."""
    question = (
        select(Cvm)
        .where(Cvm.id == cvm_id, Cvm.workspace_id == workspace_id, Cvm.deleted_at.is_(None))
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    cvm = (await session.execute(question)).scalar_one_or_none()
    if cvm is None:
        raise CloudError(ErrorCode.CVM_NOT_FOUND, "CVM not found")
    return cvm


async def under_way(session: AsyncSession, cvm_id: int) -> Operation | None:
    """The unfinished operation of a CVM."""
    question = select(Operation).where(Operation.cvm_id == cvm_id, Operation.finished_at.is_(None))
    return (await session.execute(question)).scalar_one_or_none()


async def check_idle(session: AsyncSession, cvm: Cvm) -> None:
    """Raises `CloudError` 409 while an operation is under way (rule O1)."""
    other = await under_way(session, cvm.id)
    if other is not None:
        raise busy(f"The CVM is busy: {other.operation_type} is in progress; try again")


async def begin(
    session: AsyncSession,
    cvm: Cvm,
    kind: OperationType,
    author: Author,
    *,
    now: datetime,
    force: bool = False,
    request: dict[str, Any] | None = None,
) -> Operation:
    """Write the operation (rules O1 to O3); it is carried on once the transaction is committed."""
    if kind is OperationType.DELETE:
        other = await under_way(session, cvm.id)
        if other is not None:
            if other.operation_type == OperationType.DELETE:
                raise busy("The CVM is being deleted")
            other.outcome, other.finished_at = SUPERSEDED, now
            await session.flush()
    else:
        await check_idle(session, cvm)
    desired = _DESIRED.get(kind, Desired(cvm.desired))
    steps = plan(kind, desired, force=force)
    correlation_id = new_correlation_id()
    operation = Operation(
        workspace_id=cvm.workspace_id,
        cvm_id=cvm.id,
        user_id=author.user_id,
        operation_type=kind,
        target=target(kind, desired),
        correlation_id=correlation_id,
        workflow_id=correlation_id,
        trace_id=author.trace_id,
        request={"plan": [step.value for step in steps], **(request or {})},
        started_at=now,
    )
    session.add(operation)
    cvm.desired = desired
    cvm.generation += 1
    cvm.status = STATUS[steps[0]]
    cvm.correlation_id = correlation_id
    cvm.updated_at = now
    if kind is not OperationType.DELETE:
        cvm.boot_error = None
    try:
        await session.flush()
    except IntegrityError as error:
        raise busy("The CVM is busy: another operation has just begun; try again") from error
    note_operation(correlation_id)
    return operation


async def store_compose(session: AsyncSession, compose: Compose, now: datetime) -> None:
    """Keep the bytes of an app-compose file, once (`revisions.models`, rule 1)."""
    if await session.get(ComposeFile, compose.compose_hash) is not None:
        return
    try:
        async with session.begin_nested():
            session.add(
                ComposeFile(
                    compose_hash=compose.compose_hash,
                    body=compose.body,
                    services=[dict(service) for service in compose.services],
                    docker_compose_hash=compose.docker_compose_hash,
                    pre_launch_script_hash=compose.pre_launch_script_hash,
                    created_at=now,
                )
            )
    except IntegrityError:
        # Somebody else stored the same bytes at this moment.
        return


async def compose_body(session: AsyncSession, compose_hash: str) -> bytes:
    """The exact bytes of a stored app-compose file."""
    question = select(ComposeFile).where(ComposeFile.compose_hash == compose_hash)
    return (await session.execute(question.options(undefer(ComposeFile.body)))).scalar_one().body


async def add_revision(
    session: AsyncSession,
    cvm: Cvm,
    kind: OperationType,
    author: Author,
    *,
    now: datetime,
    changed: list[str],
    encrypted_env: bytes,
    user_config: str,
    correlation_id: str,
) -> Revision:
    """Tell the change, with what the CVM has from now on (`revisions.models`, rule 3)."""
    revision = Revision(
        workspace_id=cvm.workspace_id,
        app_record_id=cvm.app_record_id,
        cvm_id=cvm.id,
        user_id=author.user_id,
        operation_type=kind,
        compose_hash=cvm.compose_hash,
        encrypted_env=encrypted_env,
        user_config=user_config,
        changed=changed,
        trace_id=author.trace_id,
        correlation_id=correlation_id,
        created_at=now,
    )
    session.add(revision)
    await session.flush()
    return revision
