"""The server that is measured: `python -m bench.server DIRECTORY`.

It is the emulated agent with its usual listeners, on uvloop, and a second `Listener` in the same process on
`echo.sock`, whose routes read a body and answer:

* `/echo/N`: N bytes;
* `/floor/NAME/N`: N bytes, after running the bare cryptography of that name once;
* `/crypto/NAME/COUNT`: the processor time of one such run in nanoseconds, over COUNT of them;
* `/cpu`: the processor time that this process has used, in nanoseconds.
"""

import asyncio
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography import x509
from starlette.types import ASGIApp, Receive, Scope, Send

from bench.calls import RATLS, TLS
from bench.crypto import Work, bare_crypto
from teehouse.base.clock import SystemClock
from teehouse.base.listener import Listener
from teehouse.guest.service import GuestService
from teehouse.guest.sockets import UnixAddress, listen
from teehouse.stack.agent_emulated import EMULATED_HEADER, IDENT, serve_emulated
from teehouse.stack.compose import load_compose
from teehouse.stack.installation import open_installation
from teehouse.stack.serving import run_until_stopped
from teehouse.wire import guest_pb2 as wire

READY = "ready"


def echo_app(crypto: Mapping[str, Work]) -> ASGIApp:
    contents: dict[int, bytes] = {}

    def content(path: str) -> bytes:
        _, route, *rest = path.split("/")
        if route == "cpu":
            return str(time.process_time_ns()).encode()
        if route == "crypto":
            return str(_timed(crypto[rest[0]], int(rest[1]))).encode()
        if route == "floor":
            crypto[rest[0]]()
        size = int(rest[-1])
        return contents.setdefault(size, b"x" * size)

    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        more = True
        while more:
            message = await receive()
            more = message.get("more_body", False)
        body = content(scope["path"])
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return echo


def _timed(work: Work, count: int) -> int:
    begin = time.process_time_ns()
    for _ in range(count):
        work()
    return (time.process_time_ns() - begin) // count


async def _leaf(service: GuestService, asked: Mapping[str, Any]) -> x509.Certificate:
    answer: Any = await service.get_tls_key(wire.GetTlsKeyArgs(**asked))
    return x509.load_pem_x509_certificate(answer.certificate_chain[0].encode())


def main(directory: Path) -> None:
    installation = open_installation(directory, SystemClock(), seed=None)

    async def serve(stop: asyncio.Event) -> None:
        async with serve_emulated(installation, load_compose(None), None) as served:
            service = served.cvm.service
            crypto = bare_crypto(await _leaf(service, TLS), await _leaf(service, RATLS))
            listening = listen(UnixAddress(directory / "echo.sock"))
            floor = Listener(echo_app(crypto), listening.sockets, ident=IDENT, headers=(EMULATED_HEADER,))
            await floor.start()
            try:
                print(READY, flush=True)
                await stop.wait()
            finally:
                await floor.stop()
                listening.close()

    run_until_stopped(serve)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
