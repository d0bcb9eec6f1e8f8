"""One deployment on the stub cluster: databases, the API, the instance's settings, Dagster's daemon, clips."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import dagster as dg
import yaml

from cv_platform.embedded.processes import record_of, stop
from cv_platform.pipeline.versions import current_versions
from cv_platform.settings import Settings
from cv_platform.storage.ledger.queries import balance
from cv_platform.storage.ledger.versions import adopt_versions
from cv_platform_tests.conftest import REPOSITORY
from cv_platform_tests.kubernetes.instance import instance_config
from cv_platform_tests.kubernetes.location import CHECKS, SENSORS
from cv_platform_tests.pipeline.world import World, short_clip
from cv_platform_tests.servers import TestServers
from cv_platform_tests.stubs.cluster import Cluster
from cv_platform_tests.stubs.kubernetes_api import KubernetesApi
from cv_platform_tests.stubs.preloaded import Preloaded

IMAGE = "cv-platform:stub"
SECRET_MARK = "the-restricted-secret-was-given"
PATIENCE_S = 420.0
"""Pods are processes of their own, several at once on two cores that others use too."""


@dataclass
class Deployment:
    """All of it, running."""

    folder: Path
    settings: Settings
    world: World
    cluster: Cluster
    api: KubernetesApi
    instance: dg.DagsterInstance
    environment: dict[str, str]

    def register(self, days: Sequence[date], sites: Sequence[str], *, clips: int = 1) -> int:
        """Upload `clips` clips a day and site, and register them; returns how many there are."""
        for n in range(clips):
            path = short_clip(self.folder / f"clip-{n}.mp4", frames=5, first_level=10 * n)
            for site in sites:
                for day in days:
                    at = datetime.combine(day, datetime.min.time(), UTC) + timedelta(hours=12, seconds=n)
                    self.world.upload(path, at, site=site, camera=f"{site}-cam")
        self.world.ingest()
        adopt_versions(self.world.database, current_versions(self.world.platform))
        return clips * len(days) * len(sites)

    def backfill(self, days: Sequence[date]) -> None:
        """`dagster job backfill` of `process_clips`, as a person does it."""
        subprocess.run(
            [
                *(sys.executable, "-m", "dagster", "job", "backfill", "-w", str(self.folder / "workspace.yaml")),
                *("-j", "process_clips", "--partitions", ",".join(day.isoformat() for day in days), "--noprompt"),
            ],
            env=self.environment,
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=PATIENCE_S,
        )

    def runs(self, *statuses: dg.DagsterRunStatus) -> list[dg.DagsterRun]:
        """Runs, newest first."""
        return list(self.instance.get_runs(dg.RunsFilter(statuses=list(statuses)) if statuses else None))

    def wait(self, what: str, condition: Callable[[], object], *, within_s: float = PATIENCE_S) -> None:
        """Until a condition holds. Raises AssertionError with what the daemon last said."""
        deadline = time.monotonic() + within_s
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"never: {what}\n{self.state()}")
            time.sleep(0.3)

    def wait_finished(self, count: int) -> list[dg.DagsterRun]:
        """Wait until so many runs are there and all have ended."""
        self.wait(f"{count} runs ended", lambda: len(self.runs()) >= count and all(r.is_finished for r in self.runs()))
        return self.runs()

    def failures(self, run_id: str) -> str:
        """All that a run's log says about what failed."""
        kinds = (
            dg.DagsterEventType.STEP_FAILURE,
            dg.DagsterEventType.STEP_UP_FOR_RETRY,
            dg.DagsterEventType.RUN_FAILURE,
        )
        lines = []
        for entry in self.instance.all_logs(run_id):
            if entry.dagster_event is not None and entry.dagster_event.event_type in kinds:
                data: Any = entry.dagster_event.event_specific_data
                lines.append(f"{entry.user_message} {getattr(data, 'error', '')}")
        return "\n".join(lines)

    def slots_taken(self) -> int:
        """Slots of pools that some run holds or waits for."""
        storage = self.instance.event_log_storage
        infos = [storage.get_concurrency_info(key) for key in storage.get_concurrency_keys()]
        return sum(info.active_slot_count + info.pending_step_count + info.assigned_step_count for info in infos)

    def manifests(self, step: str) -> list[dict[str, Any]]:
        """Jobs that were posted for a step, of all runs."""
        return [job for job in self.cluster.posted if job["metadata"]["labels"].get("dagster/op") == step]

    def expect_rest(self) -> None:
        """Nothing is left: no process, no pool slot, no row that is there twice, every clip published."""
        self.wait("no process of a pod is left", lambda: not self.cluster.processes())
        self.wait("no slot of a pool is left", lambda: self.slots_taken() == 0)
        assert self.doubled() == []
        assert set(self.world.states()) == {"published"}
        books = balance(self.world.database)
        assert books.balances

    def doubled(self) -> list[tuple[Any, ...]]:
        """Rows of the warehouse that are there more than once for one thing."""
        return self.world.rows(
            "SELECT 'detections', camera_id, \"timestamp\", bbox, count(*) FROM warehouse.detections"
            " GROUP BY 2, 3, 4 HAVING count(*) > 1"
        )

    def state(self) -> str:
        """What there is, for a test that failed."""
        runs = [f"{run.run_id[:8]} {run.status.value} {run.tags.get('dagster/partition')}" for run in self.runs()]
        pods = [f"{pod['metadata']['name']} {pod['status']['phase']}" for pod in self.cluster.pods()]
        log = (self.folder / "daemon.log").read_text(errors="replace")[-2000:]
        return "\n".join([*runs, *pods, str(self.world.states()), log])


@contextmanager
def deployment(
    servers: TestServers, folder: Path, *, sensors: str = "", checks: bool = True, **values: Any
) -> Iterator[Deployment]:
    """Everything running; ended afterwards, whatever happened."""
    server = servers.postgres()
    name = f"k8s_{uuid4().hex[:10]}"
    with ExitStack() as stack:
        platform_url = server.ensure_database(name, template=servers.platform_template())
        stack.callback(server.drop_database, name)
        dagster_url = server.ensure_database(f"{name}_dagster", template=servers.dagster_template())
        stack.callback(server.drop_database, f"{name}_dagster")
        home = folder / "dagster"
        home.mkdir(parents=True)
        chosen = {
            "state_dir": folder / "state",
            "postgres_url": platform_url,
            "partitions_start": datetime.now(UTC).date() - timedelta(days=10),
            "executor": "k8s",
            "detectors": "hog_people",
            "face_detector": "hog_people",
            "face_verifier": "hog_people",
            "lease_s": 15.0,
            "retry_base_s": 1.0,
            "sensor_interval_s": 3,
            "min_run_interval_s": 5.0,
            **values,
        }
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("CV_", "DAGSTER_", "PYTEST_"))},
            **{f"CV_PLATFORM_{key.upper()}": str(value) for key, value in chosen.items()},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "DAGSTER_HOME": str(home),
            "CV_PLATFORM_DAGSTER_POSTGRES_URL": dagster_url.replace("postgresql://", "postgresql+psycopg2://", 1),
            "DAGSTER_STEP_DELEGATING_EXECUTOR_SLEEP_SECONDS": "0.5",
            "OMP_NUM_THREADS": "1",
            "PYTHONWARNINGS": "ignore",
            SENSORS: sensors,
            CHECKS: "1" if checks else "0",
        }
        preloaded = Preloaded(
            folder,
            environment=environment,
            modules=("dagster._cli", "cv_platform_tests.kubernetes.location", "cv_platform_tests.pipeline.world"),
            renew="cv_platform_tests.kubernetes.location:renew",
        )
        stack.callback(preloaded.stop)
        cluster = Cluster(
            folder / "pods",
            environment=environment,
            secrets={"cv-platform-restricted": {"CV_TEST_RESTRICTED": SECRET_MARK}},
            preloaded=preloaded,
        )
        api = KubernetesApi(cluster, folder)
        stack.callback(api.stop)
        (home / "dagster.yaml").write_text(yaml.safe_dump(instance_config(api, home, image=IMAGE)))
        (folder / "workspace.yaml").write_text(
            yaml.safe_dump(
                {
                    "load_from": [
                        {
                            "python_module": {
                                "module_name": "cv_platform_tests.kubernetes.location",
                                "attribute": "defs",
                                "location_name": "cv_platform",
                                "working_directory": str(REPOSITORY),
                            }
                        }
                    ]
                }
            )
        )
        with (folder / "daemon.log").open("wb") as log:
            daemon = subprocess.Popen(
                [sys.executable, "-m", "dagster._daemon", "run", "-w", str(folder / "workspace.yaml")],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        record = record_of("daemon", daemon.pid, "")
        stack.callback(lambda: (stop(record, grace_s=8.0), daemon.wait()))
        settings = Settings(**chosen)
        world = World.at(settings)
        stack.callback(world.database.close)
        os.environ["CV_PLATFORM_DAGSTER_POSTGRES_URL"] = environment["CV_PLATFORM_DAGSTER_POSTGRES_URL"]
        instance = stack.enter_context(dg.DagsterInstance.from_config(str(home)))
        assert instance.run_launcher is not None  # it loads the cluster's configuration, for the test's own clients too
        yield Deployment(folder, settings, world, cluster, api, instance, environment)
