"""A node over RPC: any `Node`, served to the controllers of its installation (docs/operations/node-rpc.md).

Rules:

1. Nobody is answered without a controller's certificate of the installation's CA. TLS asks for it; each request is
   judged again by the clock given, so that no connection outlives its certificate, and by the pins.
2. RPCs are POST on `/prpc/M` and `/prpc/Node.M`, in JSON or protobuf; bodies are bounded by `LIMITS`.
3. A refusal's body is a whole `Refusal`; its status is that of the outcome.
4. `X-Correlation-Id` of a request goes with the call, and comes back with the answer, refusals included.
5. `GET /events?after=N` is the node's stream of events (see `node.stream`).
6. The log names the caller and the method of each call, and nothing of its content.
"""

import logging
import socket
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from starlette.types import Message as AsgiMessage
from starlette.types import Receive, Scope, Send

from teehouse.base.clock import Clock
from teehouse.base.findings import (
    OUTCOME_TABLE,
    EvidenceError,
    Finding,
    Outcome,
    TeehouseError,
    misuse,
)
from teehouse.base.listener import Listener
from teehouse.keys.envbox import BOX_LIMIT
from teehouse.node.api import (
    STOP_DEADLINE,
    USER_CONFIG_LIMIT,
    CvmState,
    Node,
    check_correlation_id,
)
from teehouse.node.identity import Identity, Role, judge_certificate, load_identity, name_in, server_context
from teehouse.node.members import span_seconds
from teehouse.node.messages import info_message, read_spec, state_message, stats_message
from teehouse.node.refusals import encode_refusal
from teehouse.node.stream import HEARTBEAT, EventStreams
from teehouse.rpc.app import Handler, RpcApp
from teehouse.wire import node_pb2
from teehouse.wire.app_compose import COMPOSE_LIMIT
from teehouse.wire.node_methods import NODE_METHODS, resolve_node

CORRELATION_HEADER: Final = "x-correlation-id"
EVENTS_PATH: Final = "/events"
SMALL_BODY: Final = 4096  # bytes
# A spec: in JSON its bytes are hex, so twice as many. `jsonmap.BODY_LIMIT` holds beside.
SPEC_BODY: Final = 2 * (COMPOSE_LIMIT + BOX_LIMIT) + USER_CONFIG_LIMIT + 64 * 1024
LIMITS: Final[Mapping[str, int]] = {
    name: SPEC_BODY if name in {"Create", "Update"} else SMALL_BODY for name in NODE_METHODS
}

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: a controller's name, and the correlation id that it gave, or the empty one."""

    name: str
    correlation_id: str


def status_of(error: TeehouseError) -> int:
    """Rule 3."""
    return OUTCOME_TABLE[error.finding.outcome].http_status


class NodeServer:
    """The ASGI application of a node. `pins` are SHA-256 of controllers' SPKIs; none means any of the CA."""

    def __init__(
        self, node: Node, clock: Clock, *, pins: Collection[bytes] = (), heartbeat: float = HEARTBEAT
    ) -> None:
        self._clock = clock
        self._pins = frozenset(pins)
        self._streams = EventStreams(node, heartbeat)
        self._rpc = RpcApp(
            resolve_node,
            {"Node": {name: self._logged(name, handler) for name, handler in _handlers(node).items()}},
            limits=LIMITS,
            caller=_caller,
            status=status_of,
            refusal=encode_refusal,
        )

    def end_streams(self) -> None:
        """End the streams that run, and give no more (rule 5)."""
        self._streams.end()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._rpc(scope, receive, send)
            return
        events = scope["path"] == EVENTS_PATH
        answer = send
        try:
            name = self._admitted(scope)
            correlation_id = check_correlation_id(_header(scope, CORRELATION_HEADER))
            if correlation_id:
                answer = _with_header(send, CORRELATION_HEADER, correlation_id)
            verb = "GET" if events else "POST"
            if scope["method"] != verb:
                raise misuse("node.method", "HTTP method", expected=verb, found=ascii(scope["method"][:20]))
            stream = (
                self._streams.open(scope["query_string"], lambda: self._judge(scope).ok) if events else None
            )
        except TeehouseError as error:
            json = events or _header(scope, "content-type").startswith("application/json")
            await _refuse(answer, error, json=json)
            return
        scope["teehouse.caller"] = Caller(name, correlation_id)
        if stream is None:
            await self._rpc(scope, receive, answer)
        else:
            await stream(receive, answer)

    def _judge(self, scope: Scope) -> Finding:
        """Rule 1."""
        certificate: bytes | None = scope.get("extensions", {}).get("tls", {}).get("client_cert_der")
        if certificate is not None:
            return judge_certificate(certificate, Role.CONTROLLER, self._clock.now(), self._pins)
        wanted = "a controller's certificate"
        return Finding("node.certificate-missing", "the caller", Outcome.REJECTED, wanted, "none")

    def _admitted(self, scope: Scope) -> str:
        """The caller's name. Raises `EvidenceError`."""
        finding = self._judge(scope)
        if finding.ok:
            return name_in(scope["extensions"]["tls"]["client_cert_der"], Role.CONTROLLER) or ""
        _logger.warning("a caller is refused: %s", finding.sentence())
        raise EvidenceError(finding)

    def _logged(self, method: str, handler: Callable[[Any, Caller], Awaitable[Message]]) -> Handler:
        async def logged(request: Message, caller: Caller) -> Message:
            """Rule 6."""
            try:
                answer = await handler(request, caller)
            except TeehouseError as error:
                _log(method, caller, error.finding.code)
                raise
            _log(method, caller, "done")
            return answer

        return logged


def _handlers(node: Node) -> dict[str, Callable[[Any, Caller], Awaitable[Message]]]:
    """The RPCs by name; each takes its request and the caller."""

    async def info(_: Empty, __: Caller) -> Message:
        return info_message(await node.info())

    async def create(request: node_pb2.CvmSpec, caller: Caller) -> Message:
        return state_message(await node.create(read_spec(request), correlation_id=caller.correlation_id))

    async def update(request: node_pb2.CvmSpec, caller: Caller) -> Message:
        return state_message(await node.update(read_spec(request), correlation_id=caller.correlation_id))

    async def list_(_: Empty, __: Caller) -> Message:
        return node_pb2.CvmList(cvms=map(state_message, await node.list()))

    async def state(request: node_pb2.CvmRequest, _: Caller) -> Message:
        return state_message(await node.state(request.cvm_id))

    async def stats(request: node_pb2.CvmRequest, _: Caller) -> Message:
        return stats_message(await node.stats(request.cvm_id))

    return {
        "Info": info,
        "Create": create,
        "Update": update,
        "Start": _wish(node.start),
        "Stop": _ending(node.stop, 0.0),
        "Shutdown": _ending(node.shutdown, STOP_DEADLINE),
        "Restart": _ending(node.restart, STOP_DEADLINE),
        "Remove": _wish(node.remove),
        "State": state,
        "List": list_,
        "Stats": stats,
    }


def _wish(call: Callable[..., Awaitable[CvmState]]) -> Callable[[Any, Caller], Awaitable[Message]]:
    async def wish(request: node_pb2.CvmRequest, caller: Caller) -> Message:
        return state_message(await call(request.cvm_id, correlation_id=caller.correlation_id))

    return wish


def _ending(
    call: Callable[..., Awaitable[CvmState]], default: float
) -> Callable[[Any, Caller], Awaitable[Message]]:
    async def ending(request: node_pb2.EndRequest, caller: Caller) -> Message:
        deadline = span_seconds(request.deadline_us) if request.HasField("deadline_us") else default
        state = await call(request.cvm_id, deadline=deadline, correlation_id=caller.correlation_id)
        return state_message(state)

    return ending


def _caller(scope: Scope) -> Caller:
    caller: Caller = scope["teehouse.caller"]
    return caller


def _log(method: str, caller: Caller, end: str) -> None:
    _logger.info("%s by %s [%s]: %s", method, caller.name, caller.correlation_id, end)


def _header(scope: Scope, name: str) -> str:
    wanted = name.encode()
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == wanted), "")


async def _refuse(send: Send, error: TeehouseError, *, json: bool) -> None:
    """A refusal before the RPC's own application has the request; whoever sends a body hears it and is cut."""
    content = encode_refusal(error, json)
    media = "application/json" if json else "application/octet-stream"
    headers = {"content-type": media, "content-length": str(len(content)), "connection": "close"}
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status_of(error), "headers": pairs})
    await send({"type": "http.response.body", "body": content, "more_body": False})


def _with_header(send: Send, name: str, value: str) -> Send:
    async def sending(message: AsgiMessage) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", ()), (name.encode(), value.encode())]
            message = {**message, "headers": headers}
        await send(message)

    return sending


class NodeListener:
    """A `NodeServer` on bound TCP sockets, with the TLS of `identity`."""

    def __init__(
        self, server: NodeServer, sockets: Sequence[socket.socket], identity: Identity, *, ident: str
    ) -> None:
        if identity.role is not Role.NODE:
            raise misuse(
                "node.role", "role of the bundle", expected=Role.NODE.value, found=identity.role.value
            )
        self._server = server
        self._context = server_context(identity)
        self._listener = Listener(server, sockets, ident=ident, ssl_context=self._context)

    async def start(self) -> None:
        """Begin to accept. Raises `MisuseError` when started before, OSError from the sockets."""
        await self._listener.start()

    def rotate(self, identity: Identity) -> None:
        """Show this certificate, and trust its CAs as well, from the next connection on."""
        load_identity(self._context, identity)

    async def stop(self, deadline: float = 5.0) -> None:
        """End the streams, let calls that run finish for `deadline` seconds, then cut what is left."""
        self._server.end_streams()
        await self._listener.stop(deadline)
