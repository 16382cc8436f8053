"""`teehouse agent --emulated`: one emulated CVM's agent on the sockets of a folder, and on one TCP address.

The agent runs no app: the app is whatever connects to its sockets. Where a Docker Engine's socket is given, its
containers, all of them, are taken for the CVM's.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from starlette.routing import BaseRoute

from teehouse.base.clock import SystemClock
from teehouse.guest.agent import Door, GuestAgent
from teehouse.guest.config import ListenerConfig
from teehouse.guest.containers import DockerContainers
from teehouse.guest.docker_logs import DockerLogSource
from teehouse.guest.pages import pages
from teehouse.guest.sockets import TcpAddress, UnixAddress, listen
from teehouse.stack.addresses import http_url, loopback_address
from teehouse.stack.compose import load_compose
from teehouse.stack.cvm_emulated import EmulatedCvm, boot_emulated_cvm
from teehouse.stack.installation import Installation, open_installation
from teehouse.stack.serving import run_until_stopped
from teehouse.tee_emulated.pccs import pccs_routes
from teehouse.wire.methods import ListenerKind

IDENT = "dstack Simulator"  # what the field's simulator calls itself (guest-agent.md 1.6)
EMULATED_HEADER = ("X-Teehouse-Emulated", "true")
SOCKETS: tuple[tuple[str, ListenerKind], ...] = (
    ("dstack.sock", "internal"),
    ("tappd.sock", "internal"),
    ("external.sock", "external"),
)
PAGED = ("external", "all")


@dataclass(frozen=True, slots=True)
class ServedCvm:
    """A CVM that is being served; `url` is the TCP address that offers everything, when one was asked for."""

    cvm: EmulatedCvm
    url: str | None


@asynccontextmanager
async def serve_emulated(
    installation: Installation, compose_file: bytes, tcp: TcpAddress | None, engine: Path | None = None
) -> AsyncIterator[ServedCvm]:
    """Boot the CVM and serve it for as long as the context lasts; `engine` is the socket of a Docker Engine.

    Raises `MisuseError` when another agent holds the folder or an address cannot be had, and what the boot
    raises.
    """
    # The sockets come first: their locks keep a second agent from the state of this folder.
    doors: list[Door] = []
    try:
        for name, kind in SOCKETS:
            doors.append(_door(kind, UnixAddress(installation.directory / name)))
        if tcp is not None:
            doors.append(_door("all", tcp, pccs_routes(installation.collateral)))
        cvm = await boot_emulated_cvm(installation, compose_file)
        shown = pages(
            cvm.service,
            installation.root,
            containers=None if engine is None else DockerContainers(engine),
            logs=None if engine is None else DockerLogSource(engine),
            collateral_expires=lambda: installation.collateral.current().next_update,
        )
        doors = [
            replace(door, extra_routes=(*door.extra_routes, *shown)) if door.kind in PAGED else door
            for door in doors
        ]
    except BaseException:
        for door in doors:
            door.listening.close()
        raise
    agent = GuestAgent(cvm.log, cvm.service, doors)
    await agent.start()
    watch = asyncio.ensure_future(agent.watch())
    try:
        yield ServedCvm(cvm, None if tcp is None else http_url(doors[-1].listening.sockets[0]))
    finally:
        watch.cancel()
        await agent.stop()


def _door(kind: ListenerKind, address: UnixAddress | TcpAddress, pages: Sequence[BaseRoute] = ()) -> Door:
    return Door(
        kind,
        listen(address),
        ListenerConfig(address, ident=IDENT),
        extra_routes=pages,
        headers=(EMULATED_HEADER,),
    )


def run_emulated_agent(
    directory: Path,
    *,
    tcp: str | None,
    compose: Path | None,
    seed: bytes | None,
    engine: Path | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM. Raises `MisuseError`, `PlatformError`."""
    address = None if tcp is None else loopback_address(tcp)
    compose_file = load_compose(compose)
    installation = open_installation(directory, SystemClock(), seed=seed)

    async def serve(stop: asyncio.Event) -> None:
        async with serve_emulated(installation, compose_file, address, engine) as served:
            print(_banner(installation, served), flush=True)  # noqa: T201 - what a user waits for
            await stop.wait()

    run_until_stopped(serve)


def _banner(installation: Installation, served: ServedCvm) -> str:
    folder = installation.directory.resolve()
    lines = [
        "EMULATED TDX: nothing is protected by hardware; quotes verify under this root only:",
        f"  {installation.root.name}   {installation.root_pem.resolve()}",
        f"app {served.cvm.identity.app_id.hex()}  instance {served.cvm.identity.instance_id.hex()}",
        "",
        "ready; point the official SDKs here:",
        f"  export DSTACK_SIMULATOR_ENDPOINT={folder / 'dstack.sock'}",
        f"  export TAPPD_SIMULATOR_ENDPOINT={folder / 'tappd.sock'}",
    ]
    if served.url is not None:
        lines += ["or, over TCP, with everything and the PCCS on one address:"]
        lines += [f"  export {name}_SIMULATOR_ENDPOINT={served.url}" for name in ("DSTACK", "TAPPD")]
        lines += [f"dashboard: {served.url}/"]
    return "\n".join(lines)
