"""The nodes of a control plane that runs apart: those of the database, reached by the bundles of the folder.

Rules:

1. A node's row names its bundle's file. A bundle that is put there, or replaced, is taken up by the next `look`.
2. Of a bundle that was replaced, the connections go on for `LINGER` seconds, for the calls that are under way.
3. A node whose bundle is missing here, or cannot be used, cannot be reached from here: calls are refused, and
   `trouble` names it. Others are not touched by that.
4. A bundle is a controller's, and of the node that the row names.
"""

import asyncio
from dataclasses import dataclass
from typing import Final

import structlog
from sqlalchemy import select

from teehouse.base.clock import Clock
from teehouse.base.findings import TeehouseError, misuse, unavailable
from teehouse.cloud.db.engine import Database
from teehouse.cloud.nodes.models import Node as NodeRow
from teehouse.node.api import Node
from teehouse.node.bundle import load_bundle
from teehouse.node.remote import RemoteNode
from teehouse.stack.cloud_folder import CloudFolder

LINGER: Final = 60.0  # seconds

_log = structlog.get_logger(__name__)
_Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class _Known:
    name: str
    stamp: _Stamp
    node: RemoteNode


class BundledNodes:
    """A `NodeDirectory` (rules 1 to 4). Close it with `close`."""

    def __init__(self, database: Database, folder: CloudFolder, clock: Clock) -> None:
        self._database = database
        self._folder = folder
        self._clock = clock
        self._known: dict[int, _Known] = {}
        self._wrong: dict[int, tuple[str, str]] = {}  # name, and why it cannot be reached
        self._former: list[tuple[float, RemoteNode]] = []

    def node(self, node_id: int) -> Node:
        """As `NodeDirectory`."""
        known = self._known.get(node_id)
        if known is not None:
            return known.node
        name, why = self._wrong.get(node_id, (f"node {node_id}", "none yet"))
        raise unavailable(
            "cloud.node-unknown",
            f"the way to {name}",
            expected="a bundle of its controller in this replica's folder",
            found=why,
            remedy=f"put it into {self._folder.nodes}",
        )

    def trouble(self) -> str | None:
        """The nodes that cannot be reached from here (rule 3)."""
        return "; ".join(f"{name}: {why}" for name, why in self._wrong.values()) or None

    async def look(self) -> None:
        """Take up what changed (rule 1). Raises what the database raises."""
        async with self._database.read() as session:
            rows = (
                await session.execute(
                    select(NodeRow.id, NodeRow.name, NodeRow.bundle)
                    .where(NodeRow.bundle.is_not(None))
                    .order_by(NodeRow.id)
                )
            ).all()
        for number, name, bundle in rows:
            try:
                self._take(number, name, str(bundle))
            except (TeehouseError, OSError) as error:
                self._refuse(number, name, error)
        for number in set(self._known) | set(self._wrong):
            if number not in {row.id for row in rows}:
                self._leave(number)
        await self._end_former()

    async def close(self) -> None:
        """End all connections."""
        for number in tuple(self._known):
            self._leave(number)
        await self._end_former(every=True)

    def _take(self, number: int, name: str, bundle: str) -> None:
        path = self._folder.bundle(bundle)
        found = path.stat()
        stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
        known = self._known.get(number)
        if known is not None and (known.name, known.stamp) == (name, stamp):
            self._wrong.pop(number, None)
            return
        read = load_bundle(path)
        if read.node != name:
            raise misuse("cloud.node-bundle", f"node of {path}", expected=name, found=read.node)
        node = RemoteNode.of_bundle(read, self._clock)
        self._leave(number)
        self._known[number] = _Known(name, stamp, node)
        _log.info("way to a node", node=name, expires=read.identity.expires.isoformat())

    def _refuse(self, number: int, name: str, error: TeehouseError | OSError) -> None:
        """Rule 3. A way that is known stays, while its file is missing or being replaced."""
        why = (error.strerror or "unreadable") if isinstance(error, OSError) else str(error)
        if self._wrong.get(number) != (name, why):
            _log.warning("no way to a node", node=name, reason=why)
        self._wrong[number] = (name, why)

    def _leave(self, number: int) -> None:
        self._wrong.pop(number, None)
        known = self._known.pop(number, None)
        if known is not None:
            self._former.append((asyncio.get_running_loop().time() + LINGER, known.node))

    async def _end_former(self, *, every: bool = False) -> None:
        """Rule 2."""
        now = asyncio.get_running_loop().time()
        over = [one for one in self._former if every or one[0] <= now]
        self._former = [one for one in self._former if one not in over]
        for _, node in over:
            await node.close()
