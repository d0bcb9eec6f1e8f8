"""The one table of pools and resources: every asset of the clip graph is in it, and what Kubernetes needs is set."""

from __future__ import annotations

import pytest

from cv_platform.defs.op_tags import STEPS, op_tags_of, pool_of
from cv_platform.defs.vision.assets import assets


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
    assert ("pod_spec_config" in config) == on_gpu
