"""Surgical output: copied groups are the source's bit by bit, the others are hidden, and doubt means a full encode."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext

from cv_platform.vision.anonymise import AnonymisePolicy, Certificate, h264
from cv_platform.vision.anonymise.clip import anonymise_clip
from cv_platform.vision.anonymise.verification import extra_content
from cv_platform_tests.vision.anonymise.scripted import BrightSquares, read_pictures, write_squares

KEYINT = 25
FRAMES = 200


def visitor(number: int) -> list[tuple[float, float, int]]:
    return [(60 + (number - 85), 40, 24)] if 85 <= number < 95 else []


def make(path: Path, x264: str = "", **changes: Any) -> Path:
    params = f"keyint={KEYINT}:min-keyint={KEYINT}:scenecut=0" + (":" + x264 if x264 else "")
    options = {"crf": "18", "preset": "veryfast", "x264-params": params}
    arguments: dict[str, Any] = {"frames": FRAMES, "fps": 25, "time_base": Fraction(1, 12800), "options": options}
    visit = changes.pop("visit", visitor)
    return write_squares(path, visit, **{**arguments, **changes})


def run(source: Path, destination: Path, **policy: Any) -> Certificate:
    return anonymise_clip(
        source, destination, policy=AnonymisePolicy(**policy), detector=BrightSquares(),
        verifier=BrightSquares(version="other"),
    )  # fmt: skip


def slices(path: Path) -> dict[int, list[bytes]]:
    """The VCL NAL units of each picture, by its time in microseconds."""
    found = {}
    with av.open(str(path)) as clip:
        stream = clip.streams.video[0]
        config = h264.AvcConfig.parse(bytes(stream.codec_context.extradata or b""))
        for packet in clip.demux(stream):
            if packet.size:
                assert packet.pts is not None
                nals = h264.split_lengths(bytes(packet), config.length_size)
                when = round(packet.pts * packet.time_base * 1_000_000)
                found[when] = [n for n in nals if h264.nal_type(n) in h264.VCL]
    return found


@pytest.mark.parametrize(
    "x264", ["", "bframes=0", "b-pyramid=none", "bframes=0:no-8x8dct=1:no-cabac=1:weightp=0", "no-8x8dct=1"]
)
def test_clean_groups_are_copied_and_the_rest_is_hidden(tmp_path: Path, x264: str) -> None:
    source = make(tmp_path / "in.mp4", x264)
    certificate = run(source, tmp_path / "out.mp4")
    assert certificate.gops_copied >= 5
    assert certificate.gops_encoded >= 1
    assert certificate.gops_copied + certificate.gops_encoded == FRAMES // KEYINT
    times_before, before = read_pictures(source)
    times_after, after = read_pictures(tmp_path / "out.mp4")
    assert times_after == times_before
    identical = [bool(np.array_equal(a, b)) for a, b in zip(before, after, strict=True)]
    assert sum(identical) >= certificate.gops_copied * KEYINT
    old, new = slices(source), slices(tmp_path / "out.mp4")
    assert old.keys() == new.keys()
    copied = sum(old[when] == new[when] for when in old)
    assert copied == certificate.gops_copied * KEYINT
    for number in range(FRAMES):
        for left, top, side in visitor(number):
            assert after[number][top : top + side, left : left + side].max() < 60
    assert extra_content(tmp_path / "out.mp4", keep_audio=False) == []


def test_every_seek_point_decodes_to_the_same_picture(tmp_path: Path) -> None:
    source = make(tmp_path / "in.mp4")
    run(source, tmp_path / "out.mp4")
    pictures = read_pictures(tmp_path / "out.mp4")[1]
    with av.open(str(tmp_path / "out.mp4")) as clip:
        stream = clip.streams.video[0]
        assert stream.time_base is not None
        for number in range(0, FRAMES, 9):
            clip.seek(round(Fraction(number, 25) / stream.time_base), stream=stream)
            for frame in clip.decode(stream):
                assert frame.time is not None
                if round(frame.time * 25) == number:
                    assert np.array_equal(frame.to_ndarray(format="bgr24"), pictures[number])
                    break
            else:
                raise AssertionError(number)


def crop_away(path: Path, cropped: Path, pixels: int) -> Path:
    """The same pictures, the right-hand `pixels` columns of them outside the cropping window."""
    with av.open(str(path)) as clip, av.open(str(cropped), "w") as out:
        stream = clip.streams.video[0]
        target = out.add_stream_from_template(stream)
        rewrite = BitStreamFilterContext(f"h264_metadata=crop_right={pixels}", stream, target)
        for packet in clip.demux(stream):
            for rewritten in rewrite.filter(packet if packet.size else None):
                rewritten.stream = target
                out.mux(rewritten)
    return cropped


def test_what_a_cropping_window_leaves_out_is_not_published(tmp_path: Path) -> None:
    """No detector sees it, and a player that ignores the window shows it: nothing of such a clip may be copied."""
    full = make(tmp_path / "full.mp4", visit=lambda number: [(120.0, 40.0, 24)])
    source = crop_away(full, tmp_path / "in.mp4", 64)
    assert max(int(picture.max()) for picture in read_pictures(source)[1]) < 150, "the square is to lie outside"
    assert run(source, tmp_path / "out.mp4").gops_copied == 0
    shown = crop_away(tmp_path / "out.mp4", tmp_path / "shown.mp4", 0)
    assert max(int(picture.max()) for picture in read_pictures(shown)[1]) < 150


def plant_sei(path: Path, planted: Path, text: bytes) -> Path:
    """The same clip with user data in every sample."""
    body = bytes(16) + text
    sei = bytes([6, 5, len(body)]) + body + b"\x80"
    with av.open(str(path)) as clip, av.open(str(planted), "w") as out:
        stream = clip.streams.video[0]
        target = out.add_stream_from_template(stream)
        for packet in clip.demux(stream):
            if packet.size:
                made = av.Packet(len(sei).to_bytes(4, "big") + sei + bytes(packet))
                made.pts, made.dts, made.time_base = packet.pts, packet.dts, packet.time_base
                made.is_keyframe, made.stream = packet.is_keyframe, target
                out.mux(made)
    return planted


def test_planted_coordinates_are_gone_from_copied_groups(tmp_path: Path) -> None:
    source = plant_sei(make(tmp_path / "plain.mp4"), tmp_path / "in.mp4", b"GPS 52.5200N 13.4050E")
    assert b"GPS 52" in source.read_bytes()
    certificate = run(source, tmp_path / "out.mp4")
    assert certificate.gops_copied >= 5
    assert b"GPS 52" not in (tmp_path / "out.mp4").read_bytes()


@pytest.mark.parametrize(
    ("changes", "x264"),
    [
        ({"codec": "mpeg4", "options": {"b": "2000000"}, "time_base": Fraction(1, 25)}, ""),
        ({"pix_fmt": "yuv422p"}, ""),
        ({}, "open-gop=1:bframes=3"),
        ({}, "interlaced=1"),
    ],
)
def test_what_cannot_be_cut_is_encoded_whole(tmp_path: Path, changes: dict[str, Any], x264: str) -> None:
    certificate = run(make(tmp_path / "in.mp4", x264, **changes), tmp_path / "out.mp4")
    assert certificate.gops_copied == 0 or "open-gop" in x264
    for number, picture in enumerate(read_pictures(tmp_path / "out.mp4")[1]):
        for left, top, side in visitor(number):
            assert picture[top : top + side, left : left + side].max() < 60


def test_without_a_second_detector_nothing_is_copied(tmp_path: Path) -> None:
    certificate = anonymise_clip(
        make(tmp_path / "in.mp4"), tmp_path / "out.mp4", policy=AnonymisePolicy(), detector=BrightSquares(),
        verifier=None,
    )  # fmt: skip
    assert certificate.gops_copied == 0


def test_a_faint_sighting_is_enough_not_to_copy(tmp_path: Path) -> None:
    certificate = anonymise_clip(
        make(tmp_path / "in.mp4"), tmp_path / "out.mp4", policy=AnonymisePolicy(), detector=BrightSquares(score=0.15),
        verifier=BrightSquares(blind=True),
    )  # fmt: skip
    assert certificate.tracks == 0  # too faint to be hidden, but not copied unseen
    assert certificate.gops_encoded >= 1
