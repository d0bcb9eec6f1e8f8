"""Whether Triton can build here: it makes a small C program for every kernel that it starts. Needs no torch."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec

_logger = logging.getLogger(__name__)


@cache
def triton_works() -> bool:
    """Whether Triton is installed and finds a C compiler; where it finds none, a log line says so, once.

    Images have no compiler. There torch's own kernels do the same work: finding objects takes half as long again.
    """
    if find_spec("triton") is None:
        return False
    if compiler(os.environ, shutil.which) is None:
        _logger.warning(
            "triton is here and no C compiler, so torch's own kernels are used: slower; install gcc, or set CC"
        )
        return False
    return True


def compiler(environment: Mapping[str, str], which: Callable[[str], str | None]) -> str | None:
    """The C compiler that Triton would take; None where there is none. Interpreted kernels need none."""
    if environment.get("TRITON_INTERPRET", "0") not in ("", "0"):
        return "interpreter"
    return environment.get("CC") or which("gcc") or which("clang")
