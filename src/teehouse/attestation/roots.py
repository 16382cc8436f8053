"""Trusted roots: the certificate under which a verdict holds, and its name (design.md 2.1).

Rules:

1. A verdict's root is `intel` or `emulated:<fingerprint>`; the fingerprint is the first 32 hex digits of
   the SHA-256 over the root certificate's DER.
2. Only Intel's SGX root CA, byte for byte the one that is shipped here, may be called `intel`.
3. A certificate that holds Intel's root key may not be called emulated.
4. A root is one self-signed P-256 CA certificate with nothing after it (trust.md 6.4).
"""

from dataclasses import dataclass
from functools import cache
from importlib import resources

from teehouse.attestation.chain import (
    can_sign_certificates,
    load_certificate,
    name_of,
    public_key_der,
    signed_by,
)
from teehouse.attestation.pck import split_pem_chain
from teehouse.base.findings import TeehouseError, misuse
from teehouse.base.hashes import sha256

INTEL = "intel"
EMULATED_PREFIX = "emulated:"
ROOT_LIMIT = 64 * 1024  # bytes of a root file
_FINGERPRINT_DIGITS = 32


@cache
def intel_root_der() -> bytes:
    """Intel's SGX root CA certificate (CN=Intel SGX Root CA, valid 2018-05-21 to 2049-12-31) as DER."""
    pem = resources.files("teehouse.attestation").joinpath("intel_sgx_root_ca.pem").read_bytes()
    (der,) = split_pem_chain(pem)
    return der


def emulated_name(certificate_der: bytes) -> str:
    """The name of an emulated root (rule 1)."""
    return EMULATED_PREFIX + sha256(certificate_der).hex()[:_FINGERPRINT_DIGITS]


def describe_root(certificate_der: bytes) -> str:
    """What to call a self-signed certificate that a chain ends in, in a finding."""
    if certificate_der == intel_root_der():
        return f"{INTEL} (Intel SGX Root CA)"
    return f"{emulated_name(certificate_der)} ({name_of(load_certificate(certificate_der).subject)})"


@dataclass(frozen=True, slots=True)
class TrustedRoot:
    """A root that the caller trusts by name. Raises `MisuseError` where rules 1 to 4 are broken."""

    name: str
    certificate_der: bytes
    emulated: bool

    def __post_init__(self) -> None:
        try:
            certificate = load_certificate(self.certificate_der)
        except TeehouseError as error:
            raise misuse(
                "root.malformed",
                "the trusted root is no certificate",
                found=error.finding.subject,
                remedy="give one certificate, PEM or DER",
            ) from None
        if not (can_sign_certificates(certificate) and signed_by(certificate, certificate)):  # rule 4
            raise misuse(
                "root.not-a-root",
                "the trusted root is no self-signed P-256 CA certificate",
                found=name_of(certificate.subject),
            )
        intel = self.certificate_der == intel_root_der()
        holds_intel_key = public_key_der(certificate) == public_key_der(load_certificate(intel_root_der()))
        if (not self.emulated and not intel) or (self.emulated and holds_intel_key):  # rules 2, 3
            raise misuse(
                "root.misnamed",
                "the trusted root is not what it is called",
                expected=INTEL if holds_intel_key else emulated_name(self.certificate_der),
                found=self.name,
            )
        name = emulated_name(self.certificate_der) if self.emulated else INTEL
        if self.name != name:  # rule 1
            raise misuse("root.misnamed", "the trusted root has another name", expected=name, found=self.name)

    @classmethod
    def intel(cls) -> "TrustedRoot":
        """Intel's SGX root CA: real hardware."""
        return cls(INTEL, intel_root_der(), emulated=False)

    @classmethod
    def emulated_root(cls, certificate_der: bytes) -> "TrustedRoot":
        """The root of an emulated platform, one certificate as DER. Raises `MisuseError`."""
        return cls(emulated_name(certificate_der), certificate_der, emulated=True)

    @classmethod
    def emulated_file(cls, content: bytes) -> "TrustedRoot":
        """The root of an emulated platform from a file's content, PEM or DER. Raises `MisuseError`."""
        if len(content) > ROOT_LIMIT:
            raise misuse(
                "root.too-long",
                "the file of the trusted root is too long",
                expected=f"at most {ROOT_LIMIT} bytes",
                found=str(len(content)),
            )
        if not content.lstrip().startswith(b"-----BEGIN"):
            return cls.emulated_root(content)
        try:
            certificates = split_pem_chain(content)
        except TeehouseError as error:
            raise misuse(
                "root.malformed", "the trusted root is no PEM certificate", found=error.finding.subject
            ) from None
        if len(certificates) != 1:  # rule 4
            raise misuse(
                "root.not-one",
                "the file of the trusted root holds several certificates",
                expected="1",
                found=str(len(certificates)),
            )
        return cls.emulated_root(certificates[0])
