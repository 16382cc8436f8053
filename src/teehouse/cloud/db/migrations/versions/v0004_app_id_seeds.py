"""Random bytes of each workspace, so that two control planes under one KMS never give the same app id."""

import sqlalchemy as sa
from alembic import op

from teehouse.cloud.db.base import hex_text

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """A column, empty for workspaces of before: the ids that were predicted for them stay what they are."""
    op.add_column("workspaces", sa.Column("app_id_seed", hex_text(32)))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("workspaces", "app_id_seed")
