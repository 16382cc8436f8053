"""The node in this process, by the rules of `node.local`, `node.cvm` and `node.api`."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from support.node_suite import SUITE
from support.node_support import TestNode
from teehouse.base.clock import SystemClock
from teehouse.node.api import Node
from teehouse.node.local import LocalNode


@pytest.fixture
def made(tmp_path: Path) -> TestNode:
    return TestNode(tmp_path / "node")


@pytest.fixture
async def node(made: TestNode) -> AsyncIterator[LocalNode]:
    async with made.node() as opened:
        yield opened


@pytest.mark.parametrize("case", SUITE, ids=lambda case: case.__name__)
async def test_it_does_what_every_node_does(tmp_path: Path, case: Callable[[Node], Awaitable[None]]) -> None:
    async with TestNode(tmp_path / "node", clock=SystemClock()).node() as opened:
        await case(opened)
