"""From a TLS connection to a verdict: what a user of the sample app can check, step by step.

Each step ends in a `Finding`, and none takes the former's word for what it can see itself:

T1. The connection's certificate chains to the KMS's root CA, and names the host.
T2. The certificate carries evidence that is genuine under the installation's root, and bound to its own key.
T3. The evidence is of the app that was deployed: its app id and the hash of its compose file.
T4. The measured key provider is this KMS: the app's keys are the ones it gives.
T5. A fresh quote is bound to our nonce: nobody replays an old one.
T6. A signature of the app leads over the app's key to the KMS's key.
T7. On chain, the measured app id is a contract of the expected owner, which allows what is measured; so does the
    KMS's contract. These are the checks G1 to G6 of `chain.checks`.
"""

import json
import secrets
import ssl
from dataclasses import dataclass, field
from typing import Any

import httpx

from teehouse.attestation.certificate import attestation_extensions
from teehouse.attestation.envelope import decode_attestation
from teehouse.attestation.identity import KEY_PROVIDER, identity_payload
from teehouse.attestation.validate import Expectations
from teehouse.base.findings import CollateralError, Finding, Outcome, TeehouseError, unavailable
from teehouse.base.hashes import sha256, sha512
from teehouse.client.verification import ChainChecks, Request, Verification, check
from teehouse.guest.boot import key_provider_payload
from teehouse.keys.appkeys import KmsRoot
from teehouse.keys.pem import certificate_pem, spki_der
from teehouse.keys.signing import chain_digest, kms_digest, recover_public_key, verify
from teehouse.stack.installation import Installation
from teehouse.stack.sample.app import ALGORITHM, QUOTE_TAG

TIMEOUT = 10.0  # seconds for one answer of the app
_PURPOSE = "signing"
_DATA = b"one cup of tea"


@dataclass(frozen=True, slots=True)
class Deployed:
    """What was asked for, and so what must be found: `compose` byte for byte, `app_id` 20 bytes, the KMS's root."""

    url: str
    compose: bytes
    app_id: bytes
    kms: KmsRoot = field(repr=False)

    @property
    def compose_hash(self) -> bytes:
        """SHA-256 of the compose file, 32 bytes."""
        return sha256(self.compose)


async def walk(
    installation: Installation, deployed: Deployed, chain: ChainChecks | None = None
) -> tuple[Finding, ...]:
    """Check T1 to T6, and T7 where `chain` asks one; what cannot be checked because of a former fault is left out.

    Raises `CollateralError` when the app does not answer.
    """
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # this root alone, none of the machine's
    tls.load_verify_locations(cadata=certificate_pem(deployed.kms.ca.certificate_der))
    findings: list[Finding] = []
    async with httpx.AsyncClient(
        verify=tls, base_url=deployed.url, timeout=TIMEOUT, trust_env=False
    ) as client:
        certificate = await _connect(client, deployed, findings)
        if certificate is None:
            return tuple(findings)
        await _certificate(installation, deployed, certificate, findings)
        seen = await _quote(installation, deployed, client, findings, chain)
        await _signature(deployed, client, findings)
    if chain is not None:
        subject = "on chain, its owner's contract and the KMS's let it run"
        findings.append(_all("T7", "trust.chain", subject, seen.chain or (_unnamed(),)))
    return tuple(findings)


async def _connect(client: httpx.AsyncClient, deployed: Deployed, findings: list[Finding]) -> bytes | None:
    try:
        answer = await client.get("/")
    except httpx.ConnectError as error:
        if "CERTIFICATE_VERIFY_FAILED" not in str(error):
            raise _silent(deployed.url, error) from error
        findings.append(
            Finding(
                "trust.tls",
                "the connection's certificate",
                Outcome.REJECTED,
                "a chain to the KMS",
                str(error),
                "",
                "T1",
            )
        )
        return None
    except httpx.HTTPError as error:
        raise _silent(deployed.url, error) from error
    certificate: bytes = answer.extensions["network_stream"].get_extra_info("ssl_object").getpeercert(True)
    findings.append(
        Finding("trust.tls", "the connection's certificate chains to the KMS's root CA", check="T1")
    )
    return certificate


async def _certificate(
    installation: Installation, deployed: Deployed, certificate: bytes, findings: list[Finding]
) -> None:
    expectations = Expectations(app_id=deployed.app_id, compose_hash=deployed.compose_hash)
    seen = await _judge(installation, "certificate", certificate, expectations)
    genuine = (*seen.verdict.findings, *seen.certificate, *seen.policy)
    findings.append(
        _all("T2", "trust.evidence", "the certificate's evidence is genuine and bound to its key", genuine)
    )
    findings.append(
        _all("T3", "trust.app", "it is the app that was deployed, byte for byte", seen.expectations)
    )
    kms = key_provider_payload("kms", spki_der(deployed.kms.ca.key.public_key()).hex())
    raw = attestation_extensions(certificate).attestation
    measured = identity_payload(decode_attestation(raw).runtime_events, KEY_PROVIDER) if raw else None
    findings.append(_equal("T4", "trust.key-provider", "its keys come from this KMS", kms, measured or b""))


async def _quote(
    installation: Installation,
    deployed: Deployed,
    client: httpx.AsyncClient,
    findings: list[Finding],
    chain: ChainChecks | None,
) -> Verification:
    nonce = secrets.token_bytes(32)
    answer = await _get(client, deployed, f"/quote?nonce={nonce.hex()}")
    expectations = Expectations(app_id=deployed.app_id, report_data=sha512(QUOTE_TAG + nonce))
    seen = await _judge(installation, "quote", json.dumps(answer).encode(), expectations, chain)
    all_of_it = (*seen.verdict.findings, *seen.policy, *seen.expectations)
    findings.append(_all("T5", "trust.nonce", "a fresh quote is genuine and bound to our nonce", all_of_it))
    return seen


async def _signature(deployed: Deployed, client: httpx.AsyncClient, findings: list[Finding]) -> None:
    answer = await _get(client, deployed, f"/sign?data={_DATA.decode()}")
    subject = "a signature of the app leads to the KMS's key"
    try:
        public_key = bytes.fromhex(answer["public_key"])
        signature, link, kms_signature = (bytes.fromhex(text) for text in answer["signature_chain"])
        good = verify(ALGORITHM, _DATA, signature, public_key)
        app_key = recover_public_key(chain_digest(_PURPOSE, public_key), link)
        kms_key = recover_public_key(kms_digest(deployed.app_id, app_key), kms_signature)
    except (TeehouseError, KeyError, TypeError, ValueError) as error:
        findings.append(
            Finding(
                "trust.signature", subject, Outcome.MALFORMED, "three signatures", str(error)[:200], "", "T6"
            )
        )
        return
    expected = deployed.kms.k256_public_key if good else b""
    findings.append(_equal("T6", "trust.signature", subject, expected, kms_key))


async def _judge(
    installation: Installation,
    kind: Any,
    data: bytes,
    expectations: Expectations,
    chain: ChainChecks | None = None,
) -> Verification:
    async def collateral(_quote: bytes) -> Any:
        return installation.current_collateral()

    return await check(
        Request(
            kind,
            data,
            installation.root,
            installation.clock.now(),
            collateral=collateral,
            expectations=expectations,
            chain=chain,
        )
    )


async def _get(client: httpx.AsyncClient, deployed: Deployed, path: str) -> dict[str, Any]:
    try:
        answer = await client.get(path)
        answer.raise_for_status()
        members: dict[str, Any] = answer.json()
    except (httpx.HTTPError, ValueError) as error:
        raise _silent(deployed.url, error) from error
    return members


def _unnamed() -> Finding:
    """Evidence that names no app leaves nothing to ask a chain about."""
    return Finding("trust.chain", "the app that is measured", Outcome.REJECTED, "an app id", "none")


def _silent(url: str, error: Exception) -> CollateralError:
    return unavailable(
        "sample.unreachable",
        f"the sample app at {url}",
        expected="an answer",
        found=str(error)[:200] or type(error).__name__,
        remedy="its log is beside its sockets in the node's folder",
    )


def _all(check_number: str, code: str, subject: str, findings: tuple[Finding, ...]) -> Finding:
    """One finding for many: passed with their number, or the first that did not."""
    bad = next((finding for finding in findings if not finding.ok), None)
    if bad is None:
        return Finding(code, f"{subject} ({len(findings)} checks)", check=check_number)
    return Finding(
        bad.code, f"{subject}: {bad.subject}", bad.outcome, bad.expected, bad.found, bad.remedy, check_number
    )


def _equal(check_number: str, code: str, subject: str, expected: bytes, found: bytes) -> Finding:
    outcome = Outcome.ACCEPTED if secrets.compare_digest(expected, found) else Outcome.REJECTED
    shown = ("", "") if outcome is Outcome.ACCEPTED else (expected.hex(), found.hex())
    return Finding(code, subject, outcome, *shown, check=check_number)
