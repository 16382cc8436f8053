"""Apps for the tests of the runners."""

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from teehouse.node.workload import Limits, PortsPolicy, WorkloadSpec
from teehouse.wire.app_compose import parse_app_compose

CVM_ID = "0123456789abcdef0123456789abcdef"


def spec_of(
    directory: Path,
    *,
    environment: Mapping[str, str] | None = None,
    ports: PortsPolicy | None = None,
    limits: Limits | None = None,
    cvm_id: str = CVM_ID,
    **members: Any,
) -> WorkloadSpec:
    """A spec whose app-compose has these members; the CVM's directory and its socket directory are made."""
    sockets = directory / "sockets"
    sockets.mkdir(parents=True, exist_ok=True)
    compose = {"manifest_version": 2, "name": "shop", "runner": "bash", **members}
    return WorkloadSpec(
        cvm_id=cvm_id,
        directory=directory,
        app_compose=parse_app_compose(json.dumps(compose)),
        socket_directory=sockets,
        environment=environment or {},
        ports=ports or PortsPolicy(),
        limits=limits or Limits(),
    )


def entries(log: Path) -> list[dict[str, str]]:
    """The entries of a json-file log."""
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def printed(log: Path, stream: str = "stdout") -> str:
    return "".join(entry["log"] for entry in entries(log) if entry["stream"] == stream)


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for something another process does; fails when it does not."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - no event reaches over the border of processes
            await asyncio.sleep(0.01)
