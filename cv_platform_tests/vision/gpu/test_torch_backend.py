"""The torch backend gives the processor backend's answers, and lives with too little memory."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'cv-platform[torch]'")

from cv_platform.vision.detectors.build import make_detector  # noqa: E402
from cv_platform.vision.detectors.canary import canary_picture  # noqa: E402
from cv_platform.vision.detectors.onnx import InputSize, OnnxDetector  # noqa: E402
from cv_platform.vision.detectors.streaming import detect_in_shard  # noqa: E402
from cv_platform.vision.detectors.torch_backend import TorchDetector  # noqa: E402
from cv_platform.vision.models import ModelRegistry  # noqa: E402
from cv_platform.vision.video.decode import SampledFrame  # noqa: E402
from cv_platform.vision.video.shards import ShardWriter  # noqa: E402

MODELS = ["yolox_nano", "yunet", "ultraface"]


def arguments(shared_data: Path, name: str, **more: Any) -> tuple[bytes, dict[str, Any]]:
    models = ModelRegistry(cache_dir=shared_data / "none", model_dir=shared_data / "models", fetch=False)
    entry, (content, digest) = models.entry(name), models.read(name)
    return content, {
        "name": name,
        "digest": digest,
        "head": entry.head,
        "input_size": InputSize(**dict(entry.input)),
        "class_ids": entry.class_ids,
        "iou_threshold": entry.iou_threshold,
        **more,
    }


@pytest.mark.parametrize("name", MODELS)
def test_same_boxes_as_onnx_runtime(shared_data: Path, name: str) -> None:
    content, values = arguments(shared_data, name, score_threshold=0.3)
    frames = [canary_picture(), canary_picture()[:, ::-1].copy(), canary_picture()[60:420, 40:600].copy()]
    expected = OnnxDetector(content, threads=1, **values).detect(frames)
    found = TorchDetector(content, precision="fp32", device="cpu", batch_size=2, **values).detect(frames)
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours) == len(theirs) > 0
        assert ours.class_ids.tolist() == theirs.class_ids.tolist()
        assert np.abs(ours.boxes - theirs.boxes).max() < 0.05
        assert np.abs(ours.scores - theirs.scores).max() < 1e-3


def test_more_candidates_than_there_was_room_for(shared_data: Path) -> None:
    content, values = arguments(shared_data, "yolox_nano", score_threshold=0.0001)
    expected = OnnxDetector(content, threads=1, **values).detect([canary_picture()])
    detector = TorchDetector(content, precision="fp32", device="cpu", **values)
    room = detector._most
    found = detector.detect([canary_picture()])
    assert detector._most > room
    assert len(found[0]) == len(expected[0]) > 0
    assert np.abs(found[0].boxes - expected[0].boxes).max() < 0.05


def test_out_of_memory_halves_the_batch(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, values = arguments(shared_data, "yunet", score_threshold=0.3)
    detector = TorchDetector(content, precision="fp32", device="cpu", batch_size=4, **values)
    enough = detector._made

    def scarce(count: int, size: tuple[int, int]) -> Any:
        if count > 1:
            raise torch.cuda.OutOfMemoryError
        return enough(count, size)

    monkeypatch.setattr(detector, "_made", scarce)
    assert [len(found) for found in detector.detect([canary_picture()] * 5)] == [2] * 5 or detector.batch_size == 1
    assert detector.batch_size == 1
    monkeypatch.setattr(detector, "_made", lambda count, size: (_ for _ in ()).throw(torch.cuda.OutOfMemoryError()))
    detector._programs.clear()
    with pytest.raises(MemoryError, match="not even with one frame"):
        detector.detect([canary_picture()])


def test_refuses_what_is_no_picture_before_it_reaches_the_device(shared_data: Path) -> None:
    content, values = arguments(shared_data, "yunet")
    detector = TorchDetector(content, precision="fp32", device="cpu", **values)
    for frame in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(ValueError, match="allowed is a uint8 array"):
            detector.detect([frame])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_error_says_what_to_do(shared_data: Path) -> None:
    models = ModelRegistry(cache_dir=shared_data / "none", model_dir=shared_data / "models", fetch=False)
    with pytest.raises(RuntimeError, match="set the onnx backend"):
        make_detector(["yunet"], models=models, backend="torch")


def test_a_shard_gives_the_same_boxes_as_onnx_runtime(shared_data: Path, tmp_path: Path) -> None:
    """Batches, the last one not full; sizes that change; and the shard's own order, times and sizes."""
    content, values = arguments(shared_data, "yolox_nano", score_threshold=0.3)
    pictures = [canary_picture(), canary_picture()[60:420, 40:600].copy()] * 3 + [canary_picture()]
    path = tmp_path / "frames.tar"
    with path.open("wb") as file, ShardWriter(file) as writer:
        for n, picture in enumerate(pictures):
            writer.add(SampledFrame(n, Fraction(n, 7), picture))
    onnx = OnnxDetector(content, threads=1, **values)
    ours = TorchDetector(content, precision="fp32", device="cpu", batch_size=3, **values)
    with path.open("rb") as one, path.open("rb") as other:
        expected, told = list(detect_in_shard(onnx, one)), list(detect_in_shard(ours, other))
    assert [facts for facts, _ in told] == [facts for facts, _ in expected]
    assert {facts[1:] for facts, _ in told} == {(640, 480), (560, 360)}
    for (_, found), (_, wanted) in zip(told, expected, strict=True):
        assert len(found) == len(wanted) > 0
        assert np.abs(found.boxes - wanted.boxes).max() < 1


@pytest.mark.parametrize("keep", [0, 700, -30_000])
def test_a_damaged_shard_is_refused(shared_data: Path, tmp_path: Path, keep: int) -> None:
    content, values = arguments(shared_data, "yolox_nano", score_threshold=0.3)
    path = tmp_path / "frames.tar"
    with path.open("wb") as file, ShardWriter(file) as writer:
        writer.add(SampledFrame(0, Fraction(0), canary_picture()))
    path.write_bytes(path.read_bytes()[:keep])
    detector = TorchDetector(content, precision="fp32", device="cpu", **values)
    with path.open("rb") as file, pytest.raises(ValueError, match=r"shard|empty"):
        list(detect_in_shard(detector, file))
