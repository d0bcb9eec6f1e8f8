"""Sites: places with a time zone and a controller."""

from __future__ import annotations

from cv_platform.storage.database import Connection
from cv_platform.storage.ledger.days import mark_dirty


def set_site(connection: Connection, site_id: str, *, time_zone: str, controller: str | None) -> None:
    """Make or change a site. Another time zone moves its local days, so all of its days are built again."""
    row = connection.execute("SELECT time_zone FROM cv.sites WHERE site_id = %s FOR UPDATE", [site_id]).fetchone()
    connection.execute(
        "INSERT INTO cv.sites (site_id, time_zone, controller) VALUES (%s, %s, %s) ON CONFLICT (site_id)"
        " DO UPDATE SET time_zone = EXCLUDED.time_zone, controller = EXCLUDED.controller",
        [site_id, time_zone, controller],
    )
    if row is not None and row[0] != time_zone:
        days = connection.execute(
            "SELECT DISTINCT capture_date FROM cv.clips WHERE site_id = %s AND capture_date IS NOT NULL", [site_id]
        ).fetchall()
        mark_dirty(connection, [day for (day,) in days])
