"""The sample app as the control plane's API sees it: deployed once, kept up to date, started where it is down.

Rules:

1. It is deployed anew, under the app id that the folder keeps, when its CVM was deleted.
2. What is to run is the given compose file, byte for byte: a CVM of another one is updated.
3. Its environment is sealed for the key that the app's KMS gives, whose signature is checked.
"""

import asyncio
import json
import os
from collections.abc import Mapping
from typing import Any, Final

import httpx

from teehouse.base.findings import Finding, misuse
from teehouse.base.hashes import sha256
from teehouse.client.cloud import AsyncCloudClient, CloudRefusedError
from teehouse.client.cloud.calls import CloudCall, environment_key
from teehouse.keys.appkeys import KmsRoot
from teehouse.keys.envbox import IV_SIZE, KEY_SIZE, Variable, check_environment_key, seal_environment
from teehouse.node.api import CvmPhase, CvmState, Node
from teehouse.stack.cloud_emulated import KMS_SLUG
from teehouse.stack.sample import NAME
from teehouse.stack.sample_record import SampleRecord, free_port
from teehouse.wire.cloud.cvms import CvmV3
from teehouse.wire.cloud.kms import EnvironmentPublicKey, NextAppIds

GREETING: Final = "Tea is served."
POLL: Final = 0.05  # seconds
_DOWN = frozenset({"stopped", "exited", "error"})


class Sample:
    """What is asked of the API for the sample under the KMS off chain, whose root is `kms`."""

    kms_slug = KMS_SLUG

    def __init__(self, client: AsyncCloudClient, node: Node, compose: bytes, kms: KmsRoot) -> None:
        self.client = client
        self.members: Mapping[str, Any] = json.loads(compose)
        self._wanted = sha256(compose).hex()
        self._node = node
        self._kms = kms

    # What another KMS does otherwise

    async def record(self, kept: SampleRecord | None) -> SampleRecord:
        """Who the sample is: as it was kept, or an app id that nobody has yet and a free port."""
        if kept is not None:
            return kept
        found: NextAppIds = await self.client.call(
            CloudCall("GET", "/kms/phala/next_app_id", NextAppIds, query=(("counts", "1"),))
        )
        (one,) = found.app_ids
        return SampleRecord(one.app_id, one.nonce, free_port())

    async def created(self, record: SampleRecord) -> str:
        """A new CVM of the app; its UUID."""
        made = await self.client.deploy(
            NAME,
            self.members,
            env=environment(record),
            kms=KMS_SLUG,
            kms_root_key=self._kms.k256_public_key,
            wait=False,
            app_id=record.app_id,
            nonce=record.nonce,
        )
        return made.vm_uuid

    async def permitted(self, record: SampleRecord, compose_hash: str, device_id: str) -> None:
        """See that the KMS gives keys for a compose hash: off chain, the control plane does."""

    def refused(self, error: Finding) -> Exception:
        """What is raised when the CVM did not boot."""
        found = error.sentence()
        return misuse(error.code, "the sample app's CVM did not boot", expected="phase running", found=found)

    # What all do

    async def deployed(self, record: SampleRecord, *, changed: bool) -> str:
        """The UUID of the sample's CVM, which is there and up to date, or on its way to that (rules 1, 2).

        `changed` says that its environment is another one.
        """
        cvm = await self._find(record.app_id)
        if cvm is None:
            return await self.created(record)
        if cvm.compose_hash != self._wanted or changed:
            place = f"/cvms/{cvm.vm_uuid}/compose_file"
            box = await self.sealed(record)
            call: CloudCall[Any] = CloudCall("POST", f"{place}/provision", dict[str, Any], body=self.members)
            prepared = await self.client.call(call)
            await self.permitted(record, self._wanted, str(prepared.get("device_id") or ""))
            change = {"compose_hash": self._wanted, "encrypted_env": box}
            call = CloudCall("PATCH", place, dict[str, Any], body=change)
            while not await self._unless_busy(call):  # noqa: ASYNC110 - the API says when it is
                await asyncio.sleep(POLL)
        return cvm.vm_uuid or ""

    async def running(self, vm_uuid: str) -> CvmState:
        """How the CVM stands on its node once both say that it runs; it is started where it is down."""
        while True:
            cvm: CvmV3 = await self.client.call(CloudCall("GET", f"/cvms/{vm_uuid}", CvmV3))
            state = await self._node_state(vm_uuid)
            if state is not None and state.settled and not cvm.in_progress:
                if cvm.status == "running" and state.phase is CvmPhase.RUNNING:
                    return state
                if cvm.status in _DOWN and state.phase is CvmPhase.ERROR and state.error is not None:
                    raise self.refused(state.error)
            if cvm.status in _DOWN and not cvm.in_progress:
                await self._unless_busy(CloudCall("POST", f"/cvms/{vm_uuid}/start", dict[str, Any]))
            await asyncio.sleep(POLL)

    async def sealed(self, record: SampleRecord) -> str:
        """The environment for the key that the KMS gives, hex (rule 3)."""
        app_id = bytes.fromhex(record.app_id)
        answer: EnvironmentPublicKey = await self.client.call(environment_key(self.kms_slug, record.app_id))
        key, signature = bytes.fromhex(answer.public_key), bytes.fromhex(answer.signature)
        finding = check_environment_key(app_id, key, signature, self._kms.k256_public_key)
        if not finding.ok:
            raise CloudRefusedError(finding)
        variables = [Variable(name, value) for name, value in environment(record).items()]
        return seal_environment(key, variables, ephemeral=os.urandom(KEY_SIZE), iv=os.urandom(IV_SIZE)).hex()

    async def _node_state(self, vm_uuid: str) -> CvmState | None:
        """What the node says; None before it knows the CVM."""
        cvm_id = vm_uuid.replace("-", "")
        found = {state.cvm_id: state for state in await self._node.list()}
        return await self._node.state(cvm_id) if cvm_id in found else None

    async def _find(self, app_id: str) -> CvmV3 | None:
        """The app's oldest CVM; None when there is none (any more)."""
        try:
            cvms = await self.client.get_app_cvms(app_id)
        except CloudRefusedError as error:
            if error.refusal is not None and error.refusal.status == httpx.codes.NOT_FOUND:
                return None
            raise
        return cvms[-1] if cvms else None

    async def _unless_busy(self, call: CloudCall[Any]) -> bool:
        """Whether it was done; something else may be under way with the CVM."""
        try:
            await self.client.call(call)
        except CloudRefusedError as error:
            if error.refusal is None or not error.refusal.busy:
                raise
            return False
        return True


def environment(record: SampleRecord) -> dict[str, str]:
    """The variables of the sample."""
    return {"GREETING": GREETING, "PORT": str(record.port)}
