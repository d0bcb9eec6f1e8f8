"""What an image leaves out: a quarter of the packages' size, and nothing that anything reads."""

from __future__ import annotations

import importlib.util
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest

from cv_platform_tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def requirements() -> ModuleType:
    """docker/requirements.py, which no package holds."""
    spec = importlib.util.spec_from_file_location("requirements", REPOSITORY / "docker" / "requirements.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_dbts_generic_tests_stay(requirements: ModuleType) -> None:
    """A pattern for packages' tests took `accepted_values` with it: no mart was ever built in an image."""
    site = Path(sysconfig.get_path("purelib"))
    macros = [path for path in (site / "dbt" / "include").rglob("*.sql") if "accepted_values" in path.read_text()]
    assert macros
    gone = requirements.unused(site)
    assert gone
    assert not [path for path in macros if any(path.is_relative_to(folder) for folder in gone)]


def test_tests_of_packages_go(requirements: ModuleType, tmp_path: Path) -> None:
    for folder in ("numpy/tests", "scipy/linalg/tests", "dbt/include/global_project/tests", "fontTools/feaLib"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "fontTools" / "agl.py").touch()
    gone = {str(path.relative_to(tmp_path)) for path in requirements.unused(tmp_path)}
    assert gone == {"numpy/tests", "scipy/linalg/tests", "fontTools/feaLib"}, "matplotlib imports fontTools.agl"


def test_an_image_has_no_server_of_the_embedded_stack(
    requirements: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr("sys.argv", ["requirements.py", "kubernetes"])
    requirements.main()
    names = {requirements.name_of(line) for line in capsys.readouterr().out.splitlines()}
    assert {"dagster", "dagster-k8s", "onnxruntime", "dbt-postgres"} <= names
    assert names & requirements.ELSEWHERE == set()
