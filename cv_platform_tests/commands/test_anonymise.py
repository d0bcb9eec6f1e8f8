"""`cv-platform anonymise`: files and folders, alone, and what is said where something is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cv_platform.cli import app
from cv_platform.settings import get_settings
from cv_platform_tests.vision.anonymise.scripted import write_squares

Run = Callable[..., Result]
MODELS = ("--detector", "yunet", "--verifier", "ultraface")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("clip") / "in.mp4", lambda n: [(40, 30, 24)], frames=8)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs the command with nothing of the machine's own: no models, no state."""
    (tmp_path / "models").mkdir()
    monkeypatch.setenv("CV_PLATFORM_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("CV_PLATFORM_MODEL_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("CV_PLATFORM_FETCH_MODELS", "false")
    monkeypatch.delenv("CV_PLATFORM_MODEL_CACHE_DIR", raising=False)
    get_settings.cache_clear()
    yield lambda *arguments: CliRunner().invoke(app, ["anonymise", *map(str, arguments)])
    get_settings.cache_clear()


@pytest.fixture
def with_models(run: Run, tmp_path: Path, shared_data: Path) -> Run:
    for name in ("yunet_n_dynamic.onnx", "ultraface_RFB-640.onnx"):
        (tmp_path / "models" / name).symlink_to(shared_data / "models" / name)
    return run


def results(result: Result) -> list[dict[str, Any]]:
    return list(json.loads(result.stdout)["clips"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--classes", "face,unicorn"], ["unicorn", "licence plate"]),
        (["--classes", " , "], ["nothing would be hidden"]),
        (["--zone", "0,0 1,0"], ["at least 3 points"]),
        (["--zone", "0,0 1,0 1,2"], ["0..1"]),
        (["--zone", "here and there"], ["no polygon"]),
        (["--detector", "no_such_model"], ["no_such_model"]),
        (["--method", "pixelate"], ["pixelate", "mosaic"]),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(
    run: Run, clip: Path, tmp_path: Path, arguments: list[str], says: list[str]
) -> None:
    result = run(clip, "-o", tmp_path / "out.mp4", *arguments)
    assert result.exit_code == 2
    assert not isinstance(result.exception, ValueError)
    for words in says:
        assert words in result.output
    assert not (tmp_path / "out.mp4").exists()


def test_a_model_does_not_prove_itself(with_models: Run, clip: Path, tmp_path: Path) -> None:
    result = with_models(clip, "-o", tmp_path / "out.mp4", "--detector", "yunet", "--verifier", "yunet")
    assert result.exit_code == 2
    assert "a second, different model" in result.output
    assert not (tmp_path / "out.mp4").exists()


def test_without_models_it_says_where_they_go(run: Run, clip: Path, tmp_path: Path) -> None:
    result = run(clip, "-o", tmp_path / "out.mp4")
    assert result.exit_code == 2
    assert "CV_PLATFORM_MODEL_DIR" in result.output


def test_a_folder_without_clips(with_models: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("nothing to see")
    result = with_models(tmp_path / "empty", *MODELS)
    assert result.exit_code == 2
    assert "holds no clip" in result.output


def test_a_clip_its_certificate_and_what_verifying_says(with_models: Run, clip: Path, tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    shutil.copy(clip, folder / "good.mp4")
    (folder / "broken.mkv").write_bytes(b"no clip at all")
    done = with_models(folder, "-o", tmp_path / "out", "--json", *MODELS)
    assert done.exit_code == 1
    broken, good = results(done)
    assert broken["input"].endswith("broken.mkv")
    assert broken["error"] == "not_a_video"
    made = Path(good["output"])
    assert made == tmp_path / "out" / "good.mp4"
    assert good["frames"] == 8
    assert sorted(p.name for p in made.parent.iterdir()) == sorted([made.name, Path(good["certificate"]).name])

    checked = with_models("verify", made, "--no-look", "--json")
    assert checked.exit_code == 0
    assert json.loads(checked.stdout)["problems"] == []
    looked = with_models("verify", made, "--verifier", "ultraface")
    assert looked.exit_code == 0
    assert "is what its certificate says (8 frames)" in looked.output

    unknown = with_models("verify", made, "--verifier", "no_such_model")
    for model in (tmp_path / "models").iterdir():
        model.unlink()
    blind = with_models("verify", made)
    for result in (unknown, blind):
        assert result.exit_code == 2
        assert not isinstance(result.exception, ValueError)
        assert "--no-look" in result.output

    with open(made, "ab") as file:
        file.write(b"\0\0\0\x08free")
    spoilt = with_models("verify", made, "--no-look")
    assert spoilt.exit_code == 1
    assert "digest or length differs" in spoilt.output

    Path(good["certificate"]).write_text("{}")
    assert with_models("verify", made, "--no-look").exit_code == 2
    Path(good["certificate"]).unlink()
    bare = with_models("verify", made, "--no-look")
    assert bare.exit_code == 2
    assert "there is none" in bare.output


def test_results_that_are_there_stay(with_models: Run, clip: Path, tmp_path: Path) -> None:
    folder, made = tmp_path / "clips", tmp_path / "made"
    (folder / "sub").mkdir(parents=True)
    made.mkdir()
    for name in ("a.mp4", "a.mkv", "sub/a.MOV"):
        shutil.copy(clip, folder / name)
    (made / "sub").mkdir()
    for name in ("a.mp4", "a.mp4.mp4", "sub/a.mp4"):
        (made / name).write_text("made before")
    told = results(with_models(folder, "-o", made, "--json", *MODELS))
    assert [(Path(t["input"]).name, t["error"]) for t in told] == [
        ("a.mkv", "exists"),
        ("a.mp4", "exists"),
        ("a.MOV", "exists"),
    ]
    assert {(made / n).read_text() for n in ("a.mp4", "a.mp4.mp4", "sub/a.mp4")} == {"made before"}


def test_a_clip_never_replaces_itself(with_models: Run, clip: Path, tmp_path: Path) -> None:
    own = shutil.copy(clip, tmp_path / "own.mp4")
    before = Path(own).read_bytes()
    result = with_models(own, "-o", own, "--force", *MODELS)
    assert result.exit_code == 1
    assert "OUT would replace IN" in result.output
    assert Path(own).read_bytes() == before
