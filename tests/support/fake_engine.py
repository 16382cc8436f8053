"""A Docker Engine made of a dictionary, on a unix socket, and a Docker Compose made of a script."""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

COMPOSE = """#!/bin/bash
here=$(dirname "$0")
if [ "$1 $2" = "version --short" ]; then echo "${VERSION_SAID:-1.29.2}"; exit 0; fi
printf '%s\\n' "$@" > "$here/argv"
env > "$here/env"
cp "$6" "$here/file"
[ -e "$here/volume" ] && touch "$here/made"
[ -e "$here/words" ] && cat "$here/words" >&2
[ -e "$here/slow" ] && sleep 60
exit $(cat "$here/code" 2>/dev/null || echo 0)
"""


@dataclass
class FakeEngine:
    """`answers` go before what the fake would say, by method and path; `asked` lists method and target."""

    socket: Path
    containers: list[dict[str, Any]] = field(default_factory=list)
    networks: list[dict[str, Any]] = field(default_factory=list)
    volumes: list[dict[str, Any]] = field(default_factory=list)
    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    exit_codes: dict[str, int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def answer(self, method: str, target: str) -> tuple[int, bytes]:
        url = urlsplit(target)
        self.asked.append(f"{method} {url.path}")
        if f"{method} {url.path}" in self.answers:
            return self.answers[f"{method} {url.path}"]
        lists = {"/containers/json": self.containers, "/networks": self.networks, "/volumes": self.volumes}
        if method == "GET" and url.path in lists:
            [label] = json.loads(parse_qs(url.query)["filters"][0])["label"]
            name, _, value = label.partition("=")
            found = [item for item in lists[url.path] if item["Labels"].get(name) == value]
            return 200, json.dumps({"Volumes": found or None} if url.path == "/volumes" else found).encode()
        _, kind, name, *rest = f"{url.path}/".split("/")
        if method == "DELETE":
            listed = lists["/containers/json" if kind == "containers" else f"/{kind}"]
            listed[:] = [item for item in listed if name not in {item.get("Id"), item.get("Name")}]
        elif rest[:1] == ["stop"]:
            for item in self.containers:
                item["State"] = "exited" if item["Id"] == name else item["State"]
        elif rest[:1] == ["json"]:
            return 200, json.dumps({"State": {"ExitCode": self.exit_codes.get(name, 0)}}).encode()
        return 204, b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                method, target, _ = head.split(" ", 2)
                status, body = self.answer(method, target)
                writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
                await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def fake_engine(socket: Path) -> AsyncIterator[FakeEngine]:
    engine = FakeEngine(socket)
    server = await asyncio.start_unix_server(engine.serve, socket)
    try:
        yield engine
    finally:
        server.close()
        await server.wait_closed()


def program(path: Path, text: str = COMPOSE) -> Path:
    """An executable script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def host_of(socket: Path, tools: Path) -> dict[str, str]:
    """The environment of a node whose programs are those in `tools` and the usual ones of the shell."""
    return {"DOCKER_HOST": f"unix://{socket}", "PATH": f"{tools}:{os.defpath}", "HOME": str(tools)}
