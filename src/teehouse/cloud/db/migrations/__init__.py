"""Alembic's environment; `teehouse.cloud.db.migrate` runs it."""
