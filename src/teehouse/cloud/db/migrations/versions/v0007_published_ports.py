"""Which ports of an app its node serves, as the node tells it."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """A column, empty until the node is asked about the CVM."""
    op.add_column("cvms", sa.Column("published", sa.Text()))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("cvms", "published")
