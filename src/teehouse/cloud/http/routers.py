"""Which routers the API has. A domain adds its own here.

Rules:

1. `SIGNED` routers are served to callers with a valid key only; the check is added where they are included.
2. `PUBLIC` ones are served to everybody, and say in their docstrings why.
3. `PAGES` are for people and stand outside the API's prefix.
"""

from typing import Final

from fastapi import APIRouter

from teehouse.cloud.accounts import views as accounts
from teehouse.cloud.accounts import views_device as device
from teehouse.cloud.accounts import views_workspaces as workspaces
from teehouse.cloud.allowlists import views as allowlists
from teehouse.cloud.apps import views as apps
from teehouse.cloud.apps import views_stats as stats
from teehouse.cloud.attestations import views as attestations
from teehouse.cloud.cvms import views_change as cvm_changes
from teehouse.cloud.cvms import views_commit as cvm_commits
from teehouse.cloud.cvms import views_deploy as cvm_deploys
from teehouse.cloud.cvms import views_legacy as cvm_legacy
from teehouse.cloud.cvms import views_logs as cvm_logs
from teehouse.cloud.cvms import views_read as cvm_reads
from teehouse.cloud.cvms import views_state as cvm_state
from teehouse.cloud.inventory import views as inventory
from teehouse.cloud.nodes import views as nodes
from teehouse.cloud.revisions import views as revisions
from teehouse.cloud.webhooks import views as webhooks

SIGNED: Final[tuple[APIRouter, ...]] = (
    accounts.router,
    workspaces.router,
    webhooks.router,
    inventory.router,
    nodes.router,
    apps.router,
    stats.router,
    revisions.router,
    cvm_reads.router,
    cvm_state.router,
    cvm_legacy.router,
    cvm_deploys.router,
    cvm_changes.router,
    attestations.router,
    allowlists.router,
)
PUBLIC: Final[tuple[APIRouter, ...]] = (
    device.public_router,
    cvm_changes.public_router,
    cvm_logs.public_router,
    attestations.public_router,
)
PAGES: Final[tuple[APIRouter, ...]] = (device.page_router, cvm_commits.page_router)
