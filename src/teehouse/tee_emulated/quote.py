"""Quotes of an emulated host, version 4, byte for byte as hardware lays them out (trust.md 2.1 to 2.8, 6.3).

1. The attestation key signs header and TD report; the PCK key signs the quoting enclave's report,
   which holds the hash of the attestation key. Nothing is left out that a verifier looks at.
2. What depends on the host alone, the enclave report with its signature and certificate chain, is
   made once and kept: a quote costs one ECDSA signature.
"""

import struct
from dataclasses import dataclass, field
from functools import lru_cache

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from teehouse.attestation.abi import (
    CERTIFICATION_PCK_CHAIN,
    CERTIFICATION_QE_REPORT,
    ECDSA_P256,
    ECDSA_QE_VENDOR_ID,
    TD_REPORT_10_SIZE,
    TEE_TYPE_TDX,
    EnclaveReport,
    QuoteHeader,
)
from teehouse.base.findings import misuse
from teehouse.base.hashes import sha256
from teehouse.tee_emulated import constants

_QUOTE_VERSION = 4

# The same key and bytes give the same signature: certificates and collateral do not change from one
# start to the next.
ECDSA = ec.ECDSA(SHA256(), deterministic_signing=True)

_HEADER_USER_DATA = constants.QE_ID + bytes(4)


def raw_signature(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """ECDSA P-256 with SHA-256 over `data`, as the 64 bytes r || s."""
    r, s = decode_dss_signature(key.sign(data, ECDSA))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def raw_public_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The 64 bytes x || y of the public key."""
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]


def qe_certification_data(
    attestation_key: bytes, pck_key: ec.EllipticCurvePrivateKey, pck_chain: bytes
) -> bytes:
    """What follows the attestation key (64 bytes) in a quote's signature section: the quoting enclave's word for it.

    The enclave's report, the PCK key's signature over it, 32 bytes of authentication data, and the
    PEM chain of the PCK certificate (trust.md 2.3, 2.8).
    """
    bound = sha256(attestation_key + constants.QE_AUTH_DATA)
    report = EnclaveReport(
        cpu_svn=constants.CPU_SVN,
        misc_select=0,
        attributes=constants.QE_ATTRIBUTES,
        mr_enclave=constants.QE_MR_ENCLAVE,
        mr_signer=constants.QE_MR_SIGNER,
        isv_prod_id=constants.QE_PRODUCT_ID,
        isv_svn=constants.QE_SVN,
        report_data=bound + bytes(32),
    ).encode()
    auth_data = struct.pack("<H", len(constants.QE_AUTH_DATA)) + constants.QE_AUTH_DATA
    chain = struct.pack("<HI", CERTIFICATION_PCK_CHAIN, len(pck_chain)) + pck_chain
    return report + raw_signature(pck_key, report) + auth_data + chain


@lru_cache(maxsize=16)
def _header(user_data: bytes) -> bytes:
    return QuoteHeader(
        version=_QUOTE_VERSION,
        attestation_key_type=ECDSA_P256,
        tee_type=TEE_TYPE_TDX,
        qe_svn=constants.QE_SVN,
        pce_svn=constants.PCE_SVN,
        qe_vendor_id=ECDSA_QE_VENDOR_ID,
        user_data=user_data,
    ).encode()


@dataclass(frozen=True, slots=True)
class EmulatedHost:
    """One emulated machine: its platform identity and the key its quoting enclave signs with.

    `ppid` and `platform_instance_id` are 16 bytes, `pck_der` the PCK certificate, `pck_chain` the PEM
    text of leaf, platform CA and root.
    """

    label: str
    ppid: bytes
    platform_instance_id: bytes
    pck_der: bytes
    pck_chain: bytes
    pck_key: ec.EllipticCurvePrivateKey = field(repr=False, compare=False)
    attestation_key: ec.EllipticCurvePrivateKey = field(repr=False, compare=False)
    _after_signature: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        public = raw_public_key(self.attestation_key)
        data = qe_certification_data(public, self.pck_key, self.pck_chain)
        made = public + struct.pack("<HI", CERTIFICATION_QE_REPORT, len(data)) + data
        object.__setattr__(self, "_after_signature", made)

    def quote(self, td_report: bytes, user_data: bytes = _HEADER_USER_DATA) -> bytes:
        """A quote over an encoded TD 1.0 report of 584 bytes; `user_data` is the header's, 20 bytes.

        Raises `MisuseError` when either has another size.
        """
        if len(td_report) != TD_REPORT_10_SIZE:
            raise misuse(
                "emulated.quote.body",
                "TD report to be quoted",
                expected=f"{TD_REPORT_10_SIZE} bytes",
                found=f"{len(td_report)}",
            )
        signed = _header(user_data) + td_report
        section = raw_signature(self.attestation_key, signed) + self._after_signature
        return signed + struct.pack("<I", len(section)) + section
