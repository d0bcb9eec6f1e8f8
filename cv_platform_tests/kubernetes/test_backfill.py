"""Five days of three sites through the real launcher, executor, monitor and daemon."""

from __future__ import annotations

import dagster as dg
import pytest

from cv_platform.defs.op_tags import RESTRICTED_LABEL, STEPS
from cv_platform_tests.kubernetes.conftest import LAST_DAYS
from cv_platform_tests.kubernetes.deployment import SECRET_MARK, Deployment
from cv_platform_tests.stubs.manifests import problems

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(900)]
DAYS = LAST_DAYS[:5]
SITES = ("north", "south", "west")


@pytest.fixture(scope="module")
def filled(quiet: Deployment) -> Deployment:
    """The deployment, once the backfill is through."""
    quiet.register(DAYS, SITES)
    quiet.backfill(DAYS)
    quiet.wait_finished(len(DAYS))
    return quiet


def test_every_run_succeeds_and_every_clip_is_published(filled: Deployment) -> None:
    runs = filled.runs()
    failed = [filled.failures(run.run_id) for run in runs if run.status is not dg.DagsterRunStatus.SUCCESS]
    assert not failed, "\n".join(failed)
    assert sorted(run.tags["dagster/partition"] for run in runs) == [day.isoformat() for day in DAYS]
    assert filled.world.states() == {"published": len(DAYS) * len(SITES)}
    stages = filled.world.rows("SELECT stage, state, count(*) FROM cv.stages GROUP BY 1, 2")
    assert sorted(stages) == sorted((stage, "done", len(DAYS) * len(SITES)) for stage in STEPS)
    filled.expect_rest()


@pytest.mark.parametrize("step", sorted(STEPS))
def test_a_steps_manifest_is_what_the_table_says(filled: Deployment, step: str) -> None:
    wanted = STEPS[step]
    manifests = filled.manifests(step)
    assert len(manifests) >= len(DAYS)
    for manifest in manifests:
        assert problems(manifest) == []
        pod = manifest["spec"]["template"]["spec"]
        limits = pod["containers"][0]["resources"]["limits"]
        requests = pod["containers"][0]["resources"]["requests"]
        assert limits["memory"] == requests["memory"] == f"{wanted.memory_mib}Mi"
        assert requests["cpu"] == f"{wanted.cpu:g}"
        assert limits.get("nvidia.com/gpu") == (str(wanted.gpus) if wanted.gpus else None)
        assert pod.get("nodeSelector") == ({"nvidia.com/gpu.present": "true"} if wanted.gpus else None)
        assert any(t["key"] == "nvidia.com/gpu" for t in pod.get("tolerations", [])) == (wanted.gpus > 0)
        assert manifest["spec"]["backoffLimit"] == 0
        assert manifest["spec"]["activeDeadlineSeconds"] == wanted.deadline_s
        assert manifest["spec"]["ttlSecondsAfterFinished"] >= 3600
        assert pod["priorityClassName"] == f"cv-platform-{wanted.priority}"
        assert pod["terminationGracePeriodSeconds"] == wanted.grace_s
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True
        assert manifest["metadata"]["ownerReferences"][0]["kind"] == "Pod", "it goes with its run's pod"


@pytest.mark.parametrize("step", sorted(STEPS))
def test_a_gpu_step_takes_its_pools_slots(filled: Deployment, step: str) -> None:
    assert filled.instance.event_log_storage.get_concurrency_info(str(STEPS[step].pool)).slot_count > 0
    snapshot = filled.instance.get_execution_plan_snapshot(str(filled.runs()[0].execution_plan_snapshot_id))
    (planned,) = [found for found in snapshot.steps if found.key == step]
    assert planned.pool == STEPS[step].pool


def test_steps_have_no_way_to_the_api(filled: Deployment) -> None:
    """A run's pod has the account that may start jobs, a step's has one without rights, and no token of it."""
    accounts = {"run_worker": ("cv-platform-dagster", True), "step_worker": ("cv-platform", False)}
    for manifest in filled.cluster.posted:
        pod = manifest["spec"]["template"]["spec"]
        component = manifest["metadata"]["labels"]["app.kubernetes.io/component"]
        assert (pod["serviceAccountName"], pod["automountServiceAccountToken"]) == accounts[component]
    assert {"run_worker", "step_worker"} == {
        manifest["metadata"]["labels"]["app.kubernetes.io/component"] for manifest in filled.cluster.posted
    }
    refused = [request for request in filled.api.requests if request[2] in (401, 403)]
    assert refused == [], "the stub goes by docker/k8s/access.yaml"


def test_restricted_credentials_reach_the_steps_that_need_them_alone(filled: Deployment) -> None:
    for manifest in filled.cluster.posted:
        step = manifest["metadata"]["labels"].get("dagster/op")
        sources = manifest["spec"]["template"]["spec"]["containers"][0].get("envFrom", [])
        given = any(source.get("secretRef", {}).get("name") == "cv-platform-restricted" for source in sources)
        assert given == (step in STEPS and STEPS[step].restricted), step
        assert (RESTRICTED_LABEL in manifest["spec"]["template"]["metadata"]["labels"]) == given
    assert SECRET_MARK not in str(filled.cluster.posted), "a manifest names secrets, it does not hold them"


def test_manifests_and_tags_hold_nothing_personal(filled: Deployment) -> None:
    said = str(filled.cluster.posted) + str([run.tags for run in filled.runs()])
    for (camera,) in filled.world.rows("SELECT camera_id FROM cv.cameras"):
        assert camera not in said
