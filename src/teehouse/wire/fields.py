"""Per message type, once: how JSON values become its fields and its fields become JSON text.

What a protobuf type looks like in JSON is the table of guest-agent.md 2.3.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii
from operator import attrgetter
from types import MappingProxyType
from typing import cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from teehouse.wire.faults import Fault, Fraction, Reader, check_text, decode_hex, wrong_type

# The one member that is missing rather than empty: answers from TDX have four members (guest-agent.md 4.3).
_LEFT_OUT_WHEN_EMPTY = frozenset({"dstack_guest.GetQuoteResponse.attestation"})

_INTEGERS: Mapping[int, tuple[str, int, int]] = {
    FieldDescriptor.TYPE_UINT32: ("u32", 0, (1 << 32) - 1),
    FieldDescriptor.TYPE_UINT64: ("u64", 0, (1 << 64) - 1),
    FieldDescriptor.TYPE_INT64: ("i64", -(1 << 63), (1 << 63) - 1),
}

_NOTHING: Mapping[str, str] = MappingProxyType({})

Render = Callable[[Message], str]


@dataclass(frozen=True, slots=True)
class FieldCodec:
    """One field: `read` takes a decoded JSON value, `render` gives `"name":value`, or "" when left out.

    `from_text` reads the field's (or its elements') value from a query; None for messages.
    """

    name: str
    repeated: bool
    optional: bool
    read: Reader
    render: Render
    from_text: Callable[[str], object] | None


@dataclass(frozen=True, slots=True)
class MessageCodec:
    """All fields of a message type, in declaration order."""

    message_type: type[Message]
    empty: bool
    omits: bool
    fields: Mapping[str, FieldCodec]

    def read(self, value: object) -> Message:
        """A message from a decoded JSON value. Raises `Fault`."""
        if type(value) is not tuple:
            raise wrong_type(value, f"struct {self.message_type.DESCRIPTOR.name}")
        known = self.fields
        found: dict[str, object] = {}
        for index, (key, item) in enumerate(value):
            field = known.get(key)
            if field is None:
                continue
            try:
                if key in found:
                    raise Fault(f"duplicate field `{key}`", at_key=True)  # noqa: TRY301 - handled as a bad value is
                found[key] = field.read(item)
            except Fault as fault:
                fault.path.append(index)
                raise
        # The constructor takes None for a field that is not there.
        return self.message_type(**found)

    def render(self, message: Message, rendered: Mapping[str, str] = _NOTHING) -> str:
        """A message as a JSON object, ASCII only; `rendered` has members by name that are not rendered again."""
        if rendered:
            members = [rendered.get(name) or field.render(message) for name, field in self.fields.items()]
        else:
            members = [field.render(message) for field in self.fields.values()]
        if self.omits:
            members = [member for member in members if member]
        return f"{{{','.join(members)}}}"


_codecs: dict[type[Message], MessageCodec] = {}


def codec(message_type: type[Message]) -> MessageCodec:
    """The codec of a message type, made at its first use."""
    known = _codecs.get(message_type)
    if known is None:
        # The stubs tell the descriptors of the two implementations apart; their members are the same.
        fields = cast("list[FieldDescriptor]", message_type.DESCRIPTOR.fields)
        known = _codecs[message_type] = MessageCodec(
            message_type,
            message_type is Empty,
            any(field.full_name in _LEFT_OUT_WHEN_EMPTY for field in fields),
            {field.name: _field(field) for field in fields},
        )
    return known


def _field(field: FieldDescriptor) -> FieldCodec:
    read, render, from_text = _scalar(field)
    name = field.name
    repeated = field.is_repeated
    optional = field.has_presence and field.message_type is None
    if repeated:
        return FieldCodec(name, True, False, _read_list(read), _render_list(name, render), from_text)
    if optional:
        return FieldCodec(name, False, True, _read_optional(read), _render_optional(name, render), from_text)
    omitted = field.full_name in _LEFT_OUT_WHEN_EMPTY
    return FieldCodec(name, False, False, read, _render_always(name, render, omit=omitted), from_text)


Value = Callable[..., str]  # of str, bytes, bool, int or a message, by the field's type


def _scalar(field: FieldDescriptor) -> tuple[Reader, Value, Callable[[str], object] | None]:
    """How one value of the field is read from JSON, written to JSON, and read from a query."""
    if field.type == FieldDescriptor.TYPE_STRING:
        return _read_string, encode_basestring_ascii, str
    if field.type == FieldDescriptor.TYPE_BYTES:
        return _read_hex, _render_hex, decode_hex
    if field.type == FieldDescriptor.TYPE_BOOL:
        return _read_bool, _render_bool, _bool_from_text
    if field.message_type is not None:
        inner = codec(GetMessageClass(field.message_type))
        return inner.read, inner.render, None
    name, low, high = _INTEGERS[field.type]
    return _integer_reader(name, low, high), str, _integer_from_text(low, high)


def _read_string(value: object) -> str:
    if type(value) is str:
        return check_text(value)
    raise wrong_type(value, "a string")


def _read_hex(value: object) -> bytes:
    if type(value) is str:
        return decode_hex(value)
    raise wrong_type(value, "a string")


def _read_bool(value: object) -> bool:
    if type(value) is bool:
        return value
    raise wrong_type(value, "a boolean")


def _integer_reader(name: str, low: int, high: int) -> Reader:
    def read(value: object) -> int:
        if type(value) is not int:  # neither booleans nor 1.0
            raise wrong_type(value, name)
        if value > (1 << 64) - 1:
            raise wrong_type(Fraction(str(value)), name)  # as the original's parser sees it
        if not low <= value <= high:
            raise Fault(f"invalid value: integer `{value}`, expected {name}")
        return value

    return read


def _read_optional(read: Reader) -> Reader:
    return lambda value: None if value is None else read(value)


def _read_list(read: Reader) -> Reader:
    def read_all(value: object) -> list[object]:
        if type(value) is not list:
            raise wrong_type(value, "a sequence")
        items = []
        for index, item in enumerate(value):
            try:
                items.append(read(item))
            except Fault as fault:
                fault.path.append(index)
                raise
        return items

    return read_all


def _render_hex(value: bytes) -> str:
    return f'"{value.hex()}"'


def _render_bool(value: bool) -> str:
    return "true" if value else "false"


def _render_always(name: str, render: Value, *, omit: bool) -> Render:
    get, prefix = attrgetter(name), f'"{name}":'
    if omit:
        return lambda message: prefix + render(get(message)) if get(message) else ""
    return lambda message: prefix + render(get(message))


def _render_optional(name: str, render: Value) -> Render:
    get, prefix = attrgetter(name), f'"{name}":'
    return lambda message: prefix + (render(get(message)) if message.HasField(name) else "null")


def _render_list(name: str, render: Value) -> Render:
    get, prefix = attrgetter(name), f'"{name}":['
    return lambda message: prefix + ",".join(map(render, get(message))) + "]"


def _bool_from_text(text: str) -> bool:
    if text == "true":
        return True
    if text == "false":
        return False
    raise Fault("provided string was not `true` or `false`")


def _integer_from_text(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        digits = text.removeprefix("-") if low < 0 else text
        if not digits:
            raise Fault("cannot parse integer from empty string")
        digits = digits.removeprefix("+")
        if not (digits.isascii() and digits.isdigit()):
            raise Fault("invalid digit found in string")
        significant = digits.lstrip("0") or "0"
        value = int(significant) if len(significant) <= len(str(high)) else high + 1
        value = -value if text.startswith("-") else value
        if not low <= value <= high:
            raise Fault("number too large to fit in target type")
        return value

    return read
