"""Looking at the world once: from a Dagster instance and the environment to a decision."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from dagster import DagsterInstance

from cleanup_pipeline.gate.bullmq import MessageCleanupJobs
from cleanup_pipeline.gate.dagster_facts import MessageCleanupReports, MessageCleanupRuns, day_runs
from cleanup_pipeline.gate.day import utc_day
from cleanup_pipeline.gate.decision import Decision, decide, undecided
from cleanup_pipeline.gate.settings import Settings
from cleanup_pipeline.gate.signals import Signal, SignalSource, describe, listen


def look(instance: DagsterInstance, now: datetime, environment: Mapping[str, str]) -> Decision:
    """Decide at `now`, the wall clock. Whatever is wrong becomes a reason to wait: this never raises."""
    decision, _ = look_and_listen(instance, now, environment)
    return decision


def look_and_listen(
    instance: DagsterInstance, now: datetime, environment: Mapping[str, str]
) -> tuple[Decision, Sequence[Signal]]:
    """Decide, and return all that the sources said too, not only what counts of each. This never raises."""
    settings = Settings.from_environment(environment)
    sources = _sources(instance, settings)
    try:
        runs = day_runs(instance, utc_day(now))
    except Exception as error:
        # Dagster tries for 10 seconds before it gives up: once is enough.
        untold = [
            Signal(source=source.source, state="unknown", detail="not asked")
            if source.source == "bullmq"
            else Signal(source=source.source, state="unreachable", detail=describe(error))
            for source in sources
        ]
        return undecided(now, f"Dagster's storage can't be read: {describe(error)}.", untold), ()
    heard = listen(sources, now)
    return decide(now, heard, runs, settings), heard


def _sources(instance: DagsterInstance, settings: Settings) -> list[SignalSource]:
    sources: list[SignalSource] = []
    if settings.redis_url:
        sources.append(MessageCleanupJobs(settings.redis_url, settings.redis_prefix))
    return [*sources, MessageCleanupRuns(instance, settings.job, settings.location), MessageCleanupReports(instance)]
