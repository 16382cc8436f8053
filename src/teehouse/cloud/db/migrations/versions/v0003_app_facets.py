"""Which apps have a CVM with which status, image, type, node and region; indexes for several filters at once."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from teehouse.cloud.db import facets
from teehouse.cloud.db.base import BigKey, hex_text

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_BEFORE = ("base_image", "instance_type", "node_id", "status")
_SINCE = {
    "status": ("status", "instance_type", "base_image", "node_id"),
    "instance_type": ("instance_type", "base_image", "node_id"),
    "node": ("node_id", "base_image"),
}


def _live() -> dict[str, Any]:
    condition = sa.text("deleted_at IS NULL")
    return {"postgresql_where": condition, "sqlite_where": condition}


def upgrade() -> None:
    """The table, filled from what there is; its triggers; three indexes for four."""
    op.create_table(
        "app_facets",
        sa.Column("workspace_id", BigKey, primary_key=True, autoincrement=False),
        sa.Column("kind", sa.SmallInteger(), primary_key=True, autoincrement=False),
        sa.Column("value", hex_text(128), primary_key=True),
        sa.Column("app_record_id", BigKey, primary_key=True, autoincrement=False),
        sqlite_with_rowid=False,
    )
    for column in _BEFORE:
        op.drop_index(f"ix_cvms_workspace_id_{column}_app_record_id", "cvms")
    for name, columns in _SINCE.items():
        op.create_index(
            f"ix_cvms_filter_{name}", "cvms", ["workspace_id", *columns, "app_record_id"], **_live()
        )
    facets.create(op.get_bind())
    facets.fill(op.get_bind())


def downgrade() -> None:
    """As before."""
    facets.drop(op.get_bind())
    for name in _SINCE:
        op.drop_index(f"ix_cvms_filter_{name}", "cvms")
    for column in _BEFORE:
        op.create_index(
            f"ix_cvms_workspace_id_{column}_app_record_id",
            "cvms",
            ["workspace_id", column, "app_record_id"],
            **_live(),
        )
    op.drop_table("app_facets")
