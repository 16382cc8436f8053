"""Files sealed under a key that only this machine, or this measurement, can have (trust.md 13.3).

Rules:

1. A sealed file is a mark, a version byte, a nonce of 12 bytes, and AES-256-GCM over the content with its
   tag of 16 bytes. Mark, version and the file's name are authenticated with it: a sealed file cannot stand
   in for another, nor one version for another.
2. What does not begin with the mark is not sealed.
3. A file that does not open says so, and nothing else: neither key, nor content, nor how much of it fitted.
"""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from teehouse.base.findings import MisuseError, misuse

SEALING_KEY_SIZE = 32
NONCE_SIZE = 12
MARK = b"teehouse sealed\n"
VERSION = 1

_HEADER = MARK + bytes([VERSION])


def check_sealing_key(key: bytes) -> None:
    """Raises `MisuseError` for a sealing key of another size than 32 bytes."""
    if len(key) != SEALING_KEY_SIZE:
        raise misuse(
            "sealing.key-size",
            "the sealing key has the wrong size",
            expected=f"{SEALING_KEY_SIZE} bytes",
            found=str(len(key)),
        )


def is_sealed(data: bytes) -> bool:
    """Rule 2."""
    return data.startswith(MARK)


def seal(key: bytes, name: str, content: bytes, nonce: bytes) -> bytes:
    """`content` as the sealed file `name`; `nonce` is 12 bytes that were never used with this key.

    Raises `MisuseError` for a key of another size.
    """
    check_sealing_key(key)
    return _HEADER + nonce + AESGCM(key).encrypt(nonce, content, _HEADER + name.encode())


def unseal(key: bytes, name: str, data: bytes) -> bytes:
    """The content of a sealed file. Raises `MisuseError` (rule 3)."""
    check_sealing_key(key)
    if data[len(MARK) : len(_HEADER)] != bytes([VERSION]):
        raise _shut(name, f"sealed in version {VERSION}")
    nonce, sealed = data[len(_HEADER) :][:NONCE_SIZE], data[len(_HEADER) + NONCE_SIZE :]
    try:
        return AESGCM(key).decrypt(nonce, sealed, _HEADER + name.encode())
    except (InvalidTag, ValueError):
        raise _shut(name, "sealed with this key, under this name") from None


def _shut(name: str, expected: str) -> MisuseError:
    return misuse(
        "sealing.shut",
        f"{name} cannot be unsealed",
        expected=expected,
        remedy="give the sealing key that the file was sealed with, or restore the file",
    )
