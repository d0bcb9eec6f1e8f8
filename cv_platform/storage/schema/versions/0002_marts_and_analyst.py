"""The schemas of the aggregates, and the role `analyst`, which reads one of them and nothing else."""

from __future__ import annotations

from cv_platform.storage.schema.script import execute_script

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

SCHEMAS = """
CREATE SCHEMA aggregates;
COMMENT ON SCHEMA aggregates IS 'Exact aggregates. Not for analysts';
CREATE SCHEMA restricted;
COMMENT ON SCHEMA restricted IS 'A row a person: 90 days, in the scope of every erasure. Not for analysts';
CREATE SCHEMA marts;
COMMENT ON SCHEMA marts IS 'Aggregates for analysts: no count under k, nor any that differences would give away';

-- The k that a day's published rows were made with: another k makes the day dirty.
ALTER TABLE cv.mart_days ADD COLUMN built_k integer;
"""

# Roles belong to the server: another database's migration may make the same one at the same moment.
ANALYST = """
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'analyst') THEN
        CREATE ROLE analyst NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOINHERIT NOREPLICATION NOBYPASSRLS;
    END IF;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN NULL;
    WHEN insufficient_privilege THEN
        RAISE EXCEPTION 'the role "analyst" is missing and % may not create it', current_user
            USING HINT = 'As an administrator: CREATE ROLE analyst NOLOGIN NOINHERIT; then start again';
END $$;

-- By default everyone may make temporary tables and functions and run every function.
DO $$
BEGIN
    EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO analyst', current_database());
END $$;
REVOKE ALL ON SCHEMA cv, warehouse, aggregates, restricted FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA cv, warehouse FROM PUBLIC;
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;

-- Marts of today and of tomorrow.
GRANT USAGE ON SCHEMA marts TO analyst;
GRANT SELECT ON ALL TABLES IN SCHEMA marts TO analyst;
ALTER DEFAULT PRIVILEGES IN SCHEMA marts GRANT SELECT ON TABLES TO analyst;
"""


def upgrade() -> None:
    for sql in (SCHEMAS, ANALYST):
        execute_script(sql)
