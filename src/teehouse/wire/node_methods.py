"""Which RPC of a node a request path names (docs/operations/node-rpc.md).

Rules:

1. A path is `/prpc/M` or `/prpc/Node.M`. One trailing slash is ignored. Everything else is unknown.
"""

from collections.abc import Mapping

from teehouse.wire import node_pb2
from teehouse.wire.methods import Method, Unknown, methods_of

# Method name -> Method, in declaration order.
NODE_METHODS: Mapping[str, Method] = methods_of(node_pb2.DESCRIPTOR.services_by_name["Node"])

_PREFIX = "/prpc/"


def resolve_node(path: str) -> Method | Unknown:
    """The RPC that `path` (decoded, with its leading slash) names."""
    trimmed = path.removesuffix("/")
    if not trimmed.startswith(_PREFIX):
        return Unknown(f"Service not found: {trimmed.removeprefix('/')}")
    bare = trimmed[len(_PREFIX) :].removeprefix("Node.")
    return NODE_METHODS.get(bare) or Unknown(f"Service not found: {bare}")
