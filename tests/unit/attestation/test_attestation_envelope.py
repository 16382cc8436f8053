"""Attestations as bytes; the numbers in test names are the rules of `envelope`."""

import hashlib
import json
from contextlib import suppress
from dataclasses import replace

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import attestation_support as support
from teehouse.attestation import envelope, strictmsgpack
from teehouse.attestation.abi import TdReport, parse_quote
from teehouse.attestation.envelope import (
    Attestation,
    AttestationFrame,
    check_payload_binding,
    decode_attestation,
    encode_attestation,
    encode_v0,
    encode_v1,
)
from teehouse.attestation.eventlog import EVENT_LIMIT, Event, RuntimeEvent, replay_runtime
from teehouse.base import scale
from teehouse.base.findings import EvidenceError, Finding, MisuseError, Outcome

# guest-agent.md 19.7: the same content in three encodings.
EVENT = Event(3, 0x08000001, b"\xaa\xbb", "pod", b"\xde\xad")
MINIMAL = Attestation(
    quote=b"\x01\x02\xc8",
    event_log=(EVENT,),
    runtime_events=(RuntimeEvent("pod", b"\xca\xfe"),),
    report_data=b"\x07" * 64,
    config="{}",
)
MINIMAL_V2 = replace(
    MINIMAL,
    event_log=(replace(EVENT, version=2, preimage=b"{}"),),
    runtime_events=(RuntimeEvent("pod", b"\xca\xfe", 2),),
)
V0 = bytes.fromhex(
    "00000c0102c804030000000100000808aabb0c706f6408dead040c706f6408cafe" + "07" * 64 + "087b7d"
)
V1 = bytes.fromhex(
    "83a776657273696f6e01a8706c6174666f726d82a46b696e64a3746478a46461746182a571756f7465930102ccc8a96576656e745f6c6f679185a3696d7203aa"
    "6576656e745f74797065ce08000001a6646967657374c402aabba56576656e74a3706f64ad6576656e745f7061796c6f6164c402deada5737461636b82a46b69"
    "6e64a664737461636ba46461746183ab7265706f72745f64617461dc004007070707070707070707070707070707070707070707070707070707070707070707"
    "070707070707070707070707070707070707070707070707070707070707ae72756e74696d655f6576656e74739182a56576656e74a3706f64a77061796c6f61"
    "64c402cafea6636f6e666967a27b7d"
)
V1_V2 = bytes.fromhex(
    "83a776657273696f6e01a8706c6174666f726d82a46b696e64a3746478a46461746182a571756f7465930102ccc8a96576656e745f6c6f679187a3696d7203aa"
    "6576656e745f74797065ce08000001a6646967657374c402aabba56576656e74a3706f64ad6576656e745f7061796c6f6164c402deada776657273696f6e02a8"
    "707265696d616765a437623764a5737461636b82a46b696e64a664737461636ba46461746183ab7265706f72745f64617461dc00400707070707070707070707"
    "0707070707070707070707070707070707070707070707070707070707070707070707070707070707070707070707070707070707ae72756e74696d655f6576"
    "656e74739183a56576656e74a3706f64a77061796c6f6164c402cafea776657273696f6e02a6636f6e666967a27b7d"
)


def document(**changes: object) -> dict[str, object]:
    """V1 as a plain value; a change names its member by path, with double underscores."""
    value: dict[str, object] = msgpack.unpackb(V1)
    for path, new in changes.items():
        place: dict[str, object] = value
        *parents, last = path.split("__")
        for key in parents:
            place = place[key]  # type: ignore[assignment]  # the paths of the tests lead through maps
        place[last] = new
    return value


def packed(**changes: object) -> bytes:
    encoded: bytes = msgpack.packb(document(**changes))
    return encoded


@pytest.mark.parametrize(
    ("attestation", "data"),
    [(MINIMAL, V0), (MINIMAL, V1), (MINIMAL_V2, V1_V2)],
    ids=["v0", "v1", "v1-events-v2"],
)
def test_the_vectors_of_guest_agent_19_7_are_read(attestation: Attestation, data: bytes) -> None:
    assert decode_attestation(data) == attestation


def test_the_vectors_of_guest_agent_19_7_are_written() -> None:
    assert encode_v0(MINIMAL) == V0
    assert encode_v1(MINIMAL) == V1
    assert encode_v1(MINIMAL_V2) == V1_V2


def test_rule_6_v0_is_written_whenever_it_can_carry_everything() -> None:
    assert encode_attestation(MINIMAL) == V0
    assert encode_attestation(MINIMAL_V2) == V1_V2
    only_in_v1 = [
        MINIMAL_V2,
        replace(MINIMAL, event_log=MINIMAL_V2.event_log),
        replace(MINIMAL, event_log=(replace(EVENT, preimage=b""),)),
        replace(MINIMAL, runtime_events=MINIMAL_V2.runtime_events),
        replace(MINIMAL, stack="dstack-pod", report_data_payload=""),
    ]
    for attestation in only_in_v1:
        assert decode_attestation(encode_attestation(attestation)) == attestation
        with pytest.raises(MisuseError) as error:
            encode_v0(attestation)
        assert support.refusal(error) == ("attestation.not-v0", Outcome.MISUSE)


def test_rule_1_nothing_is_refused_in_the_words_of_guest_agent_11_1() -> None:
    with pytest.raises(EvidenceError) as error:
        decode_attestation(b"")
    assert error.value.finding == Finding("attestation.empty", "Empty attestation bytes", Outcome.MALFORMED)
    assert str(error.value) == "Empty attestation bytes"


@pytest.mark.parametrize("first", [0x01, 0x7F, 0x90, 0xDC, 0xDD, 0xE0, 0xFF])
def test_rule_2_other_first_bytes_are_refused_in_the_words_of_guest_agent_11_1(first: int) -> None:
    with pytest.raises(EvidenceError) as error:
        decode_attestation(bytes([first]) + V0[1:])
    assert error.value.finding == Finding(
        "attestation.format", "Unknown attestation wire format", Outcome.MALFORMED
    )
    assert str(error.value) == "Unknown attestation wire format"


def test_rule_2_maps_of_all_three_sizes_begin_v1() -> None:
    body = V1[1:]
    for head in (b"\x83", b"\xde\x00\x03", b"\xdf\x00\x00\x00\x03"):
        assert decode_attestation(head + body) == MINIMAL


def test_rule_1_an_attestation_of_the_limit_is_read_and_one_byte_more_is_not() -> None:
    room = envelope.ATTESTATION_LIMIT - (len(V0) - 3) - 4  # a length of 4 bytes instead of 1, and no "{}"
    longest = replace(MINIMAL, config="x" * room)
    data = encode_v0(longest)
    assert len(data) == envelope.ATTESTATION_LIMIT
    assert decode_attestation(data) == longest
    with pytest.raises(EvidenceError) as error:
        decode_attestation(encode_v0(replace(MINIMAL, config="x" * (room + 1))))
    assert support.refusal(error) == ("attestation.too-long", Outcome.MALFORMED)


@pytest.mark.parametrize("data", [V0, V1], ids=["v0", "v1"])
def test_rule_1_nothing_follows_the_end(data: bytes) -> None:
    with pytest.raises(EvidenceError) as error:
        decode_attestation(data + b"\0")
    assert error.value.finding.outcome is Outcome.MALFORMED
    assert error.value.finding.code in {"attestation.trailing", "attestation.not-msgpack"}


@pytest.mark.parametrize("data", [V0, V1, V1_V2], ids=["v0", "v1", "v1-events-v2"])
def test_every_shorter_attestation_is_malformed(data: bytes) -> None:
    for size in range(1, len(data)):
        with pytest.raises(EvidenceError) as error:
            decode_attestation(data[:size])
        assert error.value.finding.outcome is Outcome.MALFORMED


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (1, "gcp-tdx"),
        (2, "nitro-enclave"),
        (3, "sev-snp"),
        (4, "aws-nitro-tpm"),
        (5, "kind 5"),
        (255, "kind 255"),
    ],
)
def test_rule_3_other_platforms_of_v0_are_unsupported_by_name(kind: int, name: str) -> None:
    with pytest.raises(EvidenceError) as error:
        decode_attestation(b"\0" + bytes([kind]) + V0[2:])
    assert support.refusal(error) == ("attestation.platform-kind", Outcome.UNSUPPORTED)
    assert error.value.finding.found == name


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *((kind, kind) for kind in ("gcp-tdx", "nitro-enclave", "aws-nitro-tpm", "sev-snp")),
        ("TDX\x1b[2J", "an unknown kind"),
    ],
)
def test_rule_3_other_platforms_of_v1_are_unsupported_by_name(kind: str, name: str) -> None:
    with pytest.raises(EvidenceError) as error:
        decode_attestation(packed(platform={"kind": kind, "data": {}}))
    assert support.refusal(error) == ("attestation.platform-kind", Outcome.UNSUPPORTED)
    assert error.value.finding.found == name


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"version": 0}, "attestation.version"),
        ({"version": 2}, "attestation.version"),
        ({"stack": {"kind": "other", "data": {}}}, "attestation.stack-kind"),
        (
            {"stack__data__runtime_events": [{"event": "", "payload": b"", "version": 3}]},
            "attestation.event-version",
        ),
    ],
)
def test_rule_3_other_versions_and_stacks_are_unsupported(changes: dict[str, object], code: str) -> None:
    with pytest.raises(EvidenceError) as error:
        decode_attestation(packed(**changes))
    assert support.refusal(error) == (code, Outcome.UNSUPPORTED)


def test_rule_4_a_length_that_is_not_in_its_shortest_form_is_refused() -> None:
    with pytest.raises(EvidenceError) as error:
        decode_attestation(V0[:2] + b"\x0d\x00" + V0[3:])
    assert support.refusal(error) == ("attestation.not-canonical", Outcome.MALFORMED)


def test_rule_4_v0_has_bounds_on_its_vectors() -> None:
    head = b"\0\0" + scale.byte_string(b"")
    with pytest.raises(EvidenceError) as error:
        decode_attestation(head + scale.compact(EVENT_LIMIT + 1))
    assert support.refusal(error) == ("attestation.too-long", Outcome.MALFORMED)
    with pytest.raises(EvidenceError) as error:
        decode_attestation(head + scale.compact(0) + scale.compact(EVENT_LIMIT + 1))
    assert support.refusal(error) == ("attestation.too-long", Outcome.MALFORMED)


@pytest.mark.parametrize(
    "quote", [[1, 2, 200], b"\x01\x02\xc8", "0102C8", "AQLI"], ids=["integers", "bin", "hex", "base64"]
)
def test_rule_5_bytes_are_read_in_all_their_forms(quote: object) -> None:
    event = {
        "imr": 3,
        "event_type": 0x08000001,
        "digest": [0xAA, 0xBB],
        "event": "pod",
        "event_payload": "dead",
    }
    data = packed(
        platform__data={"quote": quote, "event_log": [event], "more": 1},
        stack__data__report_data=b"\x07" * 64,
        stack__data__runtime_events=[{"payload": "yv4=", "event": "pod", "version": None}],
        stack__data__more=None,
    )
    assert decode_attestation(data) == MINIMAL


@pytest.mark.parametrize(
    "changes",
    [
        {"version": "1"},
        {"version": True},
        {"platform": []},
        {"platform": {"kind": 1, "data": {}}},
        {"platform": {"kind": "tdx", "data": []}},
        {"platform__data__quote": [1, 256]},
        {"platform__data__quote": [1, None]},
        {"platform__data__quote": 1},
        {"platform__data__quote": None},
        {"platform__data__quote": "no base64"},
        {"platform__data__event_log": {}},
        {"platform__data__event_log": [1]},
        {"platform__data__event_log": [{}]},
        {"stack": 1},
        {"stack__kind": None},
        {"stack__data": []},
        {"stack__kind": "dstack-pod"},
        {"stack__data__report_data": bytes(63)},
        {"stack__data__report_data": bytes(65)},
        {"stack__data__runtime_events": None},
        {"stack__data__runtime_events": [[]]},
        {"stack__data__runtime_events": [{"event": b"x", "payload": b""}]},
        {"stack__data__config": b"{}"},
    ],
)
def test_rule_5_members_of_another_type_are_malformed(changes: dict[str, object]) -> None:
    with pytest.raises(EvidenceError) as error:
        decode_attestation(packed(**changes))
    assert error.value.finding.outcome is Outcome.MALFORMED


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x82\xa1a\x01\xa1a\x02", "attestation.duplicate-member"),
        (b"\x81\x01\x02", "attestation.not-msgpack"),
        (b"\x81\xa1a\xc7\x00\x05", "attestation.not-msgpack"),
        (b"\x81\xa1a\xd6\xff\x00\x00\x00\x00", "attestation.member"),  # a timestamp is read, then not used
        (b"\x81\xa1a\xa1\xff", "attestation.not-msgpack"),
        (b"\x81\xa1a" + b"\x91" * 2000, "attestation.not-msgpack"),
        (b"\x81\xa1a\xdd\x00\x01\x00\x01" + b"\x01" * 65537, "attestation.not-msgpack"),
        (b"\x81\xc1", "attestation.not-msgpack"),
    ],
)
def test_bad_messagepack_is_refused(data: bytes, code: str) -> None:
    with pytest.raises(EvidenceError) as error:
        decode_attestation(data)
    assert support.refusal(error) == (code, Outcome.MALFORMED)


def test_messagepack_has_a_bound_on_its_containers() -> None:
    row = b"\xdc\xff\xff" + b"\x90" * 65535
    with pytest.raises(EvidenceError) as error:
        decode_attestation(b"\x81\xa1a\x94" + row * 4)
    assert support.refusal(error) == ("attestation.too-long", Outcome.MALFORMED)
    with pytest.raises(EvidenceError) as error:
        decode_attestation(b"\x81\xa1a\x93" + row * 3)
    assert support.refusal(error) == ("attestation.member", Outcome.MALFORMED)


def test_messagepack_of_other_documents_has_their_bound() -> None:
    assert strictmsgpack.load(b"\xc4\x02ab", "thing", limit=4) == b"ab"
    with pytest.raises(EvidenceError) as error:
        strictmsgpack.load(b"\xc4\x03abc", "thing", limit=4)
    assert support.refusal(error) == ("thing.too-long", Outcome.MALFORMED)


@pytest.mark.parametrize("encode", [encode_v0, encode_v1])
def test_report_data_of_another_size_is_misuse(encode: object) -> None:
    assert callable(encode)
    with pytest.raises(MisuseError) as error:
        encode(replace(MINIMAL, report_data=bytes(63)))
    assert support.refusal(error) == ("attestation.report-data", Outcome.MISUSE)


POD = replace(
    MINIMAL,
    stack="dstack-pod",
    report_data=hashlib.sha512(b"app-data:payload").digest(),
    report_data_payload="payload",
)


def test_a_pod_is_read_as_it_was_written() -> None:
    assert decode_attestation(encode_v1(POD)) == POD
    assert msgpack.unpackb(encode_v1(POD))["stack"]["data"]["report_data_payload"] == "payload"


def test_a_pod_without_payload_is_misuse() -> None:
    with pytest.raises(MisuseError) as error:
        encode_v1(replace(POD, report_data_payload=None))
    assert support.refusal(error) == ("attestation.no-payload", Outcome.MISUSE)


def test_the_report_data_of_a_pod_is_bound_to_its_payload() -> None:
    good = POD.report_data.hex()
    assert check_payload_binding(MINIMAL) == ()
    assert check_payload_binding(POD) == (
        Finding("attestation.payload-binding", "report data of a pod", Outcome.ACCEPTED, good, good),
    )
    assert check_payload_binding(replace(POD, report_data=bytes(64))) == (
        Finding("attestation.payload-binding", "report data of a pod", Outcome.REJECTED, good, "00" * 64),
    )
    assert not check_payload_binding(replace(POD, report_data_payload=None))[0].ok


ATTESTATIONS = st.builds(
    Attestation,
    quote=st.binary(max_size=300),
    event_log=st.lists(support.events, max_size=4).map(tuple),
    runtime_events=st.lists(support.runtime_events, max_size=4).map(tuple),
    report_data=st.binary(min_size=64, max_size=64),
    config=support.names,
)


@given(ATTESTATIONS)
def test_decoding_undoes_encoding(attestation: Attestation) -> None:
    assert decode_attestation(encode_attestation(attestation)) == attestation
    assert decode_attestation(encode_v1(attestation)) == attestation


@given(ATTESTATIONS, st.binary(max_size=300))
def test_a_frame_gives_what_the_encoder_gives(attestation: Attestation, quote: bytes) -> None:
    frame = AttestationFrame(attestation.event_log, attestation.runtime_events, attestation.config)
    for one in (attestation, replace(attestation, quote=quote, report_data=bytes(64))):
        assert frame.whole(one.quote, one.report_data) == encode_attestation(one)


@pytest.mark.parametrize("of", [MINIMAL, MINIMAL_V2], ids=["v0", "v1"])
def test_a_frame_refuses_report_data_of_another_size(of: Attestation) -> None:
    with pytest.raises(MisuseError) as error:
        AttestationFrame(of.event_log, of.runtime_events, of.config).whole(b"", bytes(65))
    assert support.refusal(error) == ("attestation.report-data", Outcome.MISUSE)


@given(ATTESTATIONS)
def test_rule_4_v0_is_written_as_it_was_read(attestation: Attestation) -> None:
    version_1 = replace(
        attestation,
        event_log=tuple(replace(e, version=1, preimage=None) for e in attestation.event_log),
        runtime_events=tuple(replace(e, version=1) for e in attestation.runtime_events),
    )
    data = encode_v0(version_1)
    assert decode_attestation(data) == version_1
    assert encode_v0(decode_attestation(data)) == data


@given(st.binary(max_size=300), st.sampled_from([b"", b"\0\0", V0[:20], V1[:60], b"\x83\xa7version\x01"]))
def test_arbitrary_bytes_raise_only_evidence_errors(data: bytes, head: bytes) -> None:
    with suppress(EvidenceError):
        decode_attestation(head + data)


@given(st.sampled_from([V0, V1, V1_V2]), st.integers(0, 400), st.integers(0, 255))
def test_a_changed_byte_raises_only_evidence_errors(data: bytes, place: int, byte: int) -> None:
    place %= len(data)
    with suppress(EvidenceError):
        decode_attestation(data[:place] + bytes([byte]) + data[place + 1 :])


@pytest.mark.parametrize("name", ["simulator-attestation.bin", "tdx-lite-attestation.json"])
def test_published_attestations_are_read_and_written_to_the_byte(name: str) -> None:
    data = support.sample(name)
    if name.endswith(".json"):
        data = bytes.fromhex(json.loads(data)["attestation"])
    attestation = decode_attestation(data)
    assert encode_attestation(attestation) == data
    assert decode_attestation(encode_v1(attestation)) == attestation
    body = parse_quote(attestation.quote).body
    assert isinstance(body, TdReport)
    assert body.report_data == attestation.report_data
    assert replay_runtime(attestation.runtime_events) == body.rt_mr3


def test_the_published_simulator_attestation_is_that_of_guest_agent_11_2() -> None:
    data = support.sample("simulator-attestation.bin")
    assert (
        hashlib.sha256(data).hexdigest() == "d5b080ace6287e8957ead34c3a68f156cfb30bd22c2f5c2ebb48348e3fa70456"
    )
    attestation = decode_attestation(data)
    assert (len(data), len(attestation.quote), len(attestation.event_log)) == (9504, 5010, 33)
    assert attestation.runtime_events == support.FIXTURE_EVENTS
    assert attestation.report_data == data[8885:8949]
