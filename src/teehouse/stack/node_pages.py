"""What the agent of a node's CVM shows to the outside: dashboard, metrics, logs of the CVM's own workload.

Containers go by the names that the app chose, whichever runner runs them, and no CVM sees another's.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from starlette.routing import BaseRoute

from teehouse.attestation.roots import TrustedRoot
from teehouse.guest.containers import Container, WorkloadContainers
from teehouse.guest.docker_logs import DEFAULT_SOCKET, DockerLogSource
from teehouse.guest.file_logs import FileLogSource, LogFile
from teehouse.guest.logs_source import LogSource
from teehouse.guest.pages import pages
from teehouse.guest.service import GuestService
from teehouse.node.boot import BootPlan
from teehouse.node.jobs import Job
from teehouse.node.scripts import Place
from teehouse.node.workload import ContainerState, Workload

_UNIX = "unix://"


def cvm_pages(root: TrustedRoot, plan: BootPlan, service: GuestService) -> Sequence[BaseRoute]:
    """The pages of one CVM (`BootParts.pages`); `root` is the one that its quotes verify under."""
    workload = plan.workload

    async def containers() -> list[Container]:
        return [Container(one.name, one.state, one.status, one.image) for one in await workload.state()]

    return pages(
        service,
        root,
        containers=WorkloadContainers(containers),
        logs=_logs(workload, plan.directory, service.facts.compose.runner),
    )


def _logs(workload: Workload, directory: Path, runner: str) -> LogSource:
    async def find(name: str) -> ContainerState | None:
        return next((one for one in await workload.state() if name in (one.name, one.container_id)), None)

    if runner == "bash":
        place = Place(directory)

        async def file(name: str) -> LogFile | None:
            found = await find(name)
            return None if found is None else LogFile(place.log(found.name), Job(place.root / "app").running)

        return FileLogSource(file)

    async def container(name: str) -> str | None:
        found = await find(name)
        return None if found is None else found.container_id

    return DockerLogSource(_engine(), container)


def _engine() -> Path:
    host = os.environ.get("DOCKER_HOST", "")
    return Path(host.removeprefix(_UNIX)) if host.startswith(_UNIX) else DEFAULT_SOCKET
