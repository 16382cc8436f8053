"""JSON, hex and base64 from strangers, read so that two readers cannot see two different things.

Rules:

1. The text is bounded before it is parsed: `<name>.too-long`.
2. It is JSON in UTF-8 without NaN or infinities: `<name>.not-json`.
3. No object names a member twice (RFC 8259 leaves open which one counts): `<name>.duplicate-member`.
4. Text is made of Unicode scalar values, so that it can be hashed as UTF-8: `<name>.not-utf8`.
5. Hex is pairs of hex digits and nothing else; base64 is the standard alphabet with its padding.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from teehouse.base.findings import malformed

_HEX = re.compile(r"(?:[0-9a-fA-F]{2})*\Z")


def load(text: str | bytes, name: str, *, limit: int) -> Any:
    """The JSON value of `text`, which has at most `limit` characters (or bytes).

    Raises `EvidenceError` (malformed) with codes that begin with `name`.
    """
    if len(text) > limit:
        raise malformed(
            f"{name}.too-long", f"{name} is too long", expected=f"at most {limit}", found=str(len(text))
        )

    def constant(_: str) -> NoReturn:
        raise ValueError("no JSON number")

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise malformed(f"{name}.duplicate-member", f"{name} names a member of an object twice")
        return found

    try:
        decoded = text if isinstance(text, str) else text.decode()
        decoded.encode()  # text that was given as such may have half a surrogate pair
        return json.loads(decoded, object_pairs_hook=members, parse_constant=constant)
    except (ValueError, RecursionError):  # ValueError includes decoding errors and over-long integers
        raise malformed(f"{name}.not-json", f"{name} is no JSON in UTF-8") from None


def load_object(text: str | bytes, name: str, *, limit: int) -> dict[str, Any]:
    """As `load`, for a JSON object."""
    value = load(text, name, limit=limit)
    if not isinstance(value, dict):
        raise malformed(f"{name}.not-object", f"{name} is no JSON object")
    return value


def text_member(source: Mapping[str, Any], key: str, name: str, default: str | None = None) -> str:
    """The string member `key`; `default` where it is missing and a default is given."""
    value = source.get(key, default)
    if not isinstance(value, str):
        raise malformed(f"{name}.member", f"{key} of {name} is no string", found=kind(value))
    try:
        value.encode()
    except UnicodeEncodeError:
        raise malformed(f"{name}.not-utf8", f"{key} of {name} has half a surrogate pair") from None
    return value


def int_member(source: Mapping[str, Any], key: str, name: str, *, limit: int) -> int:
    """The integer member `key`, 0 to `limit`."""
    value = source.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise malformed(f"{name}.member", f"{key} of {name} is no integer", found=kind(value))
    if not 0 <= value <= limit:
        raise malformed(
            f"{name}.member", f"{key} of {name} is out of range", expected=f"0 to {limit}", found=short(value)
        )
    return value


def hex_member(source: Mapping[str, Any], key: str, name: str, default: str | None = None) -> bytes:
    """The bytes of the hex string member `key`."""
    return from_hex(text_member(source, key, name, default), f"{key} of {name}", name)


def base64_member(source: Mapping[str, Any], key: str, name: str) -> bytes:
    """The bytes of the base64 string member `key`."""
    return from_base64(text_member(source, key, name), f"{key} of {name}", name)


def is_hex(text: str) -> bool:
    """Whether `text` is pairs of hex digits; no text at all is."""
    return _HEX.match(text) is not None


def from_hex(text: str, what: str, name: str) -> bytes:
    """The bytes of hex digits, either case, without prefix or spaces (`bytes.fromhex` would take those)."""
    if not is_hex(text):
        raise malformed(f"{name}.not-hex", f"{what} is no hex")
    return bytes.fromhex(text)


def from_base64(text: str, what: str, name: str) -> bytes:
    """The bytes of standard base64 with padding."""
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        raise malformed(f"{name}.not-base64", f"{what} is no base64") from None


def kind(value: object) -> str:
    """The kind of a JSON value, for a finding."""
    return "nothing" if value is None else type(value).__name__


def quoted(text: str) -> str:
    """The beginning of a stranger's text, for a finding: in ASCII, so that it can say nothing to a terminal."""
    return json.dumps(text[:64])


def short(value: int) -> str:
    """An integer for a finding; those beyond 64 bits are only counted (printing them could be refused)."""
    return str(value) if value.bit_length() <= 64 else f"an integer of {value.bit_length()} bits"
