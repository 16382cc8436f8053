"""Reading apps: lists with filters, and one app.

Rules:

1. Every query names the workspace; an app of another one is not found.
2. A page costs as many statements as its kinds of rows, not as its rows. An app comes with all its live CVMs,
   newest first; its current one is the newest that runs, else the newest.
3. What a filter means says `teehouse.cloud.apps.filters`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, and_, select
from sqlalchemy.ext.asyncio import AsyncSession

from teehouse.cloud.apps.filters import AppFilters, filter_options, matching_apps
from teehouse.cloud.apps.models import App
from teehouse.cloud.cvms.loading import columns_of, load_cvms, load_workspace, records
from teehouse.cloud.cvms.models import Cvm, CvmStatus
from teehouse.cloud.cvms.records import AppRecord, CvmRecord, WorkspaceRecord
from teehouse.cloud.errors import not_found
from teehouse.cloud.ids import parse_app_id

_APP: Final = columns_of(AppRecord, App)

__all__ = [
    "AppFilters",
    "AppWithCvms",
    "app_with_cvms",
    "filter_options",
    "find_app",
    "find_public_app",
    "list_apps",
]


@dataclass(frozen=True, slots=True)
class AppWithCvms:
    """An app with its live CVMs, newest first (rule 2)."""

    record: AppRecord
    cvms: tuple[CvmRecord, ...]
    workspace: WorkspaceRecord

    @property
    def current(self) -> CvmRecord | None:
        """The CVM that stands for the app (rule 2)."""
        running = (cvm for cvm in self.cvms if cvm.row.status == CvmStatus.RUNNING)
        return next(running, self.cvms[0] if self.cvms else None)


async def list_apps(
    session: AsyncSession, workspace_id: int, filters: AppFilters, *, offset: int, limit: int
) -> tuple[list[AppWithCvms], int]:
    """A page of the workspace's apps, newest first, and how many match in all."""
    matching = matching_apps(session.get_bind().dialect.name, workspace_id, filters)
    if not offset:  # most lists are not read beyond their first page, which needs no total beforehand
        wanted = App.id.in_(matching.first(limit))
        counted = select(*_APP, matching.count().scalar_subquery()).where(wanted).order_by(App.id.desc())
        found = (await session.execute(counted)).all()
        apps = [AppRecord(*values[:-1]) for values in found]
        return await _with_cvms(session, workspace_id, apps), found[0][-1] if found else 0
    total = (await session.scalar(matching.count())) or 0
    if offset >= total:
        return [], total
    wanted = App.id.in_(matching.page(total, offset, limit))
    apps = await records(session, AppRecord, select(*_APP).where(wanted).order_by(App.id.desc()))
    return await _with_cvms(session, workspace_id, apps), total


async def find_app(session: AsyncSession, workspace_id: int, text: str) -> AppRecord:
    """The app that a path calls `text`. Raises `CloudError` 404 (rule 1)."""
    app = await _one_app(session, text, App.workspace_id == workspace_id)
    if app is None:
        raise not_found("app")
    return app


async def find_public_app(session: AsyncSession, text: str) -> AppRecord:
    """The app with this id in any workspace, for what needs no key. Raises `CloudError` 404."""
    app = await _one_app(session, text)
    if app is None:
        raise not_found("app")
    return app


async def app_with_cvms(session: AsyncSession, workspace_id: int, text: str) -> AppWithCvms:
    """The app with its CVMs. Raises `CloudError` 404."""
    app = await find_app(session, workspace_id, text)
    return (await _with_cvms(session, workspace_id, [app]))[0]


async def _one_app(session: AsyncSession, text: str, *conditions: ColumnElement[bool]) -> AppRecord | None:
    app_id = parse_app_id(text)
    if app_id is None:
        return None
    statement = select(*_APP).where(App.app_id == app_id, App.deleted_at.is_(None), *conditions)
    found = await records(session, AppRecord, statement)
    return found[0] if found else None


async def _with_cvms(
    session: AsyncSession, workspace_id: int, apps: Sequence[AppRecord]
) -> list[AppWithCvms]:
    by_number = {app.id: app for app in apps}
    if not by_number:
        return []
    # As a sum, so that SQLite does not walk along all CVMs of the workspace because their index has them in order.
    of_workspace = Cvm.workspace_id + 0 == workspace_id
    wanted = and_(of_workspace, Cvm.deleted_at.is_(None), Cvm.app_record_id.in_(by_number))
    cvms: dict[int, list[CvmRecord]] = {number: [] for number in by_number}
    found = await load_cvms(session, wanted, apps=by_number)
    for cvm in found:
        cvms[cvm.row.app_record_id].append(cvm)
    workspace = found[0].workspace if found else await load_workspace(session, workspace_id)
    return [AppWithCvms(app, tuple(cvms[app.id]), workspace) for app in apps]
