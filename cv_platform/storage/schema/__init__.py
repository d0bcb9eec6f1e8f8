"""The schema of ledger and warehouse, as Alembic migrations. Safe to run again, and from many processes at once."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

VERSION_TABLE = "schema_version"
# Any number, the same in every process: two migrations at once wait for each other.
_MIGRATION_LOCK = 7_251_903_318


def migrate(url: str, *, to: str = "head") -> None:
    """Bring the database at `url` (`postgresql://…`) to the newest schema; returns at once where it is there.

    Args:
        to: a migration to stop behind, such as "0010": for tests of those that follow.
    """
    engine = sqlalchemy.create_engine(
        sqlalchemy.make_url(url).set(drivername="postgresql+psycopg"), poolclass=sqlalchemy.NullPool
    )
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    with engine.begin() as connection:
        # The lock is the transaction's: it goes with the connection, however that ends.
        connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(:n)"), {"n": _MIGRATION_LOCK})
        config.attributes["connection"] = connection
        command.upgrade(config, to)
    engine.dispose()


def pending_migrations(url: str) -> list[str]:
    """The migrations that the database at `url` still lacks, oldest first."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    script = ScriptDirectory.from_config(config)
    engine = sqlalchemy.create_engine(
        sqlalchemy.make_url(url).set(drivername="postgresql+psycopg"), poolclass=sqlalchemy.NullPool
    )
    with engine.connect() as connection:
        current = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()
    engine.dispose()
    return [step.revision for step in script.iterate_revisions("head", current or "base")][::-1]
