"""`export_audit`: the audit chain outside the database, every day."""

import dagster as dg

from cv_platform.resources.platform import PlatformResource


@dg.op(description="Writes new audit entries to the store, under Object Lock where there is one. Safe to run again.")
def export_audit_chain(context: dg.OpExecutionContext, platform: dg.ResourceParam[PlatformResource]) -> None:
    from cv_platform.governance.audit_export import export_audit, verify_audit

    opened = platform.open(run_id=context.run_id, log=context.log)
    done = export_audit(opened.database, opened.cold, keep=opened.policy.default_rules.keep.audit)
    context.add_output_metadata(
        {"entries": done.entries, "files": done.files, "object lock": done.locked, "missing": done.missing}
    )
    if done.missing:
        # They stand in the table still, and are in the store again; who deleted them, and why, a person must find out.
        raise dg.Failure(
            f"{done.missing} entries at the end of the exported audit log were gone from the store, and were written"
            " again: somebody deleted them, or it is another store than before; see who may delete there",
            allow_retries=False,
        )
    if found := list(verify_audit(opened.database, opened.cold)):
        raise dg.Failure(
            f"the audit chain was tampered with: {len(found)} problems; `cv-platform audit verify` names them",
            allow_retries=False,
        )


@dg.job(description="Exports the audit chain and verifies it.", tags={"cv/graph": "lifecycle"})
def export_audit() -> None:
    export_audit_chain()


export_audit_daily = dg.ScheduleDefinition(
    name="export_audit_daily",
    job=export_audit,
    cron_schedule="23 1 * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
