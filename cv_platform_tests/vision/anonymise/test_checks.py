"""Each check between the scan and the published file, with a clip or a part that only this check stops."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from cv_platform.vision.anonymise import AnonymisationFailed, AnonymisePolicy, Certificate
from cv_platform.vision.anonymise import clip as clip_module
from cv_platform.vision.anonymise import output as output_module
from cv_platform.vision.anonymise.clip import anonymise_clip
from cv_platform.vision.anonymise.gops import map_gops
from cv_platform.vision.anonymise.hiding import planes
from cv_platform.vision.anonymise.output import WrittenClip
from cv_platform.vision.anonymise.scan import scan
from cv_platform.vision.anonymise.sightings import Scan
from cv_platform.vision.anonymise.source import ClipFrame, FrameReader
from cv_platform.vision.classes import CLASS_IDS, FACE
from cv_platform.vision.detections import Detections
from cv_platform.vision.video.limits import DEFAULT_LIMITS
from cv_platform_tests.vision.anonymise.scripted import BrightSquares, Picture, write_squares


def visitor(number: int) -> list[tuple[float, float, int]]:
    return [(60, 40, 24)] if 30 <= number < 40 else []


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Four groups of pictures, one of them with something to hide."""
    params = "keyint=25:min-keyint=25:scenecut=0:bframes=0"
    options = {"crf": "18", "preset": "veryfast", "x264-params": params}
    folder = tmp_path / "given"
    folder.mkdir()
    return write_squares(folder / "in.mp4", visitor, frames=100, fps=25, time_base=Fraction(1, 12800), options=options)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "out.mp4").write_bytes(b"an older one")
    return folder / "out.mp4"


def run(source: Path, out: Path, *, detector: Any = None, verifier: Any = None, **policy: Any) -> Certificate:
    return anonymise_clip(
        source, out, policy=AnonymisePolicy(**policy), detector=detector or BrightSquares(),
        verifier=verifier or BrightSquares(version="other"),
    )  # fmt: skip


def failure(source: Path, out: Path, **changes: Any) -> str:
    with pytest.raises(AnonymisationFailed) as caught:
        run(source, out, **changes)
    assert list(out.parent.iterdir()) == []
    return caught.value.reason_code


def read_again(path: Path) -> FrameReader:
    return FrameReader(path, limits=DEFAULT_LIMITS, should_stop=lambda: False)


# --- what was written is not what was meant ---


def remuxed(path: Path, *, stop: int | None = None, late: int = 0, metadata: dict[str, str] | None = None) -> None:
    """The file with fewer packets, its last one later, or something that is said beside the pictures."""
    other = path.with_suffix(".other.mp4")
    with av.open(str(path)) as given, av.open(str(other), "w") as made:
        stream = made.add_stream_from_template(given.streams.video[0])
        made.metadata.update(metadata or {})
        packets = [p for p in given.demux(video=0) if p.size][:stop]
        for packet in packets:
            if packet is packets[-1]:
                assert packet.pts is not None
                packet.pts += late
            packet.stream = stream
            made.mux(packet)
    other.replace(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"stop": 99}, "as many frames"),
        ({"late": 64}, "frames are not the clip's"),
        ({"metadata": {"title": "Jane"}}, "metadata: encoder, title"),
    ],
)
def test_a_file_that_is_not_what_was_meant_is_noticed(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], says: str
) -> None:
    write = clip_module.write_clip

    def otherwise(reader: FrameReader, destination: Path, **kwargs: Any) -> WrittenClip:
        written = write(reader, destination, **kwargs)
        remuxed(destination, **change)
        return written

    monkeypatch.setattr(clip_module, "write_clip", otherwise)
    with pytest.raises(AnonymisationFailed, match=says) as caught:
        run(source, out, surgical=False, preset="ultrafast")  # without B-frames, the last packet is the last picture
    assert caught.value.reason_code == "proof_failed"
    assert list(out.parent.iterdir()) == []


def test_a_file_that_decodes_with_damage_is_noticed(source: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Damaged(FrameReader):
        def __iter__(self) -> Iterator[ClipFrame]:
            yield from super().__iter__()
            self.damaged = 1

    monkeypatch.setattr(output_module, "FrameReader", Damaged)
    assert failure(source, out) == "proof_failed"


def test_copied_pictures_that_are_not_the_clips_are_encoded_instead(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(source, out).gops_copied > 0

    class Brighter(FrameReader):
        def __iter__(self) -> Iterator[ClipFrame]:
            for frame in super().__iter__():
                frame.picture.make_writable()
                planes(frame.picture)[0][0, 0] ^= 1  # one pixel, one level
                yield frame

    check = clip_module.check_output

    def against_another(*args: Any, **kwargs: Any) -> None:
        if kwargs["source"] is not None:
            kwargs["source"] = Brighter(source, limits=DEFAULT_LIMITS, should_stop=lambda: False)
        check(*args, **kwargs)

    monkeypatch.setattr(clip_module, "check_output", against_another)
    assert run(source, out).gops_copied == 0


def test_what_is_no_doubt_about_the_copying_is_no_reason_to_encode(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise AnonymisationFailed("disk_full")

    written: list[Path] = []
    monkeypatch.setattr(clip_module, "check_output", full)
    monkeypatch.setattr(clip_module, "write_clip", lambda *args, **kwargs: written.append(out))
    assert failure(source, out) == "disk_full"
    assert written == []


# --- what is written is not what was scanned ---


def one_more(found: Scan) -> None:
    found.ticks.append(found.ticks[-1] + 512)


def one_less(found: Scan) -> None:
    found.ticks.pop()


def another_time(found: Scan) -> None:
    found.ticks[50] += 1


@pytest.mark.parametrize("change", [one_more, one_less, another_time])
def test_a_clip_that_decodes_to_other_frames_the_second_time_is_refused(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Scan], None]
) -> None:
    def otherwise(*args: Any, **kwargs: Any) -> Scan:
        found = scan(*args, **kwargs)
        change(found)
        return found

    monkeypatch.setattr(clip_module, "scan", otherwise)
    assert failure(source, out, surgical=False) == "unstable_decode"


@pytest.mark.parametrize("flaw", [None, "damaged", "left_out", "resized"])
def test_nothing_is_copied_of_a_clip_that_the_decoder_had_to_bear_with(source: Path, flaw: str | None) -> None:
    reader = read_again(source)
    found = scan(reader, policy=AnonymisePolicy(), detector=BrightSquares(), verifier=BrightSquares(version="other"))
    if flaw is not None:
        setattr(reader, flaw, 1)
    assert (map_gops(source, reader, found, DEFAULT_LIMITS) is None) == (flaw is not None)


# --- detectors that do not do their work ---


class Broken(BrightSquares):
    """Answers as told, from its third call on."""

    def __init__(self, answer: Callable[[int], list[Any]]) -> None:
        super().__init__(version="broken")
        self._answer = answer

    def detect(self, frames: Sequence[Picture]) -> list[Detections]:
        found = super().detect(frames)
        return found if self.calls < 3 else self._answer(len(frames))


def nothing_at_all(frames: int) -> list[Any]:
    return []


def one_too_many(frames: int) -> list[Any]:
    return [Detections.empty()] * (frames + 1)


def no_number_for_a_score(frames: int) -> list[Any]:
    return [Detections(np.array([[1, 1, 9, 9]], np.float32), np.array([np.nan]), np.array([FACE]))] * frames


def no_number_for_a_box(frames: int) -> list[Any]:
    return [Detections(np.array([[1, np.nan, 9, 9]], np.float32), np.array([0.9]), np.array([FACE]))] * frames


def crash(frames: int) -> list[Any]:
    raise MemoryError


@pytest.mark.parametrize("which", ["detector", "verifier"])
@pytest.mark.parametrize(
    "answer", [nothing_at_all, one_too_many, no_number_for_a_score, no_number_for_a_box, crash, lambda frames: None]
)
def test_a_detector_that_fails_in_the_middle_of_a_clip_stops_it(
    source: Path, out: Path, which: str, answer: Callable[[int], list[Any]]
) -> None:
    broken = Broken(answer)
    assert failure(source, out, **{which: broken}) == "detector_failed"
    assert broken.calls >= 3


def test_what_no_detector_here_can_find_is_not_taken_for_hidden(source: Path, out: Path) -> None:
    assert failure(source, out, classes=(CLASS_IDS["licence plate"],)) == "detector_failed"


def test_no_verifier_no_proof(source: Path, out: Path) -> None:
    certificate = anonymise_clip(source, out, policy=AnonymisePolicy(), detector=BrightSquares(), verifier=None)
    assert certificate.shortcomings()
    assert run(source, out).shortcomings() == []
    assert replace(run(source, out, verify_rate_hz=0, surgical=False), frames_verified=0).shortcomings()
