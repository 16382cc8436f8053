"""Runner docker-compose against an engine and a Compose of the test's. Rule numbers are those of `compose_runner`."""

import asyncio
import contextlib
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.fake_engine import FakeEngine, fake_engine, host_of, program
from support.node_workloads import CVM_ID, printed, spec_of, until
from teehouse.base.findings import CollateralError, MisuseError
from teehouse.node.compose_command import ComposeCommand, find_compose
from teehouse.node.compose_runner import ComposeWorkload, last_words, port_is_free
from teehouse.node.engine import DEFAULT_SOCKET, engine_socket
from teehouse.node.workload import ContainerState, Limits, PublishedPort, WorkloadError, WorkloadSpec

PROJECT = f"teehouse-{CVM_ID}"
FILE = 'services: {web: {image: nginx, environment: [KEY], ports: ["$PORT:80"]}}'


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="th-") as directory:  # sockets have short paths
        yield Path(directory)


@pytest.fixture
async def engine(place: Path) -> AsyncIterator[FakeEngine]:
    async with fake_engine(place / "engine.sock") as engine:
        yield engine


@pytest.fixture
def tools(place: Path) -> Path:
    return program(place / "bin" / "docker-compose").parent


@pytest.fixture
def workload(engine: FakeEngine, place: Path, tools: Path) -> ComposeWorkload:
    return ComposeWorkload(CVM_ID, place / "cvm", host=host_of(engine.socket, tools))


def spec(place: Path, **options: Any) -> WorkloadSpec:
    options = {"environment": {"KEY": "s3cret", "PORT": "1"}, "docker_compose_file": FILE, **options}
    return spec_of(place / "cvm", runner="docker-compose", **options)


def labels(project: str = PROJECT, **more: str) -> dict[str, str]:
    return {"com.docker.compose.project": project, **more}


def container(name: str, state: str = "running", **members: Any) -> dict[str, Any]:
    ours = labels(**{"com.docker.compose.service": name, "com.docker.compose.container-number": "1"})
    return {"Id": f"id-{name}", "State": state, "Labels": ours, "Image": "nginx", "Status": "Up", **members}


async def test_how_compose_is_called(
    workload: ComposeWorkload, engine: FakeEngine, place: Path, tools: Path
) -> None:
    await workload.start(
        spec(place, environment={"KEY": "s3cret", "PORT": "1", "COMPOSE_FILE": "x", "DOCKER_HOST": "y"})
    )
    root = place / "cvm" / "workload"
    assert (tools / "argv").read_text().splitlines() == [
        "--project-name",
        PROJECT,
        "--project-directory",
        str(root / "home"),
        "--file",
        str(root / "compose.json"),
        "up",
        "--detach",
        "--remove-orphans",
    ]
    environment = (tools / "env").read_text().splitlines()
    assert {"KEY=s3cret", f"HOME={root / 'home'}", f"DOCKER_HOST=unix://{engine.socket}"} <= set(environment)
    assert not any(line.startswith("COMPOSE_") for line in environment)
    assert "s3cret" not in (root / "compose.json").read_text() + (tools / "argv").read_text()


async def test_a_file_with_a_build_is_built(workload: ComposeWorkload, place: Path, tools: Path) -> None:
    await workload.start(spec(place, docker_compose_file="services: {web: {build: .}}"))
    assert (tools / "argv").read_text().endswith("--build\n")


async def test_the_state_of_containers(workload: ComposeWorkload, engine: FakeEngine) -> None:
    ports = [
        {"IP": "127.0.0.1", "PrivatePort": 80, "PublicPort": 32768, "Type": "tcp"},
        {"PrivatePort": 53, "Type": "udp"},
        {"IP": "127.0.0.1", "PrivatePort": 53, "PublicPort": 53, "Type": "udp"},
    ]
    engine.containers += [
        container("web", Ports=ports, Command="nginx", Created=7, Status="Up 3 seconds"),
        container("db", "exited", Status="Exited (3) 1 second ago"),
        container("odd", "unheard of"),
        {**container("other"), "Labels": labels("teehouse-" + "f" * 32)},
    ]
    engine.containers[0]["Labels"] |= {
        "teehouse.container-name": "shop",
        "teehouse.wanted-ports": '{"80/tcp":80}',
    }
    engine.containers[1]["Labels"]["teehouse.wanted-ports"] = "{"
    engine.exit_codes["id-db"] = 3
    engine.answers["GET /containers/id-odd/json"] = (404, b"{}")
    assert await workload.state() == [
        ContainerState(
            "dstack-db-1", "nginx", "exited", "Exited (3) 1 second ago", 3, container_id="id-db", service="db"
        ),
        ContainerState("dstack-odd-1", "nginx", "dead", "Up", 255, container_id="id-odd", service="odd"),
        ContainerState(
            "shop",
            "nginx",
            "running",
            "Up 3 seconds",
            container_id="id-web",
            service="web",
            command="nginx",
            created=7,
            ports=(
                PublishedPort("127.0.0.1", 53, 53, "udp"),
                PublishedPort("127.0.0.1", 32768, 80, "tcp", wanted=80),
            ),
        ),
    ]
    assert await workload.adopt()
    engine.containers[:] = engine.containers[1:2]
    assert not await workload.adopt()


async def test_stop_and_remove_need_neither_file_nor_environment(
    workload: ComposeWorkload, engine: FakeEngine, place: Path
) -> None:
    engine.containers += [container("web"), container("db", "exited"), container("new", "created")]
    engine.networks += [{"Id": "net", "Labels": labels()}, {"Id": "other", "Labels": labels("x")}]
    engine.volumes += [{"Name": "vol", "Labels": labels()}, {"Name": "other", "Labels": labels("x")}]
    (place / "cvm" / "workload" / "home").mkdir(parents=True)
    await workload.stop(1.6)
    assert [line for line in engine.asked if line.endswith("/stop")] == ["POST /containers/id-web/stop"]
    await workload.remove()
    await workload.remove()
    assert (engine.containers, engine.networks, engine.volumes) == (
        [],
        [{"Id": "other", "Labels": labels("x")}],
        [{"Name": "other", "Labels": labels("x")}],
    )
    assert not (place / "cvm" / "workload").exists()


async def test_rule_3_a_failed_start_keeps_what_was_there(
    workload: ComposeWorkload, engine: FakeEngine, place: Path, tools: Path
) -> None:
    engine.volumes += [{"Name": "old", "Labels": labels()}]
    (tools / "code").write_text("3")
    (tools / "words").write_text("Error: s3cret\nport is   already allocated\n")
    engine_containers = asyncio.create_task(_appear(engine, tools))
    with pytest.raises(WorkloadError) as refused:
        await workload.start(spec(place))
    await engine_containers
    assert str(refused.value) == (
        "docker compose up: expected exit code 0, found exit code 3"
        " (it printed: ...Error: *** port is already allocated)"
    )
    assert (engine.containers, engine.networks) == ([], [])
    assert [volume["Name"] for volume in engine.volumes] == ["old"]


async def _appear(engine: FakeEngine, tools: Path) -> None:
    """What Compose made before it failed."""
    (tools / "slow").unlink(missing_ok=True)
    await until(lambda: "GET /volumes" in engine.asked)
    engine.containers.append(container("web"))
    engine.networks.append({"Id": "net", "Labels": labels()})
    engine.volumes.append({"Name": "new", "Labels": labels()})


async def test_compose_has_its_time(workload: ComposeWorkload, place: Path, tools: Path) -> None:
    (tools / "slow").touch()
    with pytest.raises(WorkloadError, match="found no end within its time \\(it printed nothing\\)"):
        await workload.start(spec(place, limits=Limits(start_seconds=0.2)))


async def test_a_cancelled_start_ends_compose(workload: ComposeWorkload, place: Path, tools: Path) -> None:
    (tools / "slow").touch()
    start = asyncio.create_task(workload.start(spec(place)))
    await until((tools / "argv").exists)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert not workload._job.running()


async def test_a_bad_file_is_refused_before_the_script_runs(workload: ComposeWorkload, place: Path) -> None:
    bad = spec(
        place, docker_compose_file="services: {a: {privileged: true}}", pre_launch_script="touch never"
    )
    with pytest.raises(WorkloadError, match=r"services\.a\.privileged"):
        await workload.start(bad)
    assert not (workload.place.home / "never").exists()


async def test_a_failed_script_is_said(workload: ComposeWorkload, place: Path, tools: Path) -> None:
    with pytest.raises(WorkloadError) as refused:
        await workload.start(spec(place, pre_launch_script="exit 9"))
    assert refused.value.finding.code == "workload.pre-launch"
    assert not (tools / "argv").exists()


async def test_an_app_keeps_the_ports_it_has(
    workload: ComposeWorkload, engine: FakeEngine, place: Path, tools: Path
) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        held = spec(place, environment={"PORT": str(port)})
        await workload.start(held)
        assert '"127.0.0.1::80/tcp"' in (tools / "file").read_text()  # another's
        engine.containers.append(
            container(
                "web", Ports=[{"IP": "127.0.0.1", "PrivatePort": 80, "PublicPort": port, "Type": "tcp"}]
            )
        )
        await workload.start(held)
        assert f'"127.0.0.1:{port}:80/tcp"' in (tools / "file").read_text()  # its own


def test_a_free_port_is_one_that_can_be_bound() -> None:
    for kind, protocol in ((socket.SOCK_STREAM, "tcp"), (socket.SOCK_DGRAM, "udp")):
        with socket.socket(socket.AF_INET, kind) as holder:
            holder.bind(("127.0.0.1", 0))
            port = holder.getsockname()[1]
            assert not port_is_free("127.0.0.1", port, protocol)
        assert port_is_free("127.0.0.1", port, protocol)


async def test_binds_are_made_where_the_cvm_lives(workload: ComposeWorkload, place: Path) -> None:
    file = "services: {a: {volumes: ['/data:/data', './x:/x', '/etc/localtime:/etc/localtime']}}"
    await workload.start(spec(place, docker_compose_file=file))
    root = place / "cvm" / "workload"
    assert (root / "disk" / "data").is_dir()
    assert (root / "home" / "x").is_dir()
    (root / "disk" / "data").rmdir()
    (root / "disk" / "data").symlink_to(place)
    with pytest.raises(WorkloadError, match="mount of 'data'"):
        await workload.start(spec(place, docker_compose_file=file))


async def test_without_an_engine(place: Path, tools: Path) -> None:
    workload = ComposeWorkload(CVM_ID, place / "cvm", host=host_of(place / "nowhere.sock", tools))
    sentence = (
        f"a docker-compose app needs a Docker Engine: expected one that answers at {place}/nowhere.sock,"
        " found ConnectError (install and start one (Debian: apt-get install docker.io docker-compose), or set DOCKER_HOST)"
    )
    for operation in (
        workload.start(spec(place)),
        workload.stop(1),
        workload.state(),
        workload.adopt(),
        workload.remove(),
    ):
        with pytest.raises(CollateralError) as refused:
            await operation
        assert str(refused.value) == sentence
    with pytest.raises(WorkloadError, match="member `docker_compose_file`: expected a file"):
        await workload.start(spec_of(place / "cvm", runner="docker-compose"))


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ((500, b'{"message":"no space left on device"}'), "status 500: no space left on device"),
        ((409, b"[]"), "status 409: no reason given"),
    ],
)
async def test_an_engine_that_refuses(
    workload: ComposeWorkload, engine: FakeEngine, answer: tuple[int, bytes], found: str
) -> None:
    engine.answers["GET /containers/json"] = answer
    with pytest.raises(WorkloadError) as refused:
        await workload.state()
    assert str(refused.value) == f"the Docker Engine: GET containers: expected success, found {found}"


def test_where_the_engine_is() -> None:
    assert engine_socket({}) == DEFAULT_SOCKET
    assert engine_socket({"DOCKER_HOST": "unix:///x/y.sock"}) == Path("/x/y.sock")
    with pytest.raises(MisuseError, match="expected unix:///PATH, an engine of this machine, found tcp:"):
        engine_socket({"DOCKER_HOST": "tcp://10.0.0.1:2375"})


async def test_which_compose_is_taken(place: Path) -> None:
    environment = {"PATH": str(place / "bin"), "HOME": str(place)}
    with pytest.raises(CollateralError, match="found neither \\(install one"):
        await find_compose(environment)
    plugin = program(place / ".docker" / "cli-plugins" / "docker-compose", "#!/bin/sh\necho v2.30.1\n")
    assert await find_compose(environment) == ComposeCommand((str(plugin),), (2, 30))
    alone = program(place / "bin" / "docker-compose", "#!/bin/sh\necho 1.29.2\n")
    assert await find_compose(environment) == ComposeCommand((str(alone),), (1, 29))
    docker = program(place / "bin" / "docker", '#!/bin/sh\n[ "$1" = compose ] && echo 2.26.1-4\n')
    assert await find_compose(environment) == ComposeCommand((str(docker), "compose"), (2, 26))
    for broken in ("#!/bin/sh\necho unknown command >&2; exit 1\n", "#!/bin/sh\necho words\n", "no program"):
        program(docker, broken)
        assert await find_compose(environment) == ComposeCommand((str(alone),), (1, 29))


async def test_a_compose_that_hangs_is_none(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("teehouse.node.compose_command.PROBE_SECONDS", 0.1)
    program(place / "bin" / "docker-compose", "#!/bin/sh\nexec /bin/sleep 60\n")
    with pytest.raises(CollateralError, match="found neither"):
        await find_compose({"PATH": str(place / "bin")})


def test_last_words_keep_no_secret(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_words(log, {}) == "it printed nothing"
    log.write_text('cut off"}\n{"log":"pass s3cret and s3cret-longer no\\n"}\n{"log":1}\n')
    assert (
        last_words(log, {"A": "s3cret", "B": "s3cret-longer", "C": "no", "D": ""})
        == "it printed: ...pass *** and *** no 1"
    )
    log.write_text('{"log":"' + "x" * 1000 + '"}\n')
    assert last_words(log, {}) == "it printed: ..." + "x" * 600


async def test_output_of_compose_is_kept(workload: ComposeWorkload, place: Path, tools: Path) -> None:
    (tools / "words").write_text("Creating web\n")
    await workload.start(spec(place))
    assert printed(workload.place.log("compose"), "stderr") == "Creating web\n"
    with contextlib.suppress(FileNotFoundError):
        await workload.remove()
