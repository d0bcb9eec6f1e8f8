"""Clip keys and sealed objects."""

from __future__ import annotations

from cv_platform.storage.schema.script import execute_script

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

SQL = """
SELECT 1;
"""


def upgrade() -> None:
    execute_script(SQL)
