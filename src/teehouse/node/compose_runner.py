"""Runner `docker-compose`: the app's containers in the machine's Docker Engine (guest-agent.md 12.1, trust.md 14).

Rules:

1. Compose starts; the Engine alone is asked for all the rest, by the project's label: to stop and to remove needs
   neither the file nor the environment.
2. Compose runs under a supervisor, in time, with the environment in its process and nowhere else. What an error
   repeats of its output has the values of the environment taken out.
3. A start that fails removes containers, networks, and those volumes that it made; data from before stays.
4. A bind source that does not exist is made as a directory. None may lead, by a link, out of the CVM's directories.
5. `start` on an app that runs lets Compose bring it to what the file says, which for the same file is nothing.
"""

import asyncio
import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from teehouse.base.files import write_atomic
from teehouse.node.bash_runner import LOST_EXIT_CODE
from teehouse.node.compose_command import ComposeCommand, find_compose
from teehouse.node.compose_mounts import Bind, Roots
from teehouse.node.compose_rewrite import LABEL_NAME, LABEL_PORTS, ComposePlan, project_name, rewrite_compose
from teehouse.node.engine import Engine, engine_socket
from teehouse.node.jobs import Job, JobSpec, failure
from teehouse.node.scripts import Place, run_pre_launch, script_environment
from teehouse.node.workload import ContainerState, ContainerStatus, PublishedPort, WorkloadSpec, refusal

_SHOWN = 600  # characters of Compose's last words
_SECRET_SIZE = 4  # shorter values are parts of any text


class ComposeWorkload:
    """A `Workload` of runner `docker-compose`. `host` is the node's own environment, for DOCKER_HOST, PATH and HOME."""

    def __init__(self, cvm_id: str, directory: Path, *, host: Mapping[str, str] | None = None) -> None:
        self.project = project_name(cvm_id)
        self.place = Place(directory)
        self._host = os.environ if host is None else host
        self._job = Job(self.place.root / "compose")

    async def start(self, spec: WorkloadSpec) -> None:
        """See `Workload.start`."""
        text = spec.app_compose.docker_compose_file
        if not text:
            raise refusal(
                "workload.compose-file",
                "app-compose: member `docker_compose_file`",
                expected="a file, as runner is docker-compose",
                found="nothing",
            )
        async with self._engine() as engine:
            await engine.ping()
            command = await find_compose(self._host)
            await self._stop_jobs()  # of a start that a crash cut off
            self.place.make()
            roots = Roots(spec.socket_directory.absolute(), self.place.home, self.place.root / "disk")
            kept = await engine.volumes(self.project)
            running = await self._states(engine)
            held: set[tuple[int, str]] = {
                (port.port, port.protocol) for state in running for port in state.ports
            }
            environment = script_environment(spec, self.place.home, self._host.get("PATH", ""))
            environment["DOCKER_HOST"] = f"unix://{engine.socket}"
            try:
                # The file is judged before the script runs, and with the script's variables again.
                await self._plan(text, spec, roots, spec.environment, held)
                environment = await run_pre_launch(spec, self.place, environment)
                plan = await self._plan(text, spec, roots, environment, held)
                for bind in plan.binds:
                    _check_bind(bind, roots)
                await self._up(spec, command, plan, environment)
            except BaseException:
                await self._stop_jobs()
                await self._clean(engine, kept)
                raise

    @staticmethod
    async def _plan(
        text: str,
        spec: WorkloadSpec,
        roots: Roots,
        environment: Mapping[str, str],
        held: set[tuple[int, str]],
    ) -> ComposePlan:
        """The rewritten file; in a thread, as a large one takes its time. `held` are ports the app has already."""

        def is_free(address: str, port: int, protocol: str) -> bool:
            return (port, protocol) in held or port_is_free(address, port, protocol)

        return await asyncio.to_thread(
            rewrite_compose,
            text,
            spec.cvm_id,
            roots,
            environment,
            is_free=is_free,
            ports=spec.ports,
            limits=spec.limits,
        )

    async def _up(
        self, spec: WorkloadSpec, command: ComposeCommand, plan: ComposePlan, environment: Mapping[str, str]
    ) -> None:
        """Rule 2."""
        path = self.place.root / "compose.json"
        write_atomic(path, plan.document.encode())
        words = (
            "--project-name",
            self.project,
            "--project-directory",
            str(self.place.home),
            "--file",
            str(path),
        )
        build = ("--build",) if plan.builds else ()
        log = self.place.log("compose")
        log.unlink(missing_ok=True)
        ours = {"DOCKER_HOST": environment["DOCKER_HOST"], "PATH": self._host.get("PATH", os.defpath)}
        theirs = {name: value for name, value in environment.items() if not _steers_compose(name)}
        await self._job.start(
            JobSpec(
                name="compose",
                argv=(*command.argv, *words, "up", "--detach", "--remove-orphans", *build),
                cwd=self.place.home,
                log=log,
                environment={**theirs, **ours},
                timeout=spec.limits.start_seconds,
            )
        )
        record = await self._job.ended()
        if record is None or record.exit_code != 0:
            raise failure(
                "workload.compose", "docker compose up", record, remedy=last_words(log, environment)
            )

    async def stop(self, deadline: float) -> None:
        """See `Workload.stop`. The Engine keeps the deadline."""
        await self._stop_jobs()
        async with self._engine() as engine:
            await engine.stop(self.project, deadline)

    async def remove(self) -> None:
        """See `Workload.remove`."""
        await self._job.remove()
        await self.place.pre_launch.remove()
        async with self._engine() as engine:
            await self._clean(engine, [])
        self.place.remove()

    async def state(self) -> list[ContainerState]:
        """See `Workload.state`. A name the app did not choose is `dstack-SERVICE-NUMBER`."""
        async with self._engine() as engine:
            return await self._states(engine)

    async def _states(self, engine: Engine) -> list[ContainerState]:
        listed = await engine.containers(self.project)
        states = await asyncio.gather(*(_state(engine, item) for item in listed))
        return sorted(states, key=lambda state: state.name)

    async def adopt(self) -> bool:
        """See `Workload.adopt`."""
        return any(container.state in {"running", "restarting", "paused"} for container in await self.state())

    def _engine(self) -> Engine:
        return Engine(engine_socket(self._host))

    async def _stop_jobs(self) -> None:
        await self._job.stop(0)
        await self.place.pre_launch.stop(0)

    async def _clean(self, engine: Engine, kept: list[str]) -> None:
        await engine.remove_containers(self.project)
        await engine.remove_networks(self.project)
        await engine.remove_volumes([name for name in await engine.volumes(self.project) if name not in kept])


def port_is_free(address: str, port: int, protocol: str) -> bool:
    """Whether a port of the host can be bound now."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(family, kind) as probe:
        if protocol == "tcp":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


def last_words(log: Path, environment: Mapping[str, str]) -> str:
    """The end of what Compose printed, without the values of the environment (rule 2)."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 64 * 1024))
            lines = file.read().splitlines()
    except OSError:
        return "it printed nothing"
    text = "".join(_printed(line) for line in lines)
    for value in sorted(environment.values(), key=len, reverse=True):
        if len(value) >= _SECRET_SIZE:
            text = text.replace(value, "***")
    return "it printed: ..." + " ".join(text.split())[-_SHOWN:] if text.strip() else "it printed nothing"


def _printed(line: bytes) -> str:
    try:
        return str(json.loads(line)["log"])
    except (ValueError, KeyError, TypeError):  # the first line may have lost its beginning
        return ""


def _steers_compose(name: str) -> bool:
    """Variables by which an app would choose another project, file or engine."""
    return name.startswith(("COMPOSE_", "DOCKER_")) and name != "COMPOSE_PROFILES"


def _check_bind(bind: Bind, roots: Roots) -> None:
    """Rule 4."""
    if bind.read_only:
        return
    real = bind.source.resolve()
    if not any(real.is_relative_to(root.resolve()) for root in (roots.sockets, roots.home, roots.disk)):
        raise refusal(
            "compose.mount",
            f"docker-compose file: mount of {bind.source.name!r}",
            expected="a place in the CVM's directories",
            found="a link that leaves them",
        )
    if bind.make and not real.exists():
        real.mkdir(parents=True)


async def _state(engine: Engine, item: dict[str, Any]) -> ContainerState:
    labels = item.get("Labels") or {}
    service = str(labels.get("com.docker.compose.service", ""))
    number = str(labels.get("com.docker.compose.container-number", "1"))
    state: ContainerStatus = item["State"] if item.get("State") in get_args(ContainerStatus) else "dead"
    code = None
    if state in {"exited", "dead"}:
        code = await engine.exit_code(item["Id"])
        code = LOST_EXIT_CODE if code is None else code
    return ContainerState(
        name=str(labels.get(LABEL_NAME) or f"dstack-{service}-{number}"),
        image=str(item.get("Image", "")),
        state=state,
        status=str(item.get("Status", "")),
        exit_code=code,
        container_id=str(item["Id"]),
        service=service,
        command=str(item.get("Command", "")),
        created=int(item.get("Created", 0)),
        ports=_ports(item, str(labels.get(LABEL_PORTS, ""))),
    )


def _ports(item: dict[str, Any], label: str) -> tuple[PublishedPort, ...]:
    try:
        wanted = json.loads(label) if label else {}
    except ValueError:
        wanted = {}
    return tuple(
        PublishedPort(
            address=str(port.get("IP", "")),
            port=int(port["PublicPort"]),
            container_port=int(port["PrivatePort"]),
            protocol="udp" if port.get("Type") == "udp" else "tcp",
            wanted=wanted.get(f"{port['PrivatePort']}/{port.get('Type')}"),
        )
        for port in sorted(
            item.get("Ports") or [], key=lambda port: (port["PrivatePort"], port.get("PublicPort", 0))
        )
        if port.get("PublicPort")
    )
