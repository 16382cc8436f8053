"""The dashboard at `/`: what runs here and under whose root (guest-agent.md 13.4).

Rules:

D1. Every value is escaped by the template; a name is text, whatever it contains.
D2. Whether the platform is emulated, and the name of the root, is at the top of every page.
D3. The page is whole without JavaScript. With it, parts that changed are fetched anew: `?fragment=1` gives all
    of them but TCB info, `?fragment=tcb` that one.
D4. Nothing on the page comes from another host, and nothing in it is inline script or style: the headers
    forbid both.
D5. When `Info` cannot be answered the page is 500; when containers cannot be listed the page says so.
D6. Host figures are shown where app-compose has `public_sysinfo`, log links where it has `public_logs`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from urllib.parse import quote

from google.protobuf.empty_pb2 import Empty
from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import Response

from teehouse.attestation.roots import TrustedRoot
from teehouse.base.findings import CollateralError
from teehouse.guest.assets import Assets, tagged
from teehouse.guest.containers import Container, ContainerSource
from teehouse.guest.hostinfo import HostFigures, HostSource
from teehouse.guest.nodeview import NodeView, node_view
from teehouse.guest.service import GuestService
from teehouse.rpc.app import Prepared

LOG_QUERY = "text&bare&timestamps&follow&tail=20"
_GROUP = 8  # hex digits after which a long identifier may go on in the next line
_UNITS = ("B", "KB", "MB", "GB", "TB", "PB", "EB")


@dataclass(frozen=True, slots=True)
class HostRow:
    """One figure of the host; `used` of `total` where it is an amount."""

    label: str
    text: str
    used: int = 0
    total: int = 0


class Dashboard:
    """Renders the page. Without `containers` no workload is attached; `host` is asked only where it is public."""

    def __init__(
        self,
        service: GuestService,
        root: TrustedRoot,
        containers: ContainerSource | None,
        host: HostSource,
        assets: Assets,
    ) -> None:
        compose = service.facts.compose
        self._service = service
        self._containers = containers
        self._host = host if compose.public_sysinfo else None
        self._view: tuple[Prepared, NodeView] | None = None
        environment = Environment(
            loader=_loader(), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        environment.lstrip_blocks = True
        environment.filters.update(grouped=grouped, log_link=log_link, tone=tone)
        environment.globals.update(
            root=root,
            public_logs=compose.public_logs,
            public_sysinfo=compose.public_sysinfo,
            version=service.facts.app_version,
            asset=assets.address,
        )
        self._page = environment.get_template("dashboard.html")
        self._live = environment.get_template("live.html")
        self._tcb = environment.get_template("tcb.html")

    async def answer(self, request: Request) -> Response:
        """The page, or the part of it that is asked for. Raises `PlatformError` (D5)."""
        node = await self._node()
        part = request.query_params.get("fragment", "")
        if part == "tcb":
            return tagged(request, self._tcb.render(node=node).encode())
        host = None if self._host is None else host_rows(await self._host.figures())
        containers, tally, trouble = await self._listed()
        template = self._live if part else self._page
        page = template.render(
            node=node,
            host=host,
            containers=containers,
            trouble=trouble,
            tally=tally,
            running=sum(container.running for container in containers),
        )
        return tagged(request, page.encode())

    async def _node(self) -> NodeView:
        answer = await self._service.public_info(Empty())
        if self._view is None or self._view[0] is not answer:
            self._view = answer, node_view(answer.message)  # type: ignore[arg-type]  # Info's answer is an AppInfo
        return self._view[1]

    async def _listed(self) -> tuple[Sequence[Container], str, str]:
        """The containers; where there are none to show, a word for that and a sentence."""
        if self._containers is None:
            return (), "none", "No workload is attached to this agent."
        try:
            listed = await self._containers.containers()
        except CollateralError:
            return (), "unknown", "The container engine does not answer."
        return (listed, "", "") if listed else ((), "none", "No containers.")


def grouped(value: str) -> Markup:
    """A long identifier, escaped, that may be broken after every `_GROUP` digits; copies are whole."""
    return Markup("<wbr>").join(escape(value[at : at + _GROUP]) for at in range(0, len(value), _GROUP))


def log_link(name: str) -> str:
    """Where the log of a container can be followed."""
    return f"/logs/{quote(name, safe='')}?{LOG_QUERY}"


def tone(container: Container) -> str:
    """`good`, `calm` or `bad`: whether somebody should look at it."""
    if container.running:
        return "good"
    ended_well = container.state == "exited" and container.status.startswith("Exited (0)")
    return "calm" if ended_well or container.state in {"created", "paused"} else "bad"


def size(count: int) -> str:
    """Bytes with two decimals, in the unit that fits."""
    amount, unit = float(count), 0
    while amount >= 1024 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1024, unit + 1
    return f"{amount:.2f} {_UNITS[unit]}"


def duration(seconds: int) -> str:
    """`3 d 4 h 5 min`; seconds alone below a minute."""
    if seconds < 60:
        return f"{seconds} s"
    minutes, hours, days = seconds // 60 % 60, seconds // 3600 % 24, seconds // 86400
    parts = [(days, "d"), (hours, "h"), (minutes, "min")]
    first = next(index for index, (count, _) in enumerate(parts) if count)
    return " ".join(f"{count} {unit}" for count, unit in parts[first:])


def host_rows(host: HostFigures) -> tuple[HostRow, ...]:
    """The rows of guest-agent.md 13.4 that need `public_sysinfo`."""
    one, five, fifteen = host.load_average
    cores = f"{host.num_cpus} core{'' if host.num_cpus == 1 else 's'}"
    return (
        HostRow("Operating System", f"{host.os_name} {host.os_version}".strip()),
        HostRow("Kernel Version", host.kernel_version),
        HostRow("CPU", f"{host.cpu_model} ({cores})"),
        _amount("Memory Usage", host.memory_used, host.memory_total),
        _amount("Swap Usage", host.swap_used, host.swap_total),
        HostRow("Load Average", f"{one:.2f}, {five:.2f}, {fifteen:.2f}"),
        HostRow("System Uptime", duration(host.uptime)),
        *(_amount(f"Disk {disk.mount_point}", disk.used, disk.total) for disk in host.disks),
    )


def _amount(label: str, used: int, total: int) -> HostRow:
    return HostRow(label, f"{size(used)} / {size(total)}", used, total)


def _loader() -> DictLoader:
    folder = resources.files("teehouse.guest") / "templates"
    return DictLoader({one.name: one.read_text(encoding="utf-8") for one in folder.iterdir()})
