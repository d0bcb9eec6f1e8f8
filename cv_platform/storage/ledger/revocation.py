"""Models that were revoked after they had hidden faces: what they published is taken back and made anew."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Sequence
from typing import Final

from cv_platform.storage.database import Connection, Database
from cv_platform.storage.ledger.held import held_now
from cv_platform.storage.ledger.model import BLURRED_CLIPS
from cv_platform.storage.ledger.published import publish_again
from cv_platform.storage.ledger.withdrawal import quarantine_clip

_MODEL: Final = re.compile(r"[A-Za-z0-9_.-]+@[0-9a-f]{12}")


class ModelRevoked(Exception):
    """A model that the work was done with is revoked: its output must not be published."""


def models_in(*versions: str | None) -> list[str]:
    """The models that detectors' versions name, as NAME@DIGEST; a version of several detectors names several."""
    return sorted({model for version in versions if version for model in _MODEL.findall(version)})


def revoked_models(connection: Connection) -> dict[str, str]:
    """Every revoked model with the reason."""
    return dict(connection.execute("SELECT model, reason FROM cv.revoked_models").fetchall())


def require_unrevoked(connection: Connection, models: Sequence[str]) -> None:
    """Raises ModelRevoked where one of the models is revoked; until the transaction ends none of them can be."""
    connection.execute("LOCK TABLE cv.revoked_models IN SHARE MODE")
    found = connection.execute("SELECT model FROM cv.revoked_models WHERE model = ANY(%s)", [list(models)]).fetchall()
    if found:
        raise ModelRevoked(f"{', '.join(sorted(model for (model,) in found))} was revoked meanwhile")


def note_revoked(connection: Connection, models: Iterable[str], *, reason: str, by: str) -> list[str]:
    """Revoke models, and let `auto` choose again; returns those that were not revoked already."""
    new = []
    for model in sorted(set(models)):
        row = connection.execute(
            "INSERT INTO cv.revoked_models (model, reason, revoked_by) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING"
            " RETURNING model",
            [model, reason, by],
        ).fetchone()
        if row is not None:
            new.append(model)
        connection.execute(
            "DELETE FROM cv.model_choices WHERE %s = ANY(string_to_array(models, '+'))", [model.partition("@")[0]]
        )
    return new


def published_with(database: Database, models: Sequence[str], *, limit: int) -> list[uuid.UUID]:
    """Published clips in whose hiding one of the models had a part, in order of id."""
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT clip_id FROM cv.clips WHERE state = 'published' AND published_models && %s::text[]"
            " ORDER BY clip_id LIMIT %s",
            [list(models), limit],
        ).fetchall()
    return [clip_id for (clip_id,) in rows]


def take_back(database: Database, clip_id: uuid.UUID, models: Sequence[str]) -> str:
    """Withdraw one clip from publication.

    Returns:
        "again": it is blurred anew; "quarantined": its raw clip is gone, or a hold forbids to replace what it has;
        "nothing": it is not published with these models any more.
    """

    def work(connection: Connection) -> str:
        row = connection.execute(
            "SELECT raw_deleted_at FROM cv.clips WHERE clip_id = %s AND state = 'published'"
            " AND published_models && %s::text[] FOR UPDATE",
            [clip_id, list(models)],
        ).fetchone()
        if row is None:
            return "nothing"
        if row[0] is None and not held_now(connection, clip_id):
            publish_again(connection, clip_id)
            return "again"
        quarantine_clip(
            connection,
            clip_id,
            stage=BLURRED_CLIPS,
            code="model_revoked",
            reason="a model that hid its faces was revoked, and it cannot be blurred anew",
        )
        return "quarantined"

    return database.transact(work)
