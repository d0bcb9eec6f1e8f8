"""When a GPU is lost to this process: after one CUDA error nothing that the process holds there can be used again.

Needs no torch, so that whoever has work in hand can tell this error from others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_SIGNS: Final = ("CUDA error", "CUDA driver error", "cuDNN error", "CUBLAS_STATUS", "device-side assert")


class DeviceLost(RuntimeError):
    """A CUDA error: give back what is in hand and end the process. The message holds nothing of the input."""


@contextmanager
def telling_loss() -> Iterator[None]:
    """In here a CUDA error is raised as `DeviceLost`. Too little memory is none: it passes as it is."""
    try:
        yield
    except DeviceLost:
        raise
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError" and is_loss(error):
            first = str(error).splitlines()[0][:200]
            raise DeviceLost(f"the GPU is lost to this process, which has to end: {first}") from None
        raise


def is_loss(error: BaseException) -> bool:
    """Whether an error of torch's is a CUDA error."""
    return type(error).__name__ == "AcceleratorError" or any(sign in str(error) for sign in _SIGNS)
