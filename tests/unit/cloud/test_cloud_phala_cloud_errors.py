"""Refusals as the published phala-cloud 0.2.0 tells them apart (cloud-api.md 3, 3.1)."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.phala_cloud_installed import need_phala_cloud

need_phala_cloud()

from phala_cloud import (  # noqa: E402 - where it is not installed, the file is skipped
    ApiError,
    AuthError,
    BusinessError,
    ConflictError,
    RequestError,
    ResourceError,
    ServerError,
    error_codes,
)

from support.cloud_client_support import Served  # noqa: E402
from support.phala_cloud_place import place  # noqa: E402
from support.phala_cloud_support import KINDS, V4, Journey, Place  # noqa: E402
from teehouse.base.findings import unavailable  # noqa: E402

NOWHERE = "00000000-0000-4000-8000-000000000000"
HASH = "00" * 32
ADDRESS = "0x" + "ab" * 20


class Silent:
    """A KMS that does not answer."""

    async def signed_key(self, *_: Any) -> Any:
        raise unavailable("kms.silent", "the KMS", expected="an answer", found="none")


async def refusal(on: Journey, method: str, *given: Any, **named: Any) -> ApiError:
    assert await on.call(method, *given, **named) is None
    error = on.refusal(method)
    assert isinstance(error, ApiError), repr(error)
    return error


def told(error: ApiError, kind: type[ApiError], status: int, code: str | None = None) -> None:
    """The error's class is this one and none below it; its request can be found in the log."""
    assert (type(error), error.status_code) == (kind, status), error
    assert getattr(error, "error_code", None) == code
    assert error.request_id
    assert str(error)


async def body_of(on: Journey, name: str, **given: Any) -> dict[str, Any]:
    return {
        "name": name,
        "compose_file": on.place.boots,
        "kms": "PHALA",
        "instance_type": "tdx.small",
        **given,
    }


async def deployed(on: Journey, name: str, **given: Any) -> dict[str, Any]:
    """A CVM that runs; on chain when `kms` says so."""
    found = await on.call("provision_cvm", await body_of(on, name, **given))
    app_id = found.app_id or ADDRESS
    if found.app_id is None:
        assert on.place.chain is not None
        await on.place.chain.allow(app_id[2:], found.compose_hash)
    await on.call(
        "commit_cvm_provision",
        {
            "app_id": app_id,
            "compose_hash": found.compose_hash,
            "contract_address": None if found.app_id else ADDRESS,
            "deployer_address": None if found.app_id else ADDRESS,
            "encrypted_env": "ab" * 80,
        },
    )
    (listed,) = (await on.ask("/apps", search=name))["dstack_apps"]
    return await on.settled(listed["current_cvm"]["vm_uuid"], "running")


@pytest.mark.parametrize("kind", KINDS)
async def test_each_refusal_has_its_class(tmp_path: Path, kind: str) -> None:
    async with place(tmp_path) as (there, made):
        on = Journey(there, kind, V4)
        try:
            await unknown(on)
            cvm = await deployed(on, "first-app")
            await conflicts(on, cvm)
            await malformed(on)
            await not_ours(there, made, kind, cvm)
            await waiting_for_the_chain(on)
            await silent(on, made)
        finally:
            await on.close()


async def unknown(on: Journey) -> None:
    error = await refusal(on, "get_cvm_info", {"uuid": NOWHERE})
    told(error, ResourceError, 404, error_codes.CVM_NOT_FOUND)
    told(await refusal(on, "get_app_info", {"app_id": ADDRESS}), BusinessError, 404)
    told(await refusal(on, "get_app_attestation", {"app_id": ADDRESS}), BusinessError, 404)
    told(await refusal(on, "delete_ssh_key", {"key_id": "sshkey_00000000"}), BusinessError, 404)
    told(await refusal(on, "get_kms_on_chain_detail", {"chain": "solana"}), BusinessError, 404)
    told(await refusal(on, "get", "/no/such/path"), BusinessError, 404)


async def conflicts(on: Journey, cvm: dict[str, Any]) -> None:
    error = await refusal(on, "provision_cvm", await body_of(on, "first-app"))
    told(error, ResourceError, 409, error_codes.DUPLICATE_CVM_NAME)
    assert error.suggestions
    assert {"field": "name", "value": "first-app"} in error.structured_details
    given = {"app_id": cvm["app_id"], "compose_hash": HASH}
    error = await refusal(on, "commit_cvm_provision", given)
    told(error, ResourceError, 409, error_codes.CVM_APP_ID_CONFLICT)
    await on.call("restart_cvm", {"uuid": cvm["vm_uuid"]})
    told(
        await refusal(on, "restart_cvm", {"uuid": cvm["vm_uuid"]}), ConflictError, 409
    )  # busy: may be retried
    await on.settled(cvm["vm_uuid"], "running")
    key = {"name": "one", "public_key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI" + "A" * 43}
    assert await on.call("create_ssh_key", key)
    told(await refusal(on, "create_ssh_key", key), ConflictError, 409)


async def malformed(on: Journey) -> None:
    error = await refusal(on, "provision_cvm", {"name": 5})
    told(error, BusinessError, 422)  # this client has no class for it; the list is in `detail`
    entries = {tuple(entry["loc"]) for entry in error.detail["detail"]}
    assert entries == {("body", "name"), ("body", "compose_file")}
    told(await refusal(on, "get_app_list", {"page_size": 101}), BusinessError, 422)
    cases = {
        error_codes.INSTANCE_TYPE_NOT_FOUND: {"instance_type": "tdx.huge"},
        error_codes.INVALID_COMPOSE_FILE: {"compose_file": {"docker_compose_file": "services: ["}},
        error_codes.COMPOSE_FILE_REQUIRED: {"compose_file": {}},
        error_codes.KMS_NOT_FOUND: {"kms": "nobody"},
        error_codes.NODE_NOT_FOUND: {"node_id": 77},
        error_codes.IMAGE_NOT_FOUND: {"image": "dstack-9.9.9"},
        error_codes.INVALID_REQUEST: {"name": "a"},
    }
    for code, given in cases.items():
        error = await refusal(on, "provision_cvm", {**(await body_of(on, "new-app")), **given})
        told(error, ResourceError, 400, code)
    large = "services:\n  web:\n    image: nginx\n#" + "x" * 256 * 1024
    error = await refusal(
        on, "provision_cvm", await body_of(on, "new-app", compose_file={"docker_compose_file": large})
    )
    told(error, ResourceError, 400, error_codes.INVALID_COMPOSE_FILE)
    assert "262144" in str(error)


async def not_ours(there: Place, made: Served, kind: str, cvm: dict[str, Any]) -> None:
    """Without a key, with another workspace's, with one that may only read."""
    stranger = Journey(replace(there, key="phak_nobody"), kind, V4)
    told(await refusal(stranger, "get_current_user"), AuthError, 401)
    told(await refusal(stranger, "delete_cvm", {"uuid": cvm["vm_uuid"]}), AuthError, 401)
    assert await stranger.call("get_app_attestation", {"app_id": cvm["app_id"]})  # asks for no key
    await stranger.close()

    other = await made.cloud.other()
    foreign = Journey(replace(there, key=other.api_key), kind, V4)
    error = await refusal(foreign, "get_cvm_info", {"uuid": cvm["vm_uuid"]})
    told(error, ResourceError, 404, error_codes.CVM_NOT_FOUND)  # as if it did not exist
    told(await refusal(foreign, "get_app_info", {"app_id": cvm["app_id"]}), BusinessError, 404)
    error = await refusal(foreign, "stop_cvm", {"uuid": cvm["vm_uuid"]})
    told(error, ResourceError, 404, error_codes.CVM_NOT_FOUND)
    assert (await refusal(foreign, "get_workspace", there.workspace)).status_code in {403, 404}
    assert await foreign.call("get_cvm_status_batch", {"vmUuids": [cvm["vm_uuid"]]}) == {}
    await foreign.close()

    headers = {"X-API-Key": there.key}
    async with httpx.AsyncClient(transport=made.transport, base_url=there.api_url, headers=headers) as plain:
        member = {"email": "v@example.org", "username": "viewer", "role": "viewer"}
        added = (await plain.post(f"/workspaces/{there.workspace}/members", json=member)).json()
    viewer = Journey(replace(there, key=added["api_key"]), kind, V4)
    assert (await viewer.call("get_cvm_info", {"uuid": cvm["vm_uuid"]})).name == cvm["name"]
    error = await refusal(viewer, "stop_cvm", {"uuid": cvm["vm_uuid"]})
    told(error, ResourceError, 403, error_codes.PERMISSION_DENIED)
    await viewer.close()


async def waiting_for_the_chain(on: Journey) -> None:
    """465 to 468 (3.1)."""
    assert on.place.chain is not None
    cvm = await deployed(on, "chain-app", kms="BASE")
    of = {"uuid": cvm["vm_uuid"]}
    error = await refusal(on, "request", "PATCH", f"/cvms/{cvm['vm_uuid']}", json={"public_logs": False})
    told(error, ResourceError, 465, error_codes.HASH_REGISTRATION_REQUIRED)
    details = {entry["field"]: entry.get("value") for entry in error.structured_details}
    assert {"compose_hash", "app_id", "device_id", "kms_info", "commit_token", "onchain_status"} <= set(
        details
    )
    waits = await on.call("patch_cvm", {**of, "public_logs": False})
    assert waits["compose_hash"] == details["compose_hash"]

    async def confirmed(compose_hash: str, transaction_hash: str) -> ApiError:
        hashes = {"compose_hash": compose_hash, "transaction_hash": transaction_hash}
        return await refusal(on, "confirm_cvm_patch", {**of, **hashes})

    error = await confirmed(HASH, "already-registered")
    told(error, ResourceError, 466, error_codes.HASH_INVALID_OR_EXPIRED)
    error = await confirmed(waits["compose_hash"], "0x" + HASH)
    told(error, ResourceError, 467, error_codes.TX_VERIFICATION_FAILED)
    error = await confirmed(waits["compose_hash"], "already-registered")
    told(error, ResourceError, 468, error_codes.HASH_NOT_ALLOWED)
    after = await on.settled(cvm["vm_uuid"], "running")
    assert after["compose_hash"] == cvm["compose_hash"]  # a refusal leaves all as it was


async def silent(on: Journey, made: Served) -> None:
    keys, made.cloud.parts.kms_keys = made.cloud.parts.kms_keys, Silent()
    asked = {"kms": on.place.kms, "app_id": ADDRESS}
    told(await refusal(on, "get_app_env_encrypt_pub_key", asked), ServerError, 503)
    made.cloud.parts.kms_keys = keys
    nowhere = Journey(replace(on.place, api_url="http://127.0.0.1:9", transport=None), on.kind, V4)
    assert await nowhere.call("get_current_user") is None
    assert isinstance(nowhere.refusal("get_current_user"), RequestError)
    await nowhere.close()
