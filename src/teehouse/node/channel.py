"""The connection to a node elsewhere: one call, one stream, and what can be wrong with them.

Rules: those of `node.remote`, of which 3 and 4 are held here; repeating and resuming are not.
"""

import ssl
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing, suppress
from typing import Final

import httpx

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
from teehouse.node.api import NodeEvent
from teehouse.node.identity import Identity, Role, client_context, host_name, judge_certificate
from teehouse.node.messages import read_event
from teehouse.node.refusals import read_refusal
from teehouse.wire import jsonmap, node_pb2

ANSWER_LIMIT: Final = jsonmap.BODY_LIMIT  # bytes
LINE_LIMIT: Final = 128 * 1024  # bytes
_REMEDY = "start the node, or check its address and that its bundle and this one are of one installation"


class Broken(Exception):  # noqa: N818 - a note to `node.remote`, never seen outside
    """The connection failed. `arrived` says whether the request may have reached the node."""

    def __init__(self, found: str, *, arrived: bool = True) -> None:
        super().__init__(found)
        self.arrived = arrived


class NodeChannel:
    """Calls and streams of the node `name` at `address`, as `identity`; `timeout` and `silence` are seconds.

    `silence` is how long a stream may give no byte. Raises `MisuseError` as `RemoteNode` does.
    """

    def __init__(
        self,
        address: TcpAddress,
        name: str,
        identity: Identity,
        clock: Clock,
        *,
        pins: Collection[bytes],
        timeout: float,
        silence: float,
    ) -> None:
        if identity.role is not Role.CONTROLLER:
            role = identity.role.value
            raise misuse("node.role", "role of the bundle", expected=Role.CONTROLLER.value, found=role)
        self.shown = f"node {name} at {address}"
        self._identity = identity
        self._clock = clock
        self._pins = frozenset(pins)
        self._stream_timeout = httpx.Timeout(timeout, read=silence)
        self._extensions = {"sni_hostname": host_name(Role.NODE, name)}
        self._client = httpx.AsyncClient(
            base_url=f"https://{address}",
            verify=client_context(identity),
            timeout=timeout,
            trust_env=False,
            headers={"accept-encoding": "identity"},
        )

    async def close(self) -> None:
        """End all connections."""
        await self._client.aclose()

    async def exchange(self, method: str, content: bytes, headers: dict[str, str]) -> bytes:
        """The body of a good answer. Raises `Broken`, and what the node refused."""
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
            raise self.no_answer(method, f"more than {ANSWER_LIMIT} bytes, or compressed ones")
        if response.status_code != httpx.codes.OK:
            raise self._refusal(method, response.status_code, _refusal_of(body))
        return body

    async def stream(self, after: int) -> AsyncGenerator[NodeEvent | None]:
        """The events of one connection, None for each heartbeat. Raises as `exchange`."""
        self._judge_ourselves()
        request = self._client.build_request(
            "GET",
            "/events",
            params={"after": after},
            timeout=self._stream_timeout,
            extensions=self._extensions,
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
            raise self.no_answer("events", error.finding.sentence()) from error

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

    def _failure(self, error: httpx.HTTPError | OSError) -> EvidenceError | Broken:
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
        return Broken(str(error)[:200] or type(error).__name__, arrived=arrived)

    def _refusal(self, method: str, status: int, refusal: node_pb2.Refusal) -> TeehouseError:
        """Rule 1."""
        if refusal.findings:
            return read_refusal(refusal)
        found = f"status {status}: {refusal.error[:2000]}"
        if status >= httpx.codes.INTERNAL_SERVER_ERROR:
            remedy = "look into the node's log"
            return unavailable("node.failed", f"{self.shown} failed in {method}", found=found, remedy=remedy)
        return misuse("node.refused", f"{self.shown} refuses {method}", found=found)

    def unreachable(self, method: str, found: str) -> CollateralError:
        """Nobody answers."""
        subject = f"{self.shown} does not answer {method}"
        return unavailable("node.unreachable", subject, found=found, remedy=_REMEDY)

    def no_answer(self, method: str, found: str) -> EvidenceError:
        """What answers speaks of something else."""
        return malformed("node.answer", f"the answer of {self.shown} to {method}", found=found)


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
