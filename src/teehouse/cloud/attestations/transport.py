"""The way to agents over plain HTTP, as a transport of httpx: a connection for each request, and no pool.

An app's instances are asked all at once and seldom again, each at an address of its own: a pool of connections
would look through all of them for every request and find none.

Rules:

1. Only `http://` is spoken, HTTP/1.1, and the connection is closed after the answer. A request has no body.
2. What the agent sends is read as it is asked for, so that whoever bounds an answer bounds what is kept; a head
   has at most `HEAD_LIMIT` bytes.
3. Errors are those of httpx. An answer that ends early or cannot be parsed is a `RemoteProtocolError`.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import httptools
import httpx

HEAD_LIMIT: Final = 64 * 1024  # bytes
_PIECE: Final = 64 * 1024  # bytes read at once
_HTTP_PORT: Final = 80


class AgentTransport(httpx.AsyncBaseTransport):
    """Rules 1 to 3."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request, and read the answer's head."""
        if request.url.scheme != "http":
            raise httpx.UnsupportedProtocol("agents are asked over http://", request=request)
        limits: dict[str, float | None] = request.extensions.get("timeout", {})
        try:
            async with asyncio.timeout(limits.get("connect")):
                reader, writer = await asyncio.open_connection(
                    request.url.host, request.url.port or _HTTP_PORT
                )
        except TimeoutError as error:
            raise httpx.ConnectTimeout("no connection in time", request=request) from error
        except OSError as error:
            raise httpx.ConnectError(str(error), request=request) from error
        answer = _Answer(reader, writer, request, limits.get("read"))
        try:
            writer.write(_head(request))
            await answer.read_head()
        except BaseException:
            writer.close()
            raise
        return httpx.Response(answer.status, headers=answer.headers, stream=answer)


class _Answer(httpx.AsyncByteStream):
    """An answer on its connection; also the callbacks of the parser."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        request: httpx.Request,
        patience: float | None,
    ) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.status = 0
        self._reader = reader
        self._writer = writer
        self._request = request
        self._patience = patience
        self._parser = httptools.HttpResponseParser(self)
        self._pieces: list[bytes] = []
        self._begun = self._complete = False

    async def read_head(self) -> None:
        """Read until the head is complete (rule 2)."""
        taken = 0
        while not self._begun:
            taken += await self._feed()
            if taken > HEAD_LIMIT and not self._begun:
                raise httpx.RemoteProtocolError("the head is too long", request=self._request)
        self.status = self._parser.get_status_code()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            pieces, self._pieces = self._pieces, []
            for piece in pieces:
                yield piece
            if self._complete:
                return
            await self._feed()

    async def aclose(self) -> None:
        """Close the connection (rule 1)."""
        self._writer.close()

    async def _feed(self) -> int:
        """Read once, and parse; how many bytes."""
        try:
            async with asyncio.timeout(self._patience):
                data = await self._reader.read(_PIECE)
        except TimeoutError as error:
            raise httpx.ReadTimeout("no answer in time", request=self._request) from error
        except OSError as error:
            raise httpx.ReadError(str(error), request=self._request) from error
        if not data:
            if self._begun and not self._framed():
                self._complete = True  # its end is that of the connection
                return 0
            raise httpx.RemoteProtocolError("the answer ended early", request=self._request)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise httpx.RemoteProtocolError("the answer is no HTTP", request=self._request) from error
        return len(data)

    def _framed(self) -> bool:
        return any(name.lower() in {b"content-length", b"transfer-encoding"} for name, _ in self.headers)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._begun = True

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        self._complete = True


def _head(request: httpx.Request) -> bytes:
    lines = [b"%b %b HTTP/1.1" % (request.method.encode(), request.url.raw_path)]
    lines += [b"%b: %b" % header for header in request.headers.raw if header[0].lower() != b"connection"]
    return b"\r\n".join([*lines, b"Connection: close", b"", b""])
