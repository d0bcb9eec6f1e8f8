"""`cv-platform models`: which there are, adding one's own, what is refused and what is left behind then."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cv_platform.cli import app
from cv_platform.settings import get_settings
from cv_platform_tests.vision.detectors.tiny_onnx import scaling_model

Run = Callable[..., Result]


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A model folder and a cache, both empty, that the command's settings name."""
    (tmp_path / "mine").mkdir()
    monkeypatch.setenv("CV_PLATFORM_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("CV_PLATFORM_MODEL_DIR", str(tmp_path / "mine"))
    monkeypatch.setenv("CV_PLATFORM_MODEL_CACHE_DIR", str(tmp_path / "cache"))
    get_settings.cache_clear()
    yield tmp_path
    get_settings.cache_clear()


@pytest.fixture
def run(folders: Path) -> Run:
    return lambda *arguments: CliRunner().invoke(app, ["models", *map(str, arguments)])


def rows(result: Result) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads(result.stdout)["models"]}


def add_arguments(file: Path, **changes: str) -> list[str]:
    options = {"head": "yolov8", "classes": "person", "licence": "MIT", "width": "64", "height": "64", **changes}
    return ["add", "mine", str(file), *(part for k, v in options.items() if v for part in (f"--{k}", v))]


def test_the_list_says_what_is_here_and_fetches_nothing(run: Run, folders: Path) -> None:
    (folders / "mine" / "yolox_nano.onnx").write_bytes(b"not that model")
    listed = run("list", "--json")
    assert listed.exit_code == 0
    found = rows(listed)
    assert found["hog_people"]["state"] == "built in"
    assert found["centerface"]["state"] == "no"
    assert found["yolox_nano"]["finds"] == "80 classes"
    assert "yes" not in {row["state"] for row in found.values()}
    assert "hog_people" in run("list").stdout
    assert not (folders / "cache").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"head": "yolov99"}, ["yolov99", "yolox"]),
        ({"long-side": "640"}, ["--width and --height, or --long-side"]),
        ({"width": "", "height": ""}, ["--width and --height, or --long-side"]),
        ({"classes": "person, unicorn"}, ["unicorn"]),
    ],
)
def test_adding_says_what_is_wrong_and_leaves_nothing(
    run: Run, folders: Path, changes: dict[str, str], says: list[str]
) -> None:
    file = folders / "some.onnx"
    file.write_bytes(scaling_model((1, 3, 64, 64), 1.0))
    result = run(*add_arguments(file, **changes))
    assert result.exit_code == 2
    for words in says:
        assert words in result.output
    assert "mine" not in rows(run("list", "--json"))
    assert not list(folders.glob("cache/*.onnx"))


@pytest.mark.parametrize("content", [b"no model", scaling_model((1, 3, 64, 64), 1.0)])
def test_a_model_that_fails_its_canary_is_taken_back(run: Run, folders: Path, content: bytes) -> None:
    file = folders / "some.onnx"
    file.write_bytes(content)
    result = run(*add_arguments(file))
    assert result.exit_code == 1
    assert "mine is refused" in result.output
    assert "mine" not in rows(run("list", "--json"))
    assert not list(folders.glob("cache/*.onnx"))


def test_the_platforms_own_names_are_taken(run: Run, folders: Path) -> None:
    file = folders / "some.onnx"
    file.write_bytes(b"anything")
    result = run("add", "yunet", *add_arguments(file)[2:])
    assert result.exit_code == 2
    assert "choose another name" in result.output


def test_a_model_of_ones_own_is_added_verified_and_timed(run: Run, folders: Path, shared_data: Path) -> None:
    file = shared_data / "models" / "yolox_nano_416.onnx"
    result = run(*add_arguments(file, head="yolox", classes="coco", width="416", height="416"), "--json")
    assert result.exit_code == 0, result.output
    added = json.loads(result.stdout)
    assert added["added"] == "mine"
    assert added["version"].startswith(f"mine@{added['sha256'][:12]}")
    assert rows(run("list", "--json"))["mine"]["state"] == "yes"
    checked = run("verify", "mine", "--json")
    assert checked.exit_code == 0
    assert rows(checked)["mine"]["state"] == "ok"
    timed = run("bench", "mine", "yunet", "--width", 128, "--height", 96, "--threads", 1, "--json")
    assert timed.exit_code == 0
    assert rows(timed)["mine"]["ms"] > 0
    assert rows(timed)["yunet"]["state"] == "not measured"
    (folders / "cache" / "mine.onnx").write_bytes(b"another file")
    spoilt = run("verify", "mine", "--json")
    assert spoilt.exit_code == 1
    assert rows(spoilt)["mine"]["state"] in ("refused", "not here")


def test_verifying_all_passes_over_what_is_not_here_and_naming_it_does_not(run: Run) -> None:
    everything = run("verify", "--json")
    assert everything.exit_code == 0
    assert rows(everything)["hog_people"]["state"] == "ok"
    assert rows(everything)["yunet"]["state"] == "not here"
    named = run("verify", "yunet")
    assert named.exit_code == 1
    assert "not here" in named.output


@pytest.mark.parametrize("command", ["pull", "verify", "bench"])
def test_an_unknown_name_is_an_error_that_names_the_known(run: Run, command: str) -> None:
    result = run(command, "no_such_model")
    assert result.exit_code == 2
    assert "no_such_model" in result.output
    assert "yolox_nano" in result.output


def test_pulling_what_is_here_or_built_in_fetches_nothing(run: Run, folders: Path, shared_data: Path) -> None:
    (folders / "mine" / "yunet_n_dynamic.onnx").symlink_to(shared_data / "models" / "yunet_n_dynamic.onnx")
    result = run("pull", "hog_people", "yunet", "--json")
    assert result.exit_code == 0
    assert {name: row["state"] for name, row in rows(result).items()} == {
        "hog_people": "built in",
        "yunet": "here already",
    }
