"""What all CVMs of one node share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from teehouse.node.boot import BootParts, BootStep
from teehouse.node.history import History
from teehouse.node.store import NodeStore
from teehouse.node.workload import Workload
from teehouse.wire.app_compose import AppCompose

# Of the CVM's id, its directory and its app: the runner. Raises `MisuseError` where there is none for the app.
WorkloadFactory = Callable[[str, Path, AppCompose], Workload]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """`sockets` holds a directory for each CVM; `host_boot` names this boot of the host."""

    parts: BootParts
    store: NodeStore
    history: History
    workloads: WorkloadFactory
    sockets: Path
    pages_host: str
    steps: Sequence[BootStep]
    host_boot: str
