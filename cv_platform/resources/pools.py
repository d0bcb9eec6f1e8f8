"""Pools that are there before the runs that take their slots.

A pool's row is made where a run first asks for a slot, and where two do so at once one of them fails: Dagster goes on
in a transaction that the other's row has broken off. The launcher makes the rows instead, one run after another.
"""

from __future__ import annotations

import threading

from dagster import DagsterInstance, DagsterRun

_lock = threading.Lock()


def make_pools(instance: DagsterInstance, run: DagsterRun) -> None:
    """Make the pools of a run's steps, with the default limit, where they are not there."""
    storage = instance.event_log_storage
    if run.execution_plan_snapshot_id is None or not storage.supports_global_concurrency_limits:
        return
    plan = instance.get_execution_plan_snapshot(run.execution_plan_snapshot_id)
    pools = {step.pool for step in plan.steps if step.pool is not None}
    with _lock:
        for pool in sorted(pools - storage.get_concurrency_keys()):
            storage.initialize_concurrency_limit_to_default(pool)
