"""Every stage by its name, with the parts that the settings name or a test hands in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cv_platform.pipeline.platform import Platform
from cv_platform.pipeline.stage import ClipStage, StageReport, run_stage
from cv_platform.pipeline.versions import current_versions, may_check_itself, models_for, registry_of
from cv_platform.storage.ledger.model import BLURRED_CLIPS, DECODED_FRAMES, DETECTIONS, RAW_CLIPS, TRACKS, Clip, Scope
from cv_platform.storage.ledger.scopes import anything_open

if TYPE_CHECKING:
    from cv_platform.vision.anonymise import Certificate
    from cv_platform.vision.detectors.base import Detector
    from cv_platform.vision.tracking.base import Tracker
    from cv_platform.vision.video.sandbox import ExtractionSummary

__all__ = ["current_versions", "run_named_stage"]


def run_named_stage(platform: Platform, stage: str, scope: Scope) -> StageReport:
    """Run a stage on all that waits at it in the scope. Loads no model where nothing waits.

    Raises:
        ValueError: for an unknown stage.
        ModelUnavailable, ModelRefused: a model cannot be had or must not be used; no clip was touched.
    """
    if not anything_open(platform.database, stage, scope):
        return StageReport(stage)
    version = current_versions(platform)[stage]
    if stage == TRACKS:
        from cv_platform.pipeline.tracks import Tracks

        return Tracks(version, tracker_maker(platform)).run(platform, scope)
    return run_stage(platform, _clip_stage(platform, stage, version), scope)


def tracker_maker(platform: Platform) -> Callable[[], Tracker]:
    """Makes a fresh tracker each time.

    Raises:
        ValueError: the settings give the tracker a parameter that it does not have, or a value that it does not allow.
    """
    if platform.parts.tracker is not None:
        return platform.parts.tracker
    from cv_platform.vision.tracking import make_tracker

    name, parameters = platform.settings.tracker, platform.settings.tracker_arguments
    make_tracker(name, **parameters)  # what is wrong with the settings shows before a clip is claimed
    return lambda: make_tracker(name, **parameters)


def detector_of(platform: Platform) -> Detector:
    """The detector of the `detections` stage, loaded and warm."""
    if platform.parts.detector is not None:
        return platform.parts.detector()
    from cv_platform.vision.detectors.build import make_detector

    return make_detector(
        models_for(platform, "detectors"),
        models=registry_of(platform.settings),
        threads=platform.settings.inference_threads,
        backend=platform.settings.inference_backend,
    )


def _clip_stage(platform: Platform, stage: str, version: str) -> ClipStage:
    if stage == RAW_CLIPS:
        from cv_platform.pipeline.raw_clips import RawClips

        return RawClips(version)
    if stage == DECODED_FRAMES:
        from cv_platform.pipeline.decoded_frames import DecodedFrames

        return DecodedFrames(version, _extractor(platform))
    if stage == DETECTIONS:
        from cv_platform.pipeline.detections import Detections

        return Detections(version, detector_of(platform))
    if stage == BLURRED_CLIPS:
        from cv_platform.pipeline.blurred_clips import BlurredClips

        return BlurredClips(version, platform.parts.anonymise or _anonymiser(platform))
    raise ValueError(
        f"stage {stage!r} is unknown; allowed: raw_clips, decoded_frames, detections, blurred_clips, tracks"
    )


def _extractor(platform: Platform) -> Callable[..., ExtractionSummary]:
    if platform.settings.frames_decoder == "auto":
        from cv_platform.vision.video.gpu_sandbox import GpuExtractor

        return GpuExtractor().extract_frames
    from cv_platform.vision.video.sandbox import extract_frames

    return extract_frames


def _anonymiser(platform: Platform) -> Callable[[Clip, Path, Path, Callable[[], bool]], Certificate]:
    """Anonymises a clip in a process of its own, by its camera's policy."""
    from cv_platform.pipeline.rules import anonymise_policy
    from cv_platform.vision.anonymise.certificate import different
    from cv_platform.vision.anonymise.policy import detector_arguments, verifier_arguments
    from cv_platform.vision.anonymise.sandbox import DetectorSpec, anonymise_clip_sandboxed
    from cv_platform.vision.models import ModelRefused

    settings = platform.settings
    finding, proving = (models_for(platform, choice) for choice in ("face_detector", "face_verifier"))
    if not different(finding, proving) and may_check_itself(settings):
        platform.log.warning(
            "no second model for faces can be had: %s checks itself, and misses what it missed; put yunet or ultraface"
            " into CV_PLATFORM_MODEL_DIR and name it in CV_PLATFORM_FACE_VERIFIER",
            "+".join(finding),
        )
    elif not different(finding, proving):
        raise ModelRefused(
            f"CV_PLATFORM_FACE_VERIFIER comes to {'+'.join(proving)}, which finds the faces too;"
            " a proof takes a second, different model: name one"
        )

    def spec(choice: str, arguments: dict[str, Any]) -> DetectorSpec:
        return DetectorSpec(
            "cv_platform.vision.detectors.spec:detector_from_files",
            {
                "names": list(models_for(platform, choice)),
                "cache_dir": str(settings.model_cache.resolve()),
                "model_dir": None if settings.model_dir is None else str(settings.model_dir.resolve()),
                "threads": settings.inference_threads,
                **arguments,
            },
        )

    def anonymise(clip: Clip, source: Path, destination: Path, should_stop: Callable[[], bool]) -> Certificate:
        policy = anonymise_policy(platform.policy.rules_for(clip.site_id, clip.camera_id), settings)
        return anonymise_clip_sandboxed(
            source,
            destination,
            policy=policy,
            detector=spec("face_detector", detector_arguments(policy)),
            verifier=spec("face_verifier", verifier_arguments(policy)),
            should_stop=should_stop,
            timeout_s=settings.decode_timeout_s,
        )

    return anonymise
