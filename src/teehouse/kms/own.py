"""The evidence of the KMS's own machine, from the guest agent in it.

Rules:

1. Evidence is taken for report data of ours, and is refused when it is over another.
2. Its wire form for a certificate has register 3 and the ACPI events alone.
"""

import hmac
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Protocol

import httpx
from cryptography.hazmat.primitives.asymmetric import ec

from teehouse.attestation import strictjson
from teehouse.attestation.certificate import certificate_report_data
from teehouse.attestation.envelope import Attestation, decode_attestation, encode_attestation
from teehouse.attestation.eventlog import strip_for_certificate
from teehouse.base.findings import rejected, unavailable
from teehouse.keys.certificate import Issuer
from teehouse.keys.pem import spki_der
from teehouse.kms.rootkeys import RootKeys, rpc_certificate
from teehouse.ratls.certificates import CertificateSpec, issue

ANSWER_LIMIT = 24 * 1024 * 1024  # characters: an attestation of 10 MiB in hex
TIMEOUT = 30.0  # seconds
CLIENT_NAME = "RA-TLS TEMP Cert"


class OwnEvidence(Protocol):
    """Attests the machine that the KMS runs on."""

    async def attest(self, report_data: bytes) -> Attestation:
        """A fresh attestation over exactly 64 bytes, with the whole log. Raises `TeehouseError`."""
        ...


def certificate_attestation(attestation: Attestation) -> bytes:
    """The versioned attestation as certificates carry it (rule 2). Raises `MisuseError`."""
    return encode_attestation(replace(attestation, event_log=strip_for_certificate(attestation.event_log)))


class GuestAgentEvidence:
    """Asks the guest agent on a Unix socket (`Attest`, guest-agent.md 4.8)."""

    def __init__(self, socket: Path, *, timeout: float = TIMEOUT) -> None:
        self._socket = socket
        self._timeout = timeout

    async def attest(self, report_data: bytes) -> Attestation:
        """Raises `CollateralError` when the agent does not answer, `EvidenceError` for what is no attestation."""
        transport = httpx.AsyncHTTPTransport(uds=str(self._socket))
        try:
            async with httpx.AsyncClient(transport=transport, timeout=self._timeout) as client:
                answer = await client.post("http://agent/Attest", json={"report_data": report_data.hex()})
        except httpx.HTTPError as error:
            raise unavailable(
                "kms.own-evidence",
                f"the guest agent at {self._socket}",
                found=str(error)[:200] or type(error).__name__,
                remedy="start the guest agent of the KMS's machine",
            ) from None
        if answer.status_code != httpx.codes.OK:
            raise unavailable(
                "kms.own-evidence",
                f"the answer of the guest agent at {self._socket}",
                expected="200",
                found=str(answer.status_code),
            )
        members = strictjson.load_object(answer.content, "guest-agent", limit=ANSWER_LIMIT)
        attestation = decode_attestation(strictjson.hex_member(members, "attestation", "guest-agent"))
        if not hmac.compare_digest(attestation.report_data, report_data):
            raise rejected("kms.own-evidence", "the guest agent attested other report data")
        return attestation


async def attested_rpc_certificate(keys: RootKeys, own: OwnEvidence | None, now: datetime) -> bytes:
    """The certificate of the RPC listener with our own evidence in it, DER; without it when `own` is None.

    Raises `TeehouseError`.
    """
    attestation = None
    if own is not None:
        spki = spki_der(keys.rpc_key.public_key())
        attestation = certificate_attestation(await own.attest(certificate_report_data(spki)))
    return rpc_certificate(keys, attestation, now)


async def client_certificate(
    own: OwnEvidence, key: ec.EllipticCurvePrivateKey, temporary_ca: Issuer, now: datetime
) -> bytes:
    """A certificate with our own evidence for `key`, under another KMS's temporary CA, DER (trust.md 13.3).

    Raises `TeehouseError`.
    """
    attestation = await own.attest(certificate_report_data(spki_der(key.public_key())))
    spec = CertificateSpec(
        subject=CLIENT_NAME, client_auth=True, attestation=certificate_attestation(attestation)
    )
    return issue(spec, key.public_key(), temporary_ca, now)
