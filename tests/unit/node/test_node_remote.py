"""A node elsewhere does what a node in process does, over real TLS; the numbers are the rules of `node.remote`."""

from collections.abc import Awaitable, Callable

import pytest

from support.node_memory import MemoryNode
from support.node_remote_support import served
from support.node_suite import SUITE
from support.node_tls_support import NOW
from teehouse.base.clock import FixedClock
from teehouse.node.api import Node

Case = Callable[[Node], Awaitable[None]]


@pytest.mark.parametrize("case", SUITE, ids=lambda case: case.__name__)
async def test_in_memory(case: Case) -> None:
    await case(MemoryNode(FixedClock(NOW)))


@pytest.mark.parametrize("case", SUITE, ids=lambda case: case.__name__)
async def test_over_mutual_tls(case: Case) -> None:
    async with served(MemoryNode(FixedClock(NOW))) as house, house.caller() as node:
        await case(node)
