"""`compiled`: the one way in which this package compiles a function to machine code.

Compiled functions are cached beside their source file, or in the user's cache folder where that cannot be written, or
not at all where neither can: then each process compiles anew, and nothing fails. Importing numba takes a quarter of a
second of processor; the definitions never do, a test sees to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])

_OPTIONS: Final[dict[str, Any]] = {
    "nogil": True,
    "error_model": "numpy",  # x / 0 is infinity or NaN, as IEEE says; Python's rule puts a branch into every loop
}


def compiled(function: Function) -> Function:
    """Compile `function` with numba on its first call, without Python objects and without holding the GIL.

    Arithmetic stays IEEE-exact (no fastmath), so that equal inputs give equal bits on every machine.
    """
    try:
        return cast(Function, numba.njit(cache=True, **_OPTIONS)(function))
    except RuntimeError:  # numba found no folder that it may write its cache to
        return cast(Function, numba.njit(**_OPTIONS)(function))
