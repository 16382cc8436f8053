"""Emulated machines for a node: no VM, one register file each, quotes under the emulated root (design.md 6).

The app runs on the host itself. Nothing is isolated: every app can reach what the host's user can, and every agent
gives its keys to whoever reaches it. Hence loopback only, unless the user has asked for more in so many words.
"""

import asyncio
import ipaddress
from collections.abc import Sequence

from teehouse import __version__
from teehouse.attestation.identity import device_id
from teehouse.attestation.roots import TrustedRoot
from teehouse.base.findings import misuse
from teehouse.node.api import NodeImage
from teehouse.node.driver import Machine, MachineRequest
from teehouse.tee.platform import platform_error
from teehouse.tee_emulated.image import DEFAULT_NAME, EmulatedImage
from teehouse.tee_emulated.pki import EmulatedPki
from teehouse.tee_emulated.td import EmulatedTd

HOST_LABEL = "host-0"
_REGISTER = "rtmr3"


class EmulatedDriver:
    """A `CvmDriver` on the emulated host `label` of `pki`. `unsafe_expose` lets other addresses than loopback pass."""

    def __init__(
        self,
        pki: EmulatedPki,
        *,
        label: str = HOST_LABEL,
        images: Sequence[str] = (DEFAULT_NAME,),
        unsafe_expose: bool = False,
    ) -> None:
        self._host = pki.host(label)
        self._root = TrustedRoot.emulated_root(pki.root_der).name
        self._device_id = device_id(self._host.ppid)
        self._images = {name: EmulatedImage.named(name) for name in images}
        self._default = images[0]
        self._unsafe_expose = unsafe_expose

    @property
    def emulated(self) -> bool:
        """Always true."""
        return True

    @property
    def root(self) -> str:
        return self._root

    @property
    def device_id(self) -> bytes:
        return self._device_id

    @property
    def vendor(self) -> str:
        return "Teehouse"

    @property
    def product(self) -> str:
        return "Emulated TDX"

    @property
    def images(self) -> Sequence[NodeImage]:
        return tuple(
            NodeImage(name, __version__, image.os_image_hash) for name, image in self._images.items()
        )

    def check(self, request: MachineRequest) -> None:
        """Raises `MisuseError` for an image, a number of CPUs or a memory size that cannot be measured."""
        self._td(request)

    def check_address(self, host: str) -> None:
        """Raises `MisuseError` for every address but loopback, unless exposing was asked for."""
        try:
            loopback = ipaddress.ip_address(host).is_loopback
        except ValueError:
            loopback = host == "localhost"
        if not loopback and not self._unsafe_expose:
            raise misuse(
                "driver.exposed",
                "an emulated CVM gives its keys to whoever reaches it",
                expected="a loopback address",
                found=ascii(host[:200]),
                remedy="use 127.0.0.1; or give --unsafe-expose, knowing that nothing here is protected",
            )

    async def launch(self, request: MachineRequest) -> Machine:
        """A TD whose RTMR3 is zero."""
        td = self._td(request)
        await asyncio.to_thread(td.reset)
        return self._machine(td)

    async def resume(self, request: MachineRequest) -> Machine:
        """The TD with the RTMR3 it had. Raises `PlatformError` when there is none."""
        if not (request.directory / _REGISTER).exists():
            raise platform_error(
                "driver.gone", "the CVM's machine is gone", remedy="start the CVM; it then boots anew"
            )
        return self._machine(self._td(request))

    async def destroy(self, request: MachineRequest) -> None:
        """Forget the register."""
        try:
            (request.directory / _REGISTER).unlink(missing_ok=True)
        except OSError as error:
            raise platform_error(
                "driver.destroy", "the CVM's machine cannot be ended", found=error.strerror or str(error)
            ) from error

    def _td(self, request: MachineRequest) -> EmulatedTd:
        image = self._images.get(request.image or self._default)
        if image is None:
            raise misuse(
                "driver.image",
                "OS image of the CVM",
                expected=" or ".join(self._images),
                found=ascii(request.image),
            )
        return EmulatedTd(
            self._host,
            image,
            vm_config=image.vm_config(request.cpu_count, request.memory_size),
            mr_config_id=request.mr_config_id,
            register_path=request.directory / _REGISTER,
        )

    @staticmethod
    def _machine(td: EmulatedTd) -> Machine:
        return Machine(td, td.vm_config, td.image.os_image_hash)
