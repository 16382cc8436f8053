"""The listeners of one CVM's agent on the node's host (guest-agent.md 1.1).

Rules:

1. `dstack.sock`, `tappd.sock` and `external.sock` are in a directory of the CVM alone, which stands for `/var/run` in
   what containers mount; so the first two are in `dstack/` as well. The external listener, port 8090 of a CVM, is a
   TCP port of its own besides.
2. An agent that comes back has the same sockets, and the same port unless somebody else has it by now. Sockets that
   containers mount are the very same ones (`held`).
3. The directory above is for the node's user alone: sockets are open to whoever reaches them.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from starlette.routing import BaseRoute

from teehouse.base.clock import Clock
from teehouse.base.findings import MisuseError, misuse
from teehouse.guest.agent import Door, GuestAgent
from teehouse.guest.attest import EvidenceSource
from teehouse.guest.config import ListenerConfig
from teehouse.guest.info import GuestFacts
from teehouse.guest.measurements import MeasurementLog
from teehouse.guest.service import GuestService
from teehouse.guest.sockets import (
    DIRECTORY_NAME,
    PATH_LIMIT,
    Listening,
    TcpAddress,
    UnixAddress,
    UnixListener,
    bind_unix,
    listen,
    socket_paths,
)
from teehouse.guest.tls import LeafSigner
from teehouse.keys.appkeys import AppKeys
from teehouse.node.driver import CvmDriver
from teehouse.node.held import HeldSockets
from teehouse.node.journal import to_the_end
from teehouse.wire.app_compose import AppCompose
from teehouse.wire.methods import ListenerKind

DSTACK, TAPPD, EXTERNAL = "dstack.sock", "tappd.sock", "external.sock"
EMULATED_HEADER = ("X-Teehouse-Emulated", "true")
LOOPBACK = "127.0.0.1"
_DOORS: tuple[tuple[str, ListenerKind], ...] = (
    (f"{DIRECTORY_NAME}/{DSTACK}", "internal"),
    (f"{DIRECTORY_NAME}/{TAPPD}", "internal"),
    (EXTERNAL, "external"),
)
# Bytes of a path below the directory of all sockets.
_NAME_ROOM = 32 + 2 + max(len(name) for name, _ in _DOORS)

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AgentPlace:
    """Where an agent listens: the CVM's socket directory, and host and port of its pages (port 0: any free one)."""

    directory: Path
    host: str = LOOPBACK
    port: int = 0


def check_socket_root(root: Path) -> None:
    """Raises `MisuseError` for a directory too long for the sockets below it."""
    length = len(str(root).encode()) + _NAME_ROOM
    if length > PATH_LIMIT:
        raise misuse(
            "node.socket-directory",
            f"{root} is too long for sockets",
            expected=f"at most {PATH_LIMIT - _NAME_ROOM} bytes",
            found=str(length - _NAME_ROOM),
            remedy="choose a shorter directory for the node, or one for its sockets alone",
        )


async def start_agent(
    place: AgentPlace,
    driver: CvmDriver,
    *,
    log: MeasurementLog,
    source: EvidenceSource,
    keys: AppKeys,
    signer: LeafSigner,
    compose: AppCompose,
    clock: Clock,
    build: str,
    pages: Callable[[GuestService], Sequence[BaseRoute]],
) -> tuple[GuestAgent, str, int]:
    """The agent, listening; the URL of its pages, and their port. `pages` makes what it shows to the outside.

    Raises `MisuseError` for an address that cannot be had, OSError; nothing then listens, and the log stays open.
    """
    facts = GuestFacts(compose=compose, build=build, cloud_vendor=driver.vendor, cloud_product=driver.product)
    headers = (EMULATED_HEADER,) if driver.emulated else ()
    held = HeldSockets(place.directory.parent)
    doors: list[Door] = []
    try:
        for name, kind in _DOORS:
            address = UnixAddress(place.directory / name)
            doors.append(Door(kind, _listening(address, held), ListenerConfig(address), headers=headers))
        doors.append(_pages(place, headers))
        if compose.runner == "docker-compose":
            await to_the_end(asyncio.to_thread(_keep, held, doors))
        service = GuestService(source, keys, signer, facts, clock)
        shown = tuple(pages(service))
        doors = [replace(door, extra_routes=shown) if door.kind == "external" else door for door in doors]
        agent = GuestAgent(log, service, doors)
    except BaseException:
        for door in doors:
            door.listening.close()
        raise
    await agent.start()
    port = doors[-1].listening.sockets[0].getsockname()[1]
    return agent, f"http://{TcpAddress(place.host, port)}", port


def _listening(address: UnixAddress, held: HeldSockets) -> Listening:
    """The sockets at the address: those that are held, the others made (rule 2)."""
    bound: list[UnixListener] = []
    try:
        # Not in a thread: what it takes must not get lost when the boot is cancelled.
        bound.extend(held.take(path) or bind_unix(path) for path in socket_paths(address.path))
    except BaseException:
        for one in bound:
            one.close()
        raise
    return Listening(tuple(one.socket for one in bound), tuple(bound))


def _keep(held: HeldSockets, doors: list[Door]) -> None:
    for one in (one for door in doors for one in door.listening.bound if not one.stays):
        one.stays = held.keep(one.path, one.socket)
        if not one.stays:
            _logger.warning("%s is not held: after the next start of the node it is another socket", one.path)


def forget_sockets(directory: Path) -> None:
    """Nobody holds the sockets of a CVM any more, whose directory this is; the directory itself stays."""
    HeldSockets(directory.parent).drop(directory)


def _pages(place: AgentPlace, headers: tuple[tuple[str, str], ...]) -> Door:
    """The door of the pages, at its former port where it is free (rule 2)."""
    address = TcpAddress(place.host, place.port)
    try:
        listening = listen(address)
    except MisuseError:
        if place.port == 0:
            raise
        address = TcpAddress(place.host, 0)
        listening = listen(address)
    return Door("external", listening, ListenerConfig(address), headers=headers)
