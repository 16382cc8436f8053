"""Signatures of webhook deliveries (cloud-api.md 7).

Rules:

1. The signature is HMAC-SHA256 over the unix time as decimal text, a dot, and the raw body; its key is the text of
   the secret. It is sent as `sha256=` and lower-case hex.
2. A receiver refuses a time more than 300 s away in either direction, and compares in constant time.
"""

import hmac
import secrets
from datetime import datetime
from typing import Final

from teehouse.cloud.ids import ALPHABET

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - where secrets begin
TOLERANCE: Final = 300  # seconds
USER_AGENT: Final = "PhalaCloud-Webhook/1.0"
PURPOSE: Final = "webhook secret"  # of `teehouse.cloud.secrets`
_DIGITS: Final = 43


def new_secret() -> str:
    """A secret of 256 bits of randomness."""
    return SECRET_PREFIX + "".join(secrets.choice(ALPHABET) for _ in range(_DIGITS))


def signature(secret: str, timestamp: int, body: bytes) -> str:
    """The value of `X-Webhook-Signature` (rule 1)."""
    return "sha256=" + hmac.new(secret.encode(), f"{timestamp}.".encode() + body, "sha256").hexdigest()


def headers(secret: str, event_id: str, event: str, body: bytes, now: datetime) -> dict[str, str]:
    """The headers of a delivery made now."""
    timestamp = int(now.timestamp())
    return {
        "Content-Type": "application/json",
        "User-Agent": USER_AGENT,
        "X-Webhook-Id": event_id,
        "X-Webhook-Event": event,
        "X-Webhook-Timestamp": str(timestamp),
        "X-Webhook-Signature": signature(secret, timestamp, body),
    }


def is_signed(secret: str, timestamp: str, body: bytes, signed: str, now: datetime) -> bool:
    """Whether a receiver should take the delivery (rule 2)."""
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= len("10000000000")):
        return False
    if abs(int(timestamp) - now.timestamp()) > TOLERANCE:
        return False
    return hmac.compare_digest(signature(secret, int(timestamp), body).encode(), signed.encode())
