"""A node elsewhere, as a `Node`: calls and events over mutual TLS (docs/operations/node-rpc.md).

Rules:

1. What the node refuses is raised as it raised it (`node.refusals`). A node that cannot be reached is a
   `CollateralError` with code `node.unreachable`; one that fails without a reason, `node.failed`.
2. A call has `timeout` seconds in all. Within them, a call that may be repeated is tried again when the connection
   fails, at most `ATTEMPTS` times, with growing pauses; `restart` is tried again only while it cannot have arrived.
3. A node that is not the one asked for, by CA, name, date or pin, is an `EvidenceError`, and not asked again. A
   controller whose own certificate is not valid by the clock calls nobody.
4. Answers have at most `channel.ANSWER_LIMIT` bytes, a line of events `LINE_LIMIT`; nothing compressed is read.
5. A stream of events that breaks is taken up after the last event that was given, without loss or doubling. A node
   that gives nothing for `patience` seconds, heartbeats included, is unreachable. Of the stream no more is held
   than one line and one read.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import aclosing
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self, TypeVar

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from teehouse.base.clock import Clock
from teehouse.base.findings import CollateralError, MisuseError
from teehouse.guest.sockets import TcpAddress
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
from teehouse.node.channel import Broken, NodeChannel
from teehouse.node.identity import Identity
from teehouse.node.members import as_text, span_micros
from teehouse.node.messages import read_info, read_state, read_stats, spec_message
from teehouse.wire import jsonmap, node_pb2

M = TypeVar("M", bound=Message)
R = TypeVar("R")

ATTEMPTS: Final = 4
LONGEST_PAUSE: Final = 5.0  # seconds


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
        self._patience = patience or Patience()
        self._channel = NodeChannel(
            address,
            name,
            identity,
            clock,
            pins=pins,
            timeout=self._patience.timeout,
            silence=self._patience.silence,
        )

    @property
    def shown(self) -> str:
        """The node in words, for messages."""
        return self._channel.shown

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
        await self._channel.close()

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
                async with aclosing(self._channel.stream(last)) as stream:
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
            except (Broken, CollateralError) as error:
                broken = str(error)
            failures += 1
            pause = self._patience.pause(failures)
            if loop.time() + pause - lively > self._patience.patience:
                raise self._channel.unreachable("events", broken)
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
            raise self._channel.unreachable(
                method, f"nothing within {self._patience.timeout:g} seconds"
            ) from None
        try:
            return read(jsonmap.decode_protobuf(response_type, body))
        except MisuseError as error:
            raise self._channel.no_answer(method, error.finding.sentence()) from error

    async def _repeated(
        self, method: str, content: bytes, headers: dict[str, str], *, repeatable: bool
    ) -> bytes:
        failures = 0
        while True:
            try:
                return await self._channel.exchange(method, content, headers)
            except Broken as broken:
                failures += 1
                if failures == ATTEMPTS or (broken.arrived and not repeatable):
                    raise self._channel.unreachable(method, str(broken)) from broken
            await asyncio.sleep(self._patience.pause(failures))


def _read_list(message: node_pb2.CvmList) -> tuple[CvmState, ...]:
    return tuple(map(read_state, message.cvms))


def _cvm(cvm_id: str) -> node_pb2.CvmRequest:
    return node_pb2.CvmRequest(cvm_id=as_text(cvm_id))


def _end(cvm_id: str, deadline: float) -> node_pb2.EndRequest:
    return node_pb2.EndRequest(cvm_id=as_text(cvm_id), deadline_us=span_micros(check_deadline(deadline)))
