"""The listener over TLS; the number is the rule of `base.connection`."""

import asyncio
import json
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop
from starlette.types import Receive, Scope, Send

from support.kms_support import NOW, client_cert, key, root_keys
from teehouse.base.listener import Listener
from teehouse.kms.rootkeys import rpc_certificate
from teehouse.kms.tls import client_context, server_context

KEYS = root_keys()
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Tells what the scope says of TLS."""
    if scope["path"] == "/slow":
        await asyncio.sleep(0.2)
    tls = scope.get("extensions", {}).get("tls")
    if tls is not None:
        der = tls["client_cert_der"]
        tls = {**tls, "client_cert_der": None if der is None else der.hex()}
    body = json.dumps({"scheme": scope["scheme"], "tls": tls}).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


Client = Callable[..., Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
Run = Callable[..., None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    def run_it(scenario: Callable[[Client, Listener], Awaitable[None]], *, tls: bool = True) -> None:
        async def body() -> None:
            sock = socket.socket()
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
            context = server_context(KEYS, rpc_certificate(KEYS, None, NOW)) if tls else None
            listener = Listener(app, [sock], ident="t", ssl_context=context, request_timeout=0.5)
            await listener.start()

            async def connect(
                context: ssl.SSLContext | None = None,
            ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
                return await asyncio.open_connection("127.0.0.1", port, ssl=context)

            try:
                async with asyncio.timeout(10):
                    await scenario(connect, listener)
            finally:
                await listener.stop(0.1)

        factory = uvloop.new_event_loop if request.param == "uvloop" else None
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(body())

    return run_it


async def told(reader: asyncio.StreamReader) -> dict[str, object]:
    head = await reader.readuntil(b"\r\n\r\n")
    size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    answer: dict[str, object] = json.loads(await reader.readexactly(size))
    return answer


def test_8_the_scope_has_the_client_certificate_of_every_request(run: Run) -> None:
    certificate = client_cert(KEYS, None)

    async def scenario(connect: Client, _listener: Listener) -> None:
        reader, writer = await connect(client_context(key(), certificate))
        for _ in range(2):
            writer.write(GET)
            assert await told(reader) == {
                "scheme": "https",
                "tls": {
                    "client_cert_der": certificate.hex(),
                    "tls_version": "TLSv1.3",
                    "cipher": writer.get_extra_info("cipher")[0],
                },
            }
        writer.close()
        await writer.wait_closed()

    run(scenario)


def test_8_without_a_client_certificate_there_is_none(run: Run) -> None:
    async def scenario(connect: Client, _listener: Listener) -> None:
        reader, writer = await connect(client_context())
        writer.write(GET)
        answer = await told(reader)
        assert isinstance(answer["tls"], dict)
        assert answer["tls"]["client_cert_der"] is None
        writer.close()
        await writer.wait_closed()

    run(scenario)


def test_8_a_plain_connection_has_no_tls_in_its_scope(run: Run) -> None:
    async def scenario(connect: Client, _listener: Listener) -> None:
        reader, writer = await connect()
        writer.write(GET)
        assert await told(reader) == {"scheme": "http", "tls": None}
        writer.close()
        await writer.wait_closed()

    run(scenario, tls=False)


def test_a_handshake_that_does_not_end_is_cut(run: Run) -> None:
    async def scenario(connect: Client, listener: Listener) -> None:
        reader, writer = await connect()
        assert await reader.read() == b""
        assert listener.open_connections == 0
        writer.close()

    run(scenario)


def test_bad_requests_and_slow_ones_are_answered_and_closed(run: Run) -> None:
    async def scenario(connect: Client, _listener: Listener) -> None:
        for sent, status in ((b"nonsense\r\n\r\n", b"400"), (GET[:8], b"408")):
            reader, writer = await connect(client_context())
            writer.write(sent)
            assert (await reader.read()).startswith(b"HTTP/1.1 " + status)
            writer.close()
            await writer.wait_closed()

    run(scenario)


def test_8_a_client_that_closes_while_it_is_answered_leaves_nothing(run: Run) -> None:
    async def scenario(connect: Client, listener: Listener) -> None:
        _, writer = await connect(client_context())
        writer.write(GET.replace(b"GET /", b"GET /slow"))
        await asyncio.sleep(0.1)
        assert listener.open_connections == 1
        writer.close()
        await writer.wait_closed()
        await asyncio.sleep(0.5)
        assert listener.open_connections == 0

    run(scenario)


def test_private_keys_leave_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    server_context(KEYS, rpc_certificate(KEYS, None, NOW))
    assert list(tmp_path.iterdir()) == []
