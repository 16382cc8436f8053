"""Routes of apps (cloud-api.md 10.1)."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import StringConstraints
from starlette.responses import Response

from teehouse.cloud.apps.presenters import present_app, present_app_page
from teehouse.cloud.apps.services import AppFilters, app_with_cvms, filter_options, list_apps
from teehouse.cloud.cvms.presenters import present_cvm_of_app
from teehouse.cloud.cvms.request import Presented
from teehouse.cloud.http.answers import JsonAnswer
from teehouse.cloud.http.dependencies import PageRequest, Reading, Signed, paging
from teehouse.wire.cloud.apps import AppPageV1, AppPageV2, AppPageV3, AppV1, AppV2, AppV3, FilterOptions
from teehouse.wire.cloud.cvms import CvmV1, CvmV2, CvmV3

router = APIRouter(tags=["apps"])

Search = Annotated[
    str | None,
    Query(max_length=128, description="Part of the name, or beginning of app id, VM UUID or instance id"),
]
Status = Annotated[str, StringConstraints(max_length=64)]
Statuses = Annotated[list[Status] | None, Query(max_length=16, description="Any of these; repeat the key")]


def _named(what: str) -> Any:
    return Query(max_length=128, description=what)


async def _filters(  # noqa: PLR0917 - parameters of a query have no order
    search: Search = None,
    status: Statuses = None,
    listed: Annotated[bool | None, Query(description="Whether it is shown in public")] = None,
    base_image: Annotated[str | None, _named("Name of the OS image")] = None,
    instance_type: Annotated[str | None, _named("Id of the instance type")] = None,
    kms_slug: Annotated[str | None, _named("Slug of the KMS")] = None,
    kms_type: Annotated[str | None, _named("phala, ethereum, base or legacy")] = None,
    node: Annotated[str | None, _named("Name of the node")] = None,
    region: Annotated[str | None, _named("Region of the node")] = None,
) -> AppFilters:
    return AppFilters(
        search, tuple(status or ()), listed, base_image, instance_type, kms_slug, kms_type, node, region
    )


@router.get("/apps", responses={200: {"model": AppPageV1 | AppPageV2 | AppPageV3}})
async def get_app_list(
    session: Reading,
    caller: Signed,
    how: Presented,
    page: Annotated[PageRequest, paging(default=20, most=100)],
    filters: Annotated[AppFilters, Depends(_filters)],
) -> Response:
    """The workspace's apps with their CVMs, newest first."""
    apps, total = await list_apps(
        session, caller.workspace_id, filters, offset=page.offset, limit=page.page_size
    )
    return JsonAnswer(present_app_page(apps, total, page.page, page.page_size, how))


@router.get("/apps/filter-options", responses={200: {"model": FilterOptions}})
async def get_app_filter_options(session: Reading, caller: Signed) -> Response:
    """The values that the workspace's apps can be filtered by."""
    return JsonAnswer(await filter_options(session, caller.workspace_id))


@router.get("/apps/{app_id}", responses={200: {"model": AppV1 | AppV2 | AppV3}})
async def get_app_info(app_id: str, session: Reading, caller: Signed, how: Presented) -> Response:
    """One app with its CVMs."""
    return JsonAnswer(present_app(await app_with_cvms(session, caller.workspace_id, app_id), how))


@router.get("/apps/{app_id}/cvms", responses={200: {"model": list[CvmV1] | list[CvmV2] | list[CvmV3]}})
async def get_app_cvms(app_id: str, session: Reading, caller: Signed, how: Presented) -> Response:
    """The CVMs of an app, newest first."""
    app = await app_with_cvms(session, caller.workspace_id, app_id)
    return JsonAnswer([present_cvm_of_app(cvm, how) for cvm in app.cvms])
