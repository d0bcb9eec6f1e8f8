"""The one table of pools and resources: every asset of the clip graph is in it, and what Kubernetes needs is set."""

from __future__ import annotations

import pytest

from cv_platform.defs.op_tags import (
    ERASURE,
    OPERATION,
    RESTRICTED_LABEL,
    RESTRICTED_OPERATION,
    RESTRICTED_SECRET,
    SIGNING_SECRET,
    STEPS,
    op_tags_of,
    pool_of,
    tags_of,
)
from cv_platform.defs.vision.assets import assets
from cv_platform.settings import Settings


def test_every_asset_is_in_the_table() -> None:
    assert {asset.key.to_user_string() for asset in assets} == set(STEPS)
    for asset in assets:
        assert asset.op.pool == pool_of(asset.op.name)


@pytest.mark.parametrize("name", sorted(STEPS))
def test_kubernetes_never_starts_a_step_again_by_itself(name: str) -> None:
    config = op_tags_of(name)["dagster-k8s/config"]
    assert config["job_spec_config"]["backoff_limit"] == 0
    assert config["job_spec_config"]["active_deadline_seconds"] > 0
    resources = config["container_config"]["resources"]
    assert set(resources["requests"]) == {"cpu", "memory", "ephemeral-storage"}
    assert resources["limits"]["memory"] == resources["requests"]["memory"], (
        "a step is not killed for what it asked for"
    )


@pytest.mark.parametrize("name", sorted(STEPS))
def test_gpu_steps_alone_go_to_gpu_nodes(name: str) -> None:
    config = op_tags_of(name)["dagster-k8s/config"]
    on_gpu = STEPS[name].gpus > 0
    assert ("nvidia.com/gpu" in config["container_config"]["resources"]["limits"]) == on_gpu
    assert ("node_selector" in config["pod_spec_config"]) == on_gpu
    assert ("tolerations" in config["pod_spec_config"]) == on_gpu


@pytest.mark.parametrize("name", sorted(STEPS))
def test_restricted_steps_alone_are_given_the_restricted_credentials(name: str) -> None:
    config = op_tags_of(name)["dagster-k8s/config"]
    given = config["container_config"].get("env_from", []) == [{"secret_ref": {"name": RESTRICTED_SECRET}}]
    labels = config.get("pod_template_spec_metadata", {}).get("labels", {})
    assert given == (RESTRICTED_LABEL in labels) == STEPS[name].restricted
    assert STEPS[name].restricted == (name != "tracks"), "only tracking works on rows alone"


@pytest.mark.parametrize("name", sorted(STEPS))
def test_the_clip_in_hand_is_given_back_before_the_lease_would_run_out(name: str) -> None:
    config = op_tags_of(name)["dagster-k8s/config"]
    assert 10 <= config["pod_spec_config"]["termination_grace_period_seconds"] <= Settings().lease_s


def test_erasure_alone_is_given_the_key_that_signs() -> None:
    tags = tags_of(ERASURE)["dagster-k8s/config"]
    assert tags["pod_spec_config"]["volumes"][0]["secret"]["secret_name"] == SIGNING_SECRET
    assert SIGNING_SECRET not in str([tags_of(step) for step in (*STEPS.values(), OPERATION, RESTRICTED_OPERATION)])
