"""Routes of allow-lists (cloud-api.md 10.1, 10.3)."""

from fastapi import APIRouter
from starlette.responses import Response

from teehouse.cloud.allowlists.presenters import present_allowlist, present_answer, present_cvms_allowed
from teehouse.cloud.allowlists.services import (
    app_is_allowed,
    cvm_is_allowed,
    cvms_are_allowed,
    device_allowlist,
)
from teehouse.cloud.http.answers import JsonAnswer
from teehouse.cloud.http.dependencies import Parts, Reading, Signed, Version
from teehouse.wire.cloud.allowlists import (
    CvmIsAllowedRequest,
    CvmsAllowed,
    DeviceAllowlist,
    IsAllowed,
    IsAllowedRequest,
)

router = APIRouter(tags=["allow-lists"])


@router.get("/apps/{app_id}/device-allowlist", responses={200: {"model": DeviceAllowlist}})
async def get_app_device_allowlist(
    app_id: str, session: Reading, caller: Signed, parts: Parts, version: Version
) -> Response:
    """The devices that an app's CVMs run on, and what its contract says of them."""
    found = await device_allowlist(session, caller.workspace_id, app_id, parts.contracts)
    return JsonAnswer(present_allowlist(found, version))


@router.post("/apps/{app_id}/is-allowed", responses={200: {"model": IsAllowed}})
async def check_app_is_allowed(
    app_id: str, body: IsAllowedRequest, *, session: Reading, caller: Signed, parts: Parts, version: Version
) -> Response:
    """Whether an app's contract lets a compose file run on a device."""
    answer = await app_is_allowed(
        session,
        caller.workspace_id,
        app_id,
        parts.contracts,
        compose_hash=body.compose_hash,
        node_id=body.node_id,
        device_id=body.device_id,
        chain_id=body.chain_id,
    )
    return JsonAnswer(present_answer(answer, version))


@router.post("/apps/{app_id}/cvms/is-allowed", responses={200: {"model": CvmsAllowed}})
async def check_app_cvms_is_allowed(
    app_id: str, session: Reading, caller: Signed, parts: Parts, version: Version
) -> Response:
    """The same for all CVMs of an app as they are, in one question to the chain."""
    found = await cvms_are_allowed(session, caller.workspace_id, app_id, parts.contracts)
    return JsonAnswer(present_cvms_allowed(found, version))


@router.post("/cvms/{cvm_id}/is-allowed", responses={200: {"model": IsAllowed}})
async def check_cvm_is_allowed(
    cvm_id: str,
    *,
    session: Reading,
    caller: Signed,
    parts: Parts,
    version: Version,
    body: CvmIsAllowedRequest | None = None,
) -> Response:
    """Whether a CVM may run as it is, or with what the request puts in its place."""
    body = body or CvmIsAllowedRequest()
    answer = await cvm_is_allowed(
        session,
        caller.workspace_id,
        cvm_id,
        parts.contracts,
        compose_hash=body.compose_hash,
        node_id=body.node_id,
        device_id=body.device_id,
    )
    return JsonAnswer(present_answer(answer, version))
