"""The digest of each published clip's certificate: the certificate lies in the clear where others may write."""

from __future__ import annotations

from cv_platform.storage.schema.script import execute_script

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

SQL = """
ALTER TABLE cv.clips ADD COLUMN certificate_sha256 text;
COMMENT ON COLUMN cv.clips.certificate_sha256 IS
    'of the certificate beside what is published; null where that was before this was noted';
"""


def upgrade() -> None:
    execute_script(SQL)
