"""The ONNX embedder with a real re-identification network."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from cv_platform.vision.embeddings import Embedder, OnnxEmbedder


@pytest.fixture(scope="module")
def network(shared_data: Path) -> Path:
    return shared_data / "models" / "osnet_x0_25_msmt17.onnx"


@pytest.fixture(scope="module")
def embedder(network: Path) -> OnnxEmbedder:
    return OnnxEmbedder(network, threads=1)


def picture(seed: int = 0) -> npt.NDArray[np.uint8]:
    noise = np.random.default_rng(seed).integers(0, 255, (240, 320, 3), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 9), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


BOXES = np.array([[10, 10, 60, 140], [100.4, 20.6, 150, 200], [200, 5, 260, 180], [-20, -30, 40, 90]], np.float32)


def test_describes_itself(embedder: OnnxEmbedder) -> None:
    assert isinstance(embedder, Embedder)
    assert embedder.dimension == 512
    assert "bb2267b23a64675f" in embedder.version


def test_a_network_frozen_at_one_picture_runs_in_batches_all_the_same(network: Path, embedder: OnnxEmbedder) -> None:
    single = OnnxEmbedder(network, threads=1, batch_size=1)
    assert (single.batch_size, embedder.batch_size) == (1, 32)
    frame = picture()
    np.testing.assert_allclose(embedder.embed(frame, BOXES), single.embed(frame, BOXES), atol=1e-5)


def test_more_boxes_than_a_batch(network: Path, embedder: OnnxEmbedder) -> None:
    small = OnnxEmbedder(network, threads=1, batch_size=3)
    frame = picture()
    np.testing.assert_allclose(small.embed(frame, BOXES), embedder.embed(frame, BOXES), atol=1e-5)


def test_crops_are_what_opencv_would_feed(network: Path, embedder: OnnxEmbedder) -> None:
    frame = picture(1)
    blob = cv2.dnn.blobFromImage(frame[20:200, 100:150], 1 / 255, (128, 256), swapRB=True)
    blob = (blob - np.array([0.485, 0.456, 0.406]).reshape(3, 1, 1)) / np.array([0.229, 0.224, 0.225]).reshape(3, 1, 1)
    net = cv2.dnn.readNetFromONNX(str(network))
    net.setInput(blob.astype(np.float32))
    expected = net.forward()[0]
    found = embedder.embed(frame, np.array([[100, 20, 150, 200]], np.float32))[0]
    assert found @ expected / np.linalg.norm(expected) > 0.9999


def test_vectors_have_length_one_and_boxes_outside_have_none(embedder: OnnxEmbedder) -> None:
    outside = np.array([[400, 10, 450, 90], [20, 20, 20, 60]], np.float32)
    vectors = embedder.embed(picture(), np.vstack([BOXES, outside]))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 1, 1, 1, 0, 0], atol=1e-5)
    assert embedder.embed(picture(), np.empty((0, 4), np.float32)).shape == (0, 512)


def test_refuses_what_it_cannot_use(embedder: OnnxEmbedder, shared_data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="allowed is BGR uint8"):
        embedder.embed(np.zeros((10, 10), np.uint8), BOXES)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batch_size is 0"):
        OnnxEmbedder(tmp_path / "any.onnx", batch_size=0)
    (tmp_path / "no.onnx").write_bytes(b"not a network")
    with pytest.raises(ValueError, match="ONNX"):
        OnnxEmbedder(tmp_path / "no.onnx")
    with pytest.raises(ValueError, match="outputs are"):
        OnnxEmbedder(next((shared_data / "models").glob("*yolox*")), threads=1)
