"""The root keys of a KMS: making them, and the certificates over them (trust.md 13.3, 13.4).

Rules:

1. The root keys are drawn at random, each on its own.
2. A domain is 1 to 253 ASCII bytes: labels of 1 to 63 letters, digits and "-", without "-" at either end.
3. A CA certificate that ends within 365 days is issued anew for the same key.
4. The certificate of the RPC listener has the domain as its name, usage `kms:rpc`, and is the root CA's.
"""

import json
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric import ec

from teehouse.attestation import strictjson
from teehouse.base.findings import misuse
from teehouse.base.hashes import keccak256
from teehouse.keys.appkeys import KMS_CA_NAME, ORGANISATION, TEMPORARY_CA_NAME, KmsRoot
from teehouse.keys.certificate import CertificateFields, Issuer, self_signed
from teehouse.keys.derive import KEY_SIZE, P256_ORDER, p256_from_scalar
from teehouse.keys.pem import certificate_public_key, load_certificate, spki_der
from teehouse.keys.signing import SECP256K1_ORDER
from teehouse.kms.refusal import context
from teehouse.ratls.certificates import CertificateSpec, issue
from teehouse.ratls.oids import USAGE_KMS

ROOT_CA, TEMPORARY_CA = "root-ca", "tmp-ca"
BOOTSTRAP_INFO_LIMIT = 1024 * 1024  # characters
RENEWAL = timedelta(days=365)
DOMAIN_LIMIT = 253

_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")

RandomBytes = Callable[[int], bytes]

CA_FIELDS: Mapping[str, CertificateFields] = {
    ROOT_CA: CertificateFields(KMS_CA_NAME, ORGANISATION, ca_level=1),
    TEMPORARY_CA: CertificateFields(TEMPORARY_CA_NAME, ORGANISATION, ca_level=0),
}


def check_domain(domain: str) -> str:
    """The domain itself. Raises `MisuseError` (rule 2)."""
    labels = domain.split(".")
    if len(domain) > DOMAIN_LIMIT or not all(_LABEL.fullmatch(label) for label in labels):
        raise misuse(
            "kms.domain",
            "invalid domain",
            expected=f"at most {DOMAIN_LIMIT} characters, labels of letters, digits and inner hyphens",
        )
    return domain


@dataclass(frozen=True, slots=True)
class BootstrapInfo:
    """What a KMS proved when it made its keys: root CA SPKI DER, compressed k256 key, versioned attestation."""

    ca_pubkey: bytes
    k256_pubkey: bytes
    attestation: bytes

    def to_json(self) -> str:
        members = {
            "ca_pubkey": self.ca_pubkey.hex(),
            "k256_pubkey": self.k256_pubkey.hex(),
            "attestation": self.attestation.hex(),
        }
        return json.dumps(members, separators=(",", ":"))


def parse_bootstrap_info(text: str | bytes) -> BootstrapInfo:
    """Read bootstrap-info.json. Raises `EvidenceError` (malformed)."""
    members = strictjson.load_object(text, "bootstrap-info", limit=BOOTSTRAP_INFO_LIMIT)
    return BootstrapInfo(
        *(
            strictjson.hex_member(members, name, "bootstrap-info")
            for name in ("ca_pubkey", "k256_pubkey", "attestation")
        )
    )


def bootstrap_report_data(ca_pubkey: bytes, k256_pubkey: bytes) -> bytes:
    """The 64 bytes that a KMS is attested with when it made its keys (trust.md 13.3)."""
    # The misspelling is part of the format.
    text = f"dstack-kms-genereted-keys-v1:{ca_pubkey.hex()};{k256_pubkey.hex()};"
    return keccak256(text.encode()).ljust(64, b"\0")


@dataclass(frozen=True, slots=True)
class RootKeys:
    """All that a KMS keeps. `rpc_key` is the key of its TLS listener, `domain` that listener's name."""

    root: KmsRoot
    rpc_key: ec.EllipticCurvePrivateKey = field(repr=False)
    domain: str
    bootstrap_info: BootstrapInfo | None = None

    @property
    def ca_pubkey(self) -> bytes:
        """SPKI DER of the root CA: the id of this KMS."""
        return spki_der(self.root.ca.key.public_key())


def new_p256_key(random: RandomBytes = secrets.token_bytes) -> ec.EllipticCurvePrivateKey:
    """A key drawn at random; `random` gives that many bytes."""
    return p256_from_scalar(_scalar(P256_ORDER, random))


def new_root_keys(domain: str, now: datetime, random: RandomBytes = secrets.token_bytes) -> RootKeys:
    """The keys of a new KMS (rule 1). Raises `MisuseError` (rule 2)."""
    check_domain(domain)
    ca_key, temporary_key = new_p256_key(random), new_p256_key(random)
    root = KmsRoot(
        ca=Issuer(ca_key, self_signed(CA_FIELDS[ROOT_CA], ca_key, now)),
        k256_key=_scalar(SECP256K1_ORDER, random),
        temporary_ca=Issuer(temporary_key, self_signed(CA_FIELDS[TEMPORARY_CA], temporary_key, now)),
    )
    return RootKeys(root, new_p256_key(random), domain)


def rpc_certificate(keys: RootKeys, attestation: bytes | None, now: datetime) -> bytes:
    """The certificate of the RPC listener, DER; `attestation` is versioned, over its key (rule 4)."""
    spec = CertificateSpec(
        subject=keys.domain,
        alt_names=(keys.domain,),
        server_auth=True,
        usage=USAGE_KMS,
        attestation=attestation,
    )
    return issue(spec, keys.rpc_key.public_key(), keys.root.ca, now)


def adopted_ca(name: str, key: ec.EllipticCurvePrivateKey, der: bytes, now: datetime) -> Issuer:
    """A CA whose key, and certificate for it, came from another KMS (`name` is `ROOT_CA` or `TEMPORARY_CA`).

    The certificate is kept when it is what a KMS of ours would have made, so that replicas answer alike;
    another is issued anew. Raises `MisuseError` when it is no certificate of this key.
    """
    with context(f"{name}.crt"):
        certificate = load_certificate(der)
        if certificate_public_key(der) != key.public_key():
            raise misuse("kms.ca-mismatch", "the certificate does not belong to the key")
    end = certificate.not_valid_after_utc
    fields = CA_FIELDS[name]
    alike = end > now and der == self_signed(replace(fields, not_after=int(end.timestamp())), key, now)
    return Issuer(key, der if alike else self_signed(fields, key, now))


def renewed_ca(name: str, issuer: Issuer, now: datetime) -> Issuer:
    """Rule 3: the same object when nothing is to be done."""
    if load_certificate(issuer.certificate_der).not_valid_after_utc - now > RENEWAL:
        return issuer
    return Issuer(issuer.key, self_signed(CA_FIELDS[name], issuer.key, now))


def _scalar(order: int, random: RandomBytes) -> bytes:
    while True:
        drawn = random(KEY_SIZE)
        if 0 < int.from_bytes(drawn, "big") < order:
            return drawn
