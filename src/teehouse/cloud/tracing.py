"""Requests and operations in OpenTelemetry's traces, where the settings ask for them.

Rules:

1. Who configures it: the SDK's own variables (`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_SERVICE_NAME` and so on), or a
   tracer provider that the program has set. Without either nothing is recorded.
2. A request is one span: child of the caller's `traceparent`, named by method and declared route. Its trace id is
   the one of log lines, revisions and operations.
3. No span has a query, a header or a body: these hold codes and keys.
4. A step of an operation is a span in the trace of the request that began it, whichever process runs it.
5. Both carry `teehouse.correlation_id`, by which state, revision, log and node name the operation.
"""

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Final, Protocol

from fastapi.telemetry import TelemetryConfig
from opentelemetry import propagate, trace
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, StatusCode, TraceFlags
from starlette.datastructures import Headers
from starlette.types import Scope

from teehouse.base.findings import misuse
from teehouse.cloud.paths import loggable

CORRELATION: Final = "teehouse.correlation_id"
_NAME: Final = "teehouse.cloud"
_ENDPOINTS: Final = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
)


class Traced(Protocol):
    """The span of a request."""

    @property
    def trace_id(self) -> str | None:
        """32 hex digits; None where nothing is recorded."""
        ...

    def answered(self, route: str, status: int) -> None:
        """The route that answered, and with what; 0 for none."""
        ...


def check_installed(environment: Mapping[str, str]) -> None:
    """Raises `MisuseError` when a package that telemetry needs, with these variables, is not there."""
    needed = [("opentelemetry.sdk", "opentelemetry-sdk")]
    if any(environment.get(name) for name in _ENDPOINTS):
        needed.append(("opentelemetry.exporter.otlp.proto.http", "opentelemetry-exporter-otlp-proto-http"))
    for module, package in needed:
        if not _installed(module):
            raise misuse(
                "cloud.telemetry",
                "OpenTelemetry is asked for",
                expected=f"the package {package}",
                found="no such package",
                remedy="install it, or unset TEEHOUSE_TELEMETRY",
            )


def _installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def configuration(*, wanted: bool) -> TelemetryConfig:
    """For FastAPI: exporters as the variables say (rule 1), and no spans of its own, which show queries (rule 3)."""
    return {
        "tracing": wanted,
        "metrics": wanted,
        "operation_spans": False,
        "logs": False,  # they would carry messages of exceptions
        "auto_configure": wanted,
        "exclude": lambda _scope: True,
    }


class _RequestSpan:
    def __init__(self, span: Span, method: str) -> None:
        self._span = span
        self._method = method

    @property
    def trace_id(self) -> str | None:
        if not self._span.is_recording():
            return None
        return f"{self._span.get_span_context().trace_id:032x}"

    def answered(self, route: str, status: int) -> None:
        self._span.update_name(f"{self._method} {route}")
        self._span.set_attribute("http.route", route)
        if status:
            self._span.set_attribute("http.response.status_code", status)
        if status == 0 or status >= 500:
            self._span.set_status(StatusCode.ERROR)


class _Untraced:
    trace_id: str | None = None

    def answered(self, route: str, status: int) -> None:
        """Nothing is recorded."""


class RequestTracing:
    """Rules 2 and 3; without `wanted` it does nothing."""

    def __init__(self, *, wanted: bool) -> None:
        self._wanted = wanted

    @contextmanager
    def request(self, scope: Scope, method: str) -> Iterator[Traced]:
        """The span of a request, current for the block."""
        if not self._wanted:
            yield _Untraced()
            return
        headers = Headers(scope=scope)
        parent = propagate.extract({"traceparent": headers.get("traceparent", "")})
        with trace.get_tracer(_NAME).start_as_current_span(
            method,
            context=parent,
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method, "url.path": loggable(scope["path"])},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            yield _RequestSpan(span, method)


def note_operation(correlation_id: str) -> None:
    """The span of the present request has begun this operation (rule 5)."""
    trace.get_current_span().set_attribute(CORRELATION, correlation_id)


@contextmanager
def operation_step(name: str, trace_id: str | None, correlation_id: str) -> Iterator[None]:
    """The span of a step (rules 4, 5), current for the block."""
    parent = trace.set_span_in_context(trace.INVALID_SPAN)
    if trace_id is not None:
        begun = SpanContext(
            int(trace_id, 16), secrets.randbits(63) + 1, is_remote=True, trace_flags=TraceFlags(1)
        )
        parent = trace.set_span_in_context(NonRecordingSpan(begun))
    with trace.get_tracer(_NAME).start_as_current_span(
        f"step {name}", context=parent, attributes={CORRELATION: correlation_id}, record_exception=False
    ):
        yield
