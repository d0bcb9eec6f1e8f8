"""Partitions that moved from the warm warehouse to Parquet."""

from __future__ import annotations

from cv_platform.storage.schema.script import execute_script

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

SQL = """
-- A day's way from warm to cold. A row is there from the first export of the day on.
CREATE TABLE cv.cold_days (
    day              date PRIMARY KEY,
    state            text NOT NULL CHECK (state IN ('warm', 'exporting', 'exported', 'cold')),
    fence            bigint NOT NULL DEFAULT 0,
    lease_expires_at timestamptz,
    run_id           text,
    changed_at       timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN cv.cold_days.state IS
    'warm: rows changed since an export began, or a part of them stayed; exporting; exported: every file is written and
     verified; cold: the partitions are dropped. Late rows of a cold day make new partitions, which go the same way';

-- A file a camera, day and kind of row (more than one where rows came late).
CREATE TABLE cv.cold_files (
    file_id     uuid PRIMARY KEY,
    day         date NOT NULL,
    camera_id   varchar(50) NOT NULL,
    kind        text NOT NULL CHECK (kind IN ('detections', 'tracks', 'events')),
    state       text NOT NULL DEFAULT 'exported' CHECK (state IN ('exported', 'live', 'expired')),
    object_key  text NOT NULL UNIQUE,
    rows        bigint NOT NULL,
    size_bytes  bigint NOT NULL,
    checksum    bigint NOT NULL,
    later_clips text[] NOT NULL DEFAULT '{}',
    created_at  timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN cv.cold_files.state IS
    'exported: its rows are in PostgreSQL still and count there; live: they are here and nowhere else; expired: past the
     cold term, the object is gone, the row says that the marts of that camera and day must not be built from nothing';
COMMENT ON COLUMN cv.cold_files.checksum IS 'XOR of the hashes of its rows: cv_platform/storage/cold/checksums.py';
COMMENT ON COLUMN cv.cold_files.later_clips IS 'published keys of later days'' clips that told of something here';
CREATE INDEX cold_files_of_camera ON cv.cold_files (camera_id, day, kind);
CREATE INDEX cold_files_of_day ON cv.cold_files (day, state);
CREATE INDEX cold_files_later_clips ON cv.cold_files USING gin (later_clips) WHERE later_clips <> '{}';

-- Clips that were withdrawn while their rows were cold: readers leave them out, until the file is rewritten without.
CREATE TABLE cv.cold_removals (
    file_id     uuid NOT NULL REFERENCES cv.cold_files ON DELETE CASCADE,
    clip_s3_key varchar(255) NOT NULL,
    PRIMARY KEY (file_id, clip_s3_key)
);

-- Armed on a day's partitions while it is exported: whatever changes a row there makes the export void.
CREATE FUNCTION warehouse.note_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('cv.leaving_warm', true) IS DISTINCT FROM 'on' THEN
        UPDATE cv.cold_days SET state = 'warm', changed_at = now()
        WHERE day = TG_ARGV[0]::date AND state IN ('exporting', 'exported');
    END IF;
    RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION warehouse.note_change() FROM PUBLIC;
"""


def upgrade() -> None:
    execute_script(SQL)
