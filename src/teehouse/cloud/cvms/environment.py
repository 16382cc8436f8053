"""The environment of a CVM as requests carry it: a sealed box in hex, and the key it is sealed for."""

from typing import Final, Protocol

from teehouse.cloud.errors import CloudError, Detail, ErrorCode
from teehouse.keys.envbox import BOX_LIMIT, IV_SIZE, KEY_SIZE

LEAST: Final = KEY_SIZE + IV_SIZE + 16  # bytes of a box around nothing (trust.md 14)


class EnvironmentKeys(Protocol):
    """Asks a KMS for the key that an app's environment is sealed for."""

    async def environment_key(self, kms_id: int, app_id: str) -> str:
        """The X25519 public key, 64 hex digits, of the app (40 hex digits) at the KMS of this number.

        Raises `CollateralError` when the KMS does not answer.
        """
        ...


def parse_box(text: str | None) -> bytes | None:
    """The box that a request carries, with or without `0x`; empty text is no box. Raises `CloudError` ERR-02-008.

    None means that the request says nothing of it.
    """
    if text is None:
        return None
    digits = text.removeprefix("0x")
    if not digits:
        return b""
    try:
        box = bytes.fromhex(digits)
    except ValueError as error:
        raise _bad("it is no hex") from error
    if not LEAST <= len(box) <= BOX_LIMIT:
        raise _bad(f"it has {len(box)} bytes; {LEAST} to {BOX_LIMIT} are possible")
    return box


def _bad(message: str) -> CloudError:
    return CloudError(
        ErrorCode.INVALID_REQUEST,
        f"encrypted_env is no sealed environment: {message}",
        details=[Detail(field="encrypted_env", message=message)],
    )
