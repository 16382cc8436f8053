"""A node served over loopback, and who calls it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from support.node_tls_support import NOW, Party, party
from teehouse.base.clock import FixedClock
from teehouse.guest.sockets import TcpAddress, bind_tcp
from teehouse.node.api import Node
from teehouse.node.identity import Identity
from teehouse.node.remote import Patience, RemoteNode
from teehouse.node.server import NodeListener, NodeServer

HOUSE = party()
SHORT = Patience(timeout=5.0, silence=5.0, patience=5.0, first_pause=0.01)


@dataclass(slots=True)
class Served:
    """A node that is served at `address`; `stop` and `serve` again keep the port."""

    node: Node
    house: Party = HOUSE
    address: TcpAddress = field(default_factory=lambda: TcpAddress("127.0.0.1", 0))
    options: dict[str, Any] = field(default_factory=dict)
    clock: FixedClock = field(default_factory=lambda: FixedClock(NOW))
    listener: NodeListener | None = None

    async def serve(self) -> None:
        bound = bind_tcp(self.address)
        self.address = TcpAddress("127.0.0.1", bound.getsockname()[1])
        server = NodeServer(self.node, self.clock, **self.options)
        self.listener = NodeListener(server, [bound], self.house.node, ident="Teehouse node")
        await self.listener.start()

    async def stop(self, deadline: float = 5.0) -> None:
        if self.listener is not None:
            await self.listener.stop(deadline)
            self.listener = None

    def caller(self, identity: Identity | None = None, **options: Any) -> RemoteNode:
        return RemoteNode(
            self.address,
            options.pop("name", "tea-1"),
            identity or self.house.controller,
            options.pop("clock", FixedClock(NOW)),
            **{"patience": SHORT, **options},
        )


@asynccontextmanager
async def served(node: Node, **options: Any) -> AsyncIterator[Served]:
    """`node` over RPC until the end of the block; `options` are those of `NodeServer`."""
    house = Served(node, options=options)
    await house.serve()
    try:
        yield house
    finally:
        await house.stop(1.0)
