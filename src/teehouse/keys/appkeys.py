"""The keys an app boots with: reading, writing and making `.appkeys.json` (guest-agent.md 3.1, 3.6).

Rules:

1. The file is JSON of at most 256 KiB, one object, with the members of guest-agent.md 3.1; members
   unknown to us are passed over.
2. k256_key is 32 bytes and a valid secp256k1 scalar; k256_signature is 65 bytes or empty; every
   hexadecimal text is bounded.
3. The private key stands for the certificate it comes with: without KMS that is `ca_cert`, with KMS
   the temporary CA's.
4. Without KMS everything derives from a 32-byte seed; with a KMS of one's own the KMS's root keys do,
   and the app's keys derive from these as a KMS derives them (trust.md 13.4).
5. The same seed at the same instant gives the same keys and certificates.

No error and no repr shows a secret.
"""

import binascii
import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from teehouse.base import oids
from teehouse.base.findings import MisuseError, misuse
from teehouse.keys.certificate import CertificateFields, Issuer, issue, self_signed
from teehouse.keys.derive import KEY_SIZE, derive_p256, dh_secret, hkdf, p256_scalar
from teehouse.keys.pem import (
    certificate_der,
    certificate_pem,
    certificate_public_key,
    load_p256_private_key,
    private_key_pem,
    spki_der,
)
from teehouse.keys.signing import RECOVERABLE_SIZE, kms_link, public_key

FILE_LIMIT = 256 * 1024  # characters
APP_ID_SIZE = 20
ORGANISATION = "Dstack"
APP_ROOT_NAME = "App Root Cert"
APP_CA_NAME = "Dstack App CA"
KMS_CA_NAME = "Dstack KMS CA"
TEMPORARY_CA_NAME = "Dstack Client Temp CA"
APP_CA_USAGE = b"app:ca"

_HEX_LIMIT = 1024  # bytes of the free-form values: disk key, key provider's binding
_BINDINGS = {"None": "", "Local": "mr", "Tpm": "pubkey"}


@dataclass(frozen=True, slots=True)
class OwnCa:
    """A key provider without KMS: the app is its own CA.

    `kind` is "None", "Local" or "Tpm"; `key` the CA's private key as PEM; `binding` the local provider's
    measurement or the TPM's public key, empty for "None".
    """

    kind: str
    key: str = field(repr=False)
    binding: bytes = b""


@dataclass(frozen=True, slots=True)
class KmsProvider:
    """A KMS as key provider: `pubkey` is its root CA's SPKI DER; the temporary CA signs our client certificates."""

    url: str
    pubkey: bytes
    tmp_ca_key: str = field(repr=False)
    tmp_ca_cert: str


@dataclass(frozen=True, slots=True)
class AppKeys:
    """The content of `.appkeys.json`. `ca_cert` is the PEM text as the file has it, byte for byte."""

    disk_crypt_key: bytes = field(repr=False)
    k256_key: bytes = field(repr=False)
    k256_signature: bytes
    ca_cert: str
    key_provider: OwnCa | KmsProvider
    gateway_app_id: str = ""
    env_crypt_key: bytes = field(default=b"", repr=False)

    def to_json(self) -> str:
        """The file's text. It holds every secret of the app."""
        provider = self.key_provider
        described: dict[str, str]
        if isinstance(provider, KmsProvider):
            kind = "Kms"
            described = {
                "url": provider.url,
                "pubkey": provider.pubkey.hex(),
                "tmp_ca_key": provider.tmp_ca_key,
                "tmp_ca_cert": provider.tmp_ca_cert,
            }
        else:
            kind = provider.kind
            described = {"key": provider.key}
            if binding := _BINDINGS[kind]:
                described[binding] = provider.binding.hex()
        return json.dumps(
            {
                "disk_crypt_key": self.disk_crypt_key.hex(),
                "env_crypt_key": self.env_crypt_key.hex(),
                "k256_key": self.k256_key.hex(),
                "k256_signature": self.k256_signature.hex(),
                "gateway_app_id": self.gateway_app_id,
                "ca_cert": self.ca_cert,
                "key_provider": {kind: described},
            },
            indent=2,
        )

    def own_issuer(self) -> Issuer:
        """The app's CA, where it is its own. Raises `MisuseError` with a KMS, which keeps that key."""
        if isinstance(self.key_provider, KmsProvider):
            raise misuse("appkeys.no-ca", "the app's CA key is with its KMS")
        return Issuer(load_p256_private_key(self.key_provider.key), certificate_der(self.ca_cert))


def _wrong(member: str, expected: str) -> MisuseError:
    return misuse("appkeys.malformed", f"{member} of the app keys is not valid", expected=expected)


def _text(source: dict[str, Any], member: str) -> str:
    value = source.get(member)
    if not isinstance(value, str):
        raise _wrong(member, "a string")
    return value


def _hex(source: dict[str, Any], member: str, *sizes: int) -> bytes:
    """A member's bytes: of one of these sizes, or of any size up to the limit when none is given."""
    text = _text(source, member)
    try:
        value = binascii.unhexlify(text)
    except (binascii.Error, ValueError):
        raise _wrong(member, "hexadecimal digits") from None
    if sizes and len(value) not in sizes:
        raise _wrong(member, f"{' or '.join(str(size) for size in sizes)} bytes")
    if len(value) > _HEX_LIMIT:
        raise _wrong(member, f"at most {_HEX_LIMIT} bytes")
    return value


def _provider(source: Any) -> OwnCa | KmsProvider:
    if not isinstance(source, dict) or len(source) != 1:
        raise _wrong("key_provider", "an object with one member")
    [(kind, described)] = source.items()
    if not isinstance(described, dict):
        raise _wrong("key_provider", "an object inside its member")
    if kind == "Kms":
        return KmsProvider(
            url=_text(described, "url"),
            pubkey=_hex(described, "pubkey"),
            tmp_ca_key=_text(described, "tmp_ca_key"),
            tmp_ca_cert=_text(described, "tmp_ca_cert"),
        )
    if kind not in _BINDINGS:
        raise _wrong("key_provider", "None, Local, Tpm or Kms")
    binding = _BINDINGS[kind]
    return OwnCa(kind, _text(described, "key"), _hex(described, binding) if binding else b"")


def _require_match(key: str, certificate: str, what: str) -> None:
    """Refuse a private key that is not its certificate's (rule 3)."""
    ours = load_p256_private_key(key).public_key()
    theirs = certificate_public_key(certificate_der(certificate), what)
    if ours != theirs:
        raise misuse(
            "appkeys.key-mismatch",
            f"the private key in the app keys does not belong to {what}",
            remedy="restore the app keys as they were made; they cannot be mixed",
        )


def parse_app_keys(text: str | bytes) -> AppKeys:
    """Read `.appkeys.json`. Raises `MisuseError` when it breaks rules 1-3."""
    if len(text) > FILE_LIMIT:
        raise misuse("appkeys.too-long", "the app keys are too long", expected=f"at most {FILE_LIMIT}")
    try:
        source = json.loads(text)
    except (ValueError, RecursionError):
        raise misuse("appkeys.not-json", "the app keys are not JSON") from None
    if not isinstance(source, dict):
        raise misuse("appkeys.not-object", "the app keys are not a JSON object")
    keys = AppKeys(
        disk_crypt_key=_hex(source, "disk_crypt_key"),
        env_crypt_key=_hex(source, "env_crypt_key") if "env_crypt_key" in source else b"",
        k256_key=_hex(source, "k256_key", KEY_SIZE),
        k256_signature=_hex(source, "k256_signature", 0, RECOVERABLE_SIZE),
        gateway_app_id=_text(source, "gateway_app_id"),
        ca_cert=_text(source, "ca_cert"),
        key_provider=_provider(source.get("key_provider")),
    )
    public_key("secp256k1", keys.k256_key)  # an impossible root key is found now, not at the first request
    if isinstance(keys.key_provider, KmsProvider):
        certificate_public_key(certificate_der(keys.ca_cert), "ca_cert")
        _require_match(keys.key_provider.tmp_ca_key, keys.key_provider.tmp_ca_cert, "tmp_ca_cert")
    else:
        _require_match(keys.key_provider.key, keys.ca_cert, "ca_cert")
    return keys


def _require_seed(seed: bytes) -> None:
    if len(seed) != KEY_SIZE:
        raise misuse("appkeys.seed-size", "the seed has the wrong size", expected=f"{KEY_SIZE} bytes")


def generate_without_kms(
    seed: bytes, now: datetime, *, kind: str = "None", binding: bytes = b"", gateway_app_id: str = ""
) -> AppKeys:
    """App keys from a 32-byte seed (guest-agent.md 3.6, right column).

    `kind` is "None", "Local" or "Tpm". The CA certificate ends 3650 days after `now`, which a caller who
    wants the same certificate again gives again. Raises `MisuseError`, `KeyDerivationError`.
    """
    _require_seed(seed)
    if kind not in _BINDINGS:
        raise misuse("appkeys.kind", "no key provider without KMS has this name", expected="None, Local, Tpm")
    key = derive_p256(seed, b"app-key")
    certificate = self_signed(CertificateFields(APP_ROOT_NAME, ca_level=1), key, now)
    return AppKeys(
        disk_crypt_key=dh_secret(seed, b"app-disk-key"),
        k256_key=hkdf(seed, b"app-k256-key"),
        k256_signature=b"",
        ca_cert=certificate_pem(certificate),
        key_provider=OwnCa(kind, private_key_pem(key), binding),
        gateway_app_id=gateway_app_id,
    )


@dataclass(frozen=True, slots=True)
class KmsRoot:
    """The root keys of a KMS (trust.md 13.4): a CA on P-256 and a secp256k1 key of 32 bytes."""

    ca: Issuer
    k256_key: bytes = field(repr=False)
    temporary_ca: Issuer

    @property
    def k256_public_key(self) -> bytes:
        """Compressed, 33 bytes: what link 1 of a signature chain is recovered to."""
        return public_key("secp256k1", self.k256_key)


@dataclass(frozen=True, slots=True)
class KmsIssuedKeys:
    """What a KMS gives one instance, and the app's CA, which a KMS would keep.

    `chain` are the certificates above a leaf, as DER: the app's CA, then the KMS's root CA.
    """

    keys: AppKeys
    app_id: bytes
    app_ca: Issuer
    chain: tuple[bytes, bytes]
    kms_public_key: bytes


def kms_root(seed: bytes, now: datetime) -> KmsRoot:
    """The root keys of a KMS of one's own, from a 32-byte seed (rule 4).

    Raises `MisuseError`, `KeyDerivationError`.
    """
    _require_seed(seed)
    ca_key = derive_p256(seed, b"kms-root-ca")
    temporary = derive_p256(seed, b"kms-temporary-ca")
    return KmsRoot(
        ca=Issuer(ca_key, self_signed(CertificateFields(KMS_CA_NAME, ORGANISATION, ca_level=1), ca_key, now)),
        k256_key=hkdf(seed, b"kms-root-k256"),
        temporary_ca=Issuer(
            temporary,
            self_signed(CertificateFields(TEMPORARY_CA_NAME, ORGANISATION, ca_level=0), temporary, now),
        ),
    )


def app_ca(
    root_key: ec.EllipticCurvePrivateKey, root_certificate: bytes, app_id: bytes, now: datetime
) -> Issuer:
    """The CA of one app under a KMS's root CA (trust.md 13.4). Raises `KeyDerivationError`."""
    key = derive_p256(p256_scalar(root_key), app_id, b"app-ca")
    fields = CertificateFields(
        APP_CA_NAME,
        ORGANISATION,
        ca_level=0,
        extensions=((oids.APP_ID, app_id), (oids.USAGE, APP_CA_USAGE)),
    )
    return Issuer(key, issue(fields, key.public_key(), Issuer(root_key, root_certificate), now))


def issue_app_keys(
    root: KmsRoot,
    app_id: bytes,
    instance_id: bytes,
    now: datetime,
    *,
    url: str = "",
    gateway_app_id: str = "",
) -> KmsIssuedKeys:
    """The keys a KMS derives for an instance (guest-agent.md 3.6, left column; trust.md 13.4).

    `app_id` is 20 bytes, `instance_id` 20 or none. Raises `MisuseError`, `KeyDerivationError`.
    """
    if len(app_id) != APP_ID_SIZE:
        raise misuse("appkeys.app-id-size", "the app id has the wrong size", expected=f"{APP_ID_SIZE} bytes")
    ca_scalar = p256_scalar(root.ca.key)
    k256_key = hkdf(root.k256_key, app_id, b"app-key")
    authority = app_ca(root.ca.key, root.ca.certificate_der, app_id, now)
    keys = AppKeys(
        disk_crypt_key=dh_secret(ca_scalar, app_id, instance_id, b"app-disk-crypt-key"),
        env_crypt_key=dh_secret(ca_scalar, app_id, b"env-encrypt-key"),
        k256_key=k256_key,
        k256_signature=kms_link(root.k256_key, app_id, public_key("secp256k1", k256_key)),
        gateway_app_id=gateway_app_id,
        ca_cert=certificate_pem(root.ca.certificate_der),
        key_provider=KmsProvider(
            url=url,
            pubkey=spki_der(root.ca.key.public_key()),
            tmp_ca_key=private_key_pem(root.temporary_ca.key),
            tmp_ca_cert=certificate_pem(root.temporary_ca.certificate_der),
        ),
    )
    return KmsIssuedKeys(
        keys,
        app_id,
        authority,
        (authority.certificate_der, root.ca.certificate_der),
        root.k256_public_key,
    )


def generate_with_self_made_kms(
    seed: bytes,
    app_id: bytes,
    instance_id: bytes,
    now: datetime,
    *,
    url: str = "",
    gateway_app_id: str = "",
) -> KmsIssuedKeys:
    """App keys under a KMS root made from a 32-byte seed, for an agent that stands alone.

    The certificates end 3650 days after `now`; the same seed and `now` give the same ones. Raises
    `MisuseError`, `KeyDerivationError`.
    """
    return issue_app_keys(
        kms_root(seed, now), app_id, instance_id, now, url=url, gateway_app_id=gateway_app_id
    )
