"""All tables: importing this module fills `metadata`, for migrations and for tests."""

from typing import Final

from sqlalchemy import MetaData

from teehouse.cloud import installation
from teehouse.cloud.accounts import models as accounts
from teehouse.cloud.apps import models as apps
from teehouse.cloud.cvms import models as cvms
from teehouse.cloud.db.base import Base
from teehouse.cloud.http import models as http
from teehouse.cloud.inventory import models as inventory
from teehouse.cloud.nodes import models as nodes
from teehouse.cloud.revisions import models as revisions
from teehouse.cloud.webhooks import models as webhooks

DOMAINS: Final = (accounts, inventory, nodes, apps, cvms, revisions, webhooks, http, installation)
metadata: Final[MetaData] = Base.metadata
