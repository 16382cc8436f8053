"""What the agent tells of its host: system, processors, memory, load, disks (guest-agent.md 13.3, 13.4).

Rules:

H1. Used memory is total minus available, used swap and used disk are total minus free. Free disk is what an
    ordinary user may still write.
H2. Only disks at the mount points that were asked for are told, sorted by mount point; one that is not
    mounted is left out.
H3. What cannot be found out is empty or zero, never an error: figures are no reason to answer nobody.
H4. Name, versions, processor and its clock rate are read once, so that labels made of them do not change
    while the agent runs. All else is at most `FIGURES_LIFETIME` old.
H5. Figures are read in a thread: a disk that does not answer delays whoever waits for figures, nobody else.
"""

import asyncio
import os
import platform
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

FIGURES_LIFETIME = 1.0  # seconds
_CPU_INFO = Path("/proc/cpuinfo")
_CPU_INFO_LIMIT = 64 * 1024  # bytes: the first processors suffice


@dataclass(frozen=True, slots=True)
class Disk:
    """A mounted disk; sizes in bytes."""

    name: str
    mount_point: str
    total: int
    free: int

    @property
    def used(self) -> int:
        return self.total - self.free

    @property
    def usage_percent(self) -> float:
        """0 to 100."""
        return self.used / self.total * 100 if self.total else 0.0


@dataclass(frozen=True, slots=True)
class HostFigures:
    """One look at the host: sizes in bytes, `uptime` in whole seconds, loads as the kernel says them."""

    os_name: str
    os_version: str
    kernel_version: str
    cpu_name: str
    cpu_mhz: int
    num_cpus: int
    memory_total: int
    memory_available: int
    memory_free: int
    swap_total: int
    swap_free: int
    uptime: int
    load_average: tuple[float, float, float]
    disks: tuple[Disk, ...] = ()

    @property
    def cpu_model(self) -> str:
        """Name and clock rate, as the metric has them: `cpu0 @800 MHz`."""
        return f"{self.cpu_name} @{self.cpu_mhz} MHz"

    @property
    def memory_used(self) -> int:
        return self.memory_total - self.memory_available

    @property
    def swap_used(self) -> int:
        return self.swap_total - self.swap_free


class HostSource(Protocol):
    """Gives figures that are recent enough to be shown."""

    async def figures(self) -> HostFigures:
        """The figures, at most `FIGURES_LIFETIME` old."""
        ...


class Host:
    """The figures of the machine we run on, read by `read` at most once per `lifetime` seconds (H4, H5)."""

    def __init__(self, read: Callable[[], HostFigures], lifetime: float = FIGURES_LIFETIME) -> None:
        self._read = read
        self._lifetime = lifetime
        self._lock = asyncio.Lock()
        self._last: tuple[float, HostFigures] | None = None

    async def figures(self) -> HostFigures:
        async with self._lock:  # callers who come together share one reading
            now = asyncio.get_running_loop().time()
            if self._last is None or now - self._last[0] > self._lifetime:
                self._last = now, await asyncio.to_thread(self._read)
            return self._last[1]


class SystemReader:
    """Reads this machine's figures. `data_disks` are mount points."""

    def __init__(self, data_disks: Sequence[str] = ("/",)) -> None:
        self._mount_points = sorted(set(data_disks))
        release = _os_release()
        self._os_name = release.get("NAME", "")
        self._os_version = release.get("VERSION_ID", "")
        self._kernel_version = os.uname().release
        self._cpu_name = cpu_name(_text(_CPU_INFO))
        self._cpu_mhz = _cpu_mhz()
        self._num_cpus = psutil.cpu_count() or 0

    def __call__(self) -> HostFigures:
        memory = psutil.virtual_memory()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # about paging rates, which are not asked for
            swap = psutil.swap_memory()
        return HostFigures(
            os_name=self._os_name,
            os_version=self._os_version,
            kernel_version=self._kernel_version,
            cpu_name=self._cpu_name,
            cpu_mhz=self._cpu_mhz,
            num_cpus=self._num_cpus,
            memory_total=memory.total,
            memory_available=memory.available,
            memory_free=memory.free,
            swap_total=swap.total,
            swap_free=swap.free,
            uptime=int(time.clock_gettime(time.CLOCK_BOOTTIME)),
            load_average=_load_average(),
            disks=self._disks(),
        )

    def _disks(self) -> tuple[Disk, ...]:
        devices = {entry.mountpoint: entry.device for entry in psutil.disk_partitions(all=True)}
        disks = []
        for mount_point in self._mount_points:
            if mount_point not in devices:
                continue
            try:
                usage = psutil.disk_usage(mount_point)
            except OSError:
                continue
            disks.append(Disk(devices[mount_point], mount_point, usage.total, usage.free))
        return tuple(disks)


def cpu_name(cpu_info: str) -> str:
    """The model of the first processor in the text of /proc/cpuinfo; `cpu0` where it names none."""
    for line in cpu_info.splitlines():
        key, colon, value = line.partition(":")
        if colon and key.strip() == "model name" and value.strip():
            return " ".join(value.split())
    return "cpu0"


def _cpu_mhz() -> int:
    try:
        frequency = psutil.cpu_freq()
    except (OSError, NotImplementedError):
        return 0
    return round(getattr(frequency, "current", 0.0))  # None where there are no processors to look at


def _load_average() -> tuple[float, float, float]:
    try:
        return os.getloadavg()
    except OSError:
        return 0.0, 0.0, 0.0


def _os_release() -> dict[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_CPU_INFO_LIMIT).decode(errors="replace")
    except OSError:
        return ""
