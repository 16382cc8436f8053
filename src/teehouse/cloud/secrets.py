"""What the control plane must keep and cannot keep as a hash, sealed under the installation's key.

Rules:

1. AES-256-GCM, a random nonce of 12 bytes first; the key is derived from the installation's for one purpose, and
   the place a secret belongs to is authenticated with it: moved to another row it does not open.
2. Whoever has the database alone has no secret; whoever lost the key has to make the secrets anew.
"""

import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from teehouse.base.findings import unavailable
from teehouse.cloud.settings import CloudSettings
from teehouse.keys.derive import hkdf

_SALT = b"teehouse-cloud-v1"
_NONCE = 12  # bytes


def derived_key(settings: CloudSettings, purpose: str) -> bytes:
    """32 bytes for one purpose, the same on all replicas."""
    return hkdf(settings.secret_key.get_secret_value(), purpose.encode(), salt=_SALT)


def seal(settings: CloudSettings, purpose: str, place: str, secret: bytes) -> bytes:
    """The secret, sealed for a place (rule 1)."""
    nonce = secrets.token_bytes(_NONCE)
    return nonce + AESGCM(derived_key(settings, purpose)).encrypt(nonce, secret, place.encode())


def unseal(settings: CloudSettings, purpose: str, place: str, sealed: bytes) -> bytes:
    """What was sealed. Raises `CollateralError` when this key or this place is not the one."""
    try:
        return AESGCM(derived_key(settings, purpose)).decrypt(
            sealed[:_NONCE], sealed[_NONCE:], place.encode()
        )
    except (InvalidTag, ValueError):
        raise unavailable(
            "cloud.sealed",
            "a stored secret does not open under this installation's key",
            remedy="start with the key it was sealed under, or make the secret anew",
        ) from None
