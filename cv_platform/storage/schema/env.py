"""Alembic's entry point: runs the migrations on the connection that `migrate` hands over."""

from __future__ import annotations

from alembic import context

from cv_platform.storage.schema import VERSION_TABLE

context.configure(connection=context.config.attributes["connection"], version_table=VERSION_TABLE)
context.run_migrations()
