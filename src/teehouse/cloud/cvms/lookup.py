"""Which CVM a path means (cloud-api.md 8; the order is that of `teehouse.cloud.ids`, I3).

Rules:

1. Only live CVMs of the caller's workspace are found; any other is no CVM at all.
2. An app id means its CVM where it has one; several are refused (ERR-03-010), and none leaves the digits to be
   tried as an instance id.
"""

from typing import Final

from sqlalchemy import ColumnElement, and_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from teehouse.cloud.apps.models import App
from teehouse.cloud.cvms.models import Cvm
from teehouse.cloud.errors import CloudError, Detail, ErrorCode
from teehouse.cloud.ids import CvmKey, CvmLookup, cvm_lookups, parse_app_id

_COLUMNS: Final[dict[CvmKey, InstrumentedAttribute[str] | InstrumentedAttribute[int]]] = {
    CvmKey.UUID: Cvm.vm_uuid,
    CvmKey.NUMBER: Cvm.id,
    CvmKey.NAME: Cvm.name,
}


def live_cvms(workspace_id: int) -> ColumnElement[bool]:
    """The condition that a CVM is of the workspace and not deleted."""
    return and_(Cvm.workspace_id == workspace_id, Cvm.deleted_at.is_(None))


async def find_cvm(session: AsyncSession, workspace_id: int, text: str) -> int:
    """The number of the CVM that a path calls `text`.

    Raises `CloudError`: CVM_NOT_FOUND (404) or APP_HAS_SEVERAL_CVMS (409).
    """
    for lookup in cvm_lookups(text):
        statement = select(Cvm.id).where(live_cvms(workspace_id), _matches(workspace_id, lookup))
        found = (await session.scalars(statement.order_by(Cvm.id.desc()).limit(2))).all()
        if len(found) > 1 and lookup.by is CvmKey.APP:
            raise CloudError(
                ErrorCode.APP_HAS_SEVERAL_CVMS,
                "The app has several CVMs; name one of them",
                details=[Detail("app_id", lookup.value)],
                suggestions=[f"List them with GET /apps/{lookup.value}/cvms"],
            )
        if found:
            return found[0]
    raise CloudError(ErrorCode.CVM_NOT_FOUND, "CVM not found")


async def find_cvm_of_app(session: AsyncSession, workspace_id: int, app: str, text: str) -> int:
    """The number of the app's CVM that a path calls `text`. Raises `CloudError` as `find_cvm` does."""
    number = await find_cvm(session, workspace_id, text)
    app_id = parse_app_id(app)
    of_app = (
        select(Cvm.id).join(App, App.id == Cvm.app_record_id).where(Cvm.id == number, App.app_id == app_id)
    )
    if app_id is None or await session.scalar(of_app) is None:
        raise CloudError(ErrorCode.CVM_NOT_FOUND, "CVM not found")
    return number


def _matches(workspace_id: int, lookup: CvmLookup) -> ColumnElement[bool]:
    if lookup.by is CvmKey.APP:
        app = select(App.id).where(App.app_id == lookup.value, App.workspace_id == workspace_id)
        return Cvm.app_record_id.in_(app)
    if lookup.by is CvmKey.INSTANCE:
        return Cvm.instance_id == lookup.value
    return _COLUMNS[lookup.by] == lookup.value
