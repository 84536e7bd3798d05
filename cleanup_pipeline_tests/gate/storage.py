"""Runs and reports, put into a real Dagster instance with the times that a test needs."""

from collections.abc import Mapping
from datetime import UTC, datetime, time
from typing import Any
from uuid import uuid4

from dagster import AssetMaterialization, DagsterEventType, DagsterInstance, DagsterRun, MetadataValue
from dagster._core.events import DagsterEvent, JobFailureData, RunFailureReason
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)

from cleanup_pipeline.gate import tags
from cleanup_pipeline.gate.dagster_facts import MESSAGE_CLEANUP
from cleanup_pipeline.gate.tags import Outcome, outcome_tags

# Dagster's storage stamps what is put in by the real clock, so that a test's day must be the real one.
TODAY = datetime.now(UTC).date()

Events = Mapping[str, str | datetime]

EVENTS = {
    "enqueue": DagsterEventType.PIPELINE_ENQUEUED,
    "starting": DagsterEventType.PIPELINE_STARTING,
    "start": DagsterEventType.PIPELINE_START,
    "canceling": DagsterEventType.PIPELINE_CANCELING,
    "success": DagsterEventType.PIPELINE_SUCCESS,
    "failure": DagsterEventType.PIPELINE_FAILURE,
    "cancel": DagsterEventType.PIPELINE_CANCELED,
}


def today(hour: str) -> datetime:
    return datetime.combine(TODAY, time.fromisoformat(hour), tzinfo=UTC)


def add_run(
    instance: DagsterInstance,
    job: str = "session_cleanup",
    events: Events | None = None,
    *,
    tagged: dict[str, str] | None = None,
    location: str | None = "here",
) -> str:
    """Put a run in, to which `events` happened at their hours of today, in the order given."""
    run = DagsterRun(
        job_name=job,
        run_id=str(uuid4()),
        tags=tagged or {},
        remote_job_origin=_origin(job, location) if location else None,
    )
    instance.add_run(run)
    for event, at in (events or {}).items():
        happen(instance, run.run_id, event, at)
    return run.run_id


def happen(instance: DagsterInstance, run_id: str, event: str, at: str | datetime) -> None:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    data = JobFailureData(error=None, failure_reason=RunFailureReason.STEP_FAILURE) if event == "failure" else None
    instance.report_dagster_event(
        DagsterEvent(event_type_value=EVENTS[event].value, job_name=run.job_name, event_specific_data=data),
        run_id=run_id,
        timestamp=(today(at) if isinstance(at, str) else at).timestamp(),
    )


def add_day_run(instance: DagsterInstance, events: Events | None = None, *, claimed: bool = False) -> str:
    """Put a run of today in."""
    run_id = add_run(instance, events=events, tagged={tags.DAY: str(TODAY), tags.TRIGGER: "sensor"})
    if claimed:
        instance.add_run_tags(run_id, {tags.CLAIM: run_id})
    return run_id


def end(instance: DagsterInstance, run_id: str, outcome: Outcome, event: str, at: str) -> None:
    """End a run as the job does: it says how, then Dagster ends it."""
    instance.add_run_tags(run_id, outcome_tags(run_id, outcome))
    happen(instance, run_id, event, at)


def report(instance: DagsterInstance, **metadata: str | float | MetadataValue[Any]) -> None:
    """Report message cleanup as the REST endpoint does."""
    instance.report_runless_asset_event(AssetMaterialization(MESSAGE_CLEANUP, metadata=metadata))


def _origin(job: str, location: str) -> RemoteJobOrigin:
    repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(location), "__repository__")
    return RemoteJobOrigin(repository, job)
