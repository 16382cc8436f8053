"""Reading revisions. Rule: every query names the workspace and the app; no other revision is found."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, and_, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from teehouse.cloud.accounts.models import User
from teehouse.cloud.apps.services import find_app
from teehouse.cloud.cvms.loading import columns_of, load_workspace
from teehouse.cloud.cvms.models import Cvm
from teehouse.cloud.cvms.records import AppRecord, UserRecord, WorkspaceRecord
from teehouse.cloud.errors import not_found
from teehouse.cloud.ids import Kind, decode
from teehouse.cloud.revisions.models import ComposeFile, Revision


@dataclass(frozen=True, slots=True)
class CvmName:
    """A CVM, as references show one; `vm_uuid` is 32 hex digits."""

    id: int
    name: str
    vm_uuid: str


@dataclass(frozen=True, slots=True)
class RevisionRow:
    """A revision's own columns."""

    id: int
    operation_type: str
    compose_hash: str
    changed: list[str]
    trace_id: str | None
    correlation_id: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class RevisionRecord:
    """A revision with all it refers to."""

    row: RevisionRow
    app: AppRecord
    cvm: CvmName
    user: UserRecord | None
    workspace: WorkspaceRecord


@dataclass(frozen=True, slots=True)
class RevisionContent:
    """A revision with what it deployed; `compose_file` is the file, byte for byte."""

    record: RevisionRecord
    compose_file: bytes
    encrypted_env: bytes
    user_config: str


_ROW: Final = columns_of(RevisionRow, Revision)
_CVM: Final = columns_of(CvmName, Cvm)
_USER: Final = columns_of(UserRecord, User)
_COLUMNS: Final = (*_ROW, *_CVM, *_USER)


async def list_revisions(
    session: AsyncSession, workspace_id: int, app: str, *, offset: int, limit: int
) -> tuple[list[RevisionRecord], int]:
    """A page of the app's revisions, newest first, and how many there are. Raises `CloudError` 404."""
    record = await find_app(session, workspace_id, app)
    workspace = await load_workspace(session, workspace_id)
    wanted = _of_app(workspace_id, record)
    total = (await session.scalar(select(func.count()).select_from(Revision).where(wanted))) or 0
    statement = _select().where(wanted).order_by(Revision.id.desc()).limit(limit).offset(offset)
    found = (await session.execute(statement)).all()
    return [_record(values, record, workspace) for values in found], total


async def find_revision(session: AsyncSession, workspace_id: int, app: str, revision: str) -> RevisionContent:
    """The revision that a path calls `rev_...`. Raises `CloudError` 404."""
    record = await find_app(session, workspace_id, app)
    workspace = await load_workspace(session, workspace_id)
    number = decode(Kind.REVISION, revision)
    if number is None:
        raise not_found("revision")
    statement = (
        _select(ComposeFile.body, Revision.encrypted_env, Revision.user_config)
        .join(ComposeFile, ComposeFile.compose_hash == Revision.compose_hash)
        .where(_of_app(workspace_id, record), Revision.id == number)
    )
    values = (await session.execute(statement)).one_or_none()
    if values is None:
        raise not_found("revision")
    return RevisionContent(_record(values, record, workspace), *values[len(_COLUMNS) :])


def _select(*more: InstrumentedAttribute[Any]) -> Select[Any]:
    return (
        select(*_COLUMNS, *more)
        .select_from(Revision)
        .join(Cvm, Cvm.id == Revision.cvm_id)
        .outerjoin(User, User.id == Revision.user_id)
    )


def _of_app(workspace_id: int, app: AppRecord) -> ColumnElement[bool]:
    return and_(Revision.workspace_id == workspace_id, Revision.app_record_id == app.id)


def _record(values: Any, app: AppRecord, workspace: WorkspaceRecord) -> RevisionRecord:
    row, rest = values[: len(_ROW)], values[len(_ROW) :]
    cvm, user = rest[: len(_CVM)], rest[len(_CVM) : len(_CVM) + len(_USER)]
    return RevisionRecord(
        row=RevisionRow(*row),
        app=app,
        cvm=CvmName(*cvm),
        user=None if user[0] is None else UserRecord(*user),
        workspace=workspace,
    )
