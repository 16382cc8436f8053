"""Which containers run here: from the Docker Engine, or from a workload without one (guest-agent.md 13.4).

Rules:

1. All containers are told, stopped ones too, in the order of their names. A container is called by its first
   name without the leading `/`, by its id where it has none.
2. An answer is kept for `LIST_LIFETIME`: many who look at a page cost the engine one question.
3. An engine that does not answer, or answers something else, is `CollateralError`; what is not of its form in
   a single entry is left empty.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlencode

from teehouse.guest.docker_http import EngineAnswer, no_engine

LIST_LIFETIME = 1.0  # seconds
LIST_LIMIT = 4 * 1024 * 1024  # bytes of the engine's answer
PROJECT_LABEL = "com.docker.compose.project"


@dataclass(frozen=True, slots=True)
class Container:
    """One container. `state` is one word (running, exited, …), `status` a sentence of it, `image` may be empty."""

    name: str
    state: str
    status: str
    image: str = ""

    @property
    def running(self) -> bool:
        return self.state == "running"


class ContainerSource(Protocol):
    """Tells which containers there are."""

    async def containers(self) -> Sequence[Container]:
        """All of them (rule 1). Raises `CollateralError` when that cannot be found out."""
        ...


class WorkloadContainers:
    """What `read` says, asked each time: a workload of scripts knows its own state."""

    def __init__(self, read: Callable[[], Awaitable[Sequence[Container]]]) -> None:
        self._read = read

    async def containers(self) -> Sequence[Container]:
        return sorted(await self._read(), key=lambda container: container.name)


class DockerContainers:
    """The containers of the engine at `socket`; of one compose project only, where several share the engine."""

    def __init__(self, socket: Path, project: str | None = None, lifetime: float = LIST_LIFETIME) -> None:
        self._socket = socket
        parameters = {"all": "1"}
        if project is not None:
            parameters["filters"] = json.dumps({"label": [f"{PROJECT_LABEL}={project}"]})
        self._target = f"/containers/json?{urlencode(parameters)}"
        self._lifetime = lifetime
        self._lock = asyncio.Lock()
        self._last: tuple[float, Sequence[Container]] | None = None

    async def containers(self) -> Sequence[Container]:
        async with self._lock:  # callers who come together share one question
            now = asyncio.get_running_loop().time()
            if self._last is None or now - self._last[0] > self._lifetime:
                self._last = now, await self._ask()
            return self._last[1]

    async def _ask(self) -> Sequence[Container]:
        answer = await EngineAnswer.get(self._socket, self._target)
        try:
            body = await answer.all(LIST_LIMIT)
        finally:
            await answer.close()
        if answer.status != 200:
            raise no_engine(f"status {answer.status}")
        try:
            listed = json.loads(body)
        except (ValueError, RecursionError):
            raise no_engine("an answer that is no JSON") from None
        if not isinstance(listed, list):
            raise no_engine("an answer that is no list")
        found = [_container(entry) for entry in listed if isinstance(entry, dict)]
        return sorted(found, key=lambda container: container.name)


def _container(entry: dict[str, Any]) -> Container:
    names = entry.get("Names")
    first = names[0] if isinstance(names, list) and names else None
    name = first.removeprefix("/") if isinstance(first, str) else ""
    return Container(
        name=name or _string(entry, "Id"),
        state=_string(entry, "State"),
        status=_string(entry, "Status"),
        image=_string(entry, "Image"),
    )


def _string(entry: dict[str, Any], member: str) -> str:
    value = entry.get(member)
    return value if isinstance(value, str) else ""
