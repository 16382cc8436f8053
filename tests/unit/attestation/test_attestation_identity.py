"""Identities; the numbers in test names are the rules of `identity`, or of `mrconfig` where it is named."""

import hashlib
import json
from contextlib import suppress
from dataclasses import replace

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import attestation_support as support
from teehouse.attestation import identity, mrconfig
from teehouse.attestation.eventlog import RuntimeEvent
from teehouse.attestation.identity import (
    AppInfo,
    ConfiguredIdentity,
    KeyProvider,
    app_info,
    check_mr_config_id,
    decode_app_info,
    derive_app_id,
    derive_instance_id,
    device_id,
    encode_app_info,
    identity_payload,
    mr_config_id_v1,
    mr_config_id_v2,
    mr_config_id_v3,
    parse_key_provider,
    report_data,
)
from teehouse.base.findings import EvidenceError, Finding, MisuseError, Outcome
from teehouse.base.hashes import keccak256

MR_CONFIG_ID = b"\x01" + support.COMPOSE_HASH + bytes(15)
TD = support.td_report(
    mr_td=bytes.fromhex(support.FIXTURE_MRTD),
    mr_config_id=MR_CONFIG_ID,
    rt_mr0=bytes.fromhex(support.FIXTURE_RTMR0),
    rt_mr1=bytes.fromhex(support.FIXTURE_RTMR1),
    rt_mr2=bytes.fromhex(support.FIXTURE_RTMR2),
    rt_mr3=bytes.fromhex(support.FIXTURE_RTMR3),
)
EVENTS = support.FIXTURE_EVENTS
DEVICE = hashlib.sha256(b"ppid").digest()
INFO = AppInfo(
    app_id=support.APP_ID,
    compose_hash=support.COMPOSE_HASH,
    instance_id=support.INSTANCE_ID,
    device_id=DEVICE,
    mr_system=bytes.fromhex("51ea38f8eee6dc72dbae9b74531ae6d6204295d265dabb4e6c34621a2a1a1197"),
    mr_aggregated=bytes.fromhex("85334a62c97d0f8bf82d0245d31b539d17a2d7c258e2a13efc928aaea0e107cb"),
    os_image_hash=support.OS_IMAGE_HASH,
    key_provider_info=support.KEY_PROVIDER_INFO,
    init_script_hashes=(),
)


def test_the_identity_of_the_published_fixture_is_that_of_guest_agent_19_5() -> None:
    assert app_info(TD, EVENTS, support.OS_IMAGE_HASH, DEVICE) == INFO


def test_rule_3_the_boot_time_identity_is_that_of_guest_agent_19_5() -> None:
    assert app_info(TD, EVENTS, support.OS_IMAGE_HASH, DEVICE, boottime=True) == replace(
        INFO,
        mr_system=bytes.fromhex("ef6af583432288c877e412740aa7d8a844a18920ad98e9b1d95d42a07a3044c8"),
        mr_aggregated=bytes.fromhex("787f9fe525fcb61e81f31a30225a86674412088f2f1b683a421a7e9cbcd40551"),
        key_provider_info=b"",
    )


def test_rule_3_what_comes_after_boot_mr_done_does_not_change_the_boot_time_identity() -> None:
    whole = app_info(TD, EVENTS, support.OS_IMAGE_HASH, DEVICE, boottime=True)
    assert app_info(TD, EVENTS[:5], support.OS_IMAGE_HASH, DEVICE, boottime=True) == whole
    # Before there is a key provider, the identity is the boot-time one.
    assert app_info(TD, EVENTS[:5], support.OS_IMAGE_HASH, DEVICE) == whole


def test_rule_3_boot_mr_done_must_be_there_and_not_after_system_ready() -> None:
    late = (*EVENTS[:4], *EVENTS[5:], RuntimeEvent("boot-mr-done", b""))
    for events in (EVENTS[:4], late):
        with pytest.raises(EvidenceError) as error:
            app_info(TD, events, support.OS_IMAGE_HASH, DEVICE, boottime=True)
        assert support.refusal(error) == ("identity.event-missing", Outcome.REJECTED)


def test_owner_fields_count_only_when_one_of_them_is_set() -> None:
    def aggregated(**fields: bytes) -> bytes:
        td = replace(TD, mr_config_id=bytes(48))
        td = replace(td, **fields)  # type: ignore[arg-type]  # the fields named here are bytes
        return app_info(td, EVENTS, support.OS_IMAGE_HASH, DEVICE).mr_aggregated

    boot = TD.mr_td + TD.rt_mr0 + TD.rt_mr1 + TD.rt_mr2 + TD.rt_mr3
    one = b"\x01" + bytes(47)
    assert aggregated() == hashlib.sha256(boot).digest()
    assert aggregated(mr_config_id=one) == hashlib.sha256(boot + one + bytes(96)).digest()
    assert aggregated(mr_owner=one) == hashlib.sha256(boot + bytes(48) + one + bytes(48)).digest()
    assert aggregated(mr_owner_config=one) == hashlib.sha256(boot + bytes(96) + one).digest()


def test_init_script_hashes_are_listed_in_order() -> None:
    scripts = tuple(RuntimeEvent("init-script-hash", bytes([n]) * 32) for n in (2, 1))
    events = (*EVENTS[:3], *scripts, *EVENTS[3:], RuntimeEvent("init-script-hash", bytes(32)))
    info = app_info(TD, events, support.OS_IMAGE_HASH, DEVICE)
    assert info.init_script_hashes == (b"\x02" * 32, b"\x01" * 32)


def test_rule_1_the_first_event_before_system_ready_counts() -> None:
    events = (
        RuntimeEvent("app-id", b"first"),
        RuntimeEvent("app-id", b"second"),
        RuntimeEvent("system-ready", b"now"),
        RuntimeEvent("compose-hash", b"late"),
    )
    assert identity_payload(events, "app-id") == b"first"
    assert identity_payload(events, "system-ready") == b"now"
    assert identity_payload(events, "compose-hash") is None


@pytest.mark.parametrize(
    ("events", "code", "subject"),
    [
        ((), "identity.event-missing", "event app-id"),
        (EVENTS[:2], "identity.event-missing", "event compose-hash"),
        ((RuntimeEvent("system-ready", b""), *EVENTS), "identity.event-missing", "event app-id"),
        ((RuntimeEvent("app-id", bytes(19)), *EVENTS), "identity.event-size", "payload of event app-id"),
        (
            (RuntimeEvent("compose-hash", b""), *EVENTS),
            "identity.event-size",
            "payload of event compose-hash",
        ),
        (
            (RuntimeEvent("instance-id", bytes(19)), *EVENTS),
            "identity.event-size",
            "payload of event instance-id",
        ),
    ],
)
def test_rule_2_an_identity_without_its_events_is_rejected(
    events: tuple[RuntimeEvent, ...], code: str, subject: str
) -> None:
    with pytest.raises(EvidenceError) as error:
        app_info(TD, events, support.OS_IMAGE_HASH, DEVICE)
    assert support.refusal(error) == (code, Outcome.REJECTED)
    assert error.value.finding.subject == subject


def test_rule_2_an_instance_may_have_no_id() -> None:
    empty = (RuntimeEvent("instance-id", b""), *EVENTS)
    absent = (*EVENTS[:3], *EVENTS[4:])
    for events in (empty, absent):
        assert app_info(TD, events, support.OS_IMAGE_HASH, DEVICE).instance_id == b""


def test_derived_ids_are_those_of_trust_8_5() -> None:
    # trust.md 7: PPID and device id of the published quote-report.json.
    ppid = bytes.fromhex("897d3eb76ea887b783f9ad3d0771034b")
    assert device_id(ppid).hex() == "ea0ba482106a22ecb76b59b95fed32b5cc3a81534b27ee01a25a10a87cca7d03"
    assert derive_app_id(b"{}") == hashlib.sha256(b"{}").digest()[:20]
    assert derive_instance_id(b"s" * 20, b"a" * 20) == hashlib.sha256(b"s" * 20 + b"a" * 20).digest()[:20]
    bound = hashlib.sha256(b"s" * 20 + b"a" * 20 + b"host").digest()[:20]
    assert derive_instance_id(b"s" * 20, b"a" * 20, b"host") == bound


# guest-agent.md 19.4
REPORT_DATA = [
    (
        "app-data",
        b"test content",
        "sha512",
        "7ea0b744ed5e9c0c83ff9f575668e1697652cd349f2027cdf26f918d4c53e8cd50b5ea9b449b4c3d50e20ae00ec29688d5a214e8daff8a10041f5d624dae8a01",
    ),
    ("app-data", b"test", "sha256", "a5d2ef1e94583bef4a02b29278af41b662d239beb36937a993108841b6b3c1fc"),
    (
        "app-data",
        b"test",
        "sha384",
        "520c310d0fa18bedd24891ad191a9b785befe672f518d1c1a5b8d4b6cfb4f233815b825aaaa5466334fe6e2fd3f2c6a4",
    ),
    (
        "app-data",
        b"test",
        "sha512",
        "1864e059be7e1ec12d9fe9da903d3711e0d72edab19f044cc9d6ac90c32b996b545a9979309bd19c36b803941e8e3485115e9b794001f2b9f367f6e03c52e532",
    ),
    ("app-data", b"test", "sha3-256", "893acdd0162e33594df56553bea2079b99d7d562284f9eb7fd9458e2add81fe8"),
    (
        "app-data",
        b"test",
        "sha3-384",
        "47b4d35de7240cf179ac5fde22464fa3a076e5142ba0f629b400602b5f2bfe7f01a1bf2d63ef5abbff50a381d7031be3",
    ),
    (
        "app-data",
        b"test",
        "sha3-512",
        "4ffccda90bf80d7dd814350ebd438f5b3b77aab1d387b27967778597794cc696311f5cd0f50697b796f621ee5c78784e5d847953f3f1120c48519ce6e4648b4c",
    ),
    ("app-data", b"test", "keccak256", "b877945563d5025eec520b6bb150efcf4c368c491ff1947529be3125d4e5ecb6"),
    (
        "app-data",
        b"test",
        "keccak384",
        "a551aba3b52b345ceeaba78660e95318fd404f947efa8ce16134a9d7dd370248c7a8cf4711dce74e8c4feb01abb45ea9",
    ),
    (
        "app-data",
        b"test",
        "keccak512",
        "6dd564fe70580e2476e2ecb78ba5f994b83f8178064257bba498dcab267c5c75135c6b8f268d93415ac8662db5104abccd51d30c0500da684a7550ae3f3b71c7",
    ),
    (
        "myapp",
        b"test",
        "sha512",
        "b1ef6f2f4c7bb7eff6e6686d88b3686fd0bfdabd5c93612942a667c02056a3c30f98767d8d8e672a0fd31208c02913f29ea9048c159caef4d0059f9c85ea37af",
    ),
    ("app-data:", b"test", "sha256", "d0f3dd1c34e1c65a62138c6bbfaaac019b18bc85cbed0ecaac6105a1b27d352f"),
]


@pytest.mark.parametrize(("tag", "content", "algorithm", "value"), REPORT_DATA)
def test_report_data_is_that_of_guest_agent_19_4(
    tag: str, content: bytes, algorithm: str, value: str
) -> None:
    assert report_data(tag, content, algorithm).hex() == value.ljust(128, "0")


def test_report_data_defaults_to_sha512_and_raw_is_taken_as_it_is() -> None:
    assert report_data("app-data", b"test") == report_data("app-data", b"test", "sha512")
    assert report_data("app-data", b"\x09" * 64, "raw") == b"\x09" * 64


@pytest.mark.parametrize(
    ("content", "algorithm", "text"),
    [
        (bytes(63), "raw", "invalid content length"),
        (bytes(65), "raw", "invalid content length"),
        (b"", "SHA512", "invalid hash algorithm"),
        (b"", "md5", "invalid hash algorithm"),
        (b"", "", "invalid hash algorithm"),
    ],
)
def test_bad_report_data_is_misuse_in_the_words_of_guest_agent_5_3(
    content: bytes, algorithm: str, text: str
) -> None:
    with pytest.raises(MisuseError) as error:
        report_data("app-data", content, algorithm)
    assert error.value.finding.subject == text
    assert str(error.value) == text


# --- the app info extension; guest-agent.md 19.7
EXTENSION = bytes.fromhex(
    "99c4141111111111111111111111111111111111111111c4202222222222222222222222222222222222222222222222222222222222222222c4143333333333"
    "333333333333333333333333333333c420e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855c42000000000000000000000000000"
    "00000000000000000000000000000000000000c4200000000000000000000000000000000000000000000000000000000000000000c420444444444444444444"
    "4444444444444444444444444444444444444444444444c4177b226e616d65223a226e6f6e65222c226964223a22227d90"
)
EXTENSION_INFO = AppInfo(
    app_id=b"\x11" * 20,
    compose_hash=b"\x22" * 32,
    instance_id=b"\x33" * 20,
    device_id=hashlib.sha256(b"").digest(),
    mr_system=bytes(32),
    mr_aggregated=bytes(32),
    os_image_hash=b"\x44" * 32,
    key_provider_info=b'{"name":"none","id":""}',
    init_script_hashes=(),
)


def test_the_extension_of_guest_agent_19_7_is_read_and_written() -> None:
    assert len(EXTENSION) == 241
    assert encode_app_info(EXTENSION_INFO) == EXTENSION
    assert decode_app_info(EXTENSION) == EXTENSION_INFO


def test_an_absent_script_list_ends_in_nil() -> None:
    older = replace(EXTENSION_INFO, init_script_hashes=None)
    assert encode_app_info(older) == EXTENSION[:-1] + b"\xc0"
    assert decode_app_info(encode_app_info(older)) == older


def test_eight_elements_and_maps_are_read() -> None:
    older = replace(EXTENSION_INFO, init_script_hashes=None)
    assert decode_app_info(b"\x98" + EXTENSION[1:-1]) == older
    names = AppInfo.__dataclass_fields__
    members = {name: getattr(EXTENSION_INFO, name) for name in names}
    assert decode_app_info(msgpack.packb(members)) == EXTENSION_INFO
    del members["init_script_hashes"]
    assert decode_app_info(msgpack.packb({**members, "more": 1})) == older
    assert decode_app_info(msgpack.packb({**members, "app_id": [0x11] * 20})) == older


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "app-info.not-msgpack"),
        (EXTENSION[:-2], "app-info.not-msgpack"),
        (EXTENSION + b"\0", "app-info.not-msgpack"),
        (b"\xc0", "app-info.shape"),
        (b"\x90", "app-info.shape"),
        (msgpack.packb([b""] * 7), "app-info.shape"),
        (msgpack.packb([b""] * 10), "app-info.shape"),
        (msgpack.packb([None] * 9), "app-info.member"),
        (msgpack.packb([b""] * 9), "app-info.member"),
        (msgpack.packb([b""] * 8 + [[1]]), "app-info.member"),
        (msgpack.packb({}), "app-info.member"),
    ],
)
def test_bad_extensions_are_refused(data: bytes, code: str) -> None:
    with pytest.raises(EvidenceError) as error:
        decode_app_info(data)
    assert support.refusal(error) == (code, Outcome.MALFORMED)


def test_an_extension_of_the_limit_is_read_and_one_byte_more_is_not() -> None:
    room = identity.APP_INFO_LIMIT - len(EXTENSION) + len(EXTENSION_INFO.key_provider_info) - 1
    longest = replace(EXTENSION_INFO, key_provider_info=bytes(room))
    assert len(encode_app_info(longest)) == identity.APP_INFO_LIMIT
    assert decode_app_info(encode_app_info(longest)) == longest
    with pytest.raises(EvidenceError) as error:
        decode_app_info(encode_app_info(replace(longest, key_provider_info=bytes(room + 1))))
    assert support.refusal(error) == ("app-info.too-long", Outcome.MALFORMED)


OCTETS = st.binary(max_size=40)
SCRIPTS = st.none() | st.lists(OCTETS, max_size=3).map(tuple)


@given(st.builds(AppInfo, *[OCTETS] * 8, init_script_hashes=SCRIPTS))
def test_decoding_undoes_encoding(info: AppInfo) -> None:
    assert decode_app_info(encode_app_info(info)) == info


@given(st.binary(max_size=300))
def test_arbitrary_bytes_raise_only_evidence_errors(data: bytes) -> None:
    for read in (decode_app_info, parse_key_provider):
        with suppress(EvidenceError):
            read(data)


# --- MR_CONFIG_ID

KMS = parse_key_provider(support.KEY_PROVIDER_INFO)
CONFIGURED = ConfiguredIdentity(
    compose_hash=support.COMPOSE_HASH,
    app_id=support.APP_ID,
    key_provider=KMS,
    instance_id=support.INSTANCE_ID,
    init_script_hashes=(b"\x01" * 32,),
    gpu_policy_hash=b"\x02" * 32,
)


def test_a_key_provider_is_read() -> None:
    assert (KMS.name, KMS.kind, len(KMS.id)) == ("kms", 2, 91)
    assert parse_key_provider(b'{"name":"none","id":""}') == KeyProvider("none", b"")
    assert [KeyProvider(name, b"").kind for name in ("none", "local-sgx", "kms", "tpm", "other")] == [
        0,
        1,
        2,
        3,
        None,
    ]


@pytest.mark.parametrize(
    ("info", "code"),
    [
        (b"", "key-provider.not-json"),
        (b"[]", "key-provider.not-object"),
        (b'{"name":"kms"}', "key-provider.member"),
        (b'{"name":1,"id":""}', "key-provider.member"),
        (b'{"name":"kms","id":"x"}', "key-provider.not-hex"),
        (b" " * (mrconfig.KEY_PROVIDER_LIMIT + 1), "key-provider.too-long"),
    ],
)
def test_bad_key_providers_are_refused(info: bytes, code: str) -> None:
    with pytest.raises(EvidenceError) as error:
        parse_key_provider(info)
    assert support.refusal(error) == (code, Outcome.MALFORMED)


def test_mr_config_ids_are_those_of_trust_8_6() -> None:
    assert mr_config_id_v1(support.COMPOSE_HASH) == MR_CONFIG_ID  # guest-agent.md 19.5
    inner = keccak256(support.COMPOSE_HASH + support.APP_ID + b"\x02" + KMS.id)
    assert mr_config_id_v2(support.COMPOSE_HASH, support.APP_ID, 2, KMS.id) == b"\x02" + inner + bytes(15)
    hashed = hashlib.sha256(b"dstack-mr-config-v3:\0{}").digest()
    assert mr_config_id_v3(b"{}") == b"\x03" + hashed + bytes(15)


def document(**changes: object) -> bytes:
    members: dict[str, object] = {
        "app_id": support.APP_ID.hex(),
        "compose_hash": support.COMPOSE_HASH.hex(),
        "gpu_policy_hash": "02" * 32,
        "init_script_hashes": ["01" * 32],
        "instance_id": support.INSTANCE_ID.hex(),
        "key_provider": "kms",
        "key_provider_id": KMS.id.hex(),
        "version": 3,
    }
    members.update(changes)
    given_members = {key: value for key, value in members.items() if value is not None}
    return json.dumps(given_members, separators=(",", ":"), sort_keys=True).encode()


V2 = mr_config_id_v2(support.COMPOSE_HASH, support.APP_ID, 2, KMS.id)


def test_mrconfig_rule_1_zero_claims_nothing() -> None:
    assert check_mr_config_id(bytes(48), CONFIGURED) == Finding(
        "mr-config-id", "MR_CONFIG_ID", found="zero: the host fixed nothing", check="1"
    )


@pytest.mark.parametrize(
    ("value", "carried", "check"),
    [
        (MR_CONFIG_ID, None, "2"),
        (V2, None, "3"),
        (mr_config_id_v3(document()), document(), "4"),
        (
            mr_config_id_v3(document(app_id=None, init_script_hashes=None)),
            document(app_id=None, init_script_hashes=None),
            "4",
        ),
    ],
)
def test_mrconfig_rules_2_to_4_what_agrees_passes(value: bytes, carried: bytes | None, check: str) -> None:
    assert check_mr_config_id(value, CONFIGURED, document=carried) == Finding(
        "mr-config-id", "MR_CONFIG_ID", found=value.hex(), check=check
    )


def test_mrconfig_rule_2_another_compose_hash_is_rejected() -> None:
    other = mr_config_id_v1(bytes(32))
    assert check_mr_config_id(other, CONFIGURED) == Finding(
        "mr-config-id", "MR_CONFIG_ID", Outcome.REJECTED, MR_CONFIG_ID.hex(), other.hex(), check="2"
    )


def test_mrconfig_the_padding_counts() -> None:
    assert not check_mr_config_id(MR_CONFIG_ID[:-1] + b"\x01", CONFIGURED).ok


@pytest.mark.parametrize(
    "changes",
    [
        {"app_id": bytes(20)},
        {"compose_hash": bytes(32)},
        {"key_provider": KeyProvider("tpm", KMS.id)},
        {"key_provider": KeyProvider("kms", b"")},
        {"key_provider": KeyProvider("other", KMS.id)},
        {"key_provider": None},
    ],
)
def test_mrconfig_rule_3_another_identity_is_rejected(changes: dict[str, object]) -> None:
    other = replace(CONFIGURED, **changes)  # type: ignore[arg-type]  # the tests name real fields
    finding = check_mr_config_id(V2, other)
    assert (finding.code, finding.outcome, finding.check) == ("mr-config-id", Outcome.REJECTED, "3")


def test_mrconfig_rule_4_without_its_document_nothing_can_be_said() -> None:
    finding = check_mr_config_id(mr_config_id_v3(document()), CONFIGURED)
    assert (finding.outcome, finding.check) == (Outcome.UNSUPPORTED, "4")
    assert finding.remedy == "give the document that the host started the TD with"


def test_mrconfig_rule_4_another_document_is_rejected() -> None:
    finding = check_mr_config_id(mr_config_id_v3(document()), CONFIGURED, document=document() + b" ")
    assert (finding.code, finding.outcome, finding.check) == ("mr-config-id", Outcome.REJECTED, "4")


@pytest.mark.parametrize(
    ("carried", "code", "outcome"),
    [
        (document(version=2), "mr-config-document.disagrees", Outcome.REJECTED),
        (document(version=None), "mr-config-document.member", Outcome.MALFORMED),
        (document(compose_hash="00" * 32), "mr-config-document.disagrees", Outcome.REJECTED),
        (document(compose_hash=None), "mr-config-document.member", Outcome.MALFORMED),
        (document(key_provider="none"), "mr-config-document.disagrees", Outcome.REJECTED),
        (document(key_provider="other"), "mr-config-document.disagrees", Outcome.REJECTED),
        (document(key_provider=None), "mr-config-document.member", Outcome.MALFORMED),
        (document(app_id="00" * 20), "mr-config-document.disagrees", Outcome.REJECTED),
        (document(key_provider_id=""), "mr-config-document.disagrees", Outcome.REJECTED),
        (document(instance_id=""), "mr-config-document.disagrees", Outcome.REJECTED),
        (document(instance_id=7), "mr-config-document.member", Outcome.MALFORMED),
        (document(gpu_policy_hash="03" * 32), "mr-config-document.disagrees", Outcome.REJECTED),
        (document(init_script_hashes=[]), "mr-config-document.disagrees", Outcome.REJECTED),
        (document(more=1), "mr-config-document.member", Outcome.UNSUPPORTED),
        (b"[]", "mr-config-document.not-object", Outcome.MALFORMED),
        (b" " * (mrconfig.DOCUMENT_LIMIT + 1), "mr-config-document.too-long", Outcome.MALFORMED),
    ],
)
def test_mrconfig_rule_4_a_document_that_disagrees_is_refused(
    carried: bytes, code: str, outcome: Outcome
) -> None:
    finding = check_mr_config_id(mr_config_id_v3(carried), CONFIGURED, document=carried)
    assert (finding.code, finding.outcome, finding.check) == (code, outcome, "4")


def test_mrconfig_rule_4_what_is_not_known_agrees_with_nothing() -> None:
    unknown = ConfiguredIdentity(support.COMPOSE_HASH, support.APP_ID, KMS)
    for member in ("instance_id", "gpu_policy_hash", "init_script_hashes"):
        others = {"instance_id", "gpu_policy_hash", "init_script_hashes"} - {member}
        carried = document(**dict.fromkeys(others))
        finding = check_mr_config_id(mr_config_id_v3(carried), unknown, document=carried)
        assert (finding.code, finding.expected) == ("mr-config-document.disagrees", "unknown")
    nobody = ConfiguredIdentity(support.COMPOSE_HASH, support.APP_ID)
    finding = check_mr_config_id(mr_config_id_v3(document()), nobody, document=document())
    assert finding.subject == "key_provider of the configuration document"


@pytest.mark.parametrize("version", [4, 255])
def test_mrconfig_rule_5_other_versions_are_unsupported(version: int) -> None:
    assert check_mr_config_id(bytes([version]) + bytes(47), CONFIGURED) == Finding(
        "mr-config-id", "version of MR_CONFIG_ID", Outcome.UNSUPPORTED, "0 to 3", str(version), check="5"
    )
    odd = bytes(47) + b"\x01"
    finding = check_mr_config_id(odd, CONFIGURED)
    assert (finding.outcome, finding.found, finding.check) == (Outcome.UNSUPPORTED, "0", "5")
