"""Routes that read CVMs (cloud-api.md 10.3)."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import StringConstraints
from starlette.responses import Response

from teehouse.cloud.cvms.loading import parse_compose
from teehouse.cloud.cvms.observing import observed_state, observed_sysinfo
from teehouse.cloud.cvms.presenters import present_cvm, present_cvm_info
from teehouse.cloud.cvms.presenters_seen import (
    present_composition,
    present_network,
    present_os_images,
    present_standing,
    present_stats,
    present_user_config,
    text_member,
)
from teehouse.cloud.cvms.reading import (
    CvmFilters,
    get_cvm,
    get_cvm_with_compose,
    get_user_config,
    images_for,
    list_cvms,
    standings,
)
from teehouse.cloud.cvms.request import Presented, PresentedDetail
from teehouse.cloud.http.answers import JsonAnswer, text_answer
from teehouse.cloud.http.dependencies import PageRequest, Parts, Reading, Signed, paging
from teehouse.cloud.ids import parse_hex
from teehouse.wire.cloud.actions import AppComposeObject
from teehouse.wire.cloud.cvms import (
    CvmDetailV1,
    CvmInfoV2,
    CvmInfoV3,
    CvmPageV1,
    CvmPageV2,
    CvmPageV3,
)
from teehouse.wire.cloud.observations import (
    AvailableOsImage,
    BatchStatus,
    CvmComposition,
    CvmNetwork,
    CvmStats,
    StatusBatchRequest,
    UserConfig,
)
from teehouse.wire.cloud.paging import pages
from teehouse.wire.cloud.versions import ApiVersion

router = APIRouter(tags=["CVMs"])

Number = Annotated[int | None, Query(ge=0, lt=2**63)]
Name = Annotated[str | None, Query(max_length=128)]
Names = Annotated[list[Annotated[str, StringConstraints(max_length=1024)]] | None, Query(max_length=64)]


@router.get("/cvms/paginated", responses={200: {"model": CvmPageV1 | CvmPageV2 | CvmPageV3}})
async def get_cvm_list(
    page: Annotated[PageRequest, paging(default=20, most=1000)],
    *,
    session: Reading,
    caller: Signed,
    how: Presented,
    node_id: Number = None,
    teepod_id: Number = None,
    user_id: Number = None,
    family: Name = None,
    instance_types: Names = None,
) -> Response:
    """The workspace's CVMs, newest first."""
    if how.version <= ApiVersion.V2:
        filters = CvmFilters(node_id=node_id if node_id is not None else teepod_id, user_id=user_id)
    else:
        types = [name for entry in instance_types or () for name in entry.split(",") if name]
        filters = CvmFilters(family=family, instance_types=tuple(types))
    found, total = await list_cvms(
        session, caller.workspace_id, filters, offset=page.offset, limit=page.page_size
    )
    return JsonAnswer(
        {
            "items": [present_cvm(cvm, how) for cvm in found],
            "total": total,
            "page": page.page,
            "page_size": page.page_size,
            "pages": pages(total, page.page_size),
        }
    )


@router.get("/cvms/{cvm_id}", responses={200: {"model": CvmDetailV1 | CvmInfoV2 | CvmInfoV3}})
async def get_cvm_info(cvm_id: str, session: Reading, caller: Signed, how: PresentedDetail) -> Response:
    """One CVM, by any of its names."""
    cvm, compose = await get_cvm_with_compose(session, caller.workspace_id, cvm_id)
    return JsonAnswer(present_cvm_info(cvm, how, parse_compose(compose)))


@router.get("/cvms/{cvm_id}/compose_file", responses={200: {"model": AppComposeObject}})
async def get_cvm_compose_file(cvm_id: str, session: Reading, caller: Signed) -> Response:
    """The CVM's app-compose file as an object; clients want a Docker Compose file in it, if an empty one."""
    _, compose = await get_cvm_with_compose(session, caller.workspace_id, cvm_id)
    return JsonAnswer({"docker_compose_file": "", **parse_compose(compose)})


@router.get(
    "/cvms/{cvm_id}/docker-compose.yml",
    response_class=Response,
    responses={200: {"content": {"text/yaml": {}}}},
)
async def get_cvm_docker_compose(cvm_id: str, session: Reading, caller: Signed) -> Response:
    """The Docker Compose file within it."""
    _, compose = await get_cvm_with_compose(session, caller.workspace_id, cvm_id)
    return text_answer(text_member(compose, "docker_compose_file"), "text/yaml")


@router.get(
    "/cvms/{cvm_id}/pre-launch-script",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}},
)
async def get_cvm_pre_launch_script(cvm_id: str, session: Reading, caller: Signed) -> Response:
    """The script that runs before the app; empty for none."""
    _, compose = await get_cvm_with_compose(session, caller.workspace_id, cvm_id)
    return text_answer(text_member(compose, "pre_launch_script"))


@router.get("/cvms/{cvm_id}/stats", responses={200: {"model": CvmStats}})
async def get_cvm_stats(cvm_id: str, parts: Parts, caller: Signed) -> Response:
    """The guest's figures, as its agent shows them."""
    async with parts.database.read() as session:
        cvm = await get_cvm(session, caller.workspace_id, cvm_id)
    sysinfo, error = await observed_sysinfo(parts.agents, cvm.row)
    return JsonAnswer(present_stats(cvm, sysinfo, error))


@router.get("/cvms/{cvm_id}/network", responses={200: {"model": CvmNetwork}})
async def get_cvm_network(cvm_id: str, parts: Parts, caller: Signed) -> Response:
    """Where the CVM is reached."""
    async with parts.database.read() as session:
        cvm = await get_cvm(session, caller.workspace_id, cvm_id)
    state, error = await observed_state(parts.nodes, cvm.row)
    return JsonAnswer(present_network(cvm, state, error))


@router.get("/cvms/{cvm_id}/composition", responses={200: {"model": CvmComposition}})
async def get_cvm_containers_stats(cvm_id: str, parts: Parts, caller: Signed) -> Response:
    """What the CVM is made of, and the containers that run in it."""
    async with parts.database.read() as session:
        cvm, compose = await get_cvm_with_compose(session, caller.workspace_id, cvm_id)
    state, error = await observed_state(parts.nodes, cvm.row)
    return JsonAnswer(present_composition(cvm, compose, state, error))


@router.get("/cvms/{cvm_id}/user_config", responses={200: {"model": UserConfig}})
async def get_cvm_user_config(cvm_id: str, session: Reading, caller: Signed) -> Response:
    """What was set for the CVM outside its compose file."""
    cvm = await get_cvm(session, caller.workspace_id, cvm_id)
    return JsonAnswer(present_user_config(await get_user_config(session, caller.workspace_id, cvm_id), cvm))


@router.get("/cvms/{cvm_id}/available-os-images", responses={200: {"model": list[AvailableOsImage]}})
async def get_available_os_images(cvm_id: str, session: Reading, caller: Signed) -> Response:
    """The OS images that the CVM's node can boot for it."""
    cvm = await get_cvm(session, caller.workspace_id, cvm_id)
    return JsonAnswer(present_os_images(await images_for(session, cvm), cvm))


@router.post("/status/batch", responses={200: {"model": dict[str, BatchStatus]}})
async def get_cvm_status_batch(
    body: StatusBatchRequest, session: Reading, caller: Signed, how: Presented
) -> Response:
    """How many CVMs stand, by the UUIDs as they were sent; unknown ones are left out."""
    wanted = {text: digits for text in body.vm_uuids if (digits := parse_hex(text.replace("-", ""), 16))}
    found = await standings(
        session, caller.workspace_id, list(set(wanted.values())), events=how.version >= ApiVersion.V3
    )
    return JsonAnswer(
        {
            text: present_standing(found[digits], text, how)
            for text, digits in wanted.items()
            if digits in found
        }
    )
