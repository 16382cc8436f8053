"""The agent's pages: dashboard, metrics, logs and their files (guest-agent.md 13.1).

Rules:

P1. The gates of app-compose, `public_logs` and `public_sysinfo`, are read once, here. A closed one answers 404
    with an error object, whatever is asked for. Without a source of logs every container is unknown.
P2. Pages only show: no method that gives keys or quotes is reached through them.
P3. Metrics wait for nothing that may take long: the host's figures are kept, all else is in memory, and no
    quote is taken.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from cryptography import x509
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from teehouse.attestation.roots import TrustedRoot
from teehouse.base.exposition import exposition
from teehouse.guest.assets import SECURITY_HEADERS, Assets
from teehouse.guest.containers import ContainerSource
from teehouse.guest.dashboard import Dashboard
from teehouse.guest.hostinfo import Host, HostSource, SystemReader
from teehouse.guest.logs_page import LogsPage
from teehouse.guest.logs_query import LogQuery
from teehouse.guest.logs_source import LogSource, LogStream, no_such_container
from teehouse.guest.metrics import AgentFigures, agent_metrics, host_metrics
from teehouse.guest.service import GuestService

SYSINFO_DISABLED = "Sysinfo API is disabled"
METRICS_TYPE = "text/plain; charset=utf-8"


def pages(
    service: GuestService,
    root: TrustedRoot,
    *,
    containers: ContainerSource | None = None,
    logs: LogSource | None = None,
    host: HostSource | None = None,
    collateral_expires: Callable[[], datetime] | None = None,
) -> list[BaseRoute]:
    """The routes for a listener's `extra_routes`.

    `root` is the one that quotes of this agent verify under; `containers` tells what runs here, `logs` has what
    it wrote; `host` is this machine when left out; `collateral_expires` tells when the platform's collateral
    ends, where that is known. Make them once for all listeners of an agent: its limits hold for all together.
    """
    compose = service.facts.compose
    assets = Assets()
    host = host or Host(SystemReader())
    dashboard = Dashboard(service, root, containers, host, assets)
    routes: list[BaseRoute] = [Route("/", dashboard.answer), *assets.routes()]
    if compose.public_sysinfo:
        routes.append(Route("/metrics", Metrics(service, root, host, collateral_expires).answer))
    else:
        routes.append(_closed("/metrics", SYSINFO_DISABLED))
    routes.append(LogsPage(logs or _NoLogs(), service.clock, public=compose.public_logs).route())
    return routes


class Metrics:
    """What `/metrics` answers."""

    def __init__(
        self,
        service: GuestService,
        root: TrustedRoot,
        host: HostSource,
        collateral_expires: Callable[[], datetime] | None = None,
    ) -> None:
        self._service = service
        self._root = root
        self._host = host
        self._collateral_expires = collateral_expires
        self._chain: tuple[str, tuple[tuple[str, datetime], ...]] = ("", ())

    async def answer(self, _request: Request) -> Response:
        """The metrics as they are now."""
        now = self._service.clock.now()
        collateral = None if self._collateral_expires is None else self._collateral_expires() - now
        figures = AgentFigures(
            requests=self._service.observed.requests,
            quotes=self._service.observed.quotes,
            event_log_bytes=self._service.log.size,
            event_log_events=len(self._service.log.events),
            certificate_expiry=tuple(
                (name, (end - now).total_seconds())
                for name, end in self._expiries(self._service.app_certificate)
            ),
            collateral_expiry=None if collateral is None else collateral.total_seconds(),
            root=self._root.name,
            emulated=self._root.emulated,
        )
        metrics = [*host_metrics(await self._host.figures()), *agent_metrics(figures)]
        headers = {**SECURITY_HEADERS, "Cache-Control": "no-store", "Content-Type": METRICS_TYPE}
        return Response(exposition(metrics), headers=headers)

    def _expiries(self, chain: str) -> tuple[tuple[str, datetime], ...]:
        """When the certificates of a PEM chain end, leaf first; those of the last chain are kept."""
        if self._chain[0] != chain:
            certificates = x509.load_pem_x509_certificates(chain.encode())
            names = ["leaf", *(f"issuer-{depth}" for depth in range(1, len(certificates)))]
            ends = (certificate.not_valid_after_utc for certificate in certificates)
            self._chain = chain, tuple(zip(names, ends, strict=True))
        return self._chain[1]


class _NoLogs:
    """The source of an agent without a workload."""

    async def resolve(self, name: str) -> None:  # noqa: ARG002 - the Protocol's argument
        return None

    async def stream(self, handle: Any, query: LogQuery) -> LogStream:  # noqa: ARG002 - the Protocol's arguments
        raise no_such_container(str(handle))


def _closed(path: str, text: str) -> Route:
    async def answer(_request: Request) -> Response:
        raise HTTPException(404, text)

    return Route(path, answer)
