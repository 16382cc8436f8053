"""Messages in JSON, in query strings and in protobuf (guest-agent.md 2.2 to 2.6).

Rules:

1. A request is decoded from one of three encodings to the same message.
2. Whatever is wrong with it is a `MisuseError` whose text, and whose finding's subject, is the text of
   the error body; nothing else is raised for any bytes.
3. Results are compact and ASCII only: one published client counts characters where others count bytes
   (2.8 a). Errors are written with two spaces of indentation.
4. google.protobuf.Empty is `null` as a response, and as a JSON or query request is not looked at.
"""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeVar, cast

from google.protobuf.message import DecodeError, Message

from teehouse.base.findings import MisuseError, misuse
from teehouse.wire import guest_pb2, jsontext
from teehouse.wire.faults import Fault
from teehouse.wire.fields import codec
from teehouse.wire.query import read_query

M = TypeVar("M", bound=Message)

BODY_LIMIT = 10 * 1024 * 1024  # bytes (guest-agent.md 2.7)
TOO_LARGE = "failed to read data: payload too large"


def too_large() -> MisuseError:
    """The refusal of a body over its limit."""
    return misuse("wire.too-large", TOO_LARGE)


def decode_json(message_type: type[M], body: bytes) -> M:
    """The message that a JSON body says; no bytes at all mean the defaults.

    Raises `MisuseError`, with line and column of the fault.
    """
    fields = codec(message_type)
    if not body or fields.empty:
        return message_type()
    if len(body) > BODY_LIMIT:
        raise too_large()
    try:
        value, text = jsontext.parse(body)
    except jsontext.BadJsonError as error:
        raise misuse("wire.json", str(error)) from None
    try:
        return cast("M", fields.read(value))
    except Fault as fault:
        where = jsontext.locate(text, fault.path[::-1], at_key=fault.at_key)
        raise misuse("wire.json", f"{fault.text} at {where}") from None


def decode_query(message_type: type[M], query: bytes) -> M:
    """The message that a query string (without `?`) says; the empty one means the defaults.

    Raises `MisuseError`, without a position.
    """
    fields = codec(message_type)
    if not query or fields.empty:
        return message_type()
    if len(query) > BODY_LIMIT:
        raise too_large()
    try:
        return cast("M", read_query(fields, query))
    except Fault as fault:
        raise misuse("wire.query", fault.text) from None


def decode_protobuf(message_type: type[M], body: bytes) -> M:
    """The message of a protobuf body. Raises `MisuseError`."""
    if len(body) > BODY_LIMIT:
        raise too_large()
    try:
        return message_type.FromString(body)
    except DecodeError:
        name = message_type.DESCRIPTOR.name
        raise misuse("wire.protobuf", f"failed to decode Protobuf message: {name}") from None


def encode_json(message: Message, rendered: Mapping[str, str] = MappingProxyType({})) -> bytes:
    """A result's JSON: compact, ASCII, every member in declaration order.

    `rendered`, from `render_members`, spares results that share members the rendering of these.
    """
    fields = codec(type(message))
    return b"null" if fields.empty else fields.render(message, rendered).encode("ascii")


def render_members(message: Message, *names: str) -> Mapping[str, str]:
    """These members of a result, for every result of its type in which they have the same values."""
    fields = codec(type(message)).fields
    return {name: fields[name].render(message) for name in names}


def encode_protobuf(message: Message) -> bytes:
    return message.SerializeToString()


def encode_error_json(text: str) -> bytes:
    """The body of every failed exchange in JSON."""
    return json.dumps({"error": text}, indent=2).encode("ascii")


def encode_error_protobuf(text: str) -> bytes:
    """The body of every failed exchange in protobuf."""
    return guest_pb2.Error(message=text.encode(errors="replace").decode()).SerializeToString()
