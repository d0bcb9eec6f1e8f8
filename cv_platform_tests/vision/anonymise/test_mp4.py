"""The MP4 writer: what another reader finds in the file is what was put in, and nothing else."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from cv_platform.vision.anonymise import h264
from cv_platform.vision.anonymise.mp4 import Mp4Writer, VideoFormat
from cv_platform_tests.vision.anonymise.scripted import read_pictures, write_squares

Samples = list[tuple[list[bytes], int, int, bool]]


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, Samples]:
    """A clip, its avcC, and its samples: NAL units, dts, pts, sync."""
    clip = write_squares(
        tmp_path_factory.mktemp("mp4") / "in.mp4",
        lambda n: [(3 * n, 30, 24)],
        frames=24,
        options={"crf": "20", "bf": "2", "g": "8"},
        times=[100 * n + (n % 3) for n in range(24)],
    )
    with av.open(str(clip)) as container:
        avcc = bytes(container.streams.video[0].codec_context.extradata or b"")
        samples = [
            (h264.split_lengths(bytes(packet), 4), int(packet.dts or 0), int(packet.pts or 0), packet.is_keyframe)
            for packet in container.demux(video=0)
            if packet.size
        ]
    return clip, avcc, samples


def write(path: Path, avcc: bytes, samples: Samples, *, shift: int = 0, **changes: Any) -> Path:
    writer = Mp4Writer(path, VideoFormat(**{"width": 160, "height": 120, "timescale": 16000, **changes}))
    for nals, dts, pts, sync in samples:
        writer.add(nals, dts=dts + shift, pts=pts + shift, sync=sync)
    writer.finish(avcc, last_duration=1600)
    return path


def packets(path: Path) -> list[tuple[bytes, int | None, int | None, bool]]:
    with av.open(str(path)) as container:
        return [(bytes(p), p.dts, p.pts, p.is_keyframe) for p in container.demux(video=0) if p.size]


def boxes(data: bytes) -> list[tuple[str, bytes]]:
    found, at = [], 0
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        found.append((kind.decode("latin1"), data[at + 8 : at + size]))
        at += size
    return found


def test_samples_times_and_pictures_come_back(encoded: tuple[Path, bytes, Samples], tmp_path: Path) -> None:
    clip, avcc, samples = encoded
    path = write(tmp_path / "out.mp4", avcc, samples)
    before, after = packets(clip), packets(path)
    assert [p[0] for p in after] == [p[0] for p in before]
    assert [p[3] for p in after] == [p[3] for p in before]
    lead = samples[0][1] - int(after[0][1] or 0)
    assert [(int(d or 0) + lead, int(p or 0) + lead) for _, d, p, _ in after] == [(s[1], s[2]) for s in samples]
    (_, theirs), (_, ours) = read_pictures(clip), read_pictures(path)
    assert len(ours) == 24
    for a, b in zip(theirs, ours, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_file_begins_with_its_index_and_holds_nothing_of_where_it_comes_from(
    encoded: tuple[Path, bytes, Samples], tmp_path: Path
) -> None:
    _, avcc, samples = encoded
    path = write(tmp_path / "out.mp4", avcc, samples)
    outer = boxes(path.read_bytes())
    assert [kind for kind, _ in outer] == ["ftyp", "moov", "mdat"]
    assert [kind for kind, _ in boxes(outer[1][1])] == ["mvhd", "trak"]
    assert len(outer[2][1]) == sum(4 + len(nal) for nals, *_ in samples for nal in nals)
    assert b"Lavf" not in path.read_bytes().split(b"mdat")[0]
    assert not list(tmp_path.glob("*.samples"))


def test_a_late_start_is_kept(encoded: tuple[Path, bytes, Samples], tmp_path: Path) -> None:
    _, avcc, samples = encoded
    times = [read_pictures(write(tmp_path / f"{s}.mp4", avcc, samples, shift=s))[0] for s in (0, 8000)]
    np.testing.assert_allclose(np.array(times[1]) - times[0], 0.5, atol=1e-3)


@pytest.mark.parametrize("aspect", [None, (4, 3)])
def test_what_the_sample_description_says(
    encoded: tuple[Path, bytes, Samples], tmp_path: Path, aspect: tuple[int, int] | None
) -> None:
    _, avcc, samples = encoded
    quarter_turn = (0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
    path = write(tmp_path / "out.mp4", avcc, samples, aspect=aspect, colour=(9, 16, 9, True), matrix=quarter_turn)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frame = next(container.decode(video=0))
        assert abs(frame.rotation) == 90
        assert (frame.width, frame.height) == (160, 120)
        assert stream.time_base == Fraction(1, 16000)
        assert stream.sample_aspect_ratio in ((Fraction(4, 3),) if aspect else (None, 0, 1))


def test_what_cannot_be_is_refused(encoded: tuple[Path, bytes, Samples], tmp_path: Path) -> None:
    _, avcc, samples = encoded
    path = tmp_path / "out.mp4"
    writer = Mp4Writer(path, VideoFormat(160, 120, 16000))
    with pytest.raises(ValueError, match="at least one"):
        writer.finish(avcc, last_duration=1)
    with pytest.raises(ValueError, match="no NAL unit"):
        writer.add([], dts=0, pts=0, sync=True)
    writer.add(samples[0][0], dts=5, pts=5, sync=True)
    with pytest.raises(ValueError, match="does not follow"):
        writer.add(samples[1][0], dts=5, pts=6, sync=False)
    writer.discard()
    writer.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_not_written_over(encoded: tuple[Path, bytes, Samples], tmp_path: Path) -> None:
    _, avcc, samples = encoded
    path = tmp_path / "out.mp4"
    path.write_bytes(b"another's")
    with pytest.raises(FileExistsError):
        write(path, avcc, samples)
    assert path.read_bytes() == b"another's"
