"""Requests in the query string of a GET (guest-agent.md 2.4).

Rules:

1. A form: `&` between members, `+` is a space, `%XX` is decoded; a key without `=` has the empty value.
2. Unknown keys are ignored.
3. A list is `name[]=a&name[]=b` or `name[0]=a&name[1]=b`, its brackets literal or percent-encoded, or one
   plain `name=a`.
4. The same scalar twice is an error; an optional with the empty value is absent.
5. Keys nest at most `DEPTH_LIMIT` deep, and no field of ours deeper than one.
"""

import re
from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

from google.protobuf.message import Message

from teehouse.wire.faults import Fault, quoted
from teehouse.wire.fields import FieldCodec, MessageCodec

DEPTH_LIMIT = 5
FIELD_LIMIT = 10_000  # members of one query
_INDEX_LENGTH = 9  # digits of an element's number
_KEY = re.compile(r"([^\[]*)((?:\[[^\]]*\])*)\Z")
_MIXED = "Attempted to insert seq value into non-seq structure"


def read_query(codec: MessageCodec, query: bytes) -> Message:
    """The message that a query string says. Raises `Fault`."""
    scalars: dict[str, object] = {}
    plain: dict[str, list[str]] = {}
    numbered: dict[str, dict[int, str]] = {}
    members = query.split(b"&", FIELD_LIMIT) if query else []
    if len(members) > FIELD_LIMIT:
        raise Fault("too many values")
    for member in members:
        key, _, raw = member.partition(b"=")
        name, brackets = _split(_decoded(key))
        value = _decoded(raw)
        field = codec.fields.get(name)
        if field is None:
            continue
        if not field.repeated:
            if brackets:
                raise Fault(f"invalid type: {_shape(brackets)}, expected a single value")
            if name in scalars:
                raise Fault(f'Multiple values for one key: "{name}"')
            scalars[name] = _scalar(field, value)
        elif not brackets:
            if name in plain or name in numbered:
                raise Fault(f'Multiple values for one key: "{name}"')
            plain[name] = [value]
            numbered[name] = {}  # a second form of the same list is refused
        else:
            _element(name, brackets, value, plain, numbered)
    return codec.message_type(**scalars, **_lists(codec.fields, plain, numbered))


def _decoded(raw: bytes) -> str:
    try:
        return unquote_to_bytes(raw.replace(b"+", b" ")).decode()
    except UnicodeDecodeError as error:
        raise Fault(f"invalid utf-8 sequence of 1 bytes from index {error.start}") from None


def _split(key: str) -> tuple[str, list[str]]:
    """A key's name and the contents of its brackets; a key that is not so formed is a name as it stands."""
    match = _KEY.match(key)
    if not match or not match[1]:
        return key, []
    brackets = match[2][1:-1].split("][", DEPTH_LIMIT) if match[2] else []
    return match[1], brackets


def _is_index(bracket: str) -> bool:
    return bracket.isascii() and bracket.isdigit() and len(bracket) <= _INDEX_LENGTH


def _shape(brackets: list[str]) -> str:
    return "sequence" if brackets[0] == "" or _is_index(brackets[0]) else "map"


def _scalar(field: FieldCodec, value: str) -> object:
    if field.optional and value == "":
        return None
    if field.from_text is None:
        raise Fault(f"invalid type: string {quoted(value)}, expected a struct")
    return field.from_text(value)


def _element(
    name: str,
    brackets: list[str],
    value: str,
    plain: dict[str, list[str]],
    numbered: dict[str, dict[int, str]],
) -> None:
    """Take one member of a list in one of its two bracketed forms (rule 3)."""
    if _shape(brackets) == "map":
        raise Fault("invalid type: map, expected a sequence")
    if len(brackets) > 1:
        raise Fault(f"invalid type: {_shape(brackets[1:])}, expected a single value")
    if name in (plain if brackets[0] else numbered):
        raise Fault(_MIXED)
    if not brackets[0]:
        plain.setdefault(name, []).append(value)
        return
    elements = numbered.setdefault(name, {})
    if int(brackets[0]) in elements:
        raise Fault(f'Multiple values for one key: "{int(brackets[0])}"')
    elements[int(brackets[0])] = value


def _lists(
    fields: Mapping[str, FieldCodec], plain: dict[str, list[str]], numbered: dict[str, dict[int, str]]
) -> dict[str, list[object]]:
    lists = {name: [elements[index] for index in sorted(elements)] for name, elements in numbered.items()}
    return {
        name: [_scalar(fields[name], value) for value in values] for name, values in (lists | plain).items()
    }
