"""Reading apps: lists with filters, one app, and the values to filter by.

Rules:

1. Every query names the workspace; an app of another one is not found.
2. An app matches a filter on CVMs when one of its live CVMs meets all of these filters together: `status`,
   `base_image`, `instance_type`, `node`, `region`. `listed`, `kms_slug` and `kms_type` are the app's own.
3. `search` is a part of the app's name, or the beginning of an app id, VM UUID or instance id, of at least
   `PREFIX` hex digits; prefixes and dashes that these are written with do not count.
4. A page costs as many statements as its kinds of rows, not as its rows. An app comes with all its live CVMs,
   newest first; its current one is the newest that runs, else the newest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, and_, func, literal, or_, select, union, union_all
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from teehouse.cloud.apps.models import App
from teehouse.cloud.cvms.lookup import live_cvms
from teehouse.cloud.cvms.models import Cvm, CvmStatus
from teehouse.cloud.cvms.records import (
    AppRecord,
    CvmRecord,
    WorkspaceRecord,
    columns_of,
    load_cvms,
    load_workspace,
    records,
)
from teehouse.cloud.db.search import name_contains
from teehouse.cloud.errors import not_found
from teehouse.cloud.ids import parse_app_id
from teehouse.cloud.inventory.models import KmsNode
from teehouse.cloud.nodes.models import Node

PREFIX: Final = 4  # hex digits; fewer say too little to be looked up
_HEX: Final = frozenset("0123456789abcdef")
_APP: Final = columns_of(AppRecord, App)


@dataclass(frozen=True, slots=True)
class AppFilters:
    """What GET /apps is narrowed by; None or empty means any."""

    search: str | None = None
    status: tuple[str, ...] = ()
    listed: bool | None = None
    base_image: str | None = None
    instance_type: str | None = None
    kms_slug: str | None = None
    kms_type: str | None = None
    node: str | None = None
    region: str | None = None


@dataclass(frozen=True, slots=True)
class AppWithCvms:
    """An app with its live CVMs, newest first (rule 4)."""

    record: AppRecord
    cvms: tuple[CvmRecord, ...]
    workspace: WorkspaceRecord

    @property
    def current(self) -> CvmRecord | None:
        """The CVM that stands for the app (rule 4)."""
        running = (cvm for cvm in self.cvms if cvm.row.status == CvmStatus.RUNNING)
        return next(running, self.cvms[0] if self.cvms else None)


async def list_apps(
    session: AsyncSession, workspace_id: int, filters: AppFilters, *, offset: int, limit: int
) -> tuple[list[AppWithCvms], int]:
    """A page of the workspace's apps, newest first, and how many match in all."""
    wanted = and_(_live_apps(workspace_id), *_conditions(session, workspace_id, filters))
    total = (await session.scalar(select(func.count()).select_from(App).where(wanted))) or 0
    if offset >= total:
        return [], total
    statement = select(*_APP).where(wanted).order_by(App.id.desc()).limit(limit).offset(offset)
    apps = await records(session, AppRecord, statement)
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


async def filter_options(session: AsyncSession, workspace_id: int) -> dict[str, list[str]]:
    """The values that the workspace's live apps and CVMs have, each list in order; one statement."""
    cvms, apps = live_cvms(workspace_id), _live_apps(workspace_id)
    nodes = select(Cvm.node_id).where(cvms, Cvm.node_id.is_not(None))
    kms = select(App.kms_id).where(apps)
    sources: dict[str, Select[str, Any]] = {
        "statuses": select(literal("statuses"), Cvm.status).where(cvms),
        "image_versions": select(literal("image_versions"), Cvm.base_image).where(cvms),
        "instance_types": select(literal("instance_types"), Cvm.instance_type).where(
            cvms, Cvm.instance_type.is_not(None)
        ),
        "kms_slugs": select(literal("kms_slugs"), KmsNode.slug).where(KmsNode.id.in_(kms)),
        "kms_types": select(literal("kms_types"), App.kms_type).where(apps),
        "regions": select(literal("regions"), Node.region).where(Node.id.in_(nodes)),
        "nodes": select(literal("nodes"), Node.name).where(Node.id.in_(nodes)),
    }
    options: dict[str, list[str]] = {name: [] for name in sources}
    statement = union_all(*(source.distinct() for source in sources.values()))
    for name, value in (await session.execute(statement)).all():
        options[name].append(value)
    return {name: sorted(values) for name, values in options.items()}


def _live_apps(workspace_id: int) -> ColumnElement[bool]:
    return and_(App.workspace_id == workspace_id, App.deleted_at.is_(None))


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
    wanted = and_(live_cvms(workspace_id), Cvm.app_record_id.in_(by_number))
    cvms: dict[int, list[CvmRecord]] = {number: [] for number in by_number}
    workspace = await load_workspace(session, workspace_id)
    known = {workspace.id: workspace}
    for cvm in await load_cvms(session, wanted, apps=by_number, workspaces=known):
        cvms[cvm.row.app_record_id].append(cvm)
    return [AppWithCvms(app, tuple(cvms[app.id]), workspace) for app in apps]


def _conditions(session: AsyncSession, workspace_id: int, filters: AppFilters) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if filters.listed is not None:
        conditions.append(App.listed == filters.listed)
    if filters.kms_type is not None:
        conditions.append(App.kms_type == filters.kms_type.lower())
    if filters.kms_slug is not None:
        conditions.append(App.kms_id.in_(select(KmsNode.id).where(KmsNode.slug == filters.kms_slug)))
    if (cvms := _cvm_conditions(filters)) != []:
        conditions.append(App.id.in_(select(Cvm.app_record_id).where(live_cvms(workspace_id), *cvms)))
    if filters.search:
        conditions.append(_search(session.get_bind().dialect.name, workspace_id, filters.search))
    return conditions


def _cvm_conditions(filters: AppFilters) -> list[ColumnElement[bool]]:
    """Rule 2."""
    conditions: list[ColumnElement[bool]] = []
    if filters.status:
        conditions.append(Cvm.status.in_(filters.status))
    if filters.base_image is not None:
        conditions.append(Cvm.base_image == filters.base_image)
    if filters.instance_type is not None:
        conditions.append(Cvm.instance_type == filters.instance_type)
    if filters.node is not None:
        conditions.append(Cvm.node_id.in_(select(Node.id).where(Node.name == filters.node)))
    if filters.region is not None:
        conditions.append(Cvm.node_id.in_(select(Node.id).where(Node.region == filters.region)))
    return conditions


def _search(dialect: str, workspace_id: int, wanted: str) -> ColumnElement[bool]:
    """Rule 3. Each source is looked up in an index of its own."""
    sources = [
        select(App.id).where(App.workspace_id == workspace_id, name_contains(dialect, wanted)).correlate(None)
    ]
    prefix = _hex_prefix(wanted)
    if prefix is not None:
        apps = select(App.id).where(App.workspace_id == workspace_id, _begins(App.app_id, prefix))
        cvms = or_(_begins(Cvm.vm_uuid, prefix), _begins(Cvm.instance_id, prefix))
        sources += [
            apps.correlate(None),
            select(Cvm.app_record_id).where(live_cvms(workspace_id), cvms),
        ]
    return App.id.in_(union(*sources))


def _hex_prefix(wanted: str) -> str | None:
    text = wanted.strip().lower()
    for prefix in ("app_", "instance_", "0x"):
        text = text.removeprefix(prefix)
    digits = text.replace("-", "")
    return digits if PREFIX <= len(digits) <= 40 and _HEX.issuperset(digits) else None


def _begins(
    column: InstrumentedAttribute[str] | InstrumentedAttribute[str | None], prefix: str
) -> ColumnElement[bool]:
    """As a range, which an index of the column serves on both databases; `g` follows all hex digits."""
    return and_(column >= prefix, column < prefix + "g")
