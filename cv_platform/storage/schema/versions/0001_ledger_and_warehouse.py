"""The ledger (schema `cv`) and the warm warehouse (schema `warehouse`)."""

from __future__ import annotations

from cv_platform.storage.schema.script import execute_script

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

LEDGER = """
CREATE SCHEMA cv;

CREATE TABLE cv.sites (
    site_id     text PRIMARY KEY,
    time_zone   text NOT NULL DEFAULT 'UTC',
    controller  text,
    created_at  timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE cv.sites IS 'A place: 1 to 64 cameras, one time zone, one data controller, one policy';

CREATE TABLE cv.cameras (
    camera_id   varchar(50) PRIMARY KEY,
    site_id     text NOT NULL REFERENCES cv.sites,
    created_at  timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE cv.cameras IS 'camera_id is unique in the deployment: a second site''s use of one is quarantined';

CREATE TABLE cv.clips (
    clip_id           uuid PRIMARY KEY,
    site_id           text,
    camera_id         varchar(50),
    upload_key        text NOT NULL,
    etag              text NOT NULL,
    other_etags       text[] NOT NULL DEFAULT '{}',
    size_bytes        bigint NOT NULL,
    captured_at       timestamptz,
    capture_date      date,
    received_at       timestamptz NOT NULL DEFAULT now(),
    state             text NOT NULL DEFAULT 'in_progress'
                      CHECK (state IN ('in_progress', 'published', 'quarantined', 'superseded', 'expired', 'erased')),
    quarantine_stage  text,
    quarantine_code   text,
    quarantine_reason text,
    quarantined_at    timestamptz,
    superseded_by     uuid,
    duration_s        double precision,
    facts             jsonb,
    content_sha256    text,
    published_key     varchar(255) NOT NULL,
    published_from    text,
    published_sha256  text,
    published_at      timestamptz,
    copied_sha256     text,
    copy_due          boolean GENERATED ALWAYS AS
                      (state = 'published' AND copied_sha256 IS DISTINCT FROM published_sha256) STORED,
    raw_deleted_at    timestamptz,
    CHECK ((state = 'quarantined') = (quarantine_reason IS NOT NULL)),
    CHECK (state <> 'published' OR published_sha256 IS NOT NULL)
);
COMMENT ON COLUMN cv.clips.other_etags IS 'etags under which the same content was seen again';
COMMENT ON COLUMN cv.clips.published_key IS 'stable key of the published clip, derived from clip_id, never a raw key';
COMMENT ON COLUMN cv.clips.published_from IS 'fenced object that holds the published bytes until they are copied';
COMMENT ON COLUMN cv.clips.copied_sha256 IS 'digest last copied to published_key; not published_sha256: copy is due';
-- A column, because the planner knows how few rows have it and cannot know that of a comparison of two columns.
COMMENT ON COLUMN cv.clips.copy_due IS 'published_key does not hold what was published';
CREATE INDEX clips_by_state ON cv.clips (state, capture_date);
CREATE INDEX clips_by_camera ON cv.clips (camera_id, captured_at, clip_id);
CREATE INDEX clips_by_day ON cv.clips (capture_date, site_id);
CREATE INDEX clips_by_key ON cv.clips (upload_key);
-- A content that was replaced may come back under its key; the live one is there once.
CREATE UNIQUE INDEX clips_live_content ON cv.clips (upload_key, etag) WHERE state <> 'superseded';
CREATE INDEX clips_by_published_key ON cv.clips (published_key);
CREATE INDEX clips_by_published_from ON cv.clips (published_from) WHERE published_from IS NOT NULL;
CREATE INDEX clips_to_copy ON cv.clips (capture_date, site_id)
    WHERE copy_due;

-- One row a clip and stage. Facts that claims filter by are repeated here, so that a claim reads one index.
CREATE TABLE cv.stages (
    clip_id          uuid NOT NULL REFERENCES cv.clips,
    stage            text NOT NULL,
    site_id          text NOT NULL,
    camera_id        varchar(50) NOT NULL,
    capture_date     date NOT NULL,
    captured_at      timestamptz NOT NULL,
    state            text NOT NULL DEFAULT 'blocked'
                     CHECK (state IN ('blocked', 'pending', 'running', 'done', 'failed', 'stopped', 'frozen')),
    version          text,
    fence            bigint NOT NULL DEFAULT 0,
    input_generation bigint NOT NULL DEFAULT 0,
    lease_expires_at timestamptz,
    run_id           text,
    attempts         int NOT NULL DEFAULT 0,
    next_attempt_at  timestamptz NOT NULL DEFAULT '-infinity',
    finished_at      timestamptz,
    seconds          double precision,
    output_key       text,
    output_sha256    text,
    output_deleted_at timestamptz,
    counts           jsonb NOT NULL DEFAULT '{}',
    error            text,
    PRIMARY KEY (clip_id, stage)
);
COMMENT ON COLUMN cv.stages.state IS
    'blocked: an input is missing; pending: may be claimed; running: claimed; done; failed: quarantined here;
     stopped: the clip left the graph; frozen: done at an older version whose inputs are gone';
-- A claim takes the first of these that it may: what others hold does not stand in its way.
CREATE INDEX stages_pending ON cv.stages (stage, capture_date, site_id, captured_at, clip_id) WHERE state = 'pending';
CREATE INDEX stages_running ON cv.stages (stage, capture_date, site_id, lease_expires_at) WHERE state = 'running';
CREATE INDEX stages_unfinished ON cv.stages (clip_id)
    WHERE state IN ('blocked', 'pending', 'running');
-- The first clip of a camera that tracking has not passed.
CREATE INDEX stages_to_track ON cv.stages (site_id, camera_id, captured_at, clip_id)
    WHERE stage = 'tracks' AND state IN ('blocked', 'pending');
CREATE INDEX stages_of_camera ON cv.stages (camera_id, stage, captured_at, clip_id);
CREATE INDEX stages_by_output ON cv.stages (output_key) WHERE output_key IS NOT NULL;
CREATE INDEX stages_of_day ON cv.stages (capture_date, site_id, stage, state);

CREATE TABLE cv.stage_versions (
    stage       text PRIMARY KEY,
    version     text NOT NULL,
    adopted_at  timestamptz NOT NULL DEFAULT now()
);

-- What `auto` settled on: a model that can be had only today must not send every clip back to the start tomorrow.
CREATE TABLE cv.model_choices (
    choice    text PRIMARY KEY,
    models    text NOT NULL,
    chosen_at timestamptz NOT NULL DEFAULT now()
);

-- Tracks are claimed per camera: the head holds the lease and the fence.
CREATE TABLE cv.camera_heads (
    camera_id        varchar(50) PRIMARY KEY REFERENCES cv.cameras,
    site_id          text NOT NULL,
    state            text NOT NULL DEFAULT 'idle' CHECK (state IN ('idle', 'running')),
    version          text,
    next_clip        uuid,
    fence            bigint NOT NULL DEFAULT 0,
    lease_expires_at timestamptz,
    run_id           text
);
COMMENT ON COLUMN cv.camera_heads.next_clip IS 'the clip in hand, while running';

-- The tracker's state before and after each clip, and the digests that decide how far a late clip re-tracks.
CREATE TABLE cv.track_states (
    clip_id         uuid PRIMARY KEY REFERENCES cv.clips,
    camera_id       varchar(50) NOT NULL,
    captured_at     timestamptz NOT NULL,
    ends_at         timestamptz NOT NULL,
    version         text NOT NULL,
    before_sha256   text NOT NULL,
    after_sha256    text NOT NULL,
    state           bytea NOT NULL
);
CREATE INDEX track_states_of_camera ON cv.track_states (camera_id, captured_at, clip_id);

CREATE TABLE cv.mart_days (
    day        date PRIMARY KEY,
    dirty_seq  bigint NOT NULL DEFAULT 1,
    built_seq  bigint NOT NULL DEFAULT 0,
    dirty_at   timestamptz NOT NULL DEFAULT now(),
    built_at   timestamptz
);
CREATE INDEX mart_days_dirty ON cv.mart_days (day) WHERE dirty_seq > built_seq;

CREATE TABLE cv.run_requests (
    capture_date date NOT NULL,
    site_id      text NOT NULL,
    requested_at timestamptz NOT NULL,
    PRIMARY KEY (capture_date, site_id)
);

CREATE TABLE cv.previews (
    preview_key text PRIMARY KEY,
    clip_id     uuid NOT NULL REFERENCES cv.clips,
    expires_at  timestamptz NOT NULL
);
CREATE INDEX previews_of_clip ON cv.previews (clip_id);

CREATE TABLE cv.upload_cursors (
    prefix   text PRIMARY KEY,
    last_key text NOT NULL,
    seen_at  timestamptz NOT NULL DEFAULT now()
);

-- Objects that nothing points at, to be deleted by the collector. One that is about to be uploaded stands here too,
-- until the commit that points at it takes it off: what a killed worker uploaded is not forgotten.
CREATE TABLE cv.garbage (
    store      text NOT NULL CHECK (store IN ('restricted', 'cold')),
    object_key text COLLATE "C" NOT NULL,
    queued_at  timestamptz NOT NULL DEFAULT now(),
    not_before timestamptz NOT NULL DEFAULT now(),
    again_at   timestamptz,
    PRIMARY KEY (store, object_key)
);
CREATE INDEX garbage_due ON cv.garbage (not_before);
COMMENT ON COLUMN cv.garbage.again_at IS 'deleted once more then: a worker that comes late may have written it anew';
"""

WAREHOUSE = """
CREATE SCHEMA warehouse;

CREATE TABLE warehouse.detections (
    id          uuid NOT NULL,
    camera_id   varchar(50) NOT NULL,
    "timestamp" timestamptz NOT NULL,
    class_id    smallint NOT NULL,
    confidence  float4 NOT NULL,
    bbox        float4[4] NOT NULL,
    track_id    integer,
    clip_s3_key varchar(255) NOT NULL,
    PRIMARY KEY (id, "timestamp")
) PARTITION BY RANGE ("timestamp");
COMMENT ON COLUMN warehouse.detections.id IS 'UUIDv5 of clip, model version, frame, index';
COMMENT ON COLUMN warehouse.detections.bbox IS 'x1, y1, x2, y2, normalised to 0..1';
CREATE INDEX detections_by_camera ON warehouse.detections (camera_id, "timestamp" DESC);
CREATE INDEX detections_by_class ON warehouse.detections (class_id, "timestamp" DESC);

-- One row a track and clip: a track that crosses clips has several rows with the same (camera_id, track_day, track_id).
CREATE TABLE warehouse.tracks (
    id             uuid NOT NULL,
    camera_id      varchar(50) NOT NULL,
    "timestamp"    timestamptz NOT NULL,
    track_day      date NOT NULL,
    track_id       integer NOT NULL,
    class_id       smallint NOT NULL,
    last_seen_at   timestamptz NOT NULL,
    detections     integer NOT NULL,
    confidence     float4 NOT NULL,
    clip_s3_key    varchar(255) NOT NULL,
    PRIMARY KEY (id, "timestamp")
) PARTITION BY RANGE ("timestamp");
COMMENT ON TABLE warehouse.tracks IS 'One row a track and clip; "timestamp" is the first sighting in that clip';
COMMENT ON COLUMN warehouse.tracks.track_day IS 'UTC day of the first sighting: ids count per (camera_id, track_day)';
CREATE INDEX tracks_by_camera ON warehouse.tracks (camera_id, "timestamp" DESC);
CREATE INDEX tracks_by_class ON warehouse.tracks (class_id, "timestamp" DESC);

CREATE TABLE warehouse.events (
    id          uuid NOT NULL,
    camera_id   varchar(50) NOT NULL,
    "timestamp" timestamptz NOT NULL,
    kind        text NOT NULL,
    class_id    smallint,
    track_id    integer,
    attributes  jsonb NOT NULL DEFAULT '{}',
    clip_s3_key varchar(255) NOT NULL,
    PRIMARY KEY (id, "timestamp")
) PARTITION BY RANGE ("timestamp");
COMMENT ON COLUMN warehouse.events.kind IS 'track_started, track_ended; later line_crossed, zone_entered, zone_left';
CREATE INDEX events_by_camera ON warehouse.events (camera_id, "timestamp" DESC);
CREATE INDEX events_by_clip ON warehouse.events (clip_s3_key);
CREATE INDEX events_by_kind ON warehouse.events (kind, "timestamp" DESC);

-- Frames looked at, a row a clip: aggregates need the denominator, and a clip without detections counts too.
CREATE TABLE warehouse.clip_facts (
    clip_id       uuid PRIMARY KEY,
    site_id       text NOT NULL,
    camera_id     varchar(50) NOT NULL,
    captured_at   timestamptz NOT NULL,
    frames        integer NOT NULL,
    frame_width   integer NOT NULL,
    frame_height  integer NOT NULL,
    frame_offsets_us bigint[] NOT NULL,
    clip_s3_key   varchar(255) NOT NULL
);
COMMENT ON COLUMN warehouse.clip_facts.frame_offsets_us IS 'time of each sampled frame since captured_at';
CREATE INDEX clip_facts_by_camera ON warehouse.clip_facts (camera_id, captured_at);

-- Makes one day's partitions of detections, tracks and events; safe to call at once from many connections.
CREATE FUNCTION warehouse.ensure_day(day date) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    parent text;
    child text;
BEGIN
    FOREACH parent IN ARRAY ARRAY['detections', 'tracks', 'events'] LOOP
        child := parent || '_' || to_char(day, 'YYYYMMDD');
        IF to_regclass('warehouse.' || child) IS NULL THEN
            PERFORM pg_advisory_xact_lock(hashtext('warehouse.ensure_day'));
            -- By a scan: to_regclass may answer from a cache that waiting for an advisory lock does not refresh.
            CONTINUE WHEN EXISTS (
                SELECT FROM pg_class c WHERE c.relnamespace = 'warehouse'::regnamespace AND c.relname = child);
            -- Made apart and attached: that lets readers and writers of other days go on.
            EXECUTE format('CREATE TABLE warehouse.%I (LIKE warehouse.%I INCLUDING ALL)', child, parent);
            EXECUTE format(
                'ALTER TABLE warehouse.%I ATTACH PARTITION warehouse.%I FOR VALUES FROM (%L) TO (%L)',
                parent, child, day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC');
        END IF;
    END LOOP;
END $$;
"""

TALLIES = """
-- How many clips and stages are in each state, as differences: whoever changes a state adds a row, so no two workers
-- wait for each other, and a sum over few rows answers what a count over all clips would. Summed up from time to time.
CREATE TABLE cv.tallies (
    site_id text NOT NULL,
    stage   text NOT NULL,
    state   text NOT NULL,
    n       bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
COMMENT ON COLUMN cv.tallies.stage IS 'empty: the clips themselves';
COMMENT ON COLUMN cv.tallies.site_id IS 'empty: an upload whose key names no site';

CREATE FUNCTION cv.tally_rows() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    sign int := CASE TG_OP WHEN 'INSERT' THEN 1 ELSE -1 END;
BEGIN
    IF TG_TABLE_NAME = 'clips' THEN
        INSERT INTO cv.tallies SELECT coalesce(site_id, ''), '', state, sign * count(*) FROM changed GROUP BY 1, 3;
    ELSE
        INSERT INTO cv.tallies SELECT site_id, stage, state, sign * count(*) FROM changed GROUP BY 1, 2, 3;
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION cv.tally_clip() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO cv.tallies VALUES
        (coalesce(OLD.site_id, ''), '', OLD.state, -1), (coalesce(NEW.site_id, ''), '', NEW.state, 1);
    RETURN NULL;
END $$;

CREATE FUNCTION cv.tally_stage() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO cv.tallies VALUES (OLD.site_id, OLD.stage, OLD.state, -1), (NEW.site_id, NEW.stage, NEW.state, 1);
    RETURN NULL;
END $$;

-- New and deleted rows come in bulk; states change one by one, and a lease's renewal changes none.
CREATE TRIGGER tally_new AFTER INSERT ON cv.clips
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION cv.tally_rows();
CREATE TRIGGER tally_gone AFTER DELETE ON cv.clips
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION cv.tally_rows();
CREATE TRIGGER tally_change AFTER UPDATE OF state, site_id ON cv.clips FOR EACH ROW
    WHEN (OLD.state <> NEW.state OR OLD.site_id IS DISTINCT FROM NEW.site_id) EXECUTE FUNCTION cv.tally_clip();
CREATE TRIGGER tally_new AFTER INSERT ON cv.stages
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION cv.tally_rows();
CREATE TRIGGER tally_gone AFTER DELETE ON cv.stages
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION cv.tally_rows();
CREATE TRIGGER tally_change AFTER UPDATE OF state ON cv.stages FOR EACH ROW
    WHEN (OLD.state <> NEW.state) EXECUTE FUNCTION cv.tally_stage();

-- Sums the differences up; another that does the same makes it do nothing.
CREATE FUNCTION cv.sum_tallies() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF pg_try_advisory_xact_lock(hashtext('cv.sum_tallies')) THEN
        WITH summed AS (DELETE FROM cv.tallies RETURNING site_id, stage, state, n)
        INSERT INTO cv.tallies SELECT site_id, stage, state, sum(n) FROM summed GROUP BY 1, 2, 3 HAVING sum(n) <> 0;
    END IF;
END $$;
"""


def upgrade() -> None:
    for sql in (LEDGER, WAREHOUSE, TALLIES):
        execute_script(sql)
