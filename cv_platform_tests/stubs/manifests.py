"""Whether a manifest is one: field by field against the models of the Kubernetes API 1.36 (package `kubernetes` 36)."""

from __future__ import annotations

import re
from typing import Any, Final

from kubernetes import client

_GROUPS: Final = {
    ("v1", "ConfigMap"): "V1ConfigMap",
    ("v1", "Namespace"): "V1Namespace",
    ("v1", "Pod"): "V1Pod",
    ("v1", "PersistentVolumeClaim"): "V1PersistentVolumeClaim",
    ("v1", "ResourceQuota"): "V1ResourceQuota",
    ("v1", "LimitRange"): "V1LimitRange",
    ("v1", "Secret"): "V1Secret",
    ("v1", "Service"): "V1Service",
    ("v1", "ServiceAccount"): "V1ServiceAccount",
    ("apps/v1", "Deployment"): "V1Deployment",
    ("apps/v1", "StatefulSet"): "V1StatefulSet",
    ("batch/v1", "CronJob"): "V1CronJob",
    ("batch/v1", "Job"): "V1Job",
    ("networking.k8s.io/v1", "NetworkPolicy"): "V1NetworkPolicy",
    ("policy/v1", "PodDisruptionBudget"): "V1PodDisruptionBudget",
    ("rbac.authorization.k8s.io/v1", "Role"): "V1Role",
    ("rbac.authorization.k8s.io/v1", "RoleBinding"): "V1RoleBinding",
    ("scheduling.k8s.io/v1", "PriorityClass"): "V1PriorityClass",
}
_QUANTITY: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(m|[kMGTPE]i?|[eE][+-]?\d+)?")
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_LABEL: Final = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
_PRIMITIVES: Final[dict[str, type | tuple[type, ...]]] = {
    "str": str,
    "bool": bool,
    "int": int,
    "float": (int, float),
    "datetime": str,
    "object": object,
    "bytes": str,
}
# Fields that hold a number or a name: the models say `object`.
_CONFIGURATION: Final = client.Configuration()


def problems(manifest: dict[str, Any]) -> list[str]:
    """What is wrong with a manifest, a line each with the field's path; empty where nothing is.

    Unknown kinds and fields, wrong types, missing fields, names, labels and quantities that the API server refuses.
    """
    kind = (str(manifest.get("apiVersion")), str(manifest.get("kind")))
    if kind not in _GROUPS:
        return [f"kind {kind} is unknown; allowed: {', '.join(' '.join(key) for key in _GROUPS)}"]
    found = list(_model(manifest, getattr(client, _GROUPS[kind]), ""))
    name = str(manifest.get("metadata", {}).get("name", ""))
    longest = 63 if kind[1] in ("Job", "Service") else 253
    if not _NAME.fullmatch(name) or len(name) > longest:
        found.append(f"metadata.name: {name!r} is no name; lower case letters, digits, '-', at most {longest}")
    return found


def _model(value: Any, model: type[Any], path: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{path}: {model.__name__} must be a mapping, found {type(value).__name__}"]
    names = {wire: name for name, wire in model.attribute_map.items()}
    found = [f"{path}.{key}: unknown field of {model.__name__}" for key in value if key not in names]
    for key, inner in value.items():
        if key in names and inner is not None:
            found += _typed(inner, model.openapi_types[names[key]], f"{path}.{key}".lstrip("."))
    try:  # the model's own rules: what is required, what a number may be
        model(
            local_vars_configuration=_CONFIGURATION,
            **{names[key]: inner for key, inner in value.items() if key in names},
        )
    except ValueError as error:
        found.append(f"{path or 'manifest'}: {error}")
    return found


def _typed(value: Any, kind: str, path: str) -> list[str]:
    if match := re.fullmatch(r"list\[(.*)\]", kind):
        if not isinstance(value, list):
            return [f"{path}: must be a list, found {type(value).__name__}"]
        return [line for n, item in enumerate(value) for line in _typed(item, match[1], f"{path}[{n}]")]
    if match := re.fullmatch(r"dict[\[(]str, (.*)[\])]", kind):
        if not isinstance(value, dict):
            return [f"{path}: must be a mapping, found {type(value).__name__}"]
        found = [line for key, item in value.items() for line in _typed(item, match[1], f"{path}.{key}")]
        if path.rpartition(".")[2] in ("requests", "limits", "hard"):
            found += [f"{path}.{k}: {v!r} is no quantity" for k, v in value.items() if not _QUANTITY.fullmatch(str(v))]
        if path.rpartition(".")[2] in ("labels", "matchLabels", "nodeSelector"):
            found += [
                f"{path}.{key}: {item!r} is no label's value"
                for key, item in value.items()
                if not isinstance(item, str) or len(item) > 63 or not _LABEL.fullmatch(item)
            ]
        return found
    if kind in _PRIMITIVES:
        wanted = _PRIMITIVES[kind]
        wrong = not isinstance(value, wanted) or (isinstance(value, bool) and kind in ("int", "float", "str"))
        return [f"{path}: must be {kind}, found {type(value).__name__} {value!r}"] if wrong else []
    return _model(value, getattr(client, kind), path)
