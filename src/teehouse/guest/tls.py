"""Certificates for the keys of an app: asking for them, and issuing them here (guest-agent.md 4.1, 9).

Rules:

T1. Every certificate costs a quote over sha512("ratls-cert:" || SPKI DER), wanted in the certificate or
    not: it is part of what its signer is asked.
T2. What the caller got wrong is refused before the quote is taken.
T3. Without KMS the chain is the leaf and the CA of the keys file, that one as the file has it. With KMS
    it is the leaf with its app id, the app's CA, the KMS's root CA.
T4. With `ext_quote` the leaf carries the attestation, stripped; with the legacy switch also the raw quote
    and the event log in front of it, which readers of 0.5 look for (guest-agent.md 9.2).
"""

from dataclasses import dataclass
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec

from teehouse.attestation.identity import encode_app_info, report_data
from teehouse.base.clock import Clock
from teehouse.guest.attest import Evidence, EvidenceSource
from teehouse.keys.appkeys import AppKeys, KmsIssuedKeys
from teehouse.keys.certificate import Issuer, validity
from teehouse.keys.pem import certificate_pem, spki_der
from teehouse.ratls.certificates import CertificateSpec, issue
from teehouse.ratls.csr import SigningRequest
from teehouse.ratls.oids import USAGE_APP

RATLS_TAG = "ratls-cert"


class LeafSigner(Protocol):
    """Whoever holds the CA key of the app: this process, or the KMS."""

    async def certify(
        self, request: SigningRequest, key: ec.EllipticCurvePrivateKey, evidence: Evidence
    ) -> tuple[str, ...]:
        """The chain for `key`, leaf first, each a PEM text ending in LF.

        `request.attestation` is empty; a signer elsewhere fills it from `evidence` and signs with `key`.
        Raises `MisuseError` for what no certificate can say, `CollateralError` when nobody answers.
        """
        ...


@dataclass(frozen=True, slots=True)
class LocalSigner:
    """Signs in this process, by rules T3 and T4.

    `chain` are the PEM texts above the leaf; `app_id` goes into the leaf where there is a KMS.
    """

    issuer: Issuer
    chain: tuple[str, ...]
    source: EvidenceSource
    clock: Clock
    app_id: bytes | None = None
    legacy_extensions: bool = True

    async def certify(
        self, request: SigningRequest, key: ec.EllipticCurvePrivateKey, evidence: Evidence
    ) -> tuple[str, ...]:
        legacy = request.ext_quote and self.legacy_extensions
        spec = CertificateSpec(
            subject=request.subject,
            alt_names=request.alt_names,
            server_auth=request.server_auth,
            client_auth=request.client_auth,
            not_before=request.not_before,
            not_after=request.not_after,
            org=request.org_name,
            app_id=self.app_id,
            usage=USAGE_APP,
            app_info=encode_app_info(self.source.app_info(evidence)) if request.ext_app_info else None,
            attestation=evidence.certificate_attestation() if request.ext_quote else None,
            legacy_quote=evidence.quote if legacy else None,
            legacy_event_log=evidence.log.beside_quote.encode() if legacy else None,
        )
        leaf = issue(spec, key.public_key(), self.issuer, self.clock.now())
        return certificate_pem(leaf), *self.chain


def local_signer(
    keys: AppKeys, source: EvidenceSource, clock: Clock, *, legacy_extensions: bool = True
) -> LocalSigner:
    """The signer of an app that is its own CA. Raises `MisuseError` when a KMS holds that key."""
    chain = (_with_line_feed(keys.ca_cert),)
    return LocalSigner(keys.own_issuer(), chain, source, clock, None, legacy_extensions)


def issued_signer(
    issued: KmsIssuedKeys, source: EvidenceSource, clock: Clock, *, legacy_extensions: bool = True
) -> LocalSigner:
    """The signer of an agent that stands alone with a KMS root of its own making."""
    chain = tuple(certificate_pem(der) for der in issued.chain)
    return LocalSigner(issued.app_ca, chain, source, clock, issued.app_id, legacy_extensions)


async def certified(
    source: EvidenceSource,
    signer: LeafSigner,
    clock: Clock,
    key: ec.EllipticCurvePrivateKey,
    request: SigningRequest,
) -> tuple[str, ...]:
    """The chain for `key`, leaf first. `request.public_key` is the SPKI DER of `key`.

    Raises `MisuseError` (T2), `PlatformError`, and what the signer raises.
    """
    validity(request.not_before, request.not_after, clock.now())
    evidence = await source.take(report_data(RATLS_TAG, request.public_key))
    return await signer.certify(request, key, evidence)


def public_key_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The SPKI DER of a key, as signing requests have it."""
    return spki_der(key.public_key())


def _with_line_feed(pem: str) -> str:
    return pem if pem.endswith("\n") else pem + "\n"
