"""The sensor that starts the day's run as soon as it may start, and the one that tells people what is wrong."""

from dagster import DefaultSensorStatus, RunRequest, SensorEvaluationContext, SkipReason, sensor

from cleanup_pipeline.defs.alerting import alert
from cleanup_pipeline.defs.tick import tick
from cleanup_pipeline.gate.pause import SENSOR, SENSOR_EVERY_S
from cleanup_pipeline.gate.runs import JOB


@sensor(
    name=SENSOR,
    job_name=JOB,
    minimum_interval_seconds=SENSOR_EVERY_S,
    default_status=DefaultSensorStatus.RUNNING,
    description="Starts the day's run as soon as message cleanup has succeeded, and again after a run that failed.",
)
def session_cleanup_gate(context: SensorEvaluationContext) -> RunRequest | SkipReason:
    """Make the same decision as the schedule, every 30 seconds."""
    return tick(context.instance, "sensor")


@sensor(
    name="session_cleanup_alerts",
    minimum_interval_seconds=60,
    default_status=DefaultSensorStatus.RUNNING,
    description="Tells people of a run that failed or was refused, a gate closed too long, no good run for 26 hours, "
    "rows that stay due, a long pause. Goes on while the others are paused, and then shows since when and why.",
)
def session_cleanup_alerts(context: SensorEvaluationContext) -> SkipReason:
    """Look at what the storage knows. Not a run-failure sensor: those fire at the first attempt, or miss runs."""
    alerted = alert(context.instance, context.cursor)
    for line in alerted.log:
        context.log.warning(line)
    context.update_cursor(alerted.cursor)
    return SkipReason(alerted.said)
