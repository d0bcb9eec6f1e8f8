"""The stub cluster: jobs, the pods that they make, nodes that take pods, and what goes wrong on demand.

As much of a cluster as Dagster's launcher, executor and monitor can tell from a real one. A deleted job's pods live on
until they are deleted themselves (the API's default for jobs), a pod's name is its HOSTNAME, a job that ends has the
condition Complete or Failed, and what a pod owns goes when the pod is deleted.
"""

from __future__ import annotations

import copy
import math
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from cv_platform_tests.stubs.manifests import problems
from cv_platform_tests.stubs.pod import Pod, now
from cv_platform_tests.stubs.preloaded import Preloaded

ACCOUNT = "CV_STUB_ACCOUNT"
"""In a container's environment: the service account whose token is mounted; empty where none is."""


class Refused(Exception):
    """An answer of the API that is no success."""

    def __init__(self, status: int, reason: str, message: str = "") -> None:
        self.status, self.reason = status, reason
        super().__init__(message or reason)


@dataclass
class Node:
    """A machine of the cluster: it takes pods whose selector and tolerations fit, and has so many GPUs."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    gpus: int = 0
    taint: str | None = None


CPU_NODE = Node("cpu-1")
GPU_NODES = tuple(
    Node(name, {"nvidia.com/gpu.present": "true"}, gpus=8, taint="nvidia.com/gpu") for name in ("gpu-1", "gpu-2")
)


class Cluster:
    """Jobs and pods of one namespace.

    Args:
        folder: takes the pods' logs.
        environment: what every container finds, as from its image.
        secrets: by name, what `envFrom` gives.
        preloaded: forks Dagster's commands; None: every pod starts a program.
    """

    def __init__(
        self,
        folder: Path,
        *,
        environment: Mapping[str, str],
        secrets: Mapping[str, Mapping[str, str]] | None = None,
        nodes: tuple[Node, ...] = (CPU_NODE, *GPU_NODES),
        namespace: str = "cv",
        preloaded: Preloaded | None = None,
    ) -> None:
        self.namespace = namespace
        self.posted: list[dict[str, Any]] = []
        """Every job as it was posted, in order."""
        self.events: list[dict[str, Any]] = []
        self.environment = dict(environment)
        self._folder, self._secrets, self._nodes = folder, secrets or {}, nodes
        self._preloaded = preloaded
        self._every_pod: list[Pod] = []
        self._jobs: dict[str, dict[str, Any]] = {}
        self._pods: dict[str, Pod] = {}
        self._deadlines: dict[str, float] = {}
        self._lock = threading.RLock()
        self._stopped = threading.Event()
        folder.mkdir(parents=True, exist_ok=True)
        threading.Thread(target=self._control, daemon=True, name="controller").start()

    # what the API asks

    def create_job(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """A new job, whose pod starts at the controller's next turn. Raises Refused."""
        if wrong := problems(manifest):
            raise Refused(422, "Invalid", "; ".join(wrong))
        name = manifest["metadata"]["name"]
        with self._lock:
            if name in self._jobs:
                raise Refused(409, "AlreadyExists", f'jobs.batch "{name}" already exists')
            self.posted.append(copy.deepcopy(manifest))
            job = copy.deepcopy(manifest)
            job["metadata"] |= {"uid": str(uuid.uuid4()), "creationTimestamp": now(), "namespace": self.namespace}
            job["status"] = {"startTime": now(), "active": 1, "ready": 0}
            if deadline_s := job["spec"].get("activeDeadlineSeconds"):
                self._deadlines[name] = time.monotonic() + deadline_s
            self._jobs[name] = job
            return copy.deepcopy(job)

    def jobs(self) -> list[dict[str, Any]]:
        """All jobs that there are."""
        with self._lock:
            return copy.deepcopy(list(self._jobs.values()))

    def job(self, name: str) -> dict[str, Any]:
        """One job. Raises Refused."""
        with self._lock:
            if name not in self._jobs:
                raise Refused(404, "NotFound", f'jobs.batch "{name}" not found')
            return copy.deepcopy(self._jobs[name])

    def delete_job(self, name: str, *, propagation: str | None) -> None:
        """Delete a job; its pods with it only where the caller asks for that. Raises Refused."""
        with self._lock:
            self.job(name)
            del self._jobs[name]
            if propagation in ("Background", "Foreground"):
                for pod in self._pods_of(name):
                    self._delete(pod)

    def pods(self) -> list[dict[str, Any]]:
        """All pods that there are."""
        with self._lock:
            return copy.deepcopy([pod.object for pod in self._pods.values()])

    def pod(self, name: str) -> Pod:
        """One pod. Raises Refused."""
        with self._lock:
            if name not in self._pods:
                raise Refused(404, "NotFound", f'pods "{name}" not found')
            return self._pods[name]

    def delete_pod(self, name: str) -> None:
        """Begin to end a pod; it is there until its process is gone. Raises Refused."""
        self._delete(self.pod(name))

    # what a test does

    def running(self, labels: Mapping[str, str]) -> list[Pod]:
        """Pods that run and carry these labels."""
        with self._lock:
            return [
                pod
                for pod in self._pods.values()
                if pod.object["status"]["phase"] == "Running"
                and not pod.deleted.is_set()
                and labels.items() <= pod.object["metadata"]["labels"].items()
            ]

    def lose_node(self, name: str) -> None:
        """A node that is gone: its pods end without a word, and no new one goes there."""
        with self._lock:
            self._nodes = tuple(node for node in self._nodes if node.name != name)
            lost = [pod for pod in self._pods.values() if pod.object["spec"].get("nodeName") == name]
        for pod in lost:
            pod.kill(pod_reason=("NodeLost", f"Node {name} which was running pod {pod.name} is unresponsive"))

    def processes(self) -> list[psutil.Process]:
        """What lives of all pods that ever were."""
        return [process for pod in list(self._every_pod) for process in pod.processes()]

    def stop(self) -> None:
        """End every pod, and the controller."""
        self._stopped.set()
        with self._lock:
            pods = list(self._pods.values())
        for pod in pods:
            pod.kill()

    # the controller

    def _control(self) -> None:
        while not self._stopped.wait(0.1):
            with self._lock:
                for job in list(self._jobs.values()):
                    self._tend(job)

    def _tend(self, job: dict[str, Any]) -> None:
        name, status = job["metadata"]["name"], job["status"]
        if status.get("conditions"):
            return
        if time.monotonic() > self._deadlines.get(name, math.inf):
            self._fail(job, "DeadlineExceeded", "Job was active longer than specified deadline")
            for pod in self._pods_of(name):
                self._delete(pod)
            return
        pods = self._pods_of(name)
        if not [pod for pod in pods if not pod.finished.is_set()]:
            if status.get("failed", 0) > job["spec"].get("backoffLimit", 6):
                self._fail(job, "BackoffLimitExceeded", "Job has reached the specified backoff limit")
            elif not status.get("succeeded"):
                self._make_pod(job)
        for pod in self._pods_of(name):
            if pod.object["status"]["phase"] == "Pending" and not pod.deleted.is_set():
                self._schedule(pod, status)

    def _make_pod(self, job: dict[str, Any]) -> None:
        template = copy.deepcopy(job["spec"]["template"])
        name = f"{job['metadata']['name']}-{uuid.uuid4().hex[:5]}"
        labels = {
            **template.get("metadata", {}).get("labels", {}),
            "job-name": job["metadata"]["name"],
            "batch.kubernetes.io/job-name": job["metadata"]["name"],
            "controller-uid": job["metadata"]["uid"],
        }
        owner = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "name": job["metadata"]["name"],
            "uid": job["metadata"]["uid"],
        }
        manifest = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                **template.get("metadata", {}),
                "name": name,
                "namespace": self.namespace,
                "labels": labels,
                "ownerReferences": [owner],
            },
            "spec": template["spec"],
        }
        pod = Pod(
            manifest,
            environment=self._environment_of(template["spec"]["containers"][0]) | _token_of(template["spec"]),
            log=self._folder / f"{name}.log",
            ended=self._pod_ended,
            preloaded=self._preloaded,
        )
        self._pods[name] = pod
        self._every_pod.append(pod)

    def _schedule(self, pod: Pod, status: dict[str, Any]) -> None:
        node = next((node for node in self._nodes if self._fits(pod, node)), None)
        if node is None:
            if not any(event["involvedObject"]["name"] == pod.name for event in self.events):
                self._event(pod, "FailedScheduling", "no node fits its selector, tolerations and GPUs")
            return
        pod.object["spec"]["nodeName"] = node.name
        pod.start()
        status["ready"] = 1

    def _fits(self, pod: Pod, node: Node) -> bool:
        spec = pod.object["spec"]
        tolerated = {toleration.get("key") for toleration in spec.get("tolerations", [])}
        used = sum(
            _gpus(other)
            for other in self._pods.values()
            if other.object["spec"].get("nodeName") == node.name and not other.finished.is_set()
        )
        return (
            spec.get("nodeSelector", {}).items() <= dict(node.labels).items()
            and (node.taint is None or node.taint in tolerated)
            and used + _gpus(pod) <= node.gpus
        )

    def _environment_of(self, container: dict[str, Any]) -> dict[str, str]:
        found = dict(self.environment)
        for source in container.get("envFrom", []):
            found |= self._secrets.get((source.get("secretRef") or source.get("configMapRef") or {}).get("name"), {})
        for entry in container.get("env", []):
            reference = (entry.get("valueFrom") or {}).get("secretKeyRef")
            if reference is None:
                found[entry["name"]] = entry.get("value") or ""
            elif reference["name"] in self._secrets:
                found[entry["name"]] = self._secrets[reference["name"]][reference["key"]]
        return found

    def _pod_ended(self, pod: Pod) -> None:
        with self._lock:
            if pod.exit_code == 137:
                self._event(pod, "Killing", "a container was killed")
            if pod.deleted.is_set():
                self._pods.pop(pod.name, None)
                self._collect(pod)
            job = self._jobs.get(pod.object["metadata"]["labels"]["job-name"])
            if job is None or job["status"].get("conditions"):
                return
            status = job["status"]
            status["active"], status["ready"] = 0, 0
            if pod.exit_code == 0:
                status["succeeded"] = 1
                status["completionTime"] = now()
                status["conditions"] = [{"type": "Complete", "status": "True", "lastTransitionTime": now()}]
            else:
                status["failed"] = status.get("failed", 0) + 1

    def _collect(self, owner: Pod) -> None:
        """What a pod owns goes with it: its jobs, in the background."""
        owned = [
            job["metadata"]["name"]
            for job in self._jobs.values()
            if any(reference["uid"] == owner.uid for reference in job["metadata"].get("ownerReferences", []))
        ]
        for name in owned:
            self.delete_job(name, propagation="Background")

    def _fail(self, job: dict[str, Any], reason: str, message: str) -> None:
        job["status"]["active"] = 0
        job["status"]["conditions"] = [
            {"type": "Failed", "status": "True", "reason": reason, "message": message, "lastTransitionTime": now()}
        ]

    def _event(self, pod: Pod, reason: str, message: str) -> None:
        self.events.append(
            {
                "metadata": {"name": f"{pod.name}.{len(self.events)}", "namespace": self.namespace},
                "involvedObject": {"kind": "Pod", "name": pod.name, "namespace": self.namespace},
                "reason": reason,
                "message": message,
                "type": "Warning",
                "count": 1,
                "lastTimestamp": now(),
            }
        )

    def _delete(self, pod: Pod) -> None:
        if pod.finished.is_set():
            self._pods.pop(pod.name, None)
            self._collect(pod)
            return
        pod.delete(pod.object["spec"].get("terminationGracePeriodSeconds", 30))

    def _pods_of(self, job: str) -> list[Pod]:
        return [pod for pod in self._pods.values() if pod.object["metadata"]["labels"]["job-name"] == job]


def _token_of(spec: dict[str, Any]) -> dict[str, str]:
    mounted = spec.get("automountServiceAccountToken", True)
    return {ACCOUNT: spec.get("serviceAccountName", "default") if mounted else ""}


def _gpus(pod: Pod) -> int:
    limits = [container.get("resources", {}).get("limits", {}) for container in pod.object["spec"]["containers"]]
    return sum(int(limit.get("nvidia.com/gpu", 0)) for limit in limits)
