"""Which RPC a request path names, and with which messages it is called.

Rules (guest-agent.md 1.3, 1.5):

1. The inner listener serves DstackGuest and Tappd on every path form that published clients send:
   `/M`, `/v0/M`, `/prpc/M`, `/prpc/v0/M`, each also with `DstackGuest.` or `Tappd.` before the name.
2. The service prefix is a preference, not a demand: `Tappd.GetKey` is DstackGuest's GetKey, because
   clients send it.
3. The external listener serves Worker alone, below `/prpc` alone; `guest-api` GuestApi below `/api`.
4. `all` (one TCP address that serves everything) adds Worker's names to rule 1. A name without a service
   prefix means DstackGuest first, then Tappd, then Worker.
5. One trailing slash is ignored. Everything else is unknown, and said so with the path that remains after
   the prefixes are taken away.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from google.protobuf.descriptor import Descriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from teehouse.wire import guest_api_pb2, guest_pb2

ListenerKind = Literal["internal", "external", "guest-api", "all"]


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC: its name, the service that declares it, and its message classes."""

    name: str
    service: str
    request: type[Message]
    response: type[Message]


@dataclass(frozen=True, slots=True)
class Unknown:
    """No RPC has this path. `text` is what the error body says."""

    text: str


def _message_class(descriptor: Descriptor) -> type[Message]:
    message_class: type[Message] = GetMessageClass(descriptor)
    return message_class


def methods_of(service: ServiceDescriptor) -> Mapping[str, Method]:
    """The methods that a service declares, by name, in declaration order."""
    return MappingProxyType(
        {
            method.name: Method(
                method.name,
                service.name,
                _message_class(method.input_type),
                _message_class(method.output_type),
            )
            for method in service.methods
        }
    )


# Service name -> method name -> Method, in declaration order.
METHODS: Mapping[str, Mapping[str, Method]] = MappingProxyType(
    {
        name: methods_of(service)
        for file in (guest_pb2.DESCRIPTOR, guest_api_pb2.DESCRIPTOR)
        for name, service in file.services_by_name.items()
    }
)


@dataclass(frozen=True, slots=True)
class _Routes:
    """The path forms of one listener: path prefixes, longest first, and services in order of preference."""

    prefixes: tuple[str, ...]
    services: tuple[str, ...]

    def method(self, name: str) -> tuple[Method | None, str]:
        """The method of a last path segment, and the segment without its service prefix."""
        for service in self.services:
            bare = name.removeprefix(f"{service}.")
            if bare != name:
                return METHODS[service].get(bare) or self._first(bare), bare  # rule 2
        return self._first(name), name

    def _first(self, name: str) -> Method | None:
        for service in self.services:
            if name in METHODS[service]:
                return METHODS[service][name]
        return None


_INNER_PREFIXES = ("/prpc/v0/", "/prpc/", "/v0/", "/")
_ROUTES: Mapping[ListenerKind, _Routes] = MappingProxyType(
    {
        "internal": _Routes(_INNER_PREFIXES, ("DstackGuest", "Tappd")),
        "external": _Routes(("/prpc/v0/", "/prpc/"), ("Worker",)),
        "guest-api": _Routes(("/api/",), ("GuestApi",)),
        "all": _Routes(_INNER_PREFIXES, ("DstackGuest", "Tappd", "Worker")),
    }
)


def resolve(listener: ListenerKind, path: str) -> Method | Unknown:
    """The RPC that `path` (decoded, with its leading slash) names on a listener of this kind."""
    routes = _ROUTES[listener]
    trimmed = path.removesuffix("/")
    for prefix in routes.prefixes:
        if trimmed.startswith(prefix):
            method, bare = routes.method(trimmed[len(prefix) :])
            return method or Unknown(f"Service not found: {bare}")
    return Unknown(f"Service not found: {trimmed.removeprefix('/')}")
