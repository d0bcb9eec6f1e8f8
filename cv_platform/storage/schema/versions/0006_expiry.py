"""Terms, quotas, drained messages and what reconciling found."""

from __future__ import annotations

from cv_platform.storage.schema.script import execute_script

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

SQL = """
SELECT 1;
"""


def upgrade() -> None:
    execute_script(SQL)
