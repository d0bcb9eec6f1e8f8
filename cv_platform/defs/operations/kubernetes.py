"""`reap_orphans`: step jobs and pods of runs that have ended."""

import dagster as dg


@dg.op(description="Ends Kubernetes jobs and pods of runs that have ended. Safe to run again, and twice at once.")
def end_orphans(context: dg.OpExecutionContext) -> None:
    from dagster_k8s import K8sRunLauncher

    launcher = context.instance.run_launcher
    if not isinstance(launcher, K8sRunLauncher):
        context.log.info("runs are not launched on Kubernetes: there is nothing to end")
        return
    from cv_platform.resources.orphans import reap_orphans as reap
    from cv_platform.resources.patience import patient_apis

    batch, core = patient_apis()  # the launcher has loaded the cluster's configuration
    reaped = reap(context.instance, batch, core, namespace=launcher.job_namespace)
    context.add_output_metadata({"jobs ended": reaped.jobs, "pods ended": reaped.pods})


@dg.job(
    description="Ends Kubernetes jobs and pods of runs that have ended, by the label dagster/run-id.",
    tags={"cv/graph": "operations"},
    executor_def=dg.in_process_executor,  # in the run's own pod: nothing here needs another
)
def reap_orphans() -> None:
    end_orphans()


reap_orphans_often = dg.ScheduleDefinition(
    name="reap_orphans_often",
    job=reap_orphans,
    cron_schedule="*/10 * * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
