"""A load balancer of the tests: each request goes to the next replica, and to another one when that is gone.

A request that changes something is sent anew only if it cannot have arrived; any other is.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from teehouse.base.listener import Listener
from teehouse.guest.sockets import TcpAddress, bind_tcp

READS = {"GET", "HEAD"}
NOT_PASSED_ON = {b"host", b"connection", b"transfer-encoding"}


class Balancer:
    """An ASGI application before `hosts`; `served` counts answers by host, `failed_over` those of a second choice."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.hosts: list[str] = []
        self.served: Counter[str] = Counter()
        self.failed_over = 0
        self._client = client
        self._next = 0
        self._resting: set[str] = set()
        self._changing: Counter[str] = Counter()

    async def rest(self, host: str) -> None:
        """Send no changes to a host any more, and wait for those under way; reads go on."""
        self._resting.add(host)
        while self._changing[host]:  # noqa: ASYNC110 - of any number of requests
            await asyncio.sleep(0.002)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        tried: list[str] = []
        while True:
            host = self._choose(scope["method"], tried)
            tried.append(host)
            if await self._ask(host, scope, body, send):
                self.served[host] += 1
                self.failed_over += len(tried) > 1
                return

    def _choose(self, method: str, tried: list[str]) -> str:
        fit = [one for one in self.hosts if method in READS or one not in self._resting]
        fresh = [one for one in fit if one not in tried] or fit
        self._next += 1
        return fresh[self._next % len(fresh)]

    async def _ask(self, host: str, scope: Any, body: bytes, send: Any) -> bool:
        method = scope["method"]
        query = f"?{scope['query_string'].decode()}" if scope["query_string"] else ""
        headers = [pair for pair in scope["headers"] if pair[0] not in NOT_PASSED_ON]
        request = self._client.build_request(
            method, f"{host}{scope['raw_path'].decode()}{query}", headers=headers, content=body
        )
        self._changing[host] += method not in READS
        began = False
        try:
            answer = await self._client.send(request, stream=True)
            stream = "event-stream" in answer.headers.get("content-type", "")
            pieces = [] if stream else [piece async for piece in answer.aiter_raw()]
            kept = [pair for pair in answer.headers.raw if pair[0].lower() not in NOT_PASSED_ON]
            began = True
            await send({"type": "http.response.start", "status": answer.status_code, "headers": kept})
            if stream:
                async for piece in answer.aiter_raw():
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"".join(pieces)})
            await answer.aclose()
        except httpx.TransportError as error:
            if began or not (method in READS or isinstance(error, httpx.ConnectError)):
                raise
            return False
        finally:
            self._changing[host] -= method not in READS
        return True


@asynccontextmanager
async def balanced() -> AsyncIterator[tuple[Balancer, str]]:
    """A balancer on a free port of the loopback, and its URL; its hosts are added later."""
    async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
        balancer = Balancer(client)
        listening = bind_tcp(TcpAddress("127.0.0.1", 0))
        listener = Listener(balancer, [listening], ident="balancer")
        await listener.start()
        try:
            yield balancer, f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            await listener.stop()
