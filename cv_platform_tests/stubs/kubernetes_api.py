"""The Kubernetes API as HTTP on 127.0.0.1: what dagster-k8s and our jobs call of it, over a stub cluster.

Faults are rules: which requests, what happens to them, how often. The first that fits a request takes it. Who asks may
do what docker/k8s/access.yaml says of the service account: a pod has its own, whoever is no pod has Dagster's.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from cv_platform_tests.conftest import REPOSITORY
from cv_platform_tests.stubs.cluster import ACCOUNT, Cluster, Refused

_JOBS = re.compile(r"/apis/batch/v1/namespaces/(?P<namespace>[^/]+)/jobs(/(?P<name>[^/]+))?(?P<rest>/status)?")
_PODS = re.compile(r"/api/v1/namespaces/(?P<namespace>[^/]+)/pods(/(?P<name>[^/]+))?(?P<rest>/status|/log)?")
_EVENTS = re.compile(r"/api/v1/namespaces/(?P<namespace>[^/]+)/events")


_DAGSTER = "cv-platform-dagster"
# What kubectl's plugins print: the token of the account that is mounted, and no process outside of a pod lacks one.
_CREDENTIAL = (
    f'[ -n "${{{ACCOUNT}-{_DAGSTER}}}" ] && printf \'{{"apiVersion": "client.authentication.k8s.io/v1", "kind":'
    f' "ExecCredential", "status": {{"token": "%s"}}}}\' "${{{ACCOUNT}-{_DAGSTER}}}"'
)


def allowed() -> dict[str, set[tuple[str, str]]]:
    """What each service account may do, as verb and resource, by docker/k8s/access.yaml."""
    documents = list(yaml.safe_load_all((REPOSITORY / "docker" / "k8s" / "access.yaml").read_text()))
    roles = {document["metadata"]["name"]: document["rules"] for document in documents if document["kind"] == "Role"}
    found: dict[str, set[tuple[str, str]]] = {}
    for binding in (document for document in documents if document["kind"] == "RoleBinding"):
        for subject in binding["subjects"]:
            for rule in roles[binding["roleRef"]["name"]]:
                found.setdefault(subject["name"], set()).update(
                    (verb, resource) for verb in rule["verbs"] for resource in rule["resources"]
                )
    return found


@dataclass
class Fault:
    """A rule for requests that go wrong.

    Attributes:
        status: the answer; 0 lets the request through, after the delay.
        method, path: which requests; `path` is a pattern that is searched for.
        times: how many requests; None: every one.
        delay_s: seconds before the answer.
        done_first: do what is asked, and answer `status` all the same: an answer that got lost.
        retry_after_s: what the header Retry-After says.
    """

    status: int
    method: str = ""
    path: str = ""
    times: int | None = None
    delay_s: float = 0.0
    done_first: bool = False
    retry_after_s: int | None = None
    hit: int = 0

    def fits(self, method: str, path: str) -> bool:
        """Whether it is this rule's turn."""
        left = self.times is None or self.hit < self.times
        return left and self.method in ("", method) and re.search(self.path, path) is not None


class KubernetesApi:
    """The server; `kubeconfig` leads clients to it."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.requests: list[tuple[str, str, int]] = []
        """Method, path and answered status of every request."""
        self._allowed = allowed()
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        api = self

        class Handler(_Handler):
            owner = api

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.kubeconfig = folder / "kubeconfig"
        self.kubeconfig.write_text(yaml.safe_dump(self._config()))
        threading.Thread(target=self._server.serve_forever, daemon=True, name="kubernetes api").start()

    def stop(self) -> None:
        """End the server and all pods."""
        self._server.shutdown()
        self._server.server_close()
        self.cluster.stop()

    @contextmanager
    def fault(self, status: int, **rule: Any) -> Iterator[Fault]:
        """A rule while the block runs."""
        made = Fault(status, **rule)
        with self._lock:
            self._faults.append(made)
        try:
            yield made
        finally:
            with self._lock:
                self._faults.remove(made)

    def take_fault(self, method: str, path: str) -> Fault | None:
        """The rule for a request, counted."""
        with self._lock:
            found = next((fault for fault in self._faults if fault.fits(method, path)), None)
            if found is not None:
                found.hit += 1
            return found

    def authorise(self, account: str, method: str, path: str) -> None:
        """Raises Refused unless the account may do this."""
        if not account:
            raise Refused(401, "Unauthorized", "no token")
        if path == "/version":
            return
        match = _JOBS.fullmatch(path) or _PODS.fullmatch(path)
        resource = ("jobs" if "/jobs" in path else "pods") + (match["rest"] or "") if match else "events"
        verb = {"POST": "create", "DELETE": "delete"}.get(method, "get" if match and match["name"] else "list")
        if (verb, resource) not in self._allowed.get(account, set()):
            raise Refused(403, "Forbidden", f'"{account}" cannot {verb} resource "{resource}"')

    def answer(self, method: str, path: str, query: dict[str, str], body: dict[str, Any] | None) -> Any:
        """What a request gives: an object, or the text of a log. Raises Refused."""
        if match := _JOBS.fullmatch(path):
            return self._jobs(method, match["name"], query, body)
        if match := _PODS.fullmatch(path):
            return self._pods(method, match["name"], match["rest"], query)
        if _EVENTS.fullmatch(path) and method == "GET":
            wanted = _selector(query.get("fieldSelector", "")).get("involvedObject.name")
            events = [e for e in self.cluster.events if wanted in (None, e["involvedObject"]["name"])]
            return {"kind": "EventList", "apiVersion": "v1", "metadata": {}, "items": events}
        if path == "/version":
            return {"major": "1", "minor": "36", "gitVersion": "v1.36.0"}
        raise Refused(404, "NotFound", f"the stub has no {method} {path}")

    def _jobs(self, method: str, name: str | None, query: dict[str, str], body: dict[str, Any] | None) -> Any:
        if method == "POST" and body is not None:
            return self.cluster.create_job(body)
        if method == "GET" and name is None:
            items = [job for job in self.cluster.jobs() if _selected(job, query)]
            return {"kind": "JobList", "apiVersion": "batch/v1", "metadata": {}, "items": items}
        if method == "GET" and name is not None:
            return self.cluster.job(name)
        if method == "DELETE" and name is not None:
            propagation = query.get("propagationPolicy") or (body or {}).get("propagationPolicy")
            self.cluster.delete_job(name, propagation=propagation)
            return {"kind": "Status", "apiVersion": "v1", "status": "Success"}
        raise Refused(405, "MethodNotAllowed")

    def _pods(self, method: str, name: str | None, rest: str | None, query: dict[str, str]) -> Any:
        if name is None:
            items = [pod for pod in self.cluster.pods() if _selected(pod, query)]
            return {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}
        pod = self.cluster.pod(name)
        if method == "DELETE":
            self.cluster.delete_pod(name)
        if rest == "/log":
            lines = pod.log.read_text(errors="replace").splitlines() if pod.log.exists() else []
            return "\n".join(lines[-int(query.get("tailLines", 10_000)) :])
        return pod.object

    def _config(self) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "stub",
            "clusters": [{"name": "stub", "cluster": {"server": self.url}}],
            "users": [
                {
                    "name": "stub",
                    "user": {
                        "exec": {
                            "apiVersion": "client.authentication.k8s.io/v1",
                            "command": "/bin/sh",
                            "args": ["-c", _CREDENTIAL],
                            "interactiveMode": "Never",
                        }
                    },
                }
            ],
            "contexts": [
                {"name": "stub", "context": {"cluster": "stub", "user": "stub", "namespace": self.cluster.namespace}}
            ],
        }


class _Handler(BaseHTTPRequestHandler):
    owner: KubernetesApi
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:  # the base class's name
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def do_DELETE(self) -> None:
        self._handle()

    def _handle(self) -> None:
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or "null") if length else None
        fault = self.owner.take_fault(self.command, parts.path)
        if fault is not None and fault.delay_s:
            time.sleep(fault.delay_s)
        try:
            if fault is not None and fault.status and not fault.done_first:
                raise Refused(fault.status, "Injected", "a fault that the test asked for")
            account = (self.headers.get("Authorization") or "").removeprefix("Bearer").strip()
            self.owner.authorise(account, self.command, parts.path)
            found = self.owner.answer(self.command, parts.path, query, body)
            if fault is not None and fault.status:
                raise Refused(fault.status, "Injected", "done, and the answer is lost")
            self._send(201 if self.command == "POST" else 200, found, fault)
        except Refused as refused:
            status = {
                "kind": "Status",
                "apiVersion": "v1",
                "status": "Failure",
                "code": refused.status,
                "reason": refused.reason,
                "message": str(refused),
            }
            self._send(refused.status, status, fault)

    def _send(self, status: int, answer: Any, fault: Fault | None) -> None:
        self.owner.requests.append((self.command, urlsplit(self.path).path, status))
        text = isinstance(answer, str)
        data = answer.encode() if text else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if text else "application/json")
        self.send_header("Content-Length", str(len(data)))
        if fault is not None and fault.retry_after_s is not None:
            self.send_header("Retry-After", str(fault.retry_after_s))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Quiet: `requests` holds them."""


def _selector(text: str) -> dict[str, str]:
    return dict(part.replace("==", "=").split("=", 1) for part in text.split(",") if "=" in part)


def _selected(item: dict[str, Any], query: dict[str, str]) -> bool:
    labels = item["metadata"].get("labels", {})
    wanted = _selector(query.get("labelSelector", ""))
    present = [part for part in query.get("labelSelector", "").split(",") if part and "=" not in part]
    name = _selector(query.get("fieldSelector", "")).get("metadata.name")
    return (
        wanted.items() <= labels.items()
        and all(key in labels for key in present)
        and name in (None, item["metadata"]["name"])
    )
