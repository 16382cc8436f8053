"""Alembic's environment: the migrations run on the connection that `teehouse.cloud.db.migrate` hands over."""

from alembic import context

from teehouse.cloud.db.migrate import is_ours
from teehouse.cloud.db.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    include_object=is_ours,
    render_as_batch=True,  # SQLite alters a table by making it anew
)
with context.begin_transaction():
    context.run_migrations()
