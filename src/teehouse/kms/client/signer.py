"""Certificates for the keys of an app whose CA key is with its KMS (guest-agent.md 9.6, trust.md 13.5).

Rules:

1. What no certificate can say is refused before the KMS is asked.
2. The request is of version 2, signed by the key it is for, and carries the evidence over that key. The same
   evidence is in the client certificate, which is made for this one exchange.
3. The KMS is the one of the app keys: its server's certificate is under their root CA.
4. The chain ends in the root CA of the app keys, each certificate is issued by the next, and the first is for
   the key that was asked for.
"""

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec

from teehouse.base.clock import Clock
from teehouse.base.findings import MisuseError, misuse
from teehouse.keys.appkeys import AppKeys, KmsProvider
from teehouse.keys.certificate import Issuer
from teehouse.keys.pem import (
    certificate_der,
    certificate_pem,
    certificate_public_key,
    load_certificate,
    load_p256_private_key,
)
from teehouse.kms.client.connection import TIMEOUT, KmsConnection, malformed_answer
from teehouse.kms.client.temporary import evidence_certificate
from teehouse.ratls.certificates import CertificateSpec, issue
from teehouse.ratls.csr import SigningRequest, encode_request, sign_request
from teehouse.wire import kms_pb2

API_VERSION = 2
CHAIN_LIMIT = 8


class KeyEvidence(Protocol):
    """Evidence over a key, as the guest agent takes it."""

    def certificate_attestation(self) -> bytes:
        """The versioned attestation as a certificate carries it."""
        ...


@dataclass(frozen=True, slots=True)
class KmsSigner:
    """Has the KMS sign; a `LeafSigner` of the guest agent. Made by `kms_signer`."""

    provider: KmsProvider
    root: str
    temporary_ca: Issuer = field(repr=False)
    clock: Clock
    vm_config: str = ""
    timeout: float = TIMEOUT

    async def certify(
        self, request: SigningRequest, key: ec.EllipticCurvePrivateKey, evidence: KeyEvidence
    ) -> tuple[str, ...]:
        """The chain for `key`, leaf first, each a PEM text ending in LF.

        `evidence` is over `request.public_key`, the SPKI DER of `key`. Raises `MisuseError` (rule 1),
        `KmsUnreachableError`, `KmsRefusedError`.
        """
        now = self.clock.now()
        spec = CertificateSpec(
            subject=request.subject,
            alt_names=request.alt_names,
            org=request.org_name,
            not_before=request.not_before,
            not_after=request.not_after,
        )
        issue(spec, key.public_key(), self.temporary_ca, now)  # rule 1
        attestation = evidence.certificate_attestation()
        encoded = encode_request(replace(request, version=API_VERSION, attestation=attestation))
        client = evidence_certificate(self.temporary_ca, key, attestation, now)
        question = kms_pb2.SignCertRequest(
            api_version=API_VERSION,
            csr=encoded,
            signature=sign_request(encoded, key),
            vm_config=self.vm_config,
        )
        async with KmsConnection(
            self.provider.url, root=self.root, client=client, timeout=self.timeout
        ) as connection:
            answer = await connection.call("SignCert", question, kms_pb2.SignCertResponse)
        try:
            return self._chain(tuple(answer.message.certificate_chain), key)
        except MisuseError as error:
            raise malformed_answer("SignCert", error) from None

    def _chain(self, texts: tuple[str, ...], key: ec.EllipticCurvePrivateKey) -> tuple[str, ...]:
        """Rule 4. Raises `MisuseError`."""
        if not 2 <= len(texts) <= CHAIN_LIMIT:
            raise _wrong(f"2 to {CHAIN_LIMIT} certificates", str(len(texts)))
        chain = tuple(certificate_der(text) for text in texts)
        if certificate_public_key(chain[0], "the leaf") != key.public_key():
            raise _wrong("a leaf for the key that was asked for", "another key")
        # By key and not by bytes: a CA certificate is renewed for the same key.
        if certificate_public_key(chain[-1]) != certificate_public_key(certificate_der(self.root)):
            raise _wrong("the root CA of the app keys at the end", "another")
        for issued, issuer in pairwise(load_certificate(der) for der in chain):
            try:
                issued.verify_directly_issued_by(issuer)
            except (InvalidSignature, ValueError, TypeError):
                raise _wrong("certificates each issued by the next", "others") from None
        return tuple(certificate_pem(der) for der in chain)


def kms_signer(keys: AppKeys, clock: Clock, *, vm_config: str = "", timeout: float = TIMEOUT) -> KmsSigner:
    """The signer of an app whose keys a KMS gave. Raises `MisuseError` for keys without KMS."""
    provider = keys.key_provider
    if not isinstance(provider, KmsProvider):
        raise misuse("kms.no-provider", "these app keys come from no KMS", found=provider.kind)
    issuer = Issuer(load_p256_private_key(provider.tmp_ca_key), certificate_der(provider.tmp_ca_cert))
    return KmsSigner(provider, keys.ca_cert, issuer, clock, vm_config, timeout)


def _wrong(expected: str, found: str) -> MisuseError:
    return misuse("kms.certificate-chain", "the certificate chain", expected=expected, found=found)
