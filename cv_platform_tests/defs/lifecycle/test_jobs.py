"""The jobs that move, expire and compare data: they run, twice too, and Dagster's records hold nothing personal."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pytest

from cv_platform.defs.lifecycle.audit import export_audit
from cv_platform.defs.lifecycle.expire import expire
from cv_platform.defs.lifecycle.hot_to_warm import hot_to_warm, hot_to_warm_minutely
from cv_platform.defs.lifecycle.reconcile import reconcile
from cv_platform.defs.lifecycle.scrub import scrub_keys, scrub_keys_weekly
from cv_platform.governance.audit import record
from cv_platform.governance.holds import HoldScope, place_hold
from cv_platform.pipeline.keys import upload_key
from cv_platform.resources.platform import PlatformResource
from cv_platform.settings import Settings
from cv_platform.storage.database import Database
from cv_platform.storage.hot_stream import LiveDetection, LiveFrame, LiveStream
from cv_platform.storage.ledger.clip_keys import destroy_keys
from cv_platform.storage.ledger.registration import Upload, register_uploads
from cv_platform_tests.conftest import S3Server
from cv_platform_tests.defs.conftest import noon

CAMERA = "lobby-west"


def records(instance: dg.DagsterInstance) -> str:
    """All that the instance keeps of its runs, as text."""
    return "".join(str(event) for run in instance.get_runs() for event in instance.all_logs(run.run_id))


def metadata(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    [event] = result.get_step_success_events()
    outputs = [e for e in result.all_events if e.event_type_value == "STEP_OUTPUT"]
    assert event is not None
    return {name: value.value for e in outputs for name, value in e.event_specific_data.metadata.items()}  # type: ignore[union-attr]


def test_live_detections_are_drained_where_there_are_any(light: Settings, instance: dg.DagsterInstance) -> None:
    platform = PlatformResource(light)
    context = dg.build_schedule_context(instance=instance, resources={"platform": platform})
    assert not hot_to_warm_minutely.evaluate_tick(context).run_requests
    box = LiveDetection(0, 0.9, (0.1, 0.1, 0.2, 0.2))
    LiveStream(str(light.redis_url)).append(LiveFrame("north", CAMERA, datetime.now(UTC), (box,)))
    assert len(hot_to_warm_minutely.evaluate_tick(context).run_requests or []) == 1
    for rows in (1, 0):
        result = hot_to_warm.execute_in_process(instance=instance, resources={"platform": platform})
        assert metadata(result)["rows"] == rows
    assert CAMERA not in records(instance)
    gone = PlatformResource(light.model_copy(update={"redis_url": "redis://127.0.0.1:1"}))
    assert hot_to_warm.execute_in_process(instance=instance, resources={"platform": gone}).success
    context = dg.build_schedule_context(instance=instance, resources={"platform": gone})
    assert "degraded" in str(hot_to_warm_minutely.evaluate_tick(context).skip_message)


def test_expire_and_reconcile_count_and_a_quota_that_only_holds_fill_fails(
    light: Settings, ledger: Database, instance: dg.DagsterInstance, tmp_path: Any
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("defaults: {keep: {cold: 100y}}")
    platform = PlatformResource(light.model_copy(update={"policy_file": policy}))
    key = upload_key("north", CAMERA, noon(1))
    platform.open().restricted.put_bytes(key, b"footage")
    info = platform.open().restricted.head(key)
    assert info is not None
    register_uploads(ledger, [Upload(key, info.etag, info.size_bytes, "north", CAMERA, noon(1))])
    place_hold(ledger, HoldScope(camera_id=CAMERA), reason="case 1", by="officer")
    for job in (expire, reconcile):
        assert job.execute_in_process(instance=instance, resources={"platform": platform}).success
    policy.write_text("quota: {restricted: 1B}")
    result = expire.execute_in_process(instance=instance, resources={"platform": platform}, raise_on_error=False)
    assert not result.success
    [failure] = result.get_failed_step_keys()
    assert "all that is left is held" in str(result.failure_data_for_node(failure))
    assert platform.open().restricted.head(key) is not None
    found = records(instance)
    assert CAMERA not in found
    assert key not in found


def test_expire_fails_where_a_lifecycle_rule_of_others_would_delete_what_may_be_held(
    light: Settings, s3_server: S3Server, instance: dg.DagsterInstance
) -> None:
    store = {"object_store_url": f"s3://{s3_server.bucket}/cold", "s3_endpoint_url": s3_server.endpoint_url}
    platform = PlatformResource(light.model_copy(update=store))
    assert expire.execute_in_process(instance=instance, resources={"platform": platform}).success
    rule = {"ID": "tidy up", "Status": "Enabled", "Filter": {}, "Expiration": {"Days": 9}}
    s3_server.client().put_bucket_lifecycle_configuration(
        Bucket=s3_server.bucket, LifecycleConfiguration={"Rules": [rule]}
    )
    result = expire.execute_in_process(instance=instance, resources={"platform": platform}, raise_on_error=False)
    [failure] = result.get_failed_step_keys()
    assert "'tidy up'" in str(result.failure_data_for_node(failure))


def test_the_export_of_the_audit_log_fails_where_its_end_was_deleted(
    light: Settings, ledger: Database, instance: dg.DagsterInstance
) -> None:
    platform = PlatformResource(light)
    record(ledger, actor="officer", action="test", details={})

    def export() -> dg.ExecuteInProcessResult:
        return export_audit.execute_in_process(
            instance=instance, resources={"platform": platform}, raise_on_error=False
        )

    assert export().success
    store = platform.open().cold
    store.delete([info.key for info in store.list("audit")])
    result = export()
    [failure] = result.get_failed_step_keys()
    assert "1 entries at the end" in str(result.failure_data_for_node(failure))
    assert export().success  # they are there again


def test_the_table_of_keys_is_written_anew_where_a_key_was_destroyed_since(
    light: Settings, ledger: Database, instance: dg.DagsterInstance, add_clip: Callable[..., None]
) -> None:
    platform = PlatformResource(light)

    def asked() -> bool:
        context = dg.build_schedule_context(instance=instance, resources={"platform": platform})
        return bool(scrub_keys_weekly.evaluate_tick(context).run_requests)

    assert not asked()
    add_clip("north", noon(1))
    with ledger.transaction() as connection:
        clips = [clip_id for (clip_id,) in connection.execute("SELECT clip_id FROM cv.clips").fetchall()]
        destroy_keys(connection, clips)
    assert asked()
    result = scrub_keys.execute_in_process(instance=instance, resources={"platform": platform})
    assert metadata(result)["rewritten"] is True
    assert not asked()
    assert not [str(clip) for clip in clips if str(clip) in records(instance)]


@pytest.mark.parametrize("job", [expire, reconcile, hot_to_warm, scrub_keys])
def test_each_job_says_what_it_is(job: dg.JobDefinition) -> None:
    assert job.tags["cv/graph"] == "lifecycle"
    assert job.description
