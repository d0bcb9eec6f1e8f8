"""Policy, holds, erasure, audit and keys."""

from __future__ import annotations

from cv_platform.storage.schema.script import execute_script

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

SQL = """
CREATE TABLE cv.policies (
    digest      text PRIMARY KEY,
    rules       jsonb NOT NULL,
    adopted_at  timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE cv.policies IS 'every policy that was in force; the newest adopted_at is';

-- Append-only and hash-chained. Nobody whom the platform uses may change or remove a row.
CREATE TABLE cv.audit_log (
    seq        bigint PRIMARY KEY,
    at         timestamptz NOT NULL,
    actor      text NOT NULL,
    action     text NOT NULL,
    details    jsonb NOT NULL,
    previous   text NOT NULL,
    entry_hash text NOT NULL UNIQUE
);
CREATE FUNCTION cv.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'cv.audit_log is append-only: % is refused', TG_OP USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER audit_log_rows BEFORE UPDATE OR DELETE ON cv.audit_log
    FOR EACH ROW EXECUTE FUNCTION cv.refuse_change();
CREATE TRIGGER audit_log_truncate BEFORE TRUNCATE ON cv.audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION cv.refuse_change();
ALTER TABLE cv.audit_log ENABLE ALWAYS TRIGGER audit_log_rows;
ALTER TABLE cv.audit_log ENABLE ALWAYS TRIGGER audit_log_truncate;

CREATE TABLE cv.holds (
    hold_id     uuid PRIMARY KEY,
    site_id     text,
    camera_id   varchar(50),
    clip_id     uuid REFERENCES cv.clips,
    starts_at   timestamptz NOT NULL DEFAULT '-infinity',
    ends_at     timestamptz NOT NULL DEFAULT 'infinity',
    reason      text NOT NULL CHECK (reason <> ''),
    placed_by   text NOT NULL,
    placed_at   timestamptz NOT NULL DEFAULT now(),
    until       timestamptz NOT NULL DEFAULT 'infinity',
    released_at timestamptz,
    released_by text,
    CHECK (site_id IS NOT NULL OR camera_id IS NOT NULL OR clip_id IS NOT NULL),
    CHECK (starts_at < ends_at),
    CHECK ((released_at IS NULL) = (released_by IS NULL))
);
COMMENT ON TABLE cv.holds IS 'legal holds; starts_at and ends_at bound the capture time, until ends the hold by itself';
CREATE INDEX holds_in_force ON cv.holds (camera_id, site_id, clip_id) WHERE released_at IS NULL;

-- Whether a hold in force covers a clip, or any footage of a camera in an interval.
CREATE FUNCTION cv.interval_held(at_site text, at_camera text, of_clip uuid, first timestamptz, last timestamptz)
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (
        SELECT 1 FROM cv.holds h
        WHERE h.released_at IS NULL AND h.until > now()
          AND (h.clip_id IS NULL OR h.clip_id = of_clip)
          AND (h.site_id IS NULL OR h.site_id = at_site)
          AND (h.camera_id IS NULL OR h.camera_id = at_camera)
          AND h.starts_at <= last AND h.ends_at > first)
$$;
CREATE FUNCTION cv.held(of_clip uuid) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT coalesce((
        SELECT cv.interval_held(c.site_id, c.camera_id, c.clip_id, coalesce(c.captured_at, c.received_at),
            coalesce(c.captured_at, c.received_at) + make_interval(secs => coalesce(c.duration_s, 0)))
        FROM cv.clips c WHERE c.clip_id = of_clip), false)
$$;
"""


def upgrade() -> None:
    execute_script(SQL)
