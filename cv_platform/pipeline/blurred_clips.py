"""blurred_clips: faces hidden, proven, and published in the same transaction. Fails closed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from cv_platform.pipeline.outputs import upload_sealed
from cv_platform.pipeline.platform import Platform
from cv_platform.pipeline.publishing import publish_due
from cv_platform.pipeline.raw_clips import InputChanged, raw_file
from cv_platform.pipeline.stage import ClaimLost, ClipRefused, Finished
from cv_platform.pipeline.versions import may_check_itself
from cv_platform.storage.database import Connection
from cv_platform.storage.ledger.model import BLURRED_CLIPS, Claim, Clip, Scope, StaleClaim
from cv_platform.storage.ledger.revocation import ModelRevoked, models_in, require_unrevoked
from cv_platform.storage.ledger.vault import note_stored
from cv_platform.storage.ledger.withdrawal import discard_objects

if TYPE_CHECKING:
    from cv_platform.vision.anonymise import Certificate

Anonymise = Callable[[Clip, Path, Path, Callable[[], bool]], "Certificate"]
"""Clip, source, destination, should_stop: makes the destination, or raises AnonymisationFailed."""


@dataclass
class BlurredClips:
    """Anonymises a clip and publishes it."""

    version: str
    anonymise: Anonymise
    stage: str = BLURRED_CLIPS

    def work(self, platform: Platform, claim: Claim, lost: Event) -> Finished:
        """See `ClipStage.work`."""
        from cv_platform.vision.anonymise import AnonymisationFailed

        clip = claim.clip
        with raw_file(platform, claim) as raw:
            blurred = raw.path.with_name("blurred.mp4")
            try:
                certificate = self.anonymise(clip, raw.path, blurred, lost.is_set)
            except AnonymisationFailed as failed:
                if lost.is_set():
                    raise ClaimLost from None
                if failed.retryable:
                    raise
                raise ClipRefused(failed.reason_code, failed.message) from None
            if certificate.input_sha256 != raw.sha256:
                raise InputChanged("the anonymiser read other bytes than were registered")
            _require_proof(certificate, blurred, may_check_itself=may_check_itself(platform.settings))
            certificate_text = certificate.to_json()
            output = upload_sealed(
                platform,
                claim,
                "cold",
                "staging",
                blurred,
                kind="blurred",
                suffix=".mp4",
                certificate=certificate_text,
            )
            size_bytes = blurred.stat().st_size
            models = models_in(certificate.detector, certificate.verifier)
            certificate_sha256 = hashlib.sha256(certificate_text.encode()).hexdigest()

        def write(connection: Connection) -> None:
            # Certified is published: one transaction says both, or neither.
            try:
                require_unrevoked(connection, models)
            except ModelRevoked as revoked:
                raise StaleClaim(str(revoked)) from None
            previous = connection.execute(
                "SELECT published_from FROM cv.clips WHERE clip_id = %s FOR UPDATE", [clip.clip_id]
            ).fetchone()
            discard_objects(connection, "cold", [previous[0] if previous else None])
            connection.execute(
                "UPDATE cv.clips SET state = 'published', published_from = %s, published_sha256 = %s,"
                " published_bytes = %s, published_at = now(), copied_sha256 = NULL, published_models = %s,"
                " certificate_sha256 = %s WHERE clip_id = %s",
                [output.key, certificate.output_sha256, size_bytes, models, certificate_sha256, clip.clip_id],
            )
            note_stored(connection, claim, output.stored)

        return Finished(
            output_key=output.key,
            output_sha256=certificate.output_sha256,
            counts={
                "frames": certificate.frames,
                "faces": certificate.faces,
                "tracks": certificate.tracks,
                "frames_touched": certificate.frames_touched,
                "verified_share": certificate.verified_share,
                "worst_coverage": certificate.worst_coverage,
                "bytes": size_bytes,
            },
            write=write,
            after_commit=lambda: self._publish(platform, claim),
        )

    def _publish(self, platform: Platform, claim: Claim) -> None:
        publish_due(platform, Scope(claim.clip.capture_date, (claim.clip.site_id,)))


def _require_proof(certificate: Certificate, blurred: Path, *, may_check_itself: bool) -> None:
    """The last look before publication, whoever made the certificate: a child process that a clip took over may have.

    Raises ClipRefused where it proves nothing, or not of this file.
    """
    from cv_platform.vision.anonymise.certificate import sha256_of

    if sha256_of(blurred) != (certificate.output_sha256, certificate.output_bytes):
        raise ClipRefused("proof_failed", "the certificate is another file's")
    for shortcoming in certificate.shortcomings(may_check_itself=may_check_itself):
        raise ClipRefused("proof_failed", shortcoming)
