"""Engines are kept by what they were built for and refused where they are not it; with a stand-in for TensorRT.

TensorRT itself has not run. The stand-in has what the bindings of 10.16 and 11.4 name, and no more: version 11's has
neither half precision nor INT8 among its flags, and no calibrator.
"""

import ctypes
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'cv-platform[torch]'")

from cv_platform.vision.detectors.canary import canary_picture  # noqa: E402
from cv_platform.vision.detectors.onnx import InputSize  # noqa: E402
from cv_platform.vision.detectors.tensorrt_backend import TensorRtDetector  # noqa: E402
from cv_platform.vision.detectors.torch_backend import TorchDetector  # noqa: E402
from cv_platform.vision.gpu.network import OnnxNetwork  # noqa: E402
from cv_platform.vision.gpu.tensorrt_engine import EngineFolder, EngineKey, EngineRefused, build  # noqa: E402
from cv_platform.vision.models import ModelRegistry  # noqa: E402

KEY = EngineKey("ab" * 32, "10.16.1", "NVIDIA H200 9.0", "fp16", 416, 416, 64)


class Logger:
    """Takes the least level that it says."""

    ERROR = 1

    def __init__(self, level: int) -> None:
        self.level = level


class Context:
    """Runs the model that is the stand-in's plan, from and to the memory that it is told."""

    def __init__(self, plan: bytes) -> None:
        self._network, self._at = OnnxNetwork(plan).eval(), {}
        self._shape: tuple[int, ...] = ()

    def _run(self, batch: Any) -> dict[str, Any]:
        with torch.inference_mode():
            return {name: value.contiguous() for name, value in self._network(batch).items()}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shape, self._shapes = shape, {k: v.shape for k, v in self._run(torch.zeros(shape)).items()}
        return True

    def get_tensor_shape(self, name: str) -> Any:
        return self._shapes[name]

    def set_tensor_address(self, name: str, address: int) -> None:
        self._at[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        size = int(np.prod(self._shape))
        pointer = ctypes.cast(self._at["input"], ctypes.POINTER(ctypes.c_float))
        batch = torch.from_numpy(np.ctypeslib.as_array(pointer, (size,)).copy()).reshape(self._shape)
        for name, value in self._run(batch).items():
            ctypes.memmove(self._at[name], value.data_ptr(), value.numel() * 4)
        return True


def stand_in(version: str, built: list[dict[str, Any]], *, reads: bool = True) -> SimpleNamespace:
    """A module like `tensorrt`; what is built is noted."""
    old = version.startswith("10")

    def builder(logger: Any) -> Any:
        note: dict[str, Any] = {"flags": []}
        config = SimpleNamespace(
            set_memory_pool_limit=lambda pool, size: None,
            add_optimization_profile=lambda profile: None,
            set_flag=note["flags"].append,
            int8_calibrator=None,
        )

        def serialized(network: Any, config: Any) -> bytes:
            calibrator = config.int8_calibrator
            while calibrator is not None and calibrator.get_batch(["input"]) is not None:
                note["calibrated"] = note.get("calibrated", 0) + calibrator.get_batch_size()
            built.append(note)
            return bytes(network.model)

        return SimpleNamespace(
            create_network=lambda flags: SimpleNamespace(
                num_inputs=1, get_input=lambda n: SimpleNamespace(name="input"), model=b""
            ),
            create_builder_config=lambda: config,
            create_optimization_profile=lambda: SimpleNamespace(set_shape=lambda *s: note.update(shapes=s)),
            build_serialized_network=serialized,
        )

    def parser(network: Any, logger: Any) -> Any:
        def parse(model: bytes) -> bool:
            network.model = model
            return reads

        return SimpleNamespace(
            parse=parse, num_errors=1, get_error=lambda n: SimpleNamespace(desc=lambda: "no such operator")
        )

    def deserialized(plan: bytes) -> Any:
        names = ["input", *OnnxNetwork(plan).outputs]
        return SimpleNamespace(
            num_io_tensors=len(names),
            get_tensor_name=names.__getitem__,
            get_tensor_mode=lambda name: "in" if name == "input" else "out",
            get_tensor_dtype=lambda name: "float",
            create_execution_context=lambda: Context(plan),
        )

    return SimpleNamespace(
        __version__=version,
        Logger=Logger,
        Builder=builder,
        OnnxParser=parser,
        Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=deserialized),
        DataType=SimpleNamespace(FLOAT="float", HALF="half", INT32="int"),
        TensorIOMode=SimpleNamespace(INPUT="in"),
        MemoryPoolType=SimpleNamespace(WORKSPACE=0),
        BuilderFlag=SimpleNamespace(**({"FP16": "fp16", "INT8": "int8"} if old else {})),
        **({"IInt8EntropyCalibrator2": object} if old else {}),
    )


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict[str, Any]]]:
    def used(version: str, **more: Any) -> list[dict[str, Any]]:
        built: list[dict[str, Any]] = []
        monkeypatch.setitem(sys.modules, "tensorrt", stand_in(version, built, **more))
        return built

    return used


def test_an_engine_is_found_again_and_by_its_own_key_alone(tmp_path: Path) -> None:
    folder = EngineFolder(tmp_path / "engines")
    assert folder.find(KEY) is None
    folder.keep(KEY, b"plan")
    assert folder.find(KEY) == b"plan"
    for change in (
        {"model_sha256": "cd" * 32}, {"tensorrt": "11.4.0"}, {"gpu": "NVIDIA L4 8.9"}, {"precision": "int8"},
        {"height": 640}, {"width": 640}, {"most": 32}, {"calibration_sha256": "ef" * 32},
    ):  # fmt: skip
        assert folder.find(replace(KEY, **change)) is None


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda content: content[:-1], "damaged or cut short"),
        (lambda content: content.replace(b"H200", b"L400"), "built for another gpu"),
        (lambda content: content.replace(b"10.16.1", b"10.15.1"), "built for another tensorrt"),
        (lambda content: b"\x7fELF" + content, "no engine of this version"),
        (lambda content: content[:60], "does not say what it was built for"),
    ],
)
def test_a_stale_or_damaged_engine_is_refused(tmp_path: Path, spoil: Callable[[bytes], bytes], said: str) -> None:
    folder = EngineFolder(tmp_path)
    folder.keep(KEY, b"plan" * 9)
    folder.path(KEY).write_bytes(spoil(folder.path(KEY).read_bytes()))
    with pytest.raises(EngineRefused, match=said):
        folder.find(KEY)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_an_engine_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    folder = EngineFolder(tmp_path)
    folder.keep(KEY, b"plan")
    assert folder.path(KEY).stat().st_mode & 0o777 == 0o600
    folder.path(KEY).chmod(mode)
    with pytest.raises(EngineRefused, match=f"with mode {mode:o}"):
        folder.find(KEY)


def test_what_is_told_to_tensorrt_10(use: Callable[..., list[dict[str, Any]]]) -> None:
    built = use("10.16.1")
    build(b"model", KEY)
    build(b"model", replace(KEY, precision="fp32"))
    build(b"model", replace(KEY, precision="int8"), calibration=[torch.zeros(8, 3, 416, 416)] * 2)
    assert [note["flags"] for note in built] == [["fp16"], [], ["fp16", "int8"]]
    assert built[0]["shapes"] == ("input", (1, 3, 416, 416), (64, 3, 416, 416), (64, 3, 416, 416))
    assert built[2]["calibrated"] == 16
    with pytest.raises(EngineRefused, match="calibrated with 0 batches"):
        build(b"model", replace(KEY, precision="int8"))


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_tensorrt_11_keeps_the_files_own_types(use: Callable[..., list[dict[str, Any]]], precision: Any) -> None:
    built = use("11.4.0")
    build(b"model", replace(KEY, precision="fp32"))
    assert built[0]["flags"] == []
    with pytest.raises(EngineRefused, match="keeps the types of the model's file"):
        build(b"model", replace(KEY, precision=precision))


def test_a_model_that_it_does_not_read(use: Callable[..., list[dict[str, Any]]]) -> None:
    use("10.16.1", reads=False)
    with pytest.raises(EngineRefused, match="does not read the model: no such operator"):
        build(b"model", KEY)


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EngineRefused, match="pip install"):
        build(b"model", KEY)


@pytest.mark.parametrize("version", ["10.16.1", "11.4.0"])
def test_a_detector_builds_once_and_gives_torchs_boxes(
    use: Callable[..., list[dict[str, Any]]], shared_data: Path, tmp_path: Path, version: str
) -> None:
    built = use(version)
    models = ModelRegistry(cache_dir=tmp_path, model_dir=shared_data / "models", fetch=False)
    entry, (content, digest) = models.entry("yunet"), models.read("yunet")
    common: dict[str, Any] = {
        "name": "yunet", "digest": digest, "head": entry.head, "input_size": InputSize(**dict(entry.input)),
        "class_ids": entry.class_ids, "device": "cpu", "batch_size": 2,
    }  # fmt: skip
    expected = TorchDetector(content, precision="fp32", **common).detect([canary_picture()])
    for _ in range(2):
        detector = TensorRtDetector(content, engines=tmp_path / "engines", precision="fp32", **common)
        found = detector.detect([canary_picture()])
        assert len(found[0]) == len(expected[0]) > 0
        assert np.abs(found[0].boxes - expected[0].boxes).max() < 1e-3
        assert detector.version.endswith(f":tensorrt{version}-fp32")
    assert len(built) == 1
