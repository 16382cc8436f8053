"""Routes that change CVMs (cloud-api.md 10.3, 13.3, 13.4)."""

from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from teehouse.cloud.cvms import compose_updates
from teehouse.cloud.cvms.answers import IN_PROGRESS, changed_answer, visibility_answer
from teehouse.cloud.cvms.changing import Applied, change_cvm, commit_by_hash, commit_update
from teehouse.cloud.cvms.comparing import Change
from teehouse.cloud.cvms.environment import parse_box
from teehouse.cloud.cvms.life_request import By, ComposeHash, CvmPath, Life, PrepareOnly, TransactionHash
from teehouse.cloud.cvms.operations import Author
from teehouse.cloud.cvms.request import PresentedDetail
from teehouse.cloud.errors import CloudError, ErrorCode
from teehouse.cloud.http.answers import JsonAnswer
from teehouse.cloud.http.faults import REGISTRATION
from teehouse.cloud.inventory.presenters import present_kms
from teehouse.wire.cloud.actions import ComposeProvision
from teehouse.wire.cloud.cvms import CvmDetailV1
from teehouse.wire.cloud.lifecycle import (
    Changed,
    CommitTokenRequest,
    ComposeCommitRequest,
    EnvsRequest,
    OsImageRequest,
    PatchRequest,
    ResourcesRequest,
    VisibilityRequest,
)

router = APIRouter(tags=["CVMs"])
public_router = APIRouter(tags=["CVMs"])
_COMPOSE: Final = (
    "docker_compose_file",
    "pre_launch_script",
    "allowed_envs",
    "public_logs",
    "public_sysinfo",
    "public_tcbinfo",
)
_CHANGED: dict[int | str, dict[str, Any]] = {200: {"model": Changed}, **REGISTRATION}
_TEXT_BODY: dict[str, Any] = {"requestBody": {"content": {"text/plain": {"schema": {"type": "string"}}}}}


@router.patch("/cvms/{cvm_id}", responses=_CHANGED)
async def patch_cvm(
    cvm_id: CvmPath,
    life: Life,
    author: By,
    *,
    request: PatchRequest | None = None,
    prepare_only: PrepareOnly = False,
    compose_hash: ComposeHash = None,
    transaction_hash: TransactionHash = None,
) -> Response:
    """Change what the request names; with the two headers, commit what was prepared."""
    if compose_hash is not None:
        applied = await commit_by_hash(life, author, cvm_id, compose_hash, transaction_hash)
    else:
        change = _change(request or PatchRequest())
        applied = await change_cvm(life, author, cvm_id, change, prepare_only=prepare_only)
    return JsonAnswer(changed_answer(applied))


@public_router.post("/cvms/{cvm_id}/commit-update", responses=_CHANGED)
async def commit_cvm_update(cvm_id: CvmPath, request: CommitTokenRequest, life: Life) -> Response:
    """Commit what was prepared. Public: the one-time token proves who decided it."""
    applied = await commit_update(
        life, request.token, request.compose_hash, request.transaction_hash, cvm=cvm_id
    )
    return JsonAnswer(changed_answer(applied))


@router.patch("/cvms/{cvm_id}/resources", responses=_CHANGED)
async def update_cvm_resources(
    cvm_id: CvmPath, request: ResourcesRequest, life: Life, author: By
) -> Response:
    """Change size or instance type. A CVM that runs is restarted."""
    change = Change(
        vcpu=request.vcpu,
        memory=request.memory,
        disk_size=request.disk_size,
        instance_type=request.instance_type,
        allow_restart=request.allow_restart is not False,
    )
    return JsonAnswer(changed_answer(await change_cvm(life, author, cvm_id, change)))


@router.patch("/cvms/{cvm_id}/visibility", responses={200: {"model": CvmDetailV1}, **REGISTRATION})
async def update_cvm_visibility(
    cvm_id: CvmPath, request: VisibilityRequest, life: Life, author: By, how: PresentedDetail
) -> Response:
    """Change what of the CVM can be seen without a key."""
    change = Change(compose={name: value for name, value in request if value is not None})
    applied = await change_cvm(life, author, cvm_id, change)
    async with life.database.read() as session:
        return JsonAnswer(await visibility_answer(session, applied, how))


@router.patch("/cvms/{cvm_id}/os-image", responses=_CHANGED)
async def update_os_image(cvm_id: CvmPath, request: OsImageRequest, life: Life, author: By) -> Response:
    """Boot another OS image from now on."""
    applied = await change_cvm(life, author, cvm_id, Change(image=request.os_image_name))
    return JsonAnswer(changed_answer(applied))


@router.patch("/cvms/{cvm_id}/envs", responses=_CHANGED)
async def update_cvm_envs(
    cvm_id: CvmPath,
    request: EnvsRequest,
    life: Life,
    author: By,
    prepare_only: PrepareOnly = False,
) -> Response:
    """Replace the environment; other names than before make another compose hash."""
    compose = {} if request.env_keys is None else {"allowed_envs": request.env_keys}
    if request.compose_hash:
        applied = await commit_by_hash(life, author, cvm_id, request.compose_hash, request.transaction_hash)
    else:
        change = Change(compose=compose, encrypted_env=parse_box(request.encrypted_env))
        applied = await change_cvm(life, author, cvm_id, change, prepare_only=prepare_only)
    answer = changed_answer(applied, status=IN_PROGRESS)
    return JsonAnswer(answer | {"allowed_envs_changed": "allowed_envs" in applied.changed})


@router.patch("/cvms/{cvm_id}/docker-compose", responses=_CHANGED, openapi_extra=_TEXT_BODY)
async def update_docker_compose(
    cvm_id: CvmPath,
    request: Request,
    life: Life,
    author: By,
    *,
    compose_hash: ComposeHash = None,
    transaction_hash: TransactionHash = None,
) -> Response:
    """Replace the Docker Compose file with the request's body."""
    change = Change(compose={"docker_compose_file": await _text(request)})
    applied = await _text_change(life, author, cvm_id, change, compose_hash, transaction_hash)
    return JsonAnswer(changed_answer(applied, status=IN_PROGRESS))


@router.patch("/cvms/{cvm_id}/pre-launch-script", responses=_CHANGED, openapi_extra=_TEXT_BODY)
async def update_pre_launch_script(
    cvm_id: CvmPath,
    request: Request,
    life: Life,
    author: By,
    *,
    compose_hash: ComposeHash = None,
    transaction_hash: TransactionHash = None,
) -> Response:
    """Replace the pre-launch script with the request's body; an empty one drops it."""
    change = Change(compose={"pre_launch_script": await _text(request) or None})
    applied = await _text_change(life, author, cvm_id, change, compose_hash, transaction_hash)
    return JsonAnswer(changed_answer(applied, status=IN_PROGRESS))


@router.post("/cvms/{cvm_id}/compose_file/provision", responses={200: {"model": ComposeProvision}})
async def provision_cvm_compose_file_update(
    cvm_id: CvmPath, request: dict[str, Any], life: Life, author: By
) -> Response:
    """Make an app-compose file for the CVM, to be committed by its hash."""
    found = await compose_updates.provision_update(life, author, cvm_id, request)
    return JsonAnswer(
        {
            "app_id": found.app_id,
            "device_id": found.device_id,
            "compose_hash": found.compose_hash,
            "kms_info": present_kms(found.kms),
            "compose_hash_registered": found.registered,
        }
    )


@router.patch("/cvms/{cvm_id}/compose_file", responses=_CHANGED)
async def commit_cvm_compose_file_update(
    cvm_id: CvmPath, request: ComposeCommitRequest, life: Life, author: By
) -> Response:
    """Give the CVM the app-compose file with this hash."""
    box = parse_box(request.encrypted_env)
    applied = await compose_updates.commit_provisioned(life, author, cvm_id, request.compose_hash, box)
    return JsonAnswer(changed_answer(applied))


def _change(request: PatchRequest) -> Change:
    """What PATCH asks for: what is null is not said, but for `shutdown_timeout`, which null takes back."""
    compose = {name: value for name in _COMPOSE if (value := getattr(request, name)) is not None}
    settings: dict[str, Any] = {}
    if "shutdown_timeout" in request.model_fields_set:
        settings["shutdown_timeout"] = request.shutdown_timeout
    if request.allow_force_stop is not None:
        settings["allow_force_stop"] = request.allow_force_stop
    return Change(
        compose=compose,
        encrypted_env=parse_box(request.encrypted_env),
        user_config=request.user_config,
        vcpu=request.vcpu,
        memory=request.memory,
        disk_size=request.disk_size,
        gpus=None if request.gpus is None else request.gpus.count,
        instance_type=request.instance_type,
        image=request.image,
        settings=settings,
        allow_restart=request.allow_restart is not False,
    )


async def _text_change(life: Life, author: Author, cvm: str, change: Change, *hashes: str | None) -> Applied:
    compose_hash, transaction_hash = hashes
    if compose_hash is not None:
        return await commit_by_hash(life, author, cvm, compose_hash, transaction_hash)
    return await change_cvm(life, author, cvm, change)


async def _text(request: Request) -> str:
    """The body as text. Raises `CloudError` for bytes that are no UTF-8."""
    try:
        return (await request.body()).decode()
    except UnicodeDecodeError as error:
        raise CloudError(ErrorCode.INVALID_COMPOSE_FILE, "The body is no UTF-8 text") from error
