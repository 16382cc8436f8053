"""Records of a node over the wire and back; the numbers are the rules of `node.messages` and `node.refusals`."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from teehouse.base.findings import (
    CollateralError,
    EvidenceError,
    Family,
    Finding,
    MisuseError,
    Outcome,
    TeehouseError,
)
from teehouse.kms.client.connection import KmsRefusedError, KmsUnreachableError
from teehouse.node import messages
from teehouse.node.api import (
    CvmEndpoints,
    CvmPhase,
    CvmSpec,
    CvmState,
    CvmStats,
    EventKind,
    NodeEvent,
    NodeImage,
    NodeInfo,
    Resources,
)
from teehouse.node.refusals import (
    FINDING_LIMIT,
    FINDINGS_LIMIT,
    encode_refusal,
    read_refusal,
    refusal_message,
)
from teehouse.node.workload import ContainerState, ContainerStatus, PublishedPort, WorkloadError
from teehouse.tee.platform import PlatformError
from teehouse.wire import jsonmap, node_pb2
from teehouse.wire.members import FileError
from teehouse.wire.methods import Unknown
from teehouse.wire.node_methods import NODE_METHODS, resolve_node

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)
INT64 = st.integers(-(2**63), 2**63 - 1)
UINT64 = st.integers(0, 2**64 - 1)
HASH = st.binary(max_size=48)
ID = st.text("0123456789abcdef", min_size=32, max_size=32)
INSTANT = st.datetimes(timezones=st.just(UTC))
SECONDS = st.integers(0, 10**12).map(lambda micros: micros / 1e6)
PATH = st.text("abc/.-", min_size=1, max_size=20).map(Path)
WORDS = TEXT | st.just("")

FINDINGS = st.builds(Finding, WORDS, WORDS, st.sampled_from(Outcome), WORDS, WORDS, WORDS, WORDS)
BAD_FINDINGS = FINDINGS.filter(lambda finding: not finding.ok)
PORTS = st.builds(PublishedPort, TEXT, INT64, INT64, st.sampled_from(["tcp", "udp"]), st.none() | INT64)
CONTAINERS = st.builds(
    ContainerState,
    TEXT,
    TEXT,
    st.sampled_from(get_args(ContainerStatus)),
    TEXT,
    st.none() | INT64,
    TEXT,
    TEXT,
    TEXT,
    INT64,
    st.lists(PORTS, max_size=3).map(tuple),
)
SPECS = st.builds(
    CvmSpec,
    ID,
    st.text(st.characters(categories=("L", "N")), min_size=1, max_size=20),
    st.binary(min_size=1, max_size=50),
    st.binary(max_size=50),
    TEXT,
    st.none() | st.binary(min_size=20, max_size=20),
    st.integers(1, 1024),
    st.integers(1024**2, 1024**4),
    st.integers(0, 1024**5),
    TEXT,
    st.lists(TEXT.filter(bool), max_size=3).map(tuple),
)
STATES = st.builds(
    CvmState,
    ID,
    TEXT,
    st.sampled_from(CvmPhase),
    TEXT,
    st.none() | FINDINGS,
    HASH,
    HASH,
    HASH,
    UINT64,
    st.none() | INSTANT,
    st.none() | st.builds(CvmEndpoints, PATH, PATH, PATH, PATH, TEXT),
    st.lists(CONTAINERS, max_size=3).map(tuple),
    st.booleans(),
    TEXT,
    st.sampled_from(CvmPhase),
    st.booleans(),
)
STATS = st.builds(
    CvmStats, ID, INSTANT, st.none() | INT64, st.none() | SECONDS, st.none() | INT64, st.none() | INT64
)
RESOURCES = st.builds(Resources, INT64, INT64, INT64)
INFOS = st.builds(
    NodeInfo,
    TEXT,
    TEXT,
    st.booleans(),
    TEXT,
    HASH,
    RESOURCES,
    RESOURCES,
    st.lists(st.builds(NodeImage, TEXT, TEXT, HASH), max_size=3).map(tuple),
    INT64,
    INT64,
    st.lists(TEXT, max_size=3).map(tuple),
    UINT64,
)
EVENTS = st.builds(NodeEvent, UINT64, INSTANT, TEXT, st.sampled_from(EventKind), TEXT, TEXT)


@dataclass(frozen=True)
class Record:
    """One record: how it is made, written, read, and its message."""

    records: Any
    write: Callable[[Any], Message]
    read: Callable[[Any], Any]
    message: type[Message]


RECORDS = {
    "spec": Record(SPECS, messages.spec_message, messages.read_spec, node_pb2.CvmSpec),
    "state": Record(STATES, messages.state_message, messages.read_state, node_pb2.CvmState),
    "stats": Record(STATS, messages.stats_message, messages.read_stats, node_pb2.CvmStats),
    "info": Record(INFOS, messages.info_message, messages.read_info, node_pb2.NodeInfo),
    "event": Record(EVENTS, messages.event_message, messages.read_event, node_pb2.NodeEvent),
}
each_record = pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)


# Rule 1


@each_record
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_record_comes_back_from_protobuf(record: Record, data: st.DataObject) -> None:
    made = data.draw(record.records)
    wire = jsonmap.encode_protobuf(record.write(made))
    assert record.read(jsonmap.decode_protobuf(record.message, wire)) == made


@given(event=EVENTS)
@settings(max_examples=60, deadline=None)
def test_an_event_comes_back_from_its_line(event: NodeEvent) -> None:
    line = jsonmap.encode_json(messages.event_message(event))
    assert b"\n" not in line
    assert messages.read_event(jsonmap.decode_json(node_pb2.NodeEvent, line)) == event


@given(state=STATES)
@settings(max_examples=30, deadline=None)
def test_a_state_comes_back_from_json_too(state: CvmState) -> None:
    """JSON has an empty object for what is not there; a reader in JSON looks at `code` and `directory`."""
    body = jsonmap.encode_json(messages.state_message(state))
    read = jsonmap.decode_json(node_pb2.CvmState, body)
    if state.error is None:
        assert read.error == node_pb2.Finding()
        read.ClearField("error")
    if state.endpoints is None:
        assert read.endpoints == node_pb2.CvmEndpoints()
        read.ClearField("endpoints")
    assert messages.read_state(read) == state


def test_text_that_is_no_unicode_has_question_marks() -> None:
    event = NodeEvent(1, datetime(2026, 1, 1, tzinfo=UTC), "", EventKind.ERROR, "file \udcff")
    assert messages.read_event(messages.event_message(event)).detail == "file ?"


def test_a_spec_s_own_bounds_hold_for_what_is_asked() -> None:  # rule 3
    with pytest.raises(MisuseError) as raised:
        messages.read_spec(node_pb2.CvmSpec(cvm_id="0" * 32, name="x", compose=b"{}", cpu_count=-1))
    assert raised.value.finding.code == "node.spec"


# Rule 2


def _state(**members: Any) -> node_pb2.CvmState:
    return node_pb2.CvmState(**{"phase": "running", "wanted": "running", **members})


@pytest.mark.parametrize(
    ("read", "message", "found"),
    [
        (messages.read_state, _state(phase="asleep"), "'asleep' where CvmPhase has no such word"),
        (messages.read_state, _state(wanted=""), "'' where CvmPhase has no such word"),
        (
            messages.read_state,
            _state(error=node_pb2.Finding(outcome="fine")),
            "'fine' where Outcome has no such word",
        ),
        (
            messages.read_state,
            _state(started_at_us=2**62),
            f"an instant {2**62} microseconds from 1970",
        ),
        (
            messages.read_state,
            _state(containers=[node_pb2.Container(state="late")]),
            "a container that is 'late'",
        ),
        (
            messages.read_state,
            _state(
                containers=[
                    node_pb2.Container(state="running", ports=[node_pb2.PublishedPort(protocol="sctp")])
                ]
            ),
            "a port of 'sctp'",
        ),
        (
            messages.read_stats,
            node_pb2.CvmStats(time_us=-(2**63)),
            f"an instant {-(2**63)} microseconds from 1970",
        ),
        (
            messages.read_event,
            node_pb2.NodeEvent(kind="é" * 100),
            f"{'é' * 64!a} where EventKind has no such word",
        ),
        (read_refusal, node_pb2.Refusal(error="no"), "a refusal without a finding"),
        (
            read_refusal,
            node_pb2.Refusal(kind="MisuseError", findings=[node_pb2.Finding(outcome="accepted")]),
            "a refusal without a finding",
        ),
        (
            read_refusal,
            node_pb2.Refusal(kind="KeyError", findings=[node_pb2.Finding(outcome="misuse")]),
            "a refusal of kind 'KeyError'",
        ),
    ],
)
def test_an_answer_that_is_no_record_is_refused(
    read: Callable[[Any], Any], message: Message, found: str
) -> None:
    with pytest.raises(EvidenceError) as raised:
        read(message)
    assert raised.value.finding == Finding("node.answer", "the node's answer", Outcome.MALFORMED, found=found)


@pytest.mark.parametrize("read", ["state", "stats", "info", "event", "refusal"])
@given(raw=st.binary(max_size=60))
@settings(max_examples=60, deadline=None)
def test_arbitrary_answers_raise_only_evidence_errors(read: str, raw: bytes) -> None:
    refusal = Record(None, refusal_message, read_refusal, node_pb2.Refusal)
    record = RECORDS.get(read, refusal)
    try:
        message = jsonmap.decode_protobuf(record.message, raw)
    except MisuseError:
        return
    try:
        record.read(message)
    except EvidenceError as error:
        assert error.finding.code == "node.answer"  # noqa: PT017 - most of what is drawn is refused, not all


# Refusals


def _over_the_wire(error: TeehouseError) -> TeehouseError:
    return read_refusal(jsonmap.decode_protobuf(node_pb2.Refusal, encode_refusal(error, False)))


@given(
    finding=BAD_FINDINGS,
    kind=st.sampled_from([EvidenceError, CollateralError, MisuseError, PlatformError]),
)
@settings(max_examples=60, deadline=None)
def test_a_refusal_comes_back_as_it_was_raised(finding: Finding, kind: type[TeehouseError]) -> None:
    error = kind(finding)
    again = _over_the_wire(error)
    assert type(again) is kind
    assert (again.finding, str(again), again.family) == (finding, str(error), error.family)


@given(findings=st.lists(BAD_FINDINGS, min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_refusals_of_several_faults_keep_all_of_them(findings: list[Finding]) -> None:
    workload = WorkloadError(tuple(findings))
    again = _over_the_wire(workload)
    assert isinstance(again, WorkloadError)
    assert (again.findings, str(again)) == (workload.findings, str(workload))
    file = FileError("app-compose", findings)
    once_more = _over_the_wire(file)
    assert isinstance(once_more, FileError)
    assert (once_more.faults, once_more.finding) == (file.faults, file.finding)


FAULT = Finding("x.y", "the thing", Outcome.REJECTED, "a", "b", "do", "X1")


class _ForeignError(TeehouseError):
    """A class that the other side does not know."""

    family = Family.COLLATERAL


@pytest.mark.parametrize(
    ("kind", "nearest"),
    [
        (KmsRefusedError, EvidenceError),
        (KmsUnreachableError, CollateralError),
        (_ForeignError, CollateralError),
    ],
)
def test_a_class_that_is_not_known_comes_back_as_the_nearest(
    kind: type[TeehouseError], nearest: type[TeehouseError]
) -> None:
    again = _over_the_wire(kind(FAULT))
    assert (type(again), again.finding) == (nearest, FAULT)


def test_the_body_of_a_refusal_in_json() -> None:
    body = jsonmap.decode_json(node_pb2.Refusal, encode_refusal(MisuseError(FAULT), True))
    assert body == node_pb2.Refusal(
        error="the thing: expected a, found b (do)",
        kind="MisuseError",
        findings=[
            node_pb2.Finding(
                check="X1",
                code="x.y",
                outcome="rejected",
                subject="the thing",
                expected="a",
                found="b",
                remedy="do",
            )
        ],
    )


def test_a_refusal_is_bounded() -> None:
    long = Finding("x", "s" * (FINDING_LIMIT + 1), Outcome.MISUSE)
    message = refusal_message(WorkloadError((long,) * (FINDINGS_LIMIT + 1)))
    assert len(message.findings) == FINDINGS_LIMIT
    assert (len(message.error), len(message.findings[0].subject)) == (FINDING_LIMIT, FINDING_LIMIT)


# Paths of the RPCs


def test_the_table_holds_every_method_with_its_messages() -> None:
    assert {
        name: (m.request.DESCRIPTOR.name, m.response.DESCRIPTOR.name) for name, m in NODE_METHODS.items()
    } == {
        "Info": ("Empty", "NodeInfo"),
        "Create": ("CvmSpec", "CvmState"),
        "Update": ("CvmSpec", "CvmState"),
        "Start": ("CvmRequest", "CvmState"),
        "Stop": ("EndRequest", "CvmState"),
        "Shutdown": ("EndRequest", "CvmState"),
        "Restart": ("EndRequest", "CvmState"),
        "Remove": ("CvmRequest", "CvmState"),
        "State": ("CvmRequest", "CvmState"),
        "List": ("Empty", "CvmList"),
        "Stats": ("CvmRequest", "CvmStats"),
    }


@pytest.mark.parametrize("path", ["/prpc/Info", "/prpc/Node.Info", "/prpc/Info/"])
def test_paths_of_a_method(path: str) -> None:
    assert resolve_node(path) is NODE_METHODS["Info"]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/", "Service not found: "),
        ("/Info", "Service not found: Info"),
        ("/prpc/KMS.Info", "Service not found: KMS.Info"),
        ("/prpc/Node.Nope", "Service not found: Nope"),
    ],
)
def test_other_paths_are_unknown(path: str, text: str) -> None:
    assert resolve_node(path) == Unknown(text)
