"""constraints.txt pins everything that is installed, and nothing else is in it but pins."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cv_platform_tests.conftest import REPOSITORY

LINES = (REPOSITORY / "constraints.txt").read_text().splitlines()
PINS = {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in LINES if "==" in line}
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
# What `make demo`, `make test` and `make lint` install.
EXTRAS = ("demo", "kubernetes", "test", "lint")


def test_it_holds_pins_alone_in_order() -> None:
    """No hash, no option, no address of an index: it must serve wherever packages come from."""
    for line in LINES:
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.!+]+", line), line
    assert sorted(LINES, key=str.lower) == LINES
    assert len(PINS) == len(LINES)


def declared() -> list[Requirement]:
    lines = [*PROJECT["dependencies"], *(line for extra in EXTRAS for line in PROJECT["optional-dependencies"][extra])]
    return [Requirement(line) for line in lines if not line.startswith("cv-platform")]


@pytest.mark.parametrize("requirement", declared(), ids=lambda requirement: requirement.name)
def test_each_declared_package_is_pinned_as_allowed(requirement: Requirement) -> None:
    pin = PINS.get(canonicalize_name(requirement.name))
    assert pin is not None, f"add {requirement.name} to constraints.txt"
    assert requirement.specifier.contains(pin, prereleases=True)


def test_everything_that_these_need_is_pinned_too() -> None:
    missing: set[str] = set()
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [(requirement.name, frozenset(requirement.extras)) for requirement in declared()]
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # for another platform or Python
        if canonicalize_name(name) not in PINS:
            missing.add(name)
        for line in needs:
            need = Requirement(line)
            wanted = need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in ("", *extras))
            if wanted:
                waiting.append((need.name, frozenset(need.extras)))
    # Part of every environment, and never constrained by its own installer.
    assert missing - {"pip", "setuptools", "wheel"} == set()


def test_each_dependency_is_explained() -> None:
    page = (REPOSITORY / "docs" / "dependencies.md").read_text()
    words = {canonicalize_name(word) for word in re.findall(r"[A-Za-z0-9][A-Za-z0-9_.-]*", page)}
    stubs = {name for name in (canonicalize_name(r.name) for r in declared()) if "stubs" in name or "types-" in name}
    assert {canonicalize_name(requirement.name) for requirement in declared()} - stubs - words == set()


def test_both_packages_of_opencv_are_of_one_version() -> None:
    """The peers of the benchmarks bring `opencv-python`, which overwrites `cv2` of the headless one."""
    assert PINS["opencv-python"] == PINS["opencv-python-headless"]
