"""Logs from a workload's files (rules of `file_tail` and `file_logs`)."""

import asyncio
import json
import os
import resource
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.logs_support import Entry, FakeWorkload, serving
from teehouse.base.findings import CollateralError
from teehouse.guest import file_logs, file_tail
from teehouse.guest.file_logs import FileLogSource, FileLogStream, LogFile
from teehouse.guest.file_tail import FileTail
from teehouse.guest.logs_query import LogQuery
from teehouse.guest.logs_source import Frame
from teehouse.node import supervise

ALL = LogQuery(tail=None)
FOLLOW = LogQuery(tail=None, follow=True)


def line(text: str, stream: str = "stdout", stamp: str = "2026-01-01T00:00:00.000000000Z") -> bytes:
    return json.dumps({"log": text, "stream": stream, "time": stamp}).encode() + b"\n"


def rest(tail: FileTail) -> list[Frame]:
    """All that can be read now."""
    frames: list[Frame] = []
    while (batch := tail.read()) is not None:
        frames += batch
    return frames


def read(path: Path, query: LogQuery = ALL) -> list[Frame]:
    tail = FileTail(path, query)
    try:
        return rest(tail)
    finally:
        tail.close()
        tail.close()


def texts(frames: list[Frame]) -> list[str]:
    return [data.decode() for _, data in frames]


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# What the supervisor writes


def test_what_the_supervisor_wrote(tmp_path: Path) -> None:
    path = tmp_path / "app-json.log"
    log = supervise.Log(str(path), 10_000, 3)
    before = time.time_ns()
    lines = supervise.Lines("stdout", log)
    lines.feed("\u20ac".encode() * 20_000 + b"\n\xff\nlast")
    supervise.Lines("stderr", log).feed(b"oops\n")
    lines.feed(b"")
    frames = read(path, LogQuery(tail=None, timestamps=True))
    stamps = [data[:31].decode() for _, data in frames]
    assert stamps == sorted(stamps)
    assert stamps[0] >= supervise.timestamp(before) + " "
    assert b"".join(data[31:] for channel, data in frames if channel == "stderr") == b"oops\n"
    out = b"".join(data[31:] for channel, data in frames if channel == "stdout")
    assert out.decode().endswith("\u20ac\n\ufffd\nlast")


# Rule 1: tail and rotation


def write_files(path: Path, *files: list[str]) -> None:
    """Oldest first; empty names are left out."""
    for number, lines in enumerate(reversed(files)):
        (path if number == 0 else Path(f"{path}.{number}")).write_bytes(
            b"".join(line(text) for text in lines)
        )


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 6, 7, 99, None])
def test_rule_1_tail_over_files(tmp_path: Path, count: int | None) -> None:
    path = tmp_path / "log"
    write_files(path, ["a\n", "b\n"], [], ["c\n", "d\n", "e\n"], ["f\n"])
    with path.open("ab") as file:
        file.write(b'{"log":"torn')
    expected = ["a\n", "b\n", "c\n", "d\n", "e\n", "f\n"]
    wanted = expected if count is None else expected[len(expected) - min(count, 6) :]
    assert texts(read(path, LogQuery(tail=count))) == wanted


@settings(max_examples=40)
@given(st.lists(st.integers(0, 300_000), max_size=6), st.integers(0, 8))
def test_rule_1_the_tail_is_found_from_the_end(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], count: int
) -> None:
    path = tmp_path_factory.mktemp("tail") / "log"
    path.write_bytes(b"".join(line(f"{number}" + "x" * size) for number, size in enumerate(sizes)))
    found = read(path, LogQuery(tail=count))
    assert [len(data) - 1 for _, data in found] == sizes[len(sizes) - min(count, len(sizes)) :]


def test_rule_1_only_the_end_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"".join(line(str(number) + "x" * 60) for number in range(40_000)))
    sizes: list[int] = []
    real = os.pread

    def counting(file: int, size: int, at: int) -> bytes:
        data = real(file, size, at)
        sizes.append(len(data))
        return data

    monkeypatch.setattr(file_tail.os, "pread", counting)
    assert [text[:5] for text in texts(read(path, LogQuery(tail=2)))] == ["39998", "39999"]
    assert sum(sizes) < 140_000


def test_rule_1_there_is_no_log(tmp_path: Path) -> None:
    assert read(tmp_path / "none") == []
    tail = FileTail(tmp_path / "late", FOLLOW)
    assert rest(tail) == []
    (tmp_path / "late").write_bytes(line("a\n"))
    assert texts(rest(tail)) == ["a\n"]
    tail.close()


def test_rule_1_rotations_neither_skip_nor_repeat(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = supervise.Log(str(path), 1000, 20)
    tail = FileTail(path, FOLLOW)
    written = 0
    found: list[str] = []
    for burst in (1, 30, 2, 200, 1, 120, 0, 64):
        for _ in range(burst):
            log.write("stdout", f"line {written}\n".encode())
            written += 1
        found += texts(rest(tail))
    tail.close()
    assert (tmp_path / "log.19").exists()
    assert found == [f"line {number}\n" for number in range(written)]


def test_rule_1_a_rotation_at_any_instant(tmp_path: Path) -> None:
    """A writer in another thread, which waits only so that nothing is rotated away unread."""
    path = tmp_path / "log"
    log = supervise.Log(str(path), 2000, 12)
    total, found = 6000, 0
    end = time.monotonic() + 20
    problems: list[str] = []

    def write() -> None:
        for number in range(total):
            while number - found > 150 and time.monotonic() < end:
                time.sleep(0.0002)
            log.write("stdout", f"{number}\n".encode())

    thread = threading.Thread(target=write)
    tail = FileTail(path, FOLLOW)
    thread.start()
    while found < total and time.monotonic() < end:
        for text in texts(tail.read() or []):
            if text != f"{found}\n":
                problems.append(f"{text!r} in place of {found}")
            found += 1
    thread.join()
    tail.close()
    assert (found, problems[:3]) == (total, [])


def test_rule_1_what_was_rotated_away_is_lost_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = supervise.Log(str(path), 1000, 3)
    tail = FileTail(path, FOLLOW)
    for number in range(10):
        log.write("stdout", f"{number}\n".encode())
    assert len(rest(tail)) == 10
    for number in range(10, 200):
        log.write("stdout", f"{number}\n".encode())
    found = [int(text) for text in texts(rest(tail))]
    tail.close()
    assert found[-1] == 199
    later = [number for number in found if number > 100]
    assert later == list(range(later[0], 200))
    assert len(found) == len(set(found))


def test_rule_1_within_a_rotation_files_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write_files(path, ["a\n"], ["b\n"])
    tail = FileTail(path, FOLLOW)
    assert texts(rest(tail)) == ["a\n", "b\n"]
    Path(f"{path}.1").rename(f"{path}.2")
    assert rest(tail) == []
    path.rename(f"{path}.1")
    assert rest(tail) == []
    assert texts(read(path)) == ["a\n", "b\n"]  # `log` itself is missing
    path.write_bytes(line("c\n"))
    assert texts(rest(tail)) == ["c\n"]
    tail.close()


def test_rule_1_a_file_that_is_met_twice(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write_files(path, ["a\n"], ["b\n"])
    os.link(path, f"{path}.2")  # as when a rotation overtakes the search
    before = descriptors()
    assert texts(read(path)) == ["a\n", "b\n"]
    assert descriptors() == before


def test_rule_1_the_log_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write_files(path, ["a\n"], ["b\n"])
    tail = FileTail(path, FOLLOW)
    assert len(rest(tail)) == 2
    for name in (path, Path(f"{path}.1")):
        name.unlink()
    assert rest(tail) == []
    write_files(path, ["c\n"], ["d\n"], ["e\n"])
    assert texts(rest(tail)) == ["c\n", "d\n", "e\n"]
    tail.close()


def test_descriptors_are_closed(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write_files(path, *([f"{number}\n"] for number in range(8)))
    before = descriptors()
    tail = FileTail(path, FOLLOW)
    assert descriptors() == before + 1
    assert len(rest(tail)) == 8
    assert descriptors() == before + 1
    tail.close()
    assert descriptors() == before


# Rule 2: what is not there yet


def test_rule_2_torn_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    whole = line("whole\n")
    path.write_bytes(whole + whole[:20])
    tail = FileTail(path, FOLLOW)
    assert texts(rest(tail)) == ["whole\n"]
    assert rest(tail) == []
    with path.open("ab") as file:
        file.write(whole[20:])
    assert texts(rest(tail)) == ["whole\n"]
    tail.close()


def test_rule_2_half_an_entry_is_taken_back(tmp_path: Path) -> None:
    """A full disk: the supervisor cuts off what it could not write whole."""
    path = tmp_path / "log"
    path.write_bytes(line("a\n") + b'{"log":"bbbbbbbbbbbbbbb')
    tail = FileTail(path, FOLLOW)
    assert texts(rest(tail)) == ["a\n"]
    os.truncate(path, len(line("a\n")))
    assert rest(tail) == []
    with path.open("ab") as file:
        file.write(line("c\n"))
    assert texts(rest(tail)) == ["c\n"]
    tail.close()


def test_rule_2_a_log_that_became_shorter(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(line("a\n") * 5)
    tail = FileTail(path, FOLLOW)
    assert len(rest(tail)) == 5
    path.write_bytes(line("b\n"))
    assert texts(rest(tail)) == ["b\n"]
    tail.close()


# Rule 3: what is no entry


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"no json",
        b"[]",
        b"null",
        b'"text"',
        b'{"log":1,"stream":"stdout","time":""}',
        b'{"log":"x","stream":"stdin","time":""}',
        b'{"log":"x","stream":["stdout"],"time":""}',
        b'{"log":"x","stream":"stdout"}',
        b'{"stream":"stdout","time":""}',
        b"[" * 50_000,
        b'{"log":"half {"log":"x","stream":"stdout","time":""}',
        b"\0" * 100,
    ],
)
def test_rule_3_what_is_no_entry(tmp_path: Path, bad: bytes) -> None:
    path = tmp_path / "log"
    path.write_bytes(line("a\n") + bad + b"\n" + line("b\n", "stderr"))
    assert read(path) == [("stdout", b"a\n"), ("stderr", b"b\n")]


@pytest.mark.parametrize("stamp", ["", "yesterday", "2026-01-01", "2026-01-01T00:00:00+00:00", None, 5])
def test_rule_3_no_time(tmp_path: Path, stamp: object) -> None:
    path = tmp_path / "log"
    path.write_bytes(json.dumps({"log": "x\n", "stream": "stdout", "time": stamp}).encode() + b"\n")
    assert texts(read(path)) == ["x\n"]
    assert read(path, LogQuery(timestamps=True)) == []
    assert read(path, LogQuery(since=1)) == []


def test_rule_3_bytes_that_are_no_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b'{"log":"\xff\\ud800\\n","stream":"stdout","time":""}\n')
    assert read(path) == [("stdout", "\ufffd\ud800\n".encode("utf-8", "surrogatepass"))]


def test_rule_3_lines_of_ten_megabytes(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(line("a\n") + line("x" * 10_000_000) + line("y" * 1_000_000) + line("b\n"))
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = read(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held < 32 * 1024  # KiB
    assert [len(data) for _, data in found] == [2, 1_000_000, 2]
    with path.open("ab") as file:
        file.write(b"z" * 3_000_000)
    tail = FileTail(path, LogQuery(follow=True, tail=1))
    assert texts(rest(tail)) == ["b\n"]
    with path.open("ab") as file:
        file.write(b"z" * 3_000_000 + b"\n" + line("c\n"))
    assert texts(rest(tail)) == ["c\n"]
    tail.close()


# Rules 4 and 5


def test_rule_4_times_of_other_widths(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(
        line("a\n", stamp="2026-01-01T00:00:00Z")
        + line("b\n", stamp="2026-01-01T00:00:00.5Z")
        + line("c\n", stamp="2026-01-01T00:00:01Z")
    )
    assert texts(read(path, LogQuery(timestamps=True, since=1_767_225_600, until=1_767_225_600))) == [
        "2026-01-01T00:00:00.000000000Z a\n"
    ]
    assert texts(read(path, LogQuery(timestamps=True, tail=2))) == [
        "2026-01-01T00:00:00.500000000Z b\n",
        "2026-01-01T00:00:01.000000000Z c\n",
    ]


def test_rule_4_nothing_follows_the_first_later_entry(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(
        line("a\n", stamp="2026-01-01T00:00:00Z")
        + line("b\n", stamp="2026-01-02T00:00:00Z")
        + line("c\n", stamp="2026-01-01T00:00:00Z")
    )
    tail = FileTail(path, LogQuery(tail=None, until=1_767_225_600, follow=True))
    assert texts(rest(tail)) == ["a\n"]
    assert tail.ended
    tail.close()


def test_rule_5_what_is_written_later_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(line("a\n") * 3)
    tail = FileTail(path, ALL)
    with path.open("ab") as file:
        file.write(line("b\n") * 3)
    assert texts(rest(tail)) == ["a\n"] * 3
    tail.close()
    tail = FileTail(path, ALL)
    path.rename(f"{path}.1")
    path.write_bytes(line("c\n"))
    assert texts(rest(tail)) == ["a\n"] * 3 + ["b\n"] * 3
    tail.close()


def test_a_search_gives_others_their_turn(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(line("x" * 1000, stamp="2020-01-01T00:00:00Z") * 2000 + line("b\n"))
    tail = FileTail(path, LogQuery(tail=None, since=1_700_000_000))
    assert tail.read() == []
    assert texts(rest(tail)) == ["b\n"]
    tail.close()


@pytest.mark.parametrize("kind", ["link", "directory", "pipe"])
async def test_what_is_no_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "log"
    secret = tmp_path / "secret"
    secret.write_bytes(line("secret"))
    if kind == "link":
        path.symlink_to(secret)
    elif kind == "directory":
        path.mkdir()
    else:
        os.mkfifo(path)

    async def locate(_name: str) -> LogFile:
        return LogFile(path, lambda: False)

    before = descriptors()
    source = FileLogSource(locate)
    handle = await source.resolve("app")
    assert handle is not None

    async def read_once() -> None:
        stream = await source.stream(handle, FOLLOW)
        try:
            await stream.read()
        finally:
            await stream.close()

    with pytest.raises(CollateralError) as caught:
        await read_once()
    assert caught.value.finding.code == "logs.file"
    assert str(tmp_path) not in str(caught.value)
    assert descriptors() == before


# Followers


def source_of(workload: FakeWorkload) -> FileLogSource:
    return FileLogSource(workload.locate, poll=0.01, running_poll=0.02)


async def opened(source: FileLogSource, query: LogQuery = FOLLOW) -> FileLogStream:
    handle = await source.resolve("app")
    assert handle is not None
    return await source.stream(handle, query)


async def until_end(stream: FileLogStream) -> list[str]:
    found: list[str] = []
    async with asyncio.timeout(10):
        while (frames := await stream.read()) is not None:
            found += [data.decode() for _, data in frames]
    await stream.close()
    return found


def entry(text: str) -> Entry:
    return Entry("stdout", "2026-01-01T00:00:00.000000000Z", text)


async def test_rule_1_others_are_unknown(tmp_path: Path) -> None:
    assert await source_of(FakeWorkload(tmp_path / "log")).resolve("other") is None


async def test_rule_3_one_look_for_all_followers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workload = FakeWorkload(tmp_path / "log", alive=True)
    workload.write([entry("a\n")])
    source = source_of(workload)
    looks = 0
    real = os.stat

    def counting(path: object, **options: object) -> os.stat_result:
        nonlocal looks
        looks += 1
        return real(path, **options)  # type: ignore[call-overload,no-any-return]  # passed on as it came

    streams = [await opened(source) for _ in range(50)]
    tasks = [asyncio.create_task(until_end(stream)) for stream in streams]
    await asyncio.sleep(0.1)
    assert source.watched == 1
    monkeypatch.setattr(file_logs.os, "stat", counting)
    asked = workload.asked
    await asyncio.sleep(0.3)
    assert looks <= 40
    assert workload.asked - asked <= 20
    monkeypatch.undo()
    workload.write([entry("b\n")])
    workload.rotate()
    workload.write([entry("c\n")])
    workload.alive = False
    assert await asyncio.gather(*tasks) == [["a\n", "b\n", "c\n"]] * 50
    assert source.watched == 0
    await asyncio.sleep(0.03)
    asked = workload.asked
    await asyncio.sleep(0.1)
    assert workload.asked == asked  # nobody looks when nobody follows


async def test_rule_4_an_ended_container_is_read_to_its_end(tmp_path: Path) -> None:
    workload = FakeWorkload(tmp_path / "log")
    workload.write([entry(f"{number}\n") for number in range(3000)])
    source = source_of(workload)
    assert await until_end(await opened(source)) == [f"{number}\n" for number in range(3000)]
    assert workload.asked >= 1
    assert source.watched == 0


async def test_rule_3_whoever_cannot_say_whether_it_runs(tmp_path: Path) -> None:
    workload = FakeWorkload(tmp_path / "log", alive=True)
    workload.write([entry("a\n")])

    def broken() -> bool:
        raise PermissionError(13, "Permission denied")

    source = source_of(workload)
    stream = await source.stream(LogFile(workload.path, broken), FOLLOW)
    assert await until_end(stream) == ["a\n"]


async def test_an_entry_after_until_ends_a_follower(tmp_path: Path) -> None:
    workload = FakeWorkload(tmp_path / "log", alive=True)
    workload.write([entry("a\n")])
    source = source_of(workload)
    stream = await opened(source, LogQuery(follow=True, until=1_767_225_600))
    reading = asyncio.create_task(until_end(stream))
    await asyncio.sleep(0.05)
    workload.write([Entry("stdout", "2026-01-01T00:00:09Z", "late\n")])
    assert await reading == ["a\n"]


async def test_a_cancelled_read_takes_nothing_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workload = FakeWorkload(tmp_path / "log", alive=True)
    workload.write([entry("a\n")])
    stream = await opened(source_of(workload))
    go, real = threading.Event(), stream._tail.read

    def slow() -> list[Frame] | None:
        go.wait(5)
        return real()

    monkeypatch.setattr(stream._tail, "read", slow)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(stream.read(), 0.02)
    go.set()
    assert await stream.read() == [("stdout", b"a\n")]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(stream.read(), 0.05)
    workload.write([entry("b\n")])
    assert await stream.read() == [("stdout", b"b\n")]
    await stream.close()
    await stream.close()


@pytest.mark.parametrize("fails", [False, True])
async def test_a_stream_closed_while_a_thread_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    workload = FakeWorkload(tmp_path / "log")
    workload.write([entry("a\n")])
    before = descriptors()
    stream = await opened(source_of(workload), ALL)
    go, real = threading.Event(), stream._tail.read

    def slow() -> list[Frame] | None:
        go.wait(5)
        if fails:
            raise OSError(5, "Input/output error")
        return real()

    monkeypatch.setattr(stream._tail, "read", slow)
    task = asyncio.create_task(stream.read())
    await asyncio.sleep(0.02)
    task.cancel()
    await asyncio.wait([task])
    await stream.close()
    assert stream._tail._file >= 0  # the thread has it still
    go.set()
    async with asyncio.timeout(5):
        while stream._tail._file >= 0:  # noqa: ASYNC110 - a thread ends
            await asyncio.sleep(0.01)
    assert descriptors() == before


async def test_a_follower_hears_of_a_line_soon(tmp_path: Path) -> None:
    workload = FakeWorkload(tmp_path / "log", alive=True)
    source = FileLogSource(workload.locate)
    async with serving(tmp_path, source) as served:
        async with served.client.stream("GET", "/logs/app?follow&text&bare") as answer:
            pieces = answer.aiter_text()
            await asyncio.sleep(0.1)
            begun = time.monotonic()
            workload.write([entry("now\n")])
            assert await anext(pieces) == "now\n"
            assert time.monotonic() - begun < 1
        async with asyncio.timeout(5):
            while source.watched:  # noqa: ASYNC110 - the server hears of the close in its own time
                await asyncio.sleep(0.01)


def test_bounds() -> None:
    assert (file_logs.POLL, file_logs.RUNNING_POLL) == (0.05, 1.0)
    assert (file_tail.READ_SIZE, file_tail.LINE_LIMIT) == (65_536, 1_048_576)
