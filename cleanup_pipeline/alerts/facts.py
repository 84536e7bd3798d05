"""What Dagster's storage knows that people may have to hear of. The cleaned database is not asked: it may be down."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta

from dagster import (
    AssetKey,
    AssetRecordsFilter,
    DagsterEventType,
    DagsterInstance,
    EventLogRecord,
    IntMetadataValue,
    RunsFilter,
)

from cleanup_pipeline.alerts.alert import BadNight, Facts, last_bad_run
from cleanup_pipeline.gate import tags
from cleanup_pipeline.gate.dagster_facts import FAILURE_REASON_TAG, complete_good_runs, day_of, day_runs
from cleanup_pipeline.gate.day import nightly, utc_day
from cleanup_pipeline.gate.look import look
from cleanup_pipeline.gate.pause import keep_note
from cleanup_pipeline.gate.runs import JOB
from cleanup_pipeline.gate.signals import one_line
from cleanup_pipeline.rules import RULES_ON, Rule

ROWS_REMAINING = "rows_remaining"
"""Metadata of a materialization: how many rows stayed due."""

_NIGHTS_BACK = timedelta(days=7)
_MOST_RECORDS = 100
_OPS = frozenset(rule.op for rule in RULES_ON)
_RULES = {rule.op: rule.name for rule in RULES_ON}


def gather(instance: DagsterInstance, now: datetime, environment: Mapping[str, str], watched_since: datetime) -> Facts:
    """Look once. Raises what Dagster's storage raises."""
    today = utc_day(now)
    yesterday = today - timedelta(days=1)
    gate = look(instance, now, environment)
    given_up = [yesterday, today] if gate.state == "failed" else [yesterday]
    last_over = today if gate.state in ("done", "failed") else yesterday
    return Facts(
        now=now,
        gate=gate,
        watched_since=watched_since,
        good_at=max((run.over_at() for run in complete_good_runs(instance, _OPS)), default=None),
        bad_nights=_bad_nights(instance, now, given_up),
        remaining={rule.name: _remaining(instance, rule, last_over) for rule in RULES_ON},
        pause=keep_note(instance, now),
    )


def _bad_nights(instance: DagsterInstance, now: datetime, days: Sequence[date]) -> list[BadNight]:
    last = [last_bad_run(day_runs(instance, day), now) for day in days]
    return [BadNight(run=run, causes=_causes(instance, run.run_id)) for run in last if run is not None]


def _causes(instance: DagsterInstance, run_id: str) -> list[tuple[str | None, str]]:
    """Why a run failed, by rule.

    What a rule says of its failure names no data. Of any other error only the kind is told: its text may hold data, or
    a URL.
    """
    failures = instance.get_records_for_run(run_id, of_type=DagsterEventType.STEP_FAILURE).records
    causes = [_cause(record) for record in failures]
    if causes:
        return causes
    run = instance.get_run_by_id(run_id)
    reason = run.tags.get(FAILURE_REASON_TAG) if run else None
    return [(None, f"No step says why{f': {one_line(reason)}' if reason else ''}.")]


def _cause(record: EventLogRecord) -> tuple[str | None, str]:
    event = record.event_log_entry.get_dagster_event()
    rule = _RULES.get(event.step_key or "")
    failure = event.step_failure_data
    if failure.user_failure_data is not None and failure.user_failure_data.description:
        return rule, one_line(failure.user_failure_data.description)
    error = failure.error.cause if failure.error and failure.error.cause else failure.error
    return rule, f"{rule or event.step_key} failed with {error.cls_name if error else 'an error'}."


def _remaining(instance: DagsterInstance, rule: Rule, last: date) -> dict[date, int]:
    """Rows that stayed due after each night's run, up to the night `last`."""
    since = nightly(last - _NIGHTS_BACK).timestamp()
    asked = AssetRecordsFilter(asset_key=AssetKey(rule.asset), after_timestamp=since)
    records = instance.fetch_materializations(asked, limit=_MOST_RECORDS).records
    days = _days(instance, records)
    remaining: dict[date, int] = {}
    for record in records:  # newest first
        day, rows = days.get(record.run_id), _rows(record)
        if day is not None and rows is not None and day <= last:
            remaining.setdefault(day, rows)
    return remaining


def _days(instance: DagsterInstance, records: Sequence[EventLogRecord]) -> dict[str, date]:
    """The day of each run that was a night's; a manual run's rows may be those of a limit that somebody set."""
    run_ids = sorted({record.run_id for record in records if record.run_id})
    if not run_ids:
        return {}
    runs = instance.get_runs(RunsFilter(job_name=JOB, run_ids=run_ids))
    days = {run.run_id: day_of(run.tags.get(tags.DAY)) for run in runs}
    return {run_id: day for run_id, day in days.items() if day is not None}


def _rows(record: EventLogRecord) -> int | None:
    materialization = record.asset_materialization
    value = materialization.metadata.get(ROWS_REMAINING) if materialization else None
    return value.value if isinstance(value, IntMetadataValue) else None
