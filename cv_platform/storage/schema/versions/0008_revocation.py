"""Models that must not have hidden anybody: which, why, and which clips they made."""

from __future__ import annotations

from cv_platform.storage.schema.script import execute_script

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

SQL = """
CREATE TABLE cv.revoked_models (
    model      text PRIMARY KEY,
    reason     text NOT NULL CHECK (reason <> ''),
    revoked_by text NOT NULL,
    revoked_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN cv.revoked_models.model IS 'NAME@DIGEST, the first twelve digits of the file''s sha256';

ALTER TABLE cv.clips ADD COLUMN published_models text[] NOT NULL DEFAULT '{}';
COMMENT ON COLUMN cv.clips.published_models IS 'what found and what checked the faces that are hidden, NAME@DIGEST';
CREATE INDEX clips_by_model ON cv.clips USING gin (published_models) WHERE state = 'published';
"""


def upgrade() -> None:
    execute_script(SQL)
