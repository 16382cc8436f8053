"""What the routes work with, put together where the control plane is started.

Each domain adds its own services as fields with a default; a route gets them through `parts_of` of
`teehouse.cloud.http.dependencies`.
"""

from dataclasses import dataclass, field

from teehouse.base.clock import Clock, SystemClock
from teehouse.cloud.db.engine import Database
from teehouse.cloud.settings import CloudSettings


@dataclass(slots=True)
class CloudParts:
    """The control plane's parts."""

    settings: CloudSettings
    database: Database
    clock: Clock = field(default_factory=SystemClock)
