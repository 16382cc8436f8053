"""The dated versions of the API (cloud-api.md 2).

Rules:

V1. A request without version gets the newest.
V2. A date between two versions means the older one; one after the newest means the newest.
V3. A date before the first version, and what is no date, is refused.
"""

import re
from datetime import date
from enum import Enum
from functools import total_ordering
from typing import Final

from teehouse.base.findings import misuse

HEADER: Final = "X-Phala-Version"
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


@total_ordering
class ApiVersion(Enum):
    """A version; they are ordered by date."""

    V1 = "2025-10-28"
    V2 = "2026-01-21"
    V3 = "2026-05-22"
    V4 = "2026-06-23"

    def __lt__(self, other: object) -> bool:
        # Dates of this form sort as text.
        return self.value < other.value if isinstance(other, ApiVersion) else NotImplemented


NEWEST: Final = ApiVersion.V4


def negotiate(text: str | None) -> ApiVersion:
    """The version that a request with this header gets. Raises `MisuseError` (rule V3)."""
    if text is None or not text.strip():
        return NEWEST
    wanted = text.strip()
    if _DATE.fullmatch(wanted) and _is_date(wanted):
        older = [version for version in ApiVersion if version.value <= wanted]
        if older:
            return older[-1]
    raise misuse(
        "cloud.version",
        f"header {HEADER}",
        expected=f"a date from {ApiVersion.V1.value} on",
        found=ascii(wanted[:40]),
        remedy=f"send one of {', '.join(version.value for version in ApiVersion)}",
    )


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True
