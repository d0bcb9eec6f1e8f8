"""What docker/k8s holds is what an API server of 1.36 takes, and what the graph asks for is there."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from cv_platform.defs.op_tags import RESTRICTED_LABEL, RESTRICTED_SECRET, SIGNING_SECRET, STEPS
from cv_platform.settings import Settings
from cv_platform_tests.conftest import REPOSITORY
from cv_platform_tests.kubernetes.instance import values
from cv_platform_tests.stubs.manifests import problems

FOLDER = REPOSITORY / "docker" / "k8s"
FILES = sorted(path for path in FOLDER.glob("*.yaml") if path.name != "values.yaml")


def _documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


ALL = [(path.name, document) for path in FILES for document in _documents(path)]


def _of(kind: str) -> dict[str, dict[str, Any]]:
    return {document["metadata"]["name"]: document for _, document in ALL if document["kind"] == kind}


@pytest.mark.parametrize(("file", "manifest"), ALL, ids=[f"{d['kind']}-{d['metadata']['name']}" for _, d in ALL])
def test_it_is_valid(file: str, manifest: dict[str, Any]) -> None:
    assert problems(manifest) == []
    if manifest["kind"] not in ("Namespace", "PriorityClass"):
        assert manifest["metadata"]["namespace"] == "cv"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m["spec"].update(replica=1), "replica: unknown field"),
        (lambda m: m["spec"].update(replicas="one"), "must be int"),
        (lambda m: m["spec"].pop("selector"), "selector"),
        (lambda m: m["metadata"].update(name="Not_A_Name"), "is no name"),
        (lambda m: m["metadata"].update(labels={"a": "two words"}), "no label's value"),
        (lambda m: m.update(apiVersion="apps/v1beta1"), "is unknown"),
        (
            lambda m: m["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"].update(memory="1 GB"),
            "no quantity",
        ),
    ],
)
def test_a_wrong_one_is_found(change: Any, said: str) -> None:
    """The test above could not fail otherwise."""
    manifest = copy.deepcopy(_of("Deployment")["cv-platform-exporter"])
    change(manifest)
    assert any(said in line for line in problems(manifest)), problems(manifest)


def test_what_steps_name_is_there() -> None:
    assert {f"cv-platform-{step.priority}" for step in STEPS.values()} == set(_of("PriorityClass"))
    assert {RESTRICTED_SECRET, SIGNING_SECRET} <= set(_of("Secret"))
    selectors = [policy["spec"]["podSelector"] for policy in _of("NetworkPolicy").values()]
    assert {"matchLabels": {RESTRICTED_LABEL: "true"}} in selectors


def test_settings_are_settings() -> None:
    known = {f"CV_PLATFORM_{name.upper()}" for name in Settings.model_fields}
    named = {
        key
        for document in [*_of("ConfigMap").values(), *_of("Secret").values()]
        for key in {**document.get("data", {}), **document.get("stringData", {})}
        if key.startswith("CV_PLATFORM_")
    }
    assert named <= known
    assert _of("ConfigMap")["cv-platform"]["data"]["CV_PLATFORM_EXECUTOR"] == "k8s"


def test_no_secret_holds_a_value() -> None:
    for document in _of("Secret").values():
        assert set(document["stringData"].values()) == {""}, document["metadata"]["name"]


def test_the_role_allows_what_is_called_and_no_more() -> None:
    rules = _of("Role")["cv-platform-dagster"]["rules"]
    allowed = {(resource, verb) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}
    assert allowed == {
        ("jobs", "create"),
        ("jobs", "delete"),
        ("jobs", "get"),
        ("jobs", "list"),
        ("jobs/status", "get"),
        ("pods", "delete"),
        ("pods", "get"),
        ("pods", "list"),
        ("pods/log", "get"),
        ("events", "list"),
    }
    assert not any("*" in rule["verbs"] + rule["resources"] + rule["apiGroups"] for rule in rules)


def test_everything_is_denied_but_what_is_named() -> None:
    deny = _of("NetworkPolicy")["deny-all"]["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    open_to_all = [
        name
        for name, policy in _of("NetworkPolicy").items()
        for rule in [*policy["spec"].get("egress", []), *policy["spec"].get("ingress", [])]
        if not (rule.get("to") or rule.get("from")) or not rule.get("ports")
    ]
    assert open_to_all == []


def test_the_code_servers_secrets_go_to_no_other_pod() -> None:
    (code,) = values()["dagster-user-deployments"]["deployments"]
    assert code["includeConfigInLaunchedRuns"] == {"enabled": False}
    assert RESTRICTED_SECRET in {source["name"] for source in code["envSecrets"]}
    launcher = values()["runLauncher"]["config"]["customRunLauncher"]["config"]
    others = [launcher["env_secrets"], *[[s["name"] for s in values()[p]["envSecrets"]] for p in _DAGSTER]]
    assert all(RESTRICTED_SECRET not in secrets for secrets in others)


_DAGSTER = ("dagsterWebserver", "dagsterDaemon")


def test_every_pod_runs_without_rights() -> None:
    parts = [*(values()[part] for part in _DAGSTER), *values()["dagster-user-deployments"]["deployments"]]
    for part in parts:
        assert part["podSecurityContext"]["runAsNonRoot"] is True
        assert part["securityContext"]["readOnlyRootFilesystem"] is True
        assert part["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {"memory", "ephemeral-storage"} <= set(part["resources"]["limits"])


def test_the_launchers_config_is_one() -> None:
    """By dagster-k8s's own schema, as the instance reads it."""
    from dagster._config import process_config
    from dagster_k8s.job import DagsterK8sJobConfig

    config = values()["runLauncher"]["config"]["customRunLauncher"]["config"]
    result = process_config(DagsterK8sJobConfig.config_type_run_launcher(), config)
    assert result.success, result.errors
    spec = config["run_k8s_config"]["job_spec_config"]
    assert spec["ttl_seconds_after_finished"] >= 3600
    assert spec["backoff_limit"] == 0
    assert spec["active_deadline_seconds"] >= max(step.deadline_s for step in STEPS.values())


def test_monitoring_waits_longer_than_pods_take_to_end() -> None:
    monitoring = values()["dagsterDaemon"]["runMonitoring"]
    assert monitoring["cancelTimeoutSeconds"] > max(step.grace_s for step in STEPS.values())
    assert monitoring["maxResumeRunAttempts"] == 0
    assert monitoring["freeSlotsAfterRunEndSeconds"] > 0


def test_the_chart_leaves_nothing_out_and_adds_no_rights() -> None:
    """By what its templates ask for; test_chart.py renders them where the chart is."""
    assert values()["concurrency"]["enabled"] is True, "the chart ignores limits and pools otherwise"
    code = values()["dagster-user-deployments"]
    assert (values()["rbacEnabled"], code["rbacEnabled"]) == (False, False), "each has a role of its own"
    assert code["includeInstance"] is True, "the code server would make files beside dagster.yaml, on a read-only root"
    assert "serviceAccountName" not in values()["global"], "it would be the code server's, too"
    accounts = {"dagster": values()["serviceAccount"], "code": code["serviceAccount"]}
    assert {name: (found["create"], found["name"]) for name, found in accounts.items()} == {
        "dagster": (False, "cv-platform-dagster"),
        "code": (False, "cv-platform"),
    }
    bound = [subject["name"] for binding in _of("RoleBinding").values() for subject in binding["subjects"]]
    assert bound == ["cv-platform-dagster"]
