"""Which RPC of the KMS a request path names (trust.md 13.1).

Rules:

1. A path is `/prpc/M` or `/prpc/SERVICE.M`, where SERVICE is the listener's one: KMS, Onboard or Admin. One
   trailing slash is ignored.
2. Everything else is unknown, and said so with the path that remains after the prefixes are taken away.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from teehouse.wire import kms_pb2
from teehouse.wire.methods import Method, Unknown, methods_of

KmsServiceName = Literal["KMS", "Onboard", "Admin"]

_PREFIX = "/prpc/"

# Service name -> method name -> Method, in declaration order.
KMS_METHODS: Mapping[str, Mapping[str, Method]] = MappingProxyType(
    {name: methods_of(service) for name, service in kms_pb2.DESCRIPTOR.services_by_name.items()}
)


def resolve_kms(service: KmsServiceName, path: str) -> Method | Unknown:
    """The RPC that `path` (decoded, with its leading slash) names on the listener of `service`."""
    trimmed = path.removesuffix("/")
    if not trimmed.startswith(_PREFIX):
        return Unknown(f"Service not found: {trimmed.removeprefix('/')}")
    bare = trimmed[len(_PREFIX) :].removeprefix(f"{service}.")
    return KMS_METHODS[service].get(bare) or Unknown(f"Service not found: {bare}")
