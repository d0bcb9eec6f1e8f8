"""What tests of erasure share: requests, the whole way to a certificate, and looks at all that is kept."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from psycopg import sql

from cv_platform.governance.erasure import requests
from cv_platform.pipeline import erasure, erasure_proof
from cv_platform.pipeline.warm_to_cold import warm_to_cold
from cv_platform.storage.ledger.erasure_scope import ErasureScope
from cv_platform_tests.pipeline.world import MORNING, World

KEY = Ed25519PrivateKey.generate()
SECOND = timedelta(seconds=1)
FIRST_CLIP = ErasureScope("camera", camera_id="cam1", starts_at=MORNING, ends_at=MORNING + SECOND)


def ask(world: World, scope: ErasureScope = FIRST_CLIP) -> uuid.UUID:
    """An approved request."""
    request = requests.receive(world.database, scope, reference="case-17", by="clerk")
    erasure.preview(world.platform, request)
    requests.approve(world.database, request, by="officer")
    return request


def build_marts(world: World) -> None:
    """As a build of all days would record it."""
    world.execute("UPDATE cv.mart_days SET built_seq = dirty_seq, built_k = 5")


def erase(world: World, scope: ErasureScope = FIRST_CLIP) -> dict[str, Any]:
    """Ask, execute, certify."""
    request = ask(world, scope)
    assert erasure.execute(world.platform, request, actor="job") == "executed"
    build_marts(world)
    document = erasure_proof.certify(world.platform, request, actor="job", key=KEY)
    assert document is not None
    return document


def everything(world: World) -> dict[str, str]:
    """Every row of every table of the database as text, but the record of the erasure itself; by table."""
    tables = world.rows(
        "SELECT schemaname, tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
    )
    found = {}
    with world.database.transaction() as connection:
        for schema, table in tables:
            if table.startswith("erasure"):
                continue
            query = sql.SQL("SELECT t::text FROM {} t").format(sql.Identifier(schema, table))
            found[f"{schema}.{table}"] = "\n".join(row for (row,) in connection.execute(query))
    return found


def stored_bytes(world: World) -> dict[str, bytes]:
    """Every file of the platform's state folder."""
    root = world.settings.state_dir
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def rows_of(world: World, camera: str) -> dict[str, list[Any]]:
    """A camera's rows and trackers' states."""
    return {
        table: world.rows(f"SELECT t::text FROM {table} t WHERE camera_id = %s ORDER BY 1", camera)
        for table in (
            "warehouse.detections",
            "warehouse.tracks",
            "warehouse.events",
            "warehouse.clip_facts",
            "cv.track_states",
            "cv.stages",
            "cv.clips",
        )
    }


def goes_cold(world: World) -> None:
    """Every row of cam1 leaves for Parquet."""
    build_marts(world)
    assert warm_to_cold(world.platform, MORNING + timedelta(days=200)).rows > 0
    assert not rows_of(world, "cam1")["warehouse.detections"]
