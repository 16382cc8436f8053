"""A node elsewhere, as a `Node`: calls and events over mutual TLS (docs/operations/node-rpc.md).

Rules:

1. What the node refuses is raised as it raised it (`node.refusals`). A node that cannot be reached is a
   `CollateralError` with code `node.unreachable`; one that fails without a reason, `node.failed`.
2. A call has `timeout` seconds in all. Within them, a call that may be repeated is tried again when the connection
   fails, at most `ATTEMPTS` times, with growing pauses; `restart` is tried again only while it cannot have arrived.
3. A node that is not the one asked for, by CA, name, date or pin, is an `EvidenceError`, and not asked again. Neither
   does a controller call whose own certificate has expired.
4. Answers have at most `ANSWER_LIMIT` bytes, a line of events `LINE_LIMIT`; nothing compressed is read.
5. A stream of events that breaks is taken up after the last event that was given, without loss or doubling. A node
   that gives nothing for `patience` seconds, heartbeats included, is unreachable. Of the stream no more is held
   than one line and one read.
"""

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection
from contextlib import aclosing, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self, TypeVar

import httpx
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from teehouse.base.clock import Clock
from teehouse.base.findings import (
    CollateralError,
    EvidenceError,
    MisuseError,
    TeehouseError,
    malformed,
    misuse,
    rejected,
    unavailable,
)
from teehouse.guest.sockets import TcpAddress
from teehouse.kms.client.body import bounded_body
from teehouse.node.api import (
    STOP_DEADLINE,
    CvmSpec,
    CvmState,
    CvmStats,
    EventKind,
    NodeEvent,
    NodeInfo,
    check_correlation_id,
    check_deadline,
)
from teehouse.node.bundle import NodeBundle
from teehouse.node.identity import Identity, Role, client_context, host_name, judge_certificate
from teehouse.node.members import as_text, span_micros
from teehouse.node.messages import read_event, read_info, read_state, read_stats, spec_message
from teehouse.node.refusals import read_refusal
from teehouse.wire import jsonmap, node_pb2

M = TypeVar("M", bound=Message)
R = TypeVar("R")

ANSWER_LIMIT: Final = jsonmap.BODY_LIMIT  # bytes
LINE_LIMIT: Final = 128 * 1024  # bytes
ATTEMPTS: Final = 4
LONGEST_PAUSE: Final = 5.0  # seconds

_REMEDY = "start the node, or check its address and that its bundle and this one are of one installation"


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds to wait: for a call, for a byte of a stream, for a stream at all, before the first repetition."""

    timeout: float = 30.0
    silence: float = 30.0
    patience: float = 60.0
    first_pause: float = 0.1

    def pause(self, failures: int) -> float:
        """The pause after so many failures, of which there is at least one; each is twice the one before."""
        return min(self.first_pause * 2.0 ** min(failures - 1, 16), LONGEST_PAUSE)


class _Broken(Exception):  # noqa: N818 - a note between the parts of this module
    """The connection failed. `arrived` says whether the request may have reached the node."""

    def __init__(self, found: str, *, arrived: bool = True) -> None:
        super().__init__(found)
        self.arrived = arrived


class RemoteNode:
    """The node `name` at `address`, commanded as `identity`; an async context manager.

    `pins` are SHA-256 of the SPKIs that the node may have; none means any of the CA. Raises `MisuseError` for a
    name that no node has, or an identity that is no controller's.
    """

    def __init__(
        self,
        address: TcpAddress,
        name: str,
        identity: Identity,
        clock: Clock,
        *,
        pins: Collection[bytes] = (),
        patience: Patience | None = None,
    ) -> None:
        if identity.role is not Role.CONTROLLER:
            role = identity.role.value
            raise misuse("node.role", "role of the bundle", expected=Role.CONTROLLER.value, found=role)
        self.shown = f"node {name} at {address}"
        self._identity = identity
        self._clock = clock
        self._pins = frozenset(pins)
        self._patience = patience or Patience()
        self._extensions = {"sni_hostname": host_name(Role.NODE, name)}
        self._client = httpx.AsyncClient(
            base_url=f"https://{address}",
            verify=client_context(identity),
            timeout=self._patience.timeout,
            trust_env=False,
            headers={"accept-encoding": "identity"},
        )

    @classmethod
    def of_bundle(cls, bundle: NodeBundle, clock: Clock, *, patience: Patience | None = None) -> Self:
        """The node that a controller's bundle is for."""
        return cls(bundle.address, bundle.node, bundle.identity, clock, patience=patience)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End all connections."""
        await self._client.aclose()

    # The Protocol `Node`

    async def info(self) -> NodeInfo:
        return await self._call("Info", Empty(), node_pb2.NodeInfo, read_info)

    async def create(self, spec: CvmSpec, *, correlation_id: str = "") -> CvmState:
        return await self._state("Create", spec_message(spec), correlation_id)

    async def update(self, spec: CvmSpec, *, correlation_id: str = "") -> CvmState:
        return await self._state("Update", spec_message(spec), correlation_id)

    async def start(self, cvm_id: str, *, correlation_id: str = "") -> CvmState:
        return await self._state("Start", _cvm(cvm_id), correlation_id)

    async def stop(self, cvm_id: str, *, deadline: float = 0.0, correlation_id: str = "") -> CvmState:
        return await self._state("Stop", _end(cvm_id, deadline), correlation_id)

    async def shutdown(
        self, cvm_id: str, *, deadline: float = STOP_DEADLINE, correlation_id: str = ""
    ) -> CvmState:
        return await self._state("Shutdown", _end(cvm_id, deadline), correlation_id)

    async def restart(
        self, cvm_id: str, *, deadline: float = STOP_DEADLINE, correlation_id: str = ""
    ) -> CvmState:
        return await self._state("Restart", _end(cvm_id, deadline), correlation_id, repeatable=False)

    async def remove(self, cvm_id: str, *, correlation_id: str = "") -> CvmState:
        return await self._state("Remove", _cvm(cvm_id), correlation_id)

    async def state(self, cvm_id: str) -> CvmState:
        return await self._state("State", _cvm(cvm_id), "")

    async def list(self) -> tuple[CvmState, ...]:
        return await self._call("List", Empty(), node_pb2.CvmList, _read_list)

    async def stats(self, cvm_id: str) -> CvmStats:
        return await self._call("Stats", _cvm(cvm_id), node_pb2.CvmStats, read_stats)

    async def events(self, after: int = 0) -> AsyncIterator[NodeEvent]:
        """Rule 5. Raises `CollateralError` when the node stays away, `EvidenceError` for what is no stream."""
        loop = asyncio.get_running_loop()
        last, failures, lively = after, 0, loop.time()
        while True:
            try:
                async with aclosing(self._stream(last)) as stream:
                    async for event in stream:
                        # The node gives newer events alone; a proxy or a fault must not make one count twice.
                        known = (
                            event is not None and event.kind is not EventKind.GAP and event.sequence <= last
                        )
                        if known:
                            continue
                        failures = 0
                        if event is not None:
                            last = event.sequence
                            yield event
                        lively = (
                            loop.time()
                        )  # after the reader: what it takes does not count against the node
                broken = "the stream has ended"
            except (_Broken, CollateralError) as error:
                broken = str(error)
            failures += 1
            pause = self._patience.pause(failures)
            if loop.time() + pause - lively > self._patience.patience:
                raise self._unreachable("events", broken)
            await asyncio.sleep(pause)

    # Calls

    async def _state(
        self, method: str, request: Message, correlation_id: str, *, repeatable: bool = True
    ) -> CvmState:
        return await self._call(
            method, request, node_pb2.CvmState, read_state, correlation_id, repeatable=repeatable
        )

    async def _call(
        self,
        method: str,
        request: Message,
        response_type: type[M],
        read: Callable[[M], R],
        correlation_id: str = "",
        *,
        repeatable: bool = True,
    ) -> R:
        """Rules 1 and 2."""
        headers = {"content-type": "application/octet-stream"}
        if check_correlation_id(correlation_id):
            headers["x-correlation-id"] = correlation_id
        content = jsonmap.encode_protobuf(request)
        try:
            async with asyncio.timeout(self._patience.timeout):
                body = await self._repeated(method, content, headers, repeatable=repeatable)
        except TimeoutError:
            raise self._unreachable(method, f"nothing within {self._patience.timeout:g} seconds") from None
        try:
            return read(jsonmap.decode_protobuf(response_type, body))
        except MisuseError as error:
            raise self._no_answer(method, error.finding.sentence()) from error

    async def _repeated(
        self, method: str, content: bytes, headers: dict[str, str], *, repeatable: bool
    ) -> bytes:
        failures = 0
        while True:
            try:
                return await self._exchange(method, content, headers)
            except _Broken as broken:
                failures += 1
                if failures == ATTEMPTS or (broken.arrived and not repeatable):
                    raise self._unreachable(method, str(broken)) from broken
            await asyncio.sleep(self._patience.pause(failures))

    async def _exchange(self, method: str, content: bytes, headers: dict[str, str]) -> bytes:
        """The body of a good answer. Raises `_Broken`, and what the node refused."""
        self._judge_ourselves()
        request = self._client.build_request(
            "POST", f"/prpc/Node.{method}", content=content, headers=headers, extensions=self._extensions
        )
        try:
            async with aclosing(await self._client.send(request, stream=True)) as response:
                self._judge_server(response)
                body = await bounded_body(response, ANSWER_LIMIT)
        except (httpx.HTTPError, OSError) as error:  # an alert of TLS comes as it is
            raise self._failure(error) from error
        if body is None:
            raise self._no_answer(method, f"more than {ANSWER_LIMIT} bytes, or compressed ones")
        if response.status_code != httpx.codes.OK:
            raise self._refusal(method, response.status_code, _refusal_of(body))
        return body

    # Events

    async def _stream(self, after: int) -> AsyncGenerator[NodeEvent | None]:
        """The events of one connection, None for each heartbeat. Raises as `_exchange`."""
        self._judge_ourselves()
        timeout = httpx.Timeout(self._patience.timeout, read=self._patience.silence)
        request = self._client.build_request(
            "GET", "/events", params={"after": after}, timeout=timeout, extensions=self._extensions
        )
        try:
            async with aclosing(await self._client.send(request, stream=True)) as response:
                self._judge_server(response)
                if response.status_code != httpx.codes.OK:
                    await self._refused_stream(response)
                async with aclosing(_lines(response)) as lines:
                    async for line in lines:
                        yield self._event(line) if line else None
        except (httpx.HTTPError, OSError) as error:  # an alert of TLS comes as it is
            raise self._failure(error) from error

    async def _refused_stream(self, response: httpx.Response) -> None:
        body = await bounded_body(response, ANSWER_LIMIT)
        refusal = node_pb2.Refusal()
        with suppress(MisuseError):  # then its status says all there is
            refusal = jsonmap.decode_json(node_pb2.Refusal, body or b"")
        raise self._refusal("events", response.status_code, refusal)

    def _event(self, line: bytes) -> NodeEvent:
        try:
            return read_event(jsonmap.decode_json(node_pb2.NodeEvent, line))
        except MisuseError as error:
            raise self._no_answer("events", error.finding.sentence()) from error

    # Judging, and saying what went wrong

    def _judge_ourselves(self) -> None:
        """Rule 3: TLS would end in a broken connection that says nothing."""
        finding = judge_certificate(self._identity.certificate_der, Role.CONTROLLER, self._clock.now())
        if not finding.ok:
            raise EvidenceError(finding)

    def _judge_server(self, response: httpx.Response) -> None:
        """Rule 3, beyond what TLS has checked. Raises `EvidenceError`."""
        session = response.extensions["network_stream"].get_extra_info("ssl_object")
        certificate: bytes = session.getpeercert(binary_form=True)
        finding = judge_certificate(certificate, Role.NODE, self._clock.now(), self._pins)
        if not finding.ok:
            raise EvidenceError(finding)

    def _failure(self, error: httpx.HTTPError | OSError) -> EvidenceError | _Broken:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ssl.SSLCertVerificationError):
                return rejected(
                    "node.server-certificate",
                    f"the certificate of {self.shown}",
                    expected="that node's, under the CA of this installation",
                    found=cause.verify_message,
                    remedy="check the address, and that both bundles are of one installation",
                )
            if isinstance(cause, ssl.SSLError) and "ALERT" in (cause.reason or ""):
                return rejected(
                    "node.client-certificate",
                    f"our certificate, for {self.shown}",
                    found=cause.reason.replace("_", " ").lower(),
                    remedy="check that both bundles are of one installation, and the clocks",
                )
            cause = cause.__cause__ or cause.__context__
        arrived = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
        return _Broken(str(error)[:200] or type(error).__name__, arrived=arrived)

    def _refusal(self, method: str, status: int, refusal: node_pb2.Refusal) -> TeehouseError:
        """Rule 1."""
        if refusal.findings:
            return read_refusal(refusal)
        found = f"status {status}: {refusal.error[:2000]}"
        if status >= httpx.codes.INTERNAL_SERVER_ERROR:
            remedy = "look into the node's log"
            return unavailable("node.failed", f"{self.shown} failed in {method}", found=found, remedy=remedy)
        return misuse("node.refused", f"{self.shown} refuses {method}", found=found)

    def _unreachable(self, method: str, found: str) -> CollateralError:
        subject = f"{self.shown} does not answer {method}"
        return unavailable("node.unreachable", subject, found=found, remedy=_REMEDY)

    def _no_answer(self, method: str, found: str) -> EvidenceError:
        return malformed("node.answer", f"the answer of {self.shown} to {method}", found=found)


def _read_list(message: node_pb2.CvmList) -> tuple[CvmState, ...]:
    return tuple(map(read_state, message.cvms))


def _cvm(cvm_id: str) -> node_pb2.CvmRequest:
    return node_pb2.CvmRequest(cvm_id=as_text(cvm_id))


def _end(cvm_id: str, deadline: float) -> node_pb2.EndRequest:
    return node_pb2.EndRequest(cvm_id=as_text(cvm_id), deadline_us=span_micros(check_deadline(deadline)))


def _refusal_of(body: bytes) -> node_pb2.Refusal:
    """The refusal in a body, an empty one when it has none."""
    try:
        return jsonmap.decode_protobuf(node_pb2.Refusal, body)
    except MisuseError:
        return node_pb2.Refusal()


async def _lines(response: httpx.Response) -> AsyncGenerator[bytes]:
    """The lines of a stream, each without its end. Raises `EvidenceError` (rule 4)."""
    if response.headers.get("content-encoding", "identity") != "identity":
        raise malformed("node.answer", "the node's stream of events", found="a compressed stream")
    rest = bytearray()
    async for chunk in response.aiter_raw():
        rest += chunk
        *lines, remainder = bytes(rest).split(b"\n")
        rest = bytearray(remainder)
        for line in lines:
            yield line
        if len(rest) > LINE_LIMIT:
            raise malformed(
                "node.answer", "the node's stream of events", expected=f"lines of {LINE_LIMIT} bytes"
            )
