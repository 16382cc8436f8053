"""Reading the host: what is asked of the system, what happens where it has no answer, and how often it is asked."""

import asyncio
import os
import platform
import threading
from pathlib import Path
from typing import Any, NoReturn

import psutil
import pytest

from support.pages_support import HOST
from teehouse.guest import hostinfo
from teehouse.guest.hostinfo import Disk, Host, HostFigures, SystemReader, cpu_name


class Partition:
    def __init__(self, device: str, mountpoint: str) -> None:
        self.device = device
        self.mountpoint = mountpoint


class Usage:
    total = 1000
    used = 1  # root's reserve makes this differ from total minus free
    free = 400


def fails(*_: Any, **__: Any) -> NoReturn:
    raise OSError("no such figure")


def test_this_machine() -> None:
    figures = SystemReader(("/", "/nowhere", "/"))()
    memory = psutil.virtual_memory()
    assert figures.kernel_version == os.uname().release
    assert figures.num_cpus == os.cpu_count()
    assert figures.memory_total == memory.total
    assert 0 < figures.memory_available <= figures.memory_total
    assert figures.memory_used == figures.memory_total - figures.memory_available
    assert figures.swap_used == figures.swap_total - figures.swap_free
    assert figures.uptime > 0
    assert [disk.mount_point for disk in figures.disks] == ["/"]
    [disk] = figures.disks
    status = os.statvfs("/")
    assert disk.total == status.f_blocks * status.f_frsize
    assert disk.used == disk.total - disk.free


def test_h1_h2_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    mounted = [Partition("/dev/b", "/z"), Partition("/dev/a", "/"), Partition("/dev/c", "/gone")]
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: mounted)
    monkeypatch.setattr(psutil, "disk_usage", lambda path: fails() if path == "/gone" else Usage())
    assert SystemReader(("/z", "/gone", "/not-mounted", "/"))().disks == (
        Disk("/dev/a", "/", 1000, 400),
        Disk("/dev/b", "/z", 1000, 400),
    )
    assert Disk("/dev/a", "/", 1000, 400).used == 600
    assert Disk("/dev/a", "/", 1000, 400).usage_percent == pytest.approx(60)
    assert Disk("/dev/a", "/", 0, 0).usage_percent == 0


def test_h3_a_system_that_tells_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(platform, "freedesktop_os_release", fails)
    monkeypatch.setattr(psutil, "cpu_freq", fails)
    monkeypatch.setattr(psutil, "cpu_count", lambda: None)
    monkeypatch.setattr(os, "getloadavg", fails)
    monkeypatch.setattr(hostinfo, "_CPU_INFO", tmp_path / "missing")
    figures = SystemReader(())()
    assert (figures.os_name, figures.os_version, figures.cpu_model, figures.num_cpus) == (
        "",
        "",
        "cpu0 @0 MHz",
        0,
    )
    assert figures.load_average == (0.0, 0.0, 0.0)
    assert figures.disks == ()


def test_h3_no_clock_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "cpu_freq", lambda: None)
    assert SystemReader().__call__().cpu_mhz == 0


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("processor\t: 0\nmodel name\t: Intel(R)  Xeon(R)\n\nmodel name: other\n", "Intel(R) Xeon(R)"),
        ("model name\t:\nmodel name\n", "cpu0"),
        ("", "cpu0"),
    ],
)
def test_the_name_of_the_processor(text: str, name: str) -> None:
    assert cpu_name(text) == name


async def test_h4_h5_figures_are_shared_and_read_beside_the_loop() -> None:
    threads: list[int] = []

    def read() -> HostFigures:
        threads.append(threading.get_ident())
        return HOST

    host = Host(read, lifetime=60)
    answers = await asyncio.gather(*(host.figures() for _ in range(20)))
    assert answers == [HOST] * 20
    assert len(threads) == 1
    assert threads[0] != threading.get_ident()
    short = Host(read, lifetime=0.01)
    await short.figures()
    await asyncio.sleep(0.02)
    await short.figures()
    assert len(threads) == 3
