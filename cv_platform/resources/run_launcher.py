"""Dagster's launcher for one machine, which also notices runs whose code server is gone.

Dagster's own can't tell: a run that was under way when daemon and code server were killed, or the machine lost power,
would count as started for ever, keep its place among the concurrent runs, and keep its day and site from being asked
for again.
"""

from __future__ import annotations

from typing import Final

from dagster import DagsterRun, DefaultRunLauncher
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher.base import CheckRunHealthResult, LaunchRunContext, WorkerStatus
from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult
from dagster._serdes import deserialize_value

from cv_platform.resources.pools import make_pools

_TIMEOUT_S: Final = 20


class LocalRunLauncher(DefaultRunLauncher):
    """Runs are children of the code server that its own record names: gone with it, or known to it."""

    def launch_run(self, context: LaunchRunContext) -> None:
        """Have the code server start the run, after the pools that its steps take slots of."""
        make_pools(self._instance, context.dagster_run)
        super().launch_run(context)

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Run monitoring asks."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the run's worker is alive, by the code server that started it.

        A server that is only slow counts as alive, and so does a run that no server started (`dagster job execute`).
        """
        client = self._get_grpc_client_for_termination(run.run_id)  # type: ignore[no-untyped-call]
        if client is None:
            return CheckRunHealthResult(WorkerStatus.RUNNING, "started by no code server")
        try:
            answer = client.can_cancel_execution(CanCancelExecutionRequest(run_id=run.run_id), timeout=_TIMEOUT_S)
        except DagsterUserCodeUnreachableError as error:
            if "UNAVAILABLE" in str(error):
                return CheckRunHealthResult(WorkerStatus.NOT_FOUND, "its code server is gone")
            return CheckRunHealthResult(WorkerStatus.RUNNING, "its code server does not answer in time")
        if deserialize_value(answer, CanCancelExecutionResult).can_cancel:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.NOT_FOUND, "its worker has ended")
