"""Queries of /logs (guest-agent.md 13.2, column PRODUCT; rules of `logs_query`)."""

import contextlib
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teehouse.base.findings import MisuseError
from teehouse.guest.logs_query import LATEST, LogQuery, parse_log_query

NOW = 1_780_000_000
FLAGS = ("follow", "text", "bare", "timestamps", "ansi")


def refusal(query: str) -> tuple[str, str]:
    with pytest.raises(MisuseError) as caught:
        parse_log_query(query.encode("latin-1"), NOW)
    return caught.value.finding.code, caught.value.finding.subject


def test_nothing_asked() -> None:
    expected = LogQuery(
        since=0, until=0, follow=False, text=False, bare=False, timestamps=False, tail=1000, ansi=False
    )
    assert parse_log_query(b"", NOW) == expected
    assert parse_log_query(b"colour=red&", NOW) == expected  # rule 6


def test_the_seeds_examples() -> None:
    assert parse_log_query(b"text&bare&timestamps&tail=30", NOW) == LogQuery(
        text=True, bare=True, timestamps=True, tail=30
    )
    assert parse_log_query(b"text&bare&timestamps&follow=true", NOW) == LogQuery(
        text=True, bare=True, timestamps=True, follow=True
    )
    assert parse_log_query(b"text&bare&since=1h", NOW) == LogQuery(text=True, bare=True, since=NOW - 3600)


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize("value", ["", "=", "=true", "=on", "=yes", "=1", "=TRUE", "=On"])
def test_rule_1_true(name: str, value: str) -> None:
    assert parse_log_query(f"{name}{value}".encode(), NOW) == LogQuery(**{name: True})


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize("value", ["=false", "=off", "=no", "=0", "=False", "=NO"])
def test_rule_1_false(name: str, value: str) -> None:
    assert parse_log_query(f"{name}{value}".encode(), NOW) == LogQuery()


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize("value", ["2", "y", "maybe", "%20", "true%00", "\xe9", "truetrue"])
def test_rule_1_neither(name: str, value: str) -> None:
    assert refusal(f"{name}={value}") == (f"logs.{name}", f"Invalid {name}")


@pytest.mark.parametrize("name", ["since", "until"])
@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("", 0),
        ("0", 0),
        ("000", 0),
        ("3600", NOW - 3600),
        ("999999999", NOW - 999_999_999),
        ("1000000000", 1_000_000_000),
        ("1700000000", 1_700_000_000),
        (str(LATEST), LATEST),
        ("0s", NOW),
        ("90s", NOW - 90),
        ("30m", NOW - 1800),
        ("1h", NOW - 3600),
        ("7d", NOW - 604_800),
        ("999999d", 0),
        ("999999999999d", 0),
    ],
)
def test_rule_2_times(name: str, value: str, seconds: int) -> None:
    assert parse_log_query(f"{name}={value}".encode(), NOW) == LogQuery(**{name: seconds})


@pytest.mark.parametrize("name", ["since", "until"])
@pytest.mark.parametrize(
    "value",
    [
        "1w",
        "h",
        "-1h",
        "1.5h",
        "-1",
        "%2B1",
        "1H",
        "1h%20",
        "1h2m",
        "٣h",
        "1" * 13,
        str(LATEST + 1),
        "now",
        "1h%0A",
    ],
)
def test_rule_2_no_times(name: str, value: str) -> None:
    assert refusal(f"{name}={quote(value, safe='%')}") == (f"logs.{name}", f"Invalid {name}")


def test_rule_3_bounds_do_not_cross() -> None:
    assert refusal("since=1h&until=2h") == ("logs.until", "Invalid until")
    assert refusal("since=1700000001&until=1700000000")[0] == "logs.until"
    assert parse_log_query(b"since=1h&until=1h", NOW) == LogQuery(since=NOW - 3600, until=NOW - 3600)
    assert parse_log_query(b"since=1h&until=0", NOW) == LogQuery(since=NOW - 3600)


@pytest.mark.parametrize(
    ("value", "tail"), [("all", None), ("0", 0), ("7", 7), ("0010", 10), ("999999999", 999_999_999)]
)
def test_rule_4_tail(value: str, tail: int | None) -> None:
    assert parse_log_query(f"tail={value}".encode(), NOW) == LogQuery(tail=tail)


@pytest.mark.parametrize(
    "value", ["", "abc", "-1", "1.5", "ALL", "+5", "%2B5", "1000000000", "٣", "5%0A", "5%00"]
)
def test_rule_4_no_tail(value: str) -> None:
    assert refusal(f"tail={quote(value, safe='%+')}") == ("logs.tail", "Invalid tail")


def test_rule_5_what_has_passed_is_not_followed() -> None:
    assert not parse_log_query(b"follow&until=1h", NOW).follow
    assert not parse_log_query(b"follow&until=0s", NOW).follow
    assert parse_log_query(f"follow&until={NOW + 1}".encode(), NOW).follow
    assert parse_log_query(b"follow&until=0", NOW).follow


def test_rule_6_the_first_counts() -> None:
    assert parse_log_query(b"tail=5&tail=abc&text=no&text", NOW) == LogQuery(tail=5)


def test_rule_7_fields_are_bounded() -> None:
    assert parse_log_query(b"&".join([b"a=1"] * 64), NOW) == LogQuery()
    assert refusal("&".join(["a=1"] * 65)) == ("logs.query", "the query has more than 64 fields")


@given(st.binary(max_size=200))
def test_any_query_is_parsed_or_refused(query: bytes) -> None:
    with contextlib.suppress(MisuseError):
        parsed = parse_log_query(query, NOW)
        assert 0 <= parsed.since <= LATEST
        assert 0 <= parsed.until <= LATEST


@given(
    st.builds(
        LogQuery,
        since=st.integers(1_000_000_000, 1_500_000_000),
        until=st.integers(1_500_000_000, LATEST) | st.just(0),
        text=st.booleans(),
        bare=st.booleans(),
        timestamps=st.booleans(),
        tail=st.none() | st.integers(0, 999_999_999),
        ansi=st.booleans(),
    )
)
def test_what_is_asked_is_what_counts(query: LogQuery) -> None:
    fields = [
        f"{name}={str(getattr(query, name)).lower()}" for name in ("text", "bare", "timestamps", "ansi")
    ]
    fields += [
        f"since={query.since}",
        f"until={query.until}",
        f"tail={'all' if query.tail is None else query.tail}",
    ]
    assert parse_log_query("&".join(fields).encode(), NOW) == query
