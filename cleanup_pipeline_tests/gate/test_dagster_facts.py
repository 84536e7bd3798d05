"""What a Dagster instance on PostgreSQL knows about message cleanup and about the day's own runs."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from dagster import DagsterInstance, MaterializeResult, MetadataValue, asset, job, materialize, op
from dagster._core.storage import tags as dagsters

from cleanup_pipeline.gate import dagster_facts, tags
from cleanup_pipeline.gate.dagster_facts import (
    MESSAGE_CLEANUP,
    MessageCleanupReports,
    MessageCleanupRuns,
    complete_good_runs,
    day_runs,
    latest_runs,
)
from cleanup_pipeline.gate.runs import DayRun
from cleanup_pipeline.gate.signals import Signal
from cleanup_pipeline_tests.gate.storage import TODAY, add_day_run, add_run, end, happen, report, today

NOW = today("12:00")
SUCCESS = {"start": "03:00", "success": "03:05"}
YESTERDAY = TODAY - timedelta(days=1)


def of_runs(instance: DagsterInstance, job: str = "message_cleanup", location: str | None = None) -> list[Signal]:
    return list(MessageCleanupRuns(instance, job, location).signals(NOW))


def of_reports(instance: DagsterInstance) -> list[Signal]:
    return list(MessageCleanupReports(instance).signals(NOW))


def only_run(instance: DagsterInstance) -> DayRun:
    (run,) = day_runs(instance, TODAY)
    return run


# The names of Dagster's tags.


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (dagster_facts.SCHEDULED_TIME_TAG, dagsters.SCHEDULED_EXECUTION_TIME_TAG),
        (dagster_facts.REPOSITORY_TAG, dagsters.REPOSITORY_LABEL_TAG),
        (dagster_facts.WILL_RETRY_TAG, dagsters.WILL_RETRY_TAG),
        (dagster_facts.PARENT_RUN_TAG, dagsters.PARENT_RUN_ID_TAG),
        (dagster_facts.RETRIED_BY_TAG, dagsters.AUTO_RETRY_RUN_ID_TAG),
        (dagster_facts.MAX_RUNTIME_TAG, dagsters.MAX_RUNTIME_SECONDS_TAG),
        (dagster_facts.FAILURE_REASON_TAG, dagsters.RUN_FAILURE_REASON_TAG),
    ],
)
def test_dagsters_tags_have_the_names_that_we_look_for(ours: str, theirs: str) -> None:
    assert ours == theirs


# Runs of message cleanup.


def test_a_real_run_that_succeeded_is_a_success_of_the_day(instance: DagsterInstance) -> None:
    @op
    def purge() -> None: ...

    @job(name="message_cleanup")
    def message_cleanup() -> None:
        purge()

    message_cleanup.execute_in_process(instance=instance)

    (signal,) = of_runs(instance)
    assert (signal.state, signal.day) == ("succeeded", TODAY)
    assert signal.at is not None
    assert signal.started is not None
    assert signal.started <= signal.at


@pytest.mark.parametrize(
    ("events", "state", "at"),
    [
        ({"start": "03:00", "success": "03:05"}, "succeeded", "03:05"),
        ({"start": "03:00", "failure": "03:06"}, "failed", "03:06"),
        ({"start": "03:00", "canceling": "03:01", "cancel": "03:02"}, "failed", "03:02"),
        ({"start": "03:00"}, "running", "03:00"),
        ({"start": "03:00", "canceling": "03:01"}, "running", "03:00"),
        ({"enqueue": "02:59"}, "waiting", "03:00"),
        ({"starting": "02:59"}, "running", "03:00"),
    ],
)
def test_the_state_of_a_run(instance: DagsterInstance, events: dict[str, str], state: str, at: str) -> None:
    scheduled = {dagster_facts.SCHEDULED_TIME_TAG: today("03:00").isoformat()}
    add_run(instance, "message_cleanup", events, tagged=scheduled)

    (signal,) = of_runs(instance)

    assert (signal.state, signal.at, signal.day) == (state, today(at), TODAY)


def test_a_failure_that_dagster_will_retry_is_retrying_until_the_retry_is_there(instance: DagsterInstance) -> None:
    run_id = add_run(instance, "message_cleanup", {"start": "03:00", "failure": "03:05"})
    instance.add_run_tags(run_id, {dagster_facts.WILL_RETRY_TAG: "true"})
    before = of_runs(instance)
    instance.add_run_tags(run_id, {dagster_facts.RETRIED_BY_TAG: "another"})

    assert [signal.state for signal in before] == ["retrying"]
    assert [signal.state for signal in of_runs(instance)] == ["failed"]


def test_a_failure_names_its_run_and_dagsters_reason(instance: DagsterInstance) -> None:
    run_id = add_run(instance, "message_cleanup", {"start": "03:00", "failure": "03:05"})

    (signal,) = of_runs(instance)

    assert signal.detail == f"run {run_id}, STEP_FAILURE"


def test_a_run_that_was_canceled_before_it_began_is_no_attempt(instance: DagsterInstance) -> None:
    add_run(instance, "message_cleanup", {"enqueue": "03:00", "cancel": "03:01"})

    assert of_runs(instance) == []


def test_an_attempt_that_was_due_yesterday_is_yesterdays(instance: DagsterInstance) -> None:
    due = {dagster_facts.SCHEDULED_TIME_TAG: (today("03:00") - timedelta(days=1)).isoformat()}
    add_run(instance, "message_cleanup", {"start": "00:05", "success": "00:10"}, tagged=due)

    assert [(signal.state, signal.day) for signal in of_runs(instance)] == [("succeeded", YESTERDAY)]


def test_an_attempt_that_started_yesterday_is_yesterdays(instance: DagsterInstance) -> None:
    add_run(instance, "message_cleanup", {"start": today("00:00") - timedelta(minutes=1), "success": "00:10"})

    assert [signal.day for signal in of_runs(instance)] == [YESTERDAY]


def test_a_scheduled_time_that_is_odd_is_not_believed(instance: DagsterInstance) -> None:
    odd = {dagster_facts.SCHEDULED_TIME_TAG: "yesterday"}
    add_run(instance, "message_cleanup", {"start": "03:00", "success": "03:05"}, tagged=odd)

    assert [signal.day for signal in of_runs(instance)] == [TODAY]


def test_only_the_job_that_is_named_counts(instance: DagsterInstance) -> None:
    add_run(instance, "purge", {"start": "03:00", "success": "03:05"})

    assert of_runs(instance) == []
    assert len(of_runs(instance, job="purge")) == 1


def test_only_the_location_that_is_named_counts(instance: DagsterInstance) -> None:
    add_run(instance, "message_cleanup", SUCCESS, location="chat")
    by_tag = {dagster_facts.REPOSITORY_TAG: "__repository__@chat"}
    add_run(instance, "message_cleanup", SUCCESS, tagged=by_tag, location=None)
    add_run(instance, "message_cleanup", SUCCESS, location="staging")
    add_run(instance, "message_cleanup", SUCCESS, location=None)

    assert len(of_runs(instance, location="chat")) == 2
    assert len(of_runs(instance)) == 4


# Reports.


def test_a_report_without_a_time_counts_from_when_it_was_made(instance: DagsterInstance) -> None:
    report(instance)

    (signal,) = MessageCleanupReports(instance).signals(datetime.now(UTC))
    assert (signal.state, signal.day) == ("succeeded", TODAY)
    assert signal.at is not None
    assert abs(datetime.now(UTC) - signal.at) < timedelta(minutes=1)


FINISHED = today("03:04:05")


@pytest.mark.parametrize(
    "finished_at",
    [
        pytest.param(FINISHED.isoformat(), id="offset"),
        pytest.param(f"{TODAY}T03:04:05.000Z", id="as JavaScript writes it"),
        pytest.param(f"{TODAY}t03:04:05z", id="in small letters"),
        pytest.param(f" {TODAY}T05:04:05+02:00 ", id="another zone"),
        pytest.param(FINISHED.timestamp(), id="seconds"),
        pytest.param(int(FINISHED.timestamp()), id="whole seconds"),
        pytest.param(int(FINISHED.timestamp() * 1000), id="milliseconds, as Date.now() counts"),
        pytest.param(MetadataValue.timestamp(FINISHED), id="Dagster's timestamp"),
    ],
)
def test_a_report_counts_for_the_time_it_names(
    instance: DagsterInstance, finished_at: str | float | MetadataValue[Any]
) -> None:
    report(instance, finished_at=finished_at)

    assert of_reports(instance) == [Signal(source="materialization", state="succeeded", at=FINISHED, day=TODAY)]


def test_a_report_for_yesterday_is_yesterdays(instance: DagsterInstance) -> None:
    report(instance, finished_at=(today("03:00") - timedelta(days=1)).isoformat())

    assert [signal.day for signal in of_reports(instance)] == [YESTERDAY]


def test_a_report_may_tell_when_its_attempt_was_due_or_started(instance: DagsterInstance) -> None:
    yesterday_late = (today("00:00") - timedelta(minutes=5)).isoformat()
    report(instance, finished_at=today("00:10").isoformat(), started_at=yesterday_late)
    report(instance, finished_at=today("00:10").isoformat(), scheduled_for=yesterday_late)

    assert [signal.day for signal in of_reports(instance)] == [YESTERDAY, YESTERDAY]


@pytest.mark.parametrize(
    "finished_at",
    [
        *("yesterday", "", f"{TODAY}T03:04:05", str(TODAY), "3" * 5000, "0001-01-01T00:00:00+14:00"),
        *(float("nan"), float("inf"), 1e300, -1e300, 10**400, -(10**400), 10**18),
        *(MetadataValue.bool(True), MetadataValue.null(), MetadataValue.json({"at": 1}), MetadataValue.md("now")),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_report_that_can_not_be_understood_is_told_opens_nothing_and_hides_no_other(
    instance: DagsterInstance, finished_at: str | float | MetadataValue[Any]
) -> None:
    report(instance, finished_at=FINISHED.isoformat())
    report(instance, finished_at=finished_at)

    odd, sound = of_reports(instance)
    assert (odd.state, odd.day) == ("unknown", None)
    assert "does not count, its finished_at can't be understood" in str(odd.detail)
    assert (sound.state, sound.at) == ("succeeded", FINISHED)


@pytest.mark.parametrize(
    "odd",
    ["soon", f"{TODAY}T03:00:00", float("nan"), 10**400, "0001-01-01T00:00:00+14:00"],
    ids=lambda value: str(value)[:30],
)
def test_a_start_or_a_due_time_that_can_not_be_understood_is_left_out(
    instance: DagsterInstance, odd: str | float
) -> None:
    report(instance, finished_at=FINISHED.isoformat(), started_at=odd, scheduled_for=odd)

    assert of_reports(instance) == [Signal(source="materialization", state="succeeded", at=FINISHED, day=TODAY)]


@pytest.mark.parametrize(("ahead", "state"), [(timedelta(minutes=5), "succeeded"), (timedelta(minutes=6), "unknown")])
def test_a_report_from_the_future_opens_nothing(instance: DagsterInstance, ahead: timedelta, state: str) -> None:
    report(instance, finished_at=(NOW + ahead).isoformat())

    assert [signal.state for signal in of_reports(instance)] == [state]


def test_a_report_of_a_day_to_come_opens_nothing_on_that_day_either(instance: DagsterInstance) -> None:
    tomorrow = today("03:30") + timedelta(days=1)
    report(instance, finished_at=tomorrow.isoformat())
    report(instance, finished_at=FINISHED.isoformat(), scheduled_for=tomorrow.isoformat())
    report(instance, finished_at=FINISHED.isoformat(), started_at=tomorrow.isoformat())

    heard = MessageCleanupReports(instance).signals(tomorrow + timedelta(minutes=30))
    assert {(signal.state, signal.day) for signal in heard} == {("unknown", None), ("succeeded", TODAY)}


def test_a_report_under_another_key_is_not_seen(instance: DagsterInstance) -> None:
    @asset(name="chat_service__message_cleanup")
    def other() -> None: ...

    materialize([other], instance=instance)

    assert of_reports(instance) == []


def test_a_materialization_by_a_run_belongs_to_the_runs_day(instance: DagsterInstance) -> None:
    @asset(key=MESSAGE_CLEANUP)
    def message_cleanup() -> MaterializeResult[None]:
        return MaterializeResult(metadata={"finished_at": datetime.now(UTC).isoformat()})

    due = {dagster_facts.SCHEDULED_TIME_TAG: (today("03:00") - timedelta(days=1)).isoformat()}
    materialize([message_cleanup], instance=instance, tags=due)

    (signal,) = MessageCleanupReports(instance).signals(datetime.now(UTC))
    assert (signal.state, signal.day) == ("succeeded", YESTERDAY)
    assert signal.started is not None


# The day's own runs.


@pytest.mark.parametrize(
    ("events", "status"),
    [
        ((), "queued"),
        (("enqueue",), "queued"),
        (("starting",), "running"),
        (("start",), "running"),
        (("start", "canceling"), "running"),
        (("start", "success"), "success"),
        (("start", "failure"), "failed"),
        (("start", "cancel"), "interrupted"),
    ],
)
def test_the_status_of_a_run_that_says_nothing_follows_from_dagsters(
    instance: DagsterInstance, events: tuple[str, ...], status: str
) -> None:
    add_day_run(instance, dict.fromkeys(events, "04:00"))

    assert only_run(instance).status == status


@pytest.mark.parametrize(
    ("outcome", "event", "status"),
    [
        ("success", "success", "success"),
        ("success", "failure", "success"),  # its work was done; Dagster lost sight of it
        ("failed", "failure", "failed"),
        ("refused", "failure", "refused"),
        ("skipped", "failure", "skipped"),
        ("interrupted", "cancel", "interrupted"),
        ("superseded", "cancel", "superseded"),
    ],
)
def test_the_status_of_a_run_is_the_outcome_it_told(
    instance: DagsterInstance, outcome: tags.Outcome, event: str, status: str
) -> None:
    run_id = add_day_run(instance, {"start": "04:00"})
    end(instance, run_id, outcome, event, "04:02")

    run = only_run(instance)

    assert (run.status, run.outcome) == (status, outcome)
    assert (run.started, run.ended) == (today("04:00"), today("04:02"))


def test_a_run_that_told_its_failure_and_has_not_ended_is_still_on(instance: DagsterInstance) -> None:
    run_id = add_day_run(instance, {"start": "04:00"})
    instance.add_run_tags(run_id, tags.outcome_tags(run_id, "failed"))

    assert only_run(instance).status == "running"


def test_an_inherited_outcome_and_an_inherited_claim_are_not_believed(instance: DagsterInstance) -> None:
    parent = add_day_run(instance, {"start": "04:00"}, claimed=True)
    end(instance, parent, "refused", "failure", "04:01")
    parents_tags = dict(instance.get_run_by_id(parent).tags)  # type: ignore[union-attr]  # it is there
    child = add_run(instance, events={"start": "09:00", "failure": "09:01"}, tagged=parents_tags)

    newest, oldest = day_runs(instance, TODAY)

    assert (newest.run_id, newest.status, newest.claimed) == (child, "failed", False)
    assert (oldest.run_id, oldest.status, oldest.claimed) == (parent, "refused", True)


def test_runs_of_another_day_and_manual_runs_are_not_the_days(instance: DagsterInstance) -> None:
    add_run(instance, events={"start": "04:00"}, tagged={tags.DAY: str(YESTERDAY)})
    manual = add_run(instance, events={"start": "04:00"}, tagged={tags.TRIGGER: "manual"})

    assert day_runs(instance, TODAY) == []
    (newest, _) = latest_runs(instance, "session_cleanup", limit=10)
    assert (newest.run_id, newest.day, newest.trigger) == (manual, None, "manual")


def test_a_run_of_another_job_that_carries_the_day_is_not_the_days(instance: DagsterInstance) -> None:
    other = add_run(instance, "nightly_report", SUCCESS, tagged={tags.DAY: str(TODAY), tags.TRIGGER: "schedule"})
    instance.add_run_tags(other, tags.outcome_tags(other, "success"))

    assert day_runs(instance, TODAY) == []
    assert complete_good_runs(instance, {"an op"}) == []


def test_a_day_that_can_not_be_read_is_none(instance: DagsterInstance) -> None:
    add_run(instance, tagged={tags.DAY: "today"})

    assert [run.day for run in latest_runs(instance, "session_cleanup", limit=10)] == [None]


def test_a_run_in_the_queue_is_never_lost(instance: DagsterInstance) -> None:
    add_day_run(instance, {"enqueue": "04:00"})

    assert only_run(instance).lost_after is None


def test_a_run_that_hangs_in_canceling_is_lost_after_run_monitorings_limit(instance: DagsterInstance) -> None:
    run_id = add_day_run(instance, {"start": "04:00"})
    happen(instance, run_id, "canceling", "04:10")

    limit = instance.run_monitoring_cancel_timeout_seconds + 2 * instance.run_monitoring_poll_interval_seconds
    assert only_run(instance).lost_after == today("04:10") + timedelta(seconds=limit)


def test_a_run_with_a_longest_runtime_is_lost_after_it(instance: DagsterInstance) -> None:
    run_id = add_day_run(instance, {"start": "04:00"})
    unlimited = only_run(instance).lost_after
    instance.add_run_tags(run_id, {dagster_facts.MAX_RUNTIME_TAG: "3600"})

    looks = timedelta(seconds=2 * instance.run_monitoring_poll_interval_seconds)
    assert unlimited is None
    assert only_run(instance).lost_after == today("05:00") + looks


@pytest.mark.parametrize("odd", ["soon", "", "nan", "inf", "-inf", "1e300", "1" * 400, "-5"], ids=lambda odd: odd[:8])
def test_of_a_longest_runtime_that_is_none_the_instances_own_takes_the_place(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch, odd: str
) -> None:
    monkeypatch.setattr(type(instance), "run_monitoring_max_runtime_seconds", 7200)
    add_run(instance, events={"start": "04:00"}, tagged={tags.DAY: str(TODAY), dagster_facts.MAX_RUNTIME_TAG: odd})

    looks = timedelta(seconds=2 * instance.run_monitoring_poll_interval_seconds)
    assert only_run(instance).lost_after == today("06:00") + looks


def test_the_json_of_a_run_is_the_one_that_is_promised(instance: DagsterInstance) -> None:
    run_id = add_day_run(instance, {"start": "04:00"})
    end(instance, run_id, "success", "success", "04:02")

    assert only_run(instance).to_json() == {
        "run_id": run_id,
        "day": str(TODAY),
        "trigger": "sensor",
        "status": "success",
        "started": f"{TODAY}T04:00:00+00:00",
        "ended": f"{TODAY}T04:02:00+00:00",
    }
