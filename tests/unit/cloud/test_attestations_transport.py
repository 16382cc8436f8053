"""The transport to agents, against a server that says exactly these bytes (rules of `attestations.transport`)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from teehouse.cloud.attestations.transport import HEAD_LIMIT, AgentTransport

OK = b"HTTP/1.1 200 OK\r\n"


@asynccontextmanager
async def saying(
    answer: bytes, *, heard: list[bytes] | None = None, pause: float = 0.0
) -> AsyncIterator[str]:
    """A server that answers any request so; its URL."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.append(asyncio.current_task())
        with contextlib.suppress(OSError):  # the client may have heard enough
            asked = await reader.readuntil(b"\r\n\r\n")
            if heard is not None:
                heard.append(asked)
            await asyncio.sleep(pause)
            for start in range(0, min(len(answer), 300), 7):  # in pieces that end anywhere
                writer.write(answer[start : min(start + 7, 300)])
                await writer.drain()
                await asyncio.sleep(0)
            writer.write(answer[300:])
            await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    talks: list[Any] = []
    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await asyncio.gather(*talks)


async def get(url: str, timeout: float = 5.0) -> httpx.Response:  # noqa: ASYNC109 - it is httpx's
    async with httpx.AsyncClient(transport=AgentTransport(), timeout=timeout, trust_env=False) as client:
        return await client.get(url)


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"Content-Length: 5\r\nX-A: b\r\n\r\nhello",
        OK + b"X-A: b\r\n\r\nhello",
        OK + b"X-A: b\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
    ],
    ids=["by its length", "until the end", "in chunks"],
)
async def test_an_answer_is_read_whole(answer: bytes) -> None:
    heard: list[bytes] = []
    async with saying(answer, heard=heard) as url:
        response = await get(f"{url}/prpc/Info?a=b%20c")
    assert (response.status_code, response.content, response.headers["x-a"]) == (200, b"hello", "b")
    lines = heard[0].decode().split("\r\n")
    assert lines[0] == "GET /prpc/Info?a=b%20c HTTP/1.1"
    assert f"Host: {url.removeprefix('http://')}" in lines
    assert [line for line in lines if line.lower().startswith("connection")] == ["Connection: close"]


async def test_a_large_answer_and_another_status() -> None:
    body = bytes(range(256)) * 1000
    async with saying(b"HTTP/1.1 404 No\r\nContent-Length: %d\r\n\r\n" % len(body) + body) as url:
        response = await get(url)
    assert (response.status_code, response.content) == (404, body)


@pytest.mark.parametrize(
    "answer",
    [
        b"", b"HTTP/1.1 200", OK, OK + b"Content-Length: 5\r\n\r\nhell", b"SSH-2.0-x\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n", OK + b"X-A: " + b"b" * (HEAD_LIMIT + 70_000),
    ],
    ids=lambda answer: repr(answer[:40]),
)  # fmt: skip
async def test_what_is_no_whole_answer(answer: bytes) -> None:
    async with saying(answer) as url:
        with pytest.raises(httpx.RemoteProtocolError):
            await get(url)


async def test_nobody_there_and_nothing_said() -> None:
    async with saying(b"") as url:
        pass
    with pytest.raises(httpx.ConnectError):
        await get(url)
    async with saying(OK + b"Content-Length: 0\r\n\r\n", pause=0.3) as url:
        with pytest.raises(httpx.ReadTimeout):
            await get(url, timeout=0.05)


async def test_other_schemes_are_refused() -> None:
    with pytest.raises(httpx.UnsupportedProtocol):
        await get("https://127.0.0.1:1/")


async def test_a_connection_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_arguments: object) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(asyncio, "open_connection", never)
    with pytest.raises(httpx.ConnectTimeout):
        await get("http://127.0.0.1:1/", timeout=0.05)


async def test_a_connection_that_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_arguments: object) -> bytes:
        raise ConnectionResetError("reset")

    async with saying(OK) as url:
        monkeypatch.setattr(asyncio.StreamReader, "read", broken)
        with pytest.raises(httpx.ReadError):
            await get(url)
