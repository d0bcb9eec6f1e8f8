"""What a query's conditions leave: bounds that may be too wide, never too narrow."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import duckdb
import pytest

from cv_platform.pipeline.row_query import _evaluator
from cv_platform.storage.cold.bounds import Bounds, QueryRefused, bounds_of

D1, D2 = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC)
US = timedelta(microseconds=1)
A, AB = frozenset({"a"}), frozenset({"a", "b"})
ALL = Bounds()


def bounds(sql: str) -> dict[str, Bounds]:
    with duckdb.connect() as engine:
        engine.execute("SET TimeZone = 'UTC'")
        return bounds_of(sql, _evaluator(engine))


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("camera_id = 'a'", Bounds(A)),
        ("'a' = camera_id", Bounds(A)),
        ("camera_id IN ('a', 'b')", Bounds(AB)),
        ("camera_id IN ('a', 'b') AND camera_id = 'a'", Bounds(A)),
        ("camera_id IN ('a', lower('B'))", ALL),
        ("camera_id = 'a' OR class_id = 1", ALL),
        ("NOT camera_id = 'a'", ALL),
        ("camera_id <> 'a'", ALL),
        ("camera_id LIKE 'a'", ALL),
        ("upper(camera_id) = 'A'", ALL),
        ("timestamp >= '2026-03-01'", Bounds(start=D1)),
        ("\"timestamp\" > TIMESTAMPTZ '2026-03-01 00:00:00+00'", Bounds(start=D1)),
        ("timestamp < DATE '2026-03-02'", Bounds(end=D2)),
        ("DATE '2026-03-02' > timestamp", Bounds(end=D2)),
        ("timestamp <= '2026-03-02 01:00+01'", Bounds(end=D2 + US)),
        ("timestamp BETWEEN '2026-03-01' AND '2026-03-02'", Bounds(start=D1, end=D2 + US)),
        ("timestamp >= DATE '2026-03-02' - INTERVAL 1 DAY", Bounds(start=D1)),
        ("timestamp = '2026-03-01'", Bounds(start=D1, end=D1 + US)),
        ("timestamp::date = '2026-03-01'", Bounds(start=D1, end=D2)),
        ("CAST(timestamp AS DATE) <= DATE '2026-03-01'", Bounds(end=D2)),
        ("timestamp >= (SELECT max(timestamp) FROM tracks)", ALL),
        ("timestamp >= to_timestamp(class_id)", ALL),
        ("date_trunc('day', timestamp) = '2026-03-01'", ALL),
        ("camera_id = 'a' AND (timestamp >= '2026-03-01' AND class_id = 0)", Bounds(A, D1)),
    ],
)
def test_conditions(where: str, expected: Bounds) -> None:
    assert bounds(f"SELECT count(*) FROM detections WHERE {where}")["detections"] == expected


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT 1", {}),
        ("SELECT * FROM detections", {"detections": ALL}),
        ("SELECT * FROM Detections d WHERE d.camera_id = 'a' LIMIT 3", {"detections": Bounds(A)}),
        (
            "SELECT * FROM detections d JOIN tracks t USING (camera_id) WHERE t.camera_id = 'a' AND d.camera_id = 'b'",
            {"detections": Bounds(frozenset({"b"})), "tracks": Bounds(A)},
        ),
        # Whose column that is, only the database knows.
        ("SELECT * FROM detections, tracks WHERE camera_id = 'a'", {"detections": ALL, "tracks": ALL}),
        (
            "SELECT * FROM events WHERE camera_id = 'a' UNION ALL SELECT * FROM events WHERE camera_id = 'b'",
            {"events": Bounds(AB)},
        ),
        ("SELECT * FROM events WHERE camera_id = 'a' UNION SELECT * FROM events", {"events": ALL}),
        ("SELECT * FROM (SELECT * FROM detections) WHERE camera_id = 'a'", {"detections": ALL}),
        ("WITH d AS (SELECT * FROM detections WHERE camera_id = 'a') SELECT * FROM d", {"detections": Bounds(A)}),
        ("WITH tracks AS (SELECT 1) SELECT * FROM tracks", {}),
        ("SELECT 'a' AS camera_id FROM detections WHERE camera_id = 'a'", {"detections": ALL}),
        (
            "SELECT count(*) FROM tracks t WHERE EXISTS (SELECT 1 FROM events e WHERE e.camera_id = 'a' AND"
            " e.track_id = t.track_id)",
            {"tracks": ALL, "events": Bounds(A)},
        ),
    ],
)
def test_tables(sql: str, expected: dict[str, Bounds]) -> None:
    assert bounds(sql) == expected


@pytest.mark.parametrize(
    "sql",
    ["DELETE FROM detections", "SELECT 1; SELECT 2", "COPY detections TO 'x'", "SELEC", "", "ATTACH 'x'", "SET x = 1"],
)
def test_refused(sql: str) -> None:
    with pytest.raises(QueryRefused):
        bounds(sql)
