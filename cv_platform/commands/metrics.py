"""`cv-platform metrics`: the ledger's figures for Prometheus, from a process of their own."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from cv_platform.commands.console import connected_settings, err

if TYPE_CHECKING:
    from cv_platform.storage.ledger.measures import Measures

_LOOK_S = 15.0
"""However often it is asked, the ledger is looked at no more often than this, in seconds."""


def metrics(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 9464,
    once: Annotated[bool, typer.Option("--once", help="Print the metrics and end.")] = False,
) -> None:
    """Serve Prometheus metrics at /metrics until interrupted. Labels are sites, stages, states and reasons."""
    from cv_platform.storage.ledger.measures import measure
    from cv_platform.storage.provision import database_at

    database = database_at(str(connected_settings().postgres_url))
    if once:
        typer.echo(exposition(measure(database)), nl=False)
        return
    server = make_server(host, port, lambda: measure(database))
    signal.signal(signal.SIGTERM, _leave)  # a container's first process has no other way to be asked
    err.print(f"metrics at http://{host}:{server.server_address[1]}/metrics", markup=False)
    try:
        server.serve_forever()
    finally:
        server.server_close()


def _leave(number: int, frame: object) -> None:
    raise SystemExit(0)


def make_server(host: str, port: int, look: Callable[[], Measures]) -> ThreadingHTTPServer:
    """The exporter's server; a look that fails is answered with 503, and the next request looks again."""
    kept = _Kept(look)

    class Handler(_Handler):
        source = kept

    return ThreadingHTTPServer((host, port), Handler)


class _Kept:
    """The newest look, for a short while; one request at a time looks."""

    def __init__(self, look: Callable[[], Measures]) -> None:
        self._look, self._lock = look, threading.Lock()
        self._text, self._at = "", -_LOOK_S

    def text(self) -> str:
        with self._lock:
            if time.monotonic() - self._at >= _LOOK_S:
                began = time.monotonic()
                text = exposition(self._look())
                took = _family("cv_look_seconds", "Seconds that this look took.", [({}, time.monotonic() - began)])
                self._text, self._at = text + took, time.monotonic()
            return self._text


class _Handler(BaseHTTPRequestHandler):
    source: ClassVar[_Kept]

    def do_GET(self) -> None:
        if self.path == "/healthz":
            return self._answer(200, "ok\n")
        if self.path != "/metrics":
            return self._answer(404, "there is /metrics and /healthz\n")
        try:
            return self._answer(200, self.source.text())
        except Exception as error:  # noqa: BLE001  # a database that restarts must not end the exporter
            return self._answer(503, f"{type(error).__name__}\n")

    def _answer(self, status: int, text: str) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: object) -> None:
        """Quiet: a line a scrape tells nobody anything."""


def exposition(found: Measures) -> str:
    """In Prometheus's text format."""
    by_stage = "By stage: "
    families = [
        _family(
            "cv_clips",
            "Clips by site and state.",
            [({"site": site, "state": state}, n) for (site, state), n in sorted(found.clips.items())],
        ),
        _family(
            "cv_stage_clips",
            "Clips by stage and the stage's state.",
            [
                ({"stage": stage, "state": state}, n)
                for stage, states in sorted(found.stages.items())
                for state, n in sorted(states.items())
            ],
        ),
        _labelled("cv_lag_seconds", "site", "Since the oldest clip in progress was received.", found.lag_s),
        _labelled("cv_quarantined_clips", "code", "Clips in quarantine by reason.", found.quarantined),
        _labelled("cv_ready_clips", "stage", by_stage + "clips that a worker could take now.", found.ready),
        _labelled("cv_retrying_clips", "stage", by_stage + "clips that wait for another attempt.", found.retrying),
        _labelled("cv_expired_leases", "stage", by_stage + "clips whose worker is gone.", found.expired_leases),
        _labelled("cv_frames_per_second", "stage", by_stage + "frames a second of work, 15 minutes.", found.fps),
        _labelled(
            "cv_tier_bytes", "tier", "Size of the ledger, the warm tier, cold Parquet and raw clips.", found.bytes_
        ),
        _family("cv_dirty_days", "Days whose marts are behind.", [({}, found.dirty_days)]),
        _family("cv_garbage_due", "Objects that should have been deleted a day ago.", [({}, found.garbage_due)]),
    ]
    return "".join(families)


def _labelled(name: str, label: str, text: str, values: Mapping[str, float]) -> str:
    return _family(name, text, [({label: key}, value) for key, value in sorted(values.items())])


def _family(name: str, text: str, values: Iterable[tuple[Mapping[str, str], float]]) -> str:
    lines = [f"# HELP {name} {text}", f"# TYPE {name} gauge"]
    for labels, value in values:
        inner = ",".join(f'{key}="{_escaped(label)}"' for key, label in labels.items())
        lines.append(f"{name}{{{inner}}} {float(value):.10g}" if inner else f"{name} {float(value):.10g}")
    return "\n".join(lines) + "\n"


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
