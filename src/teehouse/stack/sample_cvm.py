"""The sample app in a CVM: deployed through the node, started anew with each `up`.

Its id stays the same in a folder, and with it the instance id; its environment is sealed for the key that the
KMS gives for the app, so that the port it serves on travels as a secret would.
"""

import asyncio
import json
import secrets
import socket
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from teehouse.attestation.identity import derive_app_id
from teehouse.base.files import write_atomic
from teehouse.base.findings import misuse, unavailable
from teehouse.keys.envbox import Variable, seal_environment
from teehouse.keys.pem import spki_der
from teehouse.kms.client.connection import KmsConnection
from teehouse.kms.client.public import get_environment_key
from teehouse.node.api import CvmPhase, CvmSpec, CvmState, Node, settled
from teehouse.stack.chain_of_trust import Deployed
from teehouse.stack.installation import Installation
from teehouse.stack.kms_emulated import ServedKms, allow
from teehouse.stack.sample import NAME, sample_compose

START_SECONDS = 30.0  # for a loaded machine; the boot itself takes a fraction of a second
STOP_SECONDS = 5.0  # that the app gets to end by itself
GREETING = "Tea is served."
_POLL = 0.02  # seconds


@dataclass(frozen=True, slots=True)
class SampleCvm:
    """The running sample: how its CVM stands, and what was deployed."""

    state: CvmState
    deployed: Deployed


async def start_sample(installation: Installation, node: Node, kms: ServedKms) -> SampleCvm:
    """Deploy the sample app, or boot it anew, and wait until it answers.

    Raises `MisuseError` or `CollateralError` with the step that failed.
    """
    compose = sample_compose(spki_der(installation.kms.ca.key.public_key()).hex())
    app_id = derive_app_id(compose)
    await asyncio.to_thread(allow, kms.auth_file, app=(app_id, Deployed("", compose, app_id).compose_hash))
    port = _free_port()
    spec = CvmSpec(
        cvm_id=_cvm_id(installation.state / "sample.json"),
        name=NAME,
        compose=compose,
        encrypted_env=await _environment(
            installation, kms, app_id, {"GREETING": GREETING, "PORT": str(port)}
        ),
        app_id=app_id,
    )
    if spec.cvm_id in {state.cvm_id for state in await node.list()}:
        # Left running by a process that was killed, or stopped by one that ended well.
        await node.shutdown(spec.cvm_id, deadline=STOP_SECONDS)
        await settled(node, spec.cvm_id, timeout_seconds=START_SECONDS)
        await node.update(spec)
    else:
        await node.create(spec)
    await node.start(spec.cvm_id)
    state = await settled(node, spec.cvm_id, timeout_seconds=START_SECONDS)
    if state.phase is not CvmPhase.RUNNING:
        error = state.error
        raise misuse(
            error.code if error else "sample.not-running",
            "the sample app's CVM did not boot",
            expected="phase running",
            found=error.sentence() if error else state.phase.value,
        )
    await _answers(port)
    return SampleCvm(state, Deployed(f"https://localhost:{port}", compose, app_id))


async def _environment(
    installation: Installation, kms: ServedKms, app_id: bytes, variables: dict[str, str]
) -> bytes:
    """The box of trust.md 14 for the key that the KMS gives, whose signature is checked."""
    async with KmsConnection(kms.url, root=installation.kms_root_pem) as connection:
        key = await get_environment_key(
            connection,
            app_id,
            trusted=installation.kms.k256_public_key,
            now=installation.clock.now(),
        )
    return seal_environment(
        key.public_key,
        [Variable(name, value) for name, value in variables.items()],
        ephemeral=secrets.token_bytes(32),
        iv=secrets.token_bytes(12),
    )


async def _answers(port: int) -> None:
    """Wait until something listens on the port."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(_POLL)
            continue
        writer.close()
        await writer.wait_closed()
        return
    raise unavailable(
        "sample.silent",
        "the sample app",
        expected=f"an answer on port {port} within {START_SECONDS:g} seconds",
        found="none",
        remedy="its log is in the node's folder, under its CVM's id",
    )


def _cvm_id(path: Path) -> str:
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["cvm_id"])
    except (OSError, ValueError, KeyError, TypeError):
        cvm_id = uuid.uuid4().hex
        write_atomic(path, json.dumps({"cvm_id": cvm_id}).encode())
        return cvm_id


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])
