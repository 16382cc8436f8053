"""Evidence from files in every form, and the whole answer about it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from support.adversary import APP_ID, NOW, Adversary, Claims
from support.adversary_certificates import certificate, named, new_key
from support.verification_support import ra_tls_certificate
from teehouse.attestation.bundle import Collateral
from teehouse.attestation.envelope import encode_attestation
from teehouse.attestation.eventlog import encode_event_log
from teehouse.attestation.evidence import Evidence
from teehouse.attestation.validate import Expectations
from teehouse.base.findings import EvidenceError, MisuseError, Outcome
from teehouse.client.evidence import FILE_LIMIT, read_attestation, read_certificate, read_quote
from teehouse.client.verification import (
    Kind,
    Request,
    Verification,
    check,
    check_now,
    collateral_from_file,
    collateral_from_pccs,
    read_root,
)
from teehouse.collateral.files import save_collateral

OWNER = Adversary()
MADE = OWNER.attest()
LOG = encode_event_log(MADE.event_log)
WHOLE = Evidence.from_quote(MADE.quote, LOG, MADE.config)
ATTESTED = Evidence.from_attestation(MADE)


def as_json(**members: object) -> bytes:
    return json.dumps(members).encode()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(MADE.quote, Evidence(MADE.quote), id="binary"),
        pytest.param(MADE.quote.hex().encode() + b"\n", Evidence(MADE.quote), id="hex"),
        pytest.param(b" 0x" + MADE.quote.hex().encode(), Evidence(MADE.quote), id="hex-0x"),
        pytest.param(as_json(quote=MADE.quote.hex()), Evidence(MADE.quote), id="json-alone"),
        pytest.param(
            as_json(quote=f"0x{MADE.quote.hex()}", event_log=LOG, vm_config=MADE.config),
            WHOLE,
            id="json-texts",
        ),
        pytest.param(
            as_json(quote=MADE.quote.hex(), event_log=json.loads(LOG), vm_config=MADE.config),
            WHOLE,
            id="json-list",
        ),
        pytest.param(
            as_json(quote=MADE.quote.hex(), eventlog=json.loads(LOG), tcb_info=None, vm_config=MADE.config),
            WHOLE,
            id="instance",
        ),
        pytest.param(
            as_json(quote=MADE.quote.hex(), tcb_info={"event_log": json.loads(LOG)}, vm_config=MADE.config),
            WHOLE,
            id="cvm",
        ),
        pytest.param(
            as_json(quote=MADE.quote.hex(), event_log="", vm_config=""), Evidence(MADE.quote), id="empty"
        ),
        pytest.param(
            as_json(quote=MADE.quote.hex(), event_log=LOG, vm_config=MADE.config, report_data="abcd"),
            replace(WHOLE, report_data=b"\xab\xcd" + bytes(62)),
            id="json-report-data",
        ),
        pytest.param(
            as_json(attestation=encode_attestation(MADE).hex(), quote="00"), ATTESTED, id="attestation-wins"
        ),
    ],
)
def test_a_quote_is_read_from_every_form(data: bytes, expected: Evidence) -> None:
    assert read_quote(data) == expected


def test_a_log_can_come_beside_the_quote() -> None:
    assert read_quote(MADE.quote, LOG.encode()) == replace(WHOLE, config=None)
    assert read_quote(as_json(quote=MADE.quote.hex(), vm_config=MADE.config), LOG.encode()) == WHOLE


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(encode_attestation(MADE), id="binary"),
        pytest.param(encode_attestation(MADE).hex().encode(), id="hex"),
        pytest.param(as_json(attestation=encode_attestation(MADE).hex()), id="json"),
    ],
)
def test_an_attestation_is_read_from_every_form(data: bytes) -> None:
    assert read_attestation(data) == ATTESTED


def test_json_of_a_quote_is_evidence_for_both_words() -> None:
    assert read_attestation(as_json(quote=MADE.quote.hex(), event_log=LOG, vm_config=MADE.config)) == WHOLE


CERTIFICATE = ra_tls_certificate(OWNER, app_id=APP_ID)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(CERTIFICATE.public_bytes(Encoding.PEM), id="pem"),
        pytest.param(CERTIFICATE.public_bytes(Encoding.PEM) + OWNER.pki.root_pem.encode(), id="pem-chain"),
        pytest.param(CERTIFICATE.public_bytes(Encoding.DER), id="der"),
        pytest.param(CERTIFICATE.public_bytes(Encoding.DER).hex().encode(), id="hex"),
    ],
)
def test_a_certificate_is_read_from_every_form(data: bytes) -> None:
    evidence, extensions = read_certificate(data)
    assert evidence.quote[:4] == MADE.quote[:4]
    assert extensions.app_id == APP_ID


@pytest.mark.parametrize(
    ("read", "data", "code"),
    [
        pytest.param(read_quote, bytes(FILE_LIMIT + 1), "evidence.too-long", id="too-long"),
        pytest.param(read_attestation, bytes(FILE_LIMIT + 1), "evidence.too-long", id="attestation-too-long"),
        pytest.param(read_certificate, bytes(FILE_LIMIT + 1), "evidence.too-long", id="certificate-too-long"),
        pytest.param(read_quote, b"{", "evidence.not-json", id="no-json"),
        pytest.param(read_quote, b"{}", "evidence.member", id="nothing-in-it"),
        pytest.param(read_quote, as_json(quote="zz"), "evidence.not-hex", id="no-hex"),
        pytest.param(read_quote, as_json(quote="00", event_log="["), "eventlog.not-json", id="log-no-json"),
        pytest.param(read_attestation, b"", "attestation.empty", id="empty"),
        pytest.param(read_certificate, b"-----BEGIN X", "pem.malformed", id="no-pem"),
        pytest.param(read_certificate, b"x", "certificate.malformed", id="no-certificate"),
        pytest.param(read_certificate, OWNER.pki.root_der, "certificate.no-attestation", id="no-attestation"),
    ],
)
def test_what_cannot_be_read_is_refused(read: Callable[[bytes], object], data: bytes, code: str) -> None:
    with pytest.raises(EvidenceError) as refused:
        read(data)
    assert refused.value.finding.code == code


@given(st.binary(max_size=200) | st.text(max_size=80).map(str.encode))
def test_any_file_is_read_or_refused(data: bytes) -> None:
    if not data.lstrip().startswith(b"{"):
        assert read_quote(data).event_log is None
    for read in (read_attestation, read_certificate):
        with pytest.raises(EvidenceError):
            read(data)


async def honest_collateral(_quote: bytes) -> Collateral:
    return OWNER.collateral()


def request(kind: Kind, data: bytes, **options: object) -> Request:
    made = Request(kind, data, OWNER.root, NOW, honest_collateral)
    return replace(made, **options)  # type: ignore[arg-type] # named by the tests below


def refusals(answer: Verification) -> list[tuple[str, str]]:
    findings = (*answer.verdict.findings, *answer.certificate, *answer.policy, *answer.expectations)
    return [(finding.check, finding.code) for finding in findings if not finding.ok]


async def test_an_attestation_is_judged_to_the_end() -> None:
    answer = await check(request("attestation", encode_attestation(MADE), expectations=Expectations(APP_ID)))
    assert (refusals(answer), answer.accepted, answer.certificate) == ([], True, ())
    made = answer.report()
    assert (made["accepted"], made["emulated"], made["certificate"]) == (True, True, [])


@pytest.mark.parametrize("legacy", [False, True], ids=["attestation", "quote-and-log"])
def test_a_certificate_is_bound_to_its_key(legacy: bool) -> None:
    made = ra_tls_certificate(OWNER, app_id=APP_ID, legacy=legacy)
    answer = check_now(request("certificate", made.public_bytes(Encoding.PEM)))
    assert [(f.check, f.code, f.ok) for f in answer.certificate] == [
        ("C1", "certificate.binding", True),
        ("C2", "certificate.app-id", True),
    ]
    assert answer.accepted


def test_a_swapped_key_is_refused() -> None:
    made = ra_tls_certificate(OWNER, bound_to=new_key())
    answer = check_now(request("certificate", made.public_bytes(Encoding.DER)))
    assert refusals(answer) == [("C1", "certificate.report-data-mismatch")]
    assert answer.verdict.accepted
    assert (answer.outcome, answer.accepted) == (Outcome.REJECTED, False)
    assert answer.report()["certificate"][0]["code"] == "certificate.report-data-mismatch"


def test_another_app_id_in_the_certificate_is_refused() -> None:
    made = ra_tls_certificate(OWNER, app_id=bytes(20))
    answer = check_now(request("certificate", made.public_bytes(Encoding.DER)))
    assert refusals(answer) == [("C2", "certificate.app-id-mismatch")]


def test_a_certificate_with_a_broken_quote_has_no_binding() -> None:
    made = certificate(named("x"), new_key(), named("x"), new_key())
    answer = check_now(request("certificate", made.public_bytes(Encoding.DER)))
    assert answer.certificate == ()
    assert refusals(answer)[0] == ("V1", "certificate.no-attestation")


def test_a_quote_with_its_log_in_another_file() -> None:
    answer = check_now(
        request("quote", MADE.quote, event_log=LOG.encode(), expectations=Expectations(APP_ID))
    )
    assert answer.accepted


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [("quote", Outcome.MALFORMED), ("attestation", Outcome.MALFORMED), ("certificate", Outcome.MALFORMED)],
)
def test_what_cannot_be_read_has_an_answer(kind: Kind, outcome: Outcome) -> None:
    answer = check_now(request(kind, b"nothing"))
    assert (answer.outcome, answer.verdict.findings[0].check) == (outcome, "V1")


def test_without_a_source_collateral_is_missing() -> None:
    answer = check_now(request("quote", MADE.quote, collateral=None))
    assert answer.outcome is Outcome.COLLATERAL_MISSING
    assert refusals(answer)[0] == ("V3", "collateral.missing")


def test_a_quote_of_no_known_platform_is_told_by_the_verdict() -> None:
    async def source(_quote: bytes) -> Collateral:
        raise EvidenceError(answer_finding)

    answer_finding = check_now(request("quote", b"nothing")).verdict.findings[0]
    answer = check_now(request("quote", MADE.quote, collateral=source))
    assert refusals(answer)[0] == ("V3", "collateral.missing")


def test_collateral_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "collateral.json"
    answer = check_now(request("quote", MADE.quote, collateral=collateral_from_file(path)))
    assert refusals(answer)[0] == ("V3", "collateral.file")
    save_collateral(path, OWNER.collateral())
    assert check_now(request("quote", MADE.quote, collateral=collateral_from_file(path))).accepted


def test_collateral_from_a_service_that_is_not_there() -> None:
    # Nothing listens on port 1 of loopback.
    answer = check_now(request("quote", MADE.quote, collateral=collateral_from_pccs("http://127.0.0.1:1")))
    assert refusals(answer)[0] == ("V3", "pccs.transport")
    with pytest.raises(MisuseError):
        check_now(request("quote", MADE.quote, collateral=collateral_from_pccs("nothing")))


def test_a_root_is_asked_for_by_name(tmp_path: Path) -> None:
    path = tmp_path / "root.pem"
    path.write_text(OWNER.pki.root_pem)
    assert read_root("intel").name == "intel"
    assert read_root(f"emulated:{path}") == OWNER.root


@pytest.mark.parametrize(
    ("text", "code"),
    [("emulated", "root.name"), ("", "root.name"), ("emulated:/nowhere/root.pem", "root.file")],
)
def test_a_root_that_is_none_is_misuse(text: str, code: str) -> None:
    with pytest.raises(MisuseError) as refused:
        read_root(text)
    assert refused.value.finding.code == code


def test_claims_of_another_report_data_are_refused() -> None:
    other = OWNER.attest(Claims(report_data=bytes(64)))
    data = as_json(quote=other.quote.hex(), report_data="ff")
    assert ("V24", "report-data.mismatch") in refusals(check_now(request("quote", data)))
