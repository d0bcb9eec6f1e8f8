"""What turns a camera's id into the reference by which log lines call it."""

from __future__ import annotations

from cv_platform.storage.schema.script import execute_script

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

SQL = """
CREATE TABLE cv.log_secret (
    secret  bytea NOT NULL,
    made_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE cv.log_secret IS
    'one row; replaced by another, the references in older log lines can no longer be told back';
CREATE UNIQUE INDEX log_secret_is_one ON cv.log_secret ((true));
INSERT INTO cv.log_secret (secret) VALUES (uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()));
"""


def upgrade() -> None:
    execute_script(SQL)
