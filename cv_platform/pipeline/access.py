"""Access (GDPR Art. 15): what is kept of a data subject, as one file to hand over.

Published clips, in which every face is hidden, the subject's and the others', and whole persons where the policy says
so; and the rows. A clip that was published when the policy hid less than it does now is not handed over: it would show
of others what may not be shown any more. Of other people in the same clips no row is given: a track's request gets that
track's rows, and of a clip only what belongs to the track.
"""

from __future__ import annotations

import json
import uuid
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from cv_platform.governance import audit
from cv_platform.pipeline.erasure import warm_scope
from cv_platform.pipeline.platform import Platform
from cv_platform.pipeline.published_clips import NotPublished, fetch_published
from cv_platform.pipeline.rules import class_ids
from cv_platform.storage.ledger import erasure_scope
from cv_platform.storage.ledger.clip_keys import KeyDestroyed
from cv_platform.storage.ledger.erasure_scope import ErasureScope
from cv_platform.storage.objects import ObjectMissing

_Pictures = Literal["added", "none", "hiding too little"]


@dataclass(frozen=True)
class Bundle:
    """What a bundle holds.

    Attributes:
        clips: of which there are pictures.
        rows: by table.
        without_pictures: clips of which there are no pictures any more.
        hiding_too_little: clips whose pictures hide less than the policy asks for by now, and were left out.
    """

    clips: int
    rows: dict[str, int]
    without_pictures: int
    hiding_too_little: int


def write_bundle(
    platform: Platform,
    scope: ErasureScope,
    path: Path,
    *,
    reference: str,
    by: str,
    progress: Callable[[int, int], None] = lambda done, all_: None,
) -> Bundle:
    """Write the bundle as a ZIP file that only its owner can read.

    Args:
        scope: as an erasure's.
        path: must not exist.
        reference: the case's number.
        by: who asks; stands in the audit log.
        progress: told (clips done, clips in all).

    Raises:
        FileExistsError: there is something at `path`.
        SealBroken: a clip is not what was published; nothing is left at `path`.
    """
    with warm_scope(platform, scope) as connection:
        clips = erasure_scope.clips_in_scope(connection, scope)
    path.touch(mode=0o600, exist_ok=False)
    found: Counter[_Pictures] = Counter()
    counts: dict[str, int] = {}
    try:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
            for done, (clip_id, _) in enumerate(clips):
                found[_add_clip(platform, bundle, clip_id)] += 1
                progress(done + 1, len(clips))
            for table in erasure_scope.TABLES:
                counts[table] = 0
                with bundle.open(f"rows/{table}.jsonl", "w") as file:
                    for row in _rows(platform, scope, table, [clip_id for clip_id, _ in clips]):
                        file.write(json.dumps(row, default=str, sort_keys=True).encode() + b"\n")
                        counts[table] += 1
            summary = {
                "reference": reference,
                "scope": scope.as_json(),
                "written_at": datetime.now(UTC).isoformat(),
                "clips": found["added"],
                "clips without pictures": found["none"],
                "clips whose pictures hide too little": found["hiding too little"],
                "rows": counts,
            }
            bundle.writestr("README.json", json.dumps(summary, indent=2))
    except BaseException:
        path.unlink()
        raise
    audit.record(
        platform.database,
        actor=by,
        action="access.bundled",
        details={"reference": reference, "kind": scope.kind, "clips": found["added"], "rows": counts},
    )
    return Bundle(found["added"], counts, found["none"], found["hiding too little"])


def _add_clip(platform: Platform, bundle: zipfile.ZipFile, clip_id: uuid.UUID) -> _Pictures:
    with platform.scratch() as folder:
        target = folder / "clip.mp4"
        try:
            found = fetch_published(platform, clip_id, target)
        except (NotPublished, ObjectMissing, KeyDestroyed):
            return "none"
        if not _hides_enough(platform, clip_id, found.certificate):
            return "hiding too little"
        bundle.write(target, f"clips/{clip_id}.mp4", compress_type=zipfile.ZIP_STORED)
        bundle.writestr(f"clips/{clip_id}.certificate.json", found.certificate)
    return "added"


def _hides_enough(platform: Platform, clip_id: uuid.UUID, certificate: str) -> bool:
    """Whether a clip was published with all hidden that the policy of its camera hides now."""
    with platform.database.transaction() as connection:
        row = connection.execute("SELECT site_id, camera_id FROM cv.clips WHERE clip_id = %s", [clip_id]).fetchone()
    hide = platform.policy.rules_for(*row or (None, None)).hide
    hidden = json.loads(certificate)["policy"]
    zones = [[list(point) for point in polygon] for polygon in hide.zones]
    return set(class_ids(hide.classes)) <= set(hidden["classes"]) and all(zone in hidden["zones"] for zone in zones)


def _rows(platform: Platform, scope: ErasureScope, table: str, clip_ids: list[uuid.UUID]) -> Iterator[dict[str, Any]]:
    with warm_scope(platform, scope) as connection:
        yield from erasure_scope.rows_of_scope(connection, scope, table, clip_ids)
