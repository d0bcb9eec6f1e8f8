"""A detector as plain values, so that another process can make it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cv_platform.vision.detectors.base import Detector
from cv_platform.vision.detectors.build import make_detector
from cv_platform.vision.models import ModelRegistry


def detector_from_files(
    *,
    names: Sequence[str],
    cache_dir: str,
    model_dir: str | None,
    threads: int,
    score_threshold: float | None = None,
    long_side: int | None = None,
) -> Detector:
    """Make a detector from models whose files are here already: this process may have no way to fetch them.

    Args and errors: as `build.make_detector`; folders as in `ModelRegistry`.
    """
    models = ModelRegistry(
        cache_dir=Path(cache_dir), model_dir=Path(model_dir) if model_dir is not None else None, fetch=False
    )
    return make_detector(
        list(names), models=models, threads=threads, score_threshold=score_threshold, long_side=long_side
    )
