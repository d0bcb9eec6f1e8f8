"""What the official chart makes of docker/k8s/values.yaml: no value ignored, no right too many, the docs' commands fit.

Needs `helm`, and a copy of the chart in CV_TEST_DAGSTER_CHART or shared/charts/dagster beside the checkout
(`helm pull dagster/dagster --untar`; docs/kubernetes.md says from where). What follows from the values alone is tested
in test_manifests.py.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cv_platform_tests.conftest import REPOSITORY
from cv_platform_tests.kubernetes.instance import VALUES, values
from cv_platform_tests.stubs.manifests import problems

CHART = Path(os.environ.get("CV_TEST_DAGSTER_CHART") or REPOSITORY.parent / "shared" / "charts" / "dagster")
DOCS = (REPOSITORY / "docs" / "kubernetes.md").read_text()
Manifest = dict[str, Any]


@pytest.fixture(scope="module")
def rendered() -> list[Manifest]:
    """All that the chart makes; its schema has then taken the values."""
    if shutil.which("helm") is None or not (CHART / "Chart.yaml").is_file():
        pytest.skip("no helm, or no copy of the Dagster chart: set CV_TEST_DAGSTER_CHART")
    done = subprocess.run(
        ["helm", "template", "dagster", str(CHART), "-n", "cv", "-f", str(VALUES)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def _of(rendered: list[Manifest], kind: str) -> dict[str, Manifest]:
    return {manifest["metadata"]["name"]: manifest for manifest in rendered if manifest["kind"] == kind}


def _ours(kind: str) -> dict[str, Manifest]:
    documents = [
        d for path in VALUES.parent.glob("*.yaml") if path != VALUES for d in yaml.safe_load_all(path.read_text())
    ]
    return _of([document for document in documents if document], kind)


def _pod(deployment: Manifest) -> Manifest:
    pod: Manifest = deployment["spec"]["template"]
    return pod


def test_every_manifest_is_valid(rendered: list[Manifest]) -> None:
    # The chart writes `annotations:` and the like with nothing behind them, which an API server takes for nothing.
    assert {m["metadata"]["name"]: found for m in rendered if (found := problems(_without_nothing(m)))} == {}


def _without_nothing(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nothing(inner) for key, inner in value.items() if inner is not None}
    return [_without_nothing(inner) for inner in value] if isinstance(value, list) else value


def test_dagster_reads_the_instance(rendered: list[Manifest], tmp_path: Path) -> None:
    """And finds there what the values say of runs, pools, monitoring and logs."""
    import dagster as dg
    from dagster._core.instance.config import dagster_instance_config

    (tmp_path / "dagster.yaml").write_text(_of(rendered, "ConfigMap")["dagster-instance"]["data"]["dagster.yaml"])
    config, _ = dagster_instance_config(str(tmp_path))
    wanted = values()
    assert config["concurrency"] == {
        "runs": {"max_concurrent_runs": wanted["concurrency"]["runs"]["maxConcurrentRuns"]},
        "pools": {
            "granularity": wanted["concurrency"]["pools"]["granularity"],
            "default_limit": wanted["concurrency"]["pools"]["defaultLimit"],
        },
    }
    monitoring = wanted["dagsterDaemon"]["runMonitoring"]
    assert config["run_monitoring"]["free_slots_after_run_end_seconds"] == monitoring["freeSlotsAfterRunEndSeconds"]
    assert config["run_monitoring"]["cancel_timeout_seconds"] == monitoring["cancelTimeoutSeconds"]
    launcher = wanted["runLauncher"]["config"]["customRunLauncher"]
    assert (config["run_launcher"]["module"], config["run_launcher"]["class"]) == (
        launcher["module"],
        launcher["class"],
    )
    assert config["run_launcher"]["config"] == launcher["config"]
    assert config["compute_logs"]["class"] == "S3ComputeLogManager"
    assert config["run_storage"]["config"]["postgres_db"]["scheme"] == "postgresql+psycopg2"
    assert dg.__version__.startswith("1.13.")


def test_the_chart_makes_no_role_and_no_account(rendered: list[Manifest]) -> None:
    for kind in ("Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding", "ServiceAccount", "Secret"):
        assert _of(rendered, kind) == {}, kind


def test_dagsters_own_processes_alone_have_the_account_that_may_start_jobs(rendered: list[Manifest]) -> None:
    accounts = {name: _pod(d)["spec"]["serviceAccountName"] for name, d in _of(rendered, "Deployment").items()}
    assert accounts == {
        "dagster-daemon": "cv-platform-dagster",
        "dagster-dagster-webserver": "cv-platform-dagster",
        "dagster-dagster-user-deployments-code": "cv-platform",
    }
    assert set(accounts.values()) <= set(_ours("ServiceAccount"))


def test_pods_obey_the_namespaces_standard(rendered: list[Manifest]) -> None:
    """The `restricted` Pod Security Standard, init containers too; and no port that needs a right."""
    for name, deployment in _of(rendered, "Deployment").items():
        spec = _pod(deployment)["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False, name
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, name
            assert all(port["containerPort"] >= 1024 for port in container.get("ports", [])), name


def test_every_pod_can_write_where_its_image_does(rendered: list[Manifest]) -> None:
    code = _pod(_of(rendered, "Deployment")["dagster-dagster-user-deployments-code"])["spec"]
    mounted = {mount["mountPath"] for mount in code["containers"][0]["volumeMounts"]}
    assert {"/tmp", "/opt/dagster/dagster_home/storage", "/var/lib/cv-platform"} <= mounted
    # Else Dagster makes an instance of its own there, and the code server ends: the root is read-only.
    for name, deployment in _of(rendered, "Deployment").items():
        mounts = _pod(deployment)["spec"]["containers"][0]["volumeMounts"]
        assert "/opt/dagster/dagster_home/dagster.yaml" in {mount["mountPath"] for mount in mounts}, name


def test_restricted_credentials_go_to_the_code_server_alone(rendered: list[Manifest]) -> None:
    given = {
        name
        for name, deployment in _of(rendered, "Deployment").items()
        for source in _pod(deployment)["spec"]["containers"][0]["envFrom"]
        if source.get("secretRef", {}).get("name") == "cv-platform-restricted"
    }
    assert given == {"dagster-dagster-user-deployments-code"}


def test_what_pods_name_is_there(rendered: list[Manifest]) -> None:
    there = {kind: {*_of(rendered, kind), *_ours(kind)} for kind in ("ConfigMap", "Secret")}
    for name, deployment in _of(rendered, "Deployment").items():
        for container in _pod(deployment)["spec"]["containers"]:
            for source in container["envFrom"]:
                for key, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
                    reference = source.get(key)
                    assert reference is None or reference.get("optional") or reference["name"] in there[kind], name
        for volume in _pod(deployment)["spec"]["volumes"]:
            assert volume.get("configMap", {}).get("name") in {None, *there["ConfigMap"]}, name
    launcher = values()["runLauncher"]["config"]["customRunLauncher"]["config"]
    assert {launcher["instance_config_map"], *launcher["env_config_maps"]} <= there["ConfigMap"]
    assert {launcher["postgres_password_secret"], *launcher["env_secrets"]} <= there["Secret"]


def test_policies_and_budgets_fit_the_pods(rendered: list[Manifest]) -> None:
    """Each selector that means a pod of the chart finds one, and its port is one that the pod listens at."""
    pods = [_pod(d)["metadata"]["labels"] for d in _of(rendered, "Deployment").values()]
    launched = {"app.kubernetes.io/component", "app.kubernetes.io/name"}
    for kind, key in (("NetworkPolicy", "podSelector"), ("PodDisruptionBudget", "selector")):
        for name, manifest in _ours(kind).items():
            selector = manifest["spec"][key]
            labels = selector.get("matchLabels", {})
            if set(labels) & launched:  # a run's pod, the exporter's
                continue
            assert any(labels.items() <= pod.items() for pod in pods), name
            for expression in selector.get("matchExpressions", []):
                assert set(expression["values"]) <= {pod.get(expression["key"]) for pod in pods}, name
    ports = {port["port"] for rule in _ours("NetworkPolicy")["webserver"]["spec"]["ingress"] for port in rule["ports"]}
    webserver = _pod(_of(rendered, "Deployment")["dagster-dagster-webserver"])["spec"]["containers"][0]
    assert ports == {port["containerPort"] for port in webserver["ports"]}


def test_the_docs_commands_name_what_is_there(rendered: list[Manifest]) -> None:
    deployments = {*_of(rendered, "Deployment"), *_ours("Deployment")}
    named = set(re.findall(r"deploy/([a-z0-9-]+)", DOCS))
    assert named
    assert named <= deployments
    services = {**_of(rendered, "Service"), **_ours("Service")}
    for service, port in re.findall(r"svc/([a-z0-9-]+) \d+:(\d+)", DOCS):
        assert int(port) in {found["port"] for found in services[service]["spec"]["ports"]}
    selectors = re.findall(r"deploy -l (\S+)=(\S+)", DOCS)
    assert selectors
    for key, value in selectors:
        found = [name for name, d in _of(rendered, "Deployment").items() if d["metadata"]["labels"].get(key) == value]
        assert len(found) == 3, f"-l {key}={value} finds {found}"
