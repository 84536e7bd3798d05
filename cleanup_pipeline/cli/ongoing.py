"""A run that is on: who started it and why, how far it is, and where to watch it."""

from dagster import DagsterInstance

from cleanup_pipeline.cli.report import link_to
from cleanup_pipeline.gate import tags

_RECORDS_BACK = 100


def told(instance: DagsterInstance, run_id: str, begins: str) -> str | None:
    """The run in words, after those that the sentence `begins` with; None where the storage has no such run.

    Raises what Dagster's storage raises.
    """
    run = instance.get_run_by_id(run_id)
    if run is None:
        return None
    by = run.tags.get(tags.BY) or run.tags.get(tags.TRIGGER) or "somebody in Dagster"
    reason = run.tags.get(tags.REASON)
    far = _how_far(instance, run_id)
    return (
        f"{begins} {run_id}, started by: {by}{f' ({reason})' if reason else ''}. "
        f"{f'How far it is: {far}. ' if far else ''}{link_to(run_id) or ''}"
    ).rstrip()


def _how_far(instance: DagsterInstance, run_id: str) -> str | None:
    """What its step last logged of its progress."""
    newest = instance.get_records_for_run(run_id, limit=_RECORDS_BACK, ascending=False).records
    logged = (record.event_log_entry for record in newest)
    return next(
        (entry.user_message for entry in logged if not entry.is_dagster_event and "%" in entry.user_message), None
    )
