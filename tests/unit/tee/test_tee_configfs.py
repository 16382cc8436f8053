"""configfs-tsm, rule by rule of teehouse.tee.configfs, against a fake with the kernel's counting."""

import errno

import pytest

from support.tee_support import ENTRY, REPORT_DATA, FakeKernel, error, fake_quote
from teehouse.tee.configfs import ATTEMPTS, ConfigfsQuotes
from teehouse.tee.platform import PlatformError
from teehouse.tee.sources import QUOTE_BELOW, Deadline


class Time:
    """A clock that only pauses move."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def deadline(self, seconds: float = 10) -> Deadline:
        return Deadline.after(seconds, lambda: self.now)


def quote(kernel: FakeKernel, time: Time | None = None, seconds: float = 10) -> bytes:
    time = time or Time()
    return ConfigfsQuotes(ENTRY, kernel, pause=time.pause).quote(REPORT_DATA, time.deadline(seconds))


def refusal(kernel: FakeKernel, time: Time | None = None, seconds: float = 10) -> PlatformError:
    with pytest.raises(PlatformError) as caught:
        quote(kernel, time, seconds)
    return caught.value


def test_a_quote() -> None:
    kernel = FakeKernel(generation=7)
    assert quote(kernel) == fake_quote()
    assert (kernel.inblob, kernel.generation, kernel.made) == (REPORT_DATA, 8, [ENTRY])


# Rule 1


def test_1_another_provider() -> None:
    finding = refusal(FakeKernel(provider="sev_guest\n")).finding
    assert (finding.code, finding.expected, finding.found) == (
        "tdx.configfs.provider",
        "tdx_guest",
        "sev_guest",
    )


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOENT, "mount -t configfs"),
        (errno.EACCES, "as root"),
        (errno.EPERM, "as root"),
        (errno.EIO, "kernel's log"),
    ],
)
def test_1_an_entry_that_cannot_be_made(number: int, remedy: str) -> None:
    refused = refusal(FakeKernel(failures={"directory": [error(number)]}))
    assert refused.finding.code == "tdx.configfs.failed"
    assert remedy in refused.finding.remedy


# Rule 3


def others_write(times: int, writes: int = 1) -> FakeKernel:
    def interrupt(kernel: FakeKernel) -> None:
        nonlocal times
        if times:
            times -= 1
            kernel.generation += writes
            kernel.inblob = bytes(64)

    return FakeKernel(interrupt=interrupt)


def test_3_a_quote_that_another_process_disturbed_is_asked_for_again() -> None:
    kernel = others_write(2)
    time = Time()
    assert quote(kernel, time) == fake_quote()
    assert (kernel.generation, time.pauses) == (5, [0.01, 0.02])


def test_3_the_counter_may_wrap() -> None:
    assert quote(FakeKernel(generation=0xFFFFFFFF)) == fake_quote()


def test_3_a_write_that_the_kernel_did_not_take_is_repeated() -> None:
    kernel = FakeKernel(swallow=1, inblob=bytes(64))
    assert quote(kernel) == fake_quote()


@pytest.mark.parametrize("text", ["", "-1", "1_0", "\u0663", "x"])
def test_3_a_generation_that_is_no_number(text: str) -> None:
    kernel = FakeKernel(files={ENTRY / "generation": text.encode()})
    assert refusal(kernel).finding.code == "tdx.configfs.generation"


# Rule 4


@pytest.mark.parametrize("attribute", ["inblob", "outblob", "generation"])
def test_4_a_busy_driver_is_asked_again(attribute: str) -> None:
    time = Time()
    kernel = FakeKernel(failures={attribute: [error(errno.EBUSY)] * 3})
    assert quote(kernel, time) == fake_quote()
    assert time.pauses == [0.01, 0.02, 0.04]


def test_4_a_timeout_is_final() -> None:
    time = Time()
    refused = refusal(FakeKernel(failures={"outblob": [error(errno.ETIMEDOUT)]}), time)
    assert (refused.finding.code, time.pauses) == ("tdx.quote.timeout", [])


# Rule 5


@pytest.mark.parametrize("kernel", [others_write(1000), others_write(1000, 5)], ids=["one", "five"])
def test_5_attempts_have_an_end(kernel: FakeKernel) -> None:
    time = Time()
    refused = refusal(kernel, time)
    assert refused.finding.code == "tdx.configfs.contended"
    assert "the generation rose by" in refused.finding.found
    assert len(time.pauses) == ATTEMPTS - 1
    assert time.now == pytest.approx(1.27)


def test_5_a_driver_that_stays_busy() -> None:
    refused = refusal(FakeKernel(failures={"inblob": [error(errno.EBUSY)] * 100}))
    assert refused.finding.code == "tdx.configfs.contended"
    assert "the driver is busy" in refused.finding.found


def test_5_no_attempt_begins_after_the_deadline() -> None:
    time = Time()
    kernel = FakeKernel(failures={"inblob": [error(errno.EBUSY)] * 100})
    assert refusal(kernel, time, 0.025).finding.code == "tdx.quote.timeout"
    assert time.now == pytest.approx(0.025)
    assert refusal(kernel, time, 0).finding.code == "tdx.quote.timeout"


@pytest.mark.parametrize("size", [0, 1020, QUOTE_BELOW, QUOTE_BELOW + 1, 20000])
def test_sizes_that_no_quote_has(size: int) -> None:
    kernel = FakeKernel(quote=lambda data: fake_quote(data, size=size))
    assert refusal(kernel).finding.code == "tdx.quote.size"


def test_other_failures_are_told() -> None:
    refused = refusal(FakeKernel(failures={"outblob": [error(errno.EINVAL)]}))
    assert refused.finding.code == "tdx.configfs.failed"
    assert "Invalid argument" in refused.finding.found
