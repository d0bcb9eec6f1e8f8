"""Counts of the whole ledger that cost the same at ten million clips as at ten: sums of what every change added."""

from __future__ import annotations

from cv_platform.storage.database import Connection, Database
from cv_platform.storage.ledger.model import CLIP_STATES
from cv_platform.storage.ledger.queries import Balance

# Clips whose state says one thing and whose stages say another. Each looks at what is open, never at what is done.
_CONTRADICTIONS = """
    SELECT 'in_progress', count(*) FROM cv.clips c WHERE c.state = 'in_progress' AND NOT EXISTS (
        SELECT FROM cv.stages s WHERE s.clip_id = c.clip_id AND s.state IN ('blocked', 'pending', 'running'))
  UNION ALL
    SELECT 'quarantined', count(*) FROM cv.clips c WHERE c.state = 'quarantined' AND EXISTS (
        SELECT FROM cv.stages s WHERE s.clip_id = c.clip_id AND s.state IN ('blocked', 'pending', 'running'))
  UNION ALL
    SELECT c.state, count(DISTINCT c.clip_id) FROM cv.stages s JOIN cv.clips c USING (clip_id)
    WHERE s.state = 'running' AND c.state IN ('superseded', 'expired', 'erased') GROUP BY 1
"""


def balance_now(database: Database) -> Balance:
    """As `queries.balance`, from the tallies: what `status` and the metrics show, at once at any size."""
    with database.transaction() as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        counted = dict(
            connection.execute(
                "SELECT state, sum(n)::bigint FROM cv.tallies WHERE stage = '' GROUP BY state"
            ).fetchall()
        )
        wrong = dict(connection.execute(_CONTRADICTIONS).fetchall())
    states = dict.fromkeys(CLIP_STATES, 0) | {state: counted[state] - wrong.get(state, 0) for state in counted}
    return Balance(received=sum(counted.values()), states=states)


def stage_states_now(database: Database) -> dict[str, dict[str, int]]:
    """Clips by stage and the stage's state, of all days and sites."""
    found: dict[str, dict[str, int]] = {}
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT stage, state, sum(n)::bigint FROM cv.tallies WHERE stage <> '' GROUP BY 1, 2 HAVING sum(n) <> 0"
        ).fetchall()
    for stage, state, count in rows:
        found.setdefault(stage, {})[state] = count
    return found


def clip_states_by_site(database: Database) -> dict[tuple[str, str], int]:
    """Clips by site and state; an upload whose key names no site is under the empty one."""
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT site_id, state, sum(n)::bigint FROM cv.tallies WHERE stage = '' GROUP BY 1, 2 HAVING sum(n) <> 0"
        ).fetchall()
    return {(site, state): count for site, state, count in rows}


def waiting_by_site(database: Database) -> dict[str, int]:
    """Clips that wait or are worked on, by site.

    By the graph's two ends, one of which is open for as long as anything of a clip is; of clips that have one of them
    open and others that have the other, the more numerous are counted.
    """
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT site_id, greatest(sum(n) FILTER (WHERE stage = 'tracks'), sum(n) FILTER (WHERE stage ="
            " 'blurred_clips'))::bigint AS open FROM cv.tallies WHERE stage IN ('tracks', 'blurred_clips')"
            " AND state IN ('blocked', 'pending', 'running') GROUP BY 1 ORDER BY 1"
        ).fetchall()
    return {site: count for site, count in rows if count}


def sum_tallies(database: Database) -> None:
    """Sum the differences up, so that there are few; does nothing where another is about it."""
    with database.transaction() as connection:
        connection.execute("SELECT cv.sum_tallies()")


def recount(connection: Connection) -> None:
    """Count everything anew in the caller's transaction, as after rows that no trigger saw. Locks out writers."""
    connection.execute("LOCK TABLE cv.clips, cv.stages IN SHARE MODE")
    connection.execute("DELETE FROM cv.tallies")
    connection.execute(
        "INSERT INTO cv.tallies SELECT coalesce(site_id, ''), '', state, count(*) FROM cv.clips GROUP BY 1, 3"
    )
    connection.execute("INSERT INTO cv.tallies SELECT site_id, stage, state, count(*) FROM cv.stages GROUP BY 1, 2, 3")
