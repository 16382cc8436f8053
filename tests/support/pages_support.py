"""What the tests of the agent's pages share: a host, containers, and an agent that shows them."""

from dataclasses import dataclass

from teehouse.guest.hostinfo import Disk, HostFigures

HOST = HostFigures(
    os_name="dstack",
    os_version="0.5.4",
    kernel_version="6.9.0-dstack",
    cpu_name="cpu0",
    cpu_mhz=800,
    num_cpus=4,
    memory_total=8 * 1024**3,
    memory_available=6 * 1024**3,
    memory_free=5 * 1024**3,
    swap_total=1024**3,
    swap_free=1024**3 - 4096,
    uptime=93784,
    load_average=(0.129, 1.0, 12.345),
    disks=(Disk("/dev/vda", "/", 20 * 1024**3, 5 * 1024**3), Disk('/dev/"b\\', "/data\n", 0, 0)),
)


@dataclass
class FixedHost:
    """A host that stands still."""

    value: HostFigures = HOST
    calls: int = 0

    async def figures(self) -> HostFigures:
        self.calls += 1
        return self.value
