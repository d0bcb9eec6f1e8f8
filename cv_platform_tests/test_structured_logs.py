"""A line of JSON says what it is about and nothing personal."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from cv_platform.settings import Settings
from cv_platform.structured_logs import FIELDS, JsonFormatter, about, camera_reference


def line(message: str = "said", *arguments: object, error: BaseException | None = None) -> dict[str, str]:
    """One record, formatted and read back."""
    info = None if error is None else (type(error), error, error.__traceback__)
    record = logging.LogRecord("cv_platform", logging.INFO, __file__, 1, message, arguments, info)
    text = JsonFormatter().format(record)
    assert "\n" not in text
    found: dict[str, str] = json.loads(text)
    assert set(found) <= FIELDS
    return found


def test_a_line_is_about_what_its_block_is() -> None:
    with about(run="r", stage="detections"):
        with about(clip="c"):
            inner = line("%d clips\nin two lines", 3)
        outer = line()
    assert (inner["run"], inner["stage"], inner["clip"]) == ("r", "detections", "c")
    assert inner["message"] == "3 clips\nin two lines"
    assert "clip" not in outer
    assert "run" not in line()


def test_of_an_error_the_type_is_told_alone() -> None:
    """A library's text may hold a row, a key or a path."""
    try:
        raise KeyError("raw/north/cam1/2026/03/01/20260301T080000Z.mp4")
    except KeyError:
        error = sys.exc_info()[1]
    found = line("it failed", error=error)
    assert found["error"] == "KeyError"
    assert "cam1" not in json.dumps(found)


def test_a_camera_is_called_the_same_by_one_deployment_alone() -> None:
    here, there = b"1" * 32, b"2" * 32
    assert camera_reference(here, "cam1") == camera_reference(here, "cam1")
    assert len({camera_reference(secret, camera) for secret in (here, there) for camera in ("cam1", "cam2")}) == 4
    assert "cam1" not in camera_reference(here, "cam1")


@pytest.mark.parametrize(
    ("log_format", "executor", "expected"),
    [("auto", "k8s", True), ("auto", "in_process", False), ("json", "in_process", True), ("text", "k8s", False)],
)
def test_on_kubernetes_lines_are_json_unless_somebody_says_otherwise(
    log_format: str, executor: str, expected: bool
) -> None:
    assert Settings(log_format=log_format, executor=executor).json_lines is expected  # type: ignore[arg-type]
