"""Recording in Dagster what was found about message cleanup, so that the UI shows it."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from dagster import (
    AssetMaterialization,
    AssetObservation,
    AssetRecordsFilter,
    DagsterInstance,
    EventLogRecord,
    MetadataValue,
)

from cleanup_pipeline.gate.dagster_facts import (
    ATTEMPT,
    EVENT,
    FAILED_AT,
    FINISHED_AT,
    MESSAGE_CLEANUP,
    MOST_RECORDS,
    REASON,
    SCHEDULED_FOR,
    SOURCE,
    STARTED_AT,
    yesterday,
)
from cleanup_pipeline.gate.signals import CLOCK_SKEW, Signal

_TIMES = (STARTED_AT, FINISHED_AT, FAILED_AT, EVENT)


def record_success(instance: DagsterInstance, finished: datetime, source: str) -> None:
    """Record that message cleanup has succeeded, as a materialization. Raises what Dagster's storage raises."""
    metadata = {FINISHED_AT: finished.isoformat(), SOURCE: source}
    instance.report_runless_asset_event(AssetMaterialization(MESSAGE_CLEANUP, metadata=metadata))


def record_attempts(instance: DagsterInstance, signals: Iterable[Signal], now: datetime) -> None:
    """Record what BullMQ told of attempts that have ended, each once. Raises what Dagster's storage raises.

    A success is a materialization, a failure an observation: that never counts as a success. Two daemons at one instant
    may both find nothing recorded and both record: a second report says the same of the same attempt, so it changes no
    decision, and a table of ours to prevent it would be dearer than that.
    """
    found = [
        (signal, end) for signal in signals if signal.source == "bullmq" and signal.attempt and (end := _end(signal))
    ]
    found.sort(key=lambda attempt: attempt[1])
    successes = [
        {FINISHED_AT: end.isoformat(), **_metadata(signal, end)} for signal, end in found if signal.state == "succeeded"
    ]
    failures = [
        {FAILED_AT: end.isoformat(), REASON: signal.detail or "", **_metadata(signal, end)}
        for signal, end in found
        if signal.state != "succeeded"
    ]
    # A worker's clock may be ahead: what it calls yesterday's first was recorded before.
    since = AssetRecordsFilter(asset_key=MESSAGE_CLEANUP, after_timestamp=(yesterday(now) - CLOCK_SKEW).timestamp())
    if successes:
        recorded = instance.fetch_materializations(since, limit=MOST_RECORDS).records
        for metadata in _not_yet(recorded, successes):
            instance.report_runless_asset_event(AssetMaterialization(MESSAGE_CLEANUP, metadata=metadata))
    if failures:
        recorded = instance.fetch_observations(since, limit=MOST_RECORDS).records
        for metadata in _not_yet(recorded, failures):
            instance.report_runless_asset_event(AssetObservation(MESSAGE_CLEANUP, metadata=metadata))


def _end(signal: Signal) -> datetime | None:
    """Return when the attempt ended; of one that is to be tried again, when the try failed."""
    return signal.ended if signal.state == "retrying" else signal.at


def _metadata(signal: Signal, end: datetime) -> dict[str, str]:
    """What makes a report of the attempt belong to the same day, and start at the same instant, as the attempt."""
    told = {SOURCE: "bullmq", ATTEMPT: signal.attempt or ""}
    if signal.event:
        told[EVENT] = signal.event
    if signal.started:
        told[STARTED_AT] = signal.started.isoformat()
    # One that was promoted and whose start is not known belongs to the day of its end.
    if signal.scheduled and (signal.started or signal.scheduled <= end):
        told[SCHEDULED_FOR] = signal.scheduled.isoformat()
    return told


def _not_yet(recorded: Iterable[EventLogRecord], found: Iterable[dict[str, str]]) -> Iterator[dict[str, str]]:
    """Return the metadata of those that are not recorded yet."""
    events = [record.asset_materialization or record.asset_observation for record in recorded]
    known = {name for event in events if event for name in _names(event.metadata)}
    return (metadata for metadata in found if known.isdisjoint(_names(metadata)))


def _names(metadata: Mapping[str, str | MetadataValue[Any]]) -> Iterator[tuple[object, object]]:
    """Name one try of a job by its start, its end and the event of its end, of which each may be known alone.

    The event is of another clock than the job's hash, and is all that is left of a job that was removed.
    """
    values = {name: value.value if isinstance(value, MetadataValue) else value for name, value in metadata.items()}
    return ((values[ATTEMPT], values[of]) for of in _TIMES if ATTEMPT in values and of in values)
