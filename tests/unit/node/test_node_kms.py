"""A node's boots against the KMS itself, over RA-TLS on loopback (trust.md 13.5), and with the runners themselves."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from support.node_support import compose_file, cvm_spec, short_directory
from support.node_workloads import until
from teehouse.attestation.identity import derive_app_id
from teehouse.base.clock import SystemClock
from teehouse.base.hashes import sha256
from teehouse.keys.appkeys import issue_app_keys
from teehouse.keys.derive import application_key
from teehouse.keys.envbox import Variable, seal_environment
from teehouse.keys.pem import certificate_der, certificate_public_key, spki_der
from teehouse.kms.client.appkeys import Patience
from teehouse.kms.client.connection import KmsConnection
from teehouse.kms.client.public import get_environment_key
from teehouse.node.api import CvmPhase, CvmSpec, CvmState, settled
from teehouse.node.boot import BootParts
from teehouse.node.compose_runner import ComposeWorkload
from teehouse.node.key_source import KmsKeySource
from teehouse.node.local import LocalNode, NodeSettings
from teehouse.node.workload import Workload
from teehouse.stack.driver_emulated import EmulatedDriver
from teehouse.stack.installation import Installation, open_installation
from teehouse.stack.kms_emulated import allow, serve_kms
from teehouse.stack.node_emulated import CAPACITY, emulated_node
from teehouse.wire.app_compose import AppCompose

SECONDS = 30.0
APP = compose_file(
    bash_script='echo "$A" > a; trap "exit 0" TERM; while true; do sleep 0.05; done', allowed_envs=["A"]
)


@pytest.fixture
def installation() -> Installation:
    return open_installation(short_directory(), SystemClock())


@pytest.fixture
def allowed(installation: Installation) -> None:
    """The file that says what may boot has the app in it."""
    allow(installation.state / "auth-config.json", app=(derive_app_id(APP), sha256(APP)))


async def booted(node: LocalNode, spec: CvmSpec) -> CvmState:
    await node.create(spec)
    await node.start(spec.cvm_id)
    return await settled(node, spec.cvm_id, timeout_seconds=SECONDS)


async def call(state: CvmState, method: str, body: dict[str, object]) -> dict[str, object]:
    assert state.endpoints is not None
    transport = httpx.AsyncHTTPTransport(uds=str(state.endpoints.dstack))
    async with httpx.AsyncClient(transport=transport, base_url="http://agent", timeout=SECONDS) as client:
        answer = await client.post(f"/{method}", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


@pytest.mark.usefixtures("allowed")
async def test_keys_environment_and_certificates_come_from_the_kms(
    installation: Installation,
) -> None:
    app_id = derive_app_id(APP)
    async with serve_kms(installation) as kms, emulated_node(installation, (kms.url,)) as node:
        async with KmsConnection(kms.url) as connection:
            key = await get_environment_key(
                connection, app_id, trusted=installation.kms.k256_public_key, now=installation.clock.now()
            )
        box = seal_environment(
            key.public_key, [Variable("A", "one")], ephemeral=b"\x09" * 32, iv=b"\x01" * 12
        )
        spec = cvm_spec(compose=APP, encrypted_env=box)
        state = await booted(node, spec)
        assert (state.phase, state.error) == (CvmPhase.RUNNING, None)
        given = issue_app_keys(installation.kms, app_id, state.instance_id, installation.created).keys
        found = await call(state, "GetKey", {"path": "x", "purpose": "y"})
        assert found["key"] == application_key(given.k256_key, "x").hex()
        answer = await call(state, "GetTlsKey", {"subject": "app.test", "usage_server_auth": True})
        chain = answer["certificate_chain"]
        assert isinstance(chain, list)
        root = certificate_public_key(certificate_der(chain[-1]))
        assert spki_der(root) == spki_der(installation.kms.ca.key.public_key())
        written = installation.state / "node" / "cvms" / spec.cvm_id / "workload" / "home" / "a"
        await until(lambda: written.exists() and written.read_text() == "one\n")
        stats = await node.stats(spec.cvm_id)
        assert stats.processes is not None
        assert stats.processes >= 2  # the shell and its supervisor
        await node.remove(spec.cvm_id)
        assert (await settled(node, spec.cvm_id, timeout_seconds=SECONDS)).phase is CvmPhase.REMOVED


@pytest.mark.usefixtures("allowed")
async def test_a_running_app_outlives_the_node_and_its_kms(installation: Installation) -> None:
    """Its agent comes back with its keys although no KMS is there to ask."""
    spec = cvm_spec(compose=APP)
    async with serve_kms(installation) as kms, emulated_node(installation, (kms.url,)) as node:
        before = await booted(node, spec)
        key = await call(before, "GetKey", {"path": "x", "purpose": "y"})
    async with emulated_node(installation, ()) as node:
        after = await node.state(spec.cvm_id)
        assert replace(after, containers=()) == replace(before, containers=())
        assert [container.state for container in after.containers] == ["running"]
        assert await call(after, "GetKey", {"path": "x", "purpose": "y"}) == key
        await node.remove(spec.cvm_id)
        await settled(node, spec.cvm_id, timeout_seconds=SECONDS)


async def test_an_app_that_nobody_allowed_gets_no_keys(installation: Installation) -> None:
    async with serve_kms(installation) as kms, emulated_node(installation, (kms.url,)) as node:
        spec = cvm_spec(compose=APP)
        state = await booted(node, spec)
        assert state.error is not None
        assert (state.phase, state.error.code) == (CvmPhase.ERROR, "node.boot.keys")
        assert "Boot denied" in state.error.sentence()
        assert derive_app_id(APP).hex() in kms.audit_file.read_text()
        allow(kms.auth_file, app=(derive_app_id(APP), sha256(APP)))
        assert (await booted(node, spec)).phase is CvmPhase.RUNNING
        await node.stop(spec.cvm_id)
        await settled(node, spec.cvm_id, timeout_seconds=SECONDS)


@pytest.mark.usefixtures("allowed")
async def test_without_a_kms_a_boot_waits_and_then_says_so(installation: Installation) -> None:
    async with serve_kms(installation) as kms:
        url = kms.url
    impatient = Patience(deadline=0.3, first_pause=0.05)
    spec = cvm_spec(compose=APP)
    async with emulated_node(installation, (url,), patience=impatient) as node:
        state = await booted(node, spec)
        assert state.error is not None
        assert (state.phase, state.error.code, state.error.check) == (
            CvmPhase.ERROR,
            "node.boot.keys",
            "kms.deadline",
        )
        assert not (installation.state / "node" / "cvms" / spec.cvm_id / "machine").exists()
    async with emulated_node(installation, (url,)) as node:
        await node.start(spec.cvm_id)
        await asyncio.sleep(0.1)
        assert (await node.state(spec.cvm_id)).phase is CvmPhase.BOOTING
        async with serve_kms(installation):
            assert (await settled(node, spec.cvm_id, timeout_seconds=SECONDS)).phase is CvmPhase.RUNNING
            await node.stop(spec.cvm_id)
            await settled(node, spec.cvm_id, timeout_seconds=SECONDS)


@pytest.fixture
async def without_engine(installation: Installation) -> AsyncIterator[LocalNode]:
    def compose_workload(cvm_id: str, directory: Path, _compose: AppCompose) -> Workload:
        nowhere = installation.directory / "no-engine.sock"
        return ComposeWorkload(cvm_id, directory, host={"DOCKER_HOST": f"unix://{nowhere}", "PATH": ""})

    settings = NodeSettings("node", CAPACITY, installation.directory / "s")
    parts = BootParts(EmulatedDriver(installation.pki), KmsKeySource(installation.clock), installation.clock)
    async with LocalNode(installation.state / "node", settings, parts, compose_workload) as node:
        yield node


async def test_an_app_in_containers_needs_an_engine(without_engine: LocalNode) -> None:
    """And the CVM can be removed nevertheless: nothing of it was ever made."""
    text = "services:\n  web:\n    image: nginx\n"
    compose = compose_file(key_provider="none", runner="docker-compose", docker_compose_file=text)
    spec = cvm_spec(compose=compose)
    state = await booted(without_engine, spec)
    assert state.error is not None
    assert (state.phase, state.error.code) == (CvmPhase.ERROR, "node.boot.workload")
    assert "Docker Engine" in state.error.subject
    assert "apt-get install" in state.error.remedy
    await without_engine.remove(spec.cvm_id)
    state = await settled(without_engine, spec.cvm_id, timeout_seconds=SECONDS)
    assert (state.phase, await without_engine.list()) == (CvmPhase.REMOVED, ())
