from __future__ import annotations

import numpy as np
import pytest

from cv_platform.vision.classes import FACE, PERSON
from cv_platform.vision.detections import Detections
from cv_platform.vision.detectors.base import ConcurrentDetector, Detector
from cv_platform.vision.detectors.canary import EXPECTED, canary_picture, found_in_canary
from cv_platform.vision.detectors.fused import FusedDetector
from cv_platform.vision.detectors.hog import HogPeopleDetector
from cv_platform.vision.detectors.onnx import InputSize, OnnxDetector, OnnxSession
from cv_platform.vision.detectors.onnx_graph import optimisable
from cv_platform.vision.detectors.streaming import detect_each
from cv_platform.vision.models import ModelRegistry
from cv_platform_tests.vision.detectors.tiny_onnx import scaling_model


def test_weights_leave_the_inputs_and_the_outputs_stay() -> None:
    model = scaling_model((1, 3, 4, 4), 2.5)
    assert len(optimisable(model)) < len(model)
    batch = np.arange(48, dtype=np.float32).reshape(1, 3, 4, 4)
    (output,) = OnnxSession(model, threads=1).run(batch).values()
    np.testing.assert_array_equal(output, batch * 2.5)


def test_a_frozen_size_is_freed_on_request_only() -> None:
    model = scaling_model((10, 3, 32, 32), 2.0)
    assert OnnxSession(model, threads=1).input_shape == (10, 3, 32, 32)
    free = OnnxSession(model, threads=1, dynamic_inputs=True)
    assert free.input_shape == (None, 3, None, None)
    (output,) = free.run(np.ones((2, 3, 64, 96), np.float32)).values()
    assert output.shape == (2, 3, 64, 96)


@pytest.mark.parametrize("content", [b"", b"no model at all", scaling_model((1, 3, 4, 4), 1.0)[:-9]])
def test_what_is_no_model_is_refused(content) -> None:
    with pytest.raises(ValueError, match="ONNX"):
        OnnxSession(content)


@pytest.mark.parametrize(
    ("size", "frame", "expected"),
    [
        (InputSize(416, 320), (1080, 1920), (320, 416)),
        (InputSize(long_side=960), (1080, 1920), (544, 960)),
        (InputSize(long_side=960), (100, 60), (128, 64)),
        (InputSize(long_side=64, multiple_of=16), (10, 1000), (16, 64)),
    ],
)
def test_the_inputs_size_follows_the_frame(size, frame, expected) -> None:
    assert size.for_frame(*frame) == expected


@pytest.mark.parametrize("arguments", [{}, {"width": 416}, {"width": 416, "height": 416, "long_side": 640}])
def test_an_ambiguous_input_size_is_refused(arguments) -> None:
    with pytest.raises(ValueError, match="allowed"):
        InputSize(**arguments)


@pytest.fixture(scope="module")
def registry(shared_data, tmp_path_factory) -> ModelRegistry:
    return ModelRegistry(cache_dir=tmp_path_factory.mktemp("cache"), model_dir=shared_data / "models", fetch=False)


def real(registry: ModelRegistry, name: str, threads: int = 1) -> OnnxDetector:
    entry = registry.entry(name)
    content, digest = registry.read(name)
    return OnnxDetector(
        content,
        name=name,
        digest=digest,
        head=entry.head or "",
        input_size=InputSize(**dict(entry.input)),
        class_ids=entry.class_ids,
        threads=threads,
    )


@pytest.mark.parametrize("name", ["yolox_nano", "yunet", "yunet_640", "ultraface"])
def test_real_models_find_what_is_drawn_and_do_so_in_any_company(registry, name) -> None:
    detector = real(registry, name)
    assert isinstance(detector, Detector)
    picture = canary_picture()
    small = np.ascontiguousarray(picture[::2, ::2])
    alone = [detector.detect([frame])[0] for frame in (picture, small, picture)]
    together = detector.detect([picture, small, picture])
    assert found_in_canary(alone[0], detector.classes)
    assert (np.diff(alone[0].scores) <= 0).all()
    for one, other in zip(alone, together, strict=True):
        assert one.class_ids.tolist() == other.class_ids.tolist()
        np.testing.assert_allclose(one.boxes, other.boxes, atol=0.01)


def test_frames_that_go_at_once_come_back_in_their_order(registry) -> None:
    picture = canary_picture()
    frames = [np.roll(picture, 16 * k, axis=1)[: picture.shape[0] - 8 * k] for k in range(7)]
    alone, at_once = real(registry, "yolox_nano", threads=1), real(registry, "yolox_nano", threads=3)
    assert (alone.lanes, at_once.lanes) == (1, 3)
    expected = [alone.detect([frame])[0] for frame in frames]
    assert len({one.boxes.tobytes() for one in expected}) > 1
    for _ in range(2):
        assert at_once.detect(frames) == expected


def test_frames_that_several_threads_bring_are_answered_as_in_one_call(registry) -> None:
    picture = canary_picture()
    frames = [np.roll(picture, 16 * k, axis=1) for k in range(9)]
    detector = real(registry, "yolox_nano", threads=3)
    assert isinstance(detector, ConcurrentDetector)
    found = [answer for _, answer in detect_each(detector, frames, lambda frame: frame)]
    assert len({one.boxes.tobytes() for one in found}) > 1
    assert found == detector.detect(frames)


def test_a_bad_frame_among_many_fails_the_call_and_not_the_detector(registry) -> None:
    detector = real(registry, "yolox_nano", threads=2)
    picture = canary_picture()
    with pytest.raises(ValueError, match="allowed is uint8"):
        detector.detect([picture, picture, np.zeros((0, 9, 3), np.uint8)])
    assert len(detector.detect([picture, picture])) == 2


@pytest.mark.parametrize(
    "frame", [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3), np.float32), np.zeros((0, 9, 3), np.uint8)]
)
def test_what_is_no_frame_is_refused(registry, frame) -> None:
    with pytest.raises(ValueError, match="allowed is uint8"):
        real(registry, "yunet").detect([frame])


def test_hog_finds_the_person() -> None:
    detector = HogPeopleDetector()
    (found,) = detector.detect([canary_picture()])
    assert found_in_canary(found, detector.classes)
    assert detector.detect([np.zeros((20, 20, 3), np.uint8)]) == [Detections.empty()]


def test_the_version_tells_parameters_apart() -> None:
    assert HogPeopleDetector().version == HogPeopleDetector().version
    assert HogPeopleDetector(score_threshold=0.6).version != HogPeopleDetector().version


def test_a_canary_is_found_only_where_it_is() -> None:
    box = np.array([EXPECTED[FACE]], np.float32)
    right = Detections(box, np.ones(1), np.array([FACE]))
    assert found_in_canary(right, (FACE,))
    assert not found_in_canary(right, (FACE, PERSON))
    assert not found_in_canary(Detections(box + 200, np.ones(1), np.array([FACE])), (FACE,))
    assert not found_in_canary(Detections.empty(), (FACE,))


class Fixed:
    """A detector that always answers the same."""

    def __init__(self, classes, *rows) -> None:
        self.classes, self.version = classes, f"fixed{classes}"
        self.answer = Detections(
            np.array([row[0] for row in rows]), np.array([row[1] for row in rows]), np.array([row[2] for row in rows])
        )

    def warmup(self) -> None: ...

    def detect(self, frames):
        return [self.answer for _ in frames]


def test_fusion_joins_shared_classes_and_leaves_the_others_alone() -> None:
    face = ([10, 10, 20, 20], 0.6, FACE)
    first = Fixed((PERSON, FACE), ([0, 0, 50, 100], 0.9, PERSON), face)
    second = Fixed((PERSON,), ([2, 0, 52, 100], 0.7, PERSON))
    (found,) = FusedDetector([first, second]).detect([np.zeros((120, 120, 3), np.uint8)])
    assert found.class_ids.tolist() == [PERSON, FACE]
    np.testing.assert_allclose(found.scores, [0.8, 0.6], atol=1e-6)
    np.testing.assert_allclose(found.boxes[0], [0.875, 0, 50.875, 100], atol=0.01)
    np.testing.assert_allclose(found.boxes[1], face[0])
