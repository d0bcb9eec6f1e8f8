"""Anonymising clips nobody vouches for, in a process that can be killed.

A crafted clip can crash a decoder, make it loop or eat all memory. So uploads are anonymised in a child process, and a
crash is a verdict on the clip, not the end of the run that asked for it.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from cv_platform.vision.anonymise.certificate import Certificate
from cv_platform.vision.anonymise.failures import REASONS, AnonymisationFailed
from cv_platform.vision.anonymise.policy import AnonymisePolicy, policy_to_json
from cv_platform.vision.confined import ChildOutOfTime, ChildStopped, ChildTakenOver, Ending, confined_child
from cv_platform.vision.video.deadline import SECONDS_A_FRAME

STAGES: Final = ("scan", "prove", "write", "check")


@dataclass(frozen=True)
class DetectorSpec:
    """How the child makes a detector: `factory` is "module:function", `arguments` its keyword arguments (JSON)."""

    factory: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


def anonymise_clip_sandboxed(
    source: Path,
    destination: Path,
    *,
    policy: AnonymisePolicy,
    detector: DetectorSpec,
    verifier: DetectorSpec | None,
    progress: Callable[[str, int, int | None], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    timeout_s: float = 3600.0,
    memory_bytes: int = 8 * 2**30,
) -> Certificate:
    """As `clip.anonymise_clip`, in a child process.

    Args:
        source, destination, policy, progress, should_stop: as there; `should_stop` is asked four times a second, and
            the child is killed once it says True.
        detector, verifier: how the child makes its detectors.
        timeout_s: wall clock for the clip, and SECONDS_A_FRAME more for each frame that a stage is done with: a long
            clip takes long, one that gets stuck is ended.
        memory_bytes: address space of the child.

    Raises:
        AnonymisationFailed: as there; also `decode_timeout`, and `decoder_crashed` where the child died of a crash.
    """
    # the child's work files lie in here, so nothing is left of a killed one
    with tempfile.TemporaryDirectory(
        prefix=".anonymise-", dir=destination.parent, ignore_cleanup_errors=True
    ) as folder:
        video = Path(folder) / "clip.mp4"
        try:
            certificate = _run(
                {
                    "source": os.path.abspath(source),
                    "destination": os.path.abspath(video),
                    "policy": policy_to_json(policy),
                    "detector": asdict(detector),
                    "verifier": None if verifier is None else asdict(verifier),
                    "memory_bytes": memory_bytes,
                    # the clock on the wall ends it, and it does not outlive this process: a backstop
                    "cpu_s": (timeout_s + _longest_s(policy)) * len(os.sched_getaffinity(0)),
                },
                timeout_s,
                policy,
                progress,
                should_stop,
            )
            os.replace(video, destination)
        except BaseException:
            destination.unlink(missing_ok=True)
            raise
    return certificate


def _run(
    request: dict[str, Any],
    timeout_s: float,
    policy: AnonymisePolicy,
    progress: Callable[[str, int, int | None], None] | None,
    should_stop: Callable[[], bool],
) -> Certificate:
    done = dict.fromkeys(STAGES, 0)
    worker = confined_child(
        "cv_platform.vision.anonymise.worker", request, timeout_s=timeout_s, should_stop=should_stop
    )
    try:
        with worker as child:
            for event in child.events():
                match event["event"]:
                    case "progress":
                        stage, frames = event["stage"], event["done"]
                        if stage not in done or not isinstance(frames, int):
                            raise ChildTakenOver
                        if done[stage] < frames <= policy.limits.max_frames:
                            child.allow((frames - done[stage]) * SECONDS_A_FRAME)
                            done[stage] = frames
                        if progress is not None:
                            progress(stage, event["done"], event["total"])
                    case "failed":
                        code = event["code"] if event["code"] in REASONS else "decoder_crashed"
                        raise AnonymisationFailed(code, event["message"])
                    case "bug":
                        raise AnonymisationFailed("worker_failed", f"the work stopped with {event['error']}")
                    case "done":
                        return _as_asked(event["certificate"], policy, verified=request["verifier"] is not None)
            raise _verdict(*child.ending())
    except ChildOutOfTime:
        raise AnonymisationFailed(
            "decode_timeout", f"it took more than the {timeout_s:,.0f} s allowed, and {SECONDS_A_FRAME} s a frame"
        ) from None
    except ChildStopped:
        raise AnonymisationFailed("stopped") from None
    except ChildTakenOver:
        raise AnonymisationFailed("decoder_crashed") from None


def _as_asked(text: str, policy: AnonymisePolicy, *, verified: bool) -> Certificate:
    """The child's certificate, if it is of what was asked for: a clip may have taken the child over."""
    try:
        certificate = Certificate.from_json(text)
    except ValueError:
        raise ChildTakenOver from None
    asked = json.loads(json.dumps(policy.describe()))
    if certificate.policy != asked or (certificate.verifier is not None) != verified:
        raise ChildTakenOver
    return certificate


def _longest_s(policy: AnonymisePolicy) -> float:
    return len(STAGES) * policy.limits.max_frames * SECONDS_A_FRAME


def _verdict(ending: Ending, code: int) -> AnonymisationFailed:
    """Why a child ended without a word."""
    if ending == "out_of_time":
        return AnonymisationFailed("decode_timeout")
    if ending == "crashed":
        return AnonymisationFailed("decoder_crashed")
    return AnonymisationFailed("worker_failed", f"the worker process ended with exit code {code} and no result")
