"""The sample app in a CVM: deployed through the control plane's API, as a user deploys an app.

Rules:

1. Its app id is fixed in the folder before it is deployed, so that each `up` finds it again, whatever came between.
   It is deployed anew, under that id, when its CVM was deleted.
2. Its port stays what it was. It is another one when something else has the port by now; as part of its environment
   it is sealed for the key that the KMS gives for the app.
3. What is to run is this version's compose file, byte for byte: the CVM of an earlier version is updated.
"""

import asyncio
import json
import os
import socket
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from teehouse.base.files import write_atomic
from teehouse.base.findings import misuse, unavailable
from teehouse.base.hashes import sha256
from teehouse.client.cloud import AsyncCloudClient, CloudRefusedError
from teehouse.client.cloud.calls import CloudCall, environment_key
from teehouse.keys.envbox import IV_SIZE, KEY_SIZE, Variable, check_environment_key, seal_environment
from teehouse.keys.pem import spki_der
from teehouse.node.api import CvmPhase, CvmState, Node
from teehouse.stack.addresses import LOOPBACK
from teehouse.stack.chain_of_trust import Deployed
from teehouse.stack.cloud_emulated import KMS_SLUG, ServedCloud
from teehouse.stack.installation import Installation
from teehouse.stack.sample import NAME, sample_compose
from teehouse.wire.cloud.cvms import CvmV3
from teehouse.wire.cloud.kms import EnvironmentPublicKey, NextAppIds

START_SECONDS = 30.0  # for a loaded machine; the boot itself takes a fraction of a second
STOP_SECONDS = 5.0  # that the app gets to end by itself
GREETING = "Tea is served."
RECORD = "sample.json"
_POLL = 0.05  # seconds
_DOWN = frozenset({"stopped", "exited", "error"})


@dataclass(frozen=True, slots=True)
class SampleCvm:
    """The running sample: how its CVM stands on the node, what was deployed, and its name in the API."""

    state: CvmState
    deployed: Deployed
    vm_uuid: str


@dataclass(frozen=True, slots=True)
class _Record:
    """What the folder keeps of the sample; `app_id` has 40 hex digits (rules 1, 2)."""

    app_id: str
    nonce: int
    port: int


async def port_is_lost(installation: Installation, node: Node) -> bool:
    """Whether somebody else has the sample's port by now (rule 2). To be asked before anything starts the sample."""
    record = _read(installation.state / RECORD)
    if record is None:
        return False
    app_id = bytes.fromhex(record.app_id)
    if any(one.app_id == app_id and one.phase is CvmPhase.RUNNING for one in await node.list()):
        return False  # it has outlived the former process, and has the port itself
    try:
        socket.create_server((LOOPBACK, record.port)).close()
    except OSError:
        return True
    return False


async def start_sample(
    installation: Installation, node: Node, cloud: ServedCloud, *, other_port: bool = False
) -> SampleCvm:
    """Deploy the sample app, or find it again, and wait until it answers; on another port where that is wanted.

    Raises `MisuseError` or `CollateralError` with what failed.
    """
    compose = sample_compose(spki_der(installation.kms.ca.key.public_key()).hex())
    path = installation.state / RECORD
    async with AsyncCloudClient(cloud.api_url, cloud.api_key) as client:
        sample = _Sample(client, node, compose, installation.kms.k256_public_key)
        try:
            async with asyncio.timeout(START_SECONDS):
                record = _read(path) or await sample.next_record()
                if other_port:
                    record = replace(record, port=_free_port())
                write_atomic(path, json.dumps(asdict(record)).encode())
                vm_uuid = await sample.deployed(record, changed=other_port)
                state = await sample.running(vm_uuid)
                await _answers(record.port)
        except TimeoutError:
            raise unavailable(
                "sample.silent",
                "the sample app",
                expected=f"an answer within {START_SECONDS:g} seconds",
                found="none",
                remedy="its log is in the node's folder, under its CVM's id",
            ) from None
    url = f"https://localhost:{record.port}"
    return SampleCvm(state, Deployed(url, compose, bytes.fromhex(record.app_id)), vm_uuid)


class _Sample:
    """What is asked of the API for the sample. `trusted` is the KMS's root key, 33 bytes."""

    def __init__(self, client: AsyncCloudClient, node: Node, compose: bytes, trusted: bytes) -> None:
        self._client = client
        self._node = node
        self._compose = compose
        self._trusted = trusted

    async def next_record(self) -> _Record:
        """An app id that nobody has yet, and a free port."""
        found: NextAppIds = await self._client.call(
            CloudCall("GET", "/kms/phala/next_app_id", NextAppIds, query=(("counts", "1"),))
        )
        (one,) = found.app_ids
        return _Record(one.app_id, one.nonce, _free_port())

    async def deployed(self, record: _Record, *, changed: bool) -> str:
        """The UUID of the sample's CVM, which is there and up to date, or on its way to that (rules 1, 3).

        `changed` says that its environment is another one.
        """
        members = json.loads(self._compose)
        cvm = await self._find(record.app_id)
        if cvm is None:
            made = await self._client.deploy(
                NAME,
                members,
                env=_environment(record),
                kms=KMS_SLUG,
                kms_root_key=self._trusted,
                wait=False,
                app_id=record.app_id,
                nonce=record.nonce,
            )
            return made.vm_uuid
        wanted = sha256(self._compose).hex()
        if cvm.compose_hash != wanted or changed:
            place = f"/cvms/{cvm.vm_uuid}/compose_file"
            box = await self._sealed(record)
            await self._client.call(CloudCall("POST", f"{place}/provision", dict[str, Any], body=members))
            change = {"compose_hash": wanted, "encrypted_env": box}
            call: CloudCall[Any] = CloudCall("PATCH", place, dict[str, Any], body=change)
            while not await self._unless_busy(call):  # noqa: ASYNC110 - the API says when it is
                await asyncio.sleep(_POLL)
        return cvm.vm_uuid or ""

    async def running(self, vm_uuid: str) -> CvmState:
        """How the CVM stands on its node once both say that it runs; it is started where it is down."""
        while True:
            cvm: CvmV3 = await self._client.call(CloudCall("GET", f"/cvms/{vm_uuid}", CvmV3))
            state = await self._node_state(vm_uuid)
            if state is not None and state.settled and not cvm.in_progress:
                if cvm.status == "running" and state.phase is CvmPhase.RUNNING:
                    return state
                if cvm.status in _DOWN and state.phase is CvmPhase.ERROR and state.error is not None:
                    raise misuse(
                        state.error.code,
                        "the sample app's CVM did not boot",
                        expected="phase running",
                        found=state.error.sentence(),
                    )
            if cvm.status in _DOWN and not cvm.in_progress:
                await self._unless_busy(CloudCall("POST", f"/cvms/{vm_uuid}/start", dict[str, Any]))
            await asyncio.sleep(_POLL)

    async def _node_state(self, vm_uuid: str) -> CvmState | None:
        """What the node says; None before it knows the CVM."""
        cvm_id = vm_uuid.replace("-", "")
        found = {state.cvm_id: state for state in await self._node.list()}
        return await self._node.state(cvm_id) if cvm_id in found else None

    async def _find(self, app_id: str) -> CvmV3 | None:
        """The app's oldest CVM; None when there is none (any more)."""
        try:
            cvms = await self._client.get_app_cvms(app_id)
        except CloudRefusedError as error:
            if error.refusal is not None and error.refusal.status == httpx.codes.NOT_FOUND:
                return None
            raise
        return cvms[-1] if cvms else None

    async def _sealed(self, record: _Record) -> str:
        """The environment for the key that the KMS gives, whose signature is checked; hex."""
        app_id = bytes.fromhex(record.app_id)
        answer: EnvironmentPublicKey = await self._client.call(environment_key(KMS_SLUG, record.app_id))
        key, signature = bytes.fromhex(answer.public_key), bytes.fromhex(answer.signature)
        finding = check_environment_key(app_id, key, signature, self._trusted)
        if not finding.ok:
            raise CloudRefusedError(finding)
        variables = [Variable(name, value) for name, value in _environment(record).items()]
        return seal_environment(key, variables, ephemeral=os.urandom(KEY_SIZE), iv=os.urandom(IV_SIZE)).hex()

    async def _unless_busy(self, call: CloudCall[Any]) -> bool:
        """Whether it was done; something else may be under way with the CVM."""
        try:
            await self._client.call(call)
        except CloudRefusedError as error:
            if error.refusal is None or not error.refusal.busy:
                raise
            return False
        return True


def _environment(record: _Record) -> dict[str, str]:
    return {"GREETING": GREETING, "PORT": str(record.port)}


async def _answers(port: int) -> None:
    """Wait until something listens on the port."""
    while True:
        try:
            _, writer = await asyncio.open_connection(LOOPBACK, port)
        except OSError:
            await asyncio.sleep(_POLL)
            continue
        writer.close()
        await writer.wait_closed()
        return


def _read(path: Path) -> _Record | None:
    """What was kept; None before the first deployment."""
    try:
        members = json.loads(path.read_text(encoding="utf-8"))
        record = _Record(str(members["app_id"]), int(members["nonce"]), int(members["port"]))
        bytes.fromhex(record.app_id)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record


def _free_port() -> int:
    with socket.create_server((LOOPBACK, 0)) as listening:
        return int(listening.getsockname()[1])
