"""Runner docker-compose against a real Docker Engine and a real Docker Compose."""

import asyncio
import contextlib
import socket
import tempfile
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from support.docker_engine import IMAGE, DockerEngine, docker_engine
from support.node_workloads import CVM_ID, spec_of
from teehouse.node.compose_runner import ComposeWorkload
from teehouse.node.workload import PublishedPort, WorkloadError

pytestmark = pytest.mark.timeout(300)

OTHER_ID = "f" * 32
FILE = f"""
version: "3.8"
x-common: &common
  image: {IMAGE}
  restart: always
services:
  web:
    <<: *common
    container_name: shop
    command: ["sh", "-c", "echo \\"$$GREETING\\" > /tmp/index.html; httpd -f -p 80 -h /tmp"]
    environment:
      - GREETING
    ports: ["${{WEB_PORT}}:80"]
    volumes:
      - /var/run/dstack.sock:/var/run/dstack.sock
      - /var/run/dstack:/var/run/dstack
      - /data:/data
      - store:/store
  worker:
    <<: *common
    command: ["sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait"]
    volumes:
      - type: bind
        source: /var/run/tappd.sock
        target: /var/run/tappd.sock
volumes:
  store: {{name: common-name}}
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerEngine]:
    # Sockets have short paths.
    with tempfile.TemporaryDirectory(prefix="th-") as directory, docker_engine(Path(directory)) as engine:
        yield engine


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="th-") as directory:
        yield Path(directory)


@pytest.fixture
async def workload(engine: DockerEngine, place: Path) -> AsyncIterator[ComposeWorkload]:
    workload = ComposeWorkload(CVM_ID, place / "a", host=engine.host)
    yield workload
    await workload.remove()


def left(engine: DockerEngine) -> list[str]:
    """Everything in the engine that is some CVM's."""
    things = [
        *engine.run("ps", "-a", "--format", "{{.Names}}").split(),
        *engine.run("network", "ls", "--format", "{{.Name}}").split(),
        *engine.run("volume", "ls", "--format", "{{.Name}}").split(),
    ]
    return sorted(set(things) - {"bridge", "host", "none"})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fetch(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
        return str(answer.read().decode().strip())


@contextlib.asynccontextmanager
async def agent_sockets(directory: Path) -> AsyncIterator[None]:
    """Something that answers on the sockets of a CVM."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"the agent\n")
        await writer.drain()
        writer.close()

    (directory / "dstack").mkdir(parents=True)
    names = ("dstack.sock", "tappd.sock", "dstack/dstack.sock")
    servers = [await asyncio.start_unix_server(answer, directory / name) for name in names]
    try:
        yield
    finally:
        for server in servers:
            server.close()
            await server.wait_closed()


async def execute(engine: DockerEngine, container: str, *words: str) -> str:
    return await asyncio.to_thread(engine.run, "exec", container, *words)


async def heard(engine: DockerEngine, container: str, path: str) -> str:
    """What a socket says that stands at `path` for the programs of a container."""
    await execute(engine, container, "sh", "-c", f"[ -S {path} ]")
    pid = await asyncio.to_thread(engine.run, "inspect", "--format", "{{.State.Pid}}", container)
    reader, writer = await asyncio.open_unix_connection(f"/proc/{pid}/root{path}")
    said = await reader.read()
    writer.close()
    await writer.wait_closed()
    return said.decode().strip()


async def test_an_app_from_start_to_removal(
    engine: DockerEngine, workload: ComposeWorkload, place: Path
) -> None:
    port = free_port()
    environment = {"GREETING": "s3cret greeting", "WEB_PORT": str(port), "COMPOSE_PROJECT_NAME": "other"}
    spec = spec_of(place / "a", runner="docker-compose", docker_compose_file=FILE, environment=environment)
    async with agent_sockets(spec.socket_directory):
        await workload.start(spec)
        web, worker = sorted(await workload.state(), key=lambda state: state.service)
        assert (web.name, web.service, web.image, web.state, web.exit_code) == (
            "shop",
            "web",
            IMAGE,
            "running",
            None,
        )
        assert web.ports == (PublishedPort("127.0.0.1", port, 80, "tcp", wanted=port),)
        assert (worker.name, worker.state, worker.ports) == ("dstack-worker-1", "running", ())
        assert await asyncio.to_thread(fetch, port) == "s3cret greeting"
        for file in ("/var/run/dstack.sock", "/var/run/dstack/dstack.sock"):
            assert await heard(engine, web.container_id, file) == "the agent"
        assert await heard(engine, worker.container_id, "/var/run/tappd.sock") == "the agent"
        assert (
            await execute(engine, worker.container_id, "sh", "-c", "nslookup shop >/dev/null && echo known")
            == "known"
        )
        await execute(engine, web.container_id, "touch", "/data/kept", "/store/kept")
        assert (place / "a" / "workload" / "disk" / "data" / "kept").exists()

        again = ComposeWorkload(CVM_ID, place / "a", host=engine.host)  # after a crash of the node
        assert await again.adopt()
        assert {state.container_id for state in await again.state()} == {
            web.container_id,
            worker.container_id,
        }

        await again.start(spec)  # runs already
        assert {state.container_id for state in await again.state()} == {
            web.container_id,
            worker.container_id,
        }

        await again.stop(2)
        assert {state.service: state.state for state in await again.state()} == {
            "web": "exited",
            "worker": "exited",
        }
        assert {state.service: state.exit_code for state in await again.state()}["worker"] == 0
        assert not await again.adopt()
        await workload.start(spec)
        [web] = [state for state in await workload.state() if state.service == "web"]
        assert (
            await execute(engine, web.container_id, "ls", "/data", "/store")
            == "/data:\nkept\n\n/store:\nkept"
        )
    files = [path for path in (place / "a" / "workload").rglob("*") if path.is_file()]
    assert all(b"s3cret" not in path.read_bytes() for path in files)
    await workload.remove()
    assert left(engine) == []
    assert await workload.state() == []
    assert [path.name for path in (place / "a").iterdir()] == ["sockets"]


async def test_two_cvms_of_one_app_do_not_meet(
    engine: DockerEngine, workload: ComposeWorkload, place: Path
) -> None:
    other = ComposeWorkload(OTHER_ID, place / "b", host=engine.host)
    port = free_port()
    try:
        ports = []
        for each, cvm_id, name in ((workload, CVM_ID, "a"), (other, OTHER_ID, "b")):
            spec = spec_of(
                place / name,
                cvm_id=cvm_id,
                runner="docker-compose",
                docker_compose_file=FILE,
                environment={"GREETING": name, "WEB_PORT": str(port)},
            )
            async with agent_sockets(spec.socket_directory):
                await each.start(spec)
            [published] = [state.ports for state in await each.state() if state.service == "web"]
            ports.append(published[0])
        assert [published.wanted for published in ports] == [port, port]
        assert ports[0].port == port != ports[1].port
        assert [await asyncio.to_thread(fetch, published.port) for published in ports] == ["a", "b"]
        await other.remove()
        assert [state.state for state in await workload.state()] == ["running", "running"]
        assert await asyncio.to_thread(fetch, port) == "a"
    finally:
        await other.remove()


async def test_a_start_that_fails_leaves_nothing(
    engine: DockerEngine, workload: ComposeWorkload, place: Path
) -> None:
    file = f"""
services:
  good: {{image: {IMAGE}, command: [sleep, "1000"], volumes: ["store:/store"]}}
  bad: {{image: {IMAGE}, command: [no-such-program-s3cret], depends_on: [good]}}
volumes: {{store: }}
"""
    spec = spec_of(
        place / "a",
        runner="docker-compose",
        docker_compose_file=file,
        environment={"KEY": "no-such-program-s3cret"},
    )
    with pytest.raises(WorkloadError) as refused:
        await workload.start(spec)
    assert refused.value.finding.code == "workload.compose"
    assert "executable file not found" in str(refused.value)
    assert "s3cret" not in str(refused.value)
    assert left(engine) == []


async def test_a_pre_launch_script_prepares_what_compose_uses(
    engine: DockerEngine, workload: ComposeWorkload, place: Path
) -> None:
    file = f"""
services:
  app: {{image: {IMAGE}, command: [cat, /made/file], volumes: ["./made:/made"], labels: ["from=$FROM"]}}
"""
    script = "mkdir made; echo hello > made/file; export FROM=script\n"
    spec = spec_of(place / "a", runner="docker-compose", docker_compose_file=file, pre_launch_script=script)
    await workload.start(spec)
    [state] = await workload.state()
    assert await asyncio.to_thread(engine.run, "logs", state.container_id) == "hello"
    label = '{{index .Config.Labels "from"}}'
    assert await asyncio.to_thread(engine.run, "inspect", "--format", label, state.container_id) == "script"


async def test_a_mount_through_a_link_is_refused(
    engine: DockerEngine, workload: ComposeWorkload, place: Path
) -> None:
    file = f"services: {{app: {{image: {IMAGE}, command: [sleep, '9'], volumes: ['./out/etc:/etc']}}}}"
    script = "ln -s / out\n"
    spec = spec_of(place / "a", runner="docker-compose", docker_compose_file=file, pre_launch_script=script)
    with pytest.raises(WorkloadError, match=r"mount of 'etc': .*found a link that leaves them"):
        await workload.start(spec)
    assert left(engine) == []
