"""Docker Compose on this machine: `docker compose` (2) or `docker-compose` (1, or 2 on its own)."""

import asyncio
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from teehouse.base.findings import unavailable

PROBE_SECONDS = 20.0
_VERSION = re.compile(rb"v?([0-9]+)\.([0-9]+)(?:\.[0-9]+)?")


@dataclass(frozen=True, slots=True)
class ComposeCommand:
    """How Compose is called: the first words, with an absolute path, and its version."""

    argv: tuple[str, ...]
    version: tuple[int, int]


async def find_compose(environment: Mapping[str, str] | None = None) -> ComposeCommand:
    """The newest way of calling Compose. Raises `CollateralError` when there is none.

    Looks at the plugin of `docker`, at `docker-compose` on PATH, and at the plugin in the home of who runs the node.
    """
    given = os.environ if environment is None else environment
    search = given.get("PATH", os.defpath)
    candidates: list[tuple[str, ...]] = []
    docker, alone = shutil.which("docker", path=search), shutil.which("docker-compose", path=search)
    if docker is not None:
        candidates.append((docker, "compose"))
    if alone is not None:
        candidates.append((alone,))
    plugin = Path(given.get("HOME", "/")) / ".docker" / "cli-plugins" / "docker-compose"
    if os.access(plugin, os.X_OK):
        candidates.append((str(plugin),))
    for argv in candidates:
        version = await _version(argv, search)
        if version is not None:
            return ComposeCommand(argv, version)
    raise unavailable(
        "compose.missing",
        "a docker-compose app needs Docker Compose",
        expected="`docker compose` or `docker-compose` on PATH",
        found="neither",
        remedy="install one (Debian: apt-get install docker-compose)",
    )


async def _version(argv: tuple[str, ...], search: str) -> tuple[int, int] | None:
    """What `version --short` says; None when this is no Compose. HOME is left out: a CVM has another."""
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            "version",
            "--short",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={"PATH": search, "HOME": "/nonexistent"},
        )
    except OSError:
        return None
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return None
    match = _VERSION.search(output) if process.returncode == 0 else None
    return None if match is None else (int(match[1]), int(match[2]))
