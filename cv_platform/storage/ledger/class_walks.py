"""How far the look at the objects' storage classes has come, a row a prefix: one run looks at a part of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cv_platform.storage.database import Connection


@dataclass(frozen=True)
class ClassWalk:
    """A walk over a prefix.

    Attributes:
        place: bucket and prefix.
        rules_since: since when the rules are as they are.
        after: the last key that was looked at; empty where the next run begins anew.
        due, late, elsewhere, at_rest: what this walk has counted so far; see `StorageClasses`.
    """

    place: str
    rules_since: datetime
    after: str = ""
    due: int = 0
    late: int = 0
    elsewhere: int = 0
    at_rest: int = 0


def class_walk(connection: Connection, place: str, *, now: datetime) -> ClassWalk:
    """Where the walk over a prefix stands; a new one where there was none."""
    row = connection.execute(
        "SELECT rules_since, after, due, late, elsewhere, at_rest FROM cv.class_walks WHERE place = %s", [place]
    ).fetchone()
    return ClassWalk(place, now) if row is None else ClassWalk(place, *row)


def note_class_walk(connection: Connection, walk: ClassWalk) -> None:
    """Keep how far a walk has come; of two at once the later one counts."""
    connection.execute(
        "INSERT INTO cv.class_walks (place, rules_since, after, due, late, elsewhere, at_rest)"
        " VALUES (%(place)s, %(rules_since)s, %(after)s, %(due)s, %(late)s, %(elsewhere)s, %(at_rest)s)"
        " ON CONFLICT (place) DO UPDATE SET rules_since = excluded.rules_since, after = excluded.after,"
        " due = excluded.due, late = excluded.late, elsewhere = excluded.elsewhere, at_rest = excluded.at_rest",
        vars(walk),
    )
