"""Preprocessing: parity with plain cv2 and NumPy, boxes there and back, memory that is reused."""

from __future__ import annotations

import contextlib
import tracemalloc
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cv_platform.vision.jpeg import decode_jpeg, jpeg_size
from cv_platform.vision.preprocess import Preprocessor, letterbox, place_letterbox, resize_shorter_side


def picture(height: int, width: int, seed: int = 0) -> Any:
    """Smooth enough for JPEG, different everywhere, channels unlike each other."""
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def plain_letterbox(frame: Any, height: int, width: int, centre: bool, fill: int) -> Any:
    scale = min(height / frame.shape[0], width / frame.shape[1])
    h, w = max(1, round(frame.shape[0] * scale)), max(1, round(frame.shape[1] * scale))
    top, left = ((height - h) // 2, (width - w) // 2) if centre else (0, 0)
    canvas = np.full((height, width, 3), fill, np.uint8)
    canvas[top : top + h, left : left + w] = cv2.resize(frame, (w, h))
    return canvas


def plain_tensor(canvas: Any, mean: Any = 0.0, std: Any = 1.0) -> Any:
    values = cv2.cvtColor(canvas, cv2.COLOR_BGR2RGB).astype(np.float32) / 255
    return ((values - np.float32(mean)) / np.float32(std)).transpose(2, 0, 1)


LEVEL = 1 / 255
"""OpenCV rounds what it resizes to grey levels, the compiled kernel does not."""
SIZES = [(48, 64), (64, 48), (30, 97), (64, 64), (7, 200), (1, 1)]


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("anchor", ["centre", "top_left"])
def test_letterboxed_batches_equal_the_plain_way(anchor: Any, threads: int) -> None:
    frames = [picture(h, w, i) for i, (h, w) in enumerate(SIZES)]
    with Preprocessor((64, 96), anchor=anchor, threads=threads) as preprocessor:
        for order in (frames, frames[::-1]):  # again with other borders in the same memory
            batch = preprocessor(order)
            expected = [plain_tensor(plain_letterbox(f, 64, 96, anchor == "centre", 114)) for f in order]
            assert batch.tensor.dtype == np.float32
            np.testing.assert_allclose(batch.tensor, expected, atol=LEVEL)


def test_stretching_equals_the_plain_way_with_mean_and_deviation() -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    frames = [picture(h, w) for h, w in SIZES]
    batch = Preprocessor((32, 40), fit="stretch", mean=mean, std=std)(frames)
    expected = [plain_tensor(cv2.resize(f, (40, 32)), mean, std) for f in frames]
    np.testing.assert_allclose(batch.tensor, expected, atol=LEVEL / min(std))


def test_bgr_without_scaling() -> None:
    frame = picture(32, 32)
    batch = Preprocessor((32, 32), channels="bgr", scale=1.0)([frame])
    np.testing.assert_array_equal(batch.tensor[0], frame.transpose(2, 0, 1))


def test_the_border_is_scaled_like_the_picture() -> None:
    batch = Preprocessor((40, 20), fill=100, mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0))([picture(20, 20)])
    corner = (np.float32(100 / 255) - np.array([0.1, 0.2, 0.3])) / [0.5, 1.0, 2.0]
    np.testing.assert_allclose(batch.tensor[0, :, 0, 0], corner, atol=1e-6)


def test_shorter_sides_and_the_batch_as_large_as_its_largest() -> None:
    frames = [picture(100, 200), picture(200, 100), picture(50, 400)]
    batch = Preprocessor(40, fit="shorter_side", longest_side=120)(frames)
    assert [(p.height, p.width) for p in batch.placements] == [(40, 80), (80, 40), (15, 120)]
    assert batch.tensor.shape == (3, 3, 80, 120)
    np.testing.assert_allclose(batch.tensor[0, :, :40, :80], plain_tensor(cv2.resize(frames[0], (80, 40))), atol=LEVEL)
    np.testing.assert_allclose(batch.tensor[0, :, 40:], 114 / 255, atol=1e-6)
    small, placement = resize_shorter_side(frames[0], 40)
    assert small.shape == (40, 80, 3)
    assert (placement.height, placement.width) == (40, 80)


@pytest.mark.parametrize("anchor", ["centre", "top_left"])
def test_letterbox_of_one_frame(anchor: Any) -> None:
    frame = picture(30, 97)
    canvas, placement = letterbox(frame, 64, 64, anchor=anchor, fill=0)
    np.testing.assert_array_equal(canvas, plain_letterbox(frame, 64, 64, anchor == "centre", 0))
    assert placement == place_letterbox(30, 97, 64, 64, anchor=anchor)


@settings(max_examples=60, deadline=None)
@given(st.tuples(st.integers(1, 90), st.integers(1, 90)), st.tuples(st.integers(1, 70), st.integers(1, 70)), st.data())
def test_noise_of_any_size_stretched_to_any_size(frame: Any, size: Any, data: Any) -> None:
    """Noise is the worst case: every pixel differs from its neighbours."""
    noise = np.random.default_rng(data.draw(st.integers(0, 9))).integers(0, 256, (*frame, 3), np.uint8)
    found = Preprocessor(size, fit="stretch", threads=1)([noise]).tensor[0]
    np.testing.assert_allclose(found, plain_tensor(cv2.resize(noise, size[::-1])), atol=LEVEL)
    exact = bilinear(noise[..., ::-1].astype(np.float64), *size).transpose(2, 0, 1) / 255
    if size[1] >= 4:
        np.testing.assert_allclose(found, exact, atol=1e-6)


def bilinear(values: Any, height: int, width: int) -> Any:
    """The definition, in double precision."""
    for axis, length in ((0, height), (1, width)):
        at = np.clip((np.arange(length) + 0.5) * (values.shape[axis] / length) - 0.5, 0, values.shape[axis] - 1)
        first = np.floor(at).astype(int)
        second = np.minimum(first + 1, values.shape[axis] - 1)
        share = (at - first).reshape([-1 if a == axis else 1 for a in range(3)])
        values = values.take(first, axis) * (1 - share) + values.take(second, axis) * share
    return values


@settings(max_examples=100, deadline=None)
@given(
    st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    st.tuples(st.integers(1, 1500), st.integers(1, 1500)),
    st.sampled_from(["centre", "top_left"]),
)
def test_boxes_go_there_and_back(frame: tuple[int, int], size: tuple[int, int], anchor: Any) -> None:
    placement = place_letterbox(*frame, *size, anchor=anchor)
    height, width = frame
    boxes = np.array([[0, 0, width, height], [width * 0.25, height * 0.5, width * 0.75, height]], np.float32)
    there = placement.to_input(boxes)
    assert (there >= 0).all()
    assert (there <= [size[1], size[0], size[1], size[0]]).all()
    np.testing.assert_allclose(placement.to_frame(there), boxes, atol=2e-3 * max(1, max(frame) / min(size)))


def test_boxes_are_cut_at_the_frame_unless_told_otherwise() -> None:
    placement = place_letterbox(50, 100, 100, 100)
    np.testing.assert_allclose(placement.to_frame([[-10, 0, 200, 100]]), [[0, 0, 100, 50]])
    np.testing.assert_allclose(placement.to_frame([[-10, 0, 200, 100]], clip=False), [[-10, -25, 200, 75]])
    assert placement.to_frame([]).shape == (0, 4)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_steady_state_allocates_no_pixels(threads: int) -> None:
    frames = [picture(270, 480, i) for i in range(6)]
    with Preprocessor((192, 192), threads=threads) as preprocessor:
        first = preprocessor(frames)
        tracemalloc.start()
        try:
            for _ in range(3):
                again = preprocessor(frames)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert again.tensor is first.tensor
    assert peak < 192 * 192  # one plane of one frame, in bytes


def test_frames_that_are_not_contiguous() -> None:
    frame = picture(64, 64)
    mirrored = Preprocessor((32, 32))([frame[:, ::-1]]).tensor
    np.testing.assert_array_equal(mirrored, Preprocessor((32, 32))([frame[:, ::-1].copy()]).tensor)


@pytest.mark.parametrize("quality", [70, 95])
@pytest.mark.parametrize("threads", [1, 2])
def test_jpegs_become_a_batch_in_one_call(threads: int, quality: int) -> None:
    files = [
        cv2.imencode(".jpg", picture(h, w, i), [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        for i, (h, w) in enumerate(SIZES[:4])
    ]
    preprocessor = Preprocessor((64, 64), threads=threads)
    expected = preprocessor([decode_jpeg(f) for f in files]).tensor.copy()
    np.testing.assert_array_equal(preprocessor.from_jpegs(files).tensor, expected)
    assert [jpeg_size(f) for f in files] == SIZES[:4]


def _jpeg() -> bytes:
    return bytes(cv2.imencode(".jpg", picture(40, 60))[1].tobytes())


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (b"", "begins with nothing; allowed is a JPEG"),
        (b"\x89PNG\r\n", "begins with 8950"),
        (b"\xff\xd8", "ends before it says its size"),
        (b"\xff\xd8\xff\xe0\x00\x04ab", "ends before it says its size"),
        (b"\xff\xd8\x00\x00\x00\x00", "no marker at byte 2"),
        (_jpeg()[:200], "damaged"),
    ],
)
def test_bad_jpegs_are_refused(file: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Preprocessor((32, 32)).from_jpegs([_jpeg(), file])


def test_a_jpeg_that_declares_too_much_is_refused_before_it_is_decoded() -> None:
    file = _jpeg()
    at = file.index(b"\xff\xc0")
    bomb = file[: at + 5] + b"\xff\xff\xff\xff" + file[at + 9 :]
    with pytest.raises(ValueError, match="declares 65535×65535, 4,294,836,225 pixels"):
        decode_jpeg(bomb)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 400))
def test_hostile_jpegs_raise_one_kind_of_error(noise: bytes, at: int) -> None:
    file = _jpeg()
    for hostile in (noise, b"\xff\xd8" + noise, file[:at] + noise + file[at + len(noise) :]):
        with contextlib.suppress(ValueError):
            assert decode_jpeg(hostile, max_pixels=10_000).ndim == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 64}, "size is 64; allowed is"),
        ({"size": (64, 64), "fit": "shorter_side"}, "one length with fit='shorter_side'"),
        ({"size": (0, 64)}, "1 pixel or more"),
        ({"size": (64, 64), "fit": "crop"}, "fit is 'crop'; allowed is one of letterbox, stretch, shorter_side"),
        ({"size": (64, 64), "anchor": "left"}, "anchor is 'left'"),
        ({"size": (64, 64), "threads": 0}, "threads is 0"),
        ({"size": (64, 64), "fill": 300}, "fill is 300"),
        ({"size": (64, 64), "std": (1.0, 0.0, 1.0)}, "std is"),
    ],
)
def test_what_is_not_allowed_is_said(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Preprocessor(**arguments)


@pytest.mark.parametrize(
    "frame", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8), "frame.jpg"]
)
def test_what_is_no_frame_is_refused(frame: Any) -> None:
    with pytest.raises(ValueError, match="a frame is"):
        Preprocessor((32, 32))([frame])
    with pytest.raises(ValueError, match="0 frames"):
        Preprocessor((32, 32))([])
