"""What surrounds every request: its id, its trace, its log line, its place in the metrics.

Rules:

1. A request has an id: the caller's `X-Request-ID` when it is harmless text, else one of our own. It is in the
   answer's header, in every log line written meanwhile, and in errors.
2. Its trace id (32 hex digits) is that of its span where OpenTelemetry records one, else the one of the caller's
   `traceparent`, else of our own making; revisions and operations keep it.
3. A log line has the path and never the query, which may hold codes, nor what of a path is a token. Keys are in
   headers, which are not logged.
4. What no handler expected is 500 with a sentence and the id; the rest of it is in the log.
"""

import re
import secrets
import time
import traceback
from dataclasses import dataclass
from typing import Final

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from teehouse.cloud.http.metrics import RequestMetrics, known_method
from teehouse.cloud.paths import loggable
from teehouse.cloud.tracing import RequestTracing, Traced

REQUEST_ID: Final = "X-Request-ID"
_HARMLESS = re.compile(r"[0-9A-Za-z._:/-]{1,128}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}.*")
_NO_TRACE: Final = "0" * 32
API: Final = "/api/v1"
_KEY: Final = "teehouse.context"

log = structlog.stdlib.get_logger("teehouse.cloud.http")


@dataclass(frozen=True, slots=True)
class RequestContext:
    """The names of a request (rules 1, 2)."""

    request_id: str
    trace_id: str

    @classmethod
    def of_headers(cls, headers: Headers, trace_id: str | None = None) -> "RequestContext":
        """The context that these headers ask for; `trace_id` is that of a span that is recorded."""
        if trace_id is None:
            traced = _TRACEPARENT.fullmatch(headers.get("traceparent", ""))
            trace_id = traced[1] if traced and traced[1] != _NO_TRACE else secrets.token_hex(16)
        wanted = headers.get(REQUEST_ID, "")
        return cls(wanted if _HARMLESS.fullmatch(wanted) else trace_id, trace_id)


def context_of(request: Request) -> RequestContext:
    """The context of a request that came through `ContextMiddleware`."""
    context: RequestContext = request.scope[_KEY]
    return context


class ContextMiddleware:
    """Rules 1 to 4 around an application."""

    def __init__(self, app: ASGIApp, *, metrics: RequestMetrics, tracing: RequestTracing) -> None:
        self._app = app
        self._metrics = metrics
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with self._tracing.request(scope, known_method(scope["method"])) as traced:
            await self._answer(scope, receive, send, traced)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, traced: Traced) -> None:
        context = RequestContext.of_headers(Headers(scope=scope), traced.trace_id)
        scope[_KEY] = context
        begun = time.perf_counter()
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID] = context.request_id
                headers["X-Content-Type-Options"] = "nosniff"
                headers["X-Response-Time"] = f"{time.perf_counter() - begun:.6f}"
            await send(message)

        with structlog.contextvars.bound_contextvars(
            request_id=context.request_id, trace_id=context.trace_id
        ):
            try:
                await self._app(scope, receive, sending)
            except Exception:
                # As text: a renderer that shows the variables of each frame would show keys among them.
                log.error(  # noqa: TRY400 - see above
                    "request failed",
                    method=scope["method"],
                    path=loggable(scope["path"]),
                    traceback=traceback.format_exc(),
                )
                if status:  # the answer has begun; cutting it short is all that is left
                    raise
                body = {"detail": "Internal error", "request_id": context.request_id}
                await JSONResponse(body, 500)(scope, receive, sending)
            finally:
                seconds = time.perf_counter() - begun
                route = _route(scope)
                self._metrics.count(scope["method"], route, status, seconds)
                traced.answered(route, status)
                log.info(
                    "request",
                    method=scope["method"],
                    path=loggable(scope["path"]),
                    status=status,
                    seconds=round(seconds, 6),
                )


def _route(scope: Scope) -> str:
    """The declared path of the route that answered."""
    path: str | None = getattr(scope.get("route"), "path", None)
    if path is None:
        return "unmatched"
    # A route knows its path in its own router only.
    return API + path if scope["path"].startswith(f"{API}/") and not path.startswith(API) else path
