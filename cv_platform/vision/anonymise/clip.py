"""A whole clip: scanned, linked, proven, hidden, encoded, checked, and only then put in place."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import av.error
import numpy as np

from cv_platform.vision.anonymise.audio import add_audio
from cv_platform.vision.anonymise.certificate import Certificate, sha256_of
from cv_platform.vision.anonymise.failures import NO_SPACE, AnonymisationFailed
from cv_platform.vision.anonymise.gops import clean_gops, map_gops
from cv_platform.vision.anonymise.hiding import Hider, zone_pixels
from cv_platform.vision.anonymise.linking import Track, link
from cv_platform.vision.anonymise.output import WrittenClip, check_output, write_clip
from cv_platform.vision.anonymise.policy import AnonymisePolicy
from cv_platform.vision.anonymise.proof import Coverage, check_coverage, frames_to_verify
from cv_platform.vision.anonymise.regions import HidingPlan
from cv_platform.vision.anonymise.scan import scan, verify_frames
from cv_platform.vision.anonymise.sightings import FrameSightings, Scan, overlap
from cv_platform.vision.anonymise.source import FrameReader, Geometry, with_measured_rate
from cv_platform.vision.anonymise.surgical import NotSurgicalError, write_surgically
from cv_platform.vision.anonymise.verification import extra_content
from cv_platform.vision.classes import CLASS_NAMES
from cv_platform.vision.detectors.base import Detector
from cv_platform.vision.video.limits import ClipRejected

Progress = Callable[[str, int, int | None], None]
"""Called with the stage ("scan", "prove", "write", "check"), frames done, and frames in all where known."""

_VERIFY_REACH_S = 0.25
_STRAY_SHARE = 0.01
"""Of the frames verified: more than so many that are bare after the last round mean that the faces are not followed."""
_KNOWN_IOU = 0.3


def anonymise_clip(
    source: Path,
    destination: Path,
    *,
    policy: AnonymisePolicy,
    detector: Detector,
    verifier: Detector | None,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    on_plan: Callable[[HidingPlan], None] | None = None,
) -> Certificate:
    """Hide what the policy names in every frame of a clip, prove it, and write an H.264 MP4.

    Timing, rotation and colour are the source's; nothing but pictures (and, by policy, sound) is kept. All work files
    lie beside the destination and are gone afterwards; the destination appears whole or not at all.

    Args:
        source: the clip. Untrusted ones belong into `worker.anonymise_clip_sandboxed`, which calls this.
        destination: where the MP4 goes; replaced where it exists, and only by a proven clip.
        policy: see `AnonymisePolicy`.
        detector: finds what is to be hidden; should report down to `policy.low_threshold`.
        verifier: a second, different detector for the proof; None leaves the clip unproven: the certificate says so.
        progress: see `Progress`.
        should_stop: asked at every packet; once it says True the work ends with reason `stopped`.
        on_plan: given what is about to be hidden, once that is proven; for benchmarks.

    Returns:
        The certificate.

    Raises:
        AnonymisationFailed: for any reason why the clip may not be published. The destination is not there then.
    """
    said = progress or (lambda stage, done, total: None)
    try:
        return _anonymise(source, destination, policy, detector, verifier, said, should_stop, on_plan)
    except BaseException as error:
        destination.unlink(missing_ok=True)
        failure = _as_failure(error)
        if failure is error:
            raise
        raise failure from None


def _as_failure(error: BaseException) -> BaseException:
    """What the caller is told: reasons of ours, without paths; bugs and interrupts as they are."""
    if isinstance(error, ClipRejected):
        return AnonymisationFailed.from_rejection(error)
    if isinstance(error, MemoryError):
        return AnonymisationFailed("out_of_memory")
    if isinstance(error, OSError | av.error.FFmpegError) and getattr(error, "errno", None) in NO_SPACE:
        return AnonymisationFailed("disk_full")
    if isinstance(error, OSError) and not isinstance(error, av.error.FFmpegError):
        return AnonymisationFailed("encode_failed", f"a file could not be read or written: {type(error).__name__}")
    if isinstance(error, av.error.FFmpegError):
        return AnonymisationFailed("encode_failed", f"the output could not be written: {type(error).__name__}")
    return error


def _anonymise(
    source: Path,
    destination: Path,
    policy: AnonymisePolicy,
    detector: Detector,
    verifier: Detector | None,
    said: Progress,
    should_stop: Callable[[], bool],
    on_plan: Callable[[HidingPlan], None] | None,
) -> Certificate:
    seconds: dict[str, float] = {}
    unknown = sorted(set(policy.classes) - set(detector.classes))
    if unknown:
        names = ", ".join(CLASS_NAMES[c] for c in unknown)
        raise AnonymisationFailed("detector_failed", f"the detector cannot find what is to be hidden: {names}")
    destination.unlink(missing_ok=True)
    with _timed(seconds, "digest"):
        input_sha256, input_bytes = sha256_of(source)

    def reader(threads: int = 1) -> FrameReader:
        return FrameReader(source, limits=policy.limits, should_stop=should_stop, threads=threads)

    with _timed(seconds, "scan"):
        first_pass = reader()
        found = scan(
            first_pass,
            policy=policy,
            detector=detector,
            verifier=verifier,
            progress=lambda done: said("scan", done, first_pass.declared_frames or None),
        )
    assert first_pass.geometry is not None
    geometry = with_measured_rate(first_pass.geometry, found.ticks)
    with _timed(seconds, "prove"):
        tracks, plan, coverage, rounds = _prove(reader, found, geometry, policy, verifier, said)
    if on_plan is not None:
        on_plan(plan)
    with tempfile.TemporaryDirectory(prefix=".anonymise-", dir=destination.parent) as folder:
        video, written = _write_and_check(
            source,
            Path(folder),
            reader,
            first_pass,
            found,
            plan,
            Hider(geometry, policy, clip=input_sha256),
            policy,
            verifier is not None,
            said,
            should_stop,
            seconds,
        )
        with _timed(seconds, "digest"):
            if sha256_of(source) != (input_sha256, input_bytes):
                raise AnonymisationFailed("input_changed")
            output_sha256, output_bytes = sha256_of(video)
        os.replace(video, destination)
    return _certificate(
        (input_sha256, input_bytes), (output_sha256, output_bytes), policy, detector, verifier, first_pass, found,
        tracks, plan, coverage, rounds, written, seconds,
    )  # fmt: skip


def _write_and_check(
    source: Path,
    folder: Path,
    reader: Callable[[], FrameReader],
    first_pass: FrameReader,
    found: Scan,
    plan: HidingPlan,
    hider: Hider,
    policy: AnonymisePolicy,
    verified: bool,
    said: Progress,
    should_stop: Callable[[], bool],
    seconds: dict[str, float],
) -> tuple[Path, WrittenClip]:
    """Write the clip surgically where that can be done without doubt, else whole, with its sound where that is kept.

    What is returned is the very file that was decoded and checked: nothing is written after the check.
    """
    geometry = plan.geometry

    def writing(done: int) -> None:
        said("write", done, found.frames)

    def finished(video: Path, written: WrittenClip) -> Path:
        if policy.audio == "keep":
            with _timed(seconds, "sound"):
                video = add_audio(video, source, folder / "with_audio.mp4", geometry)
        with _timed(seconds, "check"):
            check_output(
                video, written, found, timescale=geometry.timescale, crf=policy.crf, zones=hider.zones(),
                source=reader() if written.copied else None, limits=policy.limits, should_stop=should_stop,
                progress=lambda done: said("check", done, found.frames),
            )  # fmt: skip
            left = extra_content(video, keep_audio=policy.audio == "keep")
            if left:
                raise AnonymisationFailed("proof_failed", left[0])
        return video

    if policy.surgical and not policy.zones:
        with _timed(seconds, "map"):
            groups = map_gops(source, first_pass, found, policy.limits)
        clean = [False]
        if groups is not None:
            clean = clean_gops(groups, found, plan.touched(), timescale=geometry.timescale, verified=verified)
        if groups is not None and any(clean):
            video = folder / "surgical.mp4"
            try:
                with _timed(seconds, "write"):
                    written = write_surgically(
                        source, video, groups=groups, clean=clean, plan=plan, hider=hider, found=found,
                        policy=policy, should_stop=should_stop, progress=writing,
                    )  # fmt: skip
                return finished(video, written), written
            except NotSurgicalError:
                pass
            except AnonymisationFailed as failed:
                if failed.reason_code != "proof_failed":
                    raise
            for doubtful in folder.iterdir():
                doubtful.unlink()
    video = folder / "video.mp4"
    with _timed(seconds, "write"):
        written = write_clip(reader(), video, plan=plan, hider=hider, found=found, policy=policy, progress=writing)
    return finished(video, written), written


def _prove(
    reader: Callable[[], FrameReader],
    found: Scan,
    geometry: Geometry,
    policy: AnonymisePolicy,
    verifier: Detector | None,
    said: Progress,
) -> tuple[list[Track], HidingPlan, Coverage, int]:
    """Link, plan, hold the plan against the verifier; add what is bare and look again, at most `max_rounds` times."""
    zones = zone_pixels(policy.zones, geometry) if policy.zones else None
    added: dict[int, list[FrameSightings]] = {}
    reach = max(2, round(_VERIFY_REACH_S * geometry.frame_rate))
    for round_number in range(policy.max_rounds + 1):
        said("prove", 0, found.frames)
        sightings = dict(found.detected)
        for frame, extra in added.items():
            sightings[frame] = FrameSightings.join([found.detected.get(frame, FrameSightings.none()), *extra])
        if round_number:
            _add_weak(sightings, found, policy)
        tracks = link(sightings, found.cuts, geometry.frame_rate, policy)
        plan = HidingPlan(tracks, found.cuts, found.frames, geometry, policy, gone=found.gone)
        coverage = check_coverage(plan, found.verified, zones, policy)
        if not coverage.uncovered:
            return tracks, plan, coverage, round_number
        if round_number == policy.max_rounds and len(coverage.uncovered) <= _STRAY_SHARE * len(found.verified):
            # Linking all anew gave a face to another track than before. These few are hidden by themselves: tracks
            # that are only added take no cover away.
            for frame, faces in coverage.uncovered.items():
                tracks = tracks + _pinned(frame, faces)
            plan = HidingPlan(tracks, found.cuts, found.frames, geometry, policy, gone=found.gone)
            coverage = check_coverage(plan, found.verified, zones, policy)
            if not coverage.uncovered:
                return tracks, plan, coverage, round_number
        if round_number == policy.max_rounds or verifier is None:
            break
        for frame, faces in coverage.uncovered.items():
            added.setdefault(frame, []).append(faces)
        wanted = frames_to_verify(coverage.uncovered, found.verified, found.frames, reach)
        seen = verify_frames(
            reader(), wanted, policy=policy, verifier=verifier, progress=lambda done: said("prove", done, found.frames)
        )
        found.verified.update(seen)
    raise AnonymisationFailed(
        "uncovered",
        f"after {policy.max_rounds} more rounds the second detector still finds uncovered faces in "
        f"{len(coverage.uncovered)} of {len(found.verified)} frames; worst coverage {coverage.worst:.0%}",
    )


def _pinned(frame: int, faces: FrameSightings) -> list[Track]:
    tracks = []
    for box, score, class_id in zip(faces.boxes, faces.scores, faces.class_ids, strict=True):
        track = Track(int(class_id))
        track.add(frame, box, float(score))
        tracks.append(track)
    return tracks


def _add_weak(sightings: dict[int, FrameSightings], found: Scan, policy: AnonymisePolicy) -> None:
    """Where the detector alone did not do, let what the verifier saw only faintly continue tracks too.

    Not in the first round: the proof would be held against itself.
    """
    for frame, seen in found.verified.items():
        known = sightings.get(frame, FrameSightings.none())
        weak = seen.chosen(seen.scores < policy.verify_threshold)
        if len(known) and len(weak):
            weak = weak.chosen(overlap(weak.boxes, known.boxes).max(axis=1) < _KNOWN_IOU)
        if len(weak):
            faint = np.full(len(weak), policy.low_threshold, np.float32)
            sightings[frame] = FrameSightings.join([known, FrameSightings(weak.boxes, faint, weak.class_ids)])


def _certificate(
    input_file: tuple[str, int],
    output_file: tuple[str, int],
    policy: AnonymisePolicy,
    detector: Detector,
    verifier: Detector | None,
    reader: FrameReader,
    found: Scan,
    tracks: list[Track],
    plan: HidingPlan,
    coverage: Coverage,
    rounds: int,
    written: WrittenClip,
    seconds: dict[str, float],
) -> Certificate:
    geometry = reader.geometry
    assert geometry is not None
    return Certificate(
        input_sha256=input_file[0],
        input_bytes=input_file[1],
        output_sha256=output_file[0],
        output_bytes=output_file[1],
        detector=detector.version,
        verifier=None if verifier is None else verifier.version,
        policy=policy.describe(),
        width=geometry.width,
        height=geometry.height,
        frames=found.frames,
        duration_s=(found.ticks[-1] - found.ticks[0]) / geometry.timescale,
        faces=sum(len(seen.above(policy.detect_threshold)) for seen in found.detected.values()),
        tracks=len(tracks),
        face_frames=sum(len(dense.boxes) for dense in plan.tracks),
        frames_touched=found.frames if policy.zones else len(plan.touched()),
        frames_detected=len(found.detected),
        frames_verified=len(found.verified),
        verified_share=len(found.verified) / found.frames,
        verified_faces=coverage.faces,
        worst_coverage=coverage.worst,
        rounds=rounds,
        gops_copied=written.gops_copied,
        gops_encoded=written.gops_encoded,
        resized_frames=reader.resized,
        damaged_packets=reader.damaged,
        left_out_frames=reader.left_out,
        seconds={stage: round(value, 3) for stage, value in seconds.items()},
    )


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - started
