"""The guest client against a small server that reads requests by the schema (guest-agent.md 1.4, 4)."""

import asyncio
import gc
import inspect
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from teehouse.base.findings import CollateralError, Finding, MisuseError, TeehouseError
from teehouse.base.listener import Listener
from teehouse.client import AsyncGuestClient, GuestClient, guest_calls
from teehouse.client.guest_calls import (
    AgentVersion,
    Answer,
    AppKey,
    Call,
    Endpoint,
    GuestInfo,
    GuestQuote,
    Signed,
    TlsKey,
    find_endpoint,
)
from teehouse.wire import guest_pb2
from teehouse.wire.jsonmap import decode_json, encode_error_json, encode_json
from teehouse.wire.methods import Unknown, resolve

ANSWERS: dict[str, Message] = {
    "GetTlsKey": guest_pb2.GetTlsKeyResponse(key="k", certificate_chain=["leaf", "ca"]),
    "GetKey": guest_pb2.GetKeyResponse(key=b"\x01" * 32, signature_chain=[b"\x02" * 65, b""]),
    "GetQuote": guest_pb2.GetQuoteResponse(quote=b"q", event_log="[]", report_data=b"r" * 64, vm_config="{}"),
    "Info": guest_pb2.AppInfo(
        app_id=b"a", instance_id=b"i", app_cert="c", tcb_info="t", app_name="é", device_id=b"d",
        mr_aggregated=b"m", os_image_hash=b"o", key_provider_info="p", compose_hash=b"h", vm_config="v",
        cloud_vendor="cv", cloud_product="cp",
    ),
    "EmitEvent": Empty(),
    "Sign": guest_pb2.SignResponse(signature=b"s", signature_chain=[b"s", b"0", b"1"], public_key=b"p"),
    "Verify": guest_pb2.VerifyResponse(valid=True),
    "Attest": guest_pb2.AttestResponse(attestation=b"\x00a"),
    "Version": guest_pb2.WorkerVersion(version="0.5.11", rev="r"),
}  # fmt: skip


class Agent:
    """Serves `ANSWERS` on a Unix and a TCP socket from a loop of its own thread, and keeps the requests."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "dstack.sock")
        unix, tcp = socket.socket(socket.AF_UNIX), socket.socket()
        unix.bind(self.path)
        tcp.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{tcp.getsockname()[1]}"
        self.requests: list[tuple[str, Message]] = []
        self.failure: tuple[int, bytes] | None = None
        self._listener = Listener(self._app, [unix, tcp], ident="agent")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._run(self._listener.start())

    def _run(self, step: Any) -> None:
        asyncio.run_coroutine_threadsafe(step, self._loop).result(5)

    def stop(self) -> None:
        self._run(self._listener.stop(1))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        method = resolve("internal", scope["path"])
        if isinstance(method, Unknown):
            status, body = 404, encode_error_json(method.text)
        elif self.failure:
            status, body = self.failure
        else:
            assert (request.method, request.headers["content-type"]) == ("POST", "application/json")
            self.requests.append((method.name, decode_json(method.request, await request.body())))
            status, body = 200, encode_json(ANSWERS[method.name])
        await Response(body, status, media_type="application/json")(scope, receive, send)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    agent = Agent(tmp_path_factory.mktemp("agent"))
    yield agent
    agent.stop()


@pytest.fixture
def agent(running: Agent, monkeypatch: pytest.MonkeyPatch) -> Agent:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nothing on a socket may take notice
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    running.requests.clear()
    running.failure = None
    return running


CASES: list[tuple[Callable[[Any], Any], str, Message, Any]] = [
    (
        lambda c: c.get_tls_key(),
        "GetTlsKey",
        guest_pb2.GetTlsKeyArgs(usage_server_auth=True),
        TlsKey("k", ("leaf", "ca")),
    ),
    (
        lambda c: c.get_tls_key(
            subject="é", alt_names=("a", "b"), usage_ra_tls=True, usage_server_auth=False, usage_client_auth=True,
            not_before=0, not_after=7, with_app_info=True,
        ),
        "GetTlsKey",
        guest_pb2.GetTlsKeyArgs(
            subject="é", alt_names=["a", "b"], usage_ra_tls=True, usage_client_auth=True,
            not_before=0, not_after=7, with_app_info=True,
        ),
        TlsKey("k", ("leaf", "ca")),
    ),
    (
        lambda c: c.get_key("p", "u", "ed25519"),
        "GetKey",
        guest_pb2.GetKeyArgs(path="p", purpose="u", algorithm="ed25519"),
        AppKey(b"\x01" * 32, (b"\x02" * 65, b"")),
    ),
    (
        lambda c: c.get_quote(b"\x00\xff"),
        "GetQuote",
        guest_pb2.RawQuoteArgs(report_data=b"\x00\xff"),
        GuestQuote(b"q", "[]", b"r" * 64, "{}"),
    ),
    (
        lambda c: c.info(),
        "Info",
        Empty(),
        GuestInfo(b"a", b"i", "c", "t", "é", b"d", b"m", b"o", "p", b"h", "v", "cv", "cp"),
    ),
    (lambda c: c.emit_event("e", b"x"), "EmitEvent", guest_pb2.EmitEventArgs(event="e", payload=b"x"), None),
    (
        lambda c: c.sign("secp256k1", b"d"),
        "Sign",
        guest_pb2.SignRequest(algorithm="secp256k1", data=b"d"),
        Signed(b"s", (b"s", b"0", b"1"), b"p"),
    ),
    (
        lambda c: c.verify("ed25519", b"d", b"s", b"p"),
        "Verify",
        guest_pb2.VerifyRequest(algorithm="ed25519", data=b"d", signature=b"s", public_key=b"p"),
        True,
    ),
    (lambda c: c.attest(b"r"), "Attest", guest_pb2.RawQuoteArgs(report_data=b"r"), b"\x00a"),
    (lambda c: c.version(), "Version", Empty(), AgentVersion("0.5.11", "r")),
]  # fmt: skip


@pytest.mark.parametrize("over", ["path", "url"])
def test_every_method_says_what_it_was_told(agent: Agent, over: str) -> None:
    with GuestClient(getattr(agent, over)) as client:
        assert [call(client) for call, *_ in CASES] == [expected for *_, expected in CASES]
    assert agent.requests == [(method, request) for _, method, request, _ in CASES]


@pytest.mark.parametrize("over", ["path", "url"])
async def test_the_async_client_says_the_same(agent: Agent, over: str) -> None:
    async with AsyncGuestClient(getattr(agent, over)) as client:
        assert [await call(client) for call, *_ in CASES] == [expected for *_, expected in CASES]
    assert agent.requests == [(method, request) for _, method, request, _ in CASES]


def test_both_clients_have_the_same_methods() -> None:
    def signatures(client: type) -> dict[str, inspect.Signature]:
        return {
            name: inspect.signature(member)
            for name, member in inspect.getmembers(client, inspect.isfunction)
            if not name.startswith("_")
        }

    assert signatures(GuestClient) == signatures(AsyncGuestClient)


def refused(agent: Agent, status: int, body: bytes) -> TeehouseError:
    agent.failure = (status, body)
    with GuestClient(agent.path) as client, pytest.raises(TeehouseError) as caught:
        client.get_key("p")
    return caught.value


def test_a_refusal_is_misuse_with_the_agents_text(agent: Agent) -> None:
    error = refused(agent, 400, encode_error_json("Unsupported algorithm"))
    assert isinstance(error, MisuseError)
    assert str(error) == (
        "the guest agent refused GetKey: found Unsupported algorithm (correct the arguments)"
    )


def test_a_method_that_is_not_there_says_so(agent: Agent) -> None:
    agent.failure = (404, encode_error_json("Service not found: Attest"))
    with GuestClient(agent.path) as client, pytest.raises(MisuseError) as caught:
        client.attest(b"")
    assert caught.value.finding.code == "guest.no-method"
    assert caught.value.finding.remedy.startswith("the agent does not offer this method here")


def test_a_failure_of_the_agent_is_no_misuse(agent: Agent) -> None:
    error = refused(agent, 500, encode_error_json("no quote device"))
    assert isinstance(error, CollateralError)
    assert (error.finding.found, error.finding.code) == ("no quote device", "guest.failed")
    assert refused(agent, 502, b"<html>").finding.found == "HTTP status 502"
    assert refused(agent, 404, b'{"error":{"code":404}}').finding.found == "HTTP status 404"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", "JSON"),
        (b"<html>", "JSON"),
        (b"[" * 100_000, "JSON"),
        (b"[]", "a text key"),
        (b'{"key":5,"signature_chain":[]}', "a text key"),
        (b'{"key":"5e","signature_chain":["0"]}', "hex in signature_chain"),
        (b'{"key":"5e","signature_chain":"5e"}', "a list of texts signature_chain"),
        (b'{"key":"5e","signature_chain":[5]}', "a list of texts signature_chain"),
    ],
)
def test_an_answer_that_cannot_be_read_is_not_guessed_at(agent: Agent, body: bytes, expected: str) -> None:
    error = refused(agent, 200, body)
    assert isinstance(error, CollateralError)
    assert (error.finding.code, error.finding.expected) == ("guest.answer", expected)
    assert "5e" not in str(error)  # it may be a key


def test_a_boolean_is_not_taken_from_text() -> None:
    with pytest.raises(CollateralError):
        guest_calls.verify("ed25519", b"", b"", b"").read(200, b'{"valid":"true"}')


def test_an_endless_answer_is_refused() -> None:
    with pytest.raises(CollateralError) as caught:
        guest_calls.info().read(200, b" " * (guest_calls.ANSWER_LIMIT + 1))
    assert caught.value.finding.expected == f"at most {guest_calls.ANSWER_LIMIT} bytes"


def unanswered(path: str) -> Finding:
    with GuestClient(path) as client, pytest.raises(CollateralError) as caught:
        client.version()
    return caught.value.finding


async def test_nobody_there_is_said_with_what_to_do(tmp_path: Path) -> None:
    path = str(tmp_path / "nobody.sock")
    with warnings.catch_warnings():
        # The HTTP library leaves the socket of a failed connect to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        finding = unanswered(path)
        gc.collect()
    assert finding.code == "guest.unreachable"
    assert path in finding.subject
    assert "DSTACK_SIMULATOR_ENDPOINT" in finding.remedy
    async with AsyncGuestClient(path) as other:
        with pytest.raises(CollateralError):
            await other.version()


def test_a_silent_agent_is_given_up(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "s"))
        silent.listen()
        with (
            GuestClient(str(tmp_path / "s"), timeout=0.05) as client,
            pytest.raises(CollateralError) as caught,
        ):
            client.version()
    assert caught.value.finding.code == "guest.unreachable"


@pytest.mark.parametrize(
    ("given", "environ", "existing", "expected"),
    [
        (None, {}, (), Endpoint("http://localhost", "/var/run/dstack.sock")),
        (None, {}, ("/run/dstack/dstack.sock",), Endpoint("http://localhost", "/run/dstack/dstack.sock")),
        (None, {}, guest_calls.SOCKET_PATHS, Endpoint("http://localhost", "/var/run/dstack.sock")),
        (None, {"DSTACK_SIMULATOR_ENDPOINT": "http://h:1/"}, guest_calls.SOCKET_PATHS, Endpoint("http://h:1", None)),
        (None, {"DSTACK_SIMULATOR_ENDPOINT": ""}, (), Endpoint("http://localhost", "/var/run/dstack.sock")),
        ("./s", {"DSTACK_SIMULATOR_ENDPOINT": "http://h:1"}, (), Endpoint("http://localhost", "./s")),
        ("https://h", {}, (), Endpoint("https://h", None)),
    ],
)  # fmt: skip
def test_1_the_endpoint(
    given: str | None, environ: dict[str, str], existing: tuple[str, ...], expected: Endpoint
) -> None:
    found = find_endpoint(given, environ, lambda path: path in existing)
    assert found == expected
    assert str(found) == (expected.socket_path or expected.base_url)


@pytest.mark.parametrize(
    "url", ["http://", "http:///x", "http://[h", "http://h:0", "http://h:x", "http://h\n", "http://é"]
)
def test_1_what_is_no_url_is_misuse(url: str) -> None:
    with pytest.raises(MisuseError):
        GuestClient(url)


def test_the_environment_is_looked_at(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSTACK_SIMULATOR_ENDPOINT", agent.path)
    with GuestClient() as client:
        assert client.version() == AgentVersion("0.5.11", "r")


def test_keys_are_not_in_the_repr() -> None:
    assert "5e" not in repr(AppKey(b"\x5e", ())) + repr(TlsKey("5e", ()))


@given(st.integers(100, 599), st.binary(max_size=60))
def test_any_answer_is_read_or_refused(status: int, body: bytes) -> None:
    call: Call[bytes] = Call("M", b"", lambda answer: Answer.octets(answer, "x"))
    with pytest.raises(TeehouseError):
        call.read(status, body)


def test_naming_the_client_loads_neither_http_nor_protobuf() -> None:
    program = (
        "import sys, teehouse.client; print([m for m in ('httpx', 'google.protobuf') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
