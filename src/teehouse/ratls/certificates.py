"""Certificates that carry evidence: what is asked for, and issuing it (guest-agent.md 9).

Rules (the profile of every other field: `teehouse.keys.certificate`):

1. Our extensions stand in the order: app id, app info, usage, attestation.
2. For old readers the raw quote and the event log stand right in front of the attestation; one is never
   written without the other.
"""

from dataclasses import dataclass
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric import ec

from teehouse.base.findings import misuse
from teehouse.keys import certificate
from teehouse.keys.certificate import CertificateFields, Issuer
from teehouse.keys.derive import utf8
from teehouse.ratls import oids

__all__ = ["CertificateSpec", "Issuer", "issue", "self_signed"]


@dataclass(frozen=True, slots=True)
class CertificateSpec:
    """A certificate to be made.

    `subject` is the common name, `alt_names` IP addresses and ASCII DNS names; `not_before` and
    `not_after` UNIX seconds, None for the defaults (an end of 0 too); `org` the organisation; `app_id` 20
    bytes; `usage` as in `oids`; `app_info` msgpack; `attestation` versioned, already stripped;
    `legacy_quote` raw and `legacy_event_log` JSON text; `ca_level` a CA's path length, None for a leaf.
    """

    subject: str
    alt_names: tuple[str, ...] = ()
    server_auth: bool = False
    client_auth: bool = False
    not_before: int | None = None
    not_after: int | None = None
    org: str | None = None
    app_id: bytes | None = None
    usage: str | None = None
    app_info: bytes | None = None
    attestation: bytes | None = None
    legacy_quote: bytes | None = None
    legacy_event_log: bytes | None = None
    ca_level: int | None = None

    def fields(self) -> CertificateFields:
        """The certificate's fields, evidence included (rules 1, 2). Raises `MisuseError`."""
        if (self.legacy_quote is None) != (self.legacy_event_log is None):
            raise misuse("certificate.legacy-pair", "a legacy quote and its event log go together")
        ours = (
            (oids.APP_ID, self.app_id),
            (oids.APP_INFO, self.app_info),
            (oids.USAGE, None if self.usage is None else utf8(self.usage, "usage")),
            (oids.QUOTE, self.legacy_quote),
            (oids.EVENT_LOG, self.legacy_event_log),
            (oids.ATTESTATION, self.attestation),
        )
        return CertificateFields(
            common_name=self.subject,
            organisation=self.org,
            alt_names=self.alt_names,
            server_auth=self.server_auth,
            client_auth=self.client_auth,
            not_before=self.not_before,
            not_after=self.not_after,
            ca_level=self.ca_level,
            extensions=tuple((oid, content) for oid, content in ours if content is not None),
        )


def issue(
    spec: CertificateSpec, public_key: ec.EllipticCurvePublicKey, issuer: Issuer, now: datetime
) -> bytes:
    """A certificate for `public_key` by `issuer`, as DER.

    Raises `MisuseError` for names that are not ASCII where they must be, and for dates out of order or
    range; its finding's subject is the text clients of the guest agent know.
    """
    return certificate.issue(spec.fields(), public_key, issuer, now)


def self_signed(spec: CertificateSpec, key: ec.EllipticCurvePrivateKey, now: datetime) -> bytes:
    """A certificate for a key by itself, as DER. Raises `MisuseError` as `issue` does."""
    return certificate.self_signed(spec.fields(), key, now)
