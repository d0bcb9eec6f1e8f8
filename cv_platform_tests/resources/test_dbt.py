"""How dbt gets its address, and what of its messages gets out."""

from __future__ import annotations

import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from cv_platform.resources import dbt_manifest
from cv_platform.resources.dbt import DbtError, DbtResource, dbt_environment, find_project, read_manifest, scrub
from cv_platform.vision.classes import CLASS_NAMES

NAMES = frozenset({"restricted", "track_summary", "camera_id", "aggregates"})


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        (
            "postgresql://me:p%40ss@db.example:6432/platform?sslmode=verify-full",
            {
                "CV_DBT_HOST": "db.example",
                "CV_DBT_PORT": "6432",
                "CV_DBT_USER": "me",
                "DBT_ENV_SECRET_CV_PASSWORD": "p@ss",
                "CV_DBT_DATABASE": "platform",
                "CV_DBT_SSLMODE": "verify-full",
            },
        ),
        (
            "postgresql://postgres@/platform?host=/run/a%20folder/socket",
            {"CV_DBT_HOST": "/run/a folder/socket", "CV_DBT_USER": "postgres", "CV_DBT_DATABASE": "platform"},
        ),
        (
            "postgresql://postgres@%2Frun%2Fsocket/platform",
            {"CV_DBT_HOST": "/run/socket", "CV_DBT_USER": "postgres", "CV_DBT_DATABASE": "platform"},
        ),
    ],
)
def test_the_address_becomes_variables(url: str, wanted: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE", "PGSSLMODE"):
        monkeypatch.delenv(name, raising=False)
    found = dbt_environment(url)
    assert {name: value for name, value in found.items() if name.startswith(("CV_DBT_", "DBT_ENV_"))} == wanted


def test_dbt_gets_no_other_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a secret")
    monkeypatch.setenv("CV_PLATFORM_ANALYST_PASSWORD", "another")
    assert not {"a secret", "another"} & set(dbt_environment("postgresql://h/d").values())


@pytest.mark.parametrize(
    ("message", "kept", "gone"),
    [
        (
            "Database Error in model track_summary (models/restricted/track_summary.sql)\n"
            '  duplicate key value violates unique constraint "track_summary"\n'
            "  DETAIL:  Key (camera_id, track_id)=(gate-7, 42) already exists.",
            ["track_summary", "duplicate key value"],
            ["gate-7", "42"],
        ),
        ('invalid input syntax for type uuid: "gate-7"', ["invalid input syntax"], ["gate-7"]),
        ("value 'gate-7' of \"camera_id\"", ['"camera_id"'], ["gate-7"]),
        ('relation "restricted.track_summary" is missing', ['"restricted.track_summary"'], []),
        ("LINE 3: where camera_id = gate-7\n  HINT: gate-7\n  CONTEXT:  COPY t, line 1: gate-7", [], ["gate-7"]),
        ("clip 083e12d5-0fc8-4bdd-9431-57a6a400942a failed", ["clip", "failed"], ["083e12d5"]),
        ("Completed with 1 error", ["Completed with 1 error"], []),
    ],
)
def test_messages_lose_values_and_keep_names(message: str, kept: list[str], gone: list[str]) -> None:
    found = scrub(message, NAMES)
    assert all(text in found for text in kept), found
    assert not any(text in found for text in gone), found


def test_a_server_that_is_not_there_is_a_transient_error(tmp_path: Path) -> None:
    resource = DbtResource(project_dir=str(find_project()), scratch_dir=str(tmp_path))
    url = f"postgresql://postgres:secret-word@/platform?host={tmp_path}"
    with pytest.raises(DbtError) as error:
        list(resource.build(url, days=[date(2026, 3, 1)], k=5, identifiers=NAMES))
    assert error.value.transient
    assert "secret-word" not in str(error.value)
    assert not list(tmp_path.glob("dbt-*"))


def test_the_committed_manifest_is_the_project_s() -> None:
    written = (find_project() / "manifest.json").read_text()
    assert written == dbt_manifest.render(find_project()), "python -m cv_platform.resources.dbt_manifest writes it"
    assert str(Path.home()) not in written


def test_the_classes_are_those_of_vision() -> None:
    text = (find_project() / "models" / "staging" / "stg_classes.sql").read_text()
    listed = text.split("set coco = [")[1].split("]")[0]
    assert [name.strip().strip("'") for name in listed.split(",")] == [CLASS_NAMES[n] for n in range(80)]
    for class_id, name in CLASS_NAMES.items():
        if class_id >= 80:
            assert f"({class_id}" in text
            assert f"'{name}'" in text


def test_every_column_of_every_model_is_described() -> None:
    for node in read_manifest(find_project())["nodes"].values():
        if node["resource_type"] == "model" and node["config"]["materialized"] != "ephemeral":
            assert node["description"]
            assert node["columns"]
            assert all(column["description"] for column in node["columns"].values()), node["name"]


def test_loading_definitions_loads_no_dbt() -> None:
    program = (
        "import sys; from cv_platform.settings import Settings;"
        "from cv_platform.defs.aggregates import aggregates_definitions;"
        "aggregates_definitions(Settings());"
        "loaded = {'dbt.cli', 'dbt.graph', 'dbt.parser', 'numpy', 'pandas', 'torch'} & set(sys.modules);"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
