"""The lives of CVMs as the published JavaScript client leads them, in each of its forms of calling."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from support.javascript_cloud import JavascriptCloud, Names, Refused

SETTLE_SECONDS = 60
POLL = 0.2
YAML = "services:\n  web:\n    image: nginx:1.27-alpine\n    ports:\n      - 80:80\n"
# What runs is the script; the Docker Compose file beside it is what the client's schemas insist on.
SCRIPT = """echo "greeting: $GREETING"
trap 'exit 0' TERM
sleep 1000 & wait
"""
GITHUB_MISSING = "GitHub"


@dataclass
class Form:
    """A way of calling: exported functions or methods of the client, and of those the throwing or the safe ones."""

    js: JavascriptCloud
    names: Names
    version: str
    methods: bool = False
    safe: bool = False
    called: set[tuple[str, str]] = field(default_factory=set)

    def __str__(self) -> str:
        return f"{'s' if self.safe else 't'}{'m' if self.methods else 'f'}-{self.version[:4]}"

    def __call__(self, name: str, *arguments: Any) -> Any:
        """What the function gives in this form; where it has no such form, in the nearest it has."""
        if self.safe and self.has(safe := f"safe{name[0].upper()}{name[1:]}"):
            name = safe
        form = "method" if self.methods and name in self.names.methods else "function"
        if name not in self.names.functions:
            form = "method"
        self.called.add((form, name))
        return self.js.call(self.version, form, name, *arguments)

    def has(self, name: str) -> bool:
        return name in self.names.functions or name in self.names.methods

    def refused(self, name: str, *arguments: Any) -> Refused:
        """How a call is refused that cannot succeed here."""
        try:
            answer = self(name, *arguments)
        except Refused as refused:
            return refused
        raise AssertionError(f"{name} was not refused: {answer!r}")


@dataclass
class Life:
    """One CVM, from its provision to its end; its app has the id of a nonce that was chosen for it."""

    call: Form
    kms: str
    kms_key: str  # what the KMS signs with: 66 hex digits
    app_id: str
    nonce: int
    vm_uuid: str = ""

    def named(self) -> dict[str, str]:
        return {"uuid": self.vm_uuid}

    def status(self, vm_uuid: str = "") -> dict[str, Any]:
        uuid = vm_uuid or self.vm_uuid
        answer: dict[str, Any] = self.call("getCvmStatusBatch", {"vmUuids": [uuid]})[uuid]
        return answer

    def settle(self, wanted: str, vm_uuid: str = "") -> dict[str, Any]:
        """Wait until nothing is under way and the status is the wanted one."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while (status := self.status(vm_uuid))["in_progress"] or status["status"] != wanted:
            assert time.monotonic() < deadline, (wanted, status)
            assert status["in_progress"] or status["status"] != "error", status
            time.sleep(POLL)
        return status

    def provision(self, name: str) -> dict[str, Any]:
        """A compose file for the app id that was chosen."""
        answer: dict[str, Any] = self.call(
            "post",
            "/cvms/provision",
            {
                "name": name,
                "instance_type": "tdx.small",
                "compose_file": {
                    "runner": "bash",
                    "bash_script": SCRIPT,
                    "docker_compose_file": YAML,
                    "allowed_envs": ["GREETING"],
                    "name": "",
                },
                "app_id": self.app_id,
                "nonce": self.nonce,
            },
        )
        assert answer["app_id"] == self.app_id
        return answer

    def deploy(self, name: str) -> dict[str, Any]:
        """Provision and commit with a sealed environment; until it runs. What the commit answered."""
        provision = self.provision(name)
        key = self.call("getAppEnvEncryptPubKey", {"kms": self.kms, "app_id": self.app_id})
        assert key["public_key"] == provision["app_env_encrypt_pubkey"]
        signer = self.call.js.own("signer", key["public_key"], key["signature"], self.app_id)
        assert signer == f"0x{self.kms_key}"
        sealed = self.sealed({"GREETING": f"hello from {name}"}, key["public_key"])
        asked = {
            "app_id": self.app_id,
            "compose_hash": provision["compose_hash"],
            "encrypted_env": sealed,
            "env_keys": ["GREETING"],
        }
        committed: dict[str, Any] = self.call("commitCvmProvision", asked)
        assert (committed["name"], committed["status"]) == (name, "creating"), committed
        assert committed["app_id"] == self.app_id
        self.vm_uuid = committed["vm_uuid"]
        again = self.call("commitCvmProvision", asked)  # cloud-api.md 16: once, however often it is said
        assert again["id"] == committed["id"]
        return committed

    def sealed(self, variables: dict[str, str], key: str) -> str:
        pairs = [{"key": name, "value": value} for name, value in variables.items()]
        return str(self.call.js.local("encryptEnvVars", pairs, key))

    def change(self, name: str, status: str = "running", **what: Any) -> Any:
        """Ask for a change and wait until it is made."""
        answer = self.call(name, {**self.named(), **what})
        self.settle(status)
        return answer

    def remove(self) -> None:
        """Delete the CVM, and wait until it is gone."""
        assert self.call("deleteCvm", self.named()) is None
        gone(self.call, self.vm_uuid)


def gone(call: Form, vm_uuid: str) -> None:
    deadline = time.monotonic() + SETTLE_SECONDS
    while vm_uuid in call("getCvmStatusBatch", {"vmUuids": [vm_uuid]}):
        assert time.monotonic() < deadline
        time.sleep(POLL)
    assert call.refused("getCvmInfo", {"uuid": vm_uuid}).status == 404


def live(life: Life, name: str, during: Callable[[Life], None] | None = None) -> None:
    """Everything that a client does with a CVM and that changes it; `during` is done while it runs."""
    call = life.call
    life.deploy(name)
    life.settle("running")
    if during is not None:
        during(life)

    stopped = call("stopCvm", life.named())
    assert (stopped["vm_uuid"], stopped["app_id"]) == (life.vm_uuid, life.app_id)
    life.settle("stopped")
    change_stopped(life)
    assert call("startCvm", life.named())["name"] == name
    life.settle("running")
    assert call("getCvmDockerCompose", life.named()) == YAML + "# changed\n"
    call("restartCvm", {**life.named(), "force": True})
    life.settle("running")
    copies(life)
    call("shutdownCvm", life.named())
    life.settle("stopped")
    life.remove()


def change_stopped(life: Life) -> None:
    """Every change of what a CVM is; it does not run, and none of them starts it."""
    call, named = life.call, life.named()
    before = call("getCvmComposeFile", named)
    detail = call("getCvmInfo", named)

    patched = life.change("patchCvm", "stopped", allowed_envs=["GREETING", "OTHER"], shutdown_timeout=30)
    assert patched["requiresOnChainHash"] is False
    assert patched["correlationId"]
    assert call("patch", f"/cvms/{life.vm_uuid}", {"shutdown_timeout": 40})["changed"] == ["shutdown_timeout"]
    life.settle("stopped")
    manifest = {"docker_compose_file": YAML + "# put\n"}
    call("put", f"/cvms/app_{life.app_id}/compose", {"compose_manifest": manifest})
    life.settle("stopped")
    key = call("getAppEnvEncryptPubKey", {"kms": "phala", "app_id": life.app_id})["public_key"]
    box = life.sealed({"GREETING": "hello again"}, key)
    envs = life.change("updateCvmEnvs", "stopped", encrypted_env=box, env_keys=["GREETING"])
    assert (envs["status"], envs["allowed_envs_changed"]) == ("in_progress", True)
    changed = life.change("updateDockerCompose", "stopped", docker_compose_file=YAML + "# changed\n")
    assert changed["status"] == "in_progress"
    script = life.change("updatePreLaunchScript", "stopped", pre_launch_script="echo 'before the launch'\n")
    assert script["correlation_id"]
    assert call("getCvmPreLaunchScript", named) == "echo 'before the launch'\n"

    file = call("getCvmComposeFile", named)
    assert (file["allowed_envs"], file["pre_launch_script"]) == (
        ["GREETING"],
        "echo 'before the launch'\n",
    )
    assert file["bash_script"] == before["bash_script"] == SCRIPT
    update = call(
        "provisionCvmComposeFileUpdate", {**named, "app_compose": {**file, "pre_launch_script": ""}}
    )
    assert update["app_id"] == life.app_id
    life.change("commitCvmComposeFileUpdate", "stopped", compose_hash=update["compose_hash"])
    assert call("getCvmPreLaunchScript", named) == ""

    life.change("updateCvmResources", "stopped", vcpu=2, memory=4096)
    seen = life.change("updateCvmVisibility", "stopped", public_logs=True, public_sysinfo=False)
    assert (seen["vcpu"], seen["memory"], seen["public_sysinfo"]) == (2, 4096, False)
    images = [
        one for image in call("getAvailableOsImages", named) for one in (image["prod"], image["dev"]) if one
    ]
    other = next(image["name"] for image in images if not image["is_current"])
    life.change("updateOsImage", "stopped", os_image_name=other)
    images = [
        one for image in call("getAvailableOsImages", named) for one in (image["prod"], image["dev"]) if one
    ]
    assert [image["name"] for image in images if image["is_current"]] == [other]
    refreshed = call("refreshCvmInstanceId", named)
    assert refreshed["status"] in {"unchanged", "skipped"}
    assert life.status()["status"] == "stopped"
    assert call("getCvmInfo", named)["app_id"] == detail["app_id"]
    refuse_chain(life)


def refuse_chain(life: Life) -> None:
    """What only an app on chain has: the answers say so. For one that has it: tests/functional/test_up_chain.py."""
    call, named = life.call, life.named()
    digest = "ab" * 32
    confirm = call.refused(
        "confirmCvmPatch", {**named, "composeHash": digest, "transactionHash": "0x" + digest}
    )
    assert (confirm.status, confirm.code) == (466, "ERR-01-006")
    commit = {**named, "token": "ct_nothing", "composeHash": digest, "transactionHash": ""}
    refused = call.refused("commitCvmUpdate", commit)
    assert (refused.status, refused.code) == (466, "ERR-01-006")
    assert call.refused("checkCvmIsAllowed", {"cvmId": life.vm_uuid}).status == 400
    assert call.refused("checkAppIsAllowed", {"appId": life.app_id, "compose_hash": digest}).status == 400
    every = call("checkAppCvmsIsAllowed", {"appId": life.app_id})
    assert every == {
        "is_onchain": False,
        "results": [],
        "total": 0,
        "allowed_count": 0,
        "denied_count": 0,
        "error_count": 0,
        "skipped_cvm_ids": [],
    }


def copies(life: Life) -> None:
    """A replica and an instance: of the same app, with an instance id of their own."""
    call = life.call
    replica = call("replicateCvm", life.named())
    instance = call("createAppInstance", {"appId": life.app_id})
    uuids = {life.vm_uuid, replica["vm_uuid"], instance["vm_uuid"]}
    assert len(uuids) == 3
    assert {replica["app_id"], instance["app_id"]} == {life.app_id}
    for uuid in (replica["vm_uuid"], instance["vm_uuid"]):
        life.settle("running", uuid)
    shown = call("getAppCvms", {"appId": life.app_id})
    assert {cvm["hosted"]["id"] if "hosted" in cvm else cvm["vm_uuid"] for cvm in shown} == uuids
    for uuid in (replica["vm_uuid"], instance["vm_uuid"]):
        with contextlib.suppress(KeyError):
            call("deleteCvm", {"uuid": uuid})
    for uuid in (replica["vm_uuid"], instance["vm_uuid"]):
        gone(call, uuid)
