"""Signatures: chains over derived keys, and the agent's Sign and Verify (guest-agent.md 3.4, 4.6, 4.7).

Rules:

1. A chain signature is 65 bytes, r || s || recovery id (0 or 1), over a Keccak-256 digest, with the
   nonce of RFC 6979 and the low s.
2. Link 0 signs "purpose:public key in hex" by the app's root key, for ed25519 keys too.
3. The KMS's link signs "dstack-kms-issued:", the app id and the compressed app root key.
4. Sign: ed25519 signs the data, secp256k1 their SHA-256, secp256k1_prehashed 32 bytes as they are.
   An empty algorithm is not accepted, unlike where keys are asked for.
5. Verify: what has not the form of a key or signature is misuse; what has the form and is wrong is
   False, a high s included.
6. A prehashed value to verify is cut to its first 32 bytes or padded by zeros on the left; below 16
   bytes nothing verifies.
7. An ed25519 key must be a point of the curve; small orders and non-canonical encodings are let
   through, as the original does.
"""

from functools import lru_cache

import coincurve
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from teehouse.base.findings import MisuseError, malformed, misuse
from teehouse.base.hashes import keccak256, sha256
from teehouse.keys.derive import derivation_error, utf8, v1_claim

SECP256K1 = "secp256k1"
ED25519 = "ed25519"
PREHASHED = "secp256k1_prehashed"

SECP256K1_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
RECOVERABLE_SIZE = 65
SIGNATURE_SIZE = 64
DIGEST_SIZE = 32
_SHORTEST_PREHASH = 16
_ED25519_KEY_SIZE = 32

_KEY_ALGORITHMS = {"": SECP256K1, "k256": SECP256K1, SECP256K1: SECP256K1, ED25519: ED25519}
_SIGN_ALGORITHMS = {"k256": SECP256K1, SECP256K1: SECP256K1, PREHASHED: PREHASHED, ED25519: ED25519}
_SEC1_FORMS = ((33, 2), (33, 3), (65, 4))  # length and first byte; the hybrid forms are not among them

_FIELD = 2**255 - 19
_EDWARDS_D = -121665 * pow(121666, -1, _FIELD) % _FIELD


def _unsupported() -> MisuseError:
    return misuse("algorithm.unsupported", "Unsupported algorithm")


def key_algorithm(name: str) -> str:
    """The algorithm a key is asked for under this name: secp256k1 or ed25519 (guest-agent.md 4.2).

    The empty name is secp256k1. Raises `MisuseError` ("Unsupported algorithm").
    """
    try:
        return _KEY_ALGORITHMS[name]
    except KeyError:
        raise _unsupported() from None


def signing_algorithm(name: str) -> str:
    """How Sign and Verify treat this name: secp256k1, secp256k1_prehashed or ed25519 (rule 4).

    Raises `MisuseError` ("Unsupported algorithm").
    """
    try:
        return _SIGN_ALGORITHMS[name]
    except KeyError:
        raise _unsupported() from None


def signing_key_algorithm(name: str) -> str:
    """The algorithm of the key that signs under this name: secp256k1 or ed25519. Raises `MisuseError`."""
    return ED25519 if signing_algorithm(name) == ED25519 else SECP256K1


def _require_scalar(secret: bytes) -> None:
    if not 0 < int.from_bytes(secret, "big") < SECP256K1_ORDER:
        raise derivation_error("key.k256-scalar", "Failed to parse k256 key")


@lru_cache(maxsize=8)
def _signing_key(secret: bytes) -> coincurve.PrivateKey:
    """The library's key object; making one costs as much as a signature.

    Who signs holds its key for as long as it runs (app root, Sign key, KMS root): kept are no secrets that
    would be gone otherwise.
    """
    _require_scalar(secret)
    return coincurve.PrivateKey(secret)


@lru_cache(maxsize=8)
def _ed25519_key(secret: bytes) -> Ed25519PrivateKey:
    """The same for ed25519, of secrets that sign; those that are only asked for their public key pass by."""
    return Ed25519PrivateKey.from_private_bytes(secret)


def public_key(algorithm: str, secret: bytes) -> bytes:
    """The public key of 32 secret bytes: compressed SEC1 (33 bytes), or ed25519 (32).

    `algorithm` is a name as in `key_algorithm`. Raises `MisuseError`, `KeyDerivationError`
    ("Failed to parse k256 key").
    """
    if key_algorithm(algorithm) == ED25519:
        return Ed25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
    _require_scalar(secret)
    compressed: bytes = coincurve.PublicKey.from_valid_secret(secret).format()
    return compressed


def sign_recoverable(secret: bytes, digest: bytes) -> bytes:
    """The 65 bytes of rule 1 over a digest of 32 bytes. Raises `KeyDerivationError`."""
    signature: bytes = _signing_key(secret).sign_recoverable(digest, hasher=None)
    return signature


def chain_digest(purpose: str, key: bytes) -> bytes:
    """What link 0 signs for a public key (rule 2). Raises `MisuseError` when purpose is not Unicode."""
    return keccak256(utf8(purpose, "purpose") + b":" + key.hex().encode())


def key_chain_link(root_key: bytes, purpose: str, key: bytes) -> bytes:
    """Link 0: the app root key vouches for a derived public key (rule 2).

    Raises `MisuseError`, `KeyDerivationError`.
    """
    return sign_recoverable(root_key, chain_digest(purpose, key))


def v1_chain_link(root_key: bytes, algorithm: str, domain: str, key: bytes) -> bytes:
    """Link 0 of the v1 derivation (guest-agent.md 3.7). Raises `MisuseError`, `KeyDerivationError`."""
    return sign_recoverable(root_key, keccak256(v1_claim(algorithm, domain, key)))


def kms_digest(app_id: bytes, key: bytes) -> bytes:
    """What the KMS signs for an app root public key (rule 3): `app_id` 20 bytes, `key` 33."""
    return keccak256(b"dstack-kms-issued:" + app_id + key)


def kms_link(kms_key: bytes, app_id: bytes, key: bytes) -> bytes:
    """Link 1: the KMS's root key vouches for an app root public key (rule 3). Raises `KeyDerivationError`."""
    return sign_recoverable(kms_key, kms_digest(app_id, key))


def recover_public_key(digest: bytes, signature: bytes) -> bytes:
    """The compressed public key (33 bytes) that made a 65-byte signature over a 32-byte digest.

    Raises `EvidenceError` when the signature has another form or fits no key.
    """
    if len(signature) != RECOVERABLE_SIZE or signature[-1] > 1:
        raise malformed(
            "signature.form",
            "the signature is not recoverable",
            expected="65 bytes, the last of them 0 or 1",
            found=f"{len(signature)} bytes",
        )
    try:
        key = coincurve.PublicKey.from_signature_and_message(signature, digest, hasher=None)
    except ValueError:
        raise malformed("signature.unrecoverable", "the signature belongs to no key") from None
    compressed: bytes = key.format()
    return compressed


def sign(algorithm: str, secret: bytes, data: bytes) -> bytes:
    """A signature of 64 bytes over `data` (rule 4). Raises `MisuseError`, `KeyDerivationError`."""
    kind = signing_algorithm(algorithm)
    if kind == ED25519:
        return _ed25519_key(secret).sign(data)
    if kind == PREHASHED:
        if len(data) != DIGEST_SIZE:
            raise misuse(
                "sign.digest-size",
                f"Pre-hashed signing requires a 32-byte digest, but received {len(data)} bytes",
            )
        return sign_recoverable(secret, data)[:SIGNATURE_SIZE]
    return sign_recoverable(secret, sha256(data))[:SIGNATURE_SIZE]


def verify(algorithm: str, data: bytes, signature: bytes, key: bytes) -> bool:
    """True when `signature` is of `key` over `data` (rules 5-7). Raises `MisuseError`."""
    kind = signing_algorithm(algorithm)
    if kind == ED25519:
        return _verify_ed25519(data, signature, key)
    return _verify_secp256k1(data if kind == PREHASHED else sha256(data), signature, key)


def _verify_secp256k1(digest: bytes, signature: bytes, key: bytes) -> bool:
    if (len(key), key[0] if key else 0) not in _SEC1_FORMS:
        raise misuse("verify.public-key", "invalid public key")
    try:
        point = coincurve.PublicKey(key)
    except ValueError:
        raise misuse("verify.public-key", "invalid public key") from None
    _require_signature_size(signature)
    r = int.from_bytes(signature[:32], "big")
    s = int.from_bytes(signature[32:], "big")
    if not (0 < r < SECP256K1_ORDER and 0 < s < SECP256K1_ORDER):
        raise misuse("verify.signature-range", "signature error", expected="r and s within the group's order")
    if len(digest) < _SHORTEST_PREHASH:
        return False
    # The library takes signatures as DER only; it refuses a high s by itself.
    valid: bool = point.verify(
        encode_dss_signature(r, s), digest[:DIGEST_SIZE].rjust(DIGEST_SIZE, b"\0"), hasher=None
    )
    return valid


def _verify_ed25519(data: bytes, signature: bytes, key: bytes) -> bool:
    if len(key) != _ED25519_KEY_SIZE or not _on_edwards_curve(key):
        raise misuse("verify.public-key", "invalid public key")
    _require_signature_size(signature)
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, data)
    except InvalidSignature:
        return False
    return True


def _require_signature_size(signature: bytes) -> None:
    if len(signature) != SIGNATURE_SIZE:
        raise misuse(
            "verify.signature-size",
            "signature error",
            expected=f"{SIGNATURE_SIZE} bytes",
            found=str(len(signature)),
        )


@lru_cache(maxsize=256)
def _on_edwards_curve(key: bytes) -> bool:
    """True when some x belongs to this encoded y (RFC 8032 5.1.3, but for canonical form; rule 7)."""
    y = int.from_bytes(key, "little") & (1 << 255) - 1
    u = (y * y - 1) % _FIELD
    v = (_EDWARDS_D * y * y + 1) % _FIELD
    return pow(u * v, (_FIELD - 1) // 2, _FIELD) in (0, 1)  # u/v is a square as u*v is
