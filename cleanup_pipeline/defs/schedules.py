"""The schedule that starts the day's run at 04:00 UTC, where message cleanup is done by then."""

from dagster import DefaultScheduleStatus, RunRequest, ScheduleEvaluationContext, SkipReason, schedule

from cleanup_pipeline.defs.tick import tick
from cleanup_pipeline.gate.day import NIGHTLY_CRON, utc_day
from cleanup_pipeline.gate.pause import SCHEDULE
from cleanup_pipeline.gate.runs import JOB


@schedule(
    name=SCHEDULE,
    job_name=JOB,
    cron_schedule=NIGHTLY_CRON,
    execution_timezone="UTC",
    default_status=DefaultScheduleStatus.RUNNING,
    description="Starts the day's run at 04:00 UTC if message cleanup has succeeded; else the sensor starts it later.",
)
def session_cleanup_daily(context: ScheduleEvaluationContext) -> RunRequest | SkipReason:
    """Start today's run; a daemon that was down evaluates the last tick that it missed, with that tick's time."""
    return tick(context.instance, "schedule", of_day=utc_day(context.scheduled_execution_time))
