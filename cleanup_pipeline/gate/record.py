"""Recording in Dagster what was found about message cleanup, so that the UI shows it."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from dagster import AssetMaterialization, AssetObservation, AssetRecordsFilter, DagsterInstance, EventLogRecord

from cleanup_pipeline.gate.dagster_facts import (
    ATTEMPT,
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
from cleanup_pipeline.gate.signals import Signal


def record_success(
    instance: DagsterInstance, finished: datetime, source: str, more: Mapping[str, str] | None = None
) -> None:
    """Record that message cleanup has succeeded, as a materialization. Raises what Dagster's storage raises."""
    metadata = {FINISHED_AT: finished.isoformat(), SOURCE: source, **(more or {})}
    instance.report_runless_asset_event(AssetMaterialization(MESSAGE_CLEANUP, metadata=metadata))


def record_attempts(instance: DagsterInstance, signals: Iterable[Signal], now: datetime) -> None:
    """Record what BullMQ told of attempts that have ended, each once. Raises what Dagster's storage raises.

    A success is a materialization, a failure an observation: that never counts as a success. Two daemons at one instant
    may both find nothing recorded and both record: a second report says the same of the same attempt, so it changes no
    decision, and a table of ours to prevent it would be dearer than that.
    """
    for signal in signals:
        if signal.source != "bullmq" or signal.attempt is None or signal.at is None:
            continue
        since = AssetRecordsFilter(asset_key=MESSAGE_CLEANUP, after_timestamp=yesterday(now).timestamp())
        identity = (signal.attempt, signal.at.isoformat())
        if signal.state == "succeeded":
            recorded = instance.fetch_materializations(since, limit=MOST_RECORDS).records
            if identity not in _identities(recorded, FINISHED_AT):
                record_success(instance, signal.at, "bullmq", _metadata(signal))
        if signal.state == "failed":
            recorded = instance.fetch_observations(since, limit=MOST_RECORDS).records
            if identity not in _identities(recorded, FAILED_AT):
                told = {FAILED_AT: signal.at.isoformat(), SOURCE: "bullmq", REASON: signal.detail or ""}
                observed = AssetObservation(MESSAGE_CLEANUP, metadata={**told, **_metadata(signal)})
                instance.report_runless_asset_event(observed)


def _metadata(signal: Signal) -> dict[str, str]:
    """What makes a report of the attempt belong to the same day, and start at the same instant, as the attempt."""
    told = {ATTEMPT: signal.attempt or ""}
    if signal.started:
        told[STARTED_AT] = signal.started.isoformat()
    # One that was promoted and whose start is not known belongs to the day of its end.
    if signal.scheduled and (signal.started or (signal.at and signal.scheduled <= signal.at)):
        told[SCHEDULED_FOR] = signal.scheduled.isoformat()
    return told


def _identities(records: Iterable[EventLogRecord], ended: str) -> set[tuple[Any, ...]]:
    """Name the attempts that were recorded: by their job, and by when they ended."""
    events = [record.asset_materialization or record.asset_observation for record in records]
    known = [event.metadata for event in events if event and {ATTEMPT, ended} <= event.metadata.keys()]
    return {(metadata[ATTEMPT].value, metadata[ended].value) for metadata in known}
