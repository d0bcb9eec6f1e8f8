"""A stand-in for `gpu_worker`: decodes on the processor, unless the clip's name says how it is to go wrong."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from cv_platform.vision.confined_child import Say, serve_each
from cv_platform.vision.video.limits import ClipLimits, ClipRejected
from cv_platform.vision.video.worker import _extract


def _serve(request: dict[str, Any], say: Say) -> None:
    source = Path(request["source"])
    match source.stem:
        case "left":
            say("left", reason="the codec is vp9")
        case "missing":
            say("missing", reason="torch finds no CUDA GPU on this machine")
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "lost":
            os._exit(1)
        case "hang":
            Path(request["shard"]).write_bytes(b"half of it")
            time.sleep(60)
        case "full":
            say("failed", error="ENOSPC")
        case "words":
            os.write(3, b"not an event\n")
            say("what", is_this=1)
            os._exit(0)
        case _:
            try:
                _extract({**request, "threads": 1}, source, ClipLimits(**request["limits"]), say)
            except ClipRejected as rejected:
                say("left", reason=f"it would be refused ({rejected.reason_code})")


if __name__ == "__main__":
    sys.exit(serve_each(_serve))
