"""Routes for upkeep, and the old ones that only deprecated commands call (cloud-api.md 10.3)."""

from typing import Any

from fastapi import APIRouter
from pydantic import Field
from starlette.responses import Response

from teehouse.cloud.cvms import committing, instance_ids, provisioning
from teehouse.cloud.cvms.answers import action_answer, changed_answer
from teehouse.cloud.cvms.changing import change_cvm
from teehouse.cloud.cvms.comparing import Change
from teehouse.cloud.cvms.environment import parse_box
from teehouse.cloud.cvms.instance_ids import Refreshed
from teehouse.cloud.cvms.life_request import AppPath, By, CvmPath, Life
from teehouse.cloud.cvms.operations import Author
from teehouse.cloud.cvms.presenters import cvm_number_or_id
from teehouse.cloud.cvms.request import Presented
from teehouse.cloud.errors import CloudError, Detail, ErrorCode
from teehouse.cloud.http.answers import JsonAnswer
from teehouse.cloud.http.dependencies import Version
from teehouse.cloud.http.faults import REGISTRATION
from teehouse.cloud.ids import is_cvm_name
from teehouse.wire.cloud.actions import (
    ComposeUpgrade,
    ConfigurationKey,
    RefreshedInstanceId,
    RefreshedInstanceIds,
    VmAction,
)
from teehouse.wire.cloud.base import Body
from teehouse.wire.cloud.lifecycle import (
    HEX_LIMIT,
    CommitRequest,
    EnvName,
    InstanceIdRequest,
    InstanceIdsRequest,
    ProvisionRequest,
)
from teehouse.wire.cloud.versions import ApiVersion

router = APIRouter(tags=["CVMs"])


class CvmConfiguration(Body):
    """The old way to say what a CVM is to be; `app_id_salt` is the nonce that was answered."""

    name: str = Field(max_length=256)
    compose_manifest: dict[str, Any]
    teepod_id: int | None = Field(default=None, ge=0, lt=2**63)
    image: str | None = Field(default=None, max_length=128)
    vcpu: int | None = Field(default=None, ge=1, le=1024)
    memory: int | None = Field(default=None, ge=128, le=16 * 1024 * 1024)
    disk_size: int | None = Field(default=None, ge=1, le=1024 * 1024)
    listed: bool | None = None
    encrypted_env: str | None = Field(default=None, max_length=HEX_LIMIT)
    app_env_encrypt_pubkey: str | None = Field(default=None, max_length=80)
    app_id_salt: str | None = Field(default=None, max_length=80)


class ComposeUpdate(Body):
    """PUT /cvms/app_{app_id}/compose."""

    compose_manifest: dict[str, Any]
    encrypted_env: str | None = Field(default=None, max_length=HEX_LIMIT)
    env_keys: list[EnvName] | None = Field(default=None, max_length=4096)
    allow_restart: bool | None = None


@router.patch("/cvms/instance-ids", responses={200: {"model": RefreshedInstanceIds}})
async def refresh_cvm_instance_ids(
    life: Life, author: By, version: Version, request: InstanceIdsRequest | None = None
) -> Response:
    """Take over the instance ids of many CVMs from their nodes."""
    total, done = await instance_ids.refresh_many(life, author.workspace_id, request or InstanceIdsRequest())
    counts = {
        name: sum(one.status == status for one in done)
        for name, status in (
            ("updated", "updated"),
            ("unchanged", "unchanged"),
            ("skipped", "skipped"),
            ("conflicts", "conflict"),
            ("errors", "error"),
        )
    }
    items = [_refresh(one, version) for one in done]
    return JsonAnswer({"total": total, "scanned": len(done), **counts, "items": items})


@router.patch("/cvms/{cvm_id}/instance-id", responses={200: {"model": RefreshedInstanceId}})
async def refresh_cvm_instance_id(
    cvm_id: CvmPath, life: Life, author: By, version: Version, request: InstanceIdRequest | None = None
) -> Response:
    """Take over the instance id of a CVM from its node."""
    asked = request or InstanceIdRequest()
    return JsonAnswer(
        _refresh(await instance_ids.refresh_one(life, author.workspace_id, cvm_id, asked), version)
    )


@router.post("/cvms/pubkey/from_cvm_configuration", responses={200: {"model": ConfigurationKey}})
async def pubkey_from_cvm_configuration(request: CvmConfiguration, life: Life, author: By) -> Response:
    """The key for the environment of a CVM that is to be made next, and the salt to make it with."""
    found = await provisioning.provision(life, author, _provision(request))
    return JsonAnswer(
        {
            "app_env_encrypt_pubkey": found.environment_key,
            "app_id_salt": str(found.provision.nonce),
            "app_id": found.provision.app_id,
        }
    )


@router.post("/cvms/from_cvm_configuration", responses={200: {"model": VmAction}, **REGISTRATION})
async def create_from_cvm_configuration(
    request: CvmConfiguration, life: Life, author: By, how: Presented
) -> Response:
    """Make a CVM in one request; with the salt, the one whose key was asked for."""
    found = await _waiting(life, author, request)
    done = await committing.commit(
        life,
        author,
        CommitRequest(app_id=found[0], compose_hash=found[1], encrypted_env=request.encrypted_env),
    )
    async with life.database.read() as session:
        return JsonAnswer(await action_answer(session, done.cvm_id, how))


@router.put("/cvms/app_{app_id}/compose", responses={200: {"model": ComposeUpgrade}, **REGISTRATION})
async def upgrade_compose(app_id: AppPath, request: ComposeUpdate, life: Life, author: By) -> Response:
    """Replace the Docker Compose file of an app's only CVM, and its environment where one is sent."""
    text = request.compose_manifest.get("docker_compose_file")
    if not isinstance(text, str):
        raise CloudError(ErrorCode.COMPOSE_FILE_REQUIRED, "compose_manifest.docker_compose_file is missing")
    compose: dict[str, Any] = {"docker_compose_file": text}
    if request.env_keys is not None and request.encrypted_env:
        compose["allowed_envs"] = request.env_keys
    change = Change(
        compose=compose,
        encrypted_env=parse_box(request.encrypted_env),
        allow_restart=request.allow_restart is not False,
    )
    applied = await change_cvm(life, author, f"app_{app_id}", change)
    return JsonAnswer(changed_answer(applied) | {"detail": applied.message})


def _provision(request: CvmConfiguration) -> ProvisionRequest:
    """The old request as a new one. Old names may be of another form, and are made fit."""
    return ProvisionRequest(
        name=_name(request.name),
        compose_file=request.compose_manifest,
        listed=request.listed,
        teepod_id=request.teepod_id,
        image=request.image,
        vcpu=request.vcpu,
        memory=request.memory,
        disk_size=request.disk_size,
    )


async def _waiting(life: Life, author: Author, request: CvmConfiguration) -> tuple[str | None, str]:
    """App id and compose hash of the provision that the salt names, else of a new one."""
    if request.app_id_salt and request.app_id_salt.isascii() and request.app_id_salt.isdigit():
        found = await provisioning.provisioned_with(
            life, author, _provision(request), int(request.app_id_salt)
        )
        if found is not None:
            return found
    made = await provisioning.provision(life, author, _provision(request))
    return made.provision.app_id, made.provision.compose_hash


def _name(name: str) -> str:
    """Names of the old form (3 to 20 of letters, digits, `_`, `-`) as new ones."""
    fitting = "-".join(part for part in name.replace("_", "-").split("-") if part)
    fitting = fitting if fitting[:1].isalpha() and len(fitting) >= 5 else f"dstack-app-{fitting}"
    if not is_cvm_name(fitting):
        raise CloudError(
            ErrorCode.INVALID_REQUEST, "The name is none", details=[Detail(field="name", value=name[:80])]
        )
    return fitting


def _refresh(one: Refreshed, version: ApiVersion) -> dict[str, Any]:
    return {
        "cvm_id": cvm_number_or_id(one.cvm_id, version),
        "identifier": one.identifier,
        "status": one.status,
        "old_instance_id": one.old,
        "new_instance_id": one.new,
        "source": one.source,
        "verified_with_gateway": False,
        "reason": one.reason,
    }
