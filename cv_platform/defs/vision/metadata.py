"""What a step shows: counts and plots, nothing personal."""

from __future__ import annotations

from typing import Any

import dagster as dg

from cv_platform.defs.plots import bars, sparkline
from cv_platform.pipeline.platform import Platform
from cv_platform.pipeline.stage import StageReport
from cv_platform.storage.ledger.model import Scope
from cv_platform.storage.ledger.queries import stage_counts, stage_states

_ROWS = {"detections": "detections", "tracks": "tracks"}
_URI = {"raw_clips": "raw", "decoded_frames": "frames", "detections": "detections", "blurred_clips": "blurred"}


def report_metadata(platform: Platform, scope: Scope, report: StageReport) -> dict[str, Any]:
    """Metadata of one materialisation: what this run did, and what the day holds now."""
    states = stage_states(platform.database, scope).get(report.stage, {})
    day = stage_counts(platform.database, report.stage, scope)
    metadata: dict[str, Any] = {
        "clips done": report.done,
        "clips skipped": max(states.get("done", 0) + states.get("frozen", 0) - report.done, 0),
        "clips quarantined": report.quarantined.total(),
        "clips to be tried again": report.postponed,
        "clips taken over": report.stale,
        "clips still open": sum(states.get(state, 0) for state in ("blocked", "pending", "running")),
        "seconds": round(report.seconds, 3),
        "day's clips by state": dg.MetadataValue.md(bars(states)),
    }
    if report.quarantined:
        metadata["quarantined by reason"] = dg.MetadataValue.md(bars(dict(report.quarantined)))
    busy_s = report.total("seconds")
    frames = report.total("frames")
    if frames and busy_s:
        metadata["frames"] = int(frames)
        metadata["fps"] = round(frames / busy_s, 1)
        metadata["fps by clip"] = dg.MetadataValue.md(
            sparkline([clip["frames"] / clip["seconds"] for clip in report.clips if clip["seconds"] > 0])
        )
    elif report.clips:
        metadata["seconds by clip"] = dg.MetadataValue.md(sparkline([clip["seconds"] for clip in report.clips]))
    metadata["dagster/row_count"] = len(day)  # of clips, where the asset holds one object a clip
    if (name := _ROWS.get(report.stage)) is not None:
        metadata["dagster/row_count"] = sum(int(clip.get(name, 0)) for clip in day)
        metadata[f"{name} by clip"] = dg.MetadataValue.md(sparkline([float(clip.get(name, 0)) for clip in day]))
    if (prefix := _URI.get(report.stage)) is not None:
        store = platform.restricted if prefix in ("raw", "frames") else platform.cold
        metadata["dagster/uri"] = f"{store.url}/{prefix}/"
    return metadata
