"""The sensor that starts the day's run as soon as it may start: after a late message cleanup, or after a failure."""

from dagster import DefaultSensorStatus, RunRequest, SensorEvaluationContext, SkipReason, sensor

from cleanup_pipeline.defs.tick import JOB, tick


@sensor(
    name="session_cleanup_gate",
    job_name=JOB,
    minimum_interval_seconds=30,
    default_status=DefaultSensorStatus.RUNNING,
    description="Starts the day's run as soon as message cleanup has succeeded, and again after a run that failed.",
)
def session_cleanup_gate(context: SensorEvaluationContext) -> RunRequest | SkipReason:
    """Make the same decision as the schedule, every 30 seconds."""
    return tick(context.instance, "sensor")
