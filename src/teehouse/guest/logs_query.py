"""What a caller of `GET /logs/<name>` asks for (guest-agent.md 13.2, column PRODUCT).

Rules:

1. Flags (`follow`, `text`, `bare`, `timestamps`, `ansi`): there without a value, empty, `true`, `on`, `yes`, `1` is
   true; absent, `false`, `off`, `no`, `0` is false, in any case of letters; anything else is refused.
2. `since` and `until`: empty, absent or `0` is no bound. Digits alone are that many seconds ago below 1 000 000 000,
   and UNIX seconds from there on. `<n>s`, `<n>m`, `<n>h`, `<n>d` are that long ago, 1970 at the earliest, which is
   no bound either. Anything else is refused, and so is what lies beyond the year 9999.
3. `until` before `since` is refused; they may be equal.
4. `tail` is `all` or a number of entries, the last 1000 without it.
5. To follow up to a moment that has passed is not to follow.
6. A parameter given twice counts as it was given first; one of another name does not count.
7. A refusal names its parameter: `Invalid since`. The query has at most 64 fields.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

from teehouse.base.findings import MisuseError, misuse

DEFAULT_TAIL = 1000
FIELD_LIMIT = 64
ABSOLUTE_FROM = 1_000_000_000  # smaller numbers are seconds ago (rule 2)
LATEST = 253_402_300_799  # UNIX seconds; the end of the year 9999
_TRUE = frozenset({"", "true", "on", "yes", "1"})
_FALSE = frozenset({"false", "off", "no", "0"})
_TIME = re.compile(r"([0-9]{1,12})([smhd]?)")
_TAIL = re.compile(r"[0-9]{1,9}")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True)
class LogQuery:
    """The parameters. `since` and `until` are UNIX seconds, 0 for none; `tail` counts entries, None for all."""

    since: int = 0
    until: int = 0
    follow: bool = False
    text: bool = False
    bare: bool = False
    timestamps: bool = False
    tail: int | None = DEFAULT_TAIL
    ansi: bool = False


def parse_log_query(query: bytes, now: int) -> LogQuery:
    """The parameters of a query string; `now` in UNIX seconds. Raises `MisuseError` by rule 7."""
    try:
        pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=FIELD_LIMIT)
    except ValueError:
        raise misuse("logs.query", f"the query has more than {FIELD_LIMIT} fields") from None
    fields = dict(reversed(pairs))  # rule 6
    since, until = (_time(fields, name, now) for name in ("since", "until"))
    if since and until and until < since:
        raise _refused("until", "a time not before since")
    return LogQuery(
        since=since,
        until=until,
        follow=_flag(fields, "follow") and not 0 < until <= now,  # rule 5
        text=_flag(fields, "text"),
        bare=_flag(fields, "bare"),
        timestamps=_flag(fields, "timestamps"),
        tail=_tail(fields),
        ansi=_flag(fields, "ansi"),
    )


def _flag(fields: Mapping[str, str], name: str) -> bool:
    """Rule 1."""
    value = fields.get(name, "false").lower()
    if value not in _TRUE | _FALSE:
        raise _refused(name)
    return value in _TRUE


def _time(fields: Mapping[str, str], name: str, now: int) -> int:
    """Rule 2."""
    value = fields.get(name, "")
    if not value:
        return 0
    match = _TIME.fullmatch(value)
    if match is None:
        raise _refused(name)
    number, unit = int(match[1]), match[2]
    if unit or 0 < number < ABSOLUTE_FROM:
        return max(0, now - number * _UNITS[unit or "s"])
    if number > LATEST:
        raise _refused(name)
    return number


def _tail(fields: Mapping[str, str]) -> int | None:
    """Rule 4."""
    value = fields.get("tail", str(DEFAULT_TAIL))
    if value == "all":
        return None
    if not _TAIL.fullmatch(value):
        raise _refused("tail")
    return int(value)


def _refused(name: str, expected: str = "") -> MisuseError:
    return misuse(f"logs.{name}", f"Invalid {name}", expected=expected)
