"""A compose app on an emulated node with a real Docker Engine: its containers, their agent, a crash of the node."""

import asyncio
import base64
import json
import signal
import subprocess
import sys
import tempfile
import urllib.request
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from dstack_sdk import AsyncDstackClient, EnvVar, encrypt_env_vars_sync, verify_env_encrypt_public_key

from support import node_process
from support.docker_engine import DockerEngine, docker_engine
from support.functional_support import registers_of
from support.python_image import IMAGE, write_image
from teehouse.attestation.identity import derive_app_id
from teehouse.base.clock import SystemClock
from teehouse.base.hashes import sha256
from teehouse.node.api import CvmPhase, CvmSpec, CvmState, settled
from teehouse.node.held import HeldSockets
from teehouse.stack.installation import Installation, open_installation
from teehouse.stack.kms_emulated import ServedKms, allow, serve_kms
from teehouse.stack.node_emulated import emulated_node

pytestmark = pytest.mark.timeout(300)

VALUE = "a value that nobody else reads"
# What runs inside a container: the published SDK, which finds the mounted socket by itself.
ASKING = """
import json, os, time
from dstack_sdk import DstackClient
def answer():
    client = DstackClient()
    info, key, quote = client.info(), client.get_key("a/path"), client.get_quote(b"nonce")
    return {"variable": os.environ.get("VARIABLE"), "other": os.environ.get("NOT_ALLOWED"),
            "app_id": info.app_id, "instance_id": info.instance_id, "compose_hash": info.compose_hash,
            "key": key.key, "quote": quote.quote, "event_log": quote.event_log}
"""
WEB = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        try:
            body = {"web": answer(), "worker": json.load(open("/shared/worker.json"))}
        except Exception as error:
            body = {"error": repr(error)}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())
http.server.ThreadingHTTPServer(("", 80), Handler).serve_forever()
"""
WORKER = """
while True:
    try:
        text = json.dumps(answer())
    except Exception as error:
        text = json.dumps({"error": repr(error)})
    with open("/shared/new", "w") as file:
        file.write(text)
    os.rename("/shared/new", "/shared/worker.json")
    time.sleep(0.2)
"""
# The two ways to mount: the socket itself, and the directory with all of them.
SOCKET = "/var/run/dstack.sock:/var/run/dstack.sock"
SOCKETS = "/var/run/dstack:/var/run/dstack"
COMPOSE_FILE = {
    "services": {
        "web": {
            "image": IMAGE,
            "command": ["python3", "-c", ASKING + WEB],
            "environment": ["VARIABLE", "NOT_ALLOWED"],
            "volumes": [SOCKET, "shared:/shared"],
            "ports": ["80"],
            "depends_on": ["worker"],
        },
        "worker": {
            "image": IMAGE,
            "command": ["python3", "-c", ASKING + WORKER],
            "environment": ["VARIABLE", "NOT_ALLOWED"],
            "volumes": [SOCKETS, "shared:/shared"],
        },
    },
    "volumes": {"shared": None},
}
COMPOSE = json.dumps(
    {
        "manifest_version": 2,
        "name": "two-services",
        "runner": "docker-compose",
        "docker_compose_file": json.dumps(COMPOSE_FILE),
        "key_provider": "kms",
        "kms_enabled": True,
        "allowed_envs": ["VARIABLE"],
    }
).encode()


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerEngine]:
    with tempfile.TemporaryDirectory(prefix="th-") as directory, docker_engine(Path(directory)) as engine:
        image = Path(directory) / "image.tar"
        write_image(image)
        engine.run("import", str(image), IMAGE)
        image.unlink()
        yield engine


@pytest.fixture
def installation() -> Iterator[Installation]:
    # Sockets have short paths.
    with tempfile.TemporaryDirectory(prefix="th-") as directory:
        installation = open_installation(Path(directory) / "t", SystemClock())
        yield installation
        sockets = installation.directory / "s"
        for left_by_a_failure in sockets.iterdir():
            HeldSockets(sockets).drop(left_by_a_failure)


async def sealed(kms: ServedKms, installation: Installation, app_id: str) -> bytes:
    """The environment, for the key that the KMS vouches for."""
    async with httpx.AsyncClient(verify=False, trust_env=False) as client:
        answer = (await client.post(f"{kms.url}/prpc/GetAppEnvEncryptPubKey", json={"app_id": app_id})).json()
    signer = verify_env_encrypt_public_key(
        bytes.fromhex(answer["public_key"]),
        bytes.fromhex(answer["signature_v1"]),
        app_id,
        answer["timestamp"],
    )
    assert signer == "0x" + installation.kms.k256_public_key.hex()
    variables = [EnvVar("VARIABLE", VALUE), EnvVar("NOT_ALLOWED", "dropped")]
    return bytes.fromhex(encrypt_env_vars_sync(variables, answer["public_key"]))


async def new_spec(kms: ServedKms, installation: Installation) -> CvmSpec:
    app_id = derive_app_id(COMPOSE)
    await asyncio.to_thread(allow, kms.auth_file, app=(app_id, sha256(COMPOSE)))
    box = await sealed(kms, installation, app_id.hex())
    return CvmSpec(uuid.uuid4().hex, "two-services", COMPOSE, box)


@asynccontextmanager
async def node_to_be_killed(
    installation: Installation, kms: ServedKms, spec: CvmSpec
) -> AsyncIterator[dict[str, Any]]:
    """A node in another process that has booted the CVM: what it says. It ends by SIGKILL."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        node_process.__file__,
        str(installation.directory),
        kms.url,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        described = {
            "cvm_id": spec.cvm_id,
            "name": spec.name,
            "compose": base64.b64encode(spec.compose).decode(),
            "encrypted_env": base64.b64encode(spec.encrypted_env).decode(),
        }
        process.stdin.write(json.dumps(described).encode() + b"\n")
        line = await asyncio.wait_for(process.stdout.readline(), node_process.START_SECONDS)
        yield json.loads(line)
    finally:
        process.kill()
        assert await process.wait() == -signal.SIGKILL


def fetch(port: int) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
        body: dict[str, Any] = json.loads(answer.read())
        return body


async def heard(port: int) -> dict[str, Any]:
    """What both containers have heard from their agent, once both have."""
    last: Any = None
    for _ in range(300):
        try:
            last = await asyncio.to_thread(fetch, port)
        except OSError as error:
            last = error
        else:
            if "error" not in last and "error" not in last["worker"]:
                return dict(last)
        await asyncio.sleep(0.2)
    pytest.fail(f"the containers do not reach their agent: {last}")


def facts(answer: dict[str, Any]) -> dict[str, Any]:
    """What an agent says, with the registers in the place of the quote."""
    return {**answer, "quote": registers_of(answer["quote"])}


def lives(engine: DockerEngine) -> list[str]:
    """Each container: its id, when it was started, how often it was restarted."""
    ids = engine.run("ps", "-q", "--no-trunc").split()
    form = "{{.Id}} {{.State.StartedAt}} {{.RestartCount}} {{.State.Pid}}"
    return sorted(engine.run("inspect", "--format", form, each) for each in ids)


def left(engine: DockerEngine) -> list[str]:
    """Containers, networks and volumes of the engine that some CVM made."""
    things = [
        *engine.run("ps", "-a", "--format", "{{.Names}}").split(),
        *engine.run("network", "ls", "--format", "{{.Name}}").split(),
        *engine.run("volume", "ls", "--format", "{{.Name}}").split(),
    ]
    return sorted(set(things) - {"bridge", "host", "none"})


def published(engine: DockerEngine) -> int:
    """The port of the host that the web service has."""
    ports = engine.run("ps", "--filter", "expose=80", "--format", "{{.Ports}}")
    return int(ports.partition("->")[0].rpartition(":")[2])


async def test_an_app_of_two_services_outlives_its_node(
    engine: DockerEngine, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{engine.socket}")
    async with serve_kms(installation) as kms:
        spec = await new_spec(kms, installation)
        socket_directory = installation.directory / "s" / spec.cvm_id
        async with node_to_be_killed(installation, kms, spec) as told:
            assert told == {"phase": "running", "error": ""}
            port = published(engine)
            before = await heard(port)
            running = lives(engine)
            assert len(running) == 2
            assert facts(before["web"]) == facts(before["worker"])
            assert before["web"] | {"key": "", "quote": "", "event_log": ""} == {
                "variable": VALUE,
                "other": None,  # not in allowed_envs
                "app_id": derive_app_id(COMPOSE).hex(),
                "instance_id": before["worker"]["instance_id"],
                "compose_hash": sha256(COMPOSE).hex(),
                "key": "",
                "quote": "",
                "event_log": "",
            }
        assert lives(engine) == running  # the node is dead
        inodes = {path: path.stat().st_ino for path in socket_directory.rglob("*.sock")}
        assert {str(path.relative_to(socket_directory)) for path in inodes} == {
            "dstack.sock",
            "tappd.sock",
            "external.sock",
            "dstack/dstack.sock",
            "dstack/tappd.sock",
        }

        async with emulated_node(installation, (kms.url,)) as node:
            state = await node.state(spec.cvm_id)
            assert (state.phase, state.settled, state.boot_count) == (CvmPhase.RUNNING, True, 1)
            assert sorted(each.container_id for each in state.containers) == [
                each.split()[0] for each in running
            ]
            after = await heard(port)
            assert facts(after["web"]) == facts(before["web"])
            assert facts(after["worker"]) == facts(before["worker"])
            assert lives(engine) == running
            assert state.endpoints is not None
            mounted = [path for path in inodes if path.name != "external.sock"]
            assert [path.stat().st_ino for path in mounted] == [inodes[path] for path in mounted]
            async with AsyncDstackClient(str(state.endpoints.dstack)) as outside:
                assert (await outside.get_key("a/path")).key == before["web"]["key"]
            await asyncio.to_thread(no_value_on_disk, installation.directory)

        # A node that ends in good order leaves its CVMs running, too.
        async with emulated_node(installation, (kms.url,)) as node:
            assert facts((await heard(port))["web"]) == facts(before["web"])
            assert lives(engine) == running

            await node.remove(spec.cvm_id)
            assert (await settled(node, spec.cvm_id, timeout_seconds=60)).phase is CvmPhase.REMOVED
            assert await asyncio.to_thread(left, engine) == []
            assert list(socket_directory.parent.iterdir()) == []
            assert not (installation.state / "node" / "cvms" / spec.cvm_id).exists()


def no_value_on_disk(directory: Path) -> None:
    """The value of the encrypted variable stands in no file of the installation."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert [path.name for path in files if VALUE.encode() in path.read_bytes()] == []


async def test_without_an_engine_the_error_tells_how_to_get_one(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    async with serve_kms(installation) as kms, emulated_node(installation, (kms.url,)) as node:
        spec = await new_spec(kms, installation)
        await node.create(spec)
        await node.start(spec.cvm_id)
        state: CvmState = await settled(node, spec.cvm_id, timeout_seconds=60)
        assert (state.phase, state.step) == (CvmPhase.ERROR, "workload")
        assert state.error is not None
        assert state.error.sentence() == (
            "boot step workload: a docker-compose app needs a Docker Engine: expected one that answers at "
            "/nowhere/docker.sock, found ConnectError (install and start one (Debian: apt-get install docker.io "
            "docker-compose), or set DOCKER_HOST)"
        )
        assert not (installation.directory / "s" / spec.cvm_id).exists()
        await node.remove(spec.cvm_id)
        assert (await settled(node, spec.cvm_id, timeout_seconds=60)).phase is CvmPhase.REMOVED
