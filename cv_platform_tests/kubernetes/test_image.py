"""What an image leaves out: a quarter of the packages' size, and nothing that anything reads."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from cv_platform.settings import Settings
from cv_platform.vision.models import REGISTRY_FILE, load_registry
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


def test_models_that_come_in_wheels_are_found(requirements: ModuleType) -> None:
    """By the standard library alone, in the build: what YAML says of them."""
    entries, choices = load_registry()
    found = requirements.in_wheels(REGISTRY_FILE.read_text())
    assert found == [(entry.wheel, entry.member) for entry in entries.values() if entry.wheel]
    (default,) = choices["face_detector"][0]
    assert entries[default].wheel, "an image without what finds faces to hide publishes nothing"


def test_a_model_of_another_digest_stops_the_build(
    requirements: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "mine-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("mine/net.onnx", b"net")
        wheel.writestr("mine-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
        wheel.writestr("mine-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("mine-1.0.dist-info/RECORD", "")
    for name, value in (("NO_INDEX", "1"), ("FIND_LINKS", str(tmp_path)), ("CONFIG_FILE", "/dev/null")):
        monkeypatch.setenv(f"PIP_{name}", value)
    registry = "    source:\n      wheel: mine==1.0\n      member: mine/net.onnx\n"
    with pytest.raises(SystemExit, match="has a digest that"):
        requirements.fetch_models(registry, tmp_path)
    requirements.fetch_models(registry + hashlib.sha256(b"net").hexdigest(), tmp_path)
    assert (tmp_path / "net.onnx").read_bytes() == b"net"


def test_no_pod_fetches_models() -> None:
    lines = (REPOSITORY / "docker" / "Dockerfile").read_text()
    assert "CV_PLATFORM_MODEL_DIR=/opt/cv-platform/models CV_PLATFORM_FETCH_MODELS=false" in lines
    assert {"model_dir", "fetch_models"} <= set(Settings.model_fields)
    assert lines.count("COPY --from=models /build/models /opt/cv-platform/models") == 2, "code and code-gpu"


def test_a_step_of_the_build_that_fails_ends_it() -> None:
    """Half-installed certificates went into an image, in which no store could be opened."""
    lines = (REPOSITORY / "docker" / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    steps = [line.removeprefix("RUN ").strip() for line in lines if line.startswith("RUN ")]
    assert len(steps) > 5
    for step in steps:
        assert ";" not in step or step.startswith("set -e;"), step


def test_modules_that_the_build_runs_know_their_options() -> None:
    """`ensurepip -q` is none: the GPU image could never be built."""
    text = (REPOSITORY / "docker" / "Dockerfile").read_text().replace("\\\n", " ")
    calls = re.findall(r"python3 -m (ensurepip|venv|compileall)([^&;\n]*)", text)
    assert {module for module, _ in calls} == {"ensurepip", "venv", "compileall"}
    for module, arguments in calls:
        known = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True)
        for option in re.findall(r" (-[\w-]+)", arguments):
            assert re.search(rf"{option}\b", known.stdout), f"{module} {option}"


def test_the_command_line_in_an_image_knows_its_name(tmp_path: Path) -> None:
    """The package is not installed there: the wrapper runs it, and help said "Usage: -c"."""
    (tmp_path / "python3").symlink_to(sys.executable)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHONPATH": ":".join([str(REPOSITORY), *sys.path[1:]])}
    wrapper = REPOSITORY / "docker" / "cv-platform"
    told = subprocess.run([wrapper, "--help"], capture_output=True, text=True, env=environment, timeout=60, check=True)
    assert "Usage: cv-platform [OPTIONS]" in told.stdout
