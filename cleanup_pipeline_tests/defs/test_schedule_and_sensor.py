"""Schedule and sensor on a real Dagster instance: what starts, what is skipped and why."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from dagster import (
    DagsterInstance,
    DefaultScheduleStatus,
    DefaultSensorStatus,
    Definitions,
    RunRequest,
    SkipReason,
    build_schedule_context,
    build_sensor_context,
    job,
    op,
)

from cleanup_pipeline.defs.schedules import session_cleanup_daily
from cleanup_pipeline.defs.sensors import session_cleanup_gate
from cleanup_pipeline.gate import day, tags
from cleanup_pipeline_tests.databases import fresh_database
from cleanup_pipeline_tests.gate.storage import TODAY, add_day_run, add_run, end, report, today

SetClock = Callable[[str], None]
Answer = RunRequest | SkipReason

SUCCESS = {"start": "03:00", "success": "03:00:04"}
NO_TRACE = f"No trace of message cleanup for {TODAY}; today's run has been waiting since 04:00:00 UTC."

pytestmark = pytest.mark.filterwarnings("error::DeprecationWarning:dagster")


@op
def nothing() -> None: ...


@job
def session_cleanup() -> None:
    nothing()


DEFINITIONS = Definitions(jobs=[session_cleanup], schedules=[session_cleanup_daily], sensors=[session_cleanup_gate])


@pytest.fixture(autouse=True)
def set_clock(monkeypatch: pytest.MonkeyPatch) -> SetClock:
    """Set the wall clock to an hour of today; 04:00:01 to begin with."""

    def set_clock(hour: str) -> None:
        monkeypatch.setattr(day, "utc_now", lambda: today(hour))

    set_clock("04:00:01")
    for variable in ("CLEANUP_GATE", "CLEANUP_GATE_DEADLINE", "CLEANUP_GATE_WHEN_LATE", "CLEANUP_NIGHT_ENDS"):
        monkeypatch.delenv(variable, raising=False)
    return set_clock


def schedule_says(instance: DagsterInstance, tick: datetime | None = None) -> Answer:
    context = build_schedule_context(instance=instance, scheduled_execution_time=tick or today("04:00"))
    data = session_cleanup_daily.evaluate_tick(context)
    return _only(data.run_requests, data.skip_message)


def sensor_says(instance: DagsterInstance) -> Answer:
    context = build_sensor_context(instance=instance, repository_def=DEFINITIONS.get_repository_def())
    data = session_cleanup_gate.evaluate_tick(context)
    return _only(data.run_requests, data.skip_message)


def _only(run_requests: object, skip_message: str | None) -> Answer:
    if not run_requests:
        return SkipReason(skip_message)
    assert isinstance(run_requests, list)
    (run_request,) = run_requests
    assert isinstance(run_request, RunRequest)
    return run_request


def started(answer: Answer) -> RunRequest:
    assert isinstance(answer, RunRequest), answer
    return answer


def skipped(answer: Answer) -> str:
    assert isinstance(answer, SkipReason), answer
    assert answer.skip_message is not None
    return answer.skip_message


def execute(instance: DagsterInstance, answer: Answer) -> str:
    """Do what the daemon does with a run request."""
    request = started(answer)
    run_tags = {**request.tags, "dagster/run_key": str(request.run_key)}
    return session_cleanup.execute_in_process(instance=instance, tags=run_tags).run_id


def test_both_are_on_as_soon_as_the_daemon_runs() -> None:
    assert session_cleanup_daily.default_status is DefaultScheduleStatus.RUNNING
    assert session_cleanup_gate.default_status is DefaultSensorStatus.RUNNING


def test_the_schedule_is_daily_at_four_in_utc() -> None:
    assert session_cleanup_daily.cron_schedule == "0 4 * * *"
    assert session_cleanup_daily.execution_timezone == "UTC"
    assert session_cleanup_gate.minimum_interval_seconds == 30


def test_both_start_the_job_session_cleanup() -> None:
    assert session_cleanup_daily.job_name == "session_cleanup"
    assert [target.job_name for target in session_cleanup_gate.targets] == ["session_cleanup"]
    Definitions.validate_loadable(DEFINITIONS)


def test_the_schedule_starts_the_days_run_after_a_run_of_message_cleanup(instance: DagsterInstance) -> None:
    add_run(instance, "message_cleanup", SUCCESS)

    run = started(schedule_says(instance))

    assert (run.tags[tags.DAY], run.tags[tags.TRIGGER]) == (str(TODAY), "schedule")
    assert tags.GATE not in run.tags


def test_the_sensor_starts_the_days_run_after_a_report_of_message_cleanup(instance: DagsterInstance) -> None:
    report(instance, finished_at=today("03:05").isoformat())

    run = started(sensor_says(instance))

    assert (run.tags[tags.DAY], run.tags[tags.TRIGGER]) == (str(TODAY), "sensor")


def test_without_message_cleanup_the_schedule_skips_and_the_sensor_starts_the_run_later(
    instance: DagsterInstance, set_clock: SetClock
) -> None:
    assert skipped(schedule_says(instance)) == NO_TRACE
    assert skipped(sensor_says(instance)) == NO_TRACE

    set_clock("04:20")
    report(instance, finished_at=today("04:19:50").isoformat())

    assert started(sensor_says(instance)).tags[tags.TRIGGER] == "sensor"


def test_a_message_cleanup_that_failed_is_told(instance: DagsterInstance) -> None:
    run_id = add_run(instance, "message_cleanup", {"start": "03:00", "failure": "03:10"})

    reason = f"Message cleanup failed at 03:10:00 UTC (Dagster run): run {run_id}, STEP_FAILURE."
    assert skipped(schedule_says(instance)) == skipped(sensor_says(instance)) == reason


def test_before_four_the_sensor_starts_nothing(instance: DagsterInstance, set_clock: SetClock) -> None:
    add_run(instance, "message_cleanup", SUCCESS)
    set_clock("03:59:59")

    assert skipped(sensor_says(instance)) == (
        "Message cleanup succeeded at 03:00:04 UTC (Dagster run); today's run is due at 04:00:00 UTC."
    )


def test_a_tick_of_yesterday_starts_nothing(instance: DagsterInstance) -> None:
    add_run(instance, "message_cleanup", SUCCESS)
    yesterday = TODAY - timedelta(days=1)

    reason = skipped(schedule_says(instance, tick=today("04:00") - timedelta(days=1)))

    assert reason == f"This tick belongs to {yesterday} and it is {TODAY}: a missed day is not made up."


def test_a_tick_of_today_that_is_evaluated_late_starts_the_run(instance: DagsterInstance, set_clock: SetClock) -> None:
    add_run(instance, "message_cleanup", SUCCESS)
    set_clock("17:00")

    assert started(schedule_says(instance)).tags[tags.DAY] == str(TODAY)


def test_one_good_run_a_day_from_the_two_together(instance: DagsterInstance) -> None:
    add_run(instance, "message_cleanup", SUCCESS)
    execute(instance, schedule_says(instance))

    assert skipped(sensor_says(instance)).startswith("Today's run ended well at ")
    assert skipped(schedule_says(instance)).startswith("Today's run ended well at ")


def test_a_run_that_was_started_again_from_the_ui_counts(instance: DagsterInstance) -> None:
    add_run(instance, "message_cleanup", SUCCESS)
    parent = add_day_run(instance, {"start": "04:00"}, claimed=True)
    end(instance, parent, "refused", "failure", "04:00:30")
    assert "a person is needed" in skipped(sensor_says(instance))

    inherited = instance.get_run_by_id(parent)
    assert inherited is not None
    add_run(instance, events={"start": "09:00", "success": "09:02"}, tagged=dict(inherited.tags))

    assert skipped(sensor_says(instance)) == "Today's run ended well at 09:02:00 UTC."


def test_a_failed_run_is_tried_again_under_another_run_key(instance: DagsterInstance, set_clock: SetClock) -> None:
    add_run(instance, "message_cleanup", SUCCESS)
    first = started(schedule_says(instance))
    failed = add_day_run(instance, {"start": "04:00"}, claimed=True)
    end(instance, failed, "failed", "failure", "04:03")

    assert skipped(sensor_says(instance)) == "Attempt 1 of 3 failed at 04:03:00 UTC; again at 04:13:00 UTC."
    set_clock("04:13")
    second = started(sensor_says(instance))

    assert second.run_key not in (None, first.run_key)


def test_two_ticks_at_one_instant_both_start_a_run(instance: DagsterInstance) -> None:
    """Which is why a run claims the day before it works: see test_claim.py."""
    add_run(instance, "message_cleanup", SUCCESS)

    by_schedule, by_sensor = schedule_says(instance), sensor_says(instance)

    assert started(by_schedule).tags[tags.DAY] == started(by_sensor).tags[tags.DAY]


def test_with_the_gate_off_the_run_is_tagged_so(instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLEANUP_GATE", "off")

    assert started(schedule_says(instance)).tags[tags.GATE] == "off"


def test_a_late_run_is_tagged_so(
    instance: DagsterInstance, set_clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLEANUP_GATE_WHEN_LATE", "run")
    set_clock("06:00")

    assert started(sensor_says(instance)).tags[tags.GATE] == "late"


def test_a_malformed_variable_is_a_reason_to_skip(instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    add_run(instance, "message_cleanup", SUCCESS)
    monkeypatch.setenv("CLEANUP_GATE_DEADLINE", "noon")

    fault = "CLEANUP_GATE_DEADLINE is 'noon', accepted is an hour of the day in UTC as HH:MM, such as 06:00"
    reason = f"Nothing is started while a variable is malformed; {fault}."
    assert skipped(schedule_says(instance)) == skipped(sensor_says(instance)) == reason


def test_a_storage_that_is_down_is_a_reason_to_skip(server_url: str, tmp_path: Path) -> None:
    with fresh_database(server_url) as url:
        (tmp_path / "dagster.yaml").write_text(
            f'{{"storage": {{"postgres": {{"postgres_url": "{url}"}}}}, "telemetry": {{"enabled": false}}}}'
        )
        instance = DagsterInstance.from_config(str(tmp_path))
    try:
        reason = skipped(sensor_says(instance))
    finally:
        instance.dispose()

    assert reason.startswith("Dagster's storage can't be read: ")
    assert len(reason.splitlines()) == 1
