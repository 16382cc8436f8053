"""`teehouse agent` on real TDX: configuration, inherited sockets, service manager. Never imports the emulator.

Not yet run on hardware; docs/operations/real-tdx.md says what it expects there.
"""

import asyncio
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from starlette.routing import BaseRoute

from teehouse import __version__
from teehouse.attestation.roots import TrustedRoot
from teehouse.base.clock import SystemClock
from teehouse.base.findings import misuse
from teehouse.guest.agent import Door, GuestAgent, GuestParts, open_service
from teehouse.guest.boot import is_ready
from teehouse.guest.config import AgentConfig, ListenerConfig, load_config
from teehouse.guest.containers import DockerContainers
from teehouse.guest.docker_logs import DEFAULT_SOCKET, DockerLogSource
from teehouse.guest.hostinfo import Host, SystemReader
from teehouse.guest.info import GuestFacts
from teehouse.guest.pages import pages
from teehouse.guest.sockets import TcpAddress, inherited_sockets, listen
from teehouse.guest.systemd import Notifier, answers_version, run_watchdog, watchdog_interval
from teehouse.keys.appkeys import parse_app_keys
from teehouse.stack.serving import run_until_stopped
from teehouse.tee.detect import detect
from teehouse.tee.dmi import read_cloud_identity
from teehouse.tee.paths import TdxPaths
from teehouse.tee.platform import platform_error
from teehouse.wire.app_compose import parse_app_compose
from teehouse.wire.methods import ListenerKind
from teehouse.wire.sys_config import parse_sys_config

EVENT_LOG_DIRECTORY = Path("/run/log/dstack")  # guest-agent.md 10.4


def run_agent(config_file: Path | None, *, watchdog: bool) -> None:
    """Serve until SIGINT or SIGTERM. Raises `MisuseError` for files, `PlatformError` where no TDX is present."""
    inherited = inherited_sockets(os.environ, os.getpid())  # before anything else opens a descriptor
    platform = detect(os.environ)
    config = load_config(config_file)
    parts = GuestParts(
        platform=platform,
        directory=EVENT_LOG_DIRECTORY,
        keys=parse_app_keys(_file(config.core.keys_file)),
        vm_config=parse_sys_config(_file(config.core.sys_config_file)).vm_config,
        facts=_facts(config, os.environ),
        clock=SystemClock(),
        legacy_extensions=config.core.legacy_ratls_extensions,
    )

    async def serve(stop: asyncio.Event) -> None:
        log, service = await open_service(parts)
        if not is_ready(log.events):
            await log.close()
            raise platform_error(
                "agent.not-booted",
                "the boot has not been measured to its end",
                expected="the event system-ready in RTMR3's log",
                found=f"{len(log.events)} events in {EVENT_LOG_DIRECTORY}",
                remedy="complete the system's set-up before the agent starts",
            )
        doors: list[Door] = []
        try:
            doors.append(_door("internal", config.internal, inherited.get("dstack")))
            doors.append(_door("internal", config.internal_v0, inherited.get("tappd")))
            shown = pages(
                service,
                TrustedRoot.intel(),
                containers=DockerContainers(DEFAULT_SOCKET),
                logs=DockerLogSource(DEFAULT_SOCKET),
                host=Host(SystemReader(config.core.data_disks)),
            )
            doors.append(_door("external", config.external, None, shown))
        except BaseException:
            for door in doors:
                door.listening.close()
            raise
        agent = GuestAgent(log, service, doors)
        await agent.start()
        await _serve(agent, config, stop, watchdog=watchdog)

    run_until_stopped(serve)


async def _serve(agent: GuestAgent, config: AgentConfig, stop: asyncio.Event, *, watchdog: bool) -> None:
    """Tell the service manager, and stay until told to stop or until a listener ends by itself."""
    notifier = Notifier.of(os.environ)
    work = [asyncio.ensure_future(stop.wait()), asyncio.ensure_future(agent.watch())]
    interval = watchdog_interval(os.environ, os.getpid()) if watchdog else None
    external = config.external.address
    if interval is not None and isinstance(external, TcpAddress):
        port = external.port
        work.append(
            asyncio.ensure_future(
                run_watchdog(notifier, interval, lambda: answers_version("127.0.0.1", port))
            )
        )
    notifier.ready()
    try:
        done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        notifier.stopping()
        for task in work:
            task.cancel()
        await agent.stop()


def _door(
    kind: ListenerKind,
    config: ListenerConfig,
    inherited: socket.socket | None,
    routes: Sequence[BaseRoute] = (),
) -> Door:
    return Door(kind, listen(config.address, inherited), config, extra_routes=routes)


def _facts(config: AgentConfig, environ: Mapping[str, str]) -> GuestFacts:
    cloud = read_cloud_identity(TdxPaths.of(environ).dmi)
    return GuestFacts(
        compose=parse_app_compose(_file(config.core.compose_file)),
        build=f"teehouse-{__version__}",
        cloud_vendor=cloud.vendor,
        cloud_product=cloud.product,
        attestation_in_quote=config.core.attestation_in_quote,
    )


def _file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise misuse(
            "agent.file",
            f"{path} cannot be read",
            found=error.strerror or str(error),
            remedy="name it in the configuration file, under [default.core]",
        ) from error
