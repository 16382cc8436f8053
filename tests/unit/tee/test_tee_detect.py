"""Finding the platform, rule by rule of teehouse.tee.detect."""

import asyncio
import errno
import socket
import sys
from pathlib import Path

import pytest

from support.tee_support import (
    CONFIG,
    DEVICE,
    ENTRY,
    REGISTERS,
    REPORT_DATA,
    FakeKernel,
    error,
    fake_quote,
)
from teehouse.tee.detect import detect
from teehouse.tee.device import TdxDevice
from teehouse.tee.platform import PlatformError
from teehouse.tee.sources import Deadline

# Detection


def found(kernel: FakeKernel, environ: dict[str, str] | None = None) -> tuple[str, ...]:
    platform = detect(environ or {}, files=kernel)
    platform.close()
    return platform.sources


def absent(kernel: FakeKernel) -> PlatformError:
    with pytest.raises(PlatformError) as caught:
        found(kernel)
    assert "teehouse agent --emulated" in caught.value.finding.remedy
    return caught.value


def test_detect_1_both_sources() -> None:
    both = FakeKernel(files={CONFIG: b"port=4050", DEVICE: b""})
    assert found(both) == ("the quote generation service", "configfs-tsm")
    assert found(FakeKernel()) == ("configfs-tsm",)
    assert found(FakeKernel(files={CONFIG: b"port=4050"})) == ("configfs-tsm",)
    assert found(FakeKernel(tsm=False, files={CONFIG: b"port=4050", DEVICE: b""})) == (
        "the quote generation service",
    )


def test_detect_1_the_entry_may_be_elsewhere() -> None:
    kernel = FakeKernel()
    assert found(kernel, {"DCAP_TDX_QUOTE_CONFIGFS_PATH": "/elsewhere/entry"}) == ("configfs-tsm",)
    assert kernel.made == [Path("/elsewhere/entry")]


def test_detect_2_no_register() -> None:
    finding = absent(FakeKernel(registers=False)).finding
    assert finding.code == "tdx.no-register"
    assert finding.expected == f"{REGISTERS}/rtmr3:sha384 or {DEVICE}"


def test_detect_3_no_tdx_says_what_was_looked_for() -> None:
    refusal = absent(FakeKernel(tsm=False, registers=False))
    assert refusal.finding.code == "tdx.absent"
    for place in (ENTRY, CONFIG, REGISTERS, DEVICE):
        assert str(place) in str(refusal)


def test_detect_3_another_tee_is_no_tdx() -> None:
    refusal = absent(FakeKernel(provider="sev_guest"))
    assert refusal.finding.code == "tdx.absent"
    assert "sev_guest" in refusal.finding.found


def test_detect_3_a_service_needs_the_device() -> None:
    refusal = absent(FakeKernel(tsm=False, files={CONFIG: b"port=4050"}))
    assert "no /dev/tdx_guest" in refusal.finding.found


def test_detect_3_a_broken_configuration_is_not_passed_over() -> None:
    with pytest.raises(PlatformError, match="no vsock port"):
        found(FakeKernel(files={CONFIG: b"port=x", DEVICE: b""}))


def test_detect_3_an_empty_machine(tmp_path: Path) -> None:
    with pytest.raises(PlatformError) as caught:
        detect({}, tmp_path)
    assert caught.value.finding.code == "tdx.absent"
    assert "mount -t configfs" in caught.value.finding.found
    assert not any(name.startswith("teehouse.tee_emulated") for name in _imports_of_detect())


def _imports_of_detect() -> list[str]:
    import subprocess

    script = "import sys, teehouse.tee.detect; print(*(m for m in sys.modules if m.startswith('teehouse')))"
    answer = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return answer.stdout.split()


async def test_the_detected_service_is_asked_over_vsock(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def refuse(self: object, address: object) -> None:
        asked.append(address)
        raise error(errno.ECONNRESET)

    class Vsock(socket.socket):
        connect = refuse

        def __init__(self, family: int, kind: int) -> None:
            asked.append(family)
            super().__init__(socket.AF_UNIX, kind)  # not every machine has the family

    monkeypatch.setattr(TdxDevice, "report", lambda self, data: bytes(1024))
    platform = detect({}, files=FakeKernel(files={CONFIG: b"port=4050", DEVICE: b""}))
    monkeypatch.setattr("teehouse.tee.qgs.socket.socket", Vsock)
    try:
        quote = await asyncio.to_thread(platform._quote, REPORT_DATA, Deadline.after(5))
    finally:
        platform.close()
    assert quote == fake_quote()
    assert asked == [socket.AF_VSOCK, (2, 4050)]
