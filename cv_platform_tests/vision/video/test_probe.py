from __future__ import annotations

from fractions import Fraction

import pytest

from cv_platform.vision.video.limits import ClipLimits, ClipRejected
from cv_platform.vision.video.probe import ClipFacts, probe_clip
from cv_platform_tests.vision.video.clips import rotate_by_header, write_clip

QUARTERS = [i * 250 for i in range(8)]


def test_the_facts_of_an_mp4(tmp_path) -> None:
    facts = probe_clip(write_clip(tmp_path / "clip.mp4", QUARTERS))
    assert (facts.container, facts.codec, facts.width, facts.height) == ("mov", "h264", 64, 48)
    assert (facts.frame_count, facts.rotation, facts.has_audio) == (8, 0, False)
    assert facts.duration_s == pytest.approx(2.0, abs=0.25)
    assert facts.frame_rate is not None
    assert facts.size_bytes == (tmp_path / "clip.mp4").stat().st_size


@pytest.mark.parametrize(
    ("name", "codec", "container", "seen_as"),
    [
        ("clip.mkv", "libx264", "matroska", ("matroska", "h264")),
        ("clip.avi", "mpeg4", "avi", ("avi", "mpeg4")),
        ("clip.ts", "libx264", "mpegts", ("mpegts", "h264")),
        ("clip.flv", "libx264", "flv", ("flv", "h264")),
        ("no_suffix", "libx264", "mp4", ("mov", "h264")),
        ("lies.txt", "libx264", "matroska", ("matroska", "h264")),
    ],
)
def test_containers_are_known_by_content_not_by_name(tmp_path, name, codec, container, seen_as) -> None:
    path = write_clip(tmp_path / name, [i * 40 for i in range(30)], codec=codec, container=container)
    facts = probe_clip(path)
    assert (facts.container, facts.codec) == seen_as


def test_facts_survive_a_journey_as_plain_values(tmp_path) -> None:
    facts = probe_clip(write_clip(tmp_path / "clip.mp4", QUARTERS))
    assert ClipFacts.from_dict(facts.as_dict()) == facts
    assert isinstance(ClipFacts.from_dict(facts.as_dict()).time_base, Fraction)


@pytest.mark.parametrize(("clockwise", "counter_clockwise"), [(90, 270), (180, 180), (270, 90)])
def test_a_stored_rotation_is_told(tmp_path, clockwise, counter_clockwise) -> None:
    clip = rotate_by_header(write_clip(tmp_path / "clip.mp4", QUARTERS), clockwise)
    assert probe_clip(clip).rotation == counter_clockwise


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        (ClipLimits(max_bytes=100), "too_large"),
        (ClipLimits(max_duration_s=1.5), "too_long"),
        (ClipLimits(max_pixels=64 * 48 - 1), "too_many_pixels"),
        (ClipLimits(min_side_px=49), "too_small"),
        (ClipLimits(max_frames=7), "too_many_frames"),
    ],
)
def test_a_header_over_a_limit_is_refused(tmp_path, limits, code) -> None:
    clip = write_clip(tmp_path / "Jane Doe at the door.mp4", QUARTERS)
    with pytest.raises(ClipRejected) as refused:
        probe_clip(clip, limits=limits)
    assert refused.value.reason_code == code


PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{victim}\n#EXT-X-ENDLIST\n"
CONCAT = "ffconcat version 1.0\nfile '{victim}'\n"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty_file"),
        (b"\0" * 5000, "not_a_video"),
        (b"hello, this is a letter\n" * 50, "not_a_video"),
        (PLAYLIST, "not_a_video"),
        (CONCAT, "not_a_video"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 500, "not_a_video"),
    ],
)
def test_what_is_no_clip_is_refused(tmp_path, content, code) -> None:
    """Playlists above all: FFmpeg would open the files and addresses that they name."""
    if isinstance(content, str):
        victim = write_clip(tmp_path / "victim.mp4", QUARTERS)
        content = content.format(victim=victim).encode()
    path = tmp_path / "Jane Doe.mp4"
    path.write_bytes(content)
    with pytest.raises(ClipRejected) as refused:
        probe_clip(path)
    assert refused.value.reason_code == code
    assert "Jane" not in repr(refused.value)
    assert refused.value.__cause__ is None or "Jane" not in repr(refused.value.__cause__)


def test_a_clip_cut_off_is_refused(tmp_path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", QUARTERS)
    content = clip.read_bytes()
    clip.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(ClipRejected) as refused:
        probe_clip(clip)
    assert refused.value.reason_code == "truncated"


def test_sound_alone_is_refused(tmp_path) -> None:
    import av
    import numpy as np

    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=48000)
        for i in range(10):
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            samples.sample_rate, samples.pts = 48000, i * 1024
            out.mux(stream.encode(samples))
        out.mux(stream.encode(None))
    with pytest.raises(ClipRejected) as refused:
        probe_clip(path)
    assert refused.value.reason_code == "no_video"


def test_a_codec_that_is_not_there_is_refused(tmp_path) -> None:
    clip = write_clip(tmp_path / "clip.mkv", QUARTERS, container="matroska")
    content = clip.read_bytes()
    assert content.count(b"V_MPEG4/ISO/AVC") == 1
    clip.write_bytes(content.replace(b"V_MPEG4/ISO/AVC", b"V_MPEG9/ISO/XYZ"))
    with pytest.raises(ClipRejected) as refused:
        probe_clip(clip)
    assert refused.value.reason_code == "codec_missing"


def test_a_missing_file_is_the_callers_error_not_the_clips(tmp_path) -> None:
    with pytest.raises(FileNotFoundError):
        probe_clip(tmp_path / "nowhere.mp4")
