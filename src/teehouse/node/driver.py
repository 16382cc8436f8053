"""How a node comes by machines: one Protocol, behind which emulation and a real VMM stand (design.md 6).

Rules:

1. A machine belongs to one CVM and one boot. `launch` makes a fresh one, whatever was there before; `resume` finds
   the one that was launched, when the node process has come back; `destroy` may be repeated.
2. What a driver keeps of a machine lies in the directory it is given, and outlives the node process.
3. A driver that isolates nothing serves loopback only, unless its user has said otherwise (`check_address`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from teehouse.node.api import NodeImage
from teehouse.tee.platform import Platform


@dataclass(frozen=True, slots=True)
class MachineRequest:
    """The machine of one CVM. `memory_size` is in bytes, `mr_config_id` has 48; an empty `image` is the first."""

    cvm_id: str
    directory: Path
    cpu_count: int
    memory_size: int
    image: str
    mr_config_id: bytes


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine that runs. `vm_config` is the text of sys-config's member; `os_image_hash` has 32 bytes."""

    platform: Platform
    vm_config: str
    os_image_hash: bytes


class CvmDriver(Protocol):
    """Makes machines."""

    @property
    def emulated(self) -> bool:
        """True when nothing is protected by hardware."""
        ...

    @property
    def root(self) -> str:
        """The name of the root that its machines' quotes verify under (`TrustedRoot.name`)."""
        ...

    @property
    def device_id(self) -> bytes:
        """SHA-256 of the platform's PPID, 32 bytes."""
        ...

    @property
    def vendor(self) -> str:
        """Who offers the machines, as `Info` shows it."""
        ...

    @property
    def product(self) -> str:
        """What they are, as `Info` shows it."""
        ...

    @property
    def images(self) -> Sequence[NodeImage]:
        """The images that can be booted; at least one."""
        ...

    def check(self, request: MachineRequest) -> None:
        """Raises `MisuseError` for a machine that could never be launched."""
        ...

    def check_address(self, host: str) -> None:
        """Raises `MisuseError` for an address that an agent or app must not be served at (rule 3)."""
        ...

    async def launch(self, request: MachineRequest) -> Machine:
        """A fresh machine (rule 1). Raises `MisuseError`, `PlatformError`; nothing is then left."""
        ...

    async def resume(self, request: MachineRequest) -> Machine:
        """The machine that was launched for this request. Raises `PlatformError` when it is gone."""
        ...

    async def destroy(self, request: MachineRequest) -> None:
        """End the machine and forget it (rule 1). Raises `PlatformError`."""
        ...
