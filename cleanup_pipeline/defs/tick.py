"""What a tick does, schedule's or sensor's: ask the gate, then start the day's run or say why not."""

import logging
import os
from collections.abc import Sequence
from datetime import date, datetime
from typing import Literal

from dagster import DagsterInstance, RunRequest, SkipReason

from cleanup_pipeline.gate import day, tags
from cleanup_pipeline.gate.decision import Decision
from cleanup_pipeline.gate.look import look_and_listen
from cleanup_pipeline.gate.record import record_attempts
from cleanup_pipeline.gate.signals import Signal, describe


def tick(
    instance: DagsterInstance, trigger: Literal["schedule", "sensor"], of_day: date | None = None
) -> RunRequest | SkipReason:
    """Start the run of the wall clock's day, or skip with one sentence.

    A tick that belongs to another day (`of_day`) starts nothing.
    """
    now = day.utc_now()
    today = day.utc_day(now)
    if of_day not in (None, today):
        return SkipReason(f"This tick belongs to {of_day} and it is {today}: a missed day is not made up.")
    decision, heard = look_and_listen(instance, now, os.environ)
    _record(instance, heard, now)
    return _run_request(decision, trigger) if decision.launch else SkipReason(decision.reason)


def _record(instance: DagsterInstance, heard: Sequence[Signal], now: datetime) -> None:
    """Record what was found; that it can't be recorded is no reason not to start the run."""
    try:
        record_attempts(instance, heard, now)
    except Exception as error:
        logging.getLogger(__name__).warning("What BullMQ told can't be recorded: %s", describe(error))


def _run_request(decision: Decision, trigger: str) -> RunRequest:
    told = {tags.DAY: str(decision.day), tags.TRIGGER: trigger}
    if decision.tag:
        told[tags.GATE] = decision.tag
    return RunRequest(run_key=decision.run_key, tags=told)
