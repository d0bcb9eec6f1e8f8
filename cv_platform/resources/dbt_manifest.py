"""Writes dbt/manifest.json: the part of dbt's manifest that the code location reads, the same on every machine.

`dbt parse` takes seconds and writes into its project, so it must not run where definitions are loaded; what it finds is
committed instead, without times, paths and dbt's own macros. A test says when it is out of date.

    python -m cv_platform.resources.dbt_manifest [--check]
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from cv_platform.resources.dbt import dbt_environment, find_project

_NODE_KEYS = (
    "unique_id", "resource_type", "name", "alias", "schema", "description", "package_name", "fqn", "tags", "meta",
    "original_file_path", "attached_node", "column_name", "test_metadata", "source_name", "identifier",
)  # fmt: skip
_CONFIG_KEYS = ("materialized", "schema", "meta", "severity", "tags", "group", "enabled")


def render(project_dir: Path) -> str:
    """The manifest's text, from the project as it stands.

    Raises:
        RuntimeError: dbt cannot parse the project.
    """
    with tempfile.TemporaryDirectory(prefix="dbt-") as target:
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                "from dbt.cli.main import cli; cli()",
                "parse",
                *("--project-dir", str(project_dir), "--profiles-dir", str(project_dir)),
                *("--target-path", target, "--log-path", target, "--log-level-file", "none", "--no-partial-parse"),
            ],
            env={**dbt_environment("postgresql://postgres@localhost/cv_platform"), "HOME": target},
            cwd=project_dir,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"dbt cannot parse {project_dir}:\n{done.stdout}{done.stderr}")
        whole = json.loads((Path(target) / "manifest.json").read_text())
    return json.dumps(_reduced(whole), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _reduced(whole: dict[str, Any]) -> dict[str, Any]:
    own_macros = "".join(
        macro["macro_sql"]
        for _, macro in sorted(whole["macros"].items())
        if macro["package_name"] == whole["metadata"]["project_name"]
    )
    nodes = {name: _node(node, own_macros) for name, node in whole["nodes"].items()}
    return {
        "metadata": {
            "adapter_type": whole["metadata"]["adapter_type"],
            "project_name": whole["metadata"]["project_name"],
        },
        "nodes": nodes,
        "sources": {name: _node(node, "") for name, node in whole["sources"].items()},
        "exposures": {},
        "metrics": {},
        "groups": {},
        "child_map": {name: sorted(found) for name, found in whole["child_map"].items()},
        "parent_map": {name: sorted(found) for name, found in whole["parent_map"].items()},
    }


def _node(node: dict[str, Any], own_macros: str) -> dict[str, Any]:
    code = node.get("raw_code") or ""
    return {
        **{key: node[key] for key in _NODE_KEYS if key in node},
        "config": {key: value for key, value in node.get("config", {}).items() if key in _CONFIG_KEYS},
        "columns": {
            name: {"name": name, "description": column["description"], "data_type": column["data_type"], "tags": []}
            for name, column in node.get("columns", {}).items()
        },
        "depends_on": {"nodes": sorted(node.get("depends_on", {}).get("nodes", []))},
        # Macros are a part of what a model computes.
        "checksum": {"name": "sha256", "checksum": hashlib.sha256((code + own_macros).encode()).hexdigest()[:16]},
    }


def main() -> int:
    """Write the manifest, or say with `--check` whether it is up to date."""
    project = find_project()
    text = render(project)
    path = project / "manifest.json"
    if "--check" in sys.argv[1:]:
        if path.is_file() and path.read_text() == text:
            return 0
        print(f"{path.name} is out of date; write it with: python -m cv_platform.resources.dbt_manifest")
        return 1
    path.write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
