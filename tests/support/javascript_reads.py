"""What the published JavaScript client is told without changing a CVM: inventory, account, a running CVM, its app."""

import base64

import httpx

from support.javascript_lives import SCRIPT, YAML, Form, Life, gone
from teehouse.base.hashes import sha256


def public_key(seed: str) -> str:
    """An SSH key that is another one for another seed."""
    name = b"ssh-ed25519"
    blob = b"".join(len(part).to_bytes(4, "big") + part for part in (name, sha256(seed.encode())))
    return f"ssh-ed25519 {base64.b64encode(blob).decode()} me@here"


def inventory(call: Form) -> None:
    """What there is to deploy to: nodes, images, sizes, KMS."""
    available = call("getAvailableNodes")
    [node] = available["nodes"]
    assert node["remaining_cvm_slots"] > 0
    families = call("listAllInstanceTypeFamilies")["result"]
    assert "tdx.small" in {item["id"] for family in families for item in family["items"]}
    family = call("listFamilyInstanceTypes", {"family": families[0]["name"]})
    assert (family["family"], family["total"]) == (families[0]["name"], len(family["items"]))
    images = call("getOsImages", {"page": 1, "page_size": 100})
    assert {image["name"] for image in images["items"]} == {image["name"] for image in node["images"]}
    kms = call("getKmsList", {"page": 1, "page_size": 10})
    [one] = kms["items"]
    assert call("getKmsInfo", {"kms_id": one["slug"]}) == one
    assert call("getKmsList", {"is_onchain": True})["items"] == []
    chain = call("getKmsOnChainDetail", {"chain": "base"})
    assert (chain["chain_name"], chain["chain_id"], chain["contracts"]) == ("base", 8453, [])
    app_ids = call("nextAppIds", {"counts": 3})["app_ids"]
    assert len({one["app_id"] for one in app_ids}) == 3


def changed_mind(call: Form) -> None:
    """A deployment of Docker containers that is taken back while it is made: it needs no engine."""
    node_id = call("getAvailableNodes")["nodes"][0]["teepod_id"]
    promised = call(
        "provisionCvm",
        {
            "name": f"changed-mind-{call}",
            "node_id": node_id,
            "compose_file": {"docker_compose_file": YAML, "allowed_envs": [], "gateway_enabled": True},
        },
    )
    assert promised["node_id"] == node_id
    made = call(
        "commitCvmProvision",
        {"app_id": promised["app_id"], "compose_hash": promised["compose_hash"]},
    )
    assert (made["status"], made["docker_compose_file"]) == ("creating", YAML)
    call("deleteCvm", {"id": str(made["id"])})
    gone(call, made["vm_uuid"])


def account(call: Form, slug: str) -> None:
    """Who calls, and the caller's workspaces and SSH keys."""
    user = call("getCurrentUser")
    path = "/auth/me"
    assert call("get", path) == call("safeRequestMethod" if call.safe else "request", path) == user
    who = user if "username" in user else user["user"]
    assert who["username"] == "admin"
    [workspace] = call("listWorkspaces", {"limit": 10})["data"]
    assert call("getWorkspace", slug) == workspace
    assert (workspace["slug"], workspace["role"]) == (slug, "owner")
    nodes = call("getWorkspaceNodes", {"teamSlug": slug, "page": 1, "pageSize": 10})
    assert [one["object_type"] for one in nodes["items"]] == ["node"]
    quotas = call("getWorkspaceQuotas", {"teamSlug": slug})
    assert quotas["team_slug"] == slug
    assert quotas["quotas"]["vm_slots"]["limit"] >= quotas["quotas"]["vm_slots"]["remaining"] > 0
    key = call("createSshKey", {"name": f"key of {call}", "public_key": public_key(str(call))})
    assert key in call("listSshKeys")
    assert call("deleteSshKey", {"keyId": key["id"]}) is None
    assert key not in call("listSshKeys")
    other = call("post", "/user/ssh-keys", {"name": "by hand", "public_key": public_key("other")})
    call("delete", f"/user/ssh-keys/{other['id']}")
    # There is no way from here to the keys that GitHub keeps: the answer says so, and adds nothing.
    imported = call("importGithubProfileSshKeys", {"github_username": "octocat"})
    synced = call("syncGithubSshKeys")
    for told in (imported, synced):
        assert told["keys_added"] == 0
        assert "no way to GitHub" in told["errors"][0]


def running(life: Life) -> None:
    """What is seen of a CVM that runs, and of its app."""
    call, named = life.call, life.named()
    information(life)
    assert call("getCvmState", named)["status"] == "running"
    stats = call("getCvmStats", named)
    assert (stats["is_online"], stats["status"], stats["boot_error"]) == (True, "running", None)
    assert (stats["error"], stats["sysinfo"]["num_cpus"] > 0) == (None, True)
    assert call("getCvmNetwork", named)["is_online"] is True
    seen = call("getCvmContainersStats", named)
    assert (seen["runner"], seen["docker_compose_file"]) == ("bash", YAML)
    [container] = seen["containers"]
    log = httpx.get(container["log_endpoint"], params={"tail": 5, "bare": "", "text": ""})
    assert log.text.startswith("greeting: hello from ")
    attestation = call("getCvmAttestation", named)
    assert attestation["error"] is None
    assert attestation["app_certificates"]
    assert attestation["tcb_info"]["app_compose"] == attestation["compose_file"]
    assert call("getCvmDockerCompose", named) == YAML
    assert call("getCvmPreLaunchScript", named) == ""
    assert call("getCvmUserConfig", named)["ssh_authorized_keys"] == []
    refreshed = call("refreshCvmInstanceId", {**named, "dry_run": True})
    assert (refreshed["status"], refreshed["source"]) == ("unchanged", "teepod_state")
    every = call("refreshCvmInstanceIds", {"running_only": True, "dry_run": True})
    assert every["scanned"] >= 1
    assert every["errors"] == 0
    app(life)
    if not call.methods:
        watched(life)


def information(life: Life) -> None:
    call, named = life.call, life.named()
    detail = call("getCvmInfo", named)
    assert (detail["vm_uuid"], detail["app_id"]) == (life.vm_uuid, life.app_id)
    assert (detail["status"], detail["instance_id"]) == ("running", call("getCvmState", named)["instance_id"])
    for other in (
        {"app_id": life.app_id},
        {"instance_id": detail["instance_id"]},
        {"name": detail["name"]},
        {"id": str(detail["id"])},
        {"id": life.app_id},
        {"id": detail["instance_id"]},
    ):
        assert call("getCvmInfo", other)["vm_uuid"] == life.vm_uuid
    listed = call("getCvmList", {"page": 1, "page_size": 100})
    uuids = {item["vm_uuid"] if "vm_uuid" in item else item["hosted"]["id"] for item in listed["items"]}
    assert life.vm_uuid in uuids
    file = call.js.own("composeFile", call.version, named)
    assert file["file"]["bash_script"] == SCRIPT
    assert len(file["hash"]) == 64


def app(life: Life) -> None:
    """The ten of the app."""
    call, given = life.call, {"appId": life.app_id}
    options = call("getAppFilterOptions")
    assert "running" in options["statuses"]
    found = call(
        "getAppList",
        {
            "page": 1,
            "page_size": 100,
            "search": life.app_id,
            "status": ["running", "stopped"],
            "listed": False,
            "kms_type": "phala",
            "instance_type": "tdx.small",
            "base_image": options["image_versions"][0],
            "kms_slug": options["kms_slugs"][0],
            "node": options["nodes"][0],
            "region": options["regions"][0],
        },
    )
    assert [one["app_id"] for one in found["dstack_apps"]] == [life.app_id]
    one = call("getAppInfo", {"appId": "0x" + life.app_id.upper()})
    assert (one["app_id"], one["cvm_count"], one["current_cvm"]["vm_uuid"]) == (life.app_id, 1, life.vm_uuid)
    assert len(call("getAppCvms", given)) == 1
    revisions = call("getAppRevisions", {**given, "page": 1, "page_size": 10})
    [revision] = revisions["revisions"]
    detail = call(
        "getAppRevisionDetail", {**given, "revisionId": revision["revision_id"], "rawComposeFile": False}
    )
    assert detail["compose_file"]["bash_script"] == SCRIPT
    raw = call(
        "getAppRevisionDetail", {**given, "revisionId": revision["revision_id"], "rawComposeFile": True}
    )
    assert isinstance(raw["compose_file"], str)
    assert (raw["compose_hash"], raw["operation_type"]) == (revision["compose_hash"], "create")
    told = call("getAppAttestation", given)
    [instance] = told["instances"]
    assert instance["error"] is None
    assert instance["quote"]
    assert call.js.own("keyless", "getAppAttestation", given)["app_id"] == life.app_id
    assert call("getAppDeviceAllowlist", given)["is_onchain_kms"] is False


def watched(life: Life) -> None:
    """The state stream, until the CVM has what it is watched for."""
    request = {**life.named(), "target": "running", "interval": 5, "timeout": 10, "maxRetries": 1}
    seen = life.call.js.own("watch", life.call.version, request)
    assert (seen["state"]["status"], seen["events"]) == ("running", ["state", "complete"])
    life.call.called.add(("function", "watchCvmState"))
