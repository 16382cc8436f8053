"""The part of the published Python client's journey that needs a KMS on chain (cloud-api.md 13.4)."""

from typing import Any

from support.phala_cloud_support import V1, V3, YAML, Journey, compose_hash

BOX = "ab" * 80


async def on_chain(on: Journey) -> None:
    """An app whose KMS is on chain: changes wait for their compose hash to be registered (13.4)."""
    assert on.place.chain is not None
    address = "0x" + compose_hash(on.name)[:40]
    body = {
        "name": f"chain-{on.name}",
        "compose_file": {**on.place.boots, "allowed_envs": ["A"]},
        "kms": "BASE",
        "instance_type": "tdx.small",
    }
    found = await on.call("provision_cvm", body)
    assert (found.app_id, found.kms_info.chain_id) == (None, 8453)
    on.place.chain.allow(address[2:], found.compose_hash)
    deployed = {"contract_address": address, "deployer_address": "0x" + "11" * 20, "encrypted_env": BOX}
    await on.call("commit_cvm_provision", {"app_id": address, "compose_hash": found.compose_hash, **deployed})
    (listed,) = (await on.ask("/apps", search=address[2:]))["dstack_apps"]
    cvm = await on.settled(listed["current_cvm"]["vm_uuid"], "running")
    app, of = {"app_id": cvm["app_id"]}, {"uuid": cvm["vm_uuid"]}

    allowlist = await on.call("get_app_device_allowlist", app)
    verdicts = await on.call("check_app_cvms_is_allowed", app)
    verdict = await on.call("check_cvm_is_allowed", {"cvm_id": cvm["vm_uuid"]})
    if on.version != V1:
        (device,) = allowlist.devices
        assert (allowlist.chain_id, device.status) == (8453, "allowed")
        assert (verdicts.is_onchain, verdicts.total, verdicts.allowed_count) == (True, 1, 1)
        assert verdict.is_allowed
        assert verdicts.results[0].cvm_id == verdict.cvm_id == device.cvm_ids[0]
        assert on.version < V3 or verdict.cvm_id == cvm["id"]
    verdict = await on.call("check_app_is_allowed", {**app, "compose_hash": "00" * 32})
    assert (verdict.is_allowed, verdict.compose_hash_allowed) == (False, False)

    async def registered(method: str, request: dict[str, Any]) -> Any:
        """The call, answered with what to register; then again with the proof."""
        waits = await on.call(method, {**of, **request})
        assert (waits.status, waits.app_id) == ("precondition_required", cvm["app_id"])
        assert waits.kms_info["chain_id"] == 8453
        on.place.chain.allow(cvm["app_id"], waits.compose_hash)
        proof = {"compose_hash": waits.compose_hash, "transaction_hash": "0x" + "77" * 32}
        done = await on.call(method, {**of, **request, **proof})
        assert done.status == "in_progress"
        assert (await on.settled(cvm["vm_uuid"], "running"))["compose_hash"] == waits.compose_hash

    await registered("update_docker_compose", {"docker_compose_file": YAML.replace("1.27", "1.29")})
    await registered("update_pre_launch_script", {"pre_launch_script": "#!/bin/sh\necho chain\n"})
    await registered("update_cvm_envs", {"encrypted_env": BOX, "env_keys": ["A", "B"]})
    waits = await on.call("patch_cvm", {**of, "public_logs": False})
    assert waits["requires_on_chain_hash"]
    on.place.chain.allow(cvm["app_id"], waits["compose_hash"])
    proof = {"composeHash": waits["compose_hash"], "transactionHash": "already-registered"}
    assert (await on.call("confirm_cvm_patch", {**of, **proof}))["correlation_id"]
    await on.settled(cvm["vm_uuid"], "running")
    assert await on.call("delete_cvm", of) is None
    await on.gone(cvm["vm_uuid"])
