"""How dbt's models and tests look in the asset graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg
from dagster_dbt import DagsterDbtTranslator, DagsterDbtTranslatorSettings

from cv_platform.defs.freshness import DAILY

GROUP = "aggregates"
OWNERS = ["team:data-platform"]


class MartsTranslator(DagsterDbtTranslator):
    """Keys are schema and table; descriptions, column schemas and owners come along."""

    def __init__(self) -> None:
        super().__init__(DagsterDbtTranslatorSettings(enable_duplicate_source_asset_keys=True))

    def get_asset_key(self, dbt_resource_props: Mapping[str, Any]) -> dg.AssetKey:
        """`marts/camera_hourly` for a model; what sources.yml says for a source."""
        if dbt_resource_props["resource_type"] == "source":
            return super().get_asset_key(dbt_resource_props)
        return dg.AssetKey([dbt_resource_props["schema"], dbt_resource_props["alias"]])

    def get_description(self, dbt_resource_props: Mapping[str, Any]) -> str:
        """The model's description."""
        return str(dbt_resource_props.get("description", ""))

    def get_group_name(self, dbt_resource_props: Mapping[str, Any]) -> str | None:
        """One group for all models; a source belongs to its own wing."""
        return GROUP if dbt_resource_props["resource_type"] == "model" else None

    def get_owners(self, dbt_resource_props: Mapping[str, Any]) -> list[str] | None:
        """The same owners as the rest of the platform."""
        return OWNERS if dbt_resource_props["resource_type"] == "model" else None

    def get_code_version(self, dbt_resource_props: Mapping[str, Any]) -> str | None:
        """Model and macros: either changes what is computed."""
        checksum: str | None = dbt_resource_props.get("checksum", {}).get("checksum")
        return checksum


def specs(
    manifest: Mapping[str, Any], translator: DagsterDbtTranslator, partitions: dg.PartitionsDefinition[Any]
) -> tuple[list[dg.AssetSpec], list[dg.AssetCheckSpec]]:
    """Specs of all models that are tables or views, and of the tests on them.

    `@dbt_assets` makes the same ones, but loads dbt itself to evaluate a selection: a second on each start.
    """
    assets: list[dg.AssetSpec] = []
    checks: list[dg.AssetCheckSpec] = []
    for unique_id, node in sorted(manifest["nodes"].items()):
        if node["resource_type"] != "model" or node["config"]["materialized"] == "ephemeral":
            continue
        spec = translator.get_asset_spec(manifest, unique_id, None)
        assets.append(spec.replace_attributes(partitions_def=partitions, freshness_policy=DAILY))
        for child in manifest["child_map"].get(unique_id, []):
            if child.startswith("test."):
                check = translator.get_asset_check_spec(
                    asset_spec=spec, manifest=manifest, unique_id=child, project=None
                )
                if check is not None:
                    checks.append(check)
    return assets, checks


def identifiers(manifest: Mapping[str, Any]) -> frozenset[str]:
    """Names of schemas, tables, columns and tests: what a filtered message may quote."""
    names = {"cv", "warehouse"}
    for node in (*manifest["nodes"].values(), *manifest["sources"].values()):
        names |= {str(node[key]) for key in ("name", "alias", "schema", "identifier") if node.get(key)}
        names |= set(node["columns"])
    return frozenset(names)
