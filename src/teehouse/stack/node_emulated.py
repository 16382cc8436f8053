"""A node of emulated machines on this host: driver, key source and runners put together."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from teehouse.base.findings import misuse
from teehouse.kms.client.appkeys import DEFAULT_PATIENCE, Patience
from teehouse.node.api import Resources
from teehouse.node.bash_runner import BashWorkload
from teehouse.node.boot import BootParts
from teehouse.node.compose_runner import ComposeWorkload
from teehouse.node.key_source import KmsKeySource
from teehouse.node.local import LocalNode, NodeSettings
from teehouse.node.workload import Workload
from teehouse.stack.cvm_emulated import BUILD
from teehouse.stack.driver_emulated import HOST_LABEL, EmulatedDriver
from teehouse.stack.installation import Installation
from teehouse.stack.node_pages import cvm_pages
from teehouse.tee_emulated.image import DEFAULT_NAME
from teehouse.wire.app_compose import AppCompose

# An emulated CVM takes nothing of what it asks for: the capacity is what a small TDX host would have.
CAPACITY = Resources(cpu_count=64, memory_size=256 * 1024**3, disk_size=4 * 1024**4)


def workload_of(cvm_id: str, directory: Path, compose: AppCompose) -> Workload:
    """The runner that an app asks for. Raises `MisuseError` where there is none."""
    if compose.runner == "bash":
        return BashWorkload(cvm_id, directory)
    if compose.runner == "docker-compose":
        return ComposeWorkload(cvm_id, directory)
    raise misuse(
        "node.runner",
        "app-compose: member `runner`",
        expected="bash or docker-compose",
        found=compose.runner,
        remedy="nerdctl-compose needs a host of its own; use docker-compose",
    )


def emulated_node(
    installation: Installation,
    kms_urls: tuple[str, ...],
    *,
    name: str = "emulated",
    label: str = HOST_LABEL,
    images: Sequence[str] = (DEFAULT_NAME,),
    unsafe_expose: bool = False,
    patience: Patience = DEFAULT_PATIENCE,
) -> LocalNode:
    """The node of an installation, not yet opened; its state is in `state/node`.

    `label` names the emulated host, and so its device id; the first of `images` is booted when nobody names one.
    """
    return LocalNode(
        installation.state / "node",
        NodeSettings(name=name, capacity=CAPACITY, sockets=_socket_root(installation)),
        BootParts(
            driver=EmulatedDriver(installation.pki, label=label, images=images, unsafe_expose=unsafe_expose),
            key_source=KmsKeySource(installation.clock, patience=patience),
            clock=installation.clock,
            kms_urls=kms_urls,
            build=BUILD,
            pages=partial(cvm_pages, installation.root),
        ),
        workload_of,
    )


def _socket_root(installation: Installation) -> Path:
    """`s` in the installation's folder: socket paths are short of room (107 bytes)."""
    return installation.directory.resolve() / "s"
