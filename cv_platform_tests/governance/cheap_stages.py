"""Stages that do next to nothing, through the platform's own claims, uploads and commits; nothing is decoded."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from threading import Event
from typing import Any

import numpy as np

from cv_platform.pipeline.outputs import upload_output
from cv_platform.pipeline.platform import Platform
from cv_platform.pipeline.publishing import publish_due
from cv_platform.pipeline.stage import ClipRefused, Finished, run_stage
from cv_platform.pipeline.tracks import Tracks
from cv_platform.storage.database import Connection
from cv_platform.storage.ledger.days import days_of
from cv_platform.storage.ledger.model import (
    BLURRED_CLIPS,
    DECODED_FRAMES,
    DETECTIONS,
    RAW_CLIPS,
    STAGES,
    TRACKS,
    Claim,
    Scope,
)
from cv_platform.storage.ledger.withdrawal import delete_rows, discard_objects
from cv_platform.storage.objects import ObjectMissing
from cv_platform.storage.warehouse import DetectionRows, ensure_days, write_detections
from cv_platform.vision.tracking import make_tracker

_STORES: dict[str, Any] = {RAW_CLIPS: "restricted", DECODED_FRAMES: "restricted", DETECTIONS: "cold"}
_FOLDERS = {RAW_CLIPS: "vault", DECODED_FRAMES: "frames", DETECTIONS: "detections", BLURRED_CLIPS: "staging"}
SPOILT = b"spoilt"
"""Content that no stage but the first accepts."""


@dataclass
class Cheap:
    """One stage's work: an object that tells stage, version and input apart, and a few rows."""

    stage: str
    version: str

    def work(self, platform: Platform, claim: Claim, lost: Event) -> Finished:
        """See `ClipStage.work`."""
        data = _input(platform, claim)
        if self.stage == BLURRED_CLIPS and data.startswith(SPOILT):
            raise ClipRefused("not_proven", "its anonymisation is not proven")
        output = data if self.stage == RAW_CLIPS else f"{self.stage} {self.version} ".encode() + data
        sha256 = hashlib.sha256(output).hexdigest()
        with platform.scratch() as folder:
            path = folder / "output"
            path.write_bytes(output)
            key = upload_output(
                platform,
                claim,
                _STORES.get(self.stage, "cold"),
                _FOLDERS[self.stage],
                path,
                suffix=".bin",
                certificate="{}" if self.stage == BLURRED_CLIPS else None,
            )
        ensure_days(platform.database, days_of(claim.clip.captured_at, 2.0))
        return Finished(
            output_key=key,
            output_sha256=sha256,
            store=_STORES.get(self.stage, "cold"),
            counts={"bytes": len(output)},
            write=lambda connection: self._write(connection, claim, key, sha256),
            after_commit=(lambda: _publish(platform)) if self.stage == BLURRED_CLIPS else lambda: None,
        )

    def _write(self, connection: Connection, claim: Claim, key: str, sha256: str) -> None:
        clip = claim.clip
        if self.stage == RAW_CLIPS:
            connection.execute(
                "UPDATE cv.clips SET content_sha256 = %s, duration_s = 1 WHERE clip_id = %s", [sha256, clip.clip_id]
            )
        elif self.stage == DETECTIONS:
            delete_rows(connection, clip.clip_id, ("detections",))
            ids = [uuid.uuid5(clip.clip_id, f"{self.version}/{n}") for n in range(2)]
            start = np.datetime64(clip.captured_at.replace(tzinfo=None), "us")
            rows = DetectionRows(
                frames=np.arange(2, dtype=np.int32),
                timestamps=start + np.array([0, 200_000], "timedelta64[us]"),
                class_ids=np.zeros(2, np.int16),
                confidences=np.full(2, 0.9, np.float32),
                boxes=np.array([[0.1, 0.1, 0.3, 0.5], [0.11, 0.1, 0.31, 0.5]], np.float32),
                ids=ids,
            )
            write_detections(connection, clip.camera_id, clip.published_key, rows)
            connection.execute("DELETE FROM warehouse.clip_facts WHERE clip_id = %s", [clip.clip_id])
            connection.execute(
                "INSERT INTO warehouse.clip_facts VALUES (%s, %s, %s, %s, 2, 64, 48, '{0, 200000}', %s)",
                [clip.clip_id, clip.site_id, clip.camera_id, clip.captured_at, clip.published_key],
            )
        elif self.stage == BLURRED_CLIPS:
            previous = connection.execute(
                "SELECT published_from FROM cv.clips WHERE clip_id = %s FOR UPDATE", [clip.clip_id]
            ).fetchone()
            discard_objects(connection, "cold", [previous[0] if previous else None])
            connection.execute(
                "UPDATE cv.clips SET state = 'published', published_from = %s, published_sha256 = %s,"
                " published_at = now(), copied_sha256 = NULL WHERE clip_id = %s",
                [key, sha256, clip.clip_id],
            )


def _input(platform: Platform, claim: Claim) -> bytes:
    parent = {DECODED_FRAMES: RAW_CLIPS, BLURRED_CLIPS: RAW_CLIPS, DETECTIONS: DECODED_FRAMES}.get(claim.stage)
    if parent is not None:
        key, _ = claim.inputs[parent]
        if key is None:
            raise ClipRefused("input_gone", "its input is gone")
        return platform.restricted.get_bytes(key)
    with platform.database.transaction() as connection:
        row = connection.execute(
            "SELECT s.output_key, c.etag, c.other_etags FROM cv.stages s JOIN cv.clips c USING (clip_id)"
            " WHERE clip_id = %s AND stage = %s",
            [claim.clip.clip_id, RAW_CLIPS],
        ).fetchone()
    assert row is not None
    sealed, etag, others = row
    if sealed is not None:
        return platform.restricted.get_bytes(sealed)
    info = platform.restricted.head(claim.clip.upload_key)
    if info is None:
        raise ClipRefused("object_missing", "the uploaded object is not in the store any more")
    if info.etag not in (etag, *others):
        raise ClipRefused("upload_replaced", "other content came under its key")
    try:
        return platform.restricted.get_bytes(claim.clip.upload_key)
    except ObjectMissing:
        raise ClipRefused("object_missing", "the uploaded object is not in the store any more") from None


def _publish(platform: Platform) -> None:
    publish_due(platform, Scope())


def run_cheap(platform: Platform, versions: dict[str, str], *stages: str) -> None:
    """Run stages, all where none is named."""
    for stage in stages or STAGES:
        if stage == TRACKS:
            Tracks(versions[stage], lambda: make_tracker("sort")).run(platform, Scope())
        else:
            run_stage(platform, Cheap(stage, versions[stage]), Scope())


__all__ = ["SPOILT", "Cheap", "run_cheap"]
