"""The process in which an untrusted clip is anonymised: `python -m cv_platform.vision.anonymise.worker`.

Not for people: `sandbox` starts it, writes one request (a line of JSON) to its standard input and reads events, a line
of JSON each, from its standard output: `progress`, then one of `done`, `failed`, `bug`. As the worker that extracts
frames, it holds no credentials, leaves no core dump, is limited in memory and time, says nothing on standard error and
dies with the process that started it.
"""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path
from typing import Any

from cv_platform.vision.confined_child import Say, serve

_PROGRESS_INTERVAL_S = 0.5


def main() -> int:
    """Serve one request."""
    return serve(_serve, lambda request: (request["memory_bytes"], request["cpu_s"]))


def _serve(request: dict[str, Any], say: Say) -> None:
    try:
        _anonymise(request, say)
    except Exception as error:  # noqa: BLE001 - a bug of ours; its text may carry a path, its type cannot
        say("bug", error=type(error).__name__)


def _anonymise(request: dict[str, Any], say: Say) -> None:
    # imported under the limits, and only in this process
    from cv_platform.vision.anonymise.clip import anonymise_clip
    from cv_platform.vision.anonymise.failures import AnonymisationFailed
    from cv_platform.vision.anonymise.policy import policy_from_json

    said_at = 0.0

    def progress(stage: str, done: int, total: int | None) -> None:
        nonlocal said_at
        if time.monotonic() - said_at > _PROGRESS_INTERVAL_S:
            said_at = time.monotonic()
            say("progress", stage=stage, done=done, total=total)

    try:
        try:
            detector = make_detector(request["detector"])
            verifier = None if request["verifier"] is None else make_detector(request["verifier"])
        except Exception as error:  # noqa: BLE001 - whatever a factory raises; the type only, its text may hold a path
            raise AnonymisationFailed(
                "detector_failed", f"a detector cannot be loaded: {type(error).__name__}"
            ) from None
        certificate = anonymise_clip(
            Path(request["source"]),
            Path(request["destination"]),
            policy=policy_from_json(request["policy"]),
            detector=detector,
            verifier=verifier,
            progress=progress,
        )
    except AnonymisationFailed as failed:
        say("failed", code=failed.reason_code, message=failed.message)
    else:
        say("done", certificate=certificate.to_json())


def make_detector(spec: dict[str, Any]) -> Any:
    """Call the factory that a `DetectorSpec` names."""
    module, _, name = spec["factory"].partition(":")
    return getattr(importlib.import_module(module), name)(**spec["arguments"])


if __name__ == "__main__":
    sys.exit(main())
