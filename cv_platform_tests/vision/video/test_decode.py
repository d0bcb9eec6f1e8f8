from __future__ import annotations

import itertools
from bisect import bisect_left
from fractions import Fraction

import av.logging
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cv_platform.vision.video.decode import ClipDecoder, SamplingGrid, decode_sampled
from cv_platform.vision.video.limits import ClipLimits, ClipRejected
from cv_platform.vision.video.probe import open_clip
from cv_platform_tests.vision.video.clips import number_of, rotate_by_header, write_clip

UNEVEN = [0, 40, 75, 300, 301, 540, 900, 1000, 1950]


def decoded(path, **options):
    return [(frame.pts_s, number_of(frame.image)) for frame in decode_sampled(path, **options)]


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
def test_every_frame_has_its_exact_time_in_a_clip_of_variable_rate(tmp_path, name) -> None:
    clip = write_clip(tmp_path / name, UNEVEN)
    assert decoded(clip, fps=None) == [(Fraction(ms, 1000), i) for i, ms in enumerate(UNEVEN)]


def test_times_count_from_the_first_frame_wherever_it_lies(tmp_path) -> None:
    clip = write_clip(tmp_path / "clip.mkv", [5000 + ms for ms in UNEVEN])
    assert decoded(clip, fps=None) == [(Fraction(ms, 1000), i) for i, ms in enumerate(UNEVEN)]


def test_sampling_takes_the_first_frame_at_or_after_each_point(tmp_path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", UNEVEN)
    # points 0, 0.5, 1.0, 1.5: frames at 0, 540, 1000, 1950
    assert [number for _, number in decoded(clip, fps=2)] == [0, 5, 7, 8]


def test_a_clip_slower_than_the_sampling_gives_each_frame_once(tmp_path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", [0, 1000, 2000])
    assert decoded(clip, fps=5) == [(Fraction(0), 0), (Fraction(1), 1), (Fraction(2), 2)]


def test_rounded_timestamps_lose_no_frame_at_the_clips_own_rate(tmp_path) -> None:
    clip = write_clip(tmp_path / "clip.mkv", [round(i * 1000 / 30) for i in range(28)])
    assert [number for _, number in decoded(clip, fps=30)] == list(range(28))


def test_samples_are_numbered_from_zero(tmp_path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", UNEVEN)
    assert [frame.index for frame in decode_sampled(clip, fps=2)] == [0, 1, 2, 3]


@settings(deadline=None)  # a loaded machine takes longer
@given(
    fps=st.fractions(min_value=Fraction(1, 10), max_value=60, max_denominator=1001),
    gaps=st.lists(st.fractions(min_value=Fraction(1, 1000), max_value=3, max_denominator=90_000), max_size=60),
)
def test_the_grid_takes_exactly_the_first_frame_after_each_point(fps, gaps) -> None:
    times = [Fraction(0)]
    for gap in gaps:
        times.append(times[-1] + gap)
    grid = SamplingGrid(fps)
    taken = [time for time in times if grid.takes(time)]
    points = [k / fps for k in range(int(times[-1] * fps) + 1)]
    expected = sorted({times[bisect_left(times, point)] for point in points})
    assert taken == expected


@pytest.mark.parametrize("clockwise", [90, 180, 270])
def test_a_stored_rotation_is_applied(tmp_path, clockwise) -> None:
    clip = rotate_by_header(write_clip(tmp_path / "clip.mp4", [0, 40]), clockwise)
    (first, _) = decode_sampled(clip, fps=None)
    assert first.image.shape == ((64, 48, 3) if clockwise != 180 else (48, 64, 3))


def test_a_rotated_picture_is_upright(tmp_path) -> None:
    import av

    upright = np.zeros((96, 64, 3), np.uint8)
    upright[:32] = 200  # bright on top
    stored = np.ascontiguousarray(np.rot90(upright, 1))  # lies on its left side: turn it clockwise to see it upright
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        out.mux(stream.encode(av.VideoFrame.from_ndarray(stored, format="bgr24")))
        out.mux(stream.encode(None))
    (frame,) = decode_sampled(rotate_by_header(path, 90))
    assert frame.image.shape == upright.shape
    assert np.abs(frame.image.astype(int) - upright).mean() < 6


@pytest.mark.parametrize(
    ("long_side", "shape"), [(960, (48, 64, 3)), (64, (48, 64, 3)), (32, (24, 32, 3)), (None, (48, 64, 3))]
)
def test_frames_are_shrunk_never_enlarged(tmp_path, long_side, shape) -> None:
    clip = write_clip(tmp_path / "clip.mp4", [0, 40])
    assert {frame.image.shape for frame in decode_sampled(clip, long_side=long_side)} == {shape}


def two_sizes(tmp_path, second=(128, 96)):
    """A stream whose resolution changes after five frames."""
    first = write_clip(tmp_path / "a.ts", [i * 90 * 40 for i in range(5)], time_base=Fraction(1, 90_000))
    start = 90 * 40 * 5
    pts = [start + i * 90 * 40 for i in range(5)]
    other = write_clip(tmp_path / "b.ts", pts, time_base=Fraction(1, 90_000), size=second, first_level=5)
    path = tmp_path / "changes.ts"
    path.write_bytes(first.read_bytes() + other.read_bytes())
    return path


def test_a_resolution_change_gives_each_frame_its_own_size(tmp_path) -> None:
    frames = list(decode_sampled(two_sizes(tmp_path), fps=None, long_side=80))
    shapes = [frame.image.shape for frame in frames]
    assert set(shapes) == {(48, 64, 3), (60, 80, 3)}
    assert [number_of(frame.image) for frame in frames] == list(range(10))
    assert all(b.pts_s > a.pts_s for a, b in itertools.pairwise(frames))


def test_a_change_to_a_picture_over_the_limit_stops_the_clip(tmp_path) -> None:
    with pytest.raises(ClipRejected) as refused:
        list(decode_sampled(two_sizes(tmp_path), limits=ClipLimits(max_pixels=64 * 48)))
    assert refused.value.reason_code == "too_many_pixels"


def unlimited_header(tmp_path):
    """A live recording: Matroska without length or duration, 60 frames over 2.4 s."""
    return write_clip(tmp_path / "live.mkv", [i * 40 for i in range(60)], options={"live": "1"})


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        (ClipLimits(max_duration_s=2), "too_long"),
        (ClipLimits(max_frames=59), "too_many_frames"),
        (ClipLimits(decode_timeout_s=1e-9), "decode_timeout"),
    ],
)
def test_a_clip_that_turns_out_longer_than_it_says_stops(tmp_path, limits, code) -> None:
    with pytest.raises(ClipRejected) as refused:
        list(decode_sampled(unlimited_header(tmp_path), limits=limits))
    assert refused.value.reason_code == code


def test_a_clip_within_the_same_limits_passes(tmp_path) -> None:
    clip = unlimited_header(tmp_path)
    assert len(decoded(clip, fps=None, limits=ClipLimits(max_duration_s=3, max_frames=60))) == 60


def test_a_clip_that_declares_less_than_it_holds_stops(tmp_path) -> None:
    clip = write_clip(tmp_path / "clip.avi", [i for i in range(60)], time_base=Fraction(1, 25), codec="mpeg4")
    content = bytearray(clip.read_bytes())
    for header, offset in ((b"avih", 8 + 16), (b"strh", 8 + 32)):  # the numbers of frames in the two headers
        at = content.index(header) + offset
        assert int.from_bytes(content[at : at + 4], "little") == 60
        content[at : at + 4] = (5).to_bytes(4, "little")
    clip.write_bytes(content)
    with pytest.raises(ClipRejected) as refused:
        list(decode_sampled(clip, limits=ClipLimits(max_frames=30)))
    assert refused.value.reason_code == "too_many_frames"


def damaged(tmp_path, share):
    """A clip of key frames, of which this share is overwritten with noise."""
    clip = write_clip(tmp_path / "clip.mkv", [i * 40 for i in range(100)], codec="mjpeg", container="matroska")
    content = bytearray(clip.read_bytes())
    starts = [i for i in range(len(content) - 2) if content[i : i + 3] == b"\xff\xd8\xff"]
    assert len(starts) == 100
    for start in starts[10 : 10 + round(share * 100)]:
        end = content.index(b"\xff\xd9", start) + 2
        content[start:end] = b"\0" * (end - start)
    clip.write_bytes(content)
    return clip


def test_a_little_damage_is_survived_and_counted(tmp_path) -> None:
    with open_clip(damaged(tmp_path, 0.05)) as clip:
        decoder = ClipDecoder(clip, fps=None, long_side=None, limits=ClipLimits())
        frames = list(decoder)
    assert len(frames) == 95
    assert decoder.tally.damaged == 5
    assert frames[-1].pts_s == Fraction(99 * 40, 1000)


def test_much_damage_is_refused(tmp_path) -> None:
    with pytest.raises(ClipRejected) as refused:
        list(decode_sampled(damaged(tmp_path, 0.3)))
    assert refused.value.reason_code == "damaged"
    assert "30%" in str(refused.value)


def test_a_clip_whose_samples_are_missing_is_refused(tmp_path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", [i * 40 for i in range(50)])
    content = bytearray(clip.read_bytes())
    at = content.index(b"stco")  # chunk offsets: point them behind the end of the file
    count = int.from_bytes(content[at + 8 : at + 12], "big")
    for i in range(count):
        content[at + 12 + 4 * i : at + 16 + 4 * i] = (2**31).to_bytes(4, "big")
    clip.write_bytes(content)
    with pytest.raises(ClipRejected) as refused:
        list(decode_sampled(clip))
    assert refused.value.reason_code == "truncated"


@pytest.mark.parametrize("options", [{"fps": 0}, {"fps": -1.0}, {"long_side": 0}])
def test_senseless_options_are_refused(tmp_path, options) -> None:
    clip = write_clip(tmp_path / "clip.mp4", [0, 40])
    with pytest.raises(ValueError, match="allowed"):
        list(decode_sampled(clip, **options))


def test_two_readings_are_equal(tmp_path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", UNEVEN)
    first, second = (list(decode_sampled(clip)) for _ in range(2))
    assert [frame.pts_s for frame in first] == [frame.pts_s for frame in second]
    assert all(np.array_equal(a.image, b.image) for a, b in zip(first, second, strict=True))


def test_ffmpegs_messages_go_nowhere() -> None:
    """With a level PyAV takes Python's lock in FFmpeg's threads, and whoever closes a decoder waits for ever."""
    assert av.logging.get_level() is None
