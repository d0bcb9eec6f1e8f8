"""What published clips' certificates say, read back from the store."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from cv_platform.pipeline.outputs import CERTIFICATE_SUFFIX, is_as_written
from cv_platform.pipeline.platform import Platform
from cv_platform.pipeline.versions import may_check_itself
from cv_platform.storage.ledger.published import published_clips
from cv_platform.storage.objects import ObjectMissing


@dataclass(frozen=True)
class CertificateCheck:
    """Published clips of a day against their certificates."""

    published: int
    without: int
    worst_coverage: float
    lowest_verified_share: float


def check_certificates(platform: Platform, day: date) -> CertificateCheck:
    """Read the certificate beside each published clip: it must be there, as it was written, and prove what it names."""
    from cv_platform.vision.anonymise.certificate import Certificate

    published = without = 0
    worst = lowest = 1.0
    for clip in published_clips(platform.database, day):
        published += 1
        try:
            text = platform.cold.get_bytes(clip.stable_key + CERTIFICATE_SUFFIX)
            found = Certificate.from_json(text.decode())
            if (
                found.output_sha256 != clip.sha256
                or found.shortcomings(may_check_itself=may_check_itself(platform.settings))
                or not is_as_written(text, clip.certificate_sha256)
            ):
                raise ValueError("the certificate is another clip's, or proves nothing, or was changed")
        except (ObjectMissing, ValueError):
            without += 1
            continue
        worst = min(worst, found.worst_coverage)
        lowest = min(lowest, found.verified_share)
    return CertificateCheck(published, without, worst, lowest)
