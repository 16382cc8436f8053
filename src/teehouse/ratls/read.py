"""The evidence in a certificate, decoded, and whether it belongs to the certificate's key (trust.md 10).

Rules:

1. The versioned attestation is used where there is one; else the legacy pair of quote and event log, of
   which none stands alone; else there is no attestation.
2. A legacy pair becomes an attestation: report data from its quote, runtime events from its log.
3. The evidence belongs to the certificate when its quote's report data, and that stated beside the quote,
   are SHA-512("ratls-cert:" || public key). Nothing else about the quote is judged here.

Every part is bounded where it is read. Only `EvidenceError` is raised.
"""

import hmac
from dataclasses import dataclass

from teehouse.attestation.abi import parse_quote
from teehouse.attestation.certificate import (
    AttestationExtensions,
    attestation_extensions,
    certificate_report_data,
)
from teehouse.attestation.envelope import Attestation, decode_attestation
from teehouse.attestation.eventlog import parse_event_log, runtime_events
from teehouse.attestation.identity import AppInfo, decode_app_info
from teehouse.base.findings import Finding, Outcome, malformed

BINDING = "certificate.binding"


@dataclass(frozen=True, slots=True)
class CertificateEvidence:
    """What a certificate carries. `spki` is its SubjectPublicKeyInfo, DER, as it stands there."""

    attestation: Attestation | None
    app_id: bytes | None
    usage: str | None
    app_info: AppInfo | None
    spki: bytes


def read_certificate(der: bytes) -> CertificateEvidence:
    """Read a certificate's evidence. Raises `EvidenceError` for what is not well formed."""
    found = attestation_extensions(der)
    return CertificateEvidence(
        attestation=_attestation(found),
        app_id=found.app_id,
        usage=found.usage,
        app_info=None if found.app_info is None else decode_app_info(found.app_info),
        spki=found.spki,
    )


def _attestation(found: AttestationExtensions) -> Attestation | None:
    """The attestation by rules 1 and 2."""
    if found.attestation is not None:
        return decode_attestation(found.attestation)
    if found.quote is None and found.event_log is None:
        return None
    if found.quote is None or found.event_log is None:
        raise malformed(
            "certificate.legacy-pair",
            "the certificate has half of a legacy attestation",
            expected="a quote and an event log",
            found="a quote" if found.event_log is None else "an event log",
        )
    events = parse_event_log(found.event_log)
    return Attestation(
        quote=found.quote,
        event_log=events,
        runtime_events=runtime_events(events),
        report_data=parse_quote(found.quote).body.report_data,
        config="",
    )


def check_binding(evidence: CertificateEvidence) -> Finding:
    """Whether the attestation is about this certificate's key (rule 3).

    Raises `EvidenceError` when the quote cannot be read.
    """
    if evidence.attestation is None:
        return Finding(
            "certificate.no-attestation",
            "the certificate carries no attestation",
            Outcome.REJECTED,
            remedy="ask the guest for a certificate with usage_ra_tls",
        )
    expected = certificate_report_data(evidence.spki)
    quoted = parse_quote(evidence.attestation.quote).body.report_data
    stated = evidence.attestation.report_data
    bound = hmac.compare_digest(quoted, expected) and hmac.compare_digest(stated, expected)
    if not bound:
        return Finding(
            BINDING,
            "report data mismatch",
            Outcome.REJECTED,
            expected=expected.hex(),
            found=(quoted if quoted != expected else stated).hex(),
            remedy="the certificate's key is not the one the evidence is about: do not use it",
        )
    return Finding(BINDING, "the attestation is about this certificate's key")
