"""Reading CVMs: pages, one of them, what it was given, how many stand.

Rules:

1. Every query names the workspace.
2. `node_id`, `teepod_id` and `user_id` narrow the list up to V2, `family` and `instance_types` from V3 on
   (cloud-api.md 2.1); the others of a version's neighbours mean nothing there.
3. The status of many CVMs costs two statements, however many they are. Unknown UUIDs are left out.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from teehouse.cloud.cvms.loading import columns_of, load_compose_text, load_cvms, records
from teehouse.cloud.cvms.lookup import find_cvm, live_cvms
from teehouse.cloud.cvms.models import Cvm, CvmEvent, Operation
from teehouse.cloud.cvms.records import CvmRecord, CvmRow, ImageRecord, OperationRecord
from teehouse.cloud.inventory.models import InstanceType, OsImage
from teehouse.cloud.nodes.models import NodeImage
from teehouse.cloud.revisions.models import Revision

EVENTS_SHOWN: Final = 10


@dataclass(frozen=True, slots=True)
class CvmFilters:
    """What GET /cvms/paginated is narrowed by (rule 2); None or empty means any."""

    node_id: int | None = None
    user_id: int | None = None
    family: str | None = None
    instance_types: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EventRecord:
    """Something that happened to a CVM."""

    cvm_id: int
    event: str
    body: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class CvmStanding:
    """How a CVM stands: its row, what is under way, what happened last, oldest first."""

    row: CvmRow
    operation: OperationRecord | None
    events: tuple[EventRecord, ...]


_EVENT: Final = columns_of(EventRecord, CvmEvent)


async def list_cvms(
    session: AsyncSession, workspace_id: int, filters: CvmFilters, *, offset: int, limit: int
) -> tuple[list[CvmRecord], int]:
    """A page of the workspace's CVMs, newest first, and how many match in all."""
    wanted = and_(live_cvms(workspace_id), *_conditions(filters))
    total = (await session.scalar(select(func.count()).select_from(Cvm).where(wanted))) or 0
    if offset >= total:
        return [], total
    return await load_cvms(session, wanted, limit=limit, offset=offset), total


async def get_cvm(session: AsyncSession, workspace_id: int, text: str) -> CvmRecord:
    """The CVM that a path calls `text`. Raises `CloudError` 404, 409 (`lookup`)."""
    number = await find_cvm(session, workspace_id, text)
    (cvm,) = await load_cvms(session, and_(live_cvms(workspace_id), Cvm.id == number))
    return cvm


async def get_cvm_with_compose(session: AsyncSession, workspace_id: int, text: str) -> tuple[CvmRecord, str]:
    """The CVM, and its compose file's exact text. Raises `CloudError`."""
    cvm = await get_cvm(session, workspace_id, text)
    return cvm, await load_compose_text(session, cvm.row.compose_hash)


async def get_user_config(session: AsyncSession, workspace_id: int, text: str) -> dict[str, Any]:
    """The members of the CVM's user configuration; none of one that is no JSON object. Raises `CloudError`."""
    number = await find_cvm(session, workspace_id, text)
    latest = (
        select(Revision.user_config)
        .where(Revision.workspace_id == workspace_id, Revision.cvm_id == number)
        .order_by(Revision.id.desc())
        .limit(1)
    )
    try:
        value = json.loads((await session.scalar(latest)) or "{}")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


async def images_for(session: AsyncSession, cvm: CvmRecord) -> list[ImageRecord]:
    """The OS images that the CVM's node can boot for it, newest row first."""
    statement = (
        select(*columns_of(ImageRecord, OsImage))
        .join(NodeImage, NodeImage.os_image_id == OsImage.id)
        .where(NodeImage.node_id == cvm.row.node_id, OsImage.requires_gpu == (cvm.row.gpus > 0))
        .order_by(OsImage.id.desc())
    )
    return await records(session, ImageRecord, statement)


async def standings(
    session: AsyncSession, workspace_id: int, vm_uuids: Sequence[str], *, events: bool
) -> dict[str, CvmStanding]:
    """How the CVMs with these UUIDs (32 hex digits) stand, by UUID (rule 3)."""
    running = and_(Operation.cvm_id == Cvm.id, Operation.finished_at.is_(None))
    rows, operations = columns_of(CvmRow, Cvm), columns_of(OperationRecord, Operation)
    statement = (
        select(*rows, *operations)
        .outerjoin(Operation, running)
        .where(live_cvms(workspace_id), Cvm.vm_uuid.in_(vm_uuids))
    )
    found: list[tuple[CvmRow, OperationRecord | None]] = []
    for values in (await session.execute(statement)).all():
        rest = values[len(rows) :]
        found.append((CvmRow(*values[: len(rows)]), None if rest[0] is None else OperationRecord(*rest)))
    happened = await _events(session, [row.id for row, _ in found]) if events and found else {}
    return {row.vm_uuid: CvmStanding(row, op, happened.get(row.id, ())) for row, op in found}


def _conditions(filters: CvmFilters) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if filters.node_id is not None:
        conditions.append(Cvm.node_id == filters.node_id)
    if filters.user_id is not None:
        conditions.append(Cvm.creator_id == filters.user_id)
    if filters.family is not None:
        family = select(InstanceType.id).where(InstanceType.family == filters.family)
        conditions.append(Cvm.instance_type.in_(family))
    if filters.instance_types:
        conditions.append(Cvm.instance_type.in_(filters.instance_types))
    return conditions


async def _events(session: AsyncSession, cvms: Sequence[int]) -> dict[int, tuple[EventRecord, ...]]:
    place = func.row_number().over(partition_by=CvmEvent.cvm_id, order_by=CvmEvent.id.desc()).label("place")
    ranked = select(*_EVENT, place, CvmEvent.id).where(CvmEvent.cvm_id.in_(cvms)).subquery()
    columns = [ranked.c[column.key] for column in _EVENT]
    statement = select(*columns).where(ranked.c.place <= EVENTS_SHOWN).order_by(ranked.c.id)
    found: dict[int, tuple[EventRecord, ...]] = {}
    for event in await records(session, EventRecord, statement):
        found[event.cvm_id] = (*found.get(event.cvm_id, ()), event)
    return found
