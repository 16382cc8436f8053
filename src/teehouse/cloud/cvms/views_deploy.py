"""Routes that make CVMs and begin what is done with them (cloud-api.md 10.1, 10.3)."""

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from teehouse.cloud.cvms import actions, committing, provisioning, replicas
from teehouse.cloud.cvms.answers import action_answer, instance_answer, present_provision
from teehouse.cloud.cvms.environment import parse_box
from teehouse.cloud.cvms.life_request import AppPath, By, CvmPath, Life, PrepareOnly
from teehouse.cloud.cvms.lookup import find_cvm_of_app
from teehouse.cloud.cvms.operations import Author
from teehouse.cloud.cvms.replicas import Copy
from teehouse.cloud.cvms.request import Presented
from teehouse.cloud.http.answers import JsonAnswer
from teehouse.cloud.http.faults import REGISTRATION
from teehouse.cloud.revisions.models import OperationType
from teehouse.wire.cloud.actions import Deletion, VmAction
from teehouse.wire.cloud.cvms import CvmV3
from teehouse.wire.cloud.lifecycle import (
    CommitRequest,
    CommitTokenRequest,
    InstanceRequest,
    ProvisionAnswer,
    ProvisionRequest,
    ReplicaRequest,
    RestartRequest,
)

router = APIRouter(tags=["CVMs"])
_ACTION: dict[int | str, dict[str, Any]] = {200: {"model": VmAction}}
_REGISTERED = {**_ACTION, **REGISTRATION}


@router.post("/cvms/provision", responses={200: {"model": ProvisionAnswer}})
async def provision_cvm(request: ProvisionRequest, life: Life, author: By) -> Response:
    """Decide node, image, KMS, app id and compose hash, and hold a place."""
    return JsonAnswer(present_provision(await provisioning.provision(life, author, request)))


@router.post("/cvms", responses=_REGISTERED)
async def commit_cvm_provision(request: CommitRequest, life: Life, author: By, how: Presented) -> Response:
    """Make the CVM that was provisioned, once."""
    done = await committing.commit(life, author, request)
    return await _action(life, done.cvm_id, how)


@router.post("/cvms/{cvm_id}/start", responses=_ACTION)
async def start_cvm(cvm_id: CvmPath, life: Life, author: By, how: Presented) -> Response:
    """Boot the CVM."""
    return await _act(life, author, cvm_id, OperationType.START, how)


@router.post("/cvms/{cvm_id}/stop", responses=_ACTION)
async def stop_cvm(cvm_id: CvmPath, life: Life, author: By, how: Presented) -> Response:
    """End the CVM at once."""
    return await _act(life, author, cvm_id, OperationType.STOP, how)


@router.post("/cvms/{cvm_id}/shutdown", responses=_ACTION)
async def shutdown_cvm(cvm_id: CvmPath, life: Life, author: By, how: Presented) -> Response:
    """End the CVM, with time for its app."""
    return await _act(life, author, cvm_id, OperationType.SHUTDOWN, how)


@router.post("/cvms/{cvm_id}/restart", responses=_ACTION)
async def restart_cvm(
    cvm_id: CvmPath, life: Life, author: By, how: Presented, request: RestartRequest | None = None
) -> Response:
    """End the CVM and boot it anew; with `force` its app gets no time."""
    force = request is not None and request.force
    acted = await actions.act(life, author, cvm_id, OperationType.RESTART, force=force)
    return await _action(life, acted.cvm_id, how)


@router.delete("/cvms/{cvm_id}", responses={200: {"model": Deletion}})
async def delete_cvm(cvm_id: CvmPath, life: Life, author: By) -> Response:
    """Delete the CVM with its data, whatever is under way with it."""
    acted = await actions.act(life, author, cvm_id, OperationType.DELETE)
    return JsonAnswer({"status": "deleting", "correlation_id": acted.correlation_id})


@router.post("/cvms/{cvm_id}/replicas", responses=_REGISTERED)
async def replicate_cvm(
    cvm_id: CvmPath,
    life: Life,
    author: By,
    how: Presented,
    *,
    request: ReplicaRequest | None = None,
    prepare_only: PrepareOnly = False,
) -> Response:
    """Copy the CVM."""
    asked = request or ReplicaRequest()
    copied = await replicas.replicate(
        life,
        author,
        cvm_id,
        Copy(node_id=asked.node_id, encrypted_env=parse_box(asked.encrypted_env)),
        compose_hash=asked.compose_hash,
        prepare_only=prepare_only,
    )
    return await _action(life, copied.cvm_id, how)


@router.post("/apps/{app_id}/cvms/{vm_uuid}/replicas", responses=_REGISTERED)
async def replicate_app_cvm(
    app_id: AppPath,
    vm_uuid: CvmPath,
    life: Life,
    author: By,
    how: Presented,
    *,
    request: ReplicaRequest | None = None,
    prepare_only: PrepareOnly = False,
) -> Response:
    """Copy a CVM of the app."""
    async with life.database.read() as session:
        number = await find_cvm_of_app(session, author.workspace_id, app_id, vm_uuid)
    return await replicate_cvm(str(number), life, author, how, request=request, prepare_only=prepare_only)


@router.post("/cvms/{cvm_id}/commit-replica", responses=_REGISTERED)
async def commit_cvm_replica(
    cvm_id: CvmPath, request: CommitTokenRequest, life: Life, author: By, how: Presented
) -> Response:
    """Make the replica that was prepared."""
    copied = await replicas.commit_replica(life, author, cvm_id, request)
    return await _action(life, copied.cvm_id, how)


@router.post("/apps/{app_id}/instances", responses={200: {"model": VmAction | CvmV3}, **REGISTRATION})
async def create_app_instance(
    app_id: AppPath,
    life: Life,
    author: By,
    how: Presented,
    *,
    request: InstanceRequest | None = None,
    prepare_only: PrepareOnly = False,
) -> Response:
    """Add an instance to the app, or make the one that was prepared."""
    asked = request or InstanceRequest()
    if asked.token:
        given = CommitTokenRequest(
            token=asked.token, compose_hash=asked.compose_hash, transaction_hash=asked.transaction_hash
        )
        copied = await replicas.commit_instance(life, author, app_id, given)
    else:
        texts = {
            "docker_compose_file": asked.docker_compose_file,
            "pre_launch_script": asked.pre_launch_script,
        }
        copied = await replicas.add_instance(
            life,
            author,
            app_id,
            Copy(
                node_id=asked.node_id,
                name=asked.name,
                encrypted_env=parse_box(asked.encrypted_env),
                compose={name: text for name, text in texts.items() if text is not None},
            ),
            compose_hash=asked.compose_hash,
            prepare_only=prepare_only,
        )
    async with life.database.read() as session:
        return JsonAnswer(await instance_answer(session, copied.cvm_id, how))


async def _act(life: Life, author: Author, cvm: str, kind: OperationType, how: Presented) -> Response:
    acted = await actions.act(life, author, cvm, kind)
    return await _action(life, acted.cvm_id, how)


async def _action(life: Life, cvm_id: int, how: Presented) -> Response:
    async with life.database.read() as session:
        return JsonAnswer(await action_answer(session, cvm_id, how))
