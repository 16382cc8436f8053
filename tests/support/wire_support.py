"""Messages of any type with any content, for the codecs' property tests."""

from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

from teehouse.wire.methods import METHODS

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_STRING: TEXT,
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=70),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: st.integers(0, 2**64 - 1),
    FieldDescriptor.TYPE_INT64: st.integers(-(2**63), 2**63 - 1),
}


def every_message_type() -> list[type[Message]]:
    """All request and response types of all services, each once."""
    types = {
        message_type.DESCRIPTOR.full_name: message_type
        for methods in METHODS.values()
        for method in methods.values()
        for message_type in (method.request, method.response)
    }
    return list(types.values())


def messages(message_type: type[Message]) -> st.SearchStrategy[Message]:
    """Any message of the type; optional fields may be absent."""
    members = {}
    for field in message_type.DESCRIPTOR.fields:
        one = messages(GetMessageClass(field.message_type)) if field.message_type else _SCALARS[field.type]
        if field.is_repeated:
            members[field.name] = st.lists(one, max_size=3)
        elif field.has_presence:
            members[field.name] = st.none() | one
        else:
            members[field.name] = one
    return st.builds(message_type, **members)


def any_message() -> st.SearchStrategy[Message]:
    """Any message of any type in the method tables."""
    return st.sampled_from(every_message_type()).flatmap(messages)


def same_kind(message_type: type[Message]) -> bool:
    """Whether a query string can say every field of the type."""
    return all(field.message_type is None for field in message_type.DESCRIPTOR.fields)
