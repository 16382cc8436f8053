"""Issuing and reading certificates that carry evidence (teehouse.ratls), by the rules of both docstrings."""

import gzip
import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from support import emulated
from support.keys_support import APP_ID, NOW, SEED, SIM, sample
from teehouse.attestation.certificate import (
    AttestationExtensions,
    attestation_extensions,
    certificate_report_data,
)
from teehouse.attestation.envelope import Attestation, decode_attestation, encode_v0
from teehouse.attestation.eventlog import Event, RuntimeEvent, encode_event_log
from teehouse.attestation.identity import AppInfo, encode_app_info
from teehouse.base.findings import EvidenceError, Finding, MisuseError, Outcome
from teehouse.keys.appkeys import generate_without_kms
from teehouse.keys.certificate import CertificateFields, octet_string
from teehouse.keys.certificate import issue as issue_plain
from teehouse.keys.derive import application_key, p256_from_scalar
from teehouse.keys.pem import spki_der
from teehouse.ratls import oids
from teehouse.ratls.certificates import CertificateSpec, issue, self_signed
from teehouse.ratls.read import CertificateEvidence, check_binding, read_certificate

ISSUER = generate_without_kms(SEED, NOW).own_issuer()
KEY = p256_from_scalar(application_key(SIM, "/"))
SPKI = spki_der(KEY.public_key())
# guest-agent.md 19.3
REPORT_DATA = bytes.fromhex(
    "2bb982f467442c4d6ea3b1e3ccf09decc3e6f42b3f08cc9e749203a7cb7a20f1"
    "5264c9d3ec45faaf81afb7a8bf28f3cff6adc0a8bf253718ce3055ff2d5bf6d6"
)
INFO = AppInfo(
    app_id=b"\x11" * 20,
    compose_hash=b"\x22" * 32,
    instance_id=b"\x33" * 20,
    device_id=b"\x55" * 32,
    mr_system=bytes(32),
    mr_aggregated=bytes(32),
    os_image_hash=b"\x44" * 32,
    key_provider_info=b'{"name":"none","id":""}',
    init_script_hashes=(),
)
POD = RuntimeEvent("pod", b"\xca\xfe")


def attestation(report_data: bytes = REPORT_DATA) -> Attestation:
    return Attestation(
        quote=emulated.quote(report_data=report_data),
        event_log=(Event.runtime(POD),),
        runtime_events=(POD,),
        report_data=report_data,
        config="{}",
    )


def leaf(**members: object) -> bytes:
    spec = CertificateSpec(**({"subject": "app"} | members))  # type: ignore[arg-type]  # members are test data
    return issue(spec, KEY.public_key(), ISSUER, NOW)


def with_extension(oid: str, content: bytes) -> bytes:
    return issue_plain(CertificateFields("app", extensions=((oid, content),)), KEY.public_key(), ISSUER, NOW)


def ours(der: bytes) -> list[tuple[str, bytes]]:
    return [
        (extension.oid.dotted_string.removeprefix("1.3.6.1.4.1.62397.1."), extension.value.value)
        for extension in x509.load_der_x509_certificate(der).extensions
        if isinstance(extension.value, x509.UnrecognizedExtension)
    ]


def refused(read: Callable[[], object]) -> str:
    with pytest.raises(EvidenceError) as refusal:
        read()
    return refusal.value.finding.code


def test_issue_rules_1_and_2_extensions_stand_in_order() -> None:
    der = leaf(
        app_id=APP_ID,
        app_info=b"info",
        usage=oids.USAGE_APP,
        legacy_quote=b"quote",
        legacy_event_log=b"[]",
        attestation=b"\x00",
    )
    assert ours(der) == [
        ("3", b"\x04\x14" + APP_ID),
        ("9", b"\x04\x04info"),
        ("4", b"\x04\x0aapp:custom"),
        ("1", b"\x04\x05quote"),
        ("2", b"\x04\x02[]"),
        ("8", b"\x04\x01\x00"),
    ]
    assert ours(leaf()) == []


def test_issue_rule_2_half_a_legacy_pair_is_misuse() -> None:
    for members in ({"legacy_quote": b"q"}, {"legacy_event_log": b"[]"}):
        with pytest.raises(MisuseError) as refusal:
            leaf(**members)
        assert refusal.value.finding.code == "certificate.legacy-pair"


def test_issue_every_field_reaches_the_certificate() -> None:
    certificate = x509.load_der_x509_certificate(
        leaf(
            alt_names=("a.test", "::1"),
            server_auth=True,
            client_auth=True,
            not_before=0,
            not_after=1_800_000_000,
            org="Org",
            ca_level=2,
        )
    )
    extensions = certificate.extensions
    assert certificate.subject.rfc4514_string() == "CN=app,O=Org"
    assert certificate.not_valid_before_utc.timestamp() == 0
    assert certificate.not_valid_after_utc.timestamp() == 1_800_000_000
    assert len(list(extensions.get_extension_for_class(x509.SubjectAlternativeName).value)) == 2
    assert len(list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)) == 2
    assert extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 2


def test_issue_what_is_no_unicode_is_misuse() -> None:
    with pytest.raises(MisuseError, match="usage is not valid Unicode text"):
        leaf(usage="\ud800")


def test_self_signed_certificates_are_their_own_issuer() -> None:
    der = self_signed(CertificateSpec("root", ca_level=1, usage=oids.USAGE_KMS), KEY, NOW)
    certificate = x509.load_der_x509_certificate(der)
    certificate.verify_directly_issued_by(certificate)
    assert ours(der) == [("4", b"\x04\x07kms:rpc")]


def test_read_rule_1_a_certificate_of_ours() -> None:
    evidence = attestation()
    der = leaf(
        app_id=APP_ID,
        app_info=encode_app_info(INFO),
        usage=oids.USAGE_APP,
        legacy_quote=b"not looked at",
        legacy_event_log=b"neither",
        attestation=encode_v0(evidence),
    )
    assert read_certificate(der) == CertificateEvidence(evidence, APP_ID, "app:custom", INFO, SPKI)


def test_read_rule_1_a_certificate_without_evidence() -> None:
    assert read_certificate(leaf()) == CertificateEvidence(None, None, None, None, SPKI)


@pytest.mark.parametrize(("oid", "found"), [(oids.QUOTE, "a quote"), (oids.EVENT_LOG, "an event log")])
def test_read_rule_1_half_a_legacy_pair(oid: str, found: str) -> None:
    with pytest.raises(EvidenceError) as refusal:
        read_certificate(with_extension(oid, b"[]"))
    assert refusal.value.finding == Finding(
        "certificate.legacy-pair",
        "the certificate has half of a legacy attestation",
        Outcome.MALFORMED,
        "a quote and an event log",
        found,
    )


@pytest.mark.parametrize("pack", [bytes, lambda log: b"ELGZv1" + gzip.compress(log)])
def test_read_rule_2_a_legacy_pair_is_an_attestation(pack: Callable[[bytes], bytes]) -> None:
    evidence = attestation()
    log = encode_event_log(evidence.event_log).encode()
    der = leaf(legacy_quote=evidence.quote, legacy_event_log=pack(log))
    assert read_certificate(der).attestation == replace(evidence, config="")


def test_rule_3_the_report_data_of_a_key() -> None:
    assert certificate_report_data(SPKI) == REPORT_DATA


def test_read_rule_3_evidence_about_this_key() -> None:
    for members in (
        {"attestation": encode_v0(attestation())},
        {"legacy_quote": attestation().quote, "legacy_event_log": b"[]"},
    ):
        assert check_binding(read_certificate(leaf(**members))) == Finding(
            "certificate.binding", "the attestation is about this certificate's key"
        )


def test_read_rule_3_evidence_about_another_key() -> None:
    other = b"\x07" * 64
    for wrong, found in (
        (attestation(other), other),
        (replace(attestation(other), report_data=REPORT_DATA), other),
        (replace(attestation(), report_data=other), other),
    ):
        finding = check_binding(read_certificate(leaf(attestation=encode_v0(wrong))))
        assert finding == Finding(
            "certificate.binding",
            "report data mismatch",
            Outcome.REJECTED,
            REPORT_DATA.hex(),
            found.hex(),
            "the certificate's key is not the one the evidence is about: do not use it",
        )


def test_read_rule_3_no_evidence() -> None:
    finding = check_binding(read_certificate(leaf()))
    assert (finding.code, finding.outcome) == ("certificate.no-attestation", Outcome.REJECTED)


def test_read_rule_3_a_quote_that_cannot_be_read() -> None:
    evidence = replace(attestation(), quote=b"\x01")
    certificate = read_certificate(leaf(attestation=encode_v0(evidence)))
    assert refused(lambda: check_binding(certificate)) == "quote.truncated"


def test_extensions_rule_1_bounds_and_ends() -> None:
    der = leaf()
    assert refused(lambda: attestation_extensions(b"")) == "certificate.malformed"
    assert refused(lambda: attestation_extensions(der[:-1])) == "certificate.malformed"
    assert refused(lambda: attestation_extensions(der + b"\0")) == "certificate.malformed"
    small = with_extension(oids.ATTESTATION, bytes(512 * 1024 - 1000))
    assert attestation_extensions(small).attestation == bytes(512 * 1024 - 1000)
    large = with_extension(oids.ATTESTATION, bytes(512 * 1024))
    assert refused(lambda: attestation_extensions(large)) == "certificate.too-long"


def test_extensions_rule_2_no_extension_twice() -> None:
    first, second = (oids.APP_INFO, b"app info"), ("1.3.6.1.4.1.62397.1.7", b"app info")
    fields = CertificateFields("app", extensions=(first, second))
    der = issue_plain(fields, KEY.public_key(), ISSUER, NOW)
    prefix = bytes.fromhex("060a2b0601040183e73d01")
    assert attestation_extensions(der).app_info == b"app info"
    twice = der.replace(prefix + b"\x07", prefix + b"\x09")
    assert refused(lambda: attestation_extensions(twice)) == "certificate.malformed"


@pytest.mark.parametrize(
    ("inner", "changed", "code"),
    [
        (b"\x04\x03abc", b"\x0c\x03abc", "certificate.extension"),
        (b"\x04\x03abc", b"\x04\x02abc", "certificate.extension"),
        (b"\x04\x03abc", b"\x04\x04abc", "certificate.der"),
        (b"\x04\x03abc", b"\x04\x80abc", "certificate.der"),
        (b"\x04\x03abc", b"\x04\x81\x02bc", "certificate.der"),
        (b"\x04\x03abc", b"\x04\x83\x00\x00\x00", "certificate.der"),
        (b"\x04\x03abc", b"\x04\x85\x01\x01\x01", "certificate.der"),
    ],
)
def test_extensions_rule_2_the_content_is_one_octet_string(inner: bytes, changed: bytes, code: str) -> None:
    der = with_extension(oids.APP_INFO, b"abc")
    assert der.count(inner) == 1
    assert refused(lambda: attestation_extensions(der.replace(inner, changed))) == code


@pytest.mark.parametrize("size", [0, 1, 127, 128, 255, 256, 65535, 65536])
def test_extensions_rule_2_lengths_in_their_shortest_form(size: int) -> None:
    assert attestation_extensions(with_extension(oids.APP_INFO, b"x" * size)).app_info == b"x" * size


@pytest.mark.parametrize("value", [b"", b"\x04"])
def test_extensions_rule_2_an_extension_too_short_for_any_element(value: bytes) -> None:
    extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(oids.APP_INFO), value)
    der = (
        x509.CertificateBuilder(x509.Name([]), x509.Name([]), KEY.public_key(), 1, NOW, NOW)
        .add_extension(extension, critical=False)
        .sign(KEY, SHA256())
        .public_bytes(Encoding.DER)
    )
    assert refused(lambda: attestation_extensions(der)) == "certificate.der"


def test_extensions_app_id_and_usage_have_their_forms() -> None:
    assert (
        refused(lambda: attestation_extensions(with_extension(oids.APP_ID, bytes(19))))
        == "certificate.app-id"
    )
    assert refused(lambda: attestation_extensions(with_extension(oids.USAGE, b"\xff"))) == "certificate.usage"


def test_extensions_rule_3_a_compressed_log_is_bounded() -> None:
    def log(content: bytes) -> bytes | None:
        return attestation_extensions(with_extension(oids.EVENT_LOG, b"ELGZv1" + content)).event_log

    largest = b" " * (16 * 1024)
    packed = gzip.compress(largest)
    assert log(packed) == largest
    assert refused(lambda: log(gzip.compress(largest + b" "))) == "certificate.event-log-too-long"
    assert refused(lambda: log(gzip.compress(bytes(100_000_000), 9))) == "certificate.event-log-too-long"
    for broken in (b"", b"not gzip", packed[:-1], packed + b"\0", packed[:-5] + b"\0" + packed[-4:]):
        assert refused(lambda broken=broken: log(broken)) == "certificate.event-log"  # type: ignore[misc]  # bound now


def wrapped(tag: int, content: bytes) -> bytes:
    return bytes([tag]) + octet_string(content)[1:]


def children(element: bytes) -> list[bytes]:
    """The elements inside a DER element; enough of a reader for certificates made here."""

    def head(at: int) -> int:
        return 2 if element[at + 1] < 128 else 2 + element[at + 1] - 128

    at, found = head(0), []
    while at < len(element):
        size = (
            element[at + 1]
            if element[at + 1] < 128
            else int.from_bytes(element[at + 2 : at + head(at)], "big")
        )
        found.append(element[at : at + head(at) + size])
        at += len(found[-1])
    return found


def test_extensions_rule_4_the_key_stands_as_in_the_certificate() -> None:
    # A compressed point names the same key by other bytes, and the bytes are what evidence binds.
    tbs, *signature = children(leaf())
    fields = children(tbs)
    compressed = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200") + (
        KEY.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    )
    assert fields[6] == SPKI
    fields[6] = compressed
    der = wrapped(0x30, wrapped(0x30, b"".join(fields)) + b"".join(signature))
    assert x509.load_der_x509_certificate(der).public_key() == KEY.public_key()
    assert attestation_extensions(der) == AttestationExtensions(compressed)


def test_extensions_of_a_version_1_certificate() -> None:
    tbs, *signature = children(leaf())
    without_version_and_extensions = b"".join(children(tbs)[1:7])
    der = wrapped(0x30, wrapped(0x30, without_version_and_extensions) + b"".join(signature))
    assert x509.load_der_x509_certificate(der).version is x509.Version.v1
    assert attestation_extensions(der) == AttestationExtensions(SPKI)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_bad_evidence(data: bytes) -> None:
    with pytest.raises(EvidenceError):
        read_certificate(data)


WHOLE = leaf(
    app_id=APP_ID,
    app_info=encode_app_info(INFO),
    usage=oids.USAGE_APP,
    legacy_quote=b"q",
    legacy_event_log=b"[]",
    attestation=encode_v0(Attestation(b"q", (Event.runtime(POD),), (POD,), bytes(64), "{}")),
)


@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255))
def test_a_changed_certificate_is_read_or_bad_evidence(place: int, value: int) -> None:
    changed = WHOLE[:place] + bytes([value]) + WHOLE[place + 1 :]
    try:
        evidence = read_certificate(changed)
    except EvidenceError:
        return
    assert len(evidence.spki) > 0


def test_a_real_attestation_goes_through_a_certificate() -> None:
    # guest-agent.md 11.2: this published attestation is V0, and encodes back to the same bytes
    raw = bytes.fromhex(json.loads(sample("tdx-lite-attestation.json").read_text())["attestation"])
    found = read_certificate(leaf(attestation=raw))
    assert found.attestation == decode_attestation(raw)
    assert encode_v0(found.attestation) == raw
    assert check_binding(found).outcome is Outcome.REJECTED
