"""Hash functions by name, and the extension of a measurement register.

Keccak here is the original submission's padding (Ethereum's), which `hashlib` does not have.
"""

import hashlib

from Crypto.Hash import keccak as _keccak

REGISTER_SIZE = 48  # bytes of an RTMR and of the SHA-384 digests that extend it
INITIAL_REGISTER = bytes(REGISTER_SIZE)


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def sha384(data: bytes) -> bytes:
    return hashlib.sha384(data).digest()


def sha512(data: bytes) -> bytes:
    return hashlib.sha512(data).digest()


def keccak(data: bytes, bits: int) -> bytes:
    """Original Keccak of `data`; `bits` is 256, 384 or 512."""
    return _keccak.new(digest_bits=bits, data=data).digest()


def keccak256(data: bytes) -> bytes:
    return keccak(data, 256)


def extend(register: bytes, digest: bytes) -> bytes:
    """The register after one extension: SHA-384(register || digest), both 48 bytes (trust.md 8.1)."""
    if len(register) != REGISTER_SIZE or len(digest) != REGISTER_SIZE:
        raise ValueError(f"a register and its digests are {REGISTER_SIZE} bytes")
    return sha384(register + digest)
