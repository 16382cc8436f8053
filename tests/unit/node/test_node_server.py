"""A node's RPC as clients of any kind meet it, over real TLS; the numbers are the rules of `node.server`."""

import asyncio
import json
import logging
import ssl
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest

from support.node_memory import MemoryNode
from support.node_remote_support import HOUSE, Served, served
from support.node_suite import cvm_spec
from support.node_tls_support import NOW, party
from support.node_workloads import until
from teehouse.base.clock import FixedClock
from teehouse.base.findings import MisuseError
from teehouse.keys.pem import certificate_pem
from teehouse.node import stream as streams
from teehouse.node.api import EventKind
from teehouse.node.identity import LEAF_LIFETIME, Identity, Role, client_context, host_name
from teehouse.node.messages import spec_message
from teehouse.node.server import LIMITS, NodeListener, NodeServer
from teehouse.wire import jsonmap, node_pb2

JSON = {"content-type": "application/json"}
SECRET = "s3" + "cret"  # in parts, because a traceback shows lines of this file
BINARY = {"content-type": "application/octet-stream"}


@pytest.fixture
def node() -> MemoryNode:
    return MemoryNode(FixedClock(NOW))


def client(house: Served, context: ssl.SSLContext | None = None) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=f"https://{house.address}",
        verify=context or client_context(HOUSE.controller),
        trust_env=False,
        timeout=5.0,
    )


def extensions(name: str = "tea-1") -> dict[str, Any]:
    return {"sni_hostname": host_name(Role.NODE, name)}


async def post(door: httpx.AsyncClient, method: str, **options: Any) -> httpx.Response:
    return await door.post(f"/prpc/{method}", **{"extensions": extensions(), **options})


async def get(door: httpx.AsyncClient, path: str, **headers: str) -> httpx.Response:
    request = door.build_request("GET", path, headers=headers, extensions=extensions())
    return await door.send(request)


def finding_of(response: httpx.Response) -> tuple[int, str, str, str]:
    """Status, code, expected and found of a refusal in JSON."""
    body = response.json()
    assert list(body) == ["error", "kind", "findings"]
    first = body["findings"][0]
    return response.status_code, first["code"], first["expected"], first["found"]


# Rule 1


async def test_nobody_gets_in_without_a_certificate(node: MemoryNode) -> None:
    context = ssl.create_default_context(cadata=certificate_pem(HOUSE.authority.authorities[0]))
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    async with served(node) as house, client(house, context) as door:
        with pytest.raises(httpx.TransportError):
            await post(door, "Info")
    assert node.calls == []


@pytest.mark.parametrize(
    "identity",
    [
        pytest.param(party().controller, id="another CA"),
        pytest.param(HOUSE.node, id="a node"),
        pytest.param(
            HOUSE.authority.issue(
                Role.CONTROLLER, "old", NOW - timedelta(days=2), lifetime=timedelta(days=1)
            ),
            id="expired",
        ),
    ],
)
async def test_nobody_gets_in_with_another_certificate(node: MemoryNode, identity: Identity) -> None:
    context = client_context(identity)
    context.load_verify_locations(cadata=certificate_pem(HOUSE.authority.authorities[0]))
    async with served(node) as house, client(house, context) as door:
        with pytest.raises(httpx.TransportError):
            await post(door, "Info")
    assert node.calls == []


async def test_a_connection_does_not_outlive_its_certificate(node: MemoryNode) -> None:
    async with served(node) as house, client(house) as door:
        assert (await post(door, "Info")).status_code == 200
        house.clock.advance(LEAF_LIFETIME + timedelta(seconds=1))
        refused = await post(door, "Info", headers=JSON)
    status, code, _, found = finding_of(refused)
    assert (status, code, found) == (403, "node.certificate-expired", house.clock.now().isoformat())
    assert node.calls == ["info"]


async def test_pins_narrow_who_gets_in(node: MemoryNode, caplog: pytest.LogCaptureFixture) -> None:
    other = HOUSE.authority.issue(Role.CONTROLLER, "other", NOW)
    async with served(node, pins=[HOUSE.controller.pin]) as house:
        async with client(house) as door:
            assert (await post(door, "Info")).status_code == 200
        async with client(house, client_context(other)) as door:
            refused = await post(door, "Info")
    assert refused.headers["content-type"] == "application/octet-stream"
    body = node_pb2.Refusal.FromString(refused.content)
    assert (refused.status_code, body.kind, body.findings[0].code) == (
        403,
        "EvidenceError",
        "node.certificate-pin",
    )
    assert "a caller is refused: the certificate of controller other" in caplog.text


async def _asgi(server: NodeServer, scope: dict[str, Any]) -> list[Any]:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": scope.pop("first", "http.request")}

    async def send(message: Any) -> None:
        sent.append(message)

    await server(scope, receive, send)
    return sent


async def test_a_listener_without_tls_answers_nobody(node: MemoryNode) -> None:
    server = NodeServer(node, FixedClock(NOW))
    scope: dict[str, Any] = {"type": "http", "path": "/prpc/Info", "method": "POST", "headers": []}
    start, body = await _asgi(server, scope)
    refusal = node_pb2.Refusal.FromString(body["body"])
    assert (start["status"], refusal.findings[0].code) == (403, "node.certificate-missing")
    assert node.calls == []
    assert await _asgi(server, {"type": "websocket", "first": "websocket.connect"}) == [
        {"type": "websocket.close", "code": 1000}
    ]


# Rule 2


async def test_rpcs_in_json_and_in_protobuf(node: MemoryNode) -> None:
    async with served(node) as house, client(house) as door:
        spec = cvm_spec()
        created = await post(
            door, "Node.Create", content=spec_message(spec).SerializeToString(), headers=BINARY
        )
        assert (created.status_code, created.headers["content-type"]) == (200, "application/octet-stream")
        assert node_pb2.CvmState.FromString(created.content).phase == "created"
        started = await post(door, "Start", json={"cvm_id": spec.cvm_id})
        assert (started.status_code, started.json()["phase"]) == (200, "running")
        stopped = await post(door, "Shutdown", json={"cvm_id": spec.cvm_id})
        assert (stopped.status_code, stopped.json()["phase"]) == (200, "stopped")
        assert node.calls == ["create", "stop 60.0"]
        assert (await post(door, "Stop", json={"cvm_id": spec.cvm_id, "deadline_us": 1_500_000})).is_success
        assert (await post(door, "Stop", json={"cvm_id": spec.cvm_id})).is_success
        assert node.calls[2:] == ["stop 1.5", "stop 0.0"]


async def test_only_the_right_verb(node: MemoryNode) -> None:
    async with served(node) as house, client(house) as door:
        refused = await get(door, "/prpc/Remove?cvm_id=00", **JSON)
        assert finding_of(refused) == (400, "node.method", "POST", "'GET'")
        refused = await door.post("/events", extensions=extensions())
        assert finding_of(refused) == (400, "node.method", "GET", "'POST'")
        unknown = await post(door, "Destroy", headers=JSON)
        assert (unknown.status_code, unknown.json()) == (404, {"error": "Service not found: Destroy"})


async def test_bodies_are_bounded(node: MemoryNode) -> None:
    assert LIMITS["Create"] == 2 * (4 + 1) * 1024**2 + 1024**2 + 64 * 1024
    assert LIMITS["Start"] == 4096
    async with served(node) as house, client(house) as door:
        body = json.dumps({"cvm_id": "0" * 5000})
        refused = await post(door, "Start", content=body, headers=JSON)
        assert (refused.status_code, refused.json()) == (400, {"error": jsonmap.TOO_LARGE})
        big = cvm_spec(compose=b"x" * 4 * 1024**2, user_config="y" * 1024**2)
        refused = await post(door, "Create", content=spec_message(big).SerializeToString(), headers=BINARY)
        body_of = node_pb2.Refusal.FromString(refused.content)
        assert (refused.status_code, body_of.kind) == (400, "FileError")  # read whole, and no app-compose


# Rules 3, 4, 6


async def test_a_refusal_says_all_and_brings_the_correlation_id_back(
    node: MemoryNode, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "teehouse.node.server")
    async with served(node) as house, client(house) as door:
        headers = {**JSON, "x-correlation-id": "order-7"}
        refused = await post(door, "Start", json={"cvm_id": "f" * 32}, headers=headers)
        assert refused.headers["x-correlation-id"] == "order-7"
        assert (refused.status_code, refused.json()) == (
            400,
            {
                "error": f"no such CVM on this node: found {'f' * 32} (list the node's CVMs, or create it first)",
                "kind": "MisuseError",
                "findings": [
                    {
                        "check": "",
                        "code": "node.cvm-unknown",
                        "outcome": "misuse",
                        "subject": "no such CVM on this node",
                        "expected": "",
                        "found": "f" * 32,
                        "remedy": "list the node's CVMs, or create it first",
                    }
                ],
            },
        )
        info = await post(door, "Info", headers=headers)
        assert (info.status_code, info.headers["x-correlation-id"]) == (200, "order-7")
        assert "x-correlation-id" not in (await post(door, "Info")).headers
        refused = await get(door, "/prpc/Info", **headers)
        assert (refused.status_code, refused.headers["x-correlation-id"]) == (400, "order-7")
    assert [record.message for record in caplog.records if record.name == "teehouse.node.server"] == [
        "Start by cloud [order-7]: node.cvm-unknown",
        "Info by cloud [order-7]: done",
        "Info by cloud []: done",
    ]


async def test_a_bad_correlation_id_is_refused(node: MemoryNode) -> None:
    async with served(node) as house, client(house) as door:
        refused = await post(door, "Info", headers={**JSON, "x-correlation-id": "a b"})
    status, code, _, found = finding_of(refused)
    assert (status, code, found) == (400, "node.correlation-id", "'a b'")
    assert "x-correlation-id" not in refused.headers


class _FailingNode(MemoryNode):
    async def info(self) -> Any:
        raise ArithmeticError(SECRET)


async def test_a_fault_of_ours_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with served(_FailingNode(FixedClock(NOW))) as house, client(house) as door:
        failed = await post(door, "Info", headers=JSON)
    assert (failed.status_code, failed.json()) == (500, {"error": "internal error"})
    assert SECRET not in caplog.text


# Rule 5, and the rules of `node.stream`


async def _opened(door: httpx.AsyncClient, query: str = "") -> tuple[httpx.Response, AsyncIterator[bytes]]:
    request = door.build_request("GET", f"/events{query}", extensions=extensions())
    response = await door.send(request, stream=True)

    async def lines() -> AsyncIterator[bytes]:
        rest = b""
        async for chunk in response.aiter_raw():
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                yield line

    return response, lines()


async def _gone(node: MemoryNode) -> None:
    await until(lambda: node.readers == 0)


async def test_events_are_lines_of_json_with_heartbeats_between(node: MemoryNode) -> None:
    node.tell("a", EventKind.CREATED, "shop", "order-1")
    node.tell("a", EventKind.PHASE, "booting")
    async with served(node, heartbeat=0.05) as house, client(house) as door:
        response, lines = await _opened(door, "?after=1")
        assert (response.status_code, response.headers["content-type"]) == (200, "application/x-ndjson")
        assert json.loads(await anext(lines)) == {
            "sequence": 2,
            "time_us": int(NOW.timestamp()) * 10**6,
            "cvm_id": "a",
            "kind": "phase",
            "detail": "booting",
            "correlation_id": "",
        }
        assert await anext(lines) == b""
        assert await anext(lines) == b""
        node.tell("a", EventKind.PHASE, "running")
        while not (line := await anext(lines)):
            pass
        assert json.loads(line)["detail"] == "running"
        await response.aclose()
        await _gone(node)  # 3: the reader went


async def test_without_a_number_all_that_is_known_is_told(node: MemoryNode) -> None:
    node.tell("a", EventKind.CREATED)
    node.tell("b", EventKind.CREATED)
    async with served(node) as house, client(house) as door:
        response, lines = await _opened(door)
        assert [json.loads(await anext(lines))["cvm_id"] for _ in range(2)] == ["a", "b"]
        await response.aclose()


async def test_a_stream_ends_with_its_node(node: MemoryNode) -> None:
    node.tell("a", EventKind.CREATED)
    async with served(node) as house, client(house) as door:
        _, lines = await _opened(door)
        await anext(lines)
        node.close()
        assert [line async for line in lines] == []
        await _gone(node)


async def test_a_stream_ends_with_the_server_at_once(node: MemoryNode) -> None:
    async with served(node) as house, client(house) as door:
        _, lines = await _opened(door)
        async with asyncio.timeout(3):
            stopping = asyncio.create_task(house.stop(deadline=60.0))
            assert [line async for line in lines] == []
            await door.aclose()
            await stopping
        assert node.readers == 0


async def test_a_stream_ends_with_the_reader_s_certificate(node: MemoryNode) -> None:
    async with served(node) as house, client(house) as door:
        _, lines = await _opened(door)
        house.clock.advance(LEAF_LIFETIME + timedelta(days=1))
        node.tell("a", EventKind.CREATED)
        assert [line async for line in lines] == []


async def test_streams_are_counted(node: MemoryNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "STREAM_LIMIT", 2)
    async with served(node) as house, client(house) as door:
        opened = [(await _opened(door))[0] for _ in range(2)]
        refused = await get(door, "/events")
        assert finding_of(refused)[:3] == (503, "node.streams", "at most 2, while the node serves")
        await opened[0].aclose()
        await until(lambda: node.readers == 1)
        again, _ = await _opened(door)
        assert again.status_code == 200
        await again.aclose()
        await opened[1].aclose()


@pytest.mark.parametrize(
    "query",
    ["after=-1", "after=", "after=x", "before=1", "after=1&after=2", f"after={2**64}", "after=" + "0" * 21],
)
async def test_a_query_that_is_none_is_refused(node: MemoryNode, query: str) -> None:
    async with served(node) as house, client(house) as door:
        refused = await get(door, f"/events?{query}")
        assert finding_of(refused) == (400, "node.events-query", "after=N, 64 bits", ascii(query))


class _BrokenNode(MemoryNode):
    """Its events fail, and are no generator."""

    def events(self, after: int = 0) -> Any:
        return self

    def __aiter__(self) -> Any:
        return self

    async def __anext__(self) -> Any:
        raise ArithmeticError(SECRET)


async def test_events_that_fail_break_the_stream() -> None:
    async with served(_BrokenNode(FixedClock(NOW))) as house, client(house) as door:
        _, lines = await _opened(door)
        with pytest.raises(httpx.RemoteProtocolError):
            await anext(lines)


# The listener


async def test_a_certificate_is_replaced_while_the_node_serves(node: MemoryNode) -> None:
    renewed = HOUSE.authority.issue(Role.NODE, "tea-1", NOW)
    async with served(node) as house:
        assert house.listener is not None
        house.listener.rotate(renewed)
        async with client(house) as door:
            response = await post(door, "Info")
            session = response.extensions["network_stream"].get_extra_info("ssl_object")
            assert session.getpeercert(binary_form=True) == renewed.certificate_der


def test_a_controller_s_certificate_serves_nothing(node: MemoryNode) -> None:
    with pytest.raises(MisuseError) as raised:
        NodeListener(NodeServer(node, FixedClock(NOW)), [], HOUSE.controller, ident="x")
    assert raised.value.finding.code == "node.role"
