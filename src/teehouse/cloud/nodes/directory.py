"""Where the control plane gets the nodes it speaks to: a Protocol, so that nobody here knows how they are reached."""

from collections.abc import Mapping
from typing import Protocol

from teehouse.base.findings import unavailable
from teehouse.node.api import Node


class NodeDirectory(Protocol):
    """The nodes, by the id of their row in `nodes`."""

    def node(self, node_id: int) -> Node:
        """The node itself. Raises `CollateralError` for one that this process has no way to."""
        ...


class KnownNodes:
    """Nodes that were put together beforehand: one in process, or connections to some elsewhere."""

    def __init__(self, nodes: Mapping[int, Node]) -> None:
        self._nodes = nodes

    def node(self, node_id: int) -> Node:
        try:
            return self._nodes[node_id]
        except KeyError:
            raise unavailable(
                "cloud.node-unknown",
                "a way to the node",
                expected="a connection configured for it",
                found=f"none for node {node_id}",
                remedy="register the node with this control plane",
            ) from None
