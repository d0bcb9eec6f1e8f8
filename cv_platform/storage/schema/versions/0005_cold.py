"""Partitions that moved from the warm warehouse to Parquet."""

from __future__ import annotations

from cv_platform.storage.schema.script import execute_script

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

SQL = """
SELECT 1;
"""


def upgrade() -> None:
    execute_script(SQL)
