"""What all bodies of the REST API have in common.

Rules:

1. A field written `T | None` without a default is always present; one with a default of None may be left out
   (cloud-api.md 0). What has no value is left out where null would be refused.
2. Members that nobody here knows are ignored, as the published clients do.
3. Times are ISO 8601 text in UTC with `Z`; money is decimal text; hex has no `0x` unless a field says so.
"""

from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict


class Body(BaseModel):
    """The base of all bodies (rule 2). They are values: never changed after they were read."""

    model_config = ConfigDict(extra="ignore", frozen=True)


def time_text(value: datetime) -> str:
    """The instant as bodies have it: `2026-03-19T10:30:00Z`, with microseconds where there are any."""
    if value.tzinfo is not UTC:
        value = value.astimezone(UTC)
    return value.isoformat()[:-6] + "Z"  # without +00:00


def uuid_text(digits: str) -> str:
    """A UUID of 32 hex digits as bodies have it, with dashes."""
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
