"""What a Dagster instance knows: attempts of message cleanup, and the day's own runs."""

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal, cast

from dagster import (
    AssetKey,
    AssetRecordsFilter,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    EventLogRecord,
    FloatMetadataValue,
    IntMetadataValue,
    MetadataValue,
    RunRecord,
    RunsFilter,
    TextMetadataValue,
    TimestampMetadataValue,
)

from cleanup_pipeline.gate import tags
from cleanup_pipeline.gate.day import clock, from_epoch, utc_day
from cleanup_pipeline.gate.runs import JOB, DayRun, RunStatus
from cleanup_pipeline.gate.signals import CLOCK_SKEW, Signal, State, attempt_day, one_line

MESSAGE_CLEANUP = AssetKey(["chat_service", "message_cleanup"])
"""The external asset that stands for chat-service's message cleanup."""

FINISHED_AT = "finished_at"
STARTED_AT = "started_at"
SCHEDULED_FOR = "scheduled_for"
"""Metadata of a report: when the attempt finished (else: when it was reported), started, and was to start."""

SOURCE = "source"
ATTEMPT = "job_id"
EVENT = "event_id"
FAILED_AT = "failed_at"
REASON = "reason"
"""More metadata of what we record ourselves: where it was found, by which names there, when and why it failed."""

# Dagster's own tags; it exports no names for them.
SCHEDULED_TIME_TAG = ".dagster/scheduled_execution_time"
REPOSITORY_TAG = ".dagster/repository"
WILL_RETRY_TAG = "dagster/will_retry"
MAX_RUNTIME_TAG = "dagster/max_runtime"
PARENT_RUN_TAG = "dagster/parent_run_id"
RETRIED_BY_TAG = "dagster/auto_retry_run_id"
FAILURE_REASON_TAG = "dagster/failure_reason"

# Nobody means a longer limit, and far longer ones no calendar has room for.
_LONGEST_RUNTIME_S = timedelta(days=365).total_seconds()
MOST_RECORDS = 500
"""Far more than two days bring, and few enough to be read in a moment."""
# A day brings one, and an incident some of single rules.
_MOST_GOOD = 100

_UNFINISHED: dict[DagsterRunStatus, Literal["queued", "running"]] = {
    DagsterRunStatus.QUEUED: "queued",
    DagsterRunStatus.NOT_STARTED: "queued",
    DagsterRunStatus.MANAGED: "running",
    DagsterRunStatus.STARTING: "running",
    DagsterRunStatus.STARTED: "running",
    DagsterRunStatus.SUSPENDED: "running",
    DagsterRunStatus.CANCELING: "running",
}


@dataclass(frozen=True, slots=True)
class MessageCleanupRuns:
    """Runs of the Dagster job that is message cleanup, of one code location or of any."""

    instance: DagsterInstance
    job: str
    location: str | None = None

    source: Literal["dagster_run"] = "dagster_run"

    def signals(self, now: datetime) -> Sequence[Signal]:
        """Return the attempts among the runs that were created since yesterday."""
        created = RunsFilter(job_name=self.job, created_after=yesterday(now))
        records = self.instance.get_run_records(created, limit=MOST_RECORDS)
        ours = (record for record in records if self.location in (None, location_of(record.dagster_run)))
        return [signal for record in ours if (signal := _signal_of_run(record))]


@dataclass(frozen=True, slots=True)
class MessageCleanupReports:
    """Materializations of the asset `chat_service/message_cleanup`, by a run or reported from outside.

    And what we recorded there ourselves, failures included.
    """

    instance: DagsterInstance

    source: Literal["materialization"] = "materialization"

    def signals(self, now: datetime) -> Sequence[Signal]:
        """Return the successes that were reported since yesterday, and the failures that we recorded."""
        since = AssetRecordsFilter(asset_key=MESSAGE_CLEANUP, after_timestamp=yesterday(now).timestamp())
        records = self.instance.fetch_materializations(since, limit=MOST_RECORDS).records
        runs = self._runs_of(records)
        reports = [_signal_of_report(record, runs.get(record.run_id), now) for record in records]
        observed = self.instance.fetch_observations(since, limit=MOST_RECORDS).records
        return [*reports, *(signal for record in observed if (signal := _signal_of_recorded_failure(record)))]

    def _runs_of(self, records: Sequence[EventLogRecord]) -> dict[str, RunRecord]:
        """Find the runs that materialized the asset themselves; what is reported from outside has none."""
        run_ids = sorted({record.run_id for record in records if record.run_id})
        if not run_ids:
            return {}
        found = self.instance.get_run_records(RunsFilter(run_ids=run_ids))
        return {record.dagster_run.run_id: record for record in found}


def day_runs(instance: DagsterInstance, day: date) -> list[DayRun]:
    """Return every run of our job that carries the day, re-executions too, newest first.

    Raises what Dagster's storage raises.
    """
    of_day = RunsFilter(job_name=JOB, tags={tags.DAY: str(day)})
    return [_day_run(instance, record) for record in instance.get_run_records(of_day)]


def latest_runs(instance: DagsterInstance, job: str, limit: int) -> list[DayRun]:
    """Return the last runs of the job, manual ones included, newest first. Raises what Dagster's storage raises."""
    return [_day_run(instance, record) for record in instance.get_run_records(RunsFilter(job_name=job), limit=limit)]


def complete_good_runs(instance: DagsterInstance, ops: Set[str]) -> list[DayRun]:
    """Return the last good runs, newest first: the nights', and those that people started of all `ops`.

    One that left something behind for a limit of its own is not among them; where the night ended first, it is.
    """
    records = instance.get_run_records(RunsFilter(tags={tags.OUTCOME: "success"}), limit=_MOST_GOOD)
    runs = ((record.dagster_run, _day_run(instance, record)) for record in records)
    return [
        run
        for stored, run in runs
        if run.good
        and stored.tags.get(tags.LIMITED) != run.run_id
        and (run.day or ops <= set(stored.step_keys_to_execute or ()))
    ]


def was_started_again_by_a_person(instance: DagsterInstance, run: DagsterRun) -> bool:
    """Whether the run is another's re-execution, and not the one by which Dagster itself retries a run that it lost."""
    parent_id = run.tags.get(PARENT_RUN_TAG)
    if parent_id is None:
        return False
    parent = instance.get_run_by_id(parent_id)
    return parent is None or parent.tags.get(RETRIED_BY_TAG) != run.run_id


def location_of(run: DagsterRun) -> str | None:
    """Return the code location that a run came from; a run without an origin tells it by a tag, if at all."""
    if run.remote_job_origin:
        return run.remote_job_origin.repository_origin.code_location_origin.location_name
    _, _, location = run.tags.get(REPOSITORY_TAG, "").rpartition("@")
    return location or None


def yesterday(now: datetime) -> datetime:
    """Return the beginning of the UTC day before."""
    return datetime.combine(utc_day(now) - timedelta(days=1), datetime.min.time(), tzinfo=UTC)


def _signal_of_run(record: RunRecord) -> Signal | None:
    """Return the attempt that a run of message cleanup is, or None where it was given up before it began."""
    run = record.dagster_run
    started, ended = from_epoch(record.start_time), from_epoch(record.end_time)
    if run.status is DagsterRunStatus.CANCELED and started is None:
        return None
    state, moment = _state_of_run(run, started, ended)
    scheduled = _time(run.tags.get(SCHEDULED_TIME_TAG))
    return Signal(
        source="dagster_run",
        state=state,
        at=moment or (None if state == "retrying" else scheduled or record.create_timestamp),
        day=attempt_day(scheduled, started, record.create_timestamp),
        # A run that waits is one attempt more than those before it, though it has not started.
        started=started or record.create_timestamp,
        detail=_detail_of_run(run, state),
    )


def _state_of_run(run: DagsterRun, started: datetime | None, ended: datetime | None) -> tuple[State, datetime | None]:
    match run.status:
        case DagsterRunStatus.SUCCESS:
            return "succeeded", ended
        case DagsterRunStatus.FAILURE if run.tags.get(WILL_RETRY_TAG) == "true" and RETRIED_BY_TAG not in run.tags:
            return "retrying", None  # Dagster does not tell when
        case DagsterRunStatus.FAILURE | DagsterRunStatus.CANCELED:
            return "failed", ended
        case DagsterRunStatus.QUEUED | DagsterRunStatus.NOT_STARTED:
            return "waiting", None
        case _:
            return "running", started


def _detail_of_run(run: DagsterRun, state: State) -> str | None:
    if run.status is DagsterRunStatus.CANCELED:
        return f"run {run.run_id} was canceled"
    if state in ("failed", "retrying"):
        why = run.tags.get(FAILURE_REASON_TAG)
        return one_line(f"run {run.run_id}, {why}" if why else f"run {run.run_id}")
    return None


def _signal_of_report(record: EventLogRecord, run: RunRecord | None, now: datetime) -> Signal:
    reported = datetime.fromtimestamp(record.timestamp, UTC)
    materialization = record.asset_materialization
    metadata = materialization.metadata if materialization else {}
    told = metadata.get(FINISHED_AT)
    finished = reported if told is None else _time_of_metadata(told)
    # What is said of a day that has not begun opens nothing on that day either.
    if finished is None or finished > now + CLOCK_SKEW or utc_day(finished) > utc_day(reported + CLOCK_SKEW):
        fault = "is later than the report itself" if finished else "can't be understood: ISO 8601 with a zone is"
        when = clock(reported, utc_day(now))
        said = one_line(f"a report of {when} does not count, its {FINISHED_AT} {fault}")
        return Signal(source="materialization", state="unknown", detail=said)
    scheduled, started = _time_of_metadata(metadata.get(SCHEDULED_FOR)), _time_of_metadata(metadata.get(STARTED_AT))
    if run:
        scheduled = scheduled or _time(run.dagster_run.tags.get(SCHEDULED_TIME_TAG))
        started = started or from_epoch(run.start_time)
    return Signal(
        source="materialization",
        state="succeeded",
        at=finished,
        # It is of no later day than that of its end, whatever it was scheduled for.
        day=min(attempt_day(scheduled, started, finished), utc_day(finished)),
        started=started,
        echo_of="bullmq" if _is_recorded(metadata) else None,
    )


def _signal_of_recorded_failure(record: EventLogRecord) -> Signal | None:
    """Return the failure that we recorded in this observation; anybody may observe an asset."""
    metadata = record.asset_observation.metadata if record.asset_observation else {}
    failed = _time_of_metadata(metadata.get(FAILED_AT))
    if failed is None or not _is_recorded(metadata):
        return None
    started = _time_of_metadata(metadata.get(STARTED_AT))
    return Signal(
        source="materialization",
        state="failed",
        at=failed,
        day=min(attempt_day(_time_of_metadata(metadata.get(SCHEDULED_FOR)), started, failed), utc_day(failed)),
        started=started,
        detail=one_line(str(metadata[REASON].value)) or None if REASON in metadata else None,
        echo_of="bullmq",
    )


def _is_recorded(metadata: Mapping[str, MetadataValue[Any]]) -> bool:
    """Whether it is our own record of what BullMQ told."""
    return ATTEMPT in metadata and SOURCE in metadata and metadata[SOURCE].value == "bullmq"


def _time_of_metadata(value: MetadataValue[Any] | None) -> datetime | None:
    """Return the instant that a metadata value names, if any."""
    if isinstance(value, TextMetadataValue):
        return _time(value.text)
    if isinstance(value, FloatMetadataValue | IntMetadataValue | TimestampMetadataValue):
        return from_epoch(cast("float | None", value.value))
    return None


def _time(text: str | None) -> datetime | None:
    """Read an instant in ISO 8601; one without a zone is none."""
    try:
        instant = datetime.fromisoformat((text or "").strip().upper())
        return instant.astimezone(UTC) if instant.tzinfo else None
    except (ValueError, OverflowError):
        return None


def _day_run(instance: DagsterInstance, record: RunRecord) -> DayRun:
    run = record.dagster_run
    outcome = _own_outcome(run)
    return DayRun(
        run_id=run.run_id,
        # Anybody may put the tag on a run of another job.
        day=day_of(run.tags.get(tags.DAY)) if run.job_name == JOB else None,
        trigger=run.tags.get(tags.TRIGGER),
        status=_status(run, outcome),
        created=record.create_timestamp,
        outcome=outcome,
        started=from_epoch(record.start_time),
        ended=from_epoch(record.end_time),
        claimed=run.tags.get(tags.CLAIM) == run.run_id,
        by=run.tags.get(tags.BY),
        reason=run.tags.get(tags.REASON),
        lost_after=_lost_after(instance, record),
    )


def _own_outcome(run: DagsterRun) -> tags.Outcome | None:
    """Return what the run said of its end; what its parent said, which it carries too, is not its own."""
    if run.tags.get(tags.OUTCOME_OF) != run.run_id:
        return None
    return next((outcome for outcome in tags.OUTCOMES if outcome == run.tags.get(tags.OUTCOME)), None)


def _status(run: DagsterRun, outcome: tags.Outcome | None) -> RunStatus:
    # A run that says so has done its work, or none, though Dagster may have lost sight of its end.
    if outcome in ("success", "superseded"):
        return outcome
    if run.status in _UNFINISHED:
        return _UNFINISHED[run.status]
    if outcome:
        return outcome
    if run.status is DagsterRunStatus.SUCCESS:
        return "success"
    return "interrupted" if run.status is DagsterRunStatus.CANCELED else "failed"


def day_of(text: str | None) -> date | None:
    """Read the day in the tag `cleanup/day`; what is no day is none."""
    try:
        return date.fromisoformat(text or "")
    except ValueError:
        return None


def _lost_after(instance: DagsterInstance, record: RunRecord) -> datetime | None:
    """Return when run monitoring would have ended the run, had it looked.

    None where there is no limit, as for a run in the queue.
    """
    run = record.dagster_run
    match run.status:
        case DagsterRunStatus.NOT_STARTED | DagsterRunStatus.STARTING:
            since, limit = record.create_timestamp, float(instance.run_monitoring_start_timeout_seconds)
            if run.status is DagsterRunStatus.STARTING:
                since = record.update_timestamp
        case DagsterRunStatus.STARTED | DagsterRunStatus.SUSPENDED:
            since, limit = from_epoch(record.start_time) or record.create_timestamp, _longest_runtime(instance, run)
        case DagsterRunStatus.CANCELING:
            since, limit = record.update_timestamp, float(instance.run_monitoring_cancel_timeout_seconds)
        case _:
            return None
    # Two looks later, so that run monitoring has the first word wherever it works.
    looks = timedelta(seconds=2 * instance.run_monitoring_poll_interval_seconds)
    return since + timedelta(seconds=limit) + looks if limit > 0 else None


def _longest_runtime(instance: DagsterInstance, run: DagsterRun) -> float:
    """Return the limit in seconds; 0: none. A tag that can't be meant as one is passed over."""
    try:
        limit = float(run.tags.get(MAX_RUNTIME_TAG, ""))
    except ValueError:
        limit = math.nan
    meant = 0 <= limit <= _LONGEST_RUNTIME_S
    return limit if meant else float(instance.run_monitoring_max_runtime_seconds)
