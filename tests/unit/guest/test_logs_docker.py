"""Logs of the Docker Engine, and all it may do wrong (rules of `docker_logs` and `docker_http`)."""

import asyncio
import gc
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from support.logs_support import (
    CHUNKED,
    LAST_CHUNK,
    Entry,
    FakeContainer,
    FakeEngine,
    Write,
    chunk,
    engine,
    frame,
    identity_of,
    inspected,
    plain,
    serving,
)
from teehouse.base.findings import CollateralError, MisuseError
from teehouse.guest import docker_http, docker_logs
from teehouse.guest.docker_http import EngineAnswer
from teehouse.guest.docker_logs import DockerContainer, DockerLogSource
from teehouse.guest.logs_query import LogQuery
from teehouse.guest.logs_source import Frame

CONTAINER = DockerContainer("app", "f" * 64, terminal=False)


def saying(*pieces: bytes) -> Callable[[str, Write], Awaitable[None]]:
    """An engine that writes this and closes."""

    async def script(_target: str, write: Write) -> None:
        for piece in pieces:
            await write(piece)
            await asyncio.sleep(0.01)

    return script


async def frames_of(source: DockerLogSource, container: DockerContainer = CONTAINER) -> list[Frame]:
    stream = await source.stream(container, LogQuery())
    frames: list[Frame] = []
    try:
        while (batch := await stream.read()) is not None:
            assert batch
            frames += batch
    finally:
        await stream.close()
        await stream.close()
    return frames


def described(error: CollateralError) -> tuple[str, str]:
    return error.finding.code, error.finding.found


# Rule 1: which container


async def test_rule_1_the_engine_is_asked(tmp_path: Path) -> None:
    fake = FakeEngine({"app": FakeContainer(), "tty": FakeContainer(terminal=True)})
    async with engine(tmp_path, fake) as path:
        source = DockerLogSource(path)
        assert await source.resolve("app") == DockerContainer("app", identity_of("app"), terminal=False)
        assert await source.resolve("tty") == DockerContainer("tty", identity_of("tty"), terminal=True)
        assert await source.resolve("b\u00fcro ?x=/..") is None
    assert fake.targets[-1] == "/containers/b%C3%BCro%20%3Fx%3D%2F../json"


async def test_rule_1_where_an_engine_is_shared_the_app_sees_its_own(tmp_path: Path) -> None:
    async def locate(name: str) -> str | None:
        return "teehouse-1-web" if name == "web" else None

    fake = FakeEngine({"teehouse-1-web": FakeContainer(), "other": FakeContainer()})
    async with engine(tmp_path, fake) as path:
        source = DockerLogSource(path, locate)
        found = await source.resolve("web")
        assert found == DockerContainer("web", identity_of("teehouse-1-web"), terminal=False)
        for name in ("other", "teehouse-1-web", identity_of("other")):
            assert await source.resolve(name) is None
    assert fake.targets == ["/containers/teehouse-1-web/json"]


async def test_rule_1_a_name_that_the_engine_refuses(tmp_path: Path) -> None:
    async with engine(tmp_path, saying(plain(400, b"{}"))) as path:
        assert await DockerLogSource(path).resolve("app") is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b'{"Id":"x"}',
        b'{"Id":"x","Config":[]}',
        b"[" * 100_000,
        b"\xff",
        b'{"Config":{}}',
    ],
)
async def test_rule_1_no_description(tmp_path: Path, body: bytes) -> None:
    async with engine(tmp_path, saying(plain(200, body))) as path:
        with pytest.raises(CollateralError) as caught:
            await DockerLogSource(path).resolve("app")
    assert described(caught.value) == ("logs.engine", "another answer than a container's description")


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"message":"out of order"}', "out of order"),
        (b'{"message":"' + b"x" * 5000 + b'"}', "x" * 1000),
        (b"oops", "status 503"),
        (b"[]", "status 503"),
        (b"[" * 100_000, "status 503"),
    ],
)
async def test_an_engine_that_refuses(tmp_path: Path, body: bytes, found: str) -> None:
    async with engine(tmp_path, saying(plain(503, body))) as path:
        source = DockerLogSource(path)
        for attempt in (source.resolve("app"), source.stream(CONTAINER, LogQuery())):
            with pytest.raises(CollateralError) as caught:
                await attempt
            assert described(caught.value) == ("logs.engine-refused", found)


async def test_a_container_removed_in_between(tmp_path: Path) -> None:
    async with engine(tmp_path, FakeEngine({})) as path:
        with pytest.raises(MisuseError, match=r"^No such container: app$") as caught:
            await DockerLogSource(path).stream(CONTAINER, LogQuery())
    assert caught.value.finding.code == "logs.unknown-container"


# Rules 2 and 3: what is asked and read


async def test_rule_3_the_engine_chooses(tmp_path: Path) -> None:
    fake = FakeEngine({"app": FakeContainer()})
    async with engine(tmp_path, fake) as path:
        source = DockerLogSource(path)
        handle = await source.resolve("app")
        assert handle is not None
        for query in (
            LogQuery(),
            LogQuery(
                since=5, until=7, follow=True, timestamps=True, tail=None, text=True, bare=True, ansi=True
            ),
        ):
            await (await source.stream(handle, query)).close()
    logs = f"/containers/{identity_of('app')}/logs?stdout=1&stderr=1"
    assert fake.targets[1:] == [
        f"{logs}&follow=0&since=0&until=0&timestamps=0&tail=1000",
        f"{logs}&follow=1&since=5&until=7&timestamps=1&tail=all",
    ]


async def test_rule_2_frames_however_they_are_chunked(tmp_path: Path) -> None:
    frames = [("stdout", b"a\n"), ("stderr", b"b" * 20_000), ("stdout", b"c" * 100_000), ("stdin", b"d")]
    raw = b"".join(frame(*one) for one in frames)
    for size in (7, 1000, 70_000):
        pieces = [chunk(raw[at : at + size]) for at in range(0, len(raw), size)]
        joined = [b"".join(pieces[at : at + 500]) for at in range(0, len(pieces), 500)]
        (tmp_path / str(size)).mkdir()
        async with engine(tmp_path / str(size), saying(CHUNKED, *joined, LAST_CHUNK)) as path:
            found = await frames_of(DockerLogSource(path))
        assert found == [*frames[:2], ("stdout", b"c" * 65_536), ("stdout", b"c" * 34_464), frames[3]]


async def test_rule_2_a_terminal(tmp_path: Path) -> None:
    terminal = DockerContainer("tty", "x", terminal=True)
    async with engine(
        tmp_path, saying(CHUNKED, chunk(b"$ ls\r\n"), chunk(b"\x01\0\0\0"), LAST_CHUNK)
    ) as path:
        found = await frames_of(DockerLogSource(path), terminal)
    assert {channel for channel, _ in found} == {"console"}
    assert b"".join(data for _, data in found) == b"$ ls\r\n\x01\0\0\0"


async def test_an_answer_that_ends_with_its_connection(tmp_path: Path) -> None:
    head = b"HTTP/1.0 200 OK\r\nContent-Type: x\r\n\r\n"
    async with engine(tmp_path, saying(head, frame("stdout", b"a"), frame("stdout", b"b"))) as path:
        assert await frames_of(DockerLogSource(path)) == [("stdout", b"a"), ("stdout", b"b")]


async def test_what_follows_an_answer_is_not_ours(tmp_path: Path) -> None:
    async with engine(
        tmp_path, saying(CHUNKED + chunk(frame("stdout", b"a")) + LAST_CHUNK + b"rubbish\r\n\r\n")
    ) as path:
        assert await frames_of(DockerLogSource(path)) == [("stdout", b"a")]


# Rule 4: an engine that goes


FIRST = chunk(frame("stdout", b"a\n"))


@pytest.mark.parametrize(
    ("pieces", "came", "code", "found"),
    [
        ([CHUNKED + FIRST], [("stdout", b"a\n")], "logs.engine", "the connection ended too early"),
        ([CHUNKED], [], "logs.engine", "the connection ended too early"),
        (
            [CHUNKED + FIRST + chunk(b"\x01\0\0\0\0\0\0\x09half")],
            [("stdout", b"a\n"), ("stdout", b"half")],
            "logs.engine",
            "the connection ended too early",
        ),
        ([CHUNKED + FIRST + b"no chunk"], [("stdout", b"a\n")], "logs.engine", "another answer than HTTP"),
        (
            [CHUNKED + FIRST + chunk(b"\x02\0\0\0\0\0\0\x09half"), LAST_CHUNK],
            [("stdout", b"a\n"), ("stderr", b"half")],
            "logs.engine-frame",
            "its end",
        ),
        (
            [CHUNKED + FIRST + chunk(b"rubbish!"), FIRST],
            [("stdout", b"a\n")],
            "logs.engine-frame",
            "72756262",
        ),
    ],
)
async def test_rule_4_after_all_that_came_before(
    tmp_path: Path, pieces: list[bytes], came: list[Frame], code: str, found: str
) -> None:
    async with engine(tmp_path, saying(*pieces)) as path:
        stream = await DockerLogSource(path).stream(CONTAINER, LogQuery())
        frames: list[Frame] = []

        async def read_all() -> None:
            while (batch := await stream.read()) is not None:
                frames.extend(batch)

        with pytest.raises(CollateralError) as caught:
            await read_all()
        assert frames == came
        assert described(caught.value) == (code, found)
        with pytest.raises(CollateralError):
            await stream.read()
        await stream.close()


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (b"", "the connection ended too early"),
        (b"HTTP/1.1 200", "the connection ended too early"),
        (b"SSH-2.0-OpenSSH_9\r\n\r\n", "another answer than HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: " + b"b" * 200_000, "an answer with a head of more than 65536 bytes"),
    ],
)
async def test_no_answer(tmp_path: Path, answer: bytes, found: str) -> None:
    async with engine(tmp_path, saying(answer)) as path:
        with pytest.raises(CollateralError) as caught:
            await DockerLogSource(path).resolve("app")
    assert described(caught.value) == ("logs.engine", found)
    gc.collect()  # nothing stays open


async def test_no_engine(tmp_path: Path) -> None:
    with pytest.raises(CollateralError) as caught:
        await DockerLogSource(tmp_path / "none.sock").resolve("app")
    assert described(caught.value) == ("logs.engine", "No such file or directory")
    assert str(tmp_path) not in str(caught.value)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CollateralError, match="Connection refused"):
        await DockerLogSource(tmp_path / "file").resolve("app")


async def test_an_engine_that_hangs(tmp_path: Path) -> None:
    async def hang(_target: str, write: Write) -> None:
        await write(b"HTTP/1.1 200 OK\r\n")
        await asyncio.sleep(60)

    async with engine(tmp_path, hang) as path:
        with pytest.raises(CollateralError) as caught:
            await EngineAnswer.get(path, "/x", patience=0.05)
        assert described(caught.value) == ("logs.engine", "no answer in time")

    async def hang_later(_target: str, write: Write) -> None:
        await write(CHUNKED + chunk(b"{"))
        await asyncio.sleep(60)

    (tmp_path / "later").mkdir()
    async with engine(tmp_path / "later", hang_later) as path:
        answer = await EngineAnswer.get(path, "/x")
        with pytest.raises(CollateralError, match="no answer in time"):
            await answer.all(1000, patience=0.05)
        await answer.close()


async def test_an_engine_that_accepts_nobody(tmp_path: Path) -> None:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "full.sock"))
    listening.listen(0)
    held = socket.socket(socket.AF_UNIX)
    held.connect(str(tmp_path / "full.sock"))
    try:
        with pytest.raises(CollateralError) as caught:
            await EngineAnswer.get(tmp_path / "full.sock", "/x", patience=0.05)
        assert described(caught.value)[0] == "logs.engine"
    finally:
        held.close()
        listening.close()


async def test_a_description_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker_logs, "INSPECT_LIMIT", 100)
    async with engine(tmp_path, saying(plain(200, b"x" * 101))) as path:
        with pytest.raises(CollateralError, match="an answer of more than 100 bytes"):
            await DockerLogSource(path).resolve("app")


async def test_the_engine_waits_for_a_reader_that_does_not_read(tmp_path: Path) -> None:
    sent = 0

    async def endless(_target: str, write: Write) -> None:
        nonlocal sent
        await write(CHUNKED)
        block = chunk(frame("stdout", b"x" * 16_000)) * 4
        while True:
            await write(block)
            sent += len(block)

    async with engine(tmp_path, endless) as path:
        stream = await DockerLogSource(path).stream(CONTAINER, LogQuery())
        await asyncio.sleep(0.3)
        held = sent
        assert held < 3_000_000  # what both sides' sockets and buffers hold
        await asyncio.sleep(0.2)
        assert sent == held
        for _ in range(200):
            assert await stream.read()
        assert sent > held
        await stream.close()


async def test_a_cancelled_read_takes_nothing_away(tmp_path: Path) -> None:
    fake = FakeEngine({"app": FakeContainer(running=True)})
    async with engine(tmp_path, fake) as path:
        source = DockerLogSource(path)
        handle = await source.resolve("app")
        assert handle is not None
        stream = await source.stream(handle, LogQuery(follow=True))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(stream.read(), 0.05)
        container = fake.containers["app"]
        container.entries.append(Entry("stdout", "2026-01-01T00:00:00.000000000Z", "late\n"))
        container.tell()
        assert await stream.read() == [("stdout", b"late\n")]
        await stream.close()


async def test_the_engine_hears_that_the_client_has_gone(tmp_path: Path) -> None:
    gone = asyncio.Event()

    async def script(target: str, write: Write) -> None:
        if target.endswith("/json"):
            await write(inspected())
            return
        await write(CHUNKED)
        try:
            while True:
                await write(chunk(frame("stdout", b"x\n")))
                await asyncio.sleep(0.01)
        except OSError:
            gone.set()

    async with engine(tmp_path, script) as path, serving(tmp_path, DockerLogSource(path)) as served:
        async with served.client.stream("GET", "/logs/app?follow&text&bare") as answer:
            assert await anext(answer.aiter_text()) == "x\n"
            assert served.page.open_streams == 1
        await asyncio.wait_for(gone.wait(), 5)
        assert served.page.open_streams == 0


async def test_a_connection_that_breaks_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with engine(tmp_path, saying(CHUNKED + FIRST)) as path:
        answer = await EngineAnswer.get(path, "/x")
        await answer.read()

        async def broken(_size: int) -> bytes:
            raise ConnectionResetError(104, "Connection reset by peer")

        monkeypatch.setattr(answer._reader, "read", broken)
        with pytest.raises(CollateralError) as caught:
            await answer.read()
        assert described(caught.value) == ("logs.engine", "Connection reset by peer")
        await answer.close()


def test_bounds() -> None:
    assert (docker_http.READ_SIZE, docker_http.HEAD_LIMIT, docker_logs.INSPECT_LIMIT) == (
        65_536,
        65_536,
        4_194_304,
    )
