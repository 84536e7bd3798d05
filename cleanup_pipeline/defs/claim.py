"""The claim at the start of a run: of the runs of a day that started, one works."""

from collections.abc import Callable
from datetime import date, datetime

from dagster import DagsterInstance

from cleanup_pipeline.gate import day as clock
from cleanup_pipeline.gate import tags
from cleanup_pipeline.gate.dagster_facts import day_runs
from cleanup_pipeline.gate.runs import DayRun


class SupersededError(Exception):
    """The day is another run's: this one is to touch nothing."""

    def __init__(self, day: date, winner_run_id: str | None, reason: str) -> None:
        super().__init__(f"The run of {day} is superseded: {reason}.")
        self.day = day
        self.winner_run_id = winner_run_id
        self.reason = reason


def lock_name(day: date) -> str:
    """Name the lock that the run of the day holds in the cleaned database while it works."""
    return f"cleanup/day/{day}"


def claim_day(instance: DagsterInstance, run_id: str, day: date, try_lock: Callable[[str], bool]) -> None:
    """Claim the day for the run, or raise `SupersededError`. Claiming again is no harm.

    `try_lock` takes the lock of that name at once, to be held until the run has worked, or returns False. The lock is
    taken first and the tag is written last, so that of two runs that claim at one instant, one finds either the lock or
    the tag of the other. Of two runs that were started at one instant, the second is superseded also where the first
    was no good: whether and when to try again is the gate's decision, which was made without knowing of that. Dagster's
    storage is left to raise: without it nobody knows whether the day is done.
    """
    locked = try_lock(lock_name(day))
    runs = day_runs(instance, day)
    others = [run for run in runs if run.run_id != run_id]
    now = clock.utc_now()
    winner = next((run for run in others if run.good or (run.claimed and run.is_on(now))), None)
    if not locked:
        raise SupersededError(day, winner.run_id if winner else None, "another run holds the day's lock")
    if winner:
        done = "has done the day's work" if winner.good else "claimed the day and has not ended"
        raise SupersededError(day, winner.run_id, f"run {winner.run_id} {done}")
    started = next((run.created for run in runs if run.run_id == run_id), now)
    if failed := next((run for run in others if _was_no_good_after(run, started, now)), None):
        raise SupersededError(day, None, f"run {failed.run_id} was no good after this one had been started")
    instance.add_run_tags(run_id, {tags.CLAIM: run_id, **_inherited_outcome_reset(instance, run_id)})


def _was_no_good_after(run: DayRun, instant: datetime, now: datetime) -> bool:
    return run.status != "superseded" and not run.is_on(now) and run.over_at() > instant


def _inherited_outcome_reset(instance: DagsterInstance, run_id: str) -> dict[str, str]:
    """For people who read the tags: while a re-execution works it must not show how its parent ended."""
    run = instance.get_run_by_id(run_id)
    inherited = run is not None and tags.OUTCOME in run.tags and run.tags.get(tags.OUTCOME_OF) != run_id
    return {tags.OUTCOME: tags.UNFINISHED} if inherited else {}
