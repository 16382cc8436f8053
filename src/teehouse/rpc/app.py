"""RPC over HTTP: one ASGI application for each listener (guest-agent.md 1.3, 2).

Rules:

R1. A path is an RPC of the listener, or one of its pages, or unknown: 404 `Service not found: …`.
R2. POST carries the request in the body, GET and HEAD in the query; any other verb on a known path is 405.
R3. The exchange is JSON when the verb is GET or HEAD, when the media type is exactly `application/json`, or
    when the query has `json`, `json=1` or `json=true`; otherwise protobuf. Answers, refusals included, are
    in the encoding of their request.
R4. A body that was to be protobuf, is none, and begins with `{` is taken for JSON.
R5. A body is read up to its method's limit and not kept beyond it; one byte more is 400.
R6. What the caller got wrong is 400, everything else 500, unless the service says otherwise; the body is
    always an object with the text in `error`. What was not foreseen is 500 `internal error`, and the log has its place, never its values.
R7. Every answer of an RPC, and every refusal, has a Content-Length. A page may send its answer piece by piece.
R8. `observe` is told once of each request, when its answer is complete or the exchange has broken off: which
    method (`Service.Name`), page (its route's pattern) or `unknown`, and the status, 0 when none was sent.
    Both are of finite number, whatever clients ask for.
"""

import asyncio
import contextlib
import logging
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

from google.protobuf.message import Message
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from teehouse.base.findings import MisuseError, TeehouseError
from teehouse.wire import jsonmap
from teehouse.wire.methods import Method, Unknown

_logger = logging.getLogger(__name__)

_JSON = b"application/json"
_PROTOBUF = b"application/octet-stream"
_DRAIN_LIMIT = 64 * 1024 * 1024  # bytes of a refused body that are read to let the sender finish
_DRAIN_PATIENCE = 5.0  # seconds for the same


class Prepared:
    """A response that is served many times and encoded once in each encoding."""

    def __init__(self, message: Message) -> None:
        self.message = message

    @cached_property
    def json(self) -> bytes:
        return jsonmap.encode_json(self.message)

    @cached_property
    def protobuf(self) -> bytes:
        return jsonmap.encode_protobuf(self.message)


Resolve = Callable[[str], Method | Unknown]
StatusOf = Callable[[TeehouseError], int]
# The body of a refusal, by whether it is to be JSON (otherwise protobuf).
RefusalOf = Callable[[TeehouseError, bool], bytes]
Observe = Callable[[str, int], None]
# A handler takes the request; where the application is told how to find the caller in the scope, the caller too.
Handler = Callable[..., Awaitable[Message | Prepared]]
# Service name -> method name -> handler; what has no handler is no method of the listener.
Handlers = Mapping[str, Mapping[str, Handler]]


def status_of(error: TeehouseError) -> int:
    """The status of a refusal by rule R6."""
    return HTTPStatus.BAD_REQUEST if isinstance(error, MisuseError) else HTTPStatus.INTERNAL_SERVER_ERROR


def refusal_of(error: TeehouseError, json: bool) -> bytes:
    """The body of a refusal by rule R6."""
    return (jsonmap.encode_error_json if json else jsonmap.encode_error_protobuf)(str(error))


class RpcApp:
    """The ASGI application of one listener.

    `resolve` finds the method of a path. `caller` reads from the ASGI scope who calls, for handlers that take
    that as their second argument; `status` gives the HTTP status of a refusal, `refusal` its body where the
    text alone does not do. `limits` are bytes of body by method name, at most 10 MiB, which is also the
    default. `extra_routes` (pages) are asked for paths that name no RPC. `app_version` goes into every answer
    as `X-App-Version`. `observe` hears of every request (R8).
    """

    def __init__(
        self,
        resolve: Resolve,
        handlers: Handlers,
        *,
        limits: Mapping[str, int] | None = None,
        extra_routes: Sequence[BaseRoute] = (),
        app_version: str | None = None,
        caller: Callable[[Scope], Any] | None = None,
        status: StatusOf = status_of,
        refusal: RefusalOf = refusal_of,
        observe: Observe | None = None,
    ) -> None:
        self._observe = observe
        self._resolve_path = resolve
        self._caller = caller
        self._status = status
        self._refusal = refusal
        self._handlers = handlers
        self._limits = dict(limits or {})
        self._pages = tuple(extra_routes)
        self._version = [] if app_version is None else [(b"x-app-version", app_version.encode("latin-1"))]
        self._known: dict[str, _Target] = {}  # finite: the path forms of the methods

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await _other_protocol(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self._version)
        target = self._known.get(scope["path"]) or self._resolve(scope["path"])
        try:
            if isinstance(target, Unknown):
                await self._page(exchange, target)
            else:
                exchange.what = target.what
                await _call(exchange, target)
        finally:
            if self._observe is not None:
                self._observe(exchange.what, exchange.status)

    def _resolve(self, path: str) -> "_Target | Unknown":
        method = self._resolve_path(path)
        if isinstance(method, Unknown):
            return method
        handler = self._handlers.get(method.service, {}).get(method.name)
        if handler is None:
            return Unknown(f"Service not found: {method.name}")
        limit = min(self._limits.get(method.name, jsonmap.BODY_LIMIT), jsonmap.BODY_LIMIT)
        what = f"{method.service}.{method.name}"
        self._known[path] = _Target(method, what, handler, limit, self._caller, self._status, self._refusal)
        return self._known[path]

    async def _page(self, exchange: "_Exchange", unknown: Unknown) -> None:
        partial = False
        for route in self._pages:
            match, child_scope = route.matches(exchange.scope)
            if match is Match.FULL:
                exchange.what = getattr(route, "path", "page")
                await _serve_page(exchange, route, child_scope)
                return
            partial = partial or match is Match.PARTIAL
        if partial:
            await exchange.refuse(405, "Method not allowed", (b"allow", b"GET, HEAD"))
        else:
            await exchange.refuse(404, unknown.text)


@dataclass(frozen=True, slots=True)
class _Target:
    """An RPC of a listener: what a path form leads to. `what` is its full name, `limit` is in bytes of body."""

    method: Method
    what: str
    handler: Handler
    limit: int
    caller: Callable[[Scope], Any] | None
    status_of: StatusOf
    refusal_of: RefusalOf


class _Exchange:
    """One request and its answer; `what` it was about and the `status` of the answer, for R8."""

    __slots__ = ("_headers", "json", "receive", "scope", "send", "status", "verb", "what")

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, headers: Sequence[tuple[bytes, bytes]]
    ) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        self.verb = scope["method"]
        self.json = _wants_json(scope)
        self._headers = headers
        self.what = "unknown"
        self.status = 0

    async def answer(self, status: int, content: bytes, *headers: tuple[bytes, bytes]) -> None:
        await self._start(status, len(content), *headers)
        await self.send({"type": "http.response.body", "body": b"" if self.verb == "HEAD" else content})

    async def refuse(self, status: int, text: str, *headers: tuple[bytes, bytes]) -> None:
        await self.answer(status, self._error(text), *headers)

    async def refuse_body(self) -> None:
        """Answer at once, then let the sender finish, so that it gets to read the answer, and close."""
        content = self._error(jsonmap.TOO_LARGE)
        await self._start(400, len(content), (b"connection", b"close"))
        await self.send({"type": "http.response.body", "body": content, "more_body": True})
        if _header(self.scope, b"expect") is None:  # otherwise the sender waits to be asked for the body
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DRAIN_PATIENCE):
                    await _drain(self.receive)
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})

    async def send_page(self, message: Any) -> None:
        """Pass on what a page answers, with the headers of the listener."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": [*message.get("headers", ()), *self._headers]}
        await self.send(message)

    def _error(self, text: str) -> bytes:
        return (jsonmap.encode_error_json if self.json else jsonmap.encode_error_protobuf)(text)

    async def _start(self, status: int, length: int, *headers: tuple[bytes, bytes]) -> None:
        self.status = status
        media = _JSON if self.json else _PROTOBUF
        described = [(b"content-type", media), (b"content-length", str(length).encode())]
        start = {"type": "http.response.start", "status": status}
        await self.send({**start, "headers": [*described, *headers, *self._headers]})


async def _call(exchange: _Exchange, target: _Target) -> None:
    method = target.method
    if exchange.verb not in ("POST", "GET", "HEAD"):
        await exchange.refuse(405, "Method not allowed", (b"allow", b"GET, HEAD, POST"))
        return
    try:
        if exchange.verb == "POST":
            body = await _read_body(exchange.scope, exchange.receive, target.limit)
            if body is None:
                await exchange.refuse_body()
                return
            request = _decode_body(method, body, exchange)
        else:
            request = jsonmap.decode_query(method.request, exchange.scope["query_string"])
        if target.caller is None:
            answer = await target.handler(request)
        else:
            answer = await target.handler(request, target.caller(exchange.scope))
        if isinstance(answer, Prepared):
            content = answer.json if exchange.json else answer.protobuf
        else:
            content = (jsonmap.encode_json if exchange.json else jsonmap.encode_protobuf)(answer)
    except TeehouseError as error:
        status = target.status_of(error)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            _logger.warning("%s failed: %s", method.name, error.finding.code)
        await exchange.answer(status, target.refusal_of(error, exchange.json))
    except Exception as error:  # noqa: BLE001 (R6: whatever went wrong, the caller gets an answer)
        _log_unforeseen(method.name, error)
        await exchange.refuse(500, "internal error")
    else:
        await exchange.answer(200, content)


async def _serve_page(exchange: _Exchange, route: BaseRoute, child_scope: Scope) -> None:
    started = False

    async def send(message: Any) -> None:
        nonlocal started
        started = True
        await exchange.send_page(message)

    try:
        await route.handle({**exchange.scope, **child_scope}, exchange.receive, send)
    except Exception as error:
        if started:
            raise  # the answer is under way: only closing the connection can tell
        exchange.json = True
        await exchange.refuse(*_page_refusal(error))


def _header(scope: Scope, name: bytes) -> bytes | None:
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return None


def _wants_json(scope: Scope) -> bool:
    """Rule R3."""
    if scope["method"] in ("GET", "HEAD"):
        return True
    media = _header(scope, b"content-type")
    if media is not None and media.split(b";", 1)[0].strip().lower() == _JSON:
        return True
    query = scope["query_string"]
    if b"json" not in query:
        return False
    fields = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    return any(name == "json" and value in ("", "1", "true") for name, value in fields)


def _decode_body(method: Method, body: bytes, exchange: _Exchange) -> Message:
    if exchange.json:
        return jsonmap.decode_json(method.request, body)
    try:
        return jsonmap.decode_protobuf(method.request, body)
    except MisuseError:
        if not body.lstrip().startswith(b"{"):
            raise
    exchange.json = True  # R4
    return jsonmap.decode_json(method.request, body)


async def _read_body(scope: Scope, receive: Receive, limit: int) -> bytes | None:
    """The body, or None when it is longer than `limit` (R5)."""
    declared = _header(scope, b"content-length")
    if declared is not None and declared.isdigit() and int(declared) > limit:
        return None
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":  # the client went away; whatever is answered is lost
            break
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            return None
        chunks.append(chunk)
        if not message.get("more_body", False):
            break
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _drain(receive: Receive) -> None:
    size = 0
    while size < _DRAIN_LIMIT:
        message = await receive()
        if message["type"] != "http.request" or not message.get("more_body", False):
            return
        size += len(message.get("body", b""))


def _page_refusal(error: Exception) -> tuple[int, str]:
    if isinstance(error, HTTPException):
        return error.status_code, error.detail or HTTPStatus(error.status_code).phrase
    if isinstance(error, TeehouseError):
        return status_of(error), str(error)
    _log_unforeseen("a page", error)
    return 500, "internal error"


def _log_unforeseen(where: str, error: Exception) -> None:
    """Type and place of an error; its text may repeat what it was about, so that stays out."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    _logger.error("%s failed: %s\n%s", where, type(error).__name__, frames)


async def _other_protocol(scope: Scope, receive: Receive, send: Send) -> None:
    """Lifespan is accepted, since there is nothing to do; WebSocket is not spoken."""
    if scope["type"] == "lifespan":
        while True:
            event = (await receive())["type"]
            await send({"type": f"{event}.complete"})
            if event == "lifespan.shutdown":
                return
    await receive()
    await send({"type": "websocket.close", "code": 1000})
