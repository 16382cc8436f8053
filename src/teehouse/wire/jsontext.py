"""JSON text to values, strictly: every member is seen, numbers keep their kind, positions can be told.

Rules:

1. Objects become tuples of (key, value) pairs, so that a duplicate is not lost; arrays become lists.
2. Integers of at most 20 characters become int; every other number a `Fraction`.
3. `NaN` and `Infinity` are no JSON.
4. A text of more than `VALUE_LIMIT` values, or nested `DEPTH_LIMIT` deep, is refused before it is parsed.
5. Line and column are worked out only once something is wrong. The column counts bytes up to and
   with the end of the value at fault, from 1 (guest-agent.md 2.6).
"""

import json
import re
from collections.abc import Sequence
from json.decoder import scanstring  # type: ignore[attr-defined]  # public in CPython, absent from the stubs

from teehouse.wire.faults import Fraction

VALUE_LIMIT = 1 << 18
DEPTH_LIMIT = 128  # the first depth that is refused
_INTEGER_LENGTH = 20  # characters of 2^64 - 1, and of -2^63
_SPACE = re.compile(r"[ \t\n\r]*")
# Also a string without an end, so that no quote is looked at twice and time stays linear.
_STRING = r'(?s:"[^"\\]*+(?:\\.[^"\\]*+)*+"?)'
_STRING_OR_CONSTANT = re.compile(_STRING + "|NaN|-?Infinity")
_STRING_OR_BRACKET = re.compile(_STRING + r"|[\[\]{}]")


class BadJsonError(Exception):
    """The text is no JSON; the message is complete, position included."""


class _ConstantError(Exception):
    """Rule 3."""


def _integer(literal: str) -> int | Fraction:
    if len(literal) > _INTEGER_LENGTH or literal == "-0":
        return Fraction(literal)
    return int(literal)


def _constant(_literal: str) -> object:
    raise _ConstantError


_DECODER = json.JSONDecoder(
    object_pairs_hook=tuple, parse_int=_integer, parse_float=Fraction, parse_constant=_constant
)


def place(text: str, offset: int) -> str:
    """Where the first `offset` characters of `text` end, as error texts say it."""
    line_start = text.rfind("\n", 0, offset) + 1
    column = len(text[line_start:offset].encode(errors="surrogatepass"))
    return f"line {text.count(chr(10), 0, offset) + 1} column {column}"


def parse(body: bytes) -> tuple[object, str]:
    """The value of `body`, and the text it was read from. Raises `BadJsonError`."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        sound = body[: error.start].decode()
        raise BadJsonError(f"invalid unicode code point at {place(sound, len(sound))}") from None
    if len(text) > VALUE_LIMIT and sum(map(text.count, ",[{")) > VALUE_LIMIT:
        raise BadJsonError("too many values at line 1 column 0")
    _bound_depth(text)
    try:
        return _DECODER.decode(text), text
    except json.JSONDecodeError as error:
        raise BadJsonError(_syntax(error)) from None
    except _ConstantError:
        raise BadJsonError(f"expected value at {_constant_place(text)}") from None


def _bound_depth(text: str) -> None:
    """Rule 4. Up to where the text is sound JSON its strings are the pattern's, so no bracket is missed."""
    if text.count("[") + text.count("{") < DEPTH_LIMIT:
        return
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        bracket = match[0]
        if bracket in "[{":
            depth += 1
            if depth == DEPTH_LIMIT:
                raise BadJsonError(f"recursion limit exceeded at {place(text, match.end())}")
        elif bracket in "]}":
            depth -= 1


def _constant_place(text: str) -> str:
    # All before the first constant is sound JSON, so strings can be stepped over by their quotes.
    offset = next(match.start() for match in _STRING_OR_CONSTANT.finditer(text) if match[0][0] != '"')
    return place(text, offset + 1)


_AT_END = {
    "Expecting value": "EOF while parsing a value",
    "Expecting property name enclosed in double quotes": "EOF while parsing an object",
    "Expecting ':' delimiter": "EOF while parsing an object",
    "Expecting ',' delimiter": "EOF while parsing an object or a list",
}
_AT_CHARACTER = {
    "Expecting value": "expected value",
    "Expecting property name enclosed in double quotes": "key must be a string",
    "Expecting ':' delimiter": "expected `:`",
    "Expecting ',' delimiter": "expected `,` or the end of the object or list",
    "Extra data": "trailing characters",
    "Invalid control character at": "control character (\\u0000-\\u001F) found while parsing a string",
}


def _syntax(error: json.JSONDecodeError) -> str:
    text, offset = error.doc, error.pos
    if error.msg.startswith("Unterminated string"):
        return f"EOF while parsing a string at {place(text, len(text))}"
    if offset >= len(text):
        return f"{_AT_END.get(error.msg, 'EOF while parsing a value')} at {place(text, len(text))}"
    if text[offset] == "}" and error.msg.startswith("Expecting property name"):
        return f"trailing comma at {place(text, offset + 1)}"
    return f"{_AT_CHARACTER.get(error.msg, 'invalid escape')} at {place(text, offset + 1)}"


def locate(text: str, path: Sequence[int], *, at_key: bool = False) -> str:
    """Where the value ends that `path` (outermost step first) leads to in a text that parses."""
    offset = _skip(text, 0)
    for depth, index in enumerate(path):
        in_object = text[offset] == "{"
        offset = _skip(text, offset + 1)
        for current in range(index + 1):
            if in_object:
                _, offset = scanstring(text, offset + 1)
                if at_key and current == index and depth == len(path) - 1:
                    return place(text, offset)
                offset = _skip(text, _skip(text, offset) + 1)  # past the colon
            if current < index:
                offset = _skip(text, _skip(text, _end(text, offset)) + 1)  # past the comma
    return place(text, _end(text, offset))


def _skip(text: str, offset: int) -> int:
    match = _SPACE.match(text, offset)
    return match.end() if match else offset


def _end(text: str, offset: int) -> int:
    return _DECODER.raw_decode(text, offset)[1]
