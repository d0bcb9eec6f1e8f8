"""Log lines for machines: one JSON object a line, with run, step, clip and camera, and nothing personal.

A camera's id beside a time is personal data (where somebody was, and when), and a log line has a time. So `camera` is
not the id but a reference to it, `camera_reference`: the same for all lines of a camera, and told back into an id only
by who may read the ledger's secret. See docs/kubernetes.md, "Logs".

What belongs here: the form of a line and what it is about. Where lines go is the process's to say.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final

_about: ContextVar[Mapping[str, str]] = ContextVar("about", default={})  # noqa: B039  # never changed

FIELDS: Final = frozenset(
    (
        "time",
        "level",
        "logger",
        "message",
        "run",
        "job",
        "step",
        "event",
        "error",
        "stage",
        "clip",
        "camera",
    )
)
"""Every key that a line may have; the first four are always there."""


@contextmanager
def about(**fields: str) -> Iterator[None]:
    """Say what the lines of this block are about: `stage`, `clip`, `camera` (a reference)."""
    token = _about.set({**_about.get(), **fields})
    try:
        yield
    finally:
        _about.reset(token)


def camera_reference(secret: bytes, camera_id: str) -> str:
    """What log lines call a camera: 16 hexadecimal digits that say nothing without the ledger's secret."""
    return hmac.new(secret, camera_id.encode(), hashlib.sha256).hexdigest()[:16]


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON; of an error its type alone, since a library's text may hold a key or a row."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        meta: Mapping[str, Any] | None = getattr(record, "dagster_meta", None)
        if meta is not None:
            line["message"] = meta["orig_message"]
            line |= {name: meta[key] for name, key in _DAGSTERS.items() if meta.get(key)}
            line |= _of_event(meta.get("dagster_event"))
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
        line |= _about.get()
        return json.dumps(line, ensure_ascii=False)


_DAGSTERS: Final = {"run": "run_id", "job": "job_name", "step": "step_key"}


def _of_event(event: Any) -> dict[str, str]:
    """An event's kind and, where it is a failure, the innermost error's type."""
    if event is None:
        return {}
    error = getattr(event.event_specific_data, "error", None)
    while error is not None and error.cause is not None:
        error = error.cause
    found = {"event": event.event_type.value}
    return found if error is None else {**found, "error": str(error.cls_name)}
