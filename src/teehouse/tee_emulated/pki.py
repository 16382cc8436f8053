"""The emulated counterpart of Intel's provisioning certificates (trust.md 6.1, 6.4).

1. Everything follows from a seed of 32 bytes: keys, serial numbers, signatures. The same seed gives
   the same root certificate, byte for byte, on every start and on every machine.
2. One root per installation; one PPID, PCK certificate and attestation key per host label.
3. Every subject says that it is emulated. None of it chains to Intel's root.
4. Revocation exists so that verifiers can be shown revoked certificates. It is fixed when the object
   is made; nothing that runs a platform sets it.
"""

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from teehouse.attestation.pck import SGX_EXTENSION_OID
from teehouse.base.findings import misuse
from teehouse.base.hashes import sha256
from teehouse.tee_emulated.pck_extension import pck_extension
from teehouse.tee_emulated.quote import EmulatedHost

SEED_SIZE = 32  # bytes
ROOT_LABEL = "tdx-root"
PLATFORM_CA_LABEL = "tdx-pck-ca"
TCB_SIGNER_LABEL = "tdx-tcb"

_CA_LABELS = frozenset({ROOT_LABEL, PLATFORM_CA_LABEL, TCB_SIGNER_LABEL})
_PCK_PREFIX = "tdx-pck:"
_QE_PREFIX = "tdx-qe:"
_HOST_LABEL = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)

_KEY_DOMAIN = b"dstack-mock-p256-v1"
_SERIAL_DOMAIN = b"teehouse-emulated-serial-v1"
_PPID_DOMAIN = b"teehouse-emulated-ppid-v1"
_INSTANCE_DOMAIN = b"teehouse-emulated-platform-instance-v1"

# n of P-256 (FIPS 186-4): a private key is a number from 1 to n - 1.
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

_NOT_BEFORE = datetime(2020, 1, 1, tzinfo=UTC)
_NOT_AFTER = datetime(2100, 1, 1, tzinfo=UTC)


def p256_scalar(seed: bytes, label: str) -> int:
    """The private number of `label` under a seed of 32 bytes (trust.md 6.4).

    SHA-256 of domain, seed, label and a big-endian counter, which is raised until the hash is a valid
    private number (it is at the first try, all but once in 2^32).
    """
    counter = 0
    while True:
        scalar = int.from_bytes(sha256(_KEY_DOMAIN + seed + label.encode() + counter.to_bytes(4, "big")))
        if 0 < scalar < _P256_ORDER:
            return scalar
        counter += 1


def pck_label(host: str) -> str:
    """The label of a host's PCK certificate, as `revoked` takes it."""
    return _PCK_PREFIX + host


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Teehouse Emulated TDX, not Intel"),
            x509.NameAttribute(NameOID.COUNTRY_NAME, "ZZ"),  # no country: ISO 3166 leaves ZZ to users
        ]
    )


_ROOT_NAME = _name("Emulated SGX Root CA")
_PLATFORM_CA_NAME = _name("Emulated SGX PCK Platform CA")  # verifiers look for the word Platform
_PCK_NAME = _name("Emulated SGX PCK Certificate")
_TCB_SIGNER_NAME = _name("Emulated SGX TCB Signing")


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _authority(issuer_key: ec.EllipticCurvePrivateKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())


def _pem(*certificates: bytes) -> str:
    loaded = (x509.load_der_x509_certificate(der) for der in certificates)
    return "".join(certificate.public_bytes(Encoding.PEM).decode() for certificate in loaded)


@dataclass(frozen=True)  # without slots: certificates are made when they are first asked for, and kept
class EmulatedPki:
    """All keys and certificates of one emulated installation.

    `seed` is 32 secret bytes: who has it can make quotes under this root. `revoked` names
    certificates by label (`ROOT_LABEL`, `PLATFORM_CA_LABEL`, `TCB_SIGNER_LABEL`, `pck_label(host)`).

    Raises `MisuseError` for a seed of another size or a label that names no certificate.
    """

    seed: bytes = field(repr=False)
    revoked: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if len(self.seed) != SEED_SIZE:
            raise misuse(
                "emulated.seed.size",
                "seed of an emulated platform",
                expected=f"{SEED_SIZE} bytes",
                found=f"{len(self.seed)}",
            )
        for label in sorted(self.revoked - _CA_LABELS):
            if not label.startswith(_PCK_PREFIX):
                raise misuse(
                    "emulated.revoked.label",
                    "label of a revoked certificate",
                    expected=f"one of {', '.join(sorted(_CA_LABELS))}, or {_PCK_PREFIX}HOST",
                    found=label,
                )

    @cached_property
    def root_der(self) -> bytes:
        """The self-signed root certificate, DER."""
        return self._certificate(_ROOT_NAME, ROOT_LABEL, _ROOT_NAME, ROOT_LABEL, ca_depth=1)

    @cached_property
    def root_fingerprint(self) -> str:
        """SHA-256 of the root certificate's DER, 64 hex digits."""
        return sha256(self.root_der).hex()

    @cached_property
    def platform_ca_der(self) -> bytes:
        """The PCK Platform CA, signed by the root, DER."""
        return self._certificate(_PLATFORM_CA_NAME, PLATFORM_CA_LABEL, _ROOT_NAME, ROOT_LABEL, ca_depth=0)

    @cached_property
    def tcb_signer_der(self) -> bytes:
        """The certificate of the key that signs TCB info and QE identity, DER."""
        return self._certificate(_TCB_SIGNER_NAME, TCB_SIGNER_LABEL, _ROOT_NAME, ROOT_LABEL)

    @cached_property
    def root_pem(self) -> str:
        return _pem(self.root_der)

    @cached_property
    def pck_crl_issuer_chain(self) -> str:
        """PEM of platform CA and root."""
        return _pem(self.platform_ca_der, self.root_der)

    @cached_property
    def tcb_issuer_chain(self) -> str:
        """PEM of TCB signer and root."""
        return _pem(self.tcb_signer_der, self.root_der)

    @cached_property
    def tcb_signer_key(self) -> ec.EllipticCurvePrivateKey:
        """The key that signs TCB info and QE identity."""
        return self._key(TCB_SIGNER_LABEL)

    def host(self, label: str) -> EmulatedHost:
        """The emulated host of that name: always the same one for the same seed and label.

        Raises `MisuseError` for a label that is not 1 to 64 letters, digits, dots, dashes, underscores.
        """
        if not _HOST_LABEL.fullmatch(label):
            raise misuse(
                "emulated.host.label",
                "label of an emulated host",
                expected="1 to 64 letters, digits, dots, dashes or underscores",
                found=repr(label[:80]),
            )
        name = label.encode()
        ppid = sha256(_PPID_DOMAIN + self.seed + name)[:16]
        instance = sha256(_INSTANCE_DOMAIN + self.seed + name)[:16]
        extension = x509.UnrecognizedExtension(SGX_EXTENSION_OID, pck_extension(ppid, instance))
        pck = self._certificate(
            _PCK_NAME, pck_label(label), _PLATFORM_CA_NAME, PLATFORM_CA_LABEL, extension=extension
        )
        return EmulatedHost(
            label=label,
            ppid=ppid,
            platform_instance_id=instance,
            pck_der=pck,
            pck_chain=_pem(pck, self.platform_ca_der, self.root_der).encode(),
            pck_key=self._key(pck_label(label)),
            attestation_key=self._key(_QE_PREFIX + label),
        )

    def root_crl(self, issued: datetime, next_update: datetime) -> bytes:
        """The root's revocation list over CAs and TCB signer, DER."""
        return self._crl(_ROOT_NAME, ROOT_LABEL, self.revoked & _CA_LABELS, issued, next_update)

    def pck_crl(self, issued: datetime, next_update: datetime) -> bytes:
        """The platform CA's revocation list over PCK certificates, DER."""
        labels = self.revoked - _CA_LABELS
        return self._crl(_PLATFORM_CA_NAME, PLATFORM_CA_LABEL, labels, issued, next_update)

    def _key(self, label: str) -> ec.EllipticCurvePrivateKey:
        return ec.derive_private_key(p256_scalar(self.seed, label), ec.SECP256R1())

    def _serial(self, label: str) -> int:
        """A positive serial number of 16 bytes; the top bits are set so that it has that length."""
        return int.from_bytes(sha256(_SERIAL_DOMAIN + self.seed + label.encode())[:16]) >> 2 | 1 << 126

    def _certificate(
        self,
        subject: x509.Name,
        label: str,
        issuer: x509.Name,
        issuer_label: str,
        *,
        ca_depth: int | None = None,
        extension: x509.ExtensionType | None = None,
    ) -> bytes:
        ca = ca_depth is not None
        key, issuer_key = self._key(label).public_key(), self._key(issuer_label)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(self._serial(label))
            .not_valid_before(_NOT_BEFORE)
            .not_valid_after(_NOT_AFTER)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=ca_depth), critical=True)
            .add_extension(_usage(ca=ca), critical=True)
            # RFC 5280 4.2.1.1 and 4.2.1.2: OpenSSL's strict mode insists on both.
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(_authority(issuer_key), critical=False)
        )
        if extension is not None:
            builder = builder.add_extension(extension, critical=False)
        made = builder.sign(issuer_key, SHA256(), ecdsa_deterministic=True)
        return made.public_bytes(Encoding.DER)

    def _crl(
        self,
        issuer: x509.Name,
        issuer_label: str,
        labels: frozenset[str],
        issued: datetime,
        next_update: datetime,
    ) -> bytes:
        issuer_key = self._key(issuer_label)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(issuer)
            .last_update(issued)
            .next_update(next_update)
            .add_extension(_authority(issuer_key), critical=False)
            # A later list has a higher number without anything being remembered.
            .add_extension(x509.CRLNumber(int(issued.timestamp())), critical=False)
        )
        for label in sorted(labels):
            entry = (
                x509.RevokedCertificateBuilder().serial_number(self._serial(label)).revocation_date(issued)
            )
            builder = builder.add_revoked_certificate(entry.build())
        made = builder.sign(issuer_key, SHA256(), ecdsa_deterministic=True)
        return made.public_bytes(Encoding.DER)
