"""The Docker Engine, as far as a CVM needs it: what belongs to a project, ended and removed (Engine API 1.24 and later).

Rules:

1. The engine is asked over a unix socket of this machine: mounts and loopback ports would mean another one elsewhere.
2. What is gone already, or stopped already, is no error.
3. An engine that does not answer is `CollateralError` with the way to get one; one that refuses says so in its words.
"""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import httpx

from teehouse.base.findings import CollateralError, misuse, unavailable
from teehouse.node.workload import refusal

DEFAULT_SOCKET = Path("/var/run/docker.sock")
PROJECT_LABEL = "com.docker.compose.project"
TIMEOUT = 30.0  # seconds for an answer, beyond the time a container is given to end
_GONE = frozenset({200, 201, 204, 304, 404})


def engine_socket(environment: Mapping[str, str]) -> Path:
    """The engine's socket by DOCKER_HOST, else the usual one. Raises `MisuseError` for an engine elsewhere (rule 1)."""
    host = environment.get("DOCKER_HOST", "")
    if not host:
        return DEFAULT_SOCKET
    if host.startswith("unix://"):
        return Path(host.removeprefix("unix://"))
    raise misuse(
        "engine.elsewhere",
        "DOCKER_HOST",
        expected="unix:///PATH, an engine of this machine",
        found=host.partition(":")[0] + ":",
        remedy="emulated CVMs mount this machine's files; unset DOCKER_HOST",
    )


def no_engine(socket: Path, why: str) -> CollateralError:
    """The refusal that tells how to get an engine."""
    return unavailable(
        "engine.missing",
        "a docker-compose app needs a Docker Engine",
        expected=f"one that answers at {socket}",
        found=why,
        remedy="install and start one (Debian: apt-get install docker.io docker-compose), or set DOCKER_HOST",
    )


class Engine:
    """A connection to the engine; use it as an asynchronous context."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        # Without TLS there is nothing to verify, and no certificate authorities to load.
        transport = httpx.AsyncHTTPTransport(uds=str(socket), verify=False)
        # Neither proxies nor .netrc of the environment have a say on a unix socket.
        self._client = httpx.AsyncClient(
            transport=transport, base_url="http://docker", timeout=TIMEOUT, trust_env=False
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def ping(self) -> None:
        """Raises `CollateralError` unless the engine answers."""
        await self._ask("GET", "/_ping")

    async def containers(self, project: str) -> list[dict[str, Any]]:
        """The project's containers, ended ones too, as the engine lists them."""
        answer = await self._ask("GET", "/containers/json", {"all": "1", "filters": _of(project)})
        return _objects(answer.json())

    async def exit_code(self, container: str) -> int | None:
        """What a container ended with; None when it is gone."""
        answer = await self._ask("GET", f"/containers/{container}/json")
        return None if answer.status_code == 404 else int(answer.json()["State"]["ExitCode"])

    async def stop(self, project: str, seconds: float) -> None:
        """End the project's containers, all at once: each is asked, and killed after that time."""
        whole = str(max(0, round(seconds)))
        listed = await self.containers(project)
        await self._all(
            "POST",
            [
                f"/containers/{item['Id']}/stop"
                for item in listed
                if item.get("State") not in {"exited", "created"}
            ],
            {"t": whole},
            seconds,
        )

    async def remove_containers(self, project: str) -> None:
        """Remove the project's containers with their anonymous volumes, running or not."""
        listed = [item["Id"] for item in await self.containers(project)]
        await self._all("DELETE", [f"/containers/{item}" for item in listed], {"force": "1", "v": "1"})

    async def remove_networks(self, project: str) -> None:
        """Remove the project's networks, which no container may use any more."""
        answer = await self._ask("GET", "/networks", {"filters": _of(project)})
        await self._all("DELETE", [f"/networks/{item['Id']}" for item in _objects(answer.json())])

    async def volumes(self, project: str) -> list[str]:
        """The names of the project's volumes."""
        answer = await self._ask("GET", "/volumes", {"filters": _of(project)})
        return [str(item["Name"]) for item in _objects(answer.json().get("Volumes"))]

    async def remove_volumes(self, names: list[str]) -> None:
        """Remove volumes with what they hold."""
        await self._all("DELETE", [f"/volumes/{name}" for name in names], {"force": "1"})

    async def _all(
        self, method: str, paths: list[str], parameters: Mapping[str, str] | None = None, seconds: float = 0.0
    ) -> None:
        await asyncio.gather(*(self._ask(method, path, parameters, seconds) for path in paths))

    async def _ask(
        self, method: str, path: str, parameters: Mapping[str, str] | None = None, seconds: float = 0.0
    ) -> httpx.Response:
        timeout = httpx.Timeout(TIMEOUT + seconds)
        try:
            answer = await self._client.request(method, path, params=parameters, timeout=timeout)
        except httpx.HTTPError as error:
            raise no_engine(self.socket, type(error).__name__) from error
        if answer.status_code not in _GONE:  # rule 2
            raise refusal(
                "engine.refused",
                f"the Docker Engine: {method} {path.split('/')[1]}",
                expected="success",
                found=f"status {answer.status_code}: {_message(answer)}",
            )
        return answer


def _of(project: str) -> str:
    return json.dumps({"label": [f"{PROJECT_LABEL}={project}"]})


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value or [] if isinstance(item, dict)]


def _message(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["message"])[:300]
    except (ValueError, KeyError, TypeError):
        return "no reason given"
