"""Triton is used where it can build, and nowhere else: an image has no compiler."""

from __future__ import annotations

import pytest

from cv_platform.vision.gpu.compiler import compiler


@pytest.mark.parametrize(
    ("environment", "there", "found"),
    [
        ({}, {}, None),
        ({"TRITON_INTERPRET": "0"}, {}, None),
        ({"TRITON_INTERPRET": "1"}, {}, "interpreter"),
        ({"CC": "/opt/cc"}, {}, "/opt/cc"),
        ({}, {"gcc": "/usr/bin/gcc", "clang": "/usr/bin/clang"}, "/usr/bin/gcc"),
        ({}, {"clang": "/usr/bin/clang"}, "/usr/bin/clang"),
    ],
)
def test_the_compiler_that_triton_takes(environment: dict[str, str], there: dict[str, str], found: str | None) -> None:
    assert compiler(environment, there.get) == found
