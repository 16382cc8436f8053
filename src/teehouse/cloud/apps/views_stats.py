"""The feeds that a trust center reads (cloud-api.md 10.3). No published client calls them."""

from typing import Annotated, Any

from fastapi import APIRouter
from starlette.responses import Response

from teehouse.cloud.apps.stats import app_stats, entity_profiles
from teehouse.cloud.http.answers import JsonAnswer
from teehouse.cloud.http.dependencies import PageRequest, Reading, Signed, paging
from teehouse.wire.cloud.paging import pages
from teehouse.wire.cloud.stats import AppStats, EntityProfile, StatsPage

router = APIRouter(prefix="/stats", tags=["feeds"])
Page = Annotated[PageRequest, paging(default=1000, most=1000)]


@router.get("/dstack_app", responses={200: {"model": StatsPage[AppStats]}})
async def get_app_stats(session: Reading, caller: Signed, page: Page) -> Response:
    """The workspace's apps, newest first, with what a trust center shows of them."""
    found = await app_stats(session, caller.workspace_id, offset=page.offset, limit=page.page_size)
    return _answer(*found, page)


@router.get("/entity_profile", responses={200: {"model": StatsPage[EntityProfile]}})
async def get_entity_profiles(session: Reading, caller: Signed, page: Page) -> Response:
    """How the workspace, its members and its apps want to be shown."""
    found = await entity_profiles(session, caller.workspace_id, offset=page.offset, limit=page.page_size)
    return _answer(*found, page)


def _answer(data: list[dict[str, Any]], total: int, page: PageRequest) -> Response:
    return JsonAnswer(
        {
            "data": data,
            "total": total,
            "page": page.page,
            "page_size": page.page_size,
            "pages": pages(total, page.page_size),
        }
    )
