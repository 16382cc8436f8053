"""What the tests of the agent's pages share: a host, containers, and an agent that shows them."""

from collections.abc import Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any

import httpx
from starlette.routing import BaseRoute

from support import emulated
from support.guest_agent import Agent
from teehouse.attestation.roots import TrustedRoot
from teehouse.base.findings import TeehouseError
from teehouse.guest.containers import Container
from teehouse.guest.hostinfo import Disk, HostFigures
from teehouse.guest.pages import pages

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


@dataclass
class FixedContainers:
    """Containers that stay as they are told, or an engine that fails."""

    value: Sequence[Container] = ()
    fault: TeehouseError | None = None

    async def containers(self) -> Sequence[Container]:
        if self.fault is not None:
            raise self.fault
        return self.value


class Document(HTMLParser):
    """What a reader of HTML finds: `tags` with their attributes in order, and all `text`."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = self.marked = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.marked += self._gap(tag)

    def handle_endtag(self, tag: str) -> None:
        self.marked += self._gap(tag)

    @staticmethod
    def _gap(tag: str) -> str:
        return "" if tag in {"wbr", "bdi", "code"} else " "

    def handle_data(self, data: str) -> None:
        self.text += data
        self.marked += data

    @property
    def words(self) -> str:
        """The text with single blanks, of which one is between any two elements."""
        return " ".join(self.marked.split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


ROOT = TrustedRoot.emulated_root(emulated.pki().root_der)


def shown(made: Agent, root: TrustedRoot = ROOT, **sources: Any) -> list[BaseRoute]:
    """The pages of an agent on a fixed host."""
    return pages(made.service, root, **{"host": FixedHost(), **sources})


def outside(made: Agent, root: TrustedRoot = ROOT, **sources: Any) -> httpx.AsyncClient:
    """A client of the external listener, with the pages and their counts."""
    return made.door(
        "external", extra_routes=shown(made, root, **sources), observe=made.service.observed.request
    )
