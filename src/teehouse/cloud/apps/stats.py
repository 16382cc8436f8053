"""The feeds of a trust center: the workspace's apps, and how those in it want to be shown (cloud-api.md 10.3).

Rules:

1. As all that is read with a key, they are bound to its workspace: an app or a member of another one is in neither.
2. An app is told with its current CVM (`services`, rule 2); one whose CVMs are all gone is not told.
3. Profiles come in this order: the workspace, its members, its apps that have one; each newest first.
4. A page costs the same number of statements however long it is.
"""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, Text, cast, func, literal, null, or_, select, union_all
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from teehouse.cloud.accounts.models import Membership, User, Workspace
from teehouse.cloud.apps.filters import AppFilters
from teehouse.cloud.apps.models import App
from teehouse.cloud.apps.services import list_apps
from teehouse.cloud.cvms.loading import load_compose_texts, parse_compose
from teehouse.cloud.cvms.records import AppRecord, CvmRecord
from teehouse.cloud.db.base import UtcDateTime
from teehouse.wire.cloud.base import time_text

Json = dict[str, Any]
_Column = ColumnElement[Any] | InstrumentedAttribute[Any]
_SHOWN: Final = ("display_name", "avatar_url", "description", "custom_domain")
_COLUMNS: Final = ("kind", "order", "number", *_SHOWN, "created_at", "updated_at")


async def app_stats(
    session: AsyncSession, workspace_id: int, *, offset: int, limit: int
) -> tuple[list[Json], int]:
    """A page of `AppStats`, newest first, and how many apps there are (rules 1, 2, 4)."""
    apps, total = await list_apps(session, workspace_id, AppFilters(), offset=offset, limit=limit)
    told = [(app.record, app.current) for app in apps if app.current is not None]
    texts = await load_compose_texts(session, {cvm.row.compose_hash for _, cvm in told})
    creators = {app.creator_id for app, _ in told}
    users = {
        values[0]: values[1:]
        for values in await session.execute(
            select(User.id, User.username, User.email).where(User.id.in_(creators))
        )
    }
    return [
        _app(app, cvm, texts[cvm.row.compose_hash], users.get(app.creator_id, (None, None)))
        for app, cvm in told
    ], total


def _app(app: AppRecord, cvm: CvmRecord, text: str, creator: Sequence[str | None]) -> Json:
    compose = parse_compose(text).get("docker_compose_file")
    domain = None if cvm.node is None else cvm.node.gateway_domain
    return {
        "dstack_app_id": app.app_id,
        "app_id": app.id,
        "app_name": app.name,
        "workspace_id": app.workspace_id,
        "creator_id": app.creator_id,
        "chain_id": cvm.kms.chain_id if cvm.kms.on_chain else None,
        "kms_contract_address": cvm.kms.contract_address if cvm.kms.on_chain else None,
        "contract_address": app.contract_address,
        "base_image": cvm.row.base_image,
        "tproxy_base_domain": domain,
        "gateway_domain_suffix": domain,
        "listed": app.listed,
        "username": creator[0],
        "email": creator[1],
        "app_created_at": time_text(app.created_at),
        "vm_created_at": time_text(cvm.row.created_at),
        "docker_compose_file": compose if isinstance(compose, str) else None,
    }


async def entity_profiles(
    session: AsyncSession, workspace_id: int, *, offset: int, limit: int
) -> tuple[list[Json], int]:
    """A page of `EntityProfile`s, and how many there are (rules 1, 3, 4)."""
    no_text, never = cast(null(), Text), cast(null(), UtcDateTime)
    workspace = _told(
        "workspace", 0, Workspace, (Workspace.name, Workspace.avatar_url, no_text, no_text), never
    )
    members = _told("user", 1, User, (User.username, User.avatar_url, no_text, no_text), never)
    shown = (App.display_name, App.avatar_url, App.description, App.custom_domain)
    apps = _told("app", 2, App, shown, App.updated_at)
    every = union_all(
        workspace.where(Workspace.id == workspace_id),
        members.join(Membership, Membership.user_id == User.id).where(
            Membership.workspace_id == workspace_id
        ),
        apps.where(
            App.workspace_id == workspace_id,
            App.deleted_at.is_(None),
            or_(*(one.is_not(None) for one in shown)),
        ),
    ).subquery()
    total = (await session.scalar(select(func.count()).select_from(every))) or 0
    page = select(every).order_by(every.c.order, every.c.number.desc()).offset(offset).limit(limit)
    return [_profile(*values) for values in (await session.execute(page)).all()], total


def _told(kind: str, order: int, model: Any, shown: Sequence[_Column], updated_at: _Column) -> Select[Any]:
    """Profiles of one kind, with the columns that `_profile` takes."""
    columns = (literal(kind), literal(order), model.id, *shown, model.created_at, updated_at)
    return select(*(column.label(name) for name, column in zip(_COLUMNS, columns, strict=True)))


def _profile(kind: str, _order: int, number: int, *shown: Any) -> Json:
    *texts, created_at, updated_at = shown
    return {
        "entity_type": kind,
        "entity_id": number,
        **dict(zip(_SHOWN, texts, strict=True)),
        "created_at": time_text(created_at),
        "updated_at": None if updated_at is None else time_text(updated_at),
    }
