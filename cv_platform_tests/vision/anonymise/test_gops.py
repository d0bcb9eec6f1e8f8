"""Each condition under which a group of pictures may be copied, broken by a clip of its own: then it is not copied."""

from __future__ import annotations

import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

from cv_platform.vision.anonymise import AnonymisePolicy, Certificate, h264
from cv_platform.vision.anonymise.clip import anonymise_clip
from cv_platform.vision.anonymise.gops import map_gops
from cv_platform.vision.anonymise.scan import scan
from cv_platform.vision.anonymise.source import FrameReader
from cv_platform_tests.vision.anonymise.scripted import BrightSquares, Where, read_pictures, write_squares

FRAMES = 100
FPS = 25


def visitor(number: int) -> list[tuple[float, float, int]]:
    return [(60, 40, 24)] if 55 <= number < 65 else []


def nobody(number: int) -> list[tuple[float, float, int]]:
    return []


def make(path: Path, where: Where = visitor, *, keyint: int = 25, x264: str = "", **changes: Any) -> Path:
    params = f"keyint={keyint}:min-keyint={keyint}:scenecut=0:bframes=0{x264}"
    options = {"crf": "18", "preset": "veryfast", "x264-params": params}
    arguments: dict[str, Any] = {"frames": FRAMES, "fps": FPS, "time_base": Fraction(1, 12800), "options": options}
    return write_squares(path, where, **{**arguments, **changes})


def run(source: Path, *, detector: Any = None, verifier: Any = None, **policy: Any) -> Certificate:
    return anonymise_clip(
        source, source.with_name("out.mp4"), policy=AnonymisePolicy(**policy), detector=detector or BrightSquares(),
        verifier=verifier or BrightSquares(version="other"),
    )  # fmt: skip


def with_body(data: bytes, path: list[bytes], change: Callable[[bytes], bytes]) -> bytes:
    """The file with the body of one box changed, and the lengths of all boxes around it. Its index must come last."""
    starts, at = [], 0
    for kind in path:
        at = data.index(kind, at) - 4
        starts.append(at)
        at += 8
    (length,) = struct.unpack(">I", data[starts[-1] : starts[-1] + 4])
    old = data[starts[-1] + 8 : starts[-1] + length]
    new = change(old)
    out = bytearray(data)
    out[starts[-1] + 8 : starts[-1] + length] = new
    for start in starts:
        (length,) = struct.unpack(">I", out[start : start + 4])
        out[start : start + 4] = struct.pack(">I", length + len(new) - len(old))
    return bytes(out)


STSD = [b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd"]


def flagged_without_idr(path: Path) -> Path:
    """The clip, if it has pictures that count as key frames and are no IDR: nothing may be cut there."""
    with av.open(str(path)) as clip:
        keys = [bytes(packet) for packet in clip.demux(video=0) if packet.is_keyframe]
    kinds = [{h264.nal_type(nal) for nal in h264.split_lengths(key, 4)} for key in keys]
    assert len(kinds) > 1
    assert sum(h264.IDR in kind for kind in kinds) == 1
    return path


def described_twice(path: Path) -> Path:
    """Two sample descriptions, the second of them not used."""
    path.write_bytes(with_body(path.read_bytes(), STSD, lambda body: body[:4] + struct.pack(">I", 2) + body[8:] * 2))
    return path


def with_two_under_one_id(path: Path) -> Path:
    """Two picture parameter sets of the same id, the later one being what the slices need."""

    def double(avcc: bytes) -> bytes:
        config = h264.AvcConfig.parse(avcc)
        other = bytearray(config.pps[0])
        other[-1] ^= 0x40
        return h264.AvcConfig(
            config.profile, config.compatibility, config.level, config.length_size, config.sps,
            (bytes(other), *config.pps),
        ).dump()  # fmt: skip

    path.write_bytes(with_body(path.read_bytes(), [*STSD, b"avc1", b"avcC"], double))
    return path


def joined(folder: Path, second_x264: str) -> Path:
    """One encode behind another in one track, the second's parameter sets before each of its IDRs."""
    parts = [make(folder / "a.mp4"), make(folder / "b.mp4", nobody, x264=second_x264)]
    with av.open(str(folder / "in.mp4"), "w") as out:
        target: Any = None
        shift = 0
        for number, part in enumerate(parts):
            with av.open(str(part)) as clip:
                stream = clip.streams.video[0]
                target = target or out.add_stream_from_template(stream)
                config = h264.AvcConfig.parse(bytes(stream.codec_context.extradata or b""))
                sets = b"".join(struct.pack(">I", len(n)) + n for n in (*config.sps, *config.pps))
                for packet in clip.demux(stream):
                    if packet.size:
                        made = av.Packet((sets if number and packet.is_keyframe else b"") + bytes(packet))
                        made.pts, made.dts = int(packet.pts or 0) + shift, int(packet.dts or 0) + shift
                        made.time_base, made.is_keyframe, made.stream = packet.time_base, packet.is_keyframe, target
                        out.mux(made)
                shift += FRAMES * 12800 // FPS
    return folder / "in.mp4"


CLIPS: dict[str, tuple[Callable[[Path], Path], int]] = {
    "as it should be": (lambda folder: make(folder / "in.mp4"), 3),
    "key frames that are no IDR": (lambda f: flagged_without_idr(make(f / "in.mp4", x264=":intra-refresh=1")), 0),
    "open groups": (lambda f: flagged_without_idr(make(f / "in.mp4", x264=":open-gop=1:bframes=2")), 0),
    "two sample descriptions": (lambda folder: described_twice(make(folder / "in.mp4")), 0),
    "two parameter sets under one id": (lambda folder: with_two_under_one_id(make(folder / "in.mp4")), 0),
    "the same parameter sets again": (lambda folder: joined(folder, ""), 7),
    "two generations of parameter sets": (lambda folder: joined(folder, ":no-cabac=1"), 0),
}
"""Each clip, and how many of its groups may be copied."""


@pytest.mark.parametrize("name", CLIPS)
def test_how_a_clip_is_made(tmp_path: Path, name: str) -> None:
    make_clip, copied = CLIPS[name]
    source = make_clip(tmp_path)
    certificate = run(source)
    assert certificate.gops_copied == copied
    before, after = read_pictures(source), read_pictures(tmp_path / "out.mp4")
    assert after[0] == pytest.approx(before[0], abs=1e-4)
    for number in range(FRAMES):
        for left, top, side in visitor(number):
            assert after[1][number][int(top) : int(top) + side, int(left) : int(left) + side].max() < 60


@pytest.mark.parametrize("x264", [":intra-refresh=1", ":open-gop=1:bframes=2"])
def test_a_group_starts_at_an_idr_whatever_the_container_flags(tmp_path: Path, x264: str) -> None:
    """The check of the output would notice a wrong cut, too; here nothing is cut in the first place."""
    source = flagged_without_idr(make(tmp_path / "in.mp4", x264=x264))
    policy = AnonymisePolicy()
    reader = FrameReader(source, limits=policy.limits, should_stop=lambda: False)
    found = scan(reader, policy=policy, detector=BrightSquares(), verifier=None)
    groups = map_gops(source, reader, found, policy.limits)
    assert groups is None or [(gop.first, gop.last) for gop in groups.gops] == [(0, FRAMES - 1)]


def test_the_first_detector_sees_every_frame_of_what_is_copied(tmp_path: Path) -> None:
    """A face that flashes up between two regular looks, where the second detector does not look either."""
    flash = 63
    source = make(tmp_path / "in.mp4", lambda number: [(60, 40, 8)] if number == flash else [])
    certificate = run(source, verifier=BrightSquares(blind=True))
    assert certificate.gops_copied == 3
    assert read_pictures(tmp_path / "out.mp4")[1][flash][40:48, 60:68].max() < 60


def test_what_is_seen_in_a_groups_first_frame_is_not_held_against_the_group_before(tmp_path: Path) -> None:
    source = make(tmp_path / "in.mp4", lambda number: [(60, 40, 24)] if number >= 75 else [])
    certificate = run(source, detector=BrightSquares(score=0.15), verifier=BrightSquares(blind=True))
    assert certificate.gops_copied == 3


def test_what_the_second_detector_sees_faintly_is_not_copied(tmp_path: Path) -> None:
    source = make(tmp_path / "in.mp4")
    certificate = run(source, detector=BrightSquares(blind=True), verifier=BrightSquares(score=0.35))
    assert certificate.tracks == 0
    assert certificate.gops_copied == 3


@pytest.mark.parametrize(
    ("keyint", "interval_ms", "declared", "copied"),
    [(25, 40, 25, 4), (50, 40, 25, 0), (25, 20, 50, 4), (25, 80, 50, 0), (50, 10, 25, 2)],
)
def test_the_second_detector_looks_once_a_second_by_the_frames_own_times(
    tmp_path: Path, keyint: int, interval_ms: int, declared: int, copied: int
) -> None:
    """With no look but that on each IDR, groups of more than a second are not copied, whatever rate is declared."""
    source = make(
        tmp_path / "in.mkv", nobody, keyint=keyint, fps=declared, times=[interval_ms * n for n in range(FRAMES)],
        time_base=Fraction(1, 1000),
    )  # fmt: skip
    assert run(source, verify_rate_hz=0).gops_copied == copied
