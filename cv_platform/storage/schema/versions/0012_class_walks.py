"""How far the look at S3's storage classes has come."""

from __future__ import annotations

from cv_platform.storage.schema.script import execute_script

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

SQL = """
CREATE TABLE cv.class_walks (
    place       text PRIMARY KEY,
    rules_since timestamptz NOT NULL,
    after       text NOT NULL,
    due         bigint NOT NULL,
    late        bigint NOT NULL,
    elsewhere   bigint NOT NULL,
    at_rest     bigint NOT NULL
);
COMMENT ON TABLE cv.class_walks IS
    'a row a bucket and prefix: the last key whose storage class was looked at, empty where the walk is through, and
     what it counted; cv_platform/storage/storage_classes.py';
"""


def upgrade() -> None:
    execute_script(SQL)
