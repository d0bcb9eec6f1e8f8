"""The Triton kernels, by Triton's interpreter on the processor: the same numbers as torch's own operations."""

import os
import sys
from itertools import product

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'cv-platform[torch]'")
if "triton" not in sys.modules:
    os.environ["TRITON_INTERPRET"] = "1"
triton = pytest.importorskip("triton", reason="triton is not installed: it comes with torch's CUDA builds")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("triton was imported before without its interpreter", allow_module_level=True)

from torch.nn import functional  # noqa: E402

from cv_platform.vision.detectors.architectures import ARCHITECTURES  # noqa: E402
from cv_platform.vision.gpu import fused  # noqa: E402
from cv_platform.vision.gpu.resample import DevicePreprocessor, _taps  # noqa: E402

ACTIVATIONS = {"": lambda x: x, "SiLU": functional.silu, "Relu": functional.relu}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    ("inputs", "outputs", "side", "stride", "padding", "group"),
    [
        (16, 32, 1, 1, 0, 1),
        (80, 4, 1, 1, 0, 1),
        (200, 130, 1, 1, 0, 1),
        (16, 16, 3, 1, 1, 16),
        (40, 40, 3, 2, 1, 40),
        (8, 8, 5, 1, 2, 8),
        (12, 16, 3, 1, 1, 1),
    ],
)
def test_convolution_bias_and_activation_at_once(
    inputs: int, outputs: int, side: int, stride: int, padding: int, group: int, activation: fused.Activation
) -> None:
    torch.manual_seed(inputs)
    x = torch.randn(2, inputs, 13, 11).half().to(memory_format=torch.channels_last)
    kernel = (torch.randn(outputs, inputs // group, side, side) / (inputs // group * side)).half()
    bias = torch.randn(outputs).half()
    found = fused.convolve(
        x, kernel, bias, strides=[stride] * 2, padding=[padding] * 2, dilations=[1, 1], group=group,
        activation=activation,
    )  # fmt: skip
    plain = functional.conv2d(x.float(), kernel.float(), bias.float(), stride, padding, 1, group)
    expected = ACTIVATIONS[activation](plain)
    assert found.shape == expected.shape
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert (found.float() - expected).abs().max() < 4e-3


@pytest.mark.parametrize(("head", "size"), list(product(["yolox", "yolov8", "ultraface"], [(48, 64), (33, 70)])))
def test_letterbox_gives_the_very_levels_of_the_plain_way(head: str, size: tuple[int, int]) -> None:
    torch.manual_seed(1)
    how = ARCHITECTURES[head]
    pictures = [torch.randint(0, 256, (3, 50, 80), dtype=torch.uint8) for _ in range(3)]
    prepare = DevicePreprocessor(how, size, torch.float16)
    expected = torch.zeros(3, 3, *size, dtype=torch.float16)
    prepare.write_pictures(pictures, expected, channels="rgb")
    place = prepare.place(50, 80)
    found = torch.full((3, 3, *size), torch.nan, dtype=torch.float16).to(memory_format=torch.channels_last)
    cpu = torch.device("cpu")
    fused.letterbox(
        pictures, found, (_taps(50, place.height, cpu), _taps(80, place.width, cpu)), offset=(place.top, place.left),
        scale=how.scale, mean=how.mean, fill=how.fill * how.scale - how.mean, flipped=how.channels != "rgb",
    )  # fmt: skip
    # scaled levels are rounded once here and twice there
    assert (found.float() - expected.float()).abs().max() <= (0 if how.scale == 1 else 1.5e-3)


def test_what_is_not_for_these_kernels() -> None:
    x, kernel, bias = torch.zeros(1, 8, 4, 4).half(), torch.zeros(8, 8, 1, 1).half(), torch.zeros(8).half()
    assert not fused.suits(x, kernel, bias)  # not on a GPU
    assert not fused.suits_letterbox([torch.zeros(3, 4, 4, dtype=torch.uint8)], x)
