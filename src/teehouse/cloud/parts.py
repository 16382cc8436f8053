"""What the routes work with, put together where the control plane is started.

Each domain adds its own services as fields with a default; a route gets them through `parts_of` of
`teehouse.cloud.http.dependencies`.
"""

from dataclasses import dataclass, field

from teehouse.base.clock import Clock, SystemClock
from teehouse.cloud.accounts.ssh_keys import GithubKeys
from teehouse.cloud.db.engine import Database
from teehouse.cloud.inventory.env_keys import KmsKeys
from teehouse.cloud.settings import CloudSettings


@dataclass(slots=True)
class CloudParts:
    """The control plane's parts."""

    settings: CloudSettings
    database: Database
    clock: Clock = field(default_factory=SystemClock)
    kms_keys: KmsKeys | None = None  # None: each question goes to the KMS itself
    github_keys: GithubKeys | None = None
