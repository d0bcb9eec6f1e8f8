"""Clips to shards on a GPU, by a process that serves one after the other; what it does not manage, the sandbox does.

The process is bare of credentials, silent, and gone with its parent, as the sandbox's is; but it outlives a clip, and
its memory is not limited (see `confined_child.serve_each`). A clip that takes it over could see those that follow: it
is for uploads that are trusted. It refuses nothing: a clip that NVDEC is not for, that is damaged, that crashes the
process or takes too long goes to the sandbox, whose word counts.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from cv_platform.vision.confined import ConfinedChild, ConfinedServer
from cv_platform.vision.video.limits import DEFAULT_LIMITS, ClipLimits, ClipRejected
from cv_platform.vision.video.probe import ClipFacts
from cv_platform.vision.video.sandbox import (
    ExtractionFailed,
    ExtractionSummary,
    extract_frames,
    followed,
    readable,
    summary_of,
)
from cv_platform.vision.video.shards import JPEG_QUALITY

_ENVIRONMENT: Final = (
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "NVIDIA_VISIBLE_DEVICES",
    "NVIDIA_DRIVER_CAPABILITIES",
)
MOST_LOST: Final = 3
"""Clips in a row on which the process ended or was ended: then there is something wrong with the GPU, not with them."""
_START_S: Final = 120.0
"""What opening a GPU may take, on top of a clip's own time."""

_log = logging.getLogger(__name__)


class GpuExtractor:
    """Does what `sandbox.extract_frames` does, on a GPU where that is possible. Used by one thread at a time.

    Args:
        module: of the process; a test has its own.
    """

    def __init__(self, module: str = "cv_platform.vision.video.gpu_worker") -> None:
        self._server = ConfinedServer(module, environment=_ENVIRONMENT)
        self._lost = 0
        self._given_up = False

    def extract_frames(
        self,
        source: Path,
        shard: Path,
        *,
        fps: float = 5.0,
        long_side: int = 960,
        limits: ClipLimits = DEFAULT_LIMITS,
        jpeg_quality: int = JPEG_QUALITY,
        on_progress: Callable[[int], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> ExtractionSummary:
        """Decode a clip, and write its sampled frames to a shard; arguments and errors as `sandbox.extract_frames`."""
        sampling: dict[str, Any] = {"fps": fps, "long_side": long_side, "jpeg_quality": jpeg_quality}
        if not self._given_up:
            try:
                return self._on_gpu(source, shard, sampling, limits, on_progress, should_stop)
            except _Left as reason:
                _log.warning("decoding on the processor: %s", reason)
        return extract_frames(
            source, shard, limits=limits, on_progress=on_progress, should_stop=should_stop, **sampling
        )

    def _on_gpu(
        self,
        source: Path,
        shard: Path,
        sampling: dict[str, Any],
        limits: ClipLimits,
        on_progress: Callable[[int], None] | None,
        should_stop: Callable[[], bool] | None,
    ) -> ExtractionSummary:
        started = time.monotonic()
        partial = shard.with_name(shard.name + ".gpu")
        request = {
            "source": readable(source),
            "shard": os.path.abspath(partial),
            "limits": limits.as_dict(),
            **sampling,
        }
        timeout_s = limits.decode_timeout_s + _START_S
        whole = False
        try:
            child = self._server.ask(request, timeout_s=timeout_s, should_stop=should_stop)
            facts, done = self._heard(child, limits, timeout_s, on_progress)
            whole = True
            os.replace(partial, shard)
        except _Left:
            whole = not self._given_up  # it is ready for the next clip
            raise
        finally:
            if not whole:
                self._server.stop()
            partial.unlink(missing_ok=True)
        self._lost = 0
        return summary_of(facts, done, elapsed_s=time.monotonic() - started)

    def _heard(
        self,
        child: ConfinedChild,
        limits: ClipLimits,
        timeout_s: float,
        on_progress: Callable[[int], None] | None,
    ) -> tuple[ClipFacts, dict[str, Any]]:
        told_why = False

        def events() -> Iterator[dict[str, Any]]:
            nonlocal told_why
            for event in child.events():
                if event["event"] in ("left", "missing"):
                    told_why = True
                    self._given_up = event["event"] == "missing"
                    raise _Left(str(event["reason"])[:200])
                told_why = event["event"] == "failed"
                yield event

        try:
            return followed(child, events(), limits, timeout_s, on_progress)
        except (ClipRejected, ExtractionFailed) as error:
            if told_why:
                raise  # a full disk, say: the same for any decoder
            self._server.stop()
            self._lost += 1
            self._given_up = self._lost >= MOST_LOST
            more = f"; no more clips go there, since it ended on {self._lost} in a row" if self._given_up else ""
            said = error.reason_code if isinstance(error, ClipRejected) else "it was killed or ended"
            raise _Left(f"the GPU's process did not manage the clip ({said}){more}") from None


class _Left(Exception):
    """Why the clip is left to the sandbox."""
