"""The evidence of the KMS's own machine, from the guest agent in it.

Rules:

1. Evidence is taken for report data of ours, and is refused when it is over another.
2. Its wire form for a certificate has register 3 and the ACPI events alone.
"""

import hmac
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import httpx

from teehouse.attestation import strictjson
from teehouse.attestation.envelope import Attestation, decode_attestation, encode_attestation
from teehouse.attestation.eventlog import strip_for_certificate
from teehouse.base.findings import rejected, unavailable

ANSWER_LIMIT = 24 * 1024 * 1024  # characters: an attestation of 10 MiB in hex
TIMEOUT = 30.0  # seconds


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
