"""Clip keys and sealed objects."""

from __future__ import annotations

from cv_platform.storage.schema.script import execute_script

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

SQL = """
CREATE TABLE cv.key_encryption_keys (
    kek_id        text PRIMARY KEY,
    first_used_at timestamptz NOT NULL DEFAULT now(),
    retired_at    timestamptz
);
COMMENT ON TABLE cv.key_encryption_keys IS
    'which key-encryption keys wrap clips'' keys; their ids only. Retired: none is wrapped by it any more';

CREATE TABLE cv.clip_keys (
    clip_id      uuid PRIMARY KEY REFERENCES cv.clips,
    wrapped      bytea,
    kek_id       text,
    created_at   timestamptz NOT NULL DEFAULT now(),
    destroyed_at timestamptz,
    CHECK ((wrapped IS NULL) = (destroyed_at IS NOT NULL)),
    CHECK ((wrapped IS NULL) = (kek_id IS NULL))
);
COMMENT ON TABLE cv.clip_keys IS 'a key a clip, wrapped; destroyed: what was sealed with it is unreadable for ever';
-- Room in each page, and no index on or by what destruction changes: the row is updated within its page, which
-- PostgreSQL tidies when it next comes by. A day's clips are found through cv.clips: nothing here tells of them.
ALTER TABLE cv.clip_keys SET (fillfactor = 60, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 50);

ALTER TABLE cv.clips
    ADD COLUMN sealed_etag text,
    ADD COLUMN upload_removed_at timestamptz,
    ADD COLUMN published_bytes bigint;
COMMENT ON COLUMN cv.clips.sealed_etag IS 'etag of the uploaded object whose bytes were sealed into the vault';
COMMENT ON COLUMN cv.clips.upload_removed_at IS 'when the plain upload was found gone, after its bytes were sealed';
COMMENT ON COLUMN cv.clips.published_bytes IS 'size of the published clip in the clear';
CREATE INDEX clips_upload_to_remove ON cv.clips (clip_id) WHERE sealed_etag IS NOT NULL AND upload_removed_at IS NULL;

-- output_sha256 is of the plain bytes; these two are of the object as it is stored.
ALTER TABLE cv.stages
    ADD COLUMN stored_bytes bigint,
    ADD COLUMN stored_sha256 text;
COMMENT ON COLUMN cv.stages.stored_sha256 IS 'digest of the sealed object; null where the output is not sealed';
"""


def upgrade() -> None:
    execute_script(SQL)
