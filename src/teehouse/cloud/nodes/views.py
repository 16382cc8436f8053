"""Routes of nodes and quotas (cloud-api.md 10.2, 12.2)."""

from typing import Annotated

from fastapi import APIRouter, Path, Query
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import Response

from teehouse.cloud.accounts.caller import Caller
from teehouse.cloud.accounts.models import Workspace
from teehouse.cloud.errors import not_found
from teehouse.cloud.http.answers import JsonAnswer
from teehouse.cloud.http.dependencies import PageRequest, Parts, Reading, Signed, paging
from teehouse.cloud.inventory.services import instance_types
from teehouse.cloud.inventory.views import page_a
from teehouse.cloud.nodes import presenters
from teehouse.cloud.nodes.reservations import quotas
from teehouse.cloud.nodes.showing import available_nodes, workspace_nodes
from teehouse.wire.cloud.inventory import AvailableNodes, CvmCreateResources, WorkspaceQuotas
from teehouse.wire.cloud.paging import PageA
from teehouse.wire.cloud.references import NodeRef

router = APIRouter(tags=["nodes"])

Slug = Annotated[str, Path(max_length=64)]


@router.get("/teepods/available", responses={200: {"model": AvailableNodes}})
async def get_available_nodes(
    session: Reading, caller: Signed, v03x_only: Annotated[str | None, Query(max_length=8)] = None
) -> Response:
    """The nodes that take CVMs of the workspace, the best first."""
    only_old = (v03x_only or "").lower() in {"1", "true"}
    return JsonAnswer(
        presenters.present_available(
            await session.get_one(Workspace, caller.workspace_id),
            await quotas(session, caller.workspace_id),
            await available_nodes(session, caller.workspace_id, image_prefix="0.3." if only_old else None),
        )
    )


@router.get("/teepods/cvm-create-resources", responses={200: {"model": CvmCreateResources}})
async def get_cvm_create_resources(session: Reading, caller: Signed) -> Response:
    """All that a form for a new CVM has to offer."""
    return JsonAnswer(
        presenters.present_create_resources(
            await session.get_one(Workspace, caller.workspace_id),
            await quotas(session, caller.workspace_id),
            await available_nodes(session, caller.workspace_id),
            await instance_types(session),
        )
    )


@router.get("/workspaces/{slug}/nodes", responses={200: {"model": PageA[NodeRef]}})
async def get_workspace_nodes(
    session: Reading, caller: Signed, slug: Slug, page: Annotated[PageRequest, paging(default=30, most=1000)]
) -> Response:
    """The nodes that the workspace may use, whatever their status."""
    workspace = await _own(session, caller, slug)
    records, total = await workspace_nodes(session, workspace.id, offset=page.offset, limit=page.page_size)
    return page_a([presenters.present_node_ref(record) for record in records], total, page)


@router.get("/workspaces/{slug}/quotas", responses={200: {"model": WorkspaceQuotas}})
async def get_workspace_quotas(session: Reading, caller: Signed, parts: Parts, slug: Slug) -> Response:
    """What the workspace may have at once, and what is left of it."""
    workspace = await _own(session, caller, slug)
    told = await quotas(session, workspace.id)
    return JsonAnswer(presenters.present_quotas(workspace, told, parts.clock.now()))


async def _own(session: AsyncSession, caller: Caller, slug: str) -> Workspace:
    """The caller's workspace, which is the only one that a key reaches. Raises `CloudError` 404 for another."""
    if slug != caller.workspace_slug:
        raise not_found("workspace")
    return await session.get_one(Workspace, caller.workspace_id)
