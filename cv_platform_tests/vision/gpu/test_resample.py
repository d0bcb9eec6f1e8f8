"""Resampling on a device gives the processor's pixels."""

from fractions import Fraction

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'cv-platform[torch]'")

from cv_platform.vision.detectors.architectures import ARCHITECTURES  # noqa: E402
from cv_platform.vision.gpu.resample import DevicePreprocessor, Surface, resize_pictures  # noqa: E402


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("height", "width", "new"), [(360, 480, (312, 416)), (540, 960, (234, 416)), (99, 301, (64, 200))]
)
def test_shrinks_as_opencv_does(height: int, width: int, new: tuple[int, int]) -> None:
    picture = noise(height, width)
    got = resize_pictures(torch.from_numpy(picture).permute(2, 0, 1)[None], new)[0].permute(1, 2, 0).numpy()
    expected = cv2.resize(picture, new[::-1], interpolation=cv2.INTER_LINEAR)
    assert np.abs(got - expected.astype(int)).max() <= 1
    assert (got != expected).mean() < 0.001


@pytest.mark.parametrize("head", ["yolox", "yolov8", "ultraface"])
def test_same_input_as_the_processors_preprocessor(head: str) -> None:
    how, picture = ARCHITECTURES[head], noise(120, 200)
    with how.preprocessor((96, 128)) as prepare:
        expected = prepare([picture]).tensor.copy()
    target = torch.zeros(1, 3, 96, 128)
    DevicePreprocessor(how, (96, 128), torch.float32).write_pictures(
        torch.from_numpy(picture).permute(2, 0, 1)[None], target, channels="bgr"
    )
    assert np.abs(target.numpy() - expected).max() <= 1e-3 * how.scale


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("colour_range", [1, 2])
def test_a_surface_is_the_picture_that_was_encoded(rotation: int, colour_range: int) -> None:
    av = pytest.importorskip("av")
    smooth = cv2.GaussianBlur(noise(128, 192), (0, 0), 9)
    frame = av.VideoFrame.from_ndarray(smooth, format="bgr24")
    nv12 = frame.reformat(format="nv12", dst_color_range=colour_range).to_ndarray()
    surface = Surface(
        0, Fraction(0), torch.from_numpy(nv12), rotation=rotation, long_side=96, colour_range=colour_range
    )
    expected = np.rot90(cv2.resize(smooth, (96, 64), interpolation=cv2.INTER_AREA), rotation // 90)
    assert surface.image().shape == (*surface.size, 3) == expected.shape
    assert np.abs(surface.image().astype(int) - expected).mean() < 4
