"""What can be wrong with a value on the wire, in the words that clients of the agent know.

The wording follows guest-agent.md 2.6; of it, the two hex texts are contractual, the rest is kept close.
"""

import binascii
from typing import Protocol

ECHO_LIMIT = 200  # characters of a client's text that an error repeats


class Fault(Exception):  # noqa: N818 - a passing note between decoders, never seen outside this package
    """A value that does not fit its field.

    `path` leads from the outermost value to the bad one, innermost step first: indices of members and
    elements. `at_key` puts the fault at the end of the last member's key rather than of its value.
    """

    def __init__(self, text: str, *, at_key: bool = False) -> None:
        super().__init__(text)
        self.text = text
        self.at_key = at_key
        self.path: list[int] = []


class Reader(Protocol):
    """Turns one decoded value into what a protobuf field takes. Raises `Fault`."""

    def __call__(self, value: object, /) -> object: ...


class Fraction:
    """A JSON number that is no integer of at most 64 bits, kept as it was written."""

    __slots__ = ("literal",)

    def __init__(self, literal: str) -> None:
        self.literal = literal


def quoted(text: str) -> str:
    """`text` in double quotes, cut to `ECHO_LIMIT`, always encodable as UTF-8."""
    shown = text if len(text) <= ECHO_LIMIT else text[:ECHO_LIMIT] + "…"
    escaped = shown.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{escaped.encode(errors="replace").decode()}"'


def shown_number(literal: str) -> str:
    """A fraction the way the errors write it: without a trailing `.0`."""
    return repr(float(literal)).removesuffix(".0")


def kind(value: object) -> str:
    """What a decoded JSON value is. Objects are tuples of pairs here (see `jsontext`)."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"boolean `{str(value).lower()}`"
    if isinstance(value, int):
        return f"integer `{value}`"
    if isinstance(value, str):
        return f"string {quoted(value)}"
    if isinstance(value, Fraction):
        return f"floating point `{shown_number(value.literal)}`"
    return "sequence" if isinstance(value, list) else "map"


def wrong_type(value: object, expected: str) -> Fault:
    """The fault of a value of another kind than its field."""
    return Fault(f"invalid type: {kind(value)}, expected {expected}")


_ESCAPES = {0: "\\0", 9: "\\t", 10: "\\n", 13: "\\r", 39: "\\'", 92: "\\\\"}


def _character(code: int) -> str:
    """A byte as a character in the notation of the error text."""
    if code in _ESCAPES:
        return _ESCAPES[code]
    character = chr(code)
    return character if character.isprintable() or code == 0xA0 else f"\\u{{{code:x}}}"


def decode_hex(text: str) -> bytes:
    """The bytes of a hex string; leading `0x`, any number of them, do not count. Raises `Fault`.

    Positions count bytes of what follows the `0x`, from 0; lengths are judged before digits
    (guest-agent.md 2.3, 2.6).
    """
    try:
        return binascii.unhexlify(text)
    except ValueError:
        pass
    start = 0
    while text.startswith("0x", start):
        start += 2
    digits = check_text(text)[start:].encode()
    if len(digits) % 2:
        raise Fault("Odd number of digits")
    try:
        return binascii.unhexlify(digits)
    except binascii.Error:
        pass
    position = len(digits) - len(digits.lstrip(b"0123456789abcdefABCDEF"))
    raise Fault(f"Invalid character '{_character(digits[position])}' at position {position}")


def check_text(text: str) -> str:
    """`text` itself when it can be written as UTF-8. Raises `Fault` for half a surrogate pair."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise Fault("lone leading surrogate in hex escape") from None
    return text
