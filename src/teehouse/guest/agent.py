"""The guest agent as a whole: one service, its listeners, and their common beginning and end.

Rules:

G1. The log is opened, and in step with the register, before anything listens; then every listener starts,
    and only then what runs in the background (guest-agent.md 15, 20.1 #1322).
G2. When one listener cannot start, none is left running.
G3. When one listener ends by itself, `watch` raises, and with it the process ends (guest-agent.md 15, 8).
G4. At the end no request is cut off before its deadline, and no emission at all.

No part is made here, so nobody here knows what the platform is.
"""

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from starlette.routing import BaseRoute

from teehouse.base.clock import Clock
from teehouse.base.listener import Listener
from teehouse.guest.attest import EvidenceSource
from teehouse.guest.config import ListenerConfig
from teehouse.guest.info import GuestFacts
from teehouse.guest.measurements import MeasurementLog
from teehouse.guest.service import GuestService
from teehouse.guest.sockets import Listening
from teehouse.guest.tls import LeafSigner, local_signer
from teehouse.keys.appkeys import AppKeys
from teehouse.rpc.app import RpcApp
from teehouse.tee.platform import Platform, platform_error
from teehouse.wire.methods import ListenerKind, resolve

WATCH_INTERVAL = 1.0  # seconds
STOP_DEADLINE = 5.0  # seconds for requests that run


@dataclass(frozen=True, slots=True)
class GuestParts:
    """What an agent is made of.

    `directory` holds the runtime event log; `vm_config` is the text of sys-config's member. Without a
    `signer` the app is its own CA, which its keys must allow.
    """

    platform: Platform
    directory: Path
    keys: AppKeys
    vm_config: str
    facts: GuestFacts
    clock: Clock
    signer: LeafSigner | None = None
    legacy_extensions: bool = True


@dataclass(frozen=True, slots=True)
class Door:
    """One listener: what it serves and on which sockets, which it closes at the end.

    `config` gives ident, keep-alive and body limits; its address has been bound by whoever made `listening`.
    `headers` go into every answer.
    """

    kind: ListenerKind
    listening: Listening
    config: ListenerConfig
    extra_routes: Sequence[BaseRoute] = ()
    headers: tuple[tuple[str, str], ...] = field(default=())


async def open_service(parts: GuestParts) -> tuple[MeasurementLog, GuestService]:
    """Open the log (G1) and put the service together.

    Raises `PlatformError` when register and log differ, `MisuseError` for parts that do not fit.
    """
    log = MeasurementLog(parts.platform, parts.directory, parts.facts.compose.event_log_version)
    await log.open()
    try:
        boot_events = await asyncio.to_thread(parts.platform.boot_events)
        source = EvidenceSource(log, boot_events, parts.vm_config)
        signer = parts.signer or local_signer(
            parts.keys, source, parts.clock, legacy_extensions=parts.legacy_extensions
        )
    except BaseException:
        await log.close()
        raise
    return log, GuestService(source, parts.keys, signer, parts.facts, parts.clock)


class GuestAgent:
    """A service on its listeners. `log` and `service` come from `open_service`; the agent closes them."""

    def __init__(self, log: MeasurementLog, service: GuestService, doors: Sequence[Door]) -> None:
        self.log = log
        self.service = service
        self._doors = tuple(doors)
        self._listeners = tuple(self._listener(door) for door in self._doors)

    def _listener(self, door: Door) -> Listener:
        outside = door.kind in ("external", "all")
        app = RpcApp(
            partial(resolve, door.kind),
            self.service.handlers(),
            limits=door.config.limits,
            extra_routes=door.extra_routes,
            observe=self.service.observed.request,
        )
        version = (("X-App-Version", self.service.facts.app_version),) if outside else ()
        return Listener(
            app,
            door.listening.sockets,
            ident=door.config.ident,
            headers=(*version, *door.headers),
            keep_alive=door.config.keep_alive,
        )

    async def start(self) -> None:
        """Listen, on every door or on none (G2). Raises OSError, `MisuseError`."""
        try:
            for listener in self._listeners:
                await listener.start()
        except BaseException:
            await self.stop()
            raise
        self.service.start()

    async def stop(self, deadline: float = STOP_DEADLINE) -> None:
        """Stop listening, let requests that run finish for `deadline` seconds, close the log (G4)."""
        await asyncio.gather(*(listener.stop(deadline) for listener in self._listeners))
        for door in self._doors:
            door.listening.close()
        await self.service.stop()
        await self.log.close()

    async def watch(self, interval: float = WATCH_INTERVAL) -> None:
        """Look every `interval` seconds whether each door still listens; raises `PlatformError` if not (G3)."""
        while True:
            await asyncio.sleep(interval)
            self.check()

    def check(self) -> None:
        """Raises `PlatformError` when a door does not listen any more (G3)."""
        for door in self._doors:
            if not all(_listens(one) for one in door.listening.sockets):
                raise platform_error(
                    "agent.listener-ended",
                    f"the listener at {door.config.address} has ended by itself",
                    remedy="start the agent again; its service manager does",
                )


def _listens(listening: socket.socket) -> bool:
    try:
        return listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
    except OSError:
        return False
