"""`prune_event_log` runs, twice too, and goes by the policy's term of compute logs."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.storage.runs.schema import RunsTable

from cv_platform.defs.operations.event_log import prune_event_log
from cv_platform.resources.platform import PlatformResource
from cv_platform.settings import Settings


@dg.op
def talks() -> None:
    print("something to forget")


@dg.job
def talking() -> None:
    talks()


def test_compute_logs_go_at_the_policys_term(light: Settings, dagster_database_url: str, tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text(
        f"storage: {{postgres: {{postgres_url: '{dagster_database_url}'}}}}\ntelemetry: {{enabled: false}}\n"
    )
    policy = tmp_path / "policy.yaml"
    policy.write_text("defaults: {keep: {logs: 2d}}")
    platform = PlatformResource(light.model_copy(update={"policy_file": policy}))
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        old, new = (talking.execute_in_process(instance=instance).run_id for _ in range(2))
        (record,) = instance.get_run_records(dg.RunsFilter(run_ids=[old]))
        created = record.create_timestamp.replace(tzinfo=None) - timedelta(days=3)
        storage: Any = instance.run_storage
        with storage.connect() as connection:
            connection.execute(RunsTable.update().where(RunsTable.c.run_id == old).values(create_timestamp=created))
        deleted = []
        for _ in range(2):
            result = prune_event_log.execute_in_process(instance=instance, resources={"platform": platform})
            (output,) = [event for event in result.all_events if event.event_type_value == "STEP_OUTPUT"]
            told: Any = output.event_specific_data
            deleted.append(told.metadata["runs whose compute logs were deleted"].value)
        assert deleted == [1, 0]
        left = {run for run in (old, new) if list((tmp_path / "storage" / run).rglob("*.out"))}
        assert left == {new}
