"""What each tier holds and since when: what retention asks before it deletes, and what it then deletes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final, Literal

from cv_platform.storage.database import Database

DataClass = Literal["raw", "frames", "quarantine", "warm", "cold"]

# Clips whose data of a class is still there, and the moment from which its term counts.
STILL_THERE: Final[dict[str, tuple[str, str, str]]] = {
    "raw": ("c.raw_deleted_at IS NULL AND c.state NOT IN ('quarantined', 'erased')", "c.captured_at", "c.size_bytes"),
    "frames": (
        "EXISTS (SELECT 1 FROM cv.stages s WHERE s.clip_id = c.clip_id AND s.stage = 'decoded_frames'"
        " AND s.output_key IS NOT NULL AND s.output_deleted_at IS NULL)",
        "c.captured_at",
        "0",
    ),
    "quarantine": ("c.raw_deleted_at IS NULL AND c.state = 'quarantined'", "c.quarantined_at", "c.size_bytes"),
    "warm": ("EXISTS (SELECT 1 FROM warehouse.clip_facts f WHERE f.clip_id = c.clip_id)", "c.captured_at", "0"),
    "cold": ("c.state = 'published'", "c.captured_at", "0"),
}


def count_older(
    database: Database,
    data_class: DataClass,
    *,
    older_than: timedelta,
    site: str | None = None,
    camera: str | None = None,
    except_places: Sequence[str] = (),
) -> tuple[int, int]:
    """Clips, and bytes as far as they are known, whose data of a class is older than a term and not held.

    Args:
        except_places: `site` or `site/camera`: places with rules of their own, left out.
    """
    there, since, size = STILL_THERE[data_class]
    with database.transaction() as connection:
        row = connection.execute(
            f"SELECT count(*), coalesce(sum({size}), 0)::bigint FROM cv.clips c WHERE {there}"
            f" AND {since} < now() - %(term)s AND (%(site)s::text IS NULL OR c.site_id = %(site)s)"
            " AND (%(camera)s::text IS NULL OR c.camera_id = %(camera)s)"
            " AND coalesce(c.site_id, '') <> ALL(%(except)s)"
            " AND coalesce(c.site_id || '/' || c.camera_id, '') <> ALL(%(except)s) AND NOT cv.held(c.clip_id)",
            {"term": older_than, "site": site, "camera": camera, "except": list(except_places)},
        ).fetchone()
    return (0, 0) if row is None else (int(row[0]), int(row[1]))
