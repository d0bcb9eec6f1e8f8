"""Anonymisation: faces, plates, persons and fixed zones hidden in a clip, proven, or refused.

Belongs here: finding over time (`scan`, `linking`), hiding on YUV planes (`regions`, `hiding`), writing
(`encoding`, `h264`, `mp4`), proof (`proof`, `certificate`) and the whole clip (`clip`, `worker`).
Does not belong here: what a camera's policy is, where clips live, what the ledger says.

Everything fails closed: either `anonymise_clip` returns a certificate and the destination exists, or it raises
`AnonymisationFailed` and the destination does not.
"""

from __future__ import annotations

from cv_platform.vision.anonymise.certificate import Certificate
from cv_platform.vision.anonymise.failures import AnonymisationFailed
from cv_platform.vision.anonymise.policy import AnonymisePolicy

__all__ = ["AnonymisationFailed", "AnonymisePolicy", "Certificate"]
