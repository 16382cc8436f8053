"""Prometheus' text format: rules 2 and 3 of `teehouse.base.exposition`, and histograms."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teehouse.base.exposition import Metric, Sample, exposition, histogram, number


def test_a_histogram_between_others_letter_by_letter() -> None:
    metrics = [
        Metric("one_total", "One", (Sample(2, (("a", "x"), ("b", "y"))),), "counter"),
        Metric("two_seconds", "Two", histogram((0.5, 1.0), (1, 2, 4), 7.25, (("route", "/"),)), "histogram"),
        Metric("three", "Three", ()),
    ]
    assert (
        exposition(metrics)
        == """# HELP one_total One
# TYPE one_total counter
one_total{a="x", b="y"} 2

# HELP two_seconds Two
# TYPE two_seconds histogram
two_seconds_bucket{route="/", le="0.5"} 1
two_seconds_bucket{route="/", le="1"} 2
two_seconds_bucket{route="/", le="+Inf"} 4
two_seconds_sum{route="/"} 7.25
two_seconds_count{route="/"} 4

# HELP three Three
# TYPE three gauge
"""
    )
    with pytest.raises(ValueError, match="zip"):
        histogram((0.5,), (1,), 0.0)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (-3.0, "-3"), (0.1, "0.1"), (1e-7, "1e-07"), (7, "7"), (1e18, "1000000000000000000")],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


def unescaped(text: str) -> str:
    """What a reader of the format makes of a label's value."""
    out, rest = "", iter(text)
    for character in rest:
        out += {"n": "\n", "\\": "\\", '"': '"'}[next(rest)] if character == "\\" else character
    return out


@given(st.text())
def test_a_label_is_read_back_as_it_was(value: str) -> None:
    text = Metric("m", "h", (Sample(1, (("l", value),)),)).text()
    assert text.startswith('# HELP m h\n# TYPE m gauge\nm{l="')
    assert text.endswith('"} 1\n')
    assert text.count("\n") == 3
    assert unescaped(text.removeprefix('# HELP m h\n# TYPE m gauge\nm{l="').removesuffix('"} 1\n')) == value
