"""OpenTelemetry's SDK with an exporter into memory: rules 1 to 5 of `teehouse.cloud.tracing`."""

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace

from support.cloud_api_support import api
from support.cloud_core_support import cloud
from teehouse.base.findings import MisuseError
from teehouse.cloud.cvms.models import Operation
from teehouse.cloud.tracing import CORRELATION, check_installed, operation_step

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
_provider: list[Any] = []


def _installed() -> bool:
    try:
        return find_spec("opentelemetry.sdk.trace") is not None
    except ModuleNotFoundError:
        return False


@pytest.fixture
def spans() -> Iterator[Any]:
    """The exporter. A process has one tracer provider, which stays."""
    if not _installed():
        if os.environ.get("CI"):
            pytest.fail("opentelemetry-sdk is not installed")
        pytest.skip("opentelemetry-sdk is not installed")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    if not _provider:
        _provider.append(TracerProvider(shutdown_on_exit=False))
        trace.set_tracer_provider(_provider[0])
    exporter = InMemorySpanExporter()
    processor = SimpleSpanProcessor(exporter)
    _provider[0].add_span_processor(processor)
    yield exporter
    processor.shutdown()


async def test_a_request_is_one_span_without_its_secrets(tmp_path: Path, spans: Any) -> None:
    async with cloud("sqlite", tmp_path, telemetry=True) as here:
        answer = await here.client().get("/api/v1/apps?search=hunter2", headers=PARENT)
        lost = await here.client(None).get("/api/v1/cvms/nowhere?token=hunter2")
        here.app.add_route("/broken", lambda _request: 1 / 0)
        broken = await here.client(None).get("/broken")
        first, second, third = spans.get_finished_spans()
        assert (first.name, second.name, third.name) == (
            "GET /api/v1/apps",
            "GET /api/v1/cvms/{cvm_id}",
            "GET unmatched",  # a route outside of the API
        )
        assert dict(first.attributes) == {
            "http.request.method": "GET",
            "url.path": "/api/v1/apps",
            "http.route": "/api/v1/apps",
            "http.response.status_code": 200,
        }
        assert f"{first.context.trace_id:032x}" == TRACE == answer.headers["X-Request-ID"]
        assert f"{first.parent.span_id:016x}" == "00f067aa0ba902b7"
        assert f"{second.context.trace_id:032x}" == lost.headers["X-Request-ID"] != TRACE
        assert second.attributes["http.response.status_code"] == 401
        assert (broken.status_code, third.status.is_ok, third.events) == (500, False, ())
        for span in (first, second, third):
            assert "hunter2" not in span.to_json()
            assert here.first.api_key not in span.to_json()


async def test_an_operation_is_in_the_trace_of_its_request(tmp_path: Path, spans: Any) -> None:
    async with api("sqlite", tmp_path, telemetry=True) as here:
        await here.deploy()
        spans.clear()
        answer = await here.call("POST", "/cvms/my-app/restart", json={}, headers=PARENT)
        assert answer.status_code == 200
        found = spans.get_finished_spans()
        steps = [span for span in found if span.name.startswith("step ")]
        (request,) = (span for span in found if span.name == "POST /api/v1/cvms/{cvm_id}/restart")
        assert [span.name for span in steps] == [
            "step begin",
            "step shutdown",
            "step stopped",
            "step authorise",
            "step start",
            "step running",
            "step finish",
        ]
        assert {f"{span.context.trace_id:032x}" for span in (*steps, request)} == {TRACE}
        ids = {span.attributes[CORRELATION] for span in (*steps, request)}
        async with here.cloud.database.read() as session:
            operation = (await session.get(Operation, 2)) if ids else None
        assert operation is not None
        assert (ids, operation.trace_id) == ({operation.correlation_id}, TRACE)


async def test_without_the_setting_nothing_of_requests_is_recorded(tmp_path: Path, spans: Any) -> None:
    async with cloud("sqlite", tmp_path) as here:
        await here.client().get("/api/v1/apps", headers=PARENT)
        assert spans.get_finished_spans() == ()


def test_a_step_of_an_operation_without_a_trace(spans: Any) -> None:
    with operation_step("begin", None, "c1"):
        pass
    (span,) = spans.get_finished_spans()
    assert (span.parent, dict(span.attributes)) == (None, {CORRELATION: "c1"})


@pytest.mark.parametrize(
    ("missing", "environment", "package"),
    [
        ("opentelemetry.sdk", {}, "opentelemetry-sdk"),
        (
            "opentelemetry.exporter.otlp.proto.http",
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"},
            "opentelemetry-exporter-otlp-proto-http",
        ),
    ],
)
def test_packages_that_are_not_there(
    monkeypatch: pytest.MonkeyPatch, missing: str, environment: dict[str, str], package: str
) -> None:
    def found(name: str) -> object:
        if name == missing:
            raise ModuleNotFoundError(name)
        return object()

    monkeypatch.setattr("teehouse.cloud.tracing.find_spec", found)
    with pytest.raises(MisuseError) as caught:
        check_installed(environment)
    assert caught.value.finding.expected == f"the package {package}"
    if environment:
        check_installed({})
