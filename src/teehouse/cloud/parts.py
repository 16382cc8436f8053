"""What the routes work with, put together where the control plane is started.

Each domain adds its own services as fields with a default; a route gets them through `parts_of` of
`teehouse.cloud.http.dependencies`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from teehouse.base.clock import Clock, SystemClock
from teehouse.cloud.accounts.ssh_keys import GithubKeys
from teehouse.cloud.allowlists.services import ContractReader, KmsContractReader
from teehouse.cloud.attestations.agents import AgentReader
from teehouse.cloud.attestations.services import Attestations
from teehouse.cloud.cvms.lifecycle import Lifecycle
from teehouse.cloud.db.engine import Database
from teehouse.cloud.inventory.env_keys import KmsKeys
from teehouse.cloud.nodes.directory import KnownNodes, NodeDirectory
from teehouse.cloud.settings import CloudSettings


@dataclass(slots=True)
class CloudParts:
    """The control plane's parts."""

    settings: CloudSettings
    database: Database
    clock: Clock = field(default_factory=SystemClock)
    kms_keys: KmsKeys | None = None  # None: each question goes to the KMS itself
    github_keys: GithubKeys | None = None
    nodes: NodeDirectory = field(default_factory=lambda: KnownNodes({}))
    agents: AgentReader | None = None  # None: no agent can be asked (attestations.serving opens the way)
    attestations: Attestations = field(default_factory=Attestations)
    contracts: ContractReader | None = None  # None: no chain can be asked
    kms_contracts: KmsContractReader | None = None  # usually the same
    lifecycle: Lifecycle | None = None  # None: this process has no nodes, and changes no CVMs
    # What else has to be in order for /readyz, by name: each says what is wrong, or None.
    checks: dict[str, Callable[[], str | None]] = field(default_factory=dict)
