"""The journey of `support.phala_cloud_support`: every method once at least, and what its answers must say.

Where 2.2 makes a call impossible for the client, the call still does what it is for; the next step reads it from
the API itself.
"""

import asyncio
from typing import Any

import httpx
from dstack_sdk import EnvVar
from phala_cloud import encrypt_env_vars

from support.phala_cloud_support import (
    POLL_SECONDS,
    SCRIPT,
    V1,
    V2,
    V4,
    WAIT_SECONDS,
    YAML,
    Journey,
    compose_hash,
    members,
    ssh_key,
)

CHANGES = [
    "create",
    "restart",
    "update_compose",
    "update_pre_launch_script",
    "update_env",
    "update_visibility",
    "update_resources",
    "update",  # visibility and a setting together
    "update_visibility",
]


async def travel(journey: Journey) -> None:
    """All of it."""
    await account(journey)
    await inventory(journey)
    cvm = await deploy(journey)
    await read_cvm(journey, cvm)
    await read_app(journey, cvm)
    await any_path(journey, cvm)
    await change(journey, cvm)
    await copies(journey, cvm)
    await end(journey, cvm)


async def account(on: Journey) -> None:
    slug = on.place.workspace
    told = await on.ask("/auth/me")
    me = await on.call("get_current_user")
    if on.version == V1:
        assert (me.username, me.team_name) == (told["user"]["username"], told["workspace"]["name"])
    else:
        assert members(me.user) == told["user"]
        assert (me.workspace.slug, me.workspace.role) == (slug, told["workspace"]["role"])
    listed = await on.call("list_workspaces", {"limit": 1})
    assert [space.slug for space in listed.data] == [slug]
    assert members(listed.pagination) == {"has_more": False, "next_cursor": None, "total": 1}
    space = await on.call("get_workspace", slug)
    assert members(space) == members(listed.data[0])
    nodes = await on.call("get_workspace_nodes", {"teamSlug": slug, "page": 1, "pageSize": 1})
    assert (nodes.page, nodes.page_size, len(nodes.items)) == (1, 1, min(1, nodes.total))
    quotas = await on.call("get_workspace_quotas", slug)
    assert quotas.team_slug == slug
    assert members(quotas.quotas)["vm_slots"]["limit"] >= members(quotas.quotas)["vm_slots"]["remaining"] >= 0

    line = ssh_key(on.name)
    made = await on.call("create_ssh_key", {"name": "laptop", "public_key": line})
    assert (made.name, made.public_key.split()[:2]) == ("laptop", line.split()[:2])
    assert made.id in [key.id for key in await on.call("list_ssh_keys")]
    assert await on.call("delete_ssh_key", {"key_id": made.id}) is None
    assert made.id not in [key.id for key in await on.call("list_ssh_keys")]
    imported = await on.call("import_github_profile_ssh_keys", {"github_username": "octocat"})
    assert (imported.github_username, imported.keys_added, len(imported.errors)) == ("octocat", 0, 1)
    synced = await on.call("sync_github_ssh_keys")
    assert (synced.synced_count, synced.keys_added) == (0, 0)


async def inventory(on: Journey) -> None:
    nodes = await on.call("get_available_nodes")
    told = await on.ask("/teepods/available")
    assert [node.teepod_id for node in nodes.nodes] == [node["teepod_id"] for node in told["nodes"]] != []
    assert len(bytes.fromhex(nodes.nodes[0].device_id)) == 32
    graph = await on.call("get_cvm_create_resources")
    assert {relation.teepod_id for relation in graph.node_kms_relations} == {n.teepod_id for n in graph.nodes}
    families = await on.call("list_all_instance_type_families")
    cpu = next(group for group in families.result if group.name == "cpu")
    types = await on.call("list_family_instance_types", {"family": "cpu"})
    assert members(types.items) == members(cpu.items)
    assert types.total == len(types.items) == cpu.total
    assert types.items[0].id == "tdx.small"
    images = await on.call("get_os_images", {"page": 1, "page_size": 1})
    assert (images.page, images.page_size, len(images.items)) == (1, 1, 1)
    assert images.items[0].name in {image.name for node in nodes.nodes for image in node.images}

    kms = on.place.kms
    listed = await on.call("get_kms_list", {"page": 1, "page_size": 100})
    one = next(entry for entry in listed.items if entry.slug == kms)
    assert members(await on.call("get_kms_info", {"kms_id": one.id})) == members(one)
    contracts = await on.call("list_kms_contracts")
    phala = next(entry for entry in contracts.items if entry.contract_address == "phala")
    assert (phala.chain_id, len(bytes.fromhex(phala.k256_pubkey))) == (0, 33)
    assert members(await on.call("get_kms_contract", phala.slug)) == members(phala)
    replicas = await on.call("list_kms_contract_nodes", phala.slug)
    assert kms in [node.slug for node in replicas.items]
    assert replicas.total == phala.node_count
    chain = await on.call("get_kms_on_chain_detail", {"chain": "base"})
    assert (chain.chain_name.lower(), chain.chain_id) == ("base", 8453)
    assert len(chain.contracts) == (on.place.chain is not None)


async def deploy(on: Journey) -> dict[str, Any]:
    """A CVM that runs, as the API shows it at V4."""
    predicted = (await on.call("next_app_ids", {"counts": 2})).app_ids
    assert [one.nonce + 1 for one in predicted[:1]] == [one.nonce for one in predicted[1:]]
    body = {
        "name": f"app-{on.name}",
        "compose_file": {**on.place.boots, "pre_launch_script": SCRIPT, "public_tcbinfo": True},
        "kms": "PHALA",
        "instance_type": "tdx.small",
        "env_keys": ["GREETING"],
    }
    found = await on.call("provision_cvm", body)
    key = await on.call("get_app_env_encrypt_pub_key", {"kms": on.place.kms, "app_id": found.app_id})
    assert key.public_key == found.app_env_encrypt_pubkey
    assert len(bytes.fromhex(key.signature)) == 65
    sealed = await encrypt_env_vars([EnvVar("GREETING", on.name)], key.public_key)
    commit = {"app_id": found.app_id, "compose_hash": found.compose_hash, "encrypted_env": sealed}
    made = await on.call("commit_cvm_provision", commit)
    (listed,) = (await on.ask("/apps", search=found.app_id))["dstack_apps"]
    uuid = listed["current_cvm"]["vm_uuid"]
    cvm = await on.settled(uuid, "running")
    assert (cvm["app_id"], cvm["compose_hash"]) == (found.app_id, found.compose_hash)
    again = await on.call("commit_cvm_provision", commit)
    if on.version != V1:
        assert made.name == again.name == body["name"]
        assert made.id == again.id
        assert made.id == (cvm["id"] if on.version != V2 else again.id)
    other = await on.call("request_full", "POST", "/cvms", json={**commit, "compose_hash": "00" * 32})
    assert (other["status"], other["data"]["error_code"]) == (409, "ERR-03-007")
    return cvm


async def read_cvm(on: Journey, cvm: dict[str, Any]) -> None:
    by_uuid = {"uuid": cvm["vm_uuid"]}
    by_app = {"app_id": f"app_{cvm['app_id']}"}
    info = await on.call("get_cvm_info", by_app)
    if on.version != V1:
        assert (info.name, info.vm_uuid, info.status) == (cvm["name"], cvm["vm_uuid"], "running")
        assert info.compose_hash == cvm["compose_hash"]
        assert members(info.resource) == cvm["resource"]
        assert (await on.call("get_cvm_info", {"id": str(info.id)})).vm_uuid == cvm["vm_uuid"]
    page = await on.call("get_cvm_list", {"page": 1, "page_size": 1})
    assert (page.page, page.page_size, len(page.items)) == (1, 1, 1)
    assert page.pages == page.total >= 1
    state = await on.call("get_cvm_state", by_uuid)
    assert (state.name, state.status, state.instance_id) == (cvm["name"], "running", cvm["instance_id"])
    watched = await on.call("watch_cvm_state", {**by_uuid, "target": "running", "interval": 5, "timeout": 10})
    assert (watched.status, watched.instance_id) == ("running", cvm["instance_id"])
    stats = await on.call("get_cvm_stats", {"instance_id": f"instance_{cvm['instance_id']}"})
    assert stats.status == "running"
    network = await on.call("get_cvm_network", by_uuid)
    assert network.is_online
    containers = await on.call("get_cvm_containers_stats", by_uuid)
    (container,) = members(containers.containers)
    assert (containers.is_online, container["state"]) == (True, "running")
    if on.place.greets:
        await greeted(container["log_endpoint"], on.name)
    evidence = await on.call("get_cvm_attestation", by_uuid)
    assert compose_hash(evidence.compose_file) == cvm["compose_hash"]
    assert (await on.call("get_cvm_user_config", by_uuid)) is not None
    file = await on.call("get_cvm_compose_file", by_uuid)
    assert file.pre_launch_script == SCRIPT == await on.call("get_cvm_pre_launch_script", by_uuid)
    assert file.docker_compose_file == YAML == await on.call("get_cvm_docker_compose", by_uuid)
    images = await on.call("get_available_os_images", by_uuid)
    assert members(images) == await on.ask(f"/cvms/{cvm['vm_uuid']}/available-os-images")
    plain, unknown = cvm["vm_uuid"].replace("-", ""), "00000000-0000-4000-8000-000000000000"
    batch = await on.call("get_cvm_status_batch", {"vmUuids": [cvm["vm_uuid"], plain, unknown]})
    assert {uuid: one.status for uuid, one in batch.items()} == {cvm["vm_uuid"]: "running", plain: "running"}
    assert not batch[plain].in_progress

    refreshed = await on.call("refresh_cvm_instance_id", {**by_uuid, "dry_run": True})
    several = await on.call("refresh_cvm_instance_ids", {"cvm_ids": [cvm["id"]], "dry_run": True})
    if on.version != V1:
        assert (refreshed.status, refreshed.new_instance_id) == ("unchanged", cvm["instance_id"])
        assert (several.total, several.unchanged, several.conflicts) == (1, 1, 0)
        if on.version != V2:
            assert refreshed.cvm_id == several.items[0].cvm_id == cvm["id"]


async def greeted(log_endpoint: str, name: str) -> None:
    """The app's log shows the variable that came sealed for it; the log is public, so no key is sent."""
    async with httpx.AsyncClient() as anybody, asyncio.timeout(WAIT_SECONDS):
        while True:
            log = await anybody.get(f"{log_endpoint}?text&bare&tail=10")
            if f"greeted {name}" in log.text:
                return
            await asyncio.sleep(POLL_SECONDS)


async def read_app(on: Journey, cvm: dict[str, Any]) -> None:
    app = {"app_id": cvm["app_id"]}
    listed = await on.call(
        "get_app_list", {"search": cvm["name"], "status": ["running", "stopped"], "page_size": 1}
    )
    assert (listed.page, listed.page_size, listed.total, listed.total_pages) == (1, 1, 1, 1)
    (found,) = members(listed)["dstack_apps"]
    assert (found["app_id"], found["cvm_count"]) == (cvm["app_id"], 1)
    assert found["current_cvm"]["vm_uuid"] == cvm["vm_uuid"]
    assert (await on.call("get_app_list", {"search": cvm["name"], "status": "exited"})).total == 0
    assert (await on.call("get_app_info", {"app_id": f"0x{cvm['app_id'].upper()}"})).name == cvm["name"]
    cvms = await on.call("get_app_cvms", app)
    assert [one.vm_uuid for one in cvms] == [cvm["vm_uuid"]]
    options = await on.call("get_app_filter_options")
    assert "running" in options.statuses
    assert "tdx.small" in options.instance_types
    assert on.place.kms in options.kms_slugs
    revisions = await on.call("get_app_revisions", {**app, "page": 1, "page_size": 1})
    assert (revisions.page, revisions.page_size, revisions.total, revisions.total_pages) == (1, 1, 1, 1)
    (first,) = members(revisions)["revisions"]
    assert (first["operation_type"], first["compose_hash"]) == ("create", cvm["compose_hash"])
    of = {**app, "revision_id": first["revision_id"]}
    raw = await on.call("get_app_revision_detail", {**of, "raw_compose_file": True})
    assert compose_hash(raw.compose_file) == cvm["compose_hash"]
    parsed = await on.call("get_app_revision_detail", of)
    assert parsed.compose_file["pre_launch_script"] == SCRIPT
    evidence = await on.call("get_app_attestation", app)
    assert (evidence.app_id, [one.vm_uuid for one in evidence.instances]) == (cvm["app_id"], [cvm["vm_uuid"]])
    allowlist = await on.call("get_app_device_allowlist", app)
    assert (allowlist.is_onchain_kms, allowlist.devices) == (False, [])
    batch = await on.call("check_app_cvms_is_allowed", app)
    assert (batch.is_onchain, batch.total, batch.results) == (False, 0, [])
    asked = {**app, "compose_hash": cvm["compose_hash"], "device_id": "5c" * 32, "chain_id": 8453}
    verdict = await on.call("check_app_is_allowed", asked)
    assert (verdict.is_allowed, verdict.compose_hash) == (False, f"0x{cvm['compose_hash']}")
    if on.place.chain is None:  # no contract says anything of an app whose KMS is off chain (11.9)
        assert await on.call("check_cvm_is_allowed", {"cvm_id": cvm["vm_uuid"]}) is None
        assert on.refusal("check_cvm_is_allowed").error_code == "ERR-02-008"
        proof = {"compose_hash": cvm["compose_hash"], "transaction_hash": "already-registered"}
        assert await on.call("confirm_cvm_patch", {"uuid": cvm["vm_uuid"], **proof}) is None
        assert on.refusal("confirm_cvm_patch").error_code == "ERR-01-006"  # no change waits


async def any_path(on: Journey, cvm: dict[str, Any]) -> None:
    """The calls that take any path."""
    assert (await on.call("get", "/os-images", params={"page_size": 1})).page_size == 1
    batch = await on.call("post", "/status/batch", json={"vm_uuids": [cvm["vm_uuid"]]})
    assert members(batch[cvm["vm_uuid"]])["status"] == "running"
    assert (await on.call("request", "GET", f"/apps/{cvm['app_id']}")).name == cvm["name"]
    full = await on.call("request_full", "GET", f"/cvms/{cvm['vm_uuid']}/state")
    assert (full["status"], full["ok"], full["data"]["status"]) == (200, True, "running")
    assert full["headers"]["x-request-id"]
    missing = await on.call("request_full", "GET", "/cvms/no-such-cvm")
    assert (missing["status"], missing["ok"], missing["data"]["error_code"]) == (404, False, "ERR-03-001")


async def change(on: Journey, cvm: dict[str, Any]) -> None:
    """Changes of a CVM that is stopped: they are applied at its next start."""
    of = {"uuid": cvm["vm_uuid"]}
    await on.call("restart_cvm", {**of, "force": True})
    await on.settled(cvm["vm_uuid"], "running")
    await on.call("shutdown_cvm", of)
    await on.settled(cvm["vm_uuid"], "stopped")

    yaml = YAML.replace("1.27", "1.28")
    updated = await on.call("update_docker_compose", {**of, "docker_compose_file": yaml})
    assert updated.status == "in_progress"
    await on.settled(cvm["vm_uuid"], "stopped")
    script = SCRIPT + "echo more\n"
    updated = await on.call("update_pre_launch_script", {**of, "pre_launch_script": script})
    assert updated.status == "in_progress"
    await on.settled(cvm["vm_uuid"], "stopped")
    sealed = await encrypt_env_vars(
        [EnvVar("GREETING", f"{on.name}-anew")], cvm["kms_info"]["encrypted_env_pubkey"]
    )
    envs = await on.call("update_cvm_envs", {**of, "encrypted_env": sealed, "env_keys": ["GREETING"]})
    assert (envs.status, envs.allowed_envs_changed) == ("in_progress", False)
    await on.settled(cvm["vm_uuid"], "stopped")
    seen = await on.call("update_cvm_visibility", {**of, "public_sysinfo": False, "public_logs": True})
    assert (seen.public_sysinfo, seen.public_logs) == (False, True)
    await on.settled(cvm["vm_uuid"], "stopped")
    sized = {**of, "vcpu": 1, "memory": 4096, "allow_restart": True}
    answered = await on.call("update_cvm_resources", sized)
    assert on.kind == "async" or members(answered)["changed"] == ["memory", "instance_type"], members(
        answered
    )
    await on.settled(cvm["vm_uuid"], "stopped")
    assert await on.call("update_os_image", {**of, "os_image_name": cvm["os"]["name"]}) is None
    await on.settled(cvm["vm_uuid"], "stopped")
    patched = await on.call("patch_cvm", {**of, "public_sysinfo": True, "shutdown_timeout": 20})
    assert (patched["requires_on_chain_hash"], bool(patched["correlation_id"])) == (False, True)
    await on.settled(cvm["vm_uuid"], "stopped")

    file = {**await on.ask(f"/cvms/{cvm['vm_uuid']}/compose_file"), "public_tcbinfo": False}
    found = await on.call("provision_cvm_compose_file_update", {**of, "app_compose": file})
    assert found.app_id == cvm["app_id"]
    await on.call("commit_cvm_compose_file_update", {**of, "compose_hash": found.compose_hash})
    after = await on.settled(cvm["vm_uuid"], "stopped")
    assert (after["compose_hash"], after["resource"]["memory_in_gb"]) == (found.compose_hash, 4)
    assert after["compose_file"] == file
    assert (file["docker_compose_file"], file["pre_launch_script"]) == (yaml, script)

    await on.call("start_cvm", of)
    assert (await on.settled(cvm["vm_uuid"], "running"))["compose_hash"] == found.compose_hash
    if on.place.greets:
        (container,) = (await on.ask(f"/cvms/{cvm['vm_uuid']}/composition"))["containers"]
        await greeted(container["log_endpoint"], f"{on.name}-anew")
    revisions = (await on.ask(f"/apps/{cvm['app_id']}/revisions"))["revisions"]
    assert [one["operation_type"] for one in reversed(revisions)] == CHANGES


async def copies(on: Journey, cvm: dict[str, Any]) -> None:
    of = {"uuid": cvm["vm_uuid"]}
    await on.call("replicate_cvm", {**of, "node_id": cvm["node_info"]["id"]})
    await on.call("create_app_instance", {"app_id": cvm["app_id"], "name": f"copy-{on.name}"})
    listed = await on.ask(f"/apps/{cvm['app_id']}/cvms")
    after = next(one for one in listed if one["vm_uuid"] == cvm["vm_uuid"])
    copied = [one for one in listed if one["vm_uuid"] != cvm["vm_uuid"]]
    assert len(copied) == 2
    assert f"copy-{on.name}" in [one["name"] for one in copied]
    for one in copied:
        assert (one["app_id"], one["compose_hash"]) == (cvm["app_id"], after["compose_hash"])
        if on.version == V4:
            await on.settled(one["vm_uuid"], "running")
        assert await on.call("delete_cvm", {"id": one["id"]}) is None  # at the other versions while it boots
    for one in copied:
        await on.gone(one["vm_uuid"])


async def end(on: Journey, cvm: dict[str, Any]) -> None:
    of = {"uuid": cvm["vm_uuid"]}
    await on.call("stop_cvm", of)
    await on.settled(cvm["vm_uuid"], "stopped")
    assert await on.call("delete_cvm", of) is None
    await on.gone(cvm["vm_uuid"])
    assert (await on.ask("/apps", search=cvm["app_id"]))["total"] == 0
