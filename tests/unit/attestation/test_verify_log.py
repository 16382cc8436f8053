"""Checks V21 to V28: logs, claims and images beside a genuine quote."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from support import emulated
from support.adversary import APP_ID, COMPOSE_HASH, INSTANCE_ID, NOW, Adversary, Claims
from teehouse.attestation import abi
from teehouse.attestation.abi import parse_quote
from teehouse.attestation.envelope import Attestation, decode_attestation, encode_attestation
from teehouse.attestation.eventlog import (
    Event,
    RuntimeEvent,
    encode_event_log,
    strip_for_certificate,
    strip_for_quote,
)
from teehouse.attestation.identity import device_id, report_data
from teehouse.attestation.mrconfig import mr_config_id_v2
from teehouse.attestation.verify import Evidence, Verdict, verify
from teehouse.base.findings import EvidenceError, Outcome
from teehouse.base.hashes import sha256
from teehouse.tee_emulated.image import EmulatedImage

OWNER = Adversary()


def judge(evidence: Evidence) -> Verdict:
    return verify(evidence, OWNER.collateral(), OWNER.root, NOW)


def judge_attestation(attestation: Attestation) -> Verdict:
    return judge(Evidence.from_attestation(attestation))


def refusals(verdict: Verdict) -> list[tuple[str, str]]:
    return [(finding.check, finding.code) for finding in verdict.findings if not finding.ok]


def test_an_honest_attestation_tells_who_the_app_is() -> None:
    verdict = judge_attestation(OWNER.attest())
    assert refusals(verdict) == []
    checks = list(dict.fromkeys(finding.check for finding in verdict.findings))
    assert checks == [f"V{number}" for number in range(1, 29) if number not in (18, 25)]
    assert verdict.accepted
    assert verdict.image_verified
    info = verdict.app_info
    assert info is not None
    assert (info.app_id, info.compose_hash, info.instance_id) == (APP_ID, COMPOSE_HASH, INSTANCE_ID)
    assert info.device_id == verdict.device_id == device_id(OWNER.host.ppid)
    assert info.os_image_hash == EmulatedImage.default().os_image_hash
    assert info.key_provider_info == b'{"name":"kms","id":"abcd"}'


def test_the_wire_form_gives_the_same_verdict() -> None:
    made = OWNER.attest()
    assert judge_attestation(decode_attestation(encode_attestation(made))) == judge_attestation(made)


def test_a_quote_with_its_log_and_configuration_gives_the_same_identity() -> None:
    made = OWNER.attest()
    log = encode_event_log(strip_for_quote(made.event_log))
    verdict = judge(Evidence.from_quote(made.quote, log, made.config))
    assert refusals(verdict) == []
    assert verdict.app_info == judge_attestation(made).app_info


def test_a_certificates_log_is_enough_and_leaves_the_boot_registers_to_the_image() -> None:
    made = OWNER.attest()
    verdict = judge_attestation(replace(made, event_log=strip_for_certificate(made.event_log)))
    assert verdict.accepted
    assert "V22" not in {finding.check for finding in verdict.findings}
    assert verdict.image_verified


def test_a_log_without_configuration_leaves_the_image_open() -> None:
    made = OWNER.attest()
    verdict = judge(Evidence.from_quote(made.quote, encode_event_log(made.event_log)))
    assert verdict.accepted
    assert not verdict.image_verified
    assert verdict.app_info is not None
    assert verdict.app_info.os_image_hash == b""


def test_a_broken_log_is_no_evidence() -> None:
    with pytest.raises(EvidenceError):
        Evidence.from_quote(OWNER.quote(), "[")


def with_log(edit: Callable[[list[Event]], None]) -> Attestation:
    made = OWNER.attest()
    events = list(made.event_log)
    edit(events)
    return replace(made, event_log=tuple(events))


def drop_first(events: list[Event]) -> None:
    del events[0]


def forge_payload(events: list[Event]) -> None:
    events[-1] = replace(events[-1], event_payload=b"forged")


def foreign_type(events: list[Event]) -> None:
    events.append(Event(3, 1, bytes(48)))


def rename_acpi(events: list[Event]) -> None:
    place = next(number for number, event in enumerate(events) if event.is_acpi)
    events[place] = replace(events[place], event="acpi-other")


def flip_boot(imr: int) -> Callable[[list[Event]], None]:
    def edit(events: list[Event]) -> None:
        place = next(number for number, event in enumerate(events) if event.imr == imr)
        events[place] = replace(events[place], digest=bytes(48))

    return edit


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        pytest.param(drop_first, [("V22", "rtmr0.mismatch")], id="boot-event-left-out"),
        pytest.param(flip_boot(1), [("V22", "rtmr1.mismatch")], id="boot-digest-of-rtmr1"),
        pytest.param(flip_boot(2), [("V22", "rtmr2.mismatch")], id="boot-digest-of-rtmr2"),
        pytest.param(
            forge_payload,
            [("V21", "eventlog.digest"), ("V21", "eventlog.two-stories")],
            id="runtime-payload-forged",
        ),
        pytest.param(foreign_type, [("V21", "eventlog.runtime-type")], id="foreign-type-in-register-3"),
        pytest.param(rename_acpi, [("V27", "image.acpi-events")], id="acpi-event-renamed"),
    ],
)
def test_a_log_that_lies_is_refused(
    edit: Callable[[list[Event]], None], expected: list[tuple[str, str]]
) -> None:
    verdict = judge_attestation(with_log(edit))
    assert refusals(verdict) == expected
    assert verdict.not_judged == ("V28",)
    assert verdict.app_info is None
    assert verdict.outcome is Outcome.REJECTED
    assert verdict.tcb_status == "UpToDate"  # the quote itself is genuine


def test_runtime_events_that_are_not_in_the_register_are_refused() -> None:
    made = OWNER.attest()
    forged = (*made.runtime_events, RuntimeEvent("late", b""))
    log = tuple(event for event in made.event_log if event.imr != 3)
    verdict = judge_attestation(replace(made, runtime_events=forged, event_log=log))
    assert refusals(verdict) == [("V23", "rtmr3.mismatch")]


def test_a_runtime_event_of_no_known_version_is_refused() -> None:
    made = OWNER.attest()
    events = (RuntimeEvent("odd", b"", 3),)
    verdict = judge(Evidence(made.quote, None, events))
    assert ("V23", "eventlog.event-version") in refusals(verdict)


def test_another_report_data_is_refused() -> None:
    verdict = judge_attestation(replace(OWNER.attest(), report_data=bytes(64)))
    assert refusals(verdict) == [("V24", "report-data.mismatch")]


def test_a_pods_payload_is_bound() -> None:
    bound = Claims(report_data=report_data("app-data", b"payload"))
    made = replace(OWNER.attest(bound), stack="dstack-pod", report_data_payload="payload")
    verdict = judge_attestation(made)
    assert verdict.accepted
    assert "pod.payload" in {finding.code for finding in verdict.findings if finding.check == "V25"}
    other = judge_attestation(replace(made, report_data_payload="another"))
    assert refusals(other) == [("V25", "pod.payload-mismatch")]
    none = judge_attestation(replace(made, report_data_payload=None))
    assert refusals(none) == [("V25", "pod.payload-missing")]


@pytest.mark.parametrize(
    ("config_id", "accepted"),
    [
        pytest.param(bytes(48), True, id="zero"),
        pytest.param(mr_config_id_v2(COMPOSE_HASH, APP_ID, 2, b"\xab\xcd"), True, id="version-2"),
        pytest.param(mr_config_id_v2(COMPOSE_HASH, APP_ID, 0, b""), False, id="version-2-other-provider"),
        pytest.param(b"\x01" + bytes(47), False, id="version-1-other-compose"),
    ],
)
def test_mr_config_id_fits_the_measured_app(config_id: bytes, accepted: bool) -> None:
    verdict = judge_attestation(OWNER.attest(Claims(mr_config_id=config_id)))
    assert refusals(verdict) == ([] if accepted else [("V26", "mr-config-id")])


def test_a_key_provider_that_cannot_be_read_agrees_with_nothing() -> None:
    events = (RuntimeEvent("key-provider", b"{"), *Claims().events)
    config_id = mr_config_id_v2(COMPOSE_HASH, APP_ID, 2, b"\xab\xcd")
    verdict = judge_attestation(OWNER.attest(Claims(events=events, mr_config_id=config_id)))
    assert refusals(verdict) == [("V26", "mr-config-id")]


def test_a_configuration_of_another_image_is_refused() -> None:
    made = OWNER.attest()
    config = json.loads(made.config) | {"os_image_hash": "00" * 32}
    verdict = judge_attestation(replace(made, config=json.dumps(config)))
    assert refusals(verdict) == [("V27", "image.manifest")]
    assert not verdict.image_verified


def test_a_configuration_without_lite_measurement_is_unsupported() -> None:
    verdict = judge_attestation(replace(OWNER.attest(), config="{}"))
    assert refusals(verdict) == [("V27", "image.variant")]
    assert verdict.outcome is Outcome.UNSUPPORTED


def test_a_configuration_that_cannot_be_read_is_malformed() -> None:
    verdict = judge_attestation(replace(OWNER.attest(), config="["))
    assert [check for check, _ in refusals(verdict)] == ["V27"]
    assert verdict.outcome is Outcome.MALFORMED


def test_a_log_without_identity_is_refused_at_its_end() -> None:
    events = (RuntimeEvent("system-ready", b""),)
    verdict = judge_attestation(OWNER.attest(Claims(events=events, mr_config_id=bytes(48))))
    assert refusals(verdict) == [("V28", "identity.event-missing")]


def test_an_enclave_has_no_registers_for_a_log() -> None:
    owner = Adversary()
    quote = parse_quote(owner.quote())
    body = replace(quote.qe_report, report_data=bytes(64))
    sgx = replace(quote, header=replace(quote.header, version=3, tee_type=0), body=body)
    verdict = judge(Evidence(abi.encode_quote(sgx), (), (RuntimeEvent("x", b""),), bytes(64)))
    assert ("V21", "eventlog.no-registers") in refusals(verdict)
    assert verdict.app_info is None
    assert verdict.td is None


def test_report_data_of_a_bare_quote_is_its_own() -> None:
    verdict = judge(Evidence.from_quote(OWNER.quote(emulated.td_report(report_data=sha256(b"x") * 2))))
    assert verdict.accepted
    assert verdict.quote is not None
    assert verdict.quote.body.report_data == sha256(b"x") * 2
