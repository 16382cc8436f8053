"""Members of the node's messages that need more than copying; the rules are those of `node.messages`."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import wraps
from typing import TypeVar

from teehouse.base.findings import malformed

M = TypeVar("M")
R = TypeVar("R")
E = TypeVar("E", bound=Enum)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Misfit(Exception):  # noqa: N818 - a note on its way to `strict`, never seen by callers of the readers
    """A member of an answer that no record can have."""


def strict(read: Callable[[M], R]) -> Callable[[M], R]:
    """A reader that raises `EvidenceError` and nothing else for what is no record (messages, rule 2)."""

    @wraps(read)
    def reading(message: M) -> R:
        try:
            return read(message)
        except Misfit as misfit:
            raise malformed("node.answer", "the node's answer", found=str(misfit)) from None

    return reading


def span_micros(seconds: float) -> int:
    """A span of time on the wire."""
    return round(seconds * 1e6)


def span_seconds(micros: int) -> float:
    """A span of time from the wire."""
    return micros / 1e6


def instant_micros(instant: datetime) -> int:
    """An instant on the wire."""
    return (instant - _EPOCH) // _MICROSECOND


def instant(micros: int) -> datetime:
    """An instant from the wire. Raises `Misfit`."""
    try:
        return _EPOCH + timedelta(microseconds=micros)
    except OverflowError:
        raise Misfit(f"an instant {micros} microseconds from 1970") from None


def word(words: type[E], text: str) -> E:
    """An enumeration's member by its word. Raises `Misfit`."""
    try:
        return words(text)
    except ValueError:
        raise Misfit(f"{text[:64]!a} where {words.__name__} has no such word") from None


def as_text(text: str) -> str:
    """Text that every message takes."""
    return text if text.isascii() else text.encode(errors="replace").decode()
