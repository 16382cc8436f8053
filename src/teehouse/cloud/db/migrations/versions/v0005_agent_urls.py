"""Where the agent of a CVM shows its pages, as its node tells it."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """A column, empty until the node is next heard of about the CVM."""
    op.add_column("cvms", sa.Column("agent_url", sa.Text()))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("cvms", "agent_url")
