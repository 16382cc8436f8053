"""How clients reach the chain of a KMS's contract."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Two columns, empty for what was registered before: the next start fills them."""
    op.add_column("kms_contracts", sa.Column("rpc_url", sa.Text()))
    op.add_column("kms_contracts", sa.Column("multicall_address", sa.String(42)))


def downgrade() -> None:
    """Drop them."""
    op.drop_column("kms_contracts", "multicall_address")
    op.drop_column("kms_contracts", "rpc_url")
