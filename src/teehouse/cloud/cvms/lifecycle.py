"""What the services that change CVMs work with."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from teehouse.base.clock import Clock, SystemClock
from teehouse.cloud.allowlists.gate import ComposeGate, OffChainGate
from teehouse.cloud.cvms.environment import EnvironmentKeys
from teehouse.cloud.db.engine import Database
from teehouse.cloud.nodes.directory import NodeDirectory
from teehouse.cloud.workflows.api import Workflows


@dataclass(slots=True)
class Lifecycle:
    """The parts of the control plane that change CVMs. `public_url` is where clients reach the API's host."""

    database: Database
    nodes: NodeDirectory
    workflows: Workflows
    environment_keys: EnvironmentKeys
    gate: ComposeGate = field(default_factory=OffChainGate)
    clock: Clock = field(default_factory=SystemClock)
    provision_time: timedelta = timedelta(days=14)
    reservation_time: timedelta = timedelta(hours=1)
    public_url: str = ""

    def now(self) -> datetime:
        """The present instant."""
        return self.clock.now()
