"""Erasure requests, tombstones and certificates."""

from __future__ import annotations

from cv_platform.storage.schema.script import execute_script

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

SQL = """
SELECT 1;
"""


def upgrade() -> None:
    execute_script(SQL)
