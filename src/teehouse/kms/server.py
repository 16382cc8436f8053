"""The KMS on its sockets (trust.md 13.1, 13.3).

Rules:

S1. With root keys: the service KMS over TLS. Its certificate is issued anew, with fresh evidence, at each start.
S2. Without: the service Onboard alone, over plain HTTP, until it is finished; then S1. Or the keys are made
    at once, where a domain for that was set; or, where onboarding is off, the start is refused.
S3. Every refusal is 400 with the whole chain of reasons in `error`; what was not foreseen is 500. Where
    collateral or the authorisation API is out of reach nothing was decided: 503, and a client tries again.
S4. `/health` answers `OK`, `/metrics` the two counters of attestations.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Literal

from google.protobuf.empty_pb2 import Empty
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Scope

from teehouse import __version__
from teehouse.base.clock import Clock
from teehouse.base.exposition import Metric, Sample
from teehouse.base.findings import CollateralError, TeehouseError, misuse
from teehouse.base.listener import Listener
from teehouse.kms.audit import AuditLog
from teehouse.kms.auth import AuthApi
from teehouse.kms.evidence import Judge
from teehouse.kms.onboard import OnboardParts, OnboardService
from teehouse.kms.own import OwnEvidence, attested_rpc_certificate
from teehouse.kms.rootstore import RootKeyStore
from teehouse.kms.service import KmsService, Metrics, Peer, ThreadRecorder
from teehouse.kms.tls import server_context
from teehouse.rpc.app import RpcApp
from teehouse.wire import kms_pb2
from teehouse.wire.kms_methods import resolve_kms

_logger = logging.getLogger(__name__)

IDENT = f"teehouse-kms/{__version__}"
WAITING = "This KMS has no root keys yet. Call Onboard.Bootstrap or Onboard.Onboard, then /finish.\n"

State = Literal["stopped", "onboarding", "serving"]


@dataclass(frozen=True, slots=True)
class KmsSettings:
    """What an operator decides (trust.md 13.3).

    `auto_bootstrap_domain` makes keys at the first start; `revision` goes into X-App-Version.
    """

    site_name: str = ""
    enforce_self_authorization: bool = True
    attest_rpc_cert: bool = True
    onboard_enabled: bool = True
    auto_bootstrap_domain: str | None = None
    metrics_enabled: bool = True
    revision: str = ""


@dataclass(frozen=True, slots=True)
class KmsParts:
    """What a KMS works with. `own` is None where no guest agent is beside it.

    `own` is needed for self authorisation, for evidence in the RPC certificate and for onboarding.
    """

    store: RootKeyStore
    auth: AuthApi
    judge: Judge
    audit: AuditLog
    clock: Clock
    own: OwnEvidence | None


def peer_of(scope: Scope) -> Peer:
    """Who calls, from an ASGI scope."""
    tls = scope.get("extensions", {}).get("tls", {})
    client = scope.get("client")
    address = f"{client[0]}:{client[1]}" if client else ""
    return Peer(address, tls.get("client_cert_der"))


def _bad_request(_error: TeehouseError) -> int:
    """Rule S3, where a person reads the answer."""
    return HTTPStatus.BAD_REQUEST


def _status(error: TeehouseError) -> int:
    """Rule S3."""
    missing = isinstance(error, CollateralError)
    return HTTPStatus.SERVICE_UNAVAILABLE if missing else HTTPStatus.BAD_REQUEST


async def _health(_request: Request) -> Response:
    return PlainTextResponse("OK")


def metrics_text(metrics: Metrics) -> str:
    """The page of rule S4, in the text format of Prometheus."""
    told = (
        ("dstack_kms_attestation_requests_total", "Requests with evidence to be judged", metrics.requests),
        ("dstack_kms_attestation_failures_total", "Evidence that was refused", metrics.failures),
    )
    return "".join(Metric(name, text, (Sample(value),), "counter").text() for name, text, value in told)


def kms_app(service: KmsService, *, version: str | None = None, metrics: bool = True) -> RpcApp:
    """The ASGI application of the RPC listener; `version` is X-App-Version."""

    async def page(_request: Request) -> Response:
        return PlainTextResponse(metrics_text(service.metrics))

    routes = [Route("/health", _health), *([Route("/metrics", page)] if metrics else [])]
    return RpcApp(
        partial(resolve_kms, "KMS"),
        service.handlers(),
        extra_routes=routes,
        app_version=version,
        caller=peer_of,
        status=_status,
    )


def onboard_app(service: OnboardService, *, version: str | None = None) -> RpcApp:
    """The ASGI application of the onboarding listener."""

    async def index(_request: Request) -> Response:
        return PlainTextResponse(WAITING)

    async def finish(request: Request) -> Response:
        await service.finish(Empty(), peer_of(request.scope))
        return PlainTextResponse("OK")

    return RpcApp(
        partial(resolve_kms, "Onboard"),
        service.handlers(),
        extra_routes=[Route("/", index), Route("/finish", finish), Route("/health", _health)],
        app_version=version,
        caller=peer_of,
        status=_bad_request,
    )


class KmsServer:
    """A KMS on bound TCP sockets: `rpc_sockets` for TLS, `onboard_sockets` for plain HTTP until it has keys.

    Raises `MisuseError` when settings ask for evidence of our own and there is none.
    """

    def __init__(
        self,
        parts: KmsParts,
        settings: KmsSettings,
        *,
        rpc_sockets: Sequence[socket.socket],
        onboard_sockets: Sequence[socket.socket] = (),
    ) -> None:
        if parts.own is None and (settings.enforce_self_authorization or settings.attest_rpc_cert):
            raise misuse(
                "kms.no-guest-agent",
                "self authorization and an attested RPC certificate need evidence of the KMS's own machine",
                remedy="run the KMS beside a guest agent, or turn both off",
            )
        self._parts = parts
        self._settings = settings
        self._rpc_sockets = tuple(rpc_sockets)
        self._onboard_sockets = tuple(onboard_sockets)
        self._version = f"v{__version__} ({settings.revision})" if settings.revision else f"v{__version__}"
        self._listener: Listener | None = None
        self._handover: asyncio.Task[None] | None = None
        self._serving = asyncio.Event()
        self.state: State = "stopped"
        self.service: KmsService | None = None

    async def start(self) -> None:
        """Serve by rules S1 and S2. Raises `TeehouseError`, OSError."""
        parts, settings = self._parts, self._settings
        if await asyncio.to_thread(parts.store.exists):
            await self._serve_rpc()
            return
        onboard = OnboardService(
            OnboardParts(
                store=parts.store,
                auth=parts.auth,
                judge=parts.judge,
                recorder=ThreadRecorder(parts.audit),
                clock=parts.clock,
                own=parts.own,
                attest_rpc_cert=settings.attest_rpc_cert,
                site_name=settings.site_name,
            )
        )
        if settings.auto_bootstrap_domain is not None:
            request = kms_pb2.BootstrapRequest(domain=settings.auto_bootstrap_domain)
            await onboard.bootstrap(request, Peer())
            await self._serve_rpc()
            return
        if not settings.onboard_enabled:
            raise misuse(
                "kms.no-keys",
                f"there are no root keys in {parts.store.directory}, and onboarding is off",
                remedy="turn onboarding on, or restore the keys",
            )
        app = onboard_app(onboard, version=self._version)
        self._listener = Listener(app, self._onboard_sockets, ident=IDENT)
        await self._listener.start()
        self.state = "onboarding"
        self._handover = asyncio.create_task(self._when_finished(onboard, self._listener))

    async def serving(self) -> None:
        """Wait until the RPC service is there. Raises what its start after onboarding raised."""
        if self._handover is None:
            await self._serving.wait()
        else:
            await asyncio.shield(self._handover)

    async def stop(self) -> None:
        """Stop serving; the audit log stays open, for its owner to close."""
        if self._handover is not None:
            self._handover.cancel()
            with contextlib.suppress(asyncio.CancelledError, TeehouseError, OSError):
                await self._handover
        if self._listener is not None:
            await self._listener.stop()
        for sock in (*self._rpc_sockets, *self._onboard_sockets):
            sock.close()
        self.state = "stopped"

    async def _when_finished(self, onboard: OnboardService, listener: Listener) -> None:
        await onboard.finished.wait()
        await listener.stop()
        self._listener = None
        try:
            await self._serve_rpc()
        except (TeehouseError, OSError) as error:
            _logger.error("the RPC service does not start: %s", error)  # noqa: TRY400 - the reason is the text
            self.state = "stopped"
            raise

    async def _serve_rpc(self) -> None:
        """Rule S1."""
        parts, settings = self._parts, self._settings
        now = parts.clock.now()
        keys = await asyncio.to_thread(parts.store.load, now)
        own = parts.own if settings.attest_rpc_cert else None
        certificate = await attested_rpc_certificate(keys, own, now)
        await asyncio.to_thread(parts.store.put_rpc_certificate, certificate)
        service = KmsService(
            keys,
            parts.auth,
            parts.judge,
            ThreadRecorder(parts.audit),
            parts.clock,
            own=parts.own if settings.enforce_self_authorization else None,
        )
        self._listener = Listener(
            kms_app(service, version=self._version, metrics=settings.metrics_enabled),
            self._rpc_sockets,
            ident=IDENT,
            ssl_context=server_context(keys, certificate),
        )
        await self._listener.start()
        self.service = service
        self.state = "serving"
        self._serving.set()


def bound_socket(host: str, port: int) -> socket.socket:
    """A TCP socket bound to an address; port 0 takes a free one. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except BaseException:
        sock.close()
        raise
    return sock
