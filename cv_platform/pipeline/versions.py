"""The version of each stage: code, models and settings in one short string. Another version is other work.

Imports nothing heavy: the sensor computes it on every tick.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

from cv_platform.pipeline.platform import Platform
from cv_platform.settings import Settings
from cv_platform.storage.ledger.model import BLURRED_CLIPS, DECODED_FRAMES, DETECTIONS, RAW_CLIPS, TRACKS
from cv_platform.storage.ledger.revocation import revoked_models
from cv_platform.storage.ledger.versions import choose_models, chosen_models
from cv_platform.vision.models import ModelRefused

# Raised whenever a stage's code gives other results for the same input.
CODE_VERSIONS: Final[dict[str, str]] = {
    RAW_CLIPS: "1",
    DECODED_FRAMES: "1",
    DETECTIONS: "1",
    TRACKS: "1",
    BLURRED_CLIPS: "4",
}


def current_versions(platform: Platform) -> dict[str, str]:
    """The version that each stage would run at now.

    Raises:
        ModelUnavailable, ModelRefused: a model that the settings name cannot be had, or is not the right one.
    """
    settings = platform.settings
    return {
        RAW_CLIPS: _version(RAW_CLIPS, _limits(settings)),
        DECODED_FRAMES: _version(
            DECODED_FRAMES,
            {
                **_limits(settings),
                "fps": settings.frames_fps,
                "long_side": settings.frames_long_side,
                "policy": platform.policy.digest_of("sample"),
                # the default is left out, so that what was decoded before there was a choice stays as it is
                **({} if settings.frames_decoder == "cpu" else {"decoder": settings.frames_decoder}),
            },
        ),
        DETECTIONS: _version(
            DETECTIONS,
            {
                "models": _digests(platform, "detectors"),
                "policy": platform.policy.digest_of("look"),
                # the default is left out, so that what was detected before there was a choice stays as it is
                **({} if settings.inference_backend == "onnx" else {"backend": f"{settings.inference_backend}-2"}),
            },
        ),
        TRACKS: _version(
            TRACKS,
            {
                "tracker": settings.tracker,
                "gap_s": settings.track_gap_s,
                # left out where there are none, so that what was tracked before stays as it is
                **({"parameters": parameters} if (parameters := settings.tracker_arguments) else {}),
            },
        ),
        BLURRED_CLIPS: _version(
            BLURRED_CLIPS,
            {
                **_limits(settings),
                "detector": _digests(platform, "face_detector"),
                "verifier": _digests(platform, "face_verifier"),
                "policy": platform.policy.digest_of("hide", "public_area"),
            },
        ),
    }


def models_for(platform: Platform, choice: str) -> tuple[str, ...]:
    """The models behind the setting `detectors`, `face_detector` or `face_verifier`.

    `auto` is settled once a deployment, when first asked: a model that can be had only later must not send every clip
    back to the start by itself. Name the models in the setting to change them.

    Raises:
        ValueError: an unknown model.
        ModelUnavailable, ModelRefused: as `ModelRegistry.resolve`.
    """
    spec = str(getattr(platform.settings, choice))
    registry = registry_of(platform.settings)
    if spec == "auto":
        spec = chosen_models(platform.database, choice) or choose_models(
            platform.database, choice, "+".join(_first_available(platform, choice))
        )
    return tuple(registry.resolve(spec, choice=choice))


def may_check_itself(settings: Settings) -> bool:
    """Whether the model that finds faces may be the one that proves it, too.

    Only where nobody chose: `auto` comes to it where no second model can be had, so that a first look at the platform
    shows something published. The certificate names both, and the log says so.
    """
    return settings.face_verifier == "auto"


def registry_of(settings: Settings) -> Any:
    """The model registry that settings describe."""
    from cv_platform.vision.models import ModelRegistry

    return ModelRegistry(cache_dir=settings.model_cache, model_dir=settings.model_dir, fetch=settings.fetch_models)


def _first_available(platform: Platform, choice: str) -> tuple[str, ...]:
    """What `auto` settles on; the verifier is never the model that it checks."""
    registry = registry_of(platform.settings)
    with platform.database.transaction() as connection:
        revoked = set(revoked_models(connection))
    finder = models_for(platform, "face_detector") if choice == "face_verifier" else ()
    for names in registry.choices[choice]:
        usable = not any(_named(registry, name) & revoked for name in names)
        if usable and not set(names) & set(finder) and all(registry.available(name) for name in names):
            return tuple(names)
    return finder or tuple(registry.resolve("auto", choice=choice))


def _digests(platform: Platform, choice: str) -> dict[str, list[str]]:
    registry = registry_of(platform.settings)
    digests = {name: sorted(registry.entry(name).digests) for name in models_for(platform, choice)}
    with platform.database.transaction() as connection:
        revoked = revoked_models(connection)
    for name in digests:
        for model in _named(registry, name) & set(revoked):
            raise ModelRefused(
                f"{model} was revoked ({revoked[model]}); name another model in CV_PLATFORM_{choice.upper()}"
            )
    return digests


def _named(registry: Any, name: str) -> set[str]:
    """How a model of the registry stands in detectors' versions, each accepted file once."""
    return {f"{name}@{digest[:12]}" for digest in registry.entry(name).digests}


def _limits(settings: Settings) -> dict[str, Any]:
    return {
        "bytes": settings.max_clip_bytes,
        "duration_s": settings.max_clip_duration_s,
        "pixels": settings.max_clip_pixels,
    }


def _version(stage: str, parameters: dict[str, Any]) -> str:
    text = json.dumps(parameters, sort_keys=True, default=str)
    return f"{CODE_VERSIONS[stage]}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"
