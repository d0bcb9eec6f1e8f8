"""A whole clip, end to end, on bright squares: what is hidden, what is kept, and every way to fail closed."""

from __future__ import annotations

import errno
import shutil
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from cv_platform.vision.anonymise import AnonymisationFailed, AnonymisePolicy, Certificate
from cv_platform.vision.anonymise import clip as clip_module
from cv_platform.vision.anonymise.audio import add_audio
from cv_platform.vision.anonymise.certificate import sha256_of
from cv_platform.vision.anonymise.clip import anonymise_clip
from cv_platform.vision.anonymise.mp4 import IDENTITY_MATRIX, Mp4Writer
from cv_platform.vision.anonymise.regions import HidingPlan
from cv_platform.vision.anonymise.source import FrameReader, Geometry
from cv_platform.vision.video.limits import ClipLimits
from cv_platform_tests.vision.anonymise.scripted import (
    BrightSquares,
    Everywhere,
    Failing,
    UprightSquares,
    Where,
    read_pictures,
    write_squares,
)


def steady(number: int) -> list[tuple[float, float, int]]:
    return [(40, 30, 24)]


def crossing(number: int) -> list[tuple[float, float, int]]:
    return [(10 + 3 * number, 30, 20), (120 - 3 * number, 70, 20)]


def visiting(number: int) -> list[tuple[float, float, int]]:
    return [(60, 40, 24)] if 13 <= number < 19 else []


def fast(number: int) -> list[tuple[float, float, int]]:
    return [(20 + 40 * abs((number / 8) % 2 - 1) * 2, 40, 16)]


def run(source: Path, destination: Path, **policy: Any) -> Certificate:
    return anonymise_clip(
        source,
        destination,
        policy=AnonymisePolicy(**policy),
        detector=BrightSquares(),
        verifier=BrightSquares(version="other"),
    )


@pytest.mark.parametrize("method", ["solid", "mosaic", "blur"])
@pytest.mark.parametrize("where", [steady, crossing, visiting, fast])
def test_no_square_is_left(tmp_path: Path, where: Where, method: str) -> None:
    source = write_squares(tmp_path / "in.mp4", where)
    certificate = run(source, tmp_path / "out.mp4", method=method)
    _, before = read_pictures(source)
    _, after = read_pictures(tmp_path / "out.mp4")
    assert len(after) == len(before) == certificate.frames
    for number, picture in enumerate(after):
        for left, top, side in where(number):
            x, y = round(left), round(top)
            was, now = (p[y : y + side, x : x + side].astype(int) for p in (before[number], picture))
            if method == "solid":
                assert now.max() < 60, number
            else:
                # a square with sharp edges becomes something that differs from it
                assert np.abs(now - was).mean() > 4 or now.std() > 2, number
    assert certificate.worst_coverage >= 0.95
    assert certificate.tracks >= 1


def test_nothing_is_hidden_where_nothing_is(tmp_path: Path) -> None:
    source = write_squares(tmp_path / "in.mp4", visiting)
    run(source, tmp_path / "out.mp4", surgical=False)
    _, before = read_pictures(source)
    _, after = read_pictures(tmp_path / "out.mp4")
    for number in (*range(8), *range(26, 40)):
        assert np.abs(before[number].astype(int) - after[number]).mean() < 4, number
    # far from the square nothing is hidden while it is there either
    assert np.abs(before[15][:, 110:].astype(int) - after[15][:, 110:]).mean() < 4


def test_the_work_files_are_gone_and_the_certificate_names_both_files(tmp_path: Path) -> None:
    source = write_squares(tmp_path / "in.mp4", steady)
    certificate = run(source, tmp_path / "out.mp4")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]
    assert (certificate.input_sha256, certificate.input_bytes) == sha256_of(source)
    assert (certificate.output_sha256, certificate.output_bytes) == sha256_of(tmp_path / "out.mp4")
    assert Certificate.from_json(certificate.to_json()) == certificate
    assert str(tmp_path) not in certificate.to_json()


def test_times_are_kept_where_the_rate_varies(tmp_path: Path) -> None:
    times = [0, 40, 90, 210, 220, 300, 1000, 1033, 1500, 1510, 1600, 2000, 2750, 2800, 2810, 2900]
    source = write_squares(tmp_path / "in.mkv", steady, frames=len(times), times=times)
    run(source, tmp_path / "out.mp4")
    assert read_pictures(tmp_path / "out.mp4")[0] == pytest.approx([t / 1000 for t in times], abs=1e-6)


@pytest.mark.parametrize("interval_ms", [20, 80])
def test_what_lasts_so_many_seconds_is_counted_in_frames_of_the_true_rate(tmp_path: Path, interval_ms: int) -> None:
    """The container declares 25 frames a second; there are twice as many, or half."""
    source = write_squares(
        tmp_path / "in.mkv", visiting, fps=25, times=[interval_ms * n for n in range(40)], options={"bf": "0"}
    )
    plans: list[HidingPlan] = []
    anonymise_clip(
        source, tmp_path / "out.mp4", policy=AnonymisePolicy(), detector=BrightSquares(), verifier=None,
        on_plan=plans.append,
    )  # fmt: skip
    assert plans[0].geometry.frame_rate == 1000 / interval_ms


def test_time_spent_on_the_frames_is_not_the_decoders(tmp_path: Path) -> None:
    """A long clip takes long to look at; that is no reason to refuse it."""
    source = write_squares(tmp_path / "in.mp4", steady, frames=12)
    limits = ClipLimits(decode_timeout_s=0.4)
    frames = 0
    for _ in FrameReader(source, limits=limits, should_stop=lambda: False):
        time.sleep(0.1)
        frames += 1
    assert frames == 12


def test_a_late_start_is_kept(tmp_path: Path) -> None:
    times = [500 + 50 * n for n in range(20)]
    source = write_squares(tmp_path / "in.mkv", steady, frames=20, times=times)
    run(source, tmp_path / "out.mp4")
    assert read_pictures(tmp_path / "out.mp4")[0] == pytest.approx([t / 1000 for t in times], abs=1e-6)


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotation_is_kept(tmp_path: Path, rotation: int) -> None:
    source = write_squares(tmp_path / "in.mp4", lambda n: [(4, 4, 16)], rotation=rotation)
    run(source, tmp_path / "out.mp4")
    with av.open(str(source)) as a, av.open(str(tmp_path / "out.mp4")) as b:
        before, after = next(a.decode(video=0)), next(b.decode(video=0))
        assert isinstance(before, av.VideoFrame)
        assert isinstance(after, av.VideoFrame)
        assert before.rotation == after.rotation != 0
        assert after.to_ndarray(format="bgr24")[4:20, 4:20].max() < 60


@pytest.mark.parametrize("rotation", [0, 90])
@pytest.mark.parametrize(("aspect", "size"), [(Fraction(2), (80, 120)), (Fraction(1, 2), (160, 60))])
def test_what_is_stored_squeezed_is_looked_at_as_it_is_shown(
    tmp_path: Path, aspect: Fraction, size: tuple[int, int], rotation: int
) -> None:
    """Anamorphic recorders store half the columns or lines: a detector must see faces, not squeezed ones."""
    source = tmp_path / "in.mp4"
    shape = size[0] * 24 // 160, size[1] * 24 // 120
    places = [(20.0, 20.0), (20.0 + shape[0] - 12, 20.0 + shape[1] - 12)]
    write_squares(source, lambda n: [(x, y, 12) for x, y in places], size=size, aspect=aspect, rotation=rotation)
    certificate = anonymise_clip(
        source, tmp_path / "out.mp4", policy=AnonymisePolicy(), detector=UprightSquares(),
        verifier=UprightSquares(version="other"),
    )  # fmt: skip
    assert certificate.faces > 0
    assert (
        max(int(p[20 : 20 + shape[1], 20 : 20 + shape[0]].max()) for p in read_pictures(tmp_path / "out.mp4")[1]) < 60
    )
    with av.open(str(tmp_path / "out.mp4")) as clip:
        assert clip.streams.video[0].sample_aspect_ratio == aspect


def test_a_zone_is_hidden_in_every_frame(tmp_path: Path) -> None:
    source = write_squares(tmp_path / "in.mp4", lambda n: [])
    zone = ((0.5, 0.0), (1.0, 0.0), (1.0, 0.5), (0.5, 0.5))
    certificate = run(source, tmp_path / "out.mp4", zones=(zone,))
    for picture in read_pictures(tmp_path / "out.mp4")[1]:
        assert picture[2:56, 84:156].max() < 20
        assert picture[70:, :].mean() > 30
    assert certificate.frames_touched == certificate.frames


def test_sound_and_metadata_are_dropped(tmp_path: Path) -> None:
    source = write_squares(
        tmp_path / "in.mp4", steady, sound=True, metadata={"location": "+52.5-013.4/", "title": "secret title"}
    )
    run(source, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as clip:
        assert [s.type for s in clip.streams] == ["video"]
        assert not {k for k in clip.metadata if k not in ("major_brand", "minor_version", "compatible_brands")}
    content = (tmp_path / "out.mp4").read_bytes()
    assert b"secret" not in content
    assert b"x264" not in content
    assert b"Lavf" not in content


def test_sound_is_kept_where_the_policy_says_so(tmp_path: Path) -> None:
    source = write_squares(tmp_path / "in.mp4", steady, sound=True, metadata={"title": "secret title"})
    run(source, tmp_path / "out.mp4", audio="keep")
    with av.open(str(tmp_path / "out.mp4")) as clip:
        assert sorted(s.type for s in clip.streams) == ["audio", "video"]
        assert sum(1 for _ in clip.decode(video=0)) == 40
    assert b"secret" not in (tmp_path / "out.mp4").read_bytes()


@pytest.mark.parametrize(
    "changes",
    [
        {"rotation": 90},
        {"aspect": Fraction(4, 3)},
        {"times": [500 + 50 * n for n in range(40)]},
        {"options": {"crf": "18", "bf": "2", "x264-params": "keyint=10:min-keyint=10:scenecut=0"}, "where": visiting},
    ],
)
def test_what_is_published_with_sound_is_what_was_checked(
    tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Size, rotation, times and copied groups outlive the muxing of the sound, and that file is decoded and checked."""
    checked: list[str] = []
    check = clip_module.check_output

    def watch(path: Path, *args: Any, **kwargs: Any) -> None:
        check(path, *args, **kwargs)
        checked.append(sha256_of(path)[0])

    monkeypatch.setattr(clip_module, "check_output", watch)
    changes = dict(changes)
    source = write_squares(tmp_path / "in.mp4", changes.pop("where", steady), sound=True, **changes)
    with_sound = run(source, tmp_path / "out.mp4", audio="keep")
    assert checked[-1] == with_sound.output_sha256 == sha256_of(tmp_path / "out.mp4")[0]
    without = run(source, tmp_path / "silent.mp4")
    assert (with_sound.gops_copied, with_sound.gops_encoded) == (without.gops_copied, without.gops_encoded)
    for a, b in zip(read_pictures(tmp_path / "out.mp4"), read_pictures(tmp_path / "silent.mp4"), strict=True):
        np.testing.assert_allclose(np.array(a), np.array(b), atol=1e-6)
    with av.open(str(tmp_path / "out.mp4")) as a, av.open(str(tmp_path / "silent.mp4")) as b:
        assert a.streams.video[0].sample_aspect_ratio == b.streams.video[0].sample_aspect_ratio
        assert next(a.decode(video=0)).rotation == next(b.decode(video=0)).rotation


def test_hiding_undone_while_the_sound_is_added_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_squares(tmp_path / "in.mp4", steady, sound=True)
    add = clip_module.add_audio
    monkeypatch.setattr(clip_module, "add_audio", lambda video, *rest: add(source, *rest))
    failed = fails(source, tmp_path / "out.mp4", policy=AnonymisePolicy(audio="keep"))
    assert failed.reason_code == "proof_failed"


def test_a_full_disk_while_the_sound_is_added(tmp_path: Path) -> None:
    source = write_squares(tmp_path / "in.mp4", steady, sound=True)
    full = tmp_path / "full.mp4"
    full.symlink_to("/dev/full")
    with av.open(str(source)) as clip:
        timescale = clip.streams.video[0].time_base.denominator  # type: ignore[union-attr]
    geometry = Geometry(160, 120, 0, IDENTITY_MATRIX, timescale, timescale // 20, None, (2, 2, 2, False), True)
    with pytest.raises(AnonymisationFailed) as caught:
        add_audio(source, source, full, geometry)
    assert caught.value.reason_code == "disk_full"


@pytest.mark.parametrize("pix_fmt", ["yuv422p", "yuv444p", "yuvj420p", "yuv420p10le"])
def test_other_pixel_formats_become_what_every_browser_plays(tmp_path: Path, pix_fmt: str) -> None:
    source = write_squares(tmp_path / "in.mkv", steady, pix_fmt=pix_fmt)
    run(source, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as clip:
        context = clip.streams.video[0].codec_context
        assert context.pix_fmt == ("yuvj420p" if pix_fmt == "yuvj420p" else "yuv420p")
    assert max(p[30:54, 40:64].max() for p in read_pictures(tmp_path / "out.mp4")[1]) < 60


def test_a_change_of_resolution_is_scaled_to_the_first_size(tmp_path: Path) -> None:
    mpeg: dict[str, Any] = {"codec": "mpeg2video", "fps": 25, "time_base": Fraction(1, 25), "options": {"b": "2000000"}}
    small = write_squares(tmp_path / "a.ts", steady, frames=20, **mpeg)
    large = write_squares(
        tmp_path / "b.ts", lambda n: [(80, 60, 48)], frames=20, size=(320, 240), times=range(25, 45), **mpeg
    )
    joined = tmp_path / "in.ts"
    joined.write_bytes(small.read_bytes() + large.read_bytes())
    certificate = run(joined, tmp_path / "out.mp4")
    pictures = read_pictures(tmp_path / "out.mp4")[1]
    assert {p.shape for p in pictures} == {(120, 160, 3)}
    assert certificate.resized_frames > 0
    assert max(p[30:54, 40:64].max() for p in pictures) < 60


# --- failing closed ---


def fails(source: Path, destination: Path, **changes: Any) -> AnonymisationFailed:
    destination.write_bytes(b"an older one")
    arguments: dict[str, Any] = {
        "policy": AnonymisePolicy(), "detector": BrightSquares(), "verifier": BrightSquares(version="other"), **changes
    }  # fmt: skip
    with pytest.raises(AnonymisationFailed) as caught:
        anonymise_clip(source, destination, **arguments)
    assert not destination.exists()
    assert sorted(p.name for p in destination.parent.iterdir() if p != source) == []
    assert str(source.parent) not in str(caught.value)
    return caught.value


def test_what_only_the_verifier_sees_is_hidden_too(tmp_path: Path) -> None:
    source = write_squares(tmp_path / "in.mp4", steady)
    certificate = anonymise_clip(
        source, tmp_path / "out.mp4", policy=AnonymisePolicy(), detector=BrightSquares(blind=True),
        verifier=BrightSquares(version="other"),
    )  # fmt: skip
    assert 1 <= certificate.rounds <= 2
    assert max(p[30:54, 40:64].max() for p in read_pictures(tmp_path / "out.mp4")[1]) < 60


def test_a_face_that_stays_uncovered_is_never_published(tmp_path: Path) -> None:
    source = write_squares(tmp_path / "in.mp4", steady)
    failed = fails(source, tmp_path / "out.mp4", detector=BrightSquares(blind=True), verifier=Everywhere())
    assert failed.reason_code == "uncovered"


def test_no_round_left_means_uncovered(tmp_path: Path) -> None:
    source = write_squares(tmp_path / "in.mp4", steady)
    policy = AnonymisePolicy(max_rounds=0)
    failed = fails(source, tmp_path / "out.mp4", detector=BrightSquares(blind=True), policy=policy)
    assert failed.reason_code == "uncovered"


def test_a_detector_that_fails_stops_the_clip_and_tells_nothing(tmp_path: Path) -> None:
    source = write_squares(tmp_path / "in.mp4", steady)
    for changes in ({"detector": Failing()}, {"verifier": Failing()}):
        failed = fails(source, tmp_path / "out.mp4", **changes)
        assert failed.reason_code == "detector_failed"
        assert "secret" not in failed.message


def test_a_full_disk_in_mid_encode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_squares(tmp_path / "in.mp4", steady)
    add, calls = Mp4Writer.add, 0

    def full(self: Mp4Writer, *args: Any, **kwargs: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > 10:
            raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path))
        add(self, *args, **kwargs)

    monkeypatch.setattr(Mp4Writer, "add", full)
    failed = fails(source, tmp_path / "out.mp4")
    assert failed.reason_code == "disk_full"
    assert failed.retryable


def test_an_input_replaced_meanwhile_is_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_squares(tmp_path / "in.mp4", steady)
    other = write_squares(tmp_path / "other.mp4", crossing)
    check = clip_module.check_output

    def replace(*args: Any, **kwargs: Any) -> None:
        check(*args, **kwargs)
        shutil.move(other, source)

    monkeypatch.setattr(clip_module, "check_output", replace)
    assert fails(source, tmp_path / "out.mp4").reason_code == "input_changed"


def test_an_input_replaced_between_the_passes_is_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_squares(tmp_path / "in.mp4", steady)
    other = write_squares(tmp_path / "other.mp4", crossing, fps=10)
    scan = clip_module.scan

    def replace(*args: Any, **kwargs: Any) -> Any:
        found = scan(*args, **kwargs)
        shutil.move(other, source)
        return found

    monkeypatch.setattr(clip_module, "scan", replace)
    assert fails(source, tmp_path / "out.mp4").reason_code in ("unstable_decode", "input_changed")


def test_being_asked_to_stop(tmp_path: Path) -> None:
    source = write_squares(tmp_path / "in.mp4", steady)
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 15

    assert fails(source, tmp_path / "out.mp4", should_stop=stop).reason_code == "stopped"


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (ClipLimits(max_frames=10), "too_many_frames"),
        (ClipLimits(max_pixels=100 * 100), "too_many_pixels"),
        (ClipLimits(max_duration_s=0.5), "too_long"),
        (ClipLimits(max_bytes=1000), "too_large"),
    ],
)
def test_limits(tmp_path: Path, limits: ClipLimits, reason: str) -> None:
    source = write_squares(tmp_path / "in.mp4", steady)
    assert fails(source, tmp_path / "out.mp4", policy=AnonymisePolicy(limits=limits)).reason_code == reason


@pytest.mark.parametrize("turned", [range(1), range(10, 20)])
def test_an_orientation_that_changes_is_refused(tmp_path: Path, turned: range) -> None:
    """Display orientation SEI on some pictures only: in the orientation of the first, faces in others lie on a side."""
    source = tmp_path / "in.mp4"
    quarter_turn = bytes([6, 47, 3, 0x08, 0x00, 0x09, 0x80])
    with av.open(str(write_squares(tmp_path / "plain.mp4", steady))) as clip, av.open(str(source), "w") as out:
        stream = clip.streams.video[0]
        target = out.add_stream_from_template(stream)
        for number, packet in enumerate(p for p in clip.demux(stream) if p.size):
            sei = len(quarter_turn).to_bytes(4, "big") + quarter_turn if number in turned else b""
            made = av.Packet(sei + bytes(packet))
            made.pts, made.dts, made.time_base = packet.pts, packet.dts, packet.time_base
            made.is_keyframe, made.stream = packet.is_keyframe, target
            out.mux(made)
    (tmp_path / "plain.mp4").unlink()
    failed = fails(source, tmp_path / "out.mp4")
    assert failed.reason_code == "damaged"
    assert "orientation" in failed.message


def test_what_is_no_video(tmp_path: Path) -> None:
    source = tmp_path / "in.mp4"
    source.write_bytes(bytes(range(256)) * 20)
    assert fails(source, tmp_path / "out.mp4").reason_code == "not_a_video"
