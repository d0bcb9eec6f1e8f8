"""Erasure requests, what they erased, and the tombstones that keep it away."""

from __future__ import annotations

from cv_platform.storage.schema.script import execute_script

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

SQL = """
CREATE TABLE cv.erasures (
    request_id   uuid PRIMARY KEY,
    kind         text NOT NULL CHECK (kind IN ('clip', 'track', 'camera', 'site')),
    clip_id      uuid,
    camera_id    varchar(50),
    site_id      text,
    track_day    date,
    track_id     integer,
    starts_at    timestamptz,
    ends_at      timestamptz,
    reference    text NOT NULL CHECK (reference <> ''),
    requested_by text NOT NULL CHECK (requested_by <> ''),
    requested_at timestamptz NOT NULL DEFAULT now(),
    state        text NOT NULL DEFAULT 'received' CHECK (state IN
                 ('received', 'previewed', 'approved', 'executing', 'executed', 'certified', 'suspended', 'refused')),
    preview      jsonb,
    decided_by   text,
    decided_at   timestamptz,
    detail       text,
    tally        jsonb NOT NULL DEFAULT '{}',
    days         jsonb NOT NULL DEFAULT '{}',
    executed_at  timestamptz,
    certified_at timestamptz,
    certificate  jsonb,
    CHECK (state IN ('received', 'previewed', 'suspended') OR decided_by IS NOT NULL),
    CHECK (state = 'refused' OR decided_by IS DISTINCT FROM requested_by OR decided_by IS NULL),
    CHECK ((state = 'certified') = (certificate IS NOT NULL))
);
COMMENT ON COLUMN cv.erasures.reference IS 'a case number; never a name';
COMMENT ON COLUMN cv.erasures.decided_by IS 'who approved or refused; an approval is never the requester''s own';
COMMENT ON COLUMN cv.erasures.days IS 'days whose aggregates change, each with the dirty_seq from which they are right';
CREATE INDEX erasures_open ON cv.erasures (requested_at) WHERE state IN ('approved', 'executing', 'executed');

-- What an erasure still has to do, a row a clip; it forgets keys as soon as what lay under them is gone.
CREATE TABLE cv.erasure_clips (
    request_id   uuid NOT NULL REFERENCES cv.erasures,
    clip_id      uuid NOT NULL,
    state        text NOT NULL DEFAULT 'listed' CHECK (state IN ('listed', 'withdrawn', 'purged')),
    capture_date date,
    keys         jsonb,
    tally        jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (request_id, clip_id)
);
CREATE INDEX erasure_clips_open ON cv.erasure_clips (request_id, state, clip_id) WHERE state <> 'purged';

-- Digests and intervals only: enough to recognise what must not come back, not to tell what it was.
CREATE TABLE cv.tombstones (
    tombstone_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    request_id   uuid NOT NULL REFERENCES cv.erasures,
    kind         text NOT NULL CHECK (kind IN ('key', 'content', 'place')),
    digest       text NOT NULL,
    starts_at    timestamptz,
    ends_at      timestamptz,
    CHECK ((kind = 'place') = (starts_at IS NOT NULL AND ends_at IS NOT NULL)),
    UNIQUE NULLS NOT DISTINCT (request_id, kind, digest, starts_at, ends_at)
);
CREATE INDEX tombstones_by_digest ON cv.tombstones (digest, kind);

CREATE FUNCTION cv.tombstone_digest(word text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT encode(sha256(convert_to(word, 'UTF8')), 'hex')
$$;
-- Whether footage of a camera, or any of its rows, in an interval was erased.
CREATE FUNCTION cv.interval_erased(at_site text, at_camera text, first timestamptz, last timestamptz)
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (
        SELECT 1 FROM cv.tombstones
        WHERE kind = 'place' AND digest IN (cv.tombstone_digest('site:' || at_site),
                                            cv.tombstone_digest('camera:' || at_camera))
          AND starts_at <= last AND ends_at > first)
$$;
"""


def upgrade() -> None:
    execute_script(SQL)
