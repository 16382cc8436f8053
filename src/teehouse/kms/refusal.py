"""Refusals with their context, outermost first: the text of an error body (trust.md 13.1).

`App not allowed: Boot denied: compose hash not allowed` is a context, a context and a cause, joined by ": ".
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from teehouse.base.findings import TeehouseError


def within(context: str, error: TeehouseError) -> TeehouseError:
    """The same refusal, of the same family and code, with `context` before its text."""
    finding = replace(error.finding, subject=f"{context}: {error}", expected="", found="", remedy="")
    return type(error)(finding)


@contextmanager
def context(text: str) -> Iterator[None]:
    """Put `text` before whatever is refused inside."""
    try:
        yield
    except TeehouseError as error:
        raise within(text, error) from error
