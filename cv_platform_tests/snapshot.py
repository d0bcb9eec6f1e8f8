"""What the code location offers, as plain values: read by `test_definitions.py`, kept in `definitions.json`.

python -m cv_platform_tests.snapshot        writes definitions.json anew, after a change that is meant
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph

SNAPSHOT = Path(__file__).with_name("definitions.json")


def describe(definitions: dg.Definitions) -> dict[str, Any]:
    """Assets, checks, jobs, sensors and schedules, each with what a reader of the UI or a scheduler relies on."""
    repository = definitions.get_repository_def()
    graph = repository.asset_graph
    return {
        "assets": {spec.key.to_user_string(): _asset(spec, graph) for spec in definitions.resolve_all_asset_specs()},
        "checks": {
            f"{key.asset_key.to_user_string()}:{key.name}": {
                "blocking": graph.get(key).blocking,
                "partitions": _partitions(graph.get(key).partitions_def),
                "after": sorted(
                    dep.asset_key.to_user_string()
                    for dep in graph.get_check_spec(key).additional_deps
                    if dep.asset_key != key.asset_key
                ),
            }
            for key in graph.asset_check_keys
        },
        "jobs": {
            job.name: {
                "assets": sorted(key.to_user_string() for key in job.asset_layer.selected_asset_keys),
                "partitions": _partitions(job.partitions_def),
                "executor": job.executor_def.name,
                "tags": dict(job.tags),
            }
            for job in repository.get_all_jobs()
            if not job.name.startswith("__")
        },
        "sensors": {
            sensor.name: {
                "jobs": sorted(target.job_name for target in sensor.targets),
                "interval_s": sensor.minimum_interval_seconds,
                "default": sensor.default_status.value,
                "type": sensor.sensor_type.value,
            }
            for sensor in repository.sensor_defs
        },
        "schedules": {
            schedule.name: {
                "job": schedule.job_name,
                "cron": schedule.cron_schedule,
                "default": schedule.default_status.value,
            }
            for schedule in repository.schedule_defs
        },
    }


def _asset(spec: dg.AssetSpec, graph: AssetGraph) -> dict[str, Any]:
    node = graph.get(spec.key)
    schema = spec.metadata.get("dagster/column_schema")
    by_dbt = "dagster_dbt/unique_id" in spec.metadata
    return {
        "group": spec.group_name,
        "kinds": sorted(spec.kinds),
        "owners": list(spec.owners),
        "deps": sorted(dep.asset_key.to_user_string() for dep in spec.deps),
        "partitions": _partitions(spec.partitions_def),
        "pools": sorted(node.pools or ()),
        # dbt's is a digest of the model's text, which no one chooses; ours says that results differ.
        "code_version": "of dbt's model" if by_dbt and spec.code_version else spec.code_version,
        "days_per_run": node.backfill_policy.max_partitions_per_run if node.backfill_policy else 1,
        "freshness": type(spec.freshness_policy).__name__,
        "columns": [column.name for column in schema.columns] if isinstance(schema, dg.TableSchema) else None,
    }


def _partitions(definition: dg.PartitionsDefinition[Any] | None) -> str | None:
    if definition is None:
        return None
    if isinstance(definition, dg.DailyPartitionsDefinition):
        return f"daily {definition.timezone} from {definition.start:%Y-%m-%d}, end_offset={definition.end_offset}"
    return str(definition)


def read(path: Path = SNAPSHOT) -> dict[str, Any]:
    """The snapshot that is kept."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def text(definitions: dg.Definitions) -> str:
    """The snapshot as it is kept."""
    return json.dumps(describe(definitions), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    for variable in [name for name in os.environ if name.startswith("CV_PLATFORM_")]:
        del os.environ[variable]
    from cv_platform.definitions import build_definitions

    SNAPSHOT.write_text(text(build_definitions()))
    print(f"wrote {SNAPSHOT}; look at its diff before you commit it")
