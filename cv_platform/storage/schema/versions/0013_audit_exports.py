"""How far the audit log was exported: a file that is gone from the end of the export shows."""

from __future__ import annotations

from cv_platform.storage.schema.script import execute_script

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

SQL = """
CREATE TABLE cv.audit_exports (
    seq         bigint PRIMARY KEY,
    entry_hash  text NOT NULL,
    exported_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE cv.audit_exports IS
    'the last entry of each export of cv.audit_log, once it is in the store; append-only too';

CREATE OR REPLACE FUNCTION cv.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'cv.% is append-only: % is refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER audit_exports_rows BEFORE UPDATE OR DELETE ON cv.audit_exports
    FOR EACH ROW EXECUTE FUNCTION cv.refuse_change();
CREATE TRIGGER audit_exports_truncate BEFORE TRUNCATE ON cv.audit_exports
    FOR EACH STATEMENT EXECUTE FUNCTION cv.refuse_change();
ALTER TABLE cv.audit_exports ENABLE ALWAYS TRIGGER audit_exports_rows;
ALTER TABLE cv.audit_exports ENABLE ALWAYS TRIGGER audit_exports_truncate;
"""


def upgrade() -> None:
    execute_script(SQL)
