"""The platform, rule by rule of teehouse.tee.tdx."""

import asyncio
import errno
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from support.ccel import encode_ccel
from support.tee_support import (
    CCEL,
    DEVICE,
    ENTRY,
    REGISTERS,
    REPORT_DATA,
    FakeKernel,
    error,
    fake_qgs,
    fake_quote,
    response,
)
from teehouse.base.findings import MisuseError
from teehouse.base.hashes import INITIAL_REGISTER, extend
from teehouse.tee.configfs import ConfigfsQuotes
from teehouse.tee.device import TdxDevice
from teehouse.tee.platform import BootEvent, Platform, PlatformError, platform_error
from teehouse.tee.qgs import QgsQuotes
from teehouse.tee.registers import RuntimeRegister
from teehouse.tee.sources import Deadline, QuoteSource
from teehouse.tee.tdx import QuoteLimits, TdxPlatform

DIGEST = bytes(range(48))


class Gate:
    """A quote source that answers when it is opened, and sees who asks at the same time."""

    name = "gate"

    def __init__(self, *, opened: bool = False) -> None:
        self.open = threading.Event()
        self.entered = threading.Event()
        self.asked: list[bytes] = []
        self.inside = 0
        self.most = 0
        if opened:
            self.open.set()

    def quote(self, report_data: bytes, deadline: Deadline) -> bytes:
        self.asked.append(report_data)
        self.inside += 1
        self.most = max(self.most, self.inside)
        self.entered.set()
        assert self.open.wait(20)
        self.inside -= 1
        return fake_quote(report_data)


class Refusing:
    def __init__(self, name: str) -> None:
        self.name = name
        self.left: list[float] = []

    def quote(self, report_data: bytes, deadline: Deadline) -> bytes:
        self.left.append(deadline.left())
        raise platform_error("test.refused", f"{self.name} is out", remedy=f"mend {self.name}")


@asynccontextmanager
async def running(
    *sources: QuoteSource,
    kernel: FakeKernel | None = None,
    limits: QuoteLimits | None = None,
    monotonic: Callable[[], float] | None = None,
) -> AsyncIterator[TdxPlatform]:
    kernel = kernel or FakeKernel()
    register = RuntimeRegister(REGISTERS, TdxDevice(DEVICE), kernel)
    platform = (
        TdxPlatform(sources, register, CCEL, files=kernel, limits=limits)
        if monotonic is None
        else TdxPlatform(sources, register, CCEL, files=kernel, limits=limits, monotonic=monotonic)
    )
    try:
        yield platform
    finally:
        for source in sources:
            if isinstance(source, Gate):
                source.open.set()
        platform.close()
        platform._thread.shutdown(wait=True)


async def begun(gate: Gate) -> None:
    assert await asyncio.to_thread(gate.entered.wait, 10)


def numbered(number: int) -> bytes:
    return bytes([number]) * 64


async def test_it_is_a_platform_of_hardware() -> None:
    kernel = FakeKernel()
    async with running(ConfigfsQuotes(ENTRY, kernel), kernel=kernel) as tdx:
        platform: Platform = tdx
        assert not platform.emulated
        assert tdx.sources == ("configfs-tsm",)
        assert await platform.quote(REPORT_DATA) == fake_quote()
        assert await platform.runtime_register() == INITIAL_REGISTER
        await platform.extend(DIGEST)
        assert await platform.runtime_register() == extend(INITIAL_REGISTER, DIGEST)


@pytest.mark.parametrize("size", [0, 63, 65])
async def test_sizes_that_cannot_be_asked(size: int) -> None:
    async with running(Gate(opened=True)) as platform:
        with pytest.raises(MisuseError, match="64 bytes"):
            await platform.quote(bytes(size))
        with pytest.raises(MisuseError, match="48 bytes"):
            await platform.extend(bytes(size))


# Rules 1 and 2


async def test_1_the_loop_goes_on_while_a_quote_is_made() -> None:
    gate = Gate()
    async with running(gate) as platform:
        task = asyncio.create_task(platform.quote(REPORT_DATA))
        await begun(gate)
        assert not task.done()
        gate.open.set()
        assert await task == fake_quote()


async def test_2_two_platforms_take_turns() -> None:
    gate = Gate(opened=True)
    async with running(gate) as one, running(gate) as other:
        asked = [platform.quote(numbered(i)) for i in range(20) for platform in (one, other)]
        quotes = await asyncio.gather(*asked)
    assert quotes == [fake_quote(numbered(i)) for i in range(20) for _ in range(2)]
    assert gate.most == 1


async def test_2_waiting_for_the_other_platform_has_an_end() -> None:
    gate = Gate()
    async with running(gate) as one, running(gate, limits=QuoteLimits(seconds=0.05)) as other:
        first = asyncio.create_task(one.quote(numbered(1)))
        await begun(gate)
        with pytest.raises(PlatformError, match="in time"):
            await other.quote(numbered(2))
        other._thread.shutdown(wait=True)
        gate.open.set()
        assert await first == fake_quote(numbered(1))
        assert gate.asked == [numbered(1)]


# Rule 3


async def test_3_the_queue_has_a_bound() -> None:
    gate = Gate()
    async with running(gate, limits=QuoteLimits(waiting=3)) as platform:
        tasks = [asyncio.create_task(platform.quote(numbered(i))) for i in range(4)]
        await begun(gate)
        with pytest.raises(PlatformError) as caught:
            await platform.quote(numbered(9))
        assert caught.value.finding.code == "tdx.quote.too-many"
        gate.open.set()
        assert await asyncio.gather(*tasks) == [fake_quote(numbered(i)) for i in range(4)]
        assert await platform.quote(numbered(9)) == fake_quote(numbered(9))


def test_3_the_usual_bound() -> None:
    assert QuoteLimits() == QuoteLimits(waiting=64, seconds=10.0)


# Rule 4


async def test_4_who_waited_too_long_is_never_asked_for() -> None:
    gate = Gate()
    async with running(gate, limits=QuoteLimits(seconds=0.1)) as platform:
        outcomes = await asyncio.gather(
            *(platform.quote(numbered(i)) for i in range(3)), return_exceptions=True
        )
        assert [str(outcome) for outcome in outcomes] == [
            "the platform gave no quote in time (look at the quote generation service on the host)"
        ] * 3
        gate.open.set()
        assert await platform.quote(numbered(7)) == fake_quote(numbered(7))
        assert gate.asked == [numbered(0), numbered(7)]


async def test_4_who_goes_away_is_never_asked_for() -> None:
    gate = Gate()
    async with running(gate) as platform:
        first = asyncio.create_task(platform.quote(numbered(1)))
        await begun(gate)
        second = asyncio.create_task(platform.quote(numbered(2)))
        await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        gate.open.set()
        await first
        assert await platform.quote(numbered(3)) == fake_quote(numbered(3))
        assert gate.asked == [numbered(1), numbered(3)]


# Rule 5


async def test_5_the_next_source_is_asked(caplog: pytest.LogCaptureFixture) -> None:
    async with running(Refusing("first"), Gate(opened=True)) as platform:
        assert await platform.quote(REPORT_DATA) == fake_quote()
    assert [record.getMessage() for record in caplog.records] == [
        "first gave no quote: first is out (mend first)"
    ]


async def test_5_the_first_source_has_half_of_the_time() -> None:
    sources = [Refusing("first"), Refusing("second"), Refusing("third")]
    async with running(*sources, limits=QuoteLimits(seconds=8), monotonic=lambda: 100.0) as platform:
        with pytest.raises(PlatformError) as caught:
            await platform.quote(REPORT_DATA)
    assert [source.left for source in sources] == [[4.0], [4.0], [8.0]]
    finding = caught.value.finding
    assert (finding.code, finding.subject, finding.remedy) == (
        "tdx.quote.failed",
        "no source gave a quote",
        "mend third",
    )
    assert (
        finding.found == "first is out (mend first); second is out (mend second); third is out (mend third)"
    )


async def test_5_the_only_source_speaks_for_itself() -> None:
    async with running(Refusing("only")) as platform:
        with pytest.raises(PlatformError) as caught:
            await platform.quote(REPORT_DATA)
    assert caught.value.finding.code == "test.refused"


async def test_5_the_service_comes_before_configfs(tmp_path: Path) -> None:
    kernel = FakeKernel(quote=lambda data: fake_quote(data, size=3000))
    answers = [response(fake_quote()), response(b"", code=0x12001)]
    with fake_qgs(tmp_path, lambda request: answers.pop(0)) as connect:
        service = QgsQuotes(connect, lambda data: bytes(1024))
        async with running(service, ConfigfsQuotes(ENTRY, kernel), kernel=kernel) as platform:
            assert await platform.quote(REPORT_DATA) == fake_quote()
            assert kernel.generation == 0
            assert await platform.quote(REPORT_DATA) == fake_quote(size=3000)
            assert kernel.generation == 1


# Rule 6


class SlowKernel(FakeKernel):
    """A kernel whose register takes its time."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.open = threading.Event()

    def write(self, path: Path, data: bytes) -> None:
        self.entered.set()
        assert self.open.wait(20)
        super().write(path, data)


async def test_6_a_begun_extension_ends_before_its_cancelled_caller() -> None:
    kernel = SlowKernel()
    async with running(kernel=kernel) as platform:
        task = asyncio.create_task(platform.extend(DIGEST))
        assert await asyncio.to_thread(kernel.entered.wait, 10)
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0.01)
            assert not task.done()
        kernel.open.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert kernel.register == extend(INITIAL_REGISTER, DIGEST)


async def test_6_a_begun_extension_outlives_the_deadline() -> None:
    kernel = SlowKernel()
    async with running(kernel=kernel, limits=QuoteLimits(seconds=0.02)) as platform:
        task = asyncio.create_task(platform.extend(DIGEST))
        await asyncio.sleep(0.1)
        assert not task.done()
        kernel.open.set()
        await task
        assert kernel.register == extend(INITIAL_REGISTER, DIGEST)


async def test_6_an_extension_that_has_not_begun_is_taken_back() -> None:
    gate = Gate()
    kernel = FakeKernel()
    async with running(gate, kernel=kernel, limits=QuoteLimits(seconds=0.05)) as platform:
        quote = asyncio.create_task(platform.quote(REPORT_DATA))
        await begun(gate)
        with pytest.raises(PlatformError) as caught:
            await platform.extend(DIGEST)
        assert caught.value.finding.code == "tdx.register.timeout"
        with pytest.raises(PlatformError, match="busy with a quote"):
            await platform.runtime_register()
        waiting = asyncio.create_task(platform.extend(DIGEST))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        gate.open.set()
        with pytest.raises(PlatformError):
            await quote
        assert await platform.runtime_register() == INITIAL_REGISTER


async def test_6_an_extension_that_fails_says_so() -> None:
    kernel = FakeKernel(failures={"rtmr3:sha384": [error(errno.EIO)]})
    async with running(kernel=kernel) as platform:
        with pytest.raises(PlatformError, match="cannot be extended"):
            await platform.extend(DIGEST)
        assert await platform.runtime_register() == INITIAL_REGISTER


async def test_a_closed_platform_refuses() -> None:
    gate = Gate()
    async with running(gate) as platform:
        first = asyncio.create_task(platform.quote(numbered(1)))
        await begun(gate)
        second = asyncio.create_task(platform.quote(numbered(2)))
        await asyncio.sleep(0)
        platform.close()
        with pytest.raises(PlatformError, match="closed"):
            await platform.extend(DIGEST)
        gate.open.set()
        assert await first == fake_quote(numbered(1))
        with pytest.raises(PlatformError, match="closed"):
            await second


# The boot event log


async def test_boot_events() -> None:
    event = BootEvent(imr=0, event_type=10, digest=DIGEST, payload=b"ACPI DATA")
    async with running(kernel=FakeKernel(files={CCEL: encode_ccel([event])})) as platform:
        assert platform.boot_events() == (event,)
    async with running(kernel=FakeKernel(files={CCEL: b"no log"})) as platform:
        with pytest.raises(PlatformError, match="is broken") as caught:
            platform.boot_events()
        assert caught.value.finding.code == "tdx.ccel.malformed"
    async with running() as platform:
        with pytest.raises(PlatformError) as caught:
            platform.boot_events()
        assert caught.value.finding.code == "tdx.ccel.unreadable"
