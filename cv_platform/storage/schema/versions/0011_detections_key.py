"""Detections' key in the order in which they are asked for: one B-tree where there were two."""

from __future__ import annotations

from cv_platform.storage.schema.script import execute_script

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

# An id is derived, so its place in an index of ids is random: of three B-trees that was the dearest to write. The new
# key answers "a camera, newest first" by a scan backwards, which is what detections_by_camera was for.
# An index that was built ahead, without a lock (docs/warehouse.md), becomes its day's key; the others are built here.
SQL = """
SET LOCAL maintenance_work_mem = '256MB';
LOCK TABLE warehouse.detections IN ACCESS EXCLUSIVE MODE;
ALTER TABLE warehouse.detections DROP CONSTRAINT detections_pkey;
DROP INDEX warehouse.detections_by_camera;
DO $$
DECLARE
    ahead record;
BEGIN
    FOR ahead IN
        SELECT d.relname AS day, x.relname AS index_name,
               i.indisvalid AND i.indisunique AND pg_get_indexdef(i.indexrelid)
                   LIKE '% USING btree (camera_id, "timestamp", id)' AS usable
        FROM pg_inherits
        JOIN pg_class d ON d.oid = inhrelid
        JOIN pg_index i ON i.indrelid = d.oid
        JOIN pg_class x ON x.oid = i.indexrelid AND x.relname = d.relname || '_next_key'
        WHERE inhparent = 'warehouse.detections'::regclass
    LOOP
        IF ahead.usable THEN
            EXECUTE format('ALTER TABLE warehouse.%I ADD CONSTRAINT %I PRIMARY KEY USING INDEX %I',
                           ahead.day, ahead.day || '_pkey', ahead.index_name);
        ELSE
            EXECUTE format('DROP INDEX warehouse.%I', ahead.index_name);
        END IF;
    END LOOP;
END $$;
-- Takes the days' keys that are there as they are.
ALTER TABLE warehouse.detections ADD CONSTRAINT detections_pkey PRIMARY KEY (camera_id, "timestamp", id);
"""


def upgrade() -> None:
    execute_script(SQL)
