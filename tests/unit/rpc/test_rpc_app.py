"""RPC over HTTP: paths, encodings, the error table of guest-agent.md 2.6, the examples of 18."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from google.protobuf.empty_pb2 import Empty
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from support.guest_agent import Agent, agent, door_of
from teehouse.base.findings import misuse, unavailable
from teehouse.keys.derive import derivation_error
from teehouse.rpc import app as rpc
from teehouse.rpc.app import Prepared, RpcApp
from teehouse.tee.platform import platform_error
from teehouse.wire import guest_pb2 as wire
from teehouse.wire.methods import resolve

JSON = {"content-type": "application/json"}
BINARY = {"content-type": "application/octet-stream"}
TOO_LARGE = "failed to read data: payload too large"


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Agent]:
    async with agent(tmp_path) as made:
        yield made


@pytest.fixture
async def door(running: Agent) -> AsyncIterator[httpx.AsyncClient]:
    async with running.door() as client:
        yield client


def error_of(response: httpx.Response) -> tuple[int, str]:
    """Status and text of a refusal in JSON, which is written over three lines."""
    assert response.headers["content-type"] == "application/json"
    assert response.content == json.dumps(response.json(), indent=2).encode()
    assert list(response.json()) == ["error"]
    return response.status_code, response.json()["error"]


def binary_error_of(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/octet-stream"
    return response.status_code, wire.Error.FromString(response.content).message


# Examples, guest-agent.md 18


async def test_the_examples_of_section_18(door: httpx.AsyncClient) -> None:
    body = b'{"path":"p","purpose":"","algorithm":"secp256k1"}'
    answer = await door.post("/GetKey", content=body, headers=JSON)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["content-length"] == str(len(answer.content))
    assert "transfer-encoding" not in answer.headers
    assert list(answer.json()) == ["key", "signature_chain"]

    answer = await door.post("/EmitEvent", json={"event": "a", "payload": "62"})
    assert (answer.status_code, answer.content) == (200, b"null")

    status, text = error_of(await door.post("/GetQuote", json={"report_data": "0"}))
    assert (status, text.split(" at ")[0]) == (400, "Odd number of digits")

    assert (await door.get("/GetQuote?report_data=00ff")).status_code == 200
    assert error_of(await door.get("/Nope")) == (404, "Service not found: Nope")
    refused = await door.post("/Sign", json={"algorithm": "secp256k1_prehashed", "data": "00"})
    assert error_of(refused) == (
        400,
        "Pre-hashed signing requires a 32-byte digest, but received 1 bytes",
    )


# Paths, guest-agent.md 1.3, 1.5

PREFIXES = ("/", "/v0/", "/prpc/", "/prpc/v0/")


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("service", ["", "DstackGuest.", "Tappd."])
async def test_every_path_form_of_the_inner_sockets(
    door: httpx.AsyncClient, prefix: str, service: str
) -> None:
    expected = (await door.post("/GetKey", json={})).json()
    answer = await door.post(f"{prefix}{service}GetKey", json={})
    assert (answer.status_code, answer.json()) == (200, expected)
    answer = await door.post(f"{prefix}{service}DeriveK256Key/", json={})
    assert answer.json() == {"k256_key": expected["key"], "k256_signature_chain": expected["signature_chain"]}


@pytest.mark.parametrize("path", ["/prpc/", "/prpc/Worker.", "/prpc/v0/", "/prpc/v0/Worker."])
async def test_every_path_form_outside(running: Agent, path: str) -> None:
    async with running.door("external") as outside:
        assert (await outside.get(f"{path}Version")).json() == {"version": "0.5.11", "rev": "test"}


INNER_METHODS = [
    "GetKey",
    "GetTlsKey",
    "GetQuote",
    "Attest",
    "Sign",
    "Verify",
    "EmitEvent",
    "GpuInfo",
    "DeriveKey",
    "DeriveK256Key",
    "TdxQuote",
    "RawQuote",
]


@pytest.mark.parametrize("method", INNER_METHODS)
async def test_the_outside_reaches_no_inner_method(running: Agent, method: str) -> None:
    """guest-agent.md 22, 11."""
    async with running.door("external") as outside:
        for prefix in PREFIXES:
            for service in ("", "Worker.", "DstackGuest.", "Tappd."):
                answer = await outside.post(f"{prefix}{service}{method}", json={})
                assert answer.status_code == 404
                assert "Service not found: " in answer.json()["error"]
    assert len(running.log.events) == 8


async def test_one_listener_may_serve_everything(running: Agent) -> None:
    async with running.door("all") as all_services:
        for path in ("/GetKey", "/prpc/Tappd.DeriveK256Key", "/prpc/Worker.Version", "/Info"):
            assert (await all_services.post(path, json={})).status_code == 200


# The error table, guest-agent.md 2.6: each row in JSON and in protobuf


@pytest.mark.parametrize(
    ("method", "body", "text"),
    [
        ("GetKey", b"{", "EOF while parsing an object"),
        ("GetKey", b'{"path":null}', "invalid type: null, expected a string"),
        ("GetKey", b'{"path":"a","path":"b"}', "duplicate field `path`"),
        ("GetKey", b"[]", "invalid type: sequence, expected struct GetKeyArgs"),
        ("GetQuote", b'{"report_data":"zz"}', "Invalid character 'z' at position 0"),
        ("GetQuote", b'{"report_data":"0X00"}', "Invalid character 'X' at position 1"),
        ("GetQuote", b'{"report_data":"' + b"00" * 65 + b'"}', "Report data is too long"),
        ("Attest", b'{"report_data":"' + b"00" * 65 + b'"}', "Report data is too long"),
        ("GetKey", b'{"algorithm":"rsa"}', "Unsupported algorithm"),
        ("Sign", b"{}", "Unsupported algorithm"),
        ("Verify", b"{}", "Unsupported algorithm"),
        ("Verify", b'{"algorithm":"ed25519","public_key":"00"}', "invalid public key"),
        ("TdxQuote", b'{"hash_algorithm":"md5"}', "invalid hash algorithm"),
        ("TdxQuote", b'{"hash_algorithm":"raw","report_data":"00"}', "invalid content length"),
        ("RawQuote", b'{"report_data":"00"}', "invalid content length"),
        ("GetTlsKey", b'{"not_before":5,"not_after":5}', "not_before must be earlier than not_after"),
        ("EmitEvent", b'{"event":"","payload":""}', "event name cannot be empty"),
    ],
)
async def test_what_the_caller_got_wrong_is_400_in_json(
    door: httpx.AsyncClient, method: str, body: bytes, text: str
) -> None:
    status, found = error_of(await door.post(f"/{method}", content=body, headers=JSON))
    assert (status, found.split(" at line")[0]) == (400, text)


@pytest.mark.parametrize(
    ("method", "request_", "text"),
    [
        ("GetKey", b"\xff", "failed to decode Protobuf message: GetKeyArgs"),
        ("GetQuote", wire.RawQuoteArgs(report_data=bytes(65)), "Report data is too long"),
        ("Attest", wire.RawQuoteArgs(report_data=bytes(65)), "Report data is too long"),
        ("GetKey", wire.GetKeyArgs(algorithm="rsa"), "Unsupported algorithm"),
        (
            "Sign",
            wire.SignRequest(algorithm="secp256k1_prehashed", data=b"1"),
            "Pre-hashed signing requires a 32-byte digest, but received 1 bytes",
        ),
        ("Verify", wire.VerifyRequest(algorithm="ed25519"), "invalid public key"),
        ("TdxQuote", wire.TdxQuoteArgs(hash_algorithm="md5"), "invalid hash algorithm"),
        ("RawQuote", wire.RawQuoteArgs(report_data=b"1"), "invalid content length"),
        (
            "GetTlsKey",
            wire.GetTlsKeyArgs(not_before=2, not_after=1),
            "not_before must be earlier than not_after",
        ),
        ("EmitEvent", wire.EmitEventArgs(payload=b"1"), "event name cannot be empty"),
    ],
)
async def test_what_the_caller_got_wrong_is_400_in_protobuf(
    door: httpx.AsyncClient, method: str, request_: Any, text: str
) -> None:
    body = request_ if isinstance(request_, bytes) else request_.SerializeToString()
    assert binary_error_of(await door.post(f"/{method}", content=body, headers=BINARY)) == (400, text)


async def test_a_bad_query_is_400(door: httpx.AsyncClient) -> None:
    assert error_of(await door.get("/GetQuote?report_data=0")) == (400, "Odd number of digits")
    assert error_of(await door.get("/GetTlsKey?usage_ra_tls=1")) == (
        400,
        "provided string was not `true` or `false`",
    )
    assert error_of(await door.get("/GetKey?path=a&path=b")) == (
        400,
        'Multiple values for one key: "path"',
    )


async def test_unknown_methods_and_paths_are_404(door: httpx.AsyncClient, running: Agent) -> None:
    assert error_of(await door.post("/prpc/Tappd.Nope", json={})) == (404, "Service not found: Nope")
    assert error_of(await door.get("/a/b")) == (404, "Service not found: a/b")
    assert binary_error_of(await door.post("/Nope", content=b"")) == (404, "Service not found: Nope")
    assert binary_error_of(await door.put("/Nope")) == (404, "Service not found: Nope")
    async with running.door("external") as outside:
        assert error_of(await outside.get("/prpc/GetKey")) == (404, "Service not found: GetKey")
        assert error_of(await outside.get("/nothing")) == (404, "Service not found: nothing")


async def test_a_service_without_handlers_is_unknown() -> None:
    async with door_of(RpcApp(partial(resolve, "guest-api"), {})) as host:
        assert error_of(await host.get("/api/Info")) == (404, "Service not found: Info")


@pytest.mark.parametrize("verb", ["PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_another_verb_on_a_known_path_is_405(door: httpx.AsyncClient, verb: str) -> None:
    answer = await door.request(verb, "/GetKey", headers=JSON)
    assert error_of(answer) == (405, "Method not allowed")
    assert answer.headers["allow"] == "GET, HEAD, POST"
    assert binary_error_of(await door.request(verb, "/GetKey")) == (405, "Method not allowed")


@pytest.mark.parametrize("headers", [JSON, BINARY])
async def test_a_body_over_the_limit_is_400(running: Agent, headers: dict[str, str]) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b" " * 10

    async with running.door(limits={"Sign": 20}) as limited:
        for body in (b" " * 21, chunks()):  # with and without a Content-Length
            answer = await limited.post("/Sign", content=body, headers=headers)
            read = error_of if headers is JSON else binary_error_of
            assert read(answer) == (400, TOO_LARGE)
            assert answer.headers["connection"] == "close"
        assert (
            await limited.post("/GetKey", content=b"{" + b" " * 40 + b"}", headers=JSON)
        ).status_code == 200


async def test_no_limit_goes_beyond_ten_mebibytes(running: Agent) -> None:
    async with running.door(limits={"Sign": 1 << 40}) as limited:
        answer = await limited.post("/Sign", content=b" " * (10 * 1024 * 1024 + 1), headers=JSON)
        assert error_of(answer) == (400, TOO_LARGE)


@pytest.mark.parametrize(
    "error",
    [
        platform_error("x.device", "the quote device failed"),
        unavailable("x.kms", "the KMS does not answer"),
        derivation_error("x.key", "Failed to derive key"),
    ],
)
async def test_what_failed_here_is_500(error: Exception) -> None:
    async def fail(_: Any) -> Empty:
        raise error

    async with door_of(RpcApp(partial(resolve, "internal"), {"DstackGuest": {"GetKey": fail}})) as door:
        assert error_of(await door.get("/GetKey")) == (500, str(error))
        assert binary_error_of(await door.post("/GetKey")) == (500, str(error))


async def test_what_was_not_foreseen_is_500_and_stays_out_of_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(request: wire.GetKeyArgs) -> Empty:
        raise ValueError(request.path)

    async with door_of(RpcApp(partial(resolve, "internal"), {"DstackGuest": {"GetKey": fail}})) as door:
        with caplog.at_level(logging.DEBUG):
            assert error_of(await door.get("/GetKey?path=geheim")) == (500, "internal error")
            body = wire.GetKeyArgs(path="geheim").SerializeToString()
            assert binary_error_of(await door.post("/GetKey", content=body)) == (500, "internal error")
    ours = "".join(record.getMessage() for record in caplog.records if record.name.startswith("teehouse"))
    assert "GetKey failed: ValueError" in ours
    assert "test_rpc_app.py" in ours
    assert "geheim" not in ours


async def test_nothing_of_bodies_reaches_the_log(
    door: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        answers = [
            await door.post("/GetKey", json={"path": "geheim"}),
            await door.post("/Sign", json={"algorithm": "ed25519", "data": b"geheim".hex()}),
            await door.post("/GetTlsKey", json={"subject": "geheim"}),
            await door.post("/DeriveKey", json={"path": "geheim"}),
            await door.post("/GetKey", json={"path": "geheim", "algorithm": "geheim"}),
        ]
    ours = "".join(record.getMessage() for record in caplog.records if record.name.startswith("teehouse"))
    assert "geheim" not in ours
    assert answers[0].json()["key"] not in ours
    assert [answer.status_code for answer in answers] == [200, 200, 200, 200, 400]


# Encodings, guest-agent.md 2.2


@pytest.mark.parametrize(
    ("query", "media", "json_answer"),
    [
        ("", "application/json", True),
        ("", "Application/JSON; charset=utf-8", True),
        ("", "application/vnd.x+json", False),
        ("", "application/x-www-form-urlencoded", False),
        ("", None, False),
        ("?json", None, True),
        ("?json=", None, True),
        ("?json=1", "application/octet-stream", True),
        ("?a=b&json=true", None, True),
        ("?json=0", None, False),
        ("?jsonp=1", None, False),
    ],
)
async def test_r3_what_makes_an_exchange_json(
    door: httpx.AsyncClient, query: str, media: str | None, json_answer: bool
) -> None:
    headers = {"content-type": media} if media else {}
    answer = await door.post(f"/Version{query}", headers=headers)
    expected = wire.WorkerVersion(version="0.5.11", rev="test")
    if json_answer:
        assert answer.headers["content-type"] == "application/json"
        assert answer.content == b'{"version":"0.5.11","rev":"test"}'
    else:
        assert answer.headers["content-type"] == "application/octet-stream"
        assert wire.WorkerVersion.FromString(answer.content) == expected


async def test_accept_is_not_consulted(door: httpx.AsyncClient) -> None:
    answer = await door.post("/Version", headers={"accept": "application/json"})
    assert answer.headers["content-type"] == "application/octet-stream"


async def test_protobuf_in_and_out(door: httpx.AsyncClient) -> None:
    request = wire.GetKeyArgs(path="p", purpose="q", algorithm="ed25519")
    answer = await door.post("/GetKey", content=request.SerializeToString(), headers=BINARY)
    in_json = (await door.get("/GetKey?path=p&purpose=q&algorithm=ed25519")).json()
    found = wire.GetKeyResponse.FromString(answer.content)
    assert found.key.hex() == in_json["key"]
    assert [link.hex() for link in found.signature_chain] == in_json["signature_chain"]
    emitted = await door.post("/EmitEvent", content=wire.EmitEventArgs(event="a").SerializeToString())
    assert (emitted.status_code, emitted.content) == (200, b"")


async def test_r4_json_without_its_media_type_is_understood(door: httpx.AsyncClient) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    answer = await door.post("/GetKey", content=b' \n{"path":"p"}', headers=form)
    assert answer.content == (await door.get("/GetKey?path=p")).content
    assert answer.headers["content-type"] == "application/json"
    refused = await door.post("/GetKey", content=b'{"path":5}', headers=form)
    status, text = error_of(refused)
    assert (status, text.split(" at ")[0]) == (400, "invalid type: integer `5`, expected a string")
    assert (await door.post("/Info", content=b"{}")).headers["content-type"] == "application/json"


async def test_methods_without_arguments_do_not_look_at_the_body(door: httpx.AsyncClient) -> None:
    for body in (b"", b"{}", b"no json"):
        assert (await door.post("/Version", content=body, headers=JSON)).status_code == 200


async def test_head_is_get_without_a_body(door: httpx.AsyncClient) -> None:
    got = await door.get("/Version")
    head = await door.head("/Version")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == got.headers["content-length"]
    assert (await door.head("/Nope")).status_code == 404


async def test_answers_are_ascii(door: httpx.AsyncClient) -> None:
    """guest-agent.md 2.8 a."""
    info = await door.get("/Info")
    assert info.content.isascii()
    assert info.json()["app_name"] == "büro"
    refused = await door.get("/ü")
    assert refused.content.isascii()
    assert error_of(refused) == (404, "Service not found: ü")


async def test_a_prepared_answer_is_encoded_once(running: Agent) -> None:
    prepared = Prepared(wire.WorkerVersion(version="1"))
    assert prepared.json is prepared.json
    assert prepared.protobuf is prepared.protobuf
    assert prepared.json == b'{"version":"1","rev":""}'


# Pages


async def hello(request: Request) -> Response:
    return PlainTextResponse(f"hello {request.path_params['name']}")


async def failing(request: Request) -> Response:
    kind = request.path_params["kind"]
    if kind == "http":
        raise HTTPException(404, "Logs API is disabled")
    if kind == "bare":
        raise HTTPException(418)
    if kind == "misuse":
        raise misuse("x.y", "bad since")
    if kind == "platform":
        raise platform_error("x.y", "no Docker")
    raise ValueError("geheim")


async def breaking(_: Request) -> Response:
    async def body() -> AsyncIterator[bytes]:
        yield b"begun"
        raise ValueError("too late")

    return StreamingResponse(body())


PAGES = [
    Route("/hello/{name}", hello),
    Route("/failing/{kind}", failing),
    Route("/breaking", breaking),
    Route("/prpc/Info", hello),
]


@pytest.mark.parametrize("kind", ["external", "all"])
async def test_pages_stand_beside_the_rpcs(running: Agent, kind: Any) -> None:
    async with running.door(kind, extra_routes=PAGES, app_version="v0.5.11 (test)") as outside:
        answer = await outside.get("/hello/you")
        assert (answer.status_code, answer.text) == (200, "hello you")
        assert answer.headers["x-app-version"] == "v0.5.11 (test)"
        assert "app_name" in (await outside.get("/prpc/Info")).json()  # an RPC is never hidden by a page
        refused = await outside.get("/hello/you/there")
        assert error_of(refused) == (404, "Service not found: hello/you/there")
        assert refused.headers["x-app-version"] == "v0.5.11 (test)"
        assert (await outside.get("/prpc/Version")).headers["x-app-version"] == "v0.5.11 (test)"
        wrong_verb = await outside.post("/hello/you", headers=JSON)
        assert error_of(wrong_verb) == (405, "Method not allowed")


@pytest.mark.parametrize(
    ("kind", "status", "text"),
    [
        ("http", 404, "Logs API is disabled"),
        ("bare", 418, "I'm a Teapot"),
        ("misuse", 400, "bad since"),
        ("platform", 500, "no Docker"),
        ("other", 500, "internal error"),
    ],
)
async def test_pages_refuse_in_json(running: Agent, kind: str, status: int, text: str) -> None:
    async with running.door("external", extra_routes=PAGES, app_version="v") as outside:
        answer = await outside.get(f"/failing/{kind}")
        assert error_of(answer) == (status, text)
        assert answer.headers["x-app-version"] == "v"


async def test_a_page_that_breaks_off_breaks_the_connection(running: Agent) -> None:
    async with running.door("external", extra_routes=PAGES) as outside:
        with pytest.raises(ValueError, match="too late"):
            await outside.get("/breaking")


# The ASGI side


async def exchange(app: RpcApp, scope: dict[str, Any], *received: dict[str, Any]) -> list[dict[str, Any]]:
    """What the application sends; `received` is all it ever gets."""
    queue = list(received)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if not queue:
            await asyncio.Event().wait()
        return queue.pop(0)

    async def send(message: Any) -> None:
        sent.append(dict(message))

    await app(scope, receive, send)
    return sent


def http_scope(path: str, **headers: str) -> dict[str, Any]:
    return {
        "type": "http",
        "method": "POST",
        "path": path,
        "query_string": b"json",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }


async def test_lifespan_is_accepted() -> None:
    app = RpcApp(partial(resolve, "internal"), {})
    sent = await exchange(
        app, {"type": "lifespan"}, {"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}
    )
    assert [message["type"] for message in sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]


async def test_websocket_is_not_spoken() -> None:
    sent = await exchange(
        RpcApp(partial(resolve, "internal"), {}), {"type": "websocket"}, {"type": "websocket.connect"}
    )
    assert sent == [{"type": "websocket.close", "code": 1000}]


async def test_a_client_that_went_away_is_answered_all_the_same(running: Agent) -> None:
    app = RpcApp(partial(resolve, "internal"), running.service.handlers())
    sent = await exchange(app, http_scope("/Version"), {"type": "http.disconnect"})
    assert sent[0]["status"] == 200


async def test_r5_a_sender_of_too_much_is_answered_before_it_has_finished(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rpc, "_DRAIN_PATIENCE", 0.01)
    monkeypatch.setattr(rpc, "_DRAIN_LIMIT", 20)
    scope = http_scope("/Sign", **{"content-length": "999999999"})

    async def sign(_: Any) -> Empty:
        raise AssertionError("never called")

    app = RpcApp(partial(resolve, "internal"), {"DstackGuest": {"Sign": sign}})
    chunk = {"type": "http.request", "body": b"x" * 15, "more_body": True}
    for received in ([], [chunk], [chunk] * 9, [{"type": "http.disconnect"}]):
        sent = await exchange(app, scope, *received)
        assert [message["type"] for message in sent] == [
            "http.response.start",
            "http.response.body",
            "http.response.body",
        ]
        assert sent[0]["status"] == 400
        assert json.loads(sent[1]["body"]) == {"error": TOO_LARGE}
        assert sent[1]["more_body"] is True
    waiting = {**scope, "headers": [*scope["headers"], (b"expect", b"100-continue")]}
    assert len(await exchange(app, waiting)) == 3  # it is not asked for the rest
