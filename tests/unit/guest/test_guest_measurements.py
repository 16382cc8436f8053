"""The measurement log by its rules (M1 to M7 of `guest.measurements`)."""

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.guest_support import RegisterPlatform, broken
from teehouse.attestation.envelope import Attestation, encode_v0, encode_v1
from teehouse.attestation.eventlog import Event, RuntimeEvent, encode_event_log, replay_runtime
from teehouse.base.findings import MisuseError
from teehouse.base.hashes import extend
from teehouse.guest import measurements, runtime_log
from teehouse.guest.measurements import MeasurementLog
from teehouse.tee.platform import PlatformError

ZERO = bytes(64)


async def opened(platform: RegisterPlatform, directory: Path, version: int = 1) -> MeasurementLog:
    log = MeasurementLog(platform, directory, version)
    await log.open()
    return log


async def refused(work: Coroutine[Any, Any, Any]) -> str:
    with pytest.raises((PlatformError, MisuseError)) as caught:
        await work
    return caught.value.finding.code


async def extended(platform: RegisterPlatform, times: int) -> None:
    while platform.extensions < times:  # noqa: ASYNC110 (the platform stands for a device, which has no event)
        await asyncio.sleep(0)


async def in_step(log: MeasurementLog) -> tuple[RuntimeEvent, ...]:
    """What a quote says and the events that came with it agree."""
    quote, events = await log.quoted(ZERO)
    assert quote[520:568] == replay_runtime(events) == log.register
    return events


async def test_an_event_is_measured_logged_and_quoted(tmp_path: Path) -> None:
    platform = RegisterPlatform()
    log = await opened(platform, tmp_path / "log")
    await log.emit("a", b"b")
    await log.emit("ü", b"")
    quote, events = await log.quoted(b"\x07" * 64)
    assert events == (RuntimeEvent("a", b"b"), RuntimeEvent("ü", b""))
    assert quote[520:568] == platform.register == replay_runtime(events)
    assert quote[568:] == b"\x07" * 64
    text = (tmp_path / "log" / "runtime_events.log").read_bytes()
    assert text == '{"event":"a","payload":"Yg=="}\n{"event":"ü","payload":""}\n'.encode()
    assert (tmp_path / "log" / "runtime_event_version").read_text() == "1"
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "log").iterdir()}
    assert set(modes.values()) == {0o600}
    await log.close()


async def test_version_2_is_written_into_each_line(tmp_path: Path) -> None:
    platform = RegisterPlatform()
    log = await opened(platform, tmp_path, 2)
    await log.emit("compose-hash", b"\xab\xcd")
    await log.close()
    assert (tmp_path / "runtime_events.log").read_text() == (
        '{"event":"compose-hash","payload":"q80=","version":2}\n'
    )
    again = await opened(platform, tmp_path, 2)
    assert await in_step(again) == (RuntimeEvent("compose-hash", b"\xab\xcd", 2),)
    await again.close()


async def test_the_version_of_a_boot_does_not_change(tmp_path: Path) -> None:
    log = await opened(RegisterPlatform(), tmp_path, 1)
    await log.close()
    other = MeasurementLog(RegisterPlatform(), tmp_path, 2)
    assert await refused(other.open()) == "measurements.version"
    assert await refused(other.emit("a", b"")) == "measurements.closed"
    with pytest.raises(MisuseError):
        MeasurementLog(RegisterPlatform(), tmp_path, 3)
    await other.close()


async def test_lines_of_another_version_make_the_log_unreadable(tmp_path: Path) -> None:
    (tmp_path / "runtime_events.log").write_text('{"event":"a","payload":"","version":2}\n')
    log = MeasurementLog(RegisterPlatform(), tmp_path, 1)
    assert await refused(log.open()) == "measurements.log"
    await log.close()


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense",
        b"[]",
        b'{"event":"a"}',
        b'{"event":1,"payload":""}',
        b'{"event":"a","payload":1}',
        b'{"event":"a","payload":"?"}',
        b'{"event":"a","payload":"","version":3}',
        b'{"event":"a","payload":"","version":true}',
        b'{"event":"\\ud800","payload":""}',
        b"[" * 100_000,
        b"\xff",
        b"",
    ],
)
async def test_a_damaged_line_is_refused(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "runtime_events.log").write_bytes(line + b"\n")
    log = MeasurementLog(RegisterPlatform(), tmp_path)
    assert await refused(log.open()) == "measurements.log"
    await log.close()


async def test_m7_a_name_is_needed_and_the_text_is_the_wire_s(tmp_path: Path) -> None:
    platform = RegisterPlatform()
    log = await opened(platform, tmp_path)
    with pytest.raises(MisuseError, match=r"^event name cannot be empty$"):
        await log.emit("", b"x")
    with pytest.raises(MisuseError):
        await log.emit("\ud800", b"x")
    assert platform.extensions == 0
    await log.close()


async def test_m7_the_file_stays_below_its_limit(tmp_path: Path) -> None:
    platform = RegisterPlatform()
    log = await opened(platform, tmp_path)
    for _ in range(2):
        await log.emit("big", bytes(1024 * 1024))
    with pytest.raises(MisuseError, match=r"^runtime event log is full$"):
        await log.emit("big", bytes(1024 * 1024))
    assert platform.extensions == 2
    await log.emit("small", b"")
    assert len(await in_step(log)) == 3
    await log.close()


async def test_m7_the_share_of_the_attestation_is_bounded_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = await opened(RegisterPlatform(), tmp_path, 2)
    for _ in range(2):
        await log.emit("x", bytes(700_000))  # hex in a preimage that is hex: six times its size
    assert await refused(log.emit("x", bytes(700_000))) == "measurements.full"
    assert log._offset + 940_000 < runtime_log.LOG_LIMIT
    await log.close()


async def test_a_log_file_above_the_limit_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "runtime_events.log").write_bytes(b"x" * (runtime_log.LOG_LIMIT + 1))
    log = MeasurementLog(RegisterPlatform(), tmp_path)
    assert await refused(log.open()) == "measurements.log"
    await log.close()


async def test_a_log_that_shrinks_is_refused(tmp_path: Path) -> None:
    log = await opened(RegisterPlatform(), tmp_path)
    await log.emit("a", b"")
    (tmp_path / "runtime_events.log").write_bytes(b"")
    assert await refused(log.quoted(ZERO)) == "measurements.log"
    await log.close()


async def test_m1_fifty_concurrent_emissions_stay_in_step(tmp_path: Path) -> None:
    platform = RegisterPlatform()
    log = await opened(platform, tmp_path)
    emissions = asyncio.gather(*(log.emit(f"e{i}", bytes([i])) for i in range(50)))
    for quote, events in await asyncio.gather(*(log.quoted(ZERO) for _ in range(10))):
        assert quote[520:568] == replay_runtime(events)
    await emissions
    events = await in_step(log)
    assert {event.event for event in events} == {f"e{i}" for i in range(50)}
    await log.close()
    again = await opened(platform, tmp_path)
    assert again.events == events
    await again.close()


EMITTER = """
    import asyncio, sys
    from pathlib import Path
    from support.guest_support import RegisterPlatform
    from teehouse.guest.measurements import MeasurementLog

    async def main(directory, name):
        log = MeasurementLog(RegisterPlatform(directory / "register"), directory / "log")
        await log.open()
        for i in range(20):
            await log.emit(f"{name}{i}", b"")
        await log.close()

    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
"""


async def test_m1_m5_two_processes_share_one_log(tmp_path: Path) -> None:
    log = await opened(RegisterPlatform(tmp_path / "register"), tmp_path / "log")
    arguments = [sys.executable, "-c", textwrap.dedent(EMITTER), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    children = [
        await asyncio.create_subprocess_exec(*arguments, name, env=environment) for name in ("a", "b")
    ]
    for i in range(20):
        await log.emit(f"c{i}", b"")
        await in_step(log)
    assert [await child.wait() for child in children] == [0, 0]
    names = [event.event for event in await in_step(log)]
    assert len(names) == 60
    for name in "abc":
        assert [n for n in names if n[0] == name] == [f"{name}{i}" for i in range(20)]
    await log.close()


async def test_m1_a_lock_that_is_never_released_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measurements, "LOCK_PATIENCE", 0.02)
    log = await opened(RegisterPlatform(), tmp_path)
    with (tmp_path / "runtime_event.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert await refused(log.emit("a", b"")) == "measurements.locked"
    await log.emit("a", b"")
    await log.close()


async def test_m1_waiting_callers_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurements, "QUEUE_LIMIT", 2)
    log = await opened(RegisterPlatform(), tmp_path)
    answers = await asyncio.gather(*(log.quoted(ZERO) for _ in range(6)), return_exceptions=True)
    codes = [answer.finding.code for answer in answers if isinstance(answer, PlatformError)]
    assert codes == ["measurements.busy"] * len(codes)
    assert 0 < len(codes) < 6
    await log.close()


async def test_m2_a_failed_extension_logs_nothing(tmp_path: Path) -> None:
    platform = RegisterPlatform()
    log = await opened(platform, tmp_path)
    platform.before_extend = broken
    assert await refused(log.emit("a", b"")) == "fake.broken"
    platform.before_extend = None
    assert await in_step(log) == ()
    await log.emit("b", b"")
    assert [event.event for event in await in_step(log)] == ["b"]
    await log.close()


async def test_m3_an_extension_that_failed_after_all_is_found_out(tmp_path: Path) -> None:
    platform = RegisterPlatform()
    log = await opened(platform, tmp_path)
    platform.after_extend = broken
    assert await refused(log.emit("a", b"1")) == "fake.broken"
    platform.after_extend = None
    assert await in_step(log) == (RuntimeEvent("a", b"1"),)
    await log.close()


@pytest.mark.parametrize("tells_register", [True, False])
async def test_m3_killed_between_extension_and_append(tmp_path: Path, tells_register: bool) -> None:
    platform = RegisterPlatform()
    log = await opened(platform, tmp_path)
    await log.emit("a", b"")
    platform.after_extend = broken
    await refused(log.emit("b", b"\x01"))
    platform.after_extend = None
    await log.close()  # nothing of the process is left but its files and the register
    platform.tells_register = tells_register
    again = await opened(platform, tmp_path)
    assert await in_step(again) == (RuntimeEvent("a", b""), RuntimeEvent("b", b"\x01"))
    assert (tmp_path / "runtime_event.pending").read_bytes() == b""
    await again.close()


async def test_m3_killed_before_the_extension(tmp_path: Path) -> None:
    platform = RegisterPlatform()
    log = await opened(platform, tmp_path)
    await log.close()
    (tmp_path / "runtime_event.pending").write_bytes(b'{"event":"a","payload":""}\n')
    again = await opened(platform, tmp_path)
    assert await in_step(again) == ()
    assert (tmp_path / "runtime_event.pending").read_bytes() == b""
    await again.close()


async def test_m3_killed_within_the_append(tmp_path: Path) -> None:
    platform = RegisterPlatform()
    log = await opened(platform, tmp_path)
    await log.emit("a", b"")
    await log.emit("b", b"12")
    await log.close()
    path = tmp_path / "runtime_events.log"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    (tmp_path / "runtime_event.pending").write_bytes(b'{"event":"b","payload":"MTI="}\n')
    again = await opened(platform, tmp_path)
    assert [event.event for event in await in_step(again)] == ["a", "b"]
    assert path.read_bytes() == whole
    await again.close()


async def test_m3_a_line_that_only_lost_its_line_feed_is_kept(tmp_path: Path) -> None:
    platform = RegisterPlatform()
    log = await opened(platform, tmp_path)
    await log.emit("a", b"")
    await log.close()
    path = tmp_path / "runtime_events.log"
    path.write_bytes(path.read_bytes()[:-1])
    again = await opened(platform, tmp_path)
    assert [event.event for event in await in_step(again)] == ["a"]
    assert path.read_bytes().endswith(b"\n")
    await again.close()


async def test_m3_a_torn_line_that_was_never_measured_goes(tmp_path: Path) -> None:
    platform = RegisterPlatform()
    log = await opened(platform, tmp_path)
    await log.emit("a", b"")
    path = tmp_path / "runtime_events.log"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"event":"b')
    (tmp_path / "runtime_event.pending").write_bytes(b"torn\n")
    assert [event.event for event in await in_step(log)] == ["a"]
    assert path.read_bytes() == whole
    await log.close()


async def test_m3_another_difference_names_both_values(tmp_path: Path) -> None:
    platform = RegisterPlatform()
    log = await opened(platform, tmp_path)
    await log.emit("a", b"")
    await log.close()
    expected = platform.register
    await platform.extend(b"\x01" * 48)
    again = MeasurementLog(platform, tmp_path)
    with pytest.raises(PlatformError) as caught:
        await again.open()
    assert caught.value.finding.code == "measurements.register"
    assert caught.value.finding.expected == expected.hex() == again.register.hex()
    assert caught.value.finding.found == platform.register.hex()
    # M4: nothing is served until the values agree again.
    assert await refused(again.quoted(ZERO)) == "measurements.register"
    assert await refused(again.emit("b", b"")) == "measurements.register"
    platform._register = expected
    assert [event.event for event in await in_step(again)] == ["a"]
    await again.close()


async def test_m3_a_fresh_register_below_an_old_log_is_refused(tmp_path: Path) -> None:
    log = await opened(RegisterPlatform(), tmp_path)
    await log.emit("a", b"")
    await log.close()
    again = MeasurementLog(RegisterPlatform(), tmp_path)
    assert await refused(again.open()) == "measurements.register"
    await again.close()


async def test_m4_a_full_disk_stops_quotes_until_the_line_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = RegisterPlatform()
    log = await opened(platform, tmp_path)
    log_path = tmp_path / "runtime_events.log"
    write = os.write
    full = True

    def write_until_full(descriptor: int, data: bytes) -> int:
        if full and Path(f"/proc/self/fd/{descriptor}").readlink() == log_path:
            write(descriptor, bytes(data)[:4])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", write_until_full)
    assert await refused(log.emit("a", b"")) == "measurements.io"
    assert platform.extensions == 1
    assert await refused(log.quoted(ZERO)) == "measurements.io"
    assert await refused(log.emit("b", b"")) == "measurements.io"
    assert platform.quotes == 0
    assert (tmp_path / "runtime_events.log").read_bytes() == b""
    full = False
    assert [event.event for event in await in_step(log)] == ["a"]
    await log.close()


async def test_m2_a_disk_that_is_full_before_the_extension_measures_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = RegisterPlatform()
    log = await opened(platform, tmp_path)

    def no_space(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", no_space)
        with pytest.raises(PlatformError, match="No space left on device"):
            await log.emit("a", b"")
    assert platform.extensions == 0
    assert await in_step(log) == ()
    await log.close()


async def test_open_needs_a_directory_it_can_write(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"a file")
    log = MeasurementLog(RegisterPlatform(), tmp_path / "log")
    assert await refused(log.open()) == "measurements.io"


async def test_m4_an_emission_outlives_its_caller(tmp_path: Path) -> None:
    platform = RegisterPlatform()
    log = await opened(platform, tmp_path)
    task = asyncio.create_task(log.emit("a", b""))
    await extended(platform, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [event.event for event in await in_step(log)] == ["a"]
    platform.after_extend = broken
    task = asyncio.create_task(log.emit("b", b""))
    await extended(platform, 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    platform.after_extend = None
    assert [event.event for event in await in_step(log)] == ["a", "b"]
    await log.close()


async def test_m6_a_register_moved_behind_the_log_is_not_quoted(tmp_path: Path) -> None:
    platform = RegisterPlatform()
    log = await opened(platform, tmp_path)
    await log.emit("a", b"")
    await platform.extend(b"\x02" * 48)
    assert await refused(log.quoted(ZERO)) == "measurements.register"
    await log.close()


async def test_m6_rtmr3_is_read_where_version_5_has_it() -> None:
    register = extend(bytes(48), bytes(48))
    quote = b"\x05\x00" + bytes(524) + register + bytes(8)
    assert measurements.runtime_register_of(quote) == register
    with pytest.raises(PlatformError):
        measurements.runtime_register_of(quote[:570])


async def test_lines_are_json_that_others_read(tmp_path: Path) -> None:
    log = await opened(RegisterPlatform(), tmp_path)
    await log.emit('q"\\\n\x7f', b"\x00\xff")
    entries = [json.loads(line) for line in (tmp_path / "runtime_events.log").read_text().splitlines()]
    assert entries == [{"event": 'q"\\\n\x7f', "payload": "AP8="}]
    await log.close()
    await log.open()  # closing twice, and opening again, is fine
    assert len(await in_step(log)) == 1
    await log.close()
    await log.close()


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    st.binary(),
    st.sampled_from(runtime_log.VERSIONS),
)
def test_a_line_read_is_the_event_written(name: str, payload: bytes, version: int) -> None:
    event = RuntimeEvent(name, payload, version)
    line = runtime_log.encode_line(event)
    assert line.count(b"\n") == 1
    assert runtime_log.decode_line(line) == event


@given(st.binary())
def test_no_line_raises_anything_else(line: bytes) -> None:
    with contextlib.suppress(PlatformError):
        runtime_log.decode_line(line)


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    st.binary(),
    st.sampled_from(runtime_log.VERSIONS),
)
def test_m7_no_event_takes_more_than_its_share(name: str, payload: bytes, version: int) -> None:
    """Beside a quote as JSON, and in an attestation, where it stands twice."""
    event = RuntimeEvent(name, payload, version)
    entry = Event.runtime(event)
    without = Attestation(b"", (), (), bytes(64), "")
    attested = replace(without, event_log=(entry,), runtime_events=(event,))
    share = measurements.attested_size(event)
    assert len(encode_event_log([entry])) <= share
    encode = encode_v0 if version == 1 else encode_v1
    assert len(encode(attested)) - len(encode(without)) <= share


def test_the_emitter_of_the_two_process_test_fails_loudly(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "runtime_event_version").write_text("2")
    arguments = [sys.executable, "-c", textwrap.dedent(EMITTER), str(tmp_path), "x"]
    result = subprocess.run(arguments, env=environment, check=False, capture_output=True)
    assert result.returncode == 1
