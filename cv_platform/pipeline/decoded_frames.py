"""decoded_frames: sampled frames of a clip as JPEG in one WebDataset shard, sealed, in the restricted store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING

from cv_platform.pipeline.outputs import upload_sealed
from cv_platform.pipeline.platform import Platform
from cv_platform.pipeline.raw_clips import clip_limits, raw_file
from cv_platform.pipeline.stage import ClaimLost, ClipRefused, Finished
from cv_platform.storage.database import Connection
from cv_platform.storage.ledger.model import DECODED_FRAMES, Claim
from cv_platform.storage.ledger.vault import note_stored

if TYPE_CHECKING:
    from cv_platform.vision.video.sandbox import ExtractionSummary


@dataclass(frozen=True)
class DecodedFrames:
    """Decodes a clip in a process that can be killed.

    Attributes:
        extract: `sandbox.extract_frames`, or what does the same on a GPU.
    """

    version: str
    extract: Callable[..., ExtractionSummary]
    stage: str = DECODED_FRAMES

    def work(self, platform: Platform, claim: Claim, lost: Event) -> Finished:
        """See `ClipStage.work`."""
        from cv_platform.vision.video.limits import ClipRejected
        from cv_platform.vision.video.sandbox import ExtractionStopped

        settings = platform.settings
        sample = platform.policy.rules_for(claim.clip.site_id, claim.clip.camera_id).sample
        with raw_file(platform, claim) as raw:
            shard = raw.path.with_name("frames.tar")
            try:
                summary = self.extract(
                    raw.path,
                    shard,
                    fps=sample.fps or settings.frames_fps,
                    long_side=sample.long_side or settings.frames_long_side,
                    limits=clip_limits(settings),
                    should_stop=lost.is_set,
                )
            except ClipRejected as rejected:
                raise ClipRefused(rejected.reason_code, rejected.message) from None
            except ExtractionStopped:
                raise ClaimLost from None
            output = upload_sealed(platform, claim, "restricted", "frames", shard, kind="frames", suffix=".tar")

        last_s = float(summary.last_pts_s)

        def write(connection: Connection) -> None:
            # The header may claim less than there is; the days that the clip touches follow what was seen.
            connection.execute(
                "UPDATE cv.clips SET duration_s = greatest(duration_s, %s) WHERE clip_id = %s",
                [last_s, claim.clip.clip_id],
            )
            note_stored(connection, claim, output.stored)

        return Finished(
            output_key=output.key,
            output_sha256=summary.shard_sha256,
            store="restricted",
            counts={
                "frames": summary.frames,
                "decoded": summary.decoded,
                "damaged": summary.damaged,
                "bytes": summary.shard_bytes,
                "duration_s": last_s,
            },
            write=write,
        )
