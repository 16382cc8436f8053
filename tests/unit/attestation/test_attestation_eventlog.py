"""Event logs; the numbers in test names are the rules of `eventlog`."""

import json
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import attestation_support as support
from teehouse.attestation import eventlog
from teehouse.attestation.eventlog import (
    Event,
    RuntimeEvent,
    check_event_log,
    encode_event_log,
    name_boot_events,
    parse_event_log,
    replay,
    replay_runtime,
    runtime_events,
    strip_for_certificate,
    strip_for_quote,
)
from teehouse.base.findings import EvidenceError, Finding, MisuseError, Outcome

BOOT = Event(1, 0x80000003, support.counting(48, 1), "", b"\x01\x02")
RUNTIME = Event.runtime(RuntimeEvent("app-id", b"\xde\xad\xbe\xef"))
RUNTIME_V2 = Event.runtime(RuntimeEvent("compose-hash", b"\xab\xcd", 2))

# guest-agent.md 19.5, "Event digests".
DIGESTS = [
    (
        RuntimeEvent("app-id", b"\xde\xad\xbe\xef"),
        "67b4be4efed0893cfa2bb1d35dca209ad8348b4c97f980807bcde8b9a0f26398dd0923d6eccb5aa2096d98046da8740f",
    ),
    (
        RuntimeEvent("custom-event", b"\xde\xad\xbe\xef"),
        "932d89c58e4b06531792f52cae148160c71aed5eef155b3294b2ca88e85b4b9b96753526c082a4cf90fd39ffe6ee2fd9",
    ),
    (
        RuntimeEvent("compose-hash", b"\xab\xcd", 2),
        "9dde1673f544faa94b921825209593ddde08d0baf9cd6990175dffaf3081f1bb10311d56de189491feb33842a050ad7b",
    ),
    (
        RuntimeEvent("custom-event", b"\xde\xad\xbe\xef", 2),
        "0397bec040fb740332f419ef403866add120e74f0c459c53d68c491ef7a00e5a146122ec3fa6ae262a8188db661336fe",
    ),
    # The same section, "RTMR3 events" of the published simulator.
    *zip(
        support.FIXTURE_EVENTS,
        (
            "f9974020ef507068183313d0ca808e0d1ca9b2d1ad0c61f5784e7157c362c06536f5ddacdad4451693f48fcc72fff624",
            "ddd202447c612b8bb8723d2ce3b9882b7cfc0ede203c36b15639cc80b181b61a7692850c5333a1c6effef82a73d0a4f2",
            "d8b35b90041c4a31c3b6b46c95a902cf45b25aa8cde3b94a48543c2cb36bc40028c553a8899349e4a47658c6087f2c5f",
            "33a612f97b0923a36f64db28aaad100f6def4a836e5a8e55f410c215701f1fdb956046fa81817fd73a3ca62a574303b3",
            "98bd7e6bd3952720b65027fd494834045d06b4a714bf737a06b874638b3ea00ff402f7f583e3e3b05e921c8570433ac6",
            "e35295dc3179aa63a70720ae3e8b3306133717774cca19650d2c2d5c9ae9532359e3a5616703cbca902c6f25940b99bc",
            "cc0ae424f1335f3059359f712f72f0aebee7a01fba2e4d527f3ea9299bac808a3ea1f8ae2982875fb3c9697fd6f4a5f2",
            "ba51104636900268b0e059fa3d266419d079d1e94aea26fb9fcbb8d764bf4c89a67ac271b8a0d1a3989945132a111fc7",
            "1a76b2a80a0be71eae59f80945d876351a7a3fb8e9fd1ff1cede5734aa84ea11fd72b4edfbb6f04e5a85edd114c751bd",
        ),
        strict=True,
    ),
]


@pytest.mark.parametrize(("event", "digest"), DIGESTS)
def test_digests_are_those_of_guest_agent_19_5(event: RuntimeEvent, digest: str) -> None:
    assert event.digest().hex() == digest


def test_preimages_are_those_of_guest_agent_10_2() -> None:
    assert RuntimeEvent("a", b"\x01").preimage() == b"\x01\x00\x00\x08:a:\x01"
    assert (
        RuntimeEvent("compose-hash", b"\xab\xcd", 2).preimage()
        == b'{"name":"compose-hash","payload":"abcd","type":134217729}'
    )


def test_a_version_2_preimage_escapes_as_jcs_does() -> None:
    # RFC 8785 3.2.2.2: short escapes where JSON has them, \u00xx for other controls, UTF-8 for the rest.
    event = RuntimeEvent('\b\t\n\f\r"\\/\x00\x1f\x7f\u20ac\U0001f600', b"", 2)
    expected = (
        '{"name":"\\b\\t\\n\\f\\r\\"\\\\/\\u0000\\u001f\x7f\u20ac\U0001f600","payload":"","type":134217729}'
    )
    assert event.preimage() == expected.encode()


@pytest.mark.parametrize(
    ("event", "code"),
    [
        (RuntimeEvent("x", b"", 3), "eventlog.event-version"),
        (RuntimeEvent("\ud800", b""), "eventlog.event-name"),
    ],
)
def test_what_cannot_be_hashed_is_misuse(event: RuntimeEvent, code: str) -> None:
    with pytest.raises(MisuseError) as error:
        event.digest()
    assert support.refusal(error) == (code, Outcome.MISUSE)


@pytest.mark.parametrize(
    ("events", "register"),
    [  # guest-agent.md 19.5
        (support.FIXTURE_EVENTS, support.FIXTURE_RTMR3),
        (
            support.FIXTURE_EVENTS[:1],
            "6a9a63f48733aba50d6892c873d838f97351040ddb0b497dcbdb0571ad78d0c1f1b8b3e87a9719706604b6cc5faedee0",
        ),
        (
            support.FIXTURE_EVENTS[:5],
            "161d4d87fecefcad09ed96ba8f901e58eca0f422b8155e2829ef94ce084a757e88c7f4be29df017ed72531e8efb643b7",
        ),
        (
            (*support.FIXTURE_EVENTS, RuntimeEvent("custom-event", b"\xde\xad\xbe\xef")),
            "87011118dfacc07eee7f4e904bc8ca532a93c43f705246f52d9ba37933d9da5e864047d94cdd04545cb5aca3cb1f9d19",
        ),
        (
            (*support.FIXTURE_EVENTS, RuntimeEvent("custom-event", b"\xde\xad\xbe\xef", 2)),
            "08b9fe1daa637640453c1fa171a97bf13038f963cb353880955df9aa0f9976e14c209aacb301622c1256081c30b89a5f",
        ),
        ((), "00" * 48),
    ],
)
def test_replay_is_that_of_guest_agent_19_5(events: tuple[RuntimeEvent, ...], register: str) -> None:
    assert replay_runtime(events).hex() == register
    log = [BOOT, *(replace(Event.runtime(event), digest=b"") for event in events), BOOT]
    assert replay(log, 3).hex() == register


def test_replay_believes_no_digest_of_a_runtime_event() -> None:
    assert replay([replace(RUNTIME, digest=bytes(48))], 3) == replay([RUNTIME], 3)


def test_replay_takes_the_digests_of_boot_events_and_only_of_its_register() -> None:
    from teehouse.base.hashes import sha384

    assert replay([BOOT, replace(BOOT, imr=2), RUNTIME], 1) == sha384(bytes(48) + BOOT.digest)


@pytest.mark.parametrize("digest", [b"", bytes(32)])
def test_replay_refuses_a_boot_event_without_a_whole_digest(digest: bytes) -> None:
    with pytest.raises(EvidenceError) as error:
        replay([replace(BOOT, digest=digest)], 1)
    assert support.refusal(error) == ("eventlog.digest-size", Outcome.MALFORMED)


def test_json_has_the_members_of_guest_agent_10_3_in_their_order() -> None:
    assert encode_event_log([BOOT, RUNTIME, replace(RUNTIME, digest=b"")]) == (
        f'[{{"imr":1,"event_type":2147483651,"digest":"{BOOT.digest.hex()}","event":"","event_payload":"0102"}},'
        f'{{"imr":3,"event_type":134217729,"digest":"{RUNTIME.digest.hex()}","event":"app-id","event_payload":"deadbeef"}},'
        '{"imr":3,"event_type":134217729,"digest":"","event":"app-id","event_payload":"deadbeef"}]'
    )


def test_json_of_a_version_2_event_has_version_and_preimage() -> None:
    preimage = b'{"name":"compose-hash","payload":"abcd","type":134217729}'
    assert json.loads(encode_event_log([RUNTIME_V2])) == [
        {
            "imr": 3,
            "event_type": 134217729,
            "digest": DIGESTS[2][1],
            "event": "compose-hash",
            "event_payload": "abcd",
            "version": 2,
            "preimage": preimage.hex(),
        }
    ]


def test_json_is_ascii() -> None:
    assert encode_event_log([Event.runtime(RuntimeEvent("\u20ac", b""))]).isascii()


@given(st.lists(support.events, max_size=6))
def test_parsing_undoes_encoding(events: list[Event]) -> None:
    text = encode_event_log(events)
    assert parse_event_log(text) == tuple(events)
    assert parse_event_log(text.encode()) == tuple(events)


def test_members_may_be_missing_null_or_unknown() -> None:
    assert parse_event_log('[{"imr":0,"event_type":4,"version":null,"preimage":null,"more":[1]}]') == (
        Event(0, 4, b""),
    )


def good(**changes: object) -> str:
    item: dict[str, object] = {"imr": 3, "event_type": 1, "digest": "", "event": "", "event_payload": ""}
    return json.dumps([{**item, **changes}])


@pytest.mark.parametrize(
    ("text", "code", "outcome"),
    [
        ("{}", "eventlog.not-list", Outcome.MALFORMED),
        ("[1]", "eventlog.not-object", Outcome.MALFORMED),
        ("[", "eventlog.not-json", Outcome.MALFORMED),
        ("[NaN]", "eventlog.not-json", Outcome.MALFORMED),
        (b"[\xff]", "eventlog.not-json", Outcome.MALFORMED),
        ("[" * 100_000, "eventlog.not-json", Outcome.MALFORMED),
        ('[{"imr":0,"imr":0}]', "eventlog.duplicate-member", Outcome.MALFORMED),
        (good(imr=4), "eventlog.member", Outcome.MALFORMED),
        (good(imr=-1), "eventlog.member", Outcome.MALFORMED),
        (good(imr=True), "eventlog.member", Outcome.MALFORMED),
        (good(imr="3"), "eventlog.member", Outcome.MALFORMED),
        (good(imr=None), "eventlog.member", Outcome.MALFORMED),
        (good(event_type=1 << 32), "eventlog.member", Outcome.MALFORMED),
        (good(event_type=10**4000), "eventlog.member", Outcome.MALFORMED),
        (good(digest="ab"), "eventlog.digest-size", Outcome.MALFORMED),
        (good(digest="a" * 95), "eventlog.not-hex", Outcome.MALFORMED),
        (good(digest=7), "eventlog.member", Outcome.MALFORMED),
        (good(event_payload="de ad"), "eventlog.not-hex", Outcome.MALFORMED),
        (good(event_payload="0xad"), "eventlog.not-hex", Outcome.MALFORMED),
        (good(event_payload="ad\n"), "eventlog.not-hex", Outcome.MALFORMED),
        (good(event="\ud800"), "eventlog.not-utf8", Outcome.MALFORMED),
        (good(event=[]), "eventlog.member", Outcome.MALFORMED),
        (good(version=3), "eventlog.event-version", Outcome.UNSUPPORTED),
        (good(version=0), "eventlog.event-version", Outcome.UNSUPPORTED),
        (good(version="2"), "eventlog.member", Outcome.MALFORMED),
        (good(preimage="x"), "eventlog.not-hex", Outcome.MALFORMED),
    ],
)
def test_bad_logs_are_refused(text: str | bytes, code: str, outcome: Outcome) -> None:
    with pytest.raises(EvidenceError) as error:
        parse_event_log(text)
    assert support.refusal(error) == (code, outcome)


def test_a_log_of_the_limit_is_read_and_one_character_more_is_not() -> None:
    longest = "[]".ljust(eventlog.LOG_LIMIT)
    assert parse_event_log(longest) == ()
    with pytest.raises(EvidenceError) as error:
        parse_event_log(longest + " ")
    assert support.refusal(error) == ("eventlog.too-long", Outcome.MALFORMED)


def test_as_many_events_as_the_limit_are_read_and_one_more_is_not() -> None:
    item = '{"imr":0,"event_type":4}'
    assert len(parse_event_log("[" + ",".join([item] * eventlog.EVENT_LIMIT) + "]")) == eventlog.EVENT_LIMIT
    with pytest.raises(EvidenceError) as error:
        parse_event_log("[" + ",".join([item] * (eventlog.EVENT_LIMIT + 1)) + "]")
    assert support.refusal(error) == ("eventlog.too-long", Outcome.MALFORMED)


@given(st.one_of(st.text(max_size=60), st.binary(max_size=60)))
def test_arbitrary_text_raises_only_evidence_errors(text: str | bytes) -> None:
    with suppress(EvidenceError):
        parse_event_log(text)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
MEMBERS = st.sampled_from(["imr", "event_type", "digest", "event", "event_payload", "version", "preimage"])


@given(st.lists(st.dictionaries(MEMBERS, JSON_VALUES | st.integers(0, 3), max_size=7), max_size=3))
def test_arbitrary_events_raise_only_evidence_errors(items: list[dict[str, object]]) -> None:
    with suppress(EvidenceError):
        check_event_log(parse_event_log(json.dumps(items)))


def test_boot_events_are_named_in_order_and_only_the_first_three() -> None:
    acpi = support.acpi_events()
    others = (
        replace(acpi[0], event_payload=b"QEMU FW CFG"),
        replace(acpi[0], imr=1),
        replace(acpi[0], event_type=4),
    )
    named = name_boot_events((BOOT, acpi[0], *others, acpi[1], acpi[2], acpi[0], RUNTIME))
    assert named == (
        BOOT,
        replace(acpi[0], event="acpi-loader"),
        *others,
        replace(acpi[1], event="acpi-rsdp"),
        replace(acpi[2], event="acpi-tables"),
        acpi[0],
        RUNTIME,
    )


def test_beside_a_quote_boot_events_lose_their_payload_and_runtime_events_have_their_digest() -> None:
    acpi = name_boot_events(support.acpi_events())
    assert strip_for_quote((BOOT, *acpi, replace(RUNTIME, digest=b""), RUNTIME_V2)) == (
        replace(BOOT, event_payload=b""),
        *acpi,
        RUNTIME,
        RUNTIME_V2,
    )


def test_in_a_certificate_only_register_3_and_the_acpi_events_remain() -> None:
    acpi = name_boot_events(support.acpi_events())
    stray = replace(BOOT, imr=3)
    assert strip_for_certificate((BOOT, *acpi, replace(RUNTIME, digest=b""), stray)) == (
        *acpi,
        RUNTIME,
        stray,
    )


def test_runtime_events_of_a_log_are_those_of_the_runtime_type() -> None:
    assert runtime_events((BOOT, RUNTIME, RUNTIME_V2, replace(BOOT, imr=3))) == (
        RuntimeEvent("app-id", b"\xde\xad\xbe\xef"),
        RuntimeEvent("compose-hash", b"\xab\xcd", 2),
    )


def test_a_consistent_log_passes() -> None:
    events = (BOOT, *support.acpi_events(), RUNTIME, replace(RUNTIME, digest=b""), RUNTIME_V2)
    events = (*events, replace(RUNTIME_V2, preimage=None))
    assert check_event_log(events) == (
        Finding("eventlog.consistent", "event log", found="8 consistent events"),
    )
    assert check_event_log(()) == (Finding("eventlog.consistent", "event log", found="0 consistent events"),)


RULES = [
    (
        replace(RUNTIME, imr=1),
        Finding(
            "eventlog.runtime-register",
            "event 1",
            Outcome.REJECTED,
            "runtime events in register 3 only",
            "register 1, type 0x08000001",
            check="1",
        ),
    ),
    (
        replace(BOOT, imr=3),
        Finding(
            "eventlog.runtime-type",
            "event 1",
            Outcome.REJECTED,
            "type 0x08000001 in register 3",
            "register 3, type 0x80000003",
            check="2",
        ),
    ),
    (
        replace(BOOT, digest=b""),
        Finding("eventlog.digest-size", "digest of event 1", Outcome.MALFORMED, "48 bytes", "0", check="3"),
    ),
    (
        replace(RUNTIME, digest=bytes(48)),
        Finding(
            "eventlog.digest",
            'digest of event 1, "app-id"',
            Outcome.REJECTED,
            RUNTIME.digest.hex(),
            "00" * 48,
            check="4",
        ),
    ),
    (
        replace(RUNTIME_V2, preimage=b"{}"),
        Finding(
            "eventlog.preimage",
            "preimage of event 1",
            Outcome.REJECTED,
            RuntimeEvent("compose-hash", b"\xab\xcd", 2).preimage().hex(),
            "7b7d",
            check="5",
        ),
    ),
    (
        replace(BOOT, preimage=b"{}"),
        Finding("eventlog.preimage", "preimage of event 1", Outcome.REJECTED, "none", "7b7d", check="5"),
    ),
]


@pytest.mark.parametrize(("event", "finding"), RULES)
def test_each_rule_has_its_finding(event: Event, finding: Finding) -> None:
    assert check_event_log((RUNTIME, event, event)) == (finding,)


def test_all_broken_rules_are_told_in_order() -> None:
    events = [event for event, _ in reversed(RULES)]
    assert [finding.check for finding in check_event_log(events)] == ["1", "2", "3", "4", "5"]


def test_a_runtime_digest_of_another_size_breaks_rules_3_and_4() -> None:
    findings = check_event_log((replace(RUNTIME, digest=b"\xaa\xbb"),))
    assert [finding.code for finding in findings] == ["eventlog.digest-size", "eventlog.digest"]
