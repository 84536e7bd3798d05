"""The gate's decision, case by case. The cases are the gate's documentation: decision_table.py writes them down."""

from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal

import pytest

from cleanup_pipeline.gate.decision import Decision, decide
from cleanup_pipeline.gate.runs import DayRun, RunStatus, page_of
from cleanup_pipeline.gate.settings import Settings
from cleanup_pipeline.gate.signals import Signal, Source, State

DAY = date(2026, 11, 24)
YESTERDAY = DAY - timedelta(days=1)
DEFAULT = Settings()


def utc(text: str, day: date = DAY) -> datetime:
    return datetime.combine(day, time.fromisoformat(text), tzinfo=UTC)


def signal(
    source: Source,
    state: State,
    at: str | None = None,
    *,
    day: date | None = DAY,
    started: str | None = None,
    ended: str | None = None,
    queued: Literal["now", "later"] | None = None,
    echo_of: Source | None = None,
    detail: str | None = None,
) -> Signal:
    return Signal(
        source=source,
        state=state,
        at=utc(at) if at else None,
        day=None if state in ("unknown", "unreachable") else day,
        started=utc(started) if started else None,
        ended=utc(ended) if ended else None,
        queued=queued,
        echo_of=echo_of,
        detail=detail,
    )


def run(
    run_id: str,
    status: RunStatus,
    created: str,
    ended: str | None = None,
    *,
    day: date | None = DAY,
    lost_after: str | None = None,
) -> DayRun:
    return DayRun(
        run_id=run_id,
        day=day,
        trigger="sensor",
        status=status,
        created=utc(created),
        started=None if status == "queued" else utc(created),
        ended=utc(ended) if ended else None,
        lost_after=utc(lost_after) if lost_after else None,
    )


SUCCEEDED = signal("dagster_run", "succeeded", "03:00:04", started="03:00")
FAULT = "CLEANUP_GATE is 'maybe', accepted is on or off"
NO_RUN = signal("dagster_run", "unknown")
NO_REPORT = signal("materialization", "unknown")


@dataclass(frozen=True)
class Case:
    """At `now`, with these signals and runs of ours, the gate is in `state`, launches or not, and says why."""

    name: str
    now: str
    state: str
    reason: str
    launch: bool = False
    signals: tuple[Signal, ...] = (SUCCEEDED, NO_REPORT)
    runs: tuple[DayRun, ...] = ()
    settings: Settings = field(default=DEFAULT)
    by: Source | None = None
    try_at: str | None = None


# docs/gate.md has them as tables, under these headings.
HEADED_CASES: list[str | Case] = [
    "The clock",
    Case(
        "before 04:00 UTC it waits, though message cleanup has succeeded",
        now="03:59:59",
        state="waiting",
        reason="Message cleanup succeeded at 03:00:04 UTC (Dagster run); today's run is due at 04:00:00 UTC.",
        try_at="04:00",
    ),
    Case(
        "at 04:00 UTC it opens when message cleanup has succeeded",
        now="04:00",
        state="open",
        launch=True,
        reason="Message cleanup succeeded at 03:00:04 UTC (Dagster run).",
        by="dagster_run",
    ),
    Case(
        "late in the day it still opens: a daemon that was down catches up",
        now="23:59:59",
        state="open",
        launch=True,
        reason="Message cleanup succeeded at 03:00:04 UTC (Dagster run).",
    ),
    "Message cleanup",
    Case(
        "a success of yesterday that finished at 00:10 opens nothing",
        now="04:00",
        state="waiting",
        signals=(signal("dagster_run", "succeeded", "00:10", day=YESTERDAY), NO_REPORT),
        reason=(
            "No trace of message cleanup for 2026-11-24; "
            "the last success is the one for 2026-11-23, at 00:10:00 UTC (Dagster run); "
            "today's run has been waiting since 04:00:00 UTC."
        ),
        try_at="06:00",
    ),
    Case(
        "no trace of message cleanup closes it",
        now="04:00",
        state="waiting",
        signals=(NO_RUN, NO_REPORT),
        reason="No trace of message cleanup for 2026-11-24; today's run has been waiting since 04:00:00 UTC.",
    ),
    Case(
        "a message cleanup that is running is waited for",
        now="04:00",
        state="waiting",
        signals=(signal("dagster_run", "running", "03:50", started="03:50"), NO_REPORT),
        reason="Message cleanup has been running since 03:50:00 UTC (Dagster run).",
        by="dagster_run",
    ),
    Case(
        "a message cleanup of yesterday that is still running is told and waited for",
        now="04:00",
        state="waiting",
        signals=(
            replace(signal("bullmq", "running", day=YESTERDAY), at=utc("23:50", YESTERDAY)),
            signal("bullmq", "waiting", "03:00", queued="now"),
            NO_REPORT,
        ),
        reason=(
            "Message cleanup has been running since 2026-11-23 23:50:00 UTC (BullMQ); "
            "today's run has been waiting since 04:00:00 UTC."
        ),
    ),
    Case(
        "a message cleanup of yesterday that is still running does not hide today's success",
        now="04:00",
        state="open",
        launch=True,
        signals=(replace(signal("bullmq", "running", day=YESTERDAY), at=utc("03:10")), SUCCEEDED),
        reason="Message cleanup succeeded at 03:00:04 UTC (Dagster run).",
    ),
    Case(
        "a message cleanup that will be retried is waited for",
        now="04:00",
        state="waiting",
        signals=(signal("bullmq", "retrying", "04:05", started="03:50", detail="deadlock detected"),),
        reason="Message cleanup failed and will be tried again at 04:05:00 UTC (BullMQ): deadlock detected.",
    ),
    Case(
        "a message cleanup that is due and not started is waited for",
        now="04:00",
        state="waiting",
        signals=(signal("bullmq", "waiting", "03:00", detail="the queue is paused"),),
        reason="Message cleanup is due at 03:00:00 UTC and has not started (BullMQ): the queue is paused.",
    ),
    Case(
        "a message cleanup that failed closes it, with the reason",
        now="04:00",
        state="waiting",
        signals=(signal("dagster_run", "failed", "03:10", started="03:00", detail="run r1, STEP_FAILURE"), NO_REPORT),
        reason="Message cleanup failed at 03:10:00 UTC (Dagster run): run r1, STEP_FAILURE.",
    ),
    Case(
        "the newest attempt decides: a failure after a success closes it",
        now="04:00",
        state="waiting",
        signals=(SUCCEEDED, signal("dagster_run", "failed", "03:30", started="03:20")),
        reason="Message cleanup failed at 03:30:00 UTC (Dagster run).",
    ),
    Case(
        "the newest attempt decides: a success after a failure opens it",
        now="04:00",
        state="open",
        launch=True,
        signals=(
            signal("dagster_run", "succeeded", "03:35", started="03:20"),
            signal("dagster_run", "failed", "03:10", started="03:00"),
        ),
        reason="Message cleanup succeeded at 03:35:00 UTC (Dagster run).",
    ),
    Case(
        "the newest attempt decides: one that waits in the queue after a success is waited for",
        now="04:00",
        state="waiting",
        signals=(SUCCEEDED, signal("dagster_run", "waiting", "03:55", started="03:55")),
        reason="Message cleanup is due at 03:55:00 UTC and has not started (Dagster run).",
    ),
    Case(
        "a failure of yesterday's attempt does not hide today's success",
        now="04:00",
        state="open",
        launch=True,
        signals=(SUCCEEDED, signal("dagster_run", "failed", "03:30", started="03:20", day=YESTERDAY)),
        reason="Message cleanup succeeded at 03:00:04 UTC (Dagster run).",
    ),
    "Several sources",
    Case(
        "any source that says succeeded opens it",
        now="04:00",
        state="open",
        launch=True,
        signals=(NO_RUN, signal("materialization", "succeeded", "03:02:05")),
        reason="Message cleanup succeeded at 03:02:05 UTC (reported to Dagster).",
        by="materialization",
    ),
    Case(
        "a newer attempt that runs in another source is waited for",
        now="04:00",
        state="waiting",
        signals=(
            signal("dagster_run", "running", "03:40", started="03:40"),
            signal("materialization", "succeeded", "03:05"),
        ),
        reason="Message cleanup has been running since 03:40:00 UTC (Dagster run).",
        by="dagster_run",
    ),
    Case(
        "a newer attempt that failed in another source closes it",
        now="04:00",
        state="waiting",
        signals=(
            signal("dagster_run", "failed", "03:50", started="03:40"),
            signal("materialization", "succeeded", "03:05"),
        ),
        reason="Message cleanup failed at 03:50:00 UTC (Dagster run).",
    ),
    Case(
        "a report by hand after a failure opens it",
        now="05:00",
        state="open",
        launch=True,
        signals=(
            signal("dagster_run", "failed", "03:10", started="03:00"),
            signal("materialization", "succeeded", "04:55"),
        ),
        reason="Message cleanup succeeded at 04:55:00 UTC (reported to Dagster).",
        by="materialization",
    ),
    Case(
        "a report by hand opens it while the queue's own attempt was never taken",
        now="05:00",
        state="open",
        launch=True,
        signals=(signal("bullmq", "waiting", "03:00", queued="now"), signal("materialization", "succeeded", "04:55")),
        reason="Message cleanup succeeded at 04:55:00 UTC (reported to Dagster).",
    ),
    Case(
        "a report by hand opens it while the queue plans an attempt for later in the day",
        now="04:00",
        state="open",
        launch=True,
        signals=(signal("bullmq", "waiting", "08:00", queued="later"), signal("materialization", "succeeded", "03:30")),
        reason="Message cleanup succeeded at 03:30:00 UTC (reported to Dagster).",
    ),
    Case(
        "a report by hand opens it while the queue's failed attempt is yet to be retried",
        now="04:06",
        state="open",
        launch=True,
        signals=(
            signal("bullmq", "retrying", "04:10", started="03:00", ended="03:00:10"),
            signal("materialization", "succeeded", "04:05"),
        ),
        reason="Message cleanup succeeded at 04:05:00 UTC (reported to Dagster).",
    ),
    Case(
        "a report from before the queue's attempt failed does not open it",
        now="04:06",
        state="waiting",
        signals=(
            signal("bullmq", "retrying", "04:10", started="03:00", ended="03:00:10", detail="deadlock detected"),
            signal("materialization", "succeeded", "03:00:05"),
        ),
        reason="Message cleanup failed and will be tried again at 04:10:00 UTC (BullMQ): deadlock detected.",
    ),
    Case(
        "a source that reports the success of an attempt that still runs elsewhere opens it",
        now="04:00",
        state="open",
        launch=True,
        signals=(
            signal("dagster_run", "running", "03:00", started="03:00"),
            signal("materialization", "succeeded", "03:05"),
        ),
        reason="Message cleanup succeeded at 03:05:00 UTC (reported to Dagster).",
    ),
    Case(
        "a run that reported success and failed afterwards keeps it closed",
        now="04:00",
        state="waiting",
        signals=(
            signal("dagster_run", "failed", "03:10", started="03:00"),
            signal("materialization", "succeeded", "03:05", started="03:00"),
        ),
        reason="Message cleanup failed at 03:10:00 UTC (Dagster run).",
    ),
    Case(
        "a source that can't be reached never opens it, and is told",
        now="04:00",
        state="waiting",
        signals=(signal("bullmq", "unreachable", detail="ConnectionError: refused"), NO_RUN, NO_REPORT),
        reason=(
            "No trace of message cleanup for 2026-11-24; BullMQ can't be reached: ConnectionError: refused; "
            "today's run has been waiting since 04:00:00 UTC."
        ),
        by="bullmq",
    ),
    Case(
        "a source that can't be reached does not keep another's success from opening it, and is told",
        now="04:00",
        state="open",
        launch=True,
        signals=(signal("bullmq", "unreachable", detail="ConnectionError: refused"), SUCCEEDED),
        reason=(
            "Message cleanup succeeded at 03:00:04 UTC (Dagster run); "
            "BullMQ can't be reached: ConnectionError: refused."
        ),
        by="dagster_run",
    ),
    Case(
        "a success does not count where its queue is too full to be looked at as a whole",
        now="04:00",
        state="waiting",
        signals=(
            signal("bullmq", "succeeded", "03:00:04", started="03:00"),
            replace(signal("bullmq", "unknown", detail="BullMQ's queue has so many jobs"), day=DAY),
        ),
        reason="BullMQ's queue has so many jobs.",
    ),
    Case(
        "what was recorded from BullMQ is no second opinion: a job that is repeated after its success is waited for",
        now="04:00",
        state="waiting",
        signals=(
            signal("bullmq", "waiting", "03:00", queued="now"),
            signal("materialization", "succeeded", "03:00:04", started="03:00", echo_of="bullmq"),
        ),
        reason="Message cleanup is due at 03:00:00 UTC and has not started (BullMQ).",
    ),
    Case(
        "what was recorded from BullMQ counts while that can't be reached",
        now="04:00",
        state="open",
        launch=True,
        signals=(
            signal("bullmq", "unreachable", detail="ConnectionError: refused"),
            signal("materialization", "succeeded", "03:00:04", started="03:00", echo_of="bullmq"),
        ),
        reason=(
            "Message cleanup succeeded at 03:00:04 UTC (recorded from BullMQ); "
            "BullMQ can't be reached: ConnectionError: refused."
        ),
    ),
    Case(
        "a report that can't be understood does not open it, and is told",
        now="04:00",
        state="waiting",
        signals=(NO_RUN, signal("materialization", "unknown", detail="a report of 03:10:00 UTC does not count")),
        reason=(
            "No trace of message cleanup for 2026-11-24; a report of 03:10:00 UTC does not count; "
            "today's run has been waiting since 04:00:00 UTC."
        ),
    ),
    "The day's own runs",
    Case(
        "a good run ends the day",
        now="05:00",
        state="done",
        runs=(run("a", "success", "04:00", "04:02:11"),),
        reason="Today's run ended well at 04:02:11 UTC.",
    ),
    Case(
        "a good run ends the day, though message cleanup ran again and failed",
        now="05:00",
        state="done",
        signals=(signal("dagster_run", "failed", "04:30", started="04:20"),),
        runs=(run("a", "success", "04:00", "04:02:11"),),
        reason="Today's run ended well at 04:02:11 UTC.",
    ),
    Case(
        "yesterday's good run does not count for today",
        now="04:00",
        state="open",
        launch=True,
        runs=(run("a", "success", "00:30", "00:32", day=YESTERDAY),),
        reason="Message cleanup succeeded at 03:00:04 UTC (Dagster run).",
    ),
    Case(
        "a manual run neither counts nor disturbs",
        now="04:00",
        state="open",
        launch=True,
        runs=(run("a", "running", "03:58", day=None),),
        reason="Message cleanup succeeded at 03:00:04 UTC (Dagster run).",
    ),
    Case(
        "a queued run counts as the day's",
        now="05:00",
        state="running",
        runs=(run("a", "queued", "04:00"),),
        reason="Today's run has been queued since 04:00:00 UTC.",
    ),
    Case(
        "a run that is on counts as the day's",
        now="04:05",
        state="running",
        runs=(run("a", "running", "04:00", lost_after="08:00"),),
        reason="Today's run has been running since 04:00:00 UTC.",
        try_at="08:00",
    ),
    Case(
        "a lost run counts until run monitoring's limit",
        now="07:59:59",
        state="running",
        runs=(run("a", "running", "04:00", lost_after="08:00"),),
        reason="Today's run has been running since 04:00:00 UTC.",
    ),
    Case(
        "a lost run is a failed attempt from run monitoring's limit on",
        now="08:00",
        state="waiting",
        runs=(run("a", "running", "04:00", lost_after="08:00"),),
        reason="Attempt 1 of 3 failed at 08:00:00 UTC; again at 08:10:00 UTC.",
        try_at="08:10",
    ),
    Case(
        "a run that hangs in canceling counts until run monitoring's limit, and is a failed attempt then",
        now="04:14",
        state="waiting",
        runs=(run("a", "running", "04:00", lost_after="04:14"),),
        reason="Attempt 1 of 3 failed at 04:14:00 UTC; again at 04:24:00 UTC.",
    ),
    Case(
        "a schedule that ticks again, since it was switched off and on or its hour was changed, changes nothing",
        now="21:00",
        state="done",
        runs=(run("a", "success", "04:00", "04:02:11"),),
        reason="Today's run ended well at 04:02:11 UTC.",
    ),
    Case(
        "a superseded run counts for nothing beside the one that won",
        now="04:01",
        state="running",
        runs=(run("a", "running", "04:00"), run("b", "superseded", "04:00:01", "04:00:03")),
        reason="Today's run has been running since 04:00:00 UTC.",
    ),
    Case(
        "a superseded run uses up no attempt, and the next rests 10 minutes",
        now="08:20",
        state="waiting",
        runs=(run("a", "running", "04:00", lost_after="08:00"), run("b", "superseded", "08:15", "08:15:02")),
        reason="Today's run was superseded at 08:15:02 UTC by another run of the day; again at 08:25:02 UTC.",
    ),
    Case(
        "after a first failure it rests 10 minutes",
        now="04:13:09",
        state="waiting",
        runs=(run("a", "failed", "04:00", "04:03:10"),),
        reason="Attempt 1 of 3 failed at 04:03:10 UTC; again at 04:13:10 UTC.",
        try_at="04:13:10",
    ),
    Case(
        "after the rest it tries a second time",
        now="04:13:10",
        state="open",
        launch=True,
        runs=(run("a", "failed", "04:00", "04:03:10"),),
        reason="Message cleanup succeeded at 03:00:04 UTC (Dagster run).",
    ),
    Case(
        "after the rest it looks at message cleanup again",
        now="04:13:10",
        state="waiting",
        signals=(SUCCEEDED, signal("dagster_run", "running", "04:10", started="04:10")),
        runs=(run("a", "failed", "04:00", "04:03:10"),),
        reason="Message cleanup has been running since 04:10:00 UTC (Dagster run).",
    ),
    Case(
        "after a second failure it rests 30 minutes",
        now="04:45",
        state="waiting",
        runs=(run("a", "failed", "04:00", "04:03"), run("b", "interrupted", "04:13", "04:16")),
        reason="Attempt 2 of 3 failed at 04:16:00 UTC; again at 04:46:00 UTC.",
    ),
    Case(
        "after a third failure a person is needed",
        now="12:00",
        state="failed",
        runs=(
            run("a", "failed", "04:00", "04:03"),
            run("b", "failed", "04:13", "04:16"),
            run("c", "failed", "04:46", "04:49"),
        ),
        reason="Today's run failed 3 times, last at 04:49:00 UTC; a person is needed.",
    ),
    Case(
        "a run that a person started again after three failures ends the day if it is good",
        now="12:00",
        state="done",
        runs=(
            run("a", "failed", "04:00", "04:03"),
            run("b", "failed", "04:13", "04:16"),
            run("c", "failed", "04:46", "04:49"),
            run("d", "success", "09:00", "09:02"),
        ),
        reason="Today's run ended well at 09:02:00 UTC.",
    ),
    Case(
        "a skipped run is tried again in 10 minutes",
        now="04:05",
        state="waiting",
        runs=(run("a", "skipped", "04:00", "04:00:05"),),
        reason="Today's run was skipped at 04:00:05 UTC, since another sweep held a rule; again at 04:10:05 UTC.",
    ),
    Case(
        "skipped runs use up no attempt",
        now="05:00",
        state="open",
        launch=True,
        runs=tuple(run(f"a{hour}", "skipped", f"04:{hour}0", f"04:{hour}0:05") for hour in range(5)),
        reason="Message cleanup succeeded at 03:00:04 UTC (Dagster run).",
    ),
    Case(
        "a refused run is not tried again by itself",
        now="12:00",
        state="failed",
        runs=(run("a", "refused", "04:00", "04:00:05"),),
        reason=(
            "A safety check refused today's run at 04:00:05 UTC; it is not tried again by itself: a person is needed."
        ),
    ),
    Case(
        "a refused run is not tried again, though a person's new try failed",
        now="12:00",
        state="failed",
        runs=(run("a", "refused", "04:00", "04:00:05"), run("b", "failed", "09:00", "09:01")),
        reason=(
            "A safety check refused today's run at 04:00:05 UTC; it is not tried again by itself: a person is needed."
        ),
    ),
    Case(
        "a rest that would end tomorrow ends the day",
        now="23:56",
        state="waiting",
        runs=(run("a", "failed", "23:50", "23:55"),),
        reason="Attempt 1 of 3 failed at 23:55:00 UTC; not again today.",
    ),
    "What an operator may set",
    Case(
        "past the deadline a closed gate is held",
        now="06:00",
        state="held",
        signals=(NO_RUN, NO_REPORT),
        reason="No trace of message cleanup for 2026-11-24; late since 06:00:00 UTC.",
    ),
    Case(
        "a held gate opens when message cleanup succeeds after all",
        now="09:00",
        state="open",
        launch=True,
        signals=(signal("dagster_run", "succeeded", "08:59", started="08:50"),),
        reason="Message cleanup succeeded at 08:59:00 UTC (Dagster run).",
    ),
    Case(
        "past the deadline it goes ahead where that is set",
        now="06:00",
        state="open",
        launch=True,
        signals=(NO_RUN, NO_REPORT),
        settings=Settings(when_late="run"),
        reason=(
            "No trace of message cleanup for 2026-11-24; late since 06:00:00 UTC; "
            "today's run goes ahead without it (CLEANUP_GATE_WHEN_LATE)."
        ),
    ),
    Case(
        "before the deadline it does not go ahead, though that is set",
        now="05:59:59",
        state="waiting",
        signals=(NO_RUN, NO_REPORT),
        settings=Settings(when_late="run"),
        reason="No trace of message cleanup for 2026-11-24; today's run has been waiting since 04:00:00 UTC.",
        try_at="06:00",
    ),
    Case(
        "another deadline counts where it is set",
        now="04:30",
        state="held",
        signals=(NO_RUN, NO_REPORT),
        settings=Settings(deadline=time(4, 30)),
        reason="No trace of message cleanup for 2026-11-24; late since 04:30:00 UTC.",
    ),
    Case(
        "with the gate off it starts by the clock alone",
        now="04:00",
        state="off",
        launch=True,
        signals=(NO_RUN, NO_REPORT),
        settings=Settings(gate_on=False),
        reason="The gate is off (CLEANUP_GATE); today's run starts by the clock alone.",
    ),
    Case(
        "with the gate off it waits for 04:00 all the same",
        now="03:59:59",
        state="off",
        settings=Settings(gate_on=False),
        reason="The gate is off (CLEANUP_GATE); today's run is due at 04:00:00 UTC.",
    ),
    Case(
        "with the gate off one good run a day is enough too",
        now="05:00",
        state="done",
        runs=(run("a", "success", "04:00", "04:02"),),
        settings=Settings(gate_on=False),
        reason="The gate is off (CLEANUP_GATE); today's run ended well at 04:02:00 UTC.",
    ),
    Case(
        "when the night is over nothing is started",
        now="07:00",
        state="held",
        settings=Settings(night_ends=time(7)),
        reason=("The night ended at 07:00:00 UTC (CLEANUP_NIGHT_ENDS) without a good run; the next run cleans it all."),
    ),
    Case(
        "a variable that is malformed starts nothing, and is told",
        now="04:00",
        state="waiting",
        settings=Settings(faults=(FAULT,)),
        reason=f"Nothing is started while a variable is malformed; {FAULT}.",
        by="dagster_run",
        try_at="06:00",
    ),
    Case(
        "a variable that is still malformed past the deadline holds the gate",
        now="06:00",
        state="held",
        settings=Settings(faults=(FAULT,)),
        reason=f"Nothing is started while a variable is malformed; late since 06:00:00 UTC; {FAULT}.",
    ),
    Case(
        "a variable that is malformed is told of a day that is done, too",
        now="06:00",
        state="done",
        runs=(run("a", "success", "04:00", "04:02"),),
        settings=Settings(faults=(FAULT,)),
        reason=f"Today's run ended well at 04:02:00 UTC; {FAULT}.",
    ),
    Case(
        "a night that ends at 02:00 ends tomorrow",
        now="23:00",
        state="open",
        launch=True,
        settings=Settings(night_ends=time(2)),
        reason="Message cleanup succeeded at 03:00:04 UTC (Dagster run).",
    ),
]

CASES = [case for case in HEADED_CASES if isinstance(case, Case)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_gate(case: Case) -> None:
    decision = decide(utc(case.now), case.signals, case.runs, case.settings)

    assert (decision.state, decision.launch, decision.reason) == (case.state, case.launch, case.reason)
    if case.by:
        assert decision.signal is not None
        assert decision.signal.source == case.by
    if case.try_at:
        assert decision.try_at == utc(case.try_at)


def of(*runs: DayRun) -> Decision:
    return decide(utc("12:00"), (SUCCEEDED,), runs, DEFAULT)


def test_each_launch_of_a_day_has_a_run_key_of_its_own() -> None:
    failed = run("a", "failed", "04:00", "04:03")
    superseded = run("b", "superseded", "04:01", "04:01")

    keys = [of().run_key, of(failed).run_key, of(failed, superseded).run_key]

    assert len(set(keys)) == 3


def test_a_run_that_is_deleted_does_not_bring_a_used_run_key_back() -> None:
    first, second = run("a", "failed", "04:00", "04:03"), run("b", "failed", "04:20", "04:22")

    after_both = of(first, second).run_key

    assert after_both not in (of().run_key, of(first).run_key)  # the keys that the two runs have
    assert of(second).run_key not in (of().run_key, of(first).run_key)


def test_a_clock_that_was_set_back_does_not_bring_a_used_run_key_back() -> None:
    first = run("a", "failed", "05:00", "04:05")  # the clock was an hour ahead when it was made
    second = run("b", "failed", "04:15", "04:16")

    assert of(first, second).run_key not in (of().run_key, of(first).run_key)


def test_attempts_are_counted_without_the_runs_that_use_up_none() -> None:
    decision = of(run("a", "skipped", "04:00", "04:01"), run("b", "failed", "04:20", "04:22"))

    assert decision.attempt == 2


def test_a_run_without_message_cleanup_is_tagged_so() -> None:
    late = decide(utc("06:00"), (NO_RUN,), (), Settings(when_late="run"))
    off = decide(utc("04:00"), (NO_RUN,), (), Settings(gate_on=False))

    assert (late.tag, off.tag, of().tag) == ("late", "off", None)


def test_the_json_is_the_one_that_is_promised() -> None:
    succeeded = Signal(
        source="bullmq", state="succeeded", at=datetime(2026, 11, 24, 3, 0, 4, 123000, tzinfo=UTC), day=DAY
    )

    told = decide(utc("04:00"), (succeeded,), (), DEFAULT).to_json()

    at = {"source": "bullmq", "state": "succeeded", "at": "2026-11-24T03:00:04.123+00:00"}
    assert told == {
        "state": "open",
        "day": "2026-11-24",
        "reason": "Message cleanup succeeded at 03:00:04 UTC (BullMQ).",
        "signal": at,
        "signals": [at],
    }


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://dagster.internal/", "https://dagster.internal"),
        (" http://[::1]:3000/path ", "http://[::1]:3000/path"),
        ("https://me:secret@dagster.internal", "https://dagster.internal"),
        ("https://me:sec/r@et@dagster.internal:3000", "https://dagster.internal:3000"),
        ("me:secret@dagster.internal", "dagster.internal"),
    ],
)
def test_a_link_to_a_run_has_no_login(address: str, shown: str) -> None:
    assert page_of("the-run", address) == f"{shown}/runs/the-run"
