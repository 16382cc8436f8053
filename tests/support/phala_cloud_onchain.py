"""The part of the published Python client's journey that needs a KMS on chain (cloud-api.md 13.4)."""

from typing import Any

from dstack_sdk import EnvVar
from phala_cloud import encrypt_env_vars

from support.phala_cloud_support import V1, V3, YAML, Chain, Journey


async def on_chain(on: Journey) -> None:
    """An app whose KMS is on chain: changes wait for their compose hash to be registered (13.4)."""
    chain = on.place.chain
    assert chain is not None
    body = {
        "name": f"chain-{on.name}",
        "compose_file": {**on.place.boots, "name": on.name, "allowed_envs": ["A"]},
        "kms": "BASE",
        "instance_type": "tdx.small",
    }
    found = await on.call("provision_cvm", body)
    assert (found.app_id, found.kms_info.chain_id) == (None, chain.chain_id)
    address = await chain.deploy(found.compose_hash, found.device_id)
    box = await _sealed(on, chain, address, "A")
    deployed = {"contract_address": address, "deployer_address": chain.address, "encrypted_env": box}
    await on.call("commit_cvm_provision", {"app_id": address, "compose_hash": found.compose_hash, **deployed})
    (listed,) = (await on.ask("/apps", search=address[2:]))["dstack_apps"]
    cvm = await on.settled(listed["current_cvm"]["vm_uuid"], "running")
    assert (cvm["app_id"], cvm["compose_hash"]) == (address[2:], found.compose_hash)
    await _allowed(on, chain, cvm, found.device_id)
    of = {"uuid": cvm["vm_uuid"]}
    await on.call("stop_cvm", of)
    await on.settled(cvm["vm_uuid"], "stopped")
    changed = await _changed(on, chain, cvm)
    await on.call("start_cvm", of)
    assert (await on.settled(cvm["vm_uuid"], "running"))["compose_hash"] == changed
    assert await on.call("delete_cvm", of) is None
    await on.gone(cvm["vm_uuid"])


async def _sealed(on: Journey, chain: Chain, address: str, *names: str) -> str:
    """An environment for the app, with the key that its KMS gives for the contract's address."""
    key = await on.call("get_app_env_encrypt_pub_key", {"kms": chain.kms, "app_id": address[2:]})
    sealed: str = await encrypt_env_vars([EnvVar(name, on.name) for name in names], key.public_key)
    return sealed


async def _allowed(on: Journey, chain: Chain, cvm: dict[str, Any], device_id: str) -> None:
    """What the contract says of the CVM (11.8 to 11.10)."""
    app = {"app_id": cvm["app_id"]}
    allowlist = await on.call("get_app_device_allowlist", app)
    verdicts = await on.call("check_app_cvms_is_allowed", app)
    verdict = await on.call("check_cvm_is_allowed", {"cvm_id": cvm["vm_uuid"]})
    if on.version != V1:
        (device,) = allowlist.devices
        assert (allowlist.chain_id, device.status) == (chain.chain_id, "allowed")
        assert device.device_id.removeprefix("0x") == device_id.removeprefix("0x")
        assert (verdicts.is_onchain, verdicts.total, verdicts.allowed_count) == (True, 1, 1)
        assert (verdict.is_allowed, verdict.compose_hash_allowed, verdict.device_id_allowed) == (True,) * 3
        assert verdict.app_contract_address.lower() == f"0x{cvm['app_id']}"
        assert verdict.compose_hash.removeprefix("0x") == cvm["compose_hash"]
        assert verdicts.results[0].cvm_id == verdict.cvm_id == device.cvm_ids[0]
        assert on.version < V3 or verdict.cvm_id == cvm["id"]
    other = {**app, "compose_hash": "00" * 32, "device_id": device_id}
    verdict = await on.call("check_app_is_allowed", other)
    assert (verdict.is_allowed, verdict.compose_hash_allowed) == (False, False)
    assert verdict.device_id_allowed is True
    verdict = await on.call("check_app_is_allowed", {**other, "compose_hash": cvm["compose_hash"]})
    assert (verdict.is_allowed, verdict.compose_hash_allowed) == (True, True)


async def _changed(on: Journey, chain: Chain, cvm: dict[str, Any]) -> str:
    """Every change in its two phases (13.4), of a CVM that does not run; the compose hash at the end."""
    of = {"uuid": cvm["vm_uuid"]}

    async def registered(method: str, request: dict[str, Any]) -> None:
        """The call, answered with what to register; then again with the proof."""
        waits = await on.call(method, {**of, **request})
        assert (waits.status, waits.app_id) == ("precondition_required", cvm["app_id"])
        assert waits.kms_info["chain_id"] == chain.chain_id
        sent = await chain.allow(cvm["app_id"], waits.compose_hash)
        proof = {"compose_hash": waits.compose_hash, "transaction_hash": sent}
        done = await on.call(method, {**of, **request, **proof})
        assert done.status == "in_progress"
        assert (await on.settled(cvm["vm_uuid"], "stopped"))["compose_hash"] == waits.compose_hash

    await registered("update_docker_compose", {"docker_compose_file": YAML.replace("1.27", "1.29")})
    await registered("update_pre_launch_script", {"pre_launch_script": "#!/bin/sh\necho chain\n"})
    box = await _sealed(on, chain, f"0x{cvm['app_id']}", "A", "B")
    await registered("update_cvm_envs", {"encrypted_env": box, "env_keys": ["A", "B"]})
    waits = await on.call("patch_cvm", {**of, "public_logs": False})
    assert waits["requires_on_chain_hash"]
    await chain.allow(cvm["app_id"], waits["compose_hash"])
    proof = {"composeHash": waits["compose_hash"], "transactionHash": "already-registered"}
    assert (await on.call("confirm_cvm_patch", {**of, **proof}))["correlation_id"]
    digest = str(waits["compose_hash"])
    assert (await on.settled(cvm["vm_uuid"], "stopped"))["compose_hash"] == digest
    return digest
