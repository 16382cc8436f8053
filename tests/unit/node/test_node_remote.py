"""A node elsewhere does what a node in process does, over real TLS; the numbers are the rules of `node.remote`."""

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from support.node_memory import MemoryNode
from support.node_remote_support import HOUSE, SHORT, Served, served
from support.node_script import Script, answer, broken, door
from support.node_suite import SUITE, cvm_spec
from support.node_support import TestNode
from support.node_tls_support import NOW, party
from teehouse.base.clock import FixedClock, SystemClock
from teehouse.base.findings import (
    CollateralError,
    EvidenceError,
    Finding,
    MisuseError,
    Outcome,
    TeehouseError,
)
from teehouse.guest.sockets import TcpAddress
from teehouse.node.api import CvmPhase, CvmState, Node
from teehouse.node.bundle import NodeBundle
from teehouse.node.channel import ANSWER_LIMIT
from teehouse.node.identity import LEAF_LIFETIME, Identity, Role, server_context
from teehouse.node.remote import ATTEMPTS, RemoteNode
from teehouse.node.workload import WorkloadError
from teehouse.tee.platform import PlatformError
from teehouse.wire import node_pb2
from teehouse.wire.members import FileError

Case = Callable[[Node], Awaitable[None]]


@pytest.mark.parametrize("case", SUITE, ids=lambda case: case.__name__)
async def test_in_memory(case: Case) -> None:
    await case(MemoryNode(FixedClock(NOW)))


@pytest.mark.parametrize("case", SUITE, ids=lambda case: case.__name__)
async def test_over_mutual_tls(case: Case) -> None:
    async with served(MemoryNode(FixedClock(NOW))) as house, house.caller() as node:
        await case(node)


@pytest.mark.parametrize("case", SUITE, ids=lambda case: case.__name__)
async def test_the_node_of_a_process_over_mutual_tls(tmp_path: Path, case: Case) -> None:
    async with (
        TestNode(tmp_path / "node", clock=SystemClock()).node() as local,
        served(local) as house,
        house.caller() as node,
    ):
        await case(node)


# Rule 1: what the node refuses, and what it fails in


class _RefusingNode(MemoryNode):
    """Raises `error` at every state."""

    def __init__(self, error: Exception) -> None:
        super().__init__(FixedClock(NOW))
        self.error = error

    async def state(self, cvm_id: str) -> CvmState:
        self.calls.append("state")
        raise self.error


FAULT = Finding("x.y", "the thing", Outcome.REJECTED, "a", "b", "do", "X1")


@pytest.mark.parametrize(
    "error",
    [
        EvidenceError(FAULT),
        CollateralError(replace(FAULT, outcome=Outcome.COLLATERAL_MISSING)),
        MisuseError(replace(FAULT, outcome=Outcome.MISUSE)),
        PlatformError(replace(FAULT, outcome=Outcome.COLLATERAL_MISSING)),
        WorkloadError((replace(FAULT, outcome=Outcome.MISUSE), replace(FAULT, code="z"))),
        FileError("app-compose", [FAULT, replace(FAULT, code="z")]),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_refusal_is_raised_as_the_node_raised_it(error: TeehouseError) -> None:
    local = _RefusingNode(error)
    async with served(local) as house, house.caller() as node:
        with pytest.raises(type(error)) as raised:
            await node.state("0" * 32)
    assert type(raised.value) is type(error)
    assert (raised.value.finding, str(raised.value)) == (error.finding, str(error))
    assert local.calls == ["state"]  # 2: a refusal is an answer, and not asked for again


async def test_a_node_that_fails_without_a_reason() -> None:
    local = _RefusingNode(ArithmeticError("s3cret"))
    async with served(local) as house, house.caller() as node:
        with pytest.raises(CollateralError) as raised:
            await node.state("0" * 32)
        assert raised.value.finding == Finding(
            "node.failed",
            f"node tea-1 at {house.address} failed in State",
            Outcome.COLLATERAL_MISSING,
            found="status 500: internal error",
            remedy="look into the node's log",
        )
    assert local.calls == ["state"]


async def test_nobody_there() -> None:
    async with served(MemoryNode(FixedClock(NOW))) as house:
        await house.stop()
        async with house.caller() as node:
            with pytest.raises(CollateralError) as raised:
                await node.info()
            assert raised.value.finding == Finding(
                "node.unreachable",
                f"node tea-1 at {house.address} does not answer Info",
                Outcome.COLLATERAL_MISSING,
                found="All connection attempts failed",
                remedy="start the node, or check its address and that its bundle and this one are of one installation",
            )


async def test_a_body_that_is_too_long_for_the_node() -> None:
    async with served(MemoryNode(FixedClock(NOW))) as house, house.caller() as node:
        with pytest.raises(MisuseError) as raised:
            await node.state("0" * 5000)
        assert raised.value.finding == Finding(
            "node.refused",
            f"node tea-1 at {house.address} refuses State",
            Outcome.MISUSE,
            found="status 400: failed to read data: payload too large",
        )


# Rule 3: who it has to be


OTHERS = party()
EXPIRED = timedelta(days=1)


def _expired(role: Role, name: str) -> Identity:
    return HOUSE.authority.issue(role, name, NOW - 2 * EXPIRED, lifetime=EXPIRED)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        pytest.param({"name": "tea-2"}, "node.server-certificate", id="another node"),
        pytest.param({"identity": OTHERS.controller}, "node.server-certificate", id="another CA"),
        pytest.param({"pins": [OTHERS.node.pin]}, "node.certificate-pin", id="another key"),
        pytest.param(
            {"identity": _expired(Role.CONTROLLER, "cloud")}, "node.certificate-expired", id="we, expired"
        ),
        pytest.param(
            {"clock": FixedClock(NOW + LEAF_LIFETIME + EXPIRED)},
            "node.certificate-expired",
            id="we, by the clock",
        ),
        pytest.param({"clock": FixedClock(NOW - EXPIRED)}, "node.certificate-early", id="we, too early"),
    ],
)
async def test_whoever_is_not_the_one_is_not_asked(options: dict[str, Any], code: str) -> None:
    local = MemoryNode(FixedClock(NOW))
    async with served(local) as house, house.caller(**options) as node:
        with pytest.raises(EvidenceError) as raised:
            await node.create(cvm_spec())
        assert (raised.value.finding.code, raised.value.finding.outcome) == (code, Outcome.REJECTED)
        with pytest.raises(EvidenceError) as raised:
            await anext(aiter(node.events()))
        assert raised.value.finding.code == code
    assert [call for call in local.calls if call != "create"] == []


async def test_a_node_with_an_expired_certificate() -> None:
    house = Served(MemoryNode(FixedClock(NOW)), house=replace(HOUSE, node=_expired(Role.NODE, "tea-1")))
    await house.serve()
    async with house.caller() as node:
        with pytest.raises(EvidenceError) as raised:
            await node.info()
    assert raised.value.finding == Finding(
        "node.server-certificate",
        f"the certificate of node tea-1 at {house.address}",
        Outcome.REJECTED,
        "that node's, under the CA of this installation",
        "certificate has expired",
        "check the address, and that both bundles are of one installation",
    )
    await house.stop()


async def test_a_node_whose_certificate_has_expired_by_the_clock() -> None:
    short = HOUSE.authority.issue(Role.NODE, "tea-1", NOW, lifetime=timedelta(days=2))
    house = Served(MemoryNode(FixedClock(NOW)), house=replace(HOUSE, node=short))
    await house.serve()
    async with house.caller(clock=FixedClock(NOW + timedelta(days=3))) as node:
        with pytest.raises(EvidenceError) as raised:
            await node.info()
    assert raised.value.finding.code == "node.certificate-expired"
    assert raised.value.finding.subject == "the certificate of node tea-1"
    await house.stop()


STRANGER = replace(OTHERS.controller, authorities=HOUSE.authority.authorities)


async def test_a_controller_that_the_node_does_not_know() -> None:
    """It trusts the node, and the node does not trust it: the connection breaks in the handshake."""
    local = MemoryNode(FixedClock(NOW))
    async with served(local) as house, house.caller(STRANGER) as node:
        with pytest.raises(CollateralError) as raised:
            await node.info()
        assert raised.value.finding.code == "node.unreachable"
        assert "of one installation" in raised.value.finding.remedy
    assert local.calls == []


async def _alarm(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """TLS that tells why it refuses a client, as asyncio's does not."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = server_context(HOUSE.node).wrap_bio(incoming, outgoing, server_side=True)
    while data := await reader.read(65536):
        incoming.write(data)
        with suppress(ssl.SSLError):  # the alert is among what goes out
            session.do_handshake()
        writer.write(outgoing.read())


async def test_a_node_that_tells_why_it_refuses_a_controller() -> None:
    async with (
        door(_alarm) as address,
        RemoteNode(address, "tea-1", STRANGER, FixedClock(NOW), patience=SHORT) as node,
    ):
        with pytest.raises(EvidenceError) as raised:
            await node.info()
        with pytest.raises(EvidenceError):
            await anext(aiter(node.events()))
    assert raised.value.finding == Finding(
        "node.client-certificate",
        f"our certificate, for node tea-1 at {address}",
        Outcome.REJECTED,
        found="tlsv1 alert unknown ca",
        remedy="check that both bundles are of one installation, and the clocks",
    )


def test_a_node_s_bundle_commands_nobody() -> None:
    with pytest.raises(MisuseError) as raised:
        RemoteNode(TcpAddress("127.0.0.1", 1), "tea-1", HOUSE.node, FixedClock(NOW))
    assert raised.value.finding.code == "node.role"


async def test_a_controller_s_bundle_leads_to_its_node() -> None:
    async with served(MemoryNode(FixedClock(NOW))) as house:
        bundle = NodeBundle(HOUSE.controller, "tea-1", house.address)
        async with RemoteNode.of_bundle(bundle, FixedClock(NOW)) as node:
            assert (await node.info()).name == "memory"


# Rules 2 and 4, against a server that answers as it is told


STATE = node_pb2.CvmState(cvm_id="0" * 32, phase="running", wanted="running").SerializeToString()


async def test_a_call_is_repeated_when_the_connection_breaks() -> None:
    async with Script(broken, broken, answer(STATE)) as script, script.caller() as node:
        state = await node.start("0" * 32)
    assert (state.cvm_id, state.phase) == ("0" * 32, CvmPhase.RUNNING)
    assert script.asked == ["/prpc/Node.Start"] * 3


async def test_a_call_is_not_repeated_for_ever() -> None:
    async with Script(broken) as script, script.caller() as node:
        with pytest.raises(CollateralError) as raised:
            await node.start("0" * 32)
    assert raised.value.finding.code == "node.unreachable"
    assert len(script.heads) == ATTEMPTS


async def test_a_restart_that_may_have_arrived_is_not_repeated() -> None:
    async with Script(broken, answer(STATE)) as script, script.caller() as node:
        with pytest.raises(CollateralError) as raised:
            await node.restart("0" * 32)
    assert raised.value.finding.code == "node.unreachable"
    assert script.asked == ["/prpc/Node.Restart"]


async def test_a_restart_that_cannot_have_arrived_is_repeated() -> None:
    local = MemoryNode(FixedClock(NOW))
    spec = cvm_spec()
    await local.create(spec)
    house = Served(local)
    await house.serve()
    await house.stop()
    async with house.caller(patience=replace(SHORT, first_pause=0.1)) as node:
        restarting = asyncio.create_task(node.restart(spec.cvm_id))
        await asyncio.sleep(0.05)
        await house.serve()
        assert (await restarting).phase is CvmPhase.RUNNING
    await house.stop()
    assert local.calls.count("restart") == 1


async def test_a_slow_node_is_waited_for_until_the_deadline() -> None:
    patience = replace(SHORT, timeout=0.2)
    begun = time.monotonic()
    async with (
        Script(lambda _: b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx", linger=5.0) as script,
        script.caller(patience=patience) as node,
    ):
        with pytest.raises(CollateralError) as raised:
            await node.info()
    assert time.monotonic() - begun < 2.0
    finding = raised.value.finding
    assert (finding.code, finding.found) == ("node.unreachable", "nothing within 0.2 seconds")


@pytest.mark.parametrize(
    ("part", "found"),
    [
        (answer(bytes(ANSWER_LIMIT + 1)), f"more than {ANSWER_LIMIT} bytes, or compressed ones"),
        (
            answer(b"x", "200 OK", "content-encoding: gzip"),
            f"more than {ANSWER_LIMIT} bytes, or compressed ones",
        ),
        (answer(b"\xff"), "failed to decode Protobuf message: CvmState"),
    ],
    ids=["too long", "compressed", "no protobuf"],
)
async def test_an_answer_that_is_none(part: Callable[[bytes], bytes | None], found: str) -> None:
    async with Script(part, linger=5.0) as script, script.caller() as node:
        with pytest.raises(EvidenceError) as raised:
            await node.state("0" * 32)
        assert raised.value.finding == Finding(
            "node.answer", f"the answer of {node.shown} to State", Outcome.MALFORMED, found=found
        )
    assert len(script.heads) == 1


async def test_a_refusal_that_is_none_is_told_by_its_status() -> None:
    async with (
        Script(answer(b"\xff", "302 Found", "location: https://elsewhere")) as script,
        script.caller() as node,
    ):
        with pytest.raises(MisuseError) as raised:
            await node.state("0" * 32)
    assert (raised.value.finding.code, raised.value.finding.found) == ("node.refused", "status 302: ")
    assert len(script.heads) == 1  # redirects are not followed


async def test_the_correlation_id_goes_along() -> None:
    async with Script(answer(STATE)) as script, script.caller() as node:
        await node.start("0" * 32, correlation_id="order-9")
        await node.start("0" * 32)
    assert b"\r\nx-correlation-id: order-9\r\n" in script.heads[0].lower()
    assert b"x-correlation-id" not in script.heads[1].lower()
