"""Derivation of keys from keys: HKDF, application keys, P-256 children, shared secrets (guest-agent.md 3).

Rules:

1. HKDF-SHA256 with salt "RATLS"; the info is the plain concatenation of the contexts, without lengths
   or separators, so that ("a", "bc") and ("ab", "c") give the same key. Wallets depend on it.
2. An application key depends on the root key and the bytes of the path alone: neither the purpose nor
   the algorithm takes part, and a path is not normalised.
3. A derived scalar outside its group is an error; it is neither reduced nor derived again.
4. The v1 derivation has a salt of its own and prefixes each part of its info by its length.

Nothing here keeps, logs or shows a secret.
"""

import hmac

from cryptography.hazmat.primitives.asymmetric import ec

from teehouse.base.findings import Family, Finding, Outcome, TeehouseError, misuse
from teehouse.base.hashes import sha256
from teehouse.keys.pem import private_key_der

KEY_SIZE = 32  # bytes of every root key, application key, scalar and seed
SALT = b"RATLS"
V1_SALT = b"dstack-guest-v1"
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

_HKDF_LIMIT = 255 * 32  # RFC 5869: the block counter is one byte
_CURVE = ec.SECP256R1()


class KeyDerivationError(TeehouseError):
    """A derivation ended in bytes that are no key: nobody's fault, and nothing the caller can mend.

    Its finding's subject is the text that clients of the guest agent know.
    """

    family = Family.COLLATERAL


def derivation_error(code: str, subject: str) -> KeyDerivationError:
    """A `KeyDerivationError`. It never says which scalar failed."""
    return KeyDerivationError(Finding(code, subject, Outcome.COLLATERAL_MISSING))


def hkdf(ikm: bytes, *context: bytes, length: int = KEY_SIZE, salt: bytes = SALT) -> bytes:
    """`length` bytes derived from `ikm` (RFC 5869; rule 1). Raises ValueError above 8160 bytes."""
    if not 0 < length <= _HKDF_LIMIT:
        raise ValueError(f"HKDF-SHA256 gives 1 to {_HKDF_LIMIT} bytes")
    info = b"".join(context)
    prk = hmac.digest(salt, ikm, "sha256")
    block = hmac.digest(prk, info + b"\x01", "sha256")
    if length <= KEY_SIZE:
        return block[:length]
    out = block
    counter = 2
    while len(out) < length:
        block = hmac.digest(prk, block + info + bytes([counter]), "sha256")
        out += block
        counter += 1
    return out[:length]


def utf8(text: str, what: str) -> bytes:
    """The bytes of `text`. Raises `MisuseError` for lone surrogates, which have no UTF-8."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise misuse("text.not-unicode", f"{what} is not valid Unicode text") from None


def application_key(root_key: bytes, path: str) -> bytes:
    """The 32 bytes of the application key at `path` (guest-agent.md 3.3; rule 2)."""
    return hkdf(root_key, utf8(path, "path"))


def p256_from_scalar(scalar: bytes) -> ec.EllipticCurvePrivateKey:
    """The P-256 key with this big-endian scalar of 32 bytes.

    Raises `KeyDerivationError` ("Failed to derive key") when it is zero or not below the order (rule 3).
    """
    value = int.from_bytes(scalar, "big")
    if not 0 < value < P256_ORDER:
        raise derivation_error("key.p256-scalar", "Failed to derive key")
    return ec.derive_private_key(value, _CURVE)


def p256_scalar(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The 32 big-endian bytes of a P-256 key's scalar."""
    return key.private_numbers().private_value.to_bytes(KEY_SIZE, "big")


def derive_p256(parent_scalar: bytes, *context: bytes) -> ec.EllipticCurvePrivateKey:
    """The P-256 child of a parent scalar (trust.md 13.4). Raises `KeyDerivationError`."""
    return p256_from_scalar(hkdf(parent_scalar, *context))


def dh_secret(parent_scalar: bytes, *context: bytes) -> bytes:
    """32 secret bytes: SHA-256 of the PKCS#8 DER of the P-256 child (guest-agent.md 3.6).

    Raises `KeyDerivationError`.
    """
    return sha256(private_key_der(derive_p256(parent_scalar, *context)))


def _prefixed(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value


def v1_key(root_key: bytes, algorithm: str, domain: str) -> bytes:
    """The 32 bytes of the v1 key of a domain (guest-agent.md 3.7; rule 4)."""
    return hkdf(
        root_key,
        _prefixed(b"dstack-guest-v1-key"),
        _prefixed(utf8(algorithm, "algorithm")),
        _prefixed(utf8(domain, "domain")),
        salt=V1_SALT,
    )


def v1_claim(algorithm: str, domain: str, public_key: bytes) -> bytes:
    """What link 0 of a v1 chain signs, before Keccak-256 (guest-agent.md 3.7)."""
    return b"".join(
        _prefixed(part)
        for part in (
            b"dstack-guest-v1-key-claim",
            utf8(algorithm, "algorithm"),
            utf8(domain, "domain"),
            public_key,
        )
    )
