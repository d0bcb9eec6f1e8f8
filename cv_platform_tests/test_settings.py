"""Settings: typed, from the environment, and clear about what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from cv_platform.settings import Settings


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("POSTGRES_URL", "mysql://u@h/d", "allowed is postgresql://"),
        ("LEASE_S", "0", "greater than 0"),
        ("LEASE_S", "soon", "valid number"),
        ("MAX_ATTEMPTS", "0", "greater than 0"),
        ("MIN_RUN_INTERVAL_S", "-1", "greater than or equal to 0"),
        ("PARTITIONS_START", "yesterday", "date"),
        ("EXECUTOR", "thread", "'in_process' or 'k8s'"),
        ("FRAMES_FPS", "nan", "greater than 0"),
        ("TRACKER", "deepsort", "'default', 'twostage', 'sort', 'bytetrack' or 'ocsort'"),
        ("TRACKER_PARAMETERS", "max_age", "allowed is NAME=VALUE"),
        ("TRACKER_PARAMETERS", "max_age=1,max_age=2", "each name once"),
    ],
)
def test_a_wrong_value_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str) -> None:
    monkeypatch.setenv(f"CV_PLATFORM_{name}", value)
    with pytest.raises(ValidationError, match=said) as caught:
        Settings()
    assert name.lower() in str(caught.value)


def test_a_trackers_parameters_are_numbers_and_words(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().tracker_arguments == {}
    monkeypatch.setenv("CV_PLATFORM_TRACKER_PARAMETERS", "max_age=30, match_threshold = 0.25,boxes=measured")
    found = Settings().tracker_arguments
    assert found == {"max_age": 30, "match_threshold": 0.25, "boxes": "measured"}
    assert isinstance(found["max_age"], int)


def test_an_empty_variable_is_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CV_PLATFORM_POSTGRES_URL", "")
    assert Settings().postgres_url is None


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CV_PLATFORM_RESTRICTED_S3_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("CV_PLATFORM_ANALYST_PASSWORD", "hunter3")
    assert "hunter" not in repr(Settings())


def test_stores_fall_back_to_the_state_folder(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    assert settings.store_url == settings.raw_store_url == (tmp_path / "store").as_uri()
    assert settings.scratch == tmp_path / "work"
    apart = Settings(state_dir=tmp_path, object_store_url="s3://b", restricted_store_url="s3://r")
    assert (apart.store_url, apart.raw_store_url) == ("s3://b", "s3://r")
