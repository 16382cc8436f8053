"""Lists of containers, from an engine made of one answer (rules of `guest.containers`)."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from teehouse.base.findings import CollateralError
from teehouse.guest.containers import Container, DockerContainers, WorkloadContainers

LISTED = [
    {"Id": "22", "Names": ["/web-1", "/alias"], "State": "running", "Status": "Up", "Image": "web:2"},
    {"Id": "11", "Names": ["/job-1"], "State": "exited", "Status": "Exited (0)", "Image": "job"},
]
FOUND = [Container("job-1", "exited", "Exited (0)", "job"), Container("web-1", "running", "Up", "web:2")]


@asynccontextmanager
async def engine(socket: Path, body: bytes, status: int = 200) -> AsyncIterator[list[str]]:
    """An engine that answers everything alike; gives the targets it was asked for."""
    asked: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        asked.append(head.split(b" ")[1].decode())
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(serve, str(socket))
    try:
        yield asked
    finally:
        server.close()
        await server.wait_closed()


async def test_1_all_containers_by_name(tmp_path: Path) -> None:
    async with engine(tmp_path / "s", json.dumps(LISTED).encode()) as asked:
        assert list(await DockerContainers(tmp_path / "s").containers()) == FOUND
        assert asked == ["/containers/json?all=1"]
    assert [container.running for container in FOUND] == [False, True]


async def test_of_one_project(tmp_path: Path) -> None:
    async with engine(tmp_path / "s", b"[]") as asked:
        assert list(await DockerContainers(tmp_path / "s", "my&app").containers()) == []
        query = parse_qs(urlsplit(asked[0]).query)
        assert query["all"] == ["1"]
        assert json.loads(query["filters"][0]) == {"label": ["com.docker.compose.project=my&app"]}


async def test_2_an_answer_is_kept_for_a_while(tmp_path: Path) -> None:
    async with engine(tmp_path / "s", b"[]") as asked:
        kept = DockerContainers(tmp_path / "s", lifetime=60)
        await asyncio.gather(*(kept.containers() for _ in range(10)))
        assert len(asked) == 1
        short = DockerContainers(tmp_path / "s", lifetime=0.01)
        await short.containers()
        await asyncio.sleep(0.02)
        await short.containers()
        assert len(asked) == 3


@pytest.mark.parametrize(
    ("entry", "container"),
    [
        ({"Id": "11", "Names": []}, Container("11", "", "")),
        ({"Id": "11", "Names": ["/"]}, Container("11", "", "")),
        ({"Id": "11", "Names": [5], "State": 1, "Status": None, "Image": {}}, Container("11", "", "")),
        ({"Names": "web"}, Container("", "", "")),
    ],
)
async def test_3_entries_of_another_form(tmp_path: Path, entry: dict[str, Any], container: Container) -> None:
    async with engine(tmp_path / "s", json.dumps([entry, 7]).encode()):
        assert list(await DockerContainers(tmp_path / "s").containers()) == [container]


@pytest.mark.parametrize(
    ("body", "status", "found"),
    [
        (b"{}", 200, "an answer that is no list"),
        (b"nothing", 200, "an answer that is no JSON"),
        (b"[" * 100_000, 200, "an answer that is no JSON"),
        (b'{"message":"no"}', 500, "status 500"),
        (b" " * (4 * 1024 * 1024 + 1), 200, "an answer of more than 4194304 bytes"),
    ],
)
async def test_3_answers_of_another_form(tmp_path: Path, body: bytes, status: int, found: str) -> None:
    async with engine(tmp_path / "s", body, status):
        with pytest.raises(CollateralError) as caught:
            await DockerContainers(tmp_path / "s").containers()
        assert caught.value.finding.found == found


async def test_3_no_engine(tmp_path: Path) -> None:
    with pytest.raises(CollateralError, match="the container engine does not answer"):
        await DockerContainers(tmp_path / "s").containers()


async def test_a_workload_tells_itself() -> None:
    async def read() -> list[Container]:
        return FOUND[::-1]

    assert list(await WorkloadContainers(read).containers()) == FOUND
