"""Every parameter of /logs means the same for containers and for workloads' files (guest-agent.md 13.2, 22 #9)."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from support.logs_support import Entry, FakeContainer, FakeEngine, FakeWorkload, Served, engine, serving
from teehouse.base.clock import FixedClock, SystemClock
from teehouse.guest.docker_logs import DockerLogSource
from teehouse.guest.file_logs import FileLogSource

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
AT = {  # name to time
    "one": "2026-03-01T10:59:59.999999999Z",
    "two": "2026-03-01T11:00:00.000000000Z",
    "three": "2026-03-01T11:30:00.000000001Z",
    "four": "2026-03-01T11:59:00.500000000Z",
}
ENTRIES = [
    Entry("stdout", AT["one"], "one\n"),
    Entry("stderr", AT["two"], "tw\u00f6\n"),
    Entry("stdout", AT["three"], "\x1b[1mthree\x1b[0m\n"),
    Entry("stdout", AT["four"], "four"),
]


class Running:
    """A container whose log grows, and that ends when told."""

    def __init__(self, served: Served, add: Callable[[Entry], None], end: Callable[[], None]) -> None:
        self.served, self.add, self.end = served, add, end


Make = Callable[..., AbstractAsyncContextManager[Running]]


@pytest.fixture(params=["docker", "files"])
def container(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    @asynccontextmanager
    async def docker(*, running: bool = False, fixed: bool = True) -> AsyncIterator[Running]:
        made = FakeContainer(list(ENTRIES), running=running)

        def add(entry: Entry) -> None:
            made.entries.append(entry)
            made.tell()

        def end() -> None:
            made.running = False
            made.tell()

        clock = FixedClock(NOW) if fixed else SystemClock()
        async with (
            engine(tmp_path, FakeEngine({"app": made})) as socket,
            serving(tmp_path, DockerLogSource(socket), clock=clock) as served,
        ):
            yield Running(served, add, end)

    @asynccontextmanager
    async def files(*, running: bool = False, fixed: bool = True) -> AsyncIterator[Running]:
        workload = FakeWorkload(tmp_path / "app-json.log", running)
        workload.write(ENTRIES[:2])
        workload.rotate()
        workload.write(ENTRIES[2:])

        def end() -> None:
            workload.alive = False

        source = FileLogSource(workload.locate, poll=0.01, running_poll=0.02)
        clock = FixedClock(NOW) if fixed else SystemClock()
        async with serving(tmp_path, source, clock=clock) as served:
            yield Running(served, lambda entry: workload.write([entry]), end)

    return docker if request.param == "docker" else files


ONE, TWO, THREE, FOUR = "one\n", "tw\u00f6\n", "three\n", "four"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ONE + TWO + THREE + FOUR),
        ("tail=all", ONE + TWO + THREE + FOUR),
        ("tail=4", ONE + TWO + THREE + FOUR),
        ("tail=3", TWO + THREE + FOUR),
        ("tail=2", THREE + FOUR),
        ("tail=1", FOUR),
        ("tail=0", ""),
        ("tail=999999999", ONE + TWO + THREE + FOUR),
        ("since=1h", TWO + THREE + FOUR),
        ("since=60m", TWO + THREE + FOUR),
        ("since=3600", TWO + THREE + FOUR),
        ("since=3601", ONE + TWO + THREE + FOUR),
        ("since=3599s", THREE + FOUR),
        ("since=1772362800", TWO + THREE + FOUR),  # 11:00:00
        ("since=1d", ONE + TWO + THREE + FOUR),
        ("since=0", ONE + TWO + THREE + FOUR),
        ("since=1m", FOUR),
        ("since=0s", ""),
        ("until=1h", ONE + TWO),
        ("until=3601s", ""),
        ("until=1772362800", ONE + TWO),
        ("until=30m", ONE + TWO),
        ("until=1799s", ONE + TWO + THREE),
        ("until=0", ONE + TWO + THREE + FOUR),
        ("until=1d", ""),
        ("since=1h&until=30m", TWO),
        ("since=1h&until=1h", TWO),
        ("tail=2&until=30m", ""),
        ("tail=3&since=30m", THREE + FOUR),
        ("tail=3&until=1799", TWO + THREE),
        ("follow", ONE + TWO + THREE + FOUR),  # it does not run
        ("follow&tail=1", FOUR),
        ("follow=false&tail=1", FOUR),
        ("ansi", ONE + TWO + "\x1b[1mthree\x1b[0m\n" + FOUR),
        ("ansi=0&since=30m&until=1m", THREE),
        (
            "timestamps&tail=3",
            f"{AT['two']} {TWO}{AT['three']} {THREE}{AT['four']} {FOUR}",
        ),
        ("timestamps&ansi=yes&since=30m&until=1m", f"{AT['three']} \x1b[1mthree\x1b[0m\n"),
    ],
)
async def test_what_is_sent(container: Make, query: str, expected: str) -> None:
    async with container() as made:
        assert await made.served.text(f"text&bare&{query}") == expected


async def test_the_four_forms(container: Make) -> None:
    async with container() as made:
        text = made.served.text
        assert await text("text&bare=no&tail=2") == (
            '{"channel":"stdout","message":"\\u001b[1mthree\\u001b[0m\\n"}\n'
            '{"channel":"stdout","message":"four"}\n'
        )
        assert (
            await text("tail=3&until=30m&timestamps")
            == json.dumps(
                {"channel": "stderr", "message": base64.b64encode(f"{AT['two']} {TWO}".encode()).decode()},
                separators=(",", ":"),
            )
            + "\n"
        )
        assert await text("bare&tail=1") == "Zm91cg==\n"
        assert await text("bare&text&tail=1") == "four"


@pytest.mark.parametrize(
    "query", ["text&bare", "text&bare&tail=0", "text&bare&since=0s", "text&bare&tail=2&since=1m"]
)
async def test_follow_to_the_end_of_the_container(container: Make, query: str) -> None:
    first = {"text&bare": ONE + TWO + THREE + FOUR, "text&bare&tail=2&since=1m": FOUR}.get(query, "")
    async with (
        container(running=True) as made,
        made.served.client.stream("GET", f"/logs/app?{query}&follow") as answer,
    ):
        assert answer.status_code == 200
        assert answer.headers["transfer-encoding"] == "chunked"
        received = ""
        pieces = answer.aiter_text()
        while len(received) < len(first):
            received += await anext(pieces)
        assert received == first
        made.add(Entry("stdout", "2026-03-01T12:00:01.000000000Z", "five\n"))
        assert await anext(pieces) == "five\n"
        made.add(Entry("stderr", "2026-03-01T12:00:02.000000000Z", "six\n"))
        assert await anext(pieces) == "six\n"
        made.add(Entry("stderr", "2026-03-01T12:00:03.000000000Z", "seven\n"))
        made.end()
        assert [piece async for piece in pieces] == ["seven\n"]


async def test_follow_up_to_a_moment(container: Make) -> None:
    async with container(running=True, fixed=False) as made:
        now = int(datetime.now(UTC).timestamp())
        begun = asyncio.get_running_loop().time()
        text = await made.served.text(f"text&bare&follow&until={now + 2}&tail=1")
        assert text == FOUR
        assert 0.9 < asyncio.get_running_loop().time() - begun < 5
        assert await made.served.text("text&bare&follow&until=1s&tail=1") == FOUR


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("tail=abc", "Invalid tail"),
        ("tail=-1", "Invalid tail"),
        ("since=-1h", "Invalid since"),
        ("since=1w", "Invalid since"),
        ("until=h", "Invalid until"),
        ("since=1h&until=2h", "Invalid until: expected a time not before since"),
        ("follow=2", "Invalid follow"),
        ("text=maybe", "Invalid text"),
    ],
)
async def test_bad_queries(container: Make, query: str, error: str) -> None:
    async with container() as made:
        assert await made.served.refusal(f"/logs/app?{query}") == (400, {"error": error})


async def test_an_unknown_container(container: Make) -> None:
    async with container() as made:
        for name in ("nobody", "app2", "a%20b", "caf%C3%A9", "%3Cb%3E"):
            status, body = await made.served.refusal(f"/logs/{name}")
            decoded = {"a%20b": "a b", "caf%C3%A9": "caf\u00e9", "%3Cb%3E": "<b>"}.get(name, name)
            assert (status, body) == (404, {"error": f"No such container: {decoded}"})
