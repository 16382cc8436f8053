"""What the published JavaScript client asks the control plane about an app on chain (cloud-api.md 11.8-11.10, 13.4)."""

import asyncio
from dataclasses import replace
from typing import Any

from support.chain_owner import Owner
from support.javascript_cloud import Names
from support.javascript_lives import YAML, Form, Life, gone

NOTHING = "00" * 32
OTHER = "ee" * 32


class AppOnChain:
    """One app on chain, led through its life by a form of calling; its owner allows what is to run."""

    def __init__(self, call: Form, names: Names, owner: Owner) -> None:
        self.form = call
        # What reads is called in the other form too.
        self.others = (call, replace(call, names=names, methods=not call.methods, safe=not call.safe))
        self.owner = owner
        self.app_id = ""
        self.vm_uuid = ""

    async def call(self, name: str, *arguments: Any) -> Any:
        return await asyncio.to_thread(self.form, name, *arguments)

    async def read(self, name: str, *arguments: Any) -> Any:
        """What both forms give: the same."""
        one, other = [await asyncio.to_thread(form, name, *arguments) for form in self.others]
        assert one == other
        return one

    async def settled(self, status: str = "running") -> str:
        """The compose hash of the CVM, once nothing is under way with it and it has this status."""
        life = Life(self.form, self.owner.kms, "", self.app_id, 0, self.vm_uuid)
        await asyncio.to_thread(life.settle, status)
        revisions = await self.call("getAppRevisions", {"appId": self.app_id})
        return str(revisions["revisions"][0]["compose_hash"])

    async def live(self) -> None:
        found = await self.deploy()
        await self.allowed(found)
        await self.call(
            "stopCvm", {"uuid": self.vm_uuid}
        )  # what changes it does not start it: that takes no time
        await self.settled("stopped")
        await self.patched()
        digest = await self.committed()
        await self.call("startCvm", {"uuid": self.vm_uuid})
        assert await self.settled() == digest
        await self.call("deleteCvm", {"uuid": self.vm_uuid})
        await asyncio.to_thread(gone, self.form, self.vm_uuid)

    async def deploy(self) -> dict[str, Any]:
        compose = {
            "runner": "bash",
            "bash_script": "exec sleep 3600\n",
            "docker_compose_file": YAML,
            "name": f"chain-{self.form}",
        }
        asked = {
            "name": compose["name"],
            "instance_type": "tdx.small",
            "kms": "BASE",
            "compose_file": compose,
        }
        found: dict[str, Any] = await self.call("post", "/cvms/provision", asked)
        assert (found["app_id"], found["kms_info"]["chain_id"]) == (None, self.owner.chain_id)
        address = await self.owner.deploy(found["compose_hash"], found["device_id"])
        made = await self.call(
            "commitCvmProvision",
            {
                "app_id": address,
                "compose_hash": found["compose_hash"],
                "contract_address": address,
                "deployer_address": self.owner.address,
            },
        )
        self.app_id, self.vm_uuid = address[2:], made["vm_uuid"]
        assert made["app_id"] == self.app_id
        assert await self.settled() == found["compose_hash"]
        return found

    async def allowed(self, found: dict[str, Any]) -> None:
        digest, device = found["compose_hash"], found["device_id"].removeprefix("0x")
        verdict = await self.read("checkCvmIsAllowed", {"cvmId": self.vm_uuid})
        number = verdict["cvm_id"]
        expected = {
            "cvm_id": number,
            "app_contract_address": f"0x{self.app_id}",
            "compose_hash": digest,
            "device_id": device,
            "compose_hash_allowed": True,
            "allow_any_device": False,
            "device_id_allowed": True,
            "is_allowed": True,
            "error": None,
        }
        assert plain(verdict) == expected
        denied = await self.read("checkCvmIsAllowed", {"cvmId": self.vm_uuid, "compose_hash": NOTHING})
        refused = {"compose_hash": NOTHING, "compose_hash_allowed": False, "is_allowed": False}
        assert plain(denied) == {**expected, **refused}

        asked = {"appId": self.app_id, "compose_hash": digest, "device_id": device}
        app = {name: value for name, value in expected.items() if name != "cvm_id"}
        assert plain(await self.read("checkAppIsAllowed", asked)) == app
        denied = await self.read("checkAppIsAllowed", {**asked, "device_id": NOTHING})
        stranger = {"device_id": NOTHING, "device_id_allowed": False, "is_allowed": False}
        assert plain(denied) == {**app, **stranger}

        every = await self.read("checkAppCvmsIsAllowed", {"appId": self.app_id})
        counts = [every[f"{name}_count"] for name in ("allowed", "denied", "error")]
        assert (every["is_onchain"], every["total"], counts) == (True, 1, [1, 0, 0])
        assert [plain(one) for one in every["results"]] == [expected]
        listed = await self.read("getAppDeviceAllowlist", {"appId": self.app_id})
        assert (listed["is_onchain_kms"], listed["chain_id"]) == (True, self.owner.chain_id)
        (entry,) = listed["devices"]
        assert (entry["device_id"].removeprefix("0x"), entry["cvm_ids"]) == (device, [number])
        assert (entry["allowed_onchain"], entry["status"]) == (True, "allowed")

    async def patched(self) -> None:
        """A change, answered with what to register; then confirmed with the transaction."""
        of = {"uuid": self.vm_uuid}
        waits = await self.call("patchCvm", {**of, "public_logs": False})
        self.waits_for(waits)
        other = await self.owner.allow(self.app_id, OTHER)  # a transaction that registers another hash
        proof = {"composeHash": waits["composeHash"], "transactionHash": other}
        early = await asyncio.to_thread(self.form.refused, "confirmCvmPatch", {**of, **proof})
        assert (early.status, early.code) == (467, "ERR-01-007")
        proof["transactionHash"] = await self.owner.allow(self.app_id, waits["composeHash"])
        done = await self.call("confirmCvmPatch", {**of, **proof})
        assert done["correlationId"]
        assert await self.settled("stopped") == waits["composeHash"]

    async def committed(self) -> str:
        """A change that is prepared, and committed with its token by whoever has it."""
        of = {"uuid": self.vm_uuid}
        yaml = YAML + "# committed\n"
        waits = await self.call("patchCvm", {**of, "docker_compose_file": yaml, "prepareOnly": True})
        self.waits_for(waits)
        digest = waits["composeHash"]
        sent = await self.owner.allow(self.app_id, digest)
        commit = {**of, "token": waits["commitToken"], "composeHash": digest, "transactionHash": sent}
        done = await self.call("commitCvmUpdate", commit)
        assert done["correlationId"]
        assert await self.settled("stopped") == digest
        assert await self.call("getCvmDockerCompose", of) == yaml
        again = await asyncio.to_thread(self.form.refused, "commitCvmUpdate", commit)
        assert (again.status, again.code) == (466, "ERR-01-006")
        return str(digest)

    def waits_for(self, waits: dict[str, Any]) -> None:
        assert (waits["requiresOnChainHash"], waits["appId"]) == (True, self.app_id)
        assert waits["kmsInfo"]["chain_id"] == self.owner.chain_id


def plain(verdict: dict[str, Any]) -> dict[str, Any]:
    """Addresses and words are compared without regard to how they are written."""
    written = {"compose_hash", "device_id"}
    return {
        name: value.removeprefix("0x")
        if name in written
        else value.lower()
        if isinstance(value, str)
        else value
        for name, value in verdict.items()
    }
