"""Routes of revisions (cloud-api.md 10.1)."""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from teehouse.cloud.http.answers import JsonAnswer
from teehouse.cloud.http.dependencies import PageRequest, Reading, Signed, paging
from teehouse.cloud.revisions.presenters import present_revision_detail, present_revision_page
from teehouse.cloud.revisions.services import find_revision, list_revisions
from teehouse.wire.cloud.revisions import RevisionDetail, RevisionPage

router = APIRouter(tags=["revisions"])


@router.get("/apps/{app_id}/revisions", responses={200: {"model": RevisionPage}})
async def get_app_revisions(
    app_id: str,
    session: Reading,
    caller: Signed,
    page: Annotated[PageRequest, paging(default=20, most=1000)],
) -> Response:
    """The changes of an app's CVMs, newest first."""
    found, total = await list_revisions(
        session, caller.workspace_id, app_id, offset=page.offset, limit=page.page_size
    )
    return JsonAnswer(present_revision_page(found, total, page.page, page.page_size))


@router.get("/apps/{app_id}/revisions/{revision_id}", responses={200: {"model": RevisionDetail}})
async def get_app_revision_detail(
    app_id: str,
    revision_id: str,
    session: Reading,
    caller: Signed,
    raw_compose_file: Annotated[bool, Query(description="The exact text, not the parsed object")] = False,
) -> Response:
    """One change, with what it deployed."""
    revision = await find_revision(session, caller.workspace_id, app_id, revision_id)
    return JsonAnswer(present_revision_detail(revision, raw=raw_compose_file))
