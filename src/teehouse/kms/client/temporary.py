"""The temporary CA of a KMS, and certificates under it that carry evidence (trust.md 13.3, 13.5).

The CA proves nothing: anyone may have its key. It is there because TLS wants a chain; what counts is the
attestation in the certificate, which is bound to the certificate's key.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.empty_pb2 import Empty

from teehouse.attestation.certificate import certificate_report_data
from teehouse.base.findings import MisuseError, misuse
from teehouse.keys.certificate import Issuer
from teehouse.keys.pem import (
    certificate_der,
    certificate_pem,
    certificate_public_key,
    load_p256_private_key,
    spki_der,
)
from teehouse.kms.client.connection import ClientCertificate, KmsConnection, malformed_answer
from teehouse.ratls.certificates import CertificateSpec, issue
from teehouse.wire import kms_pb2

SUBJECT: Final = "RA-TLS TEMP Cert"

# Takes 64 bytes of report data; gives the versioned attestation over them, stripped as certificates carry it.
Attest = Callable[[bytes], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class TemporaryCa:
    """What GetTempCaCert answers. Certificates are PEM; `kms_id` is the root CA's SPKI DER, 91 bytes.

    `server_certificate` is the DER of the certificate that it was answered under, of which nothing was checked.
    """

    certificate: str
    key: str = field(repr=False)
    root: str
    kms_id: bytes
    server_certificate: bytes | None = None

    def issuer(self) -> Issuer:
        """The CA, to sign with. Raises `MisuseError`."""
        return Issuer(load_p256_private_key(self.key), certificate_der(self.certificate))


async def get_temporary_ca(connection: KmsConnection) -> TemporaryCa:
    """Ask for the temporary CA. Raises `KmsUnreachableError`, `KmsRefusedError`."""
    answer = await connection.call("GetTempCaCert", Empty(), kms_pb2.GetTempCaCertResponse)
    message = answer.message
    try:
        root = certificate_der(message.ca_cert)
        kms_id = spki_der(certificate_public_key(root, "ca_cert"))
        key = load_p256_private_key(message.temp_ca_key).public_key()
        if certificate_public_key(certificate_der(message.temp_ca_cert), "temp_ca_cert") != key:
            raise misuse("kms.temporary-ca", "temp_ca_key does not belong to temp_ca_cert")
    except MisuseError as error:
        raise malformed_answer("GetTempCaCert", error) from None
    return TemporaryCa(
        certificate=message.temp_ca_cert,
        key=message.temp_ca_key,
        root=certificate_pem(
            root
        ),  # the one certificate whose key is `kms_id`, without what may come after it
        kms_id=kms_id,
        server_certificate=answer.server_certificate,
    )


def evidence_certificate(
    issuer: Issuer, key: ec.EllipticCurvePrivateKey, attestation: bytes, now: datetime
) -> ClientCertificate:
    """A certificate for `key` under the temporary CA that carries `attestation`, which is over that key."""
    spec = CertificateSpec(subject=SUBJECT, client_auth=True, attestation=attestation)
    return ClientCertificate(key, certificate_pem(issue(spec, key.public_key(), issuer, now)))


async def fresh_evidence_certificate(ca: TemporaryCa, attest: Attest, now: datetime) -> ClientCertificate:
    """A certificate for a key made now, with evidence taken for it. Raises what `attest` raises."""
    key = ec.generate_private_key(ec.SECP256R1())
    attestation = await attest(certificate_report_data(spki_der(key.public_key())))
    return evidence_certificate(ca.issuer(), key, attestation, now)
