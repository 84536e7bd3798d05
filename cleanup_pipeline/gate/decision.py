"""The decision whether the day's run may start: a pure function that schedule, sensor and `status` share."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from hashlib import sha256
from typing import Literal

from cleanup_pipeline.gate.day import at, clock, next_day, nightly, utc_day
from cleanup_pipeline.gate.runs import DayRun
from cleanup_pipeline.gate.settings import Settings
from cleanup_pipeline.gate.signals import Signal
from cleanup_pipeline.gate.verdict import Verdict, judge

GateState = Literal["waiting", "held", "open", "running", "done", "failed", "off"]

PAUSES = (timedelta(minutes=10), timedelta(minutes=30))
"""How long to rest after the first failed attempt, the second, …; after one more there is none."""
MOST_ATTEMPTS = len(PAUSES) + 1
PAUSE_WITHOUT_ATTEMPT = timedelta(minutes=10)
"""How long to rest after a run that was skipped or superseded.

Without it, while a lost run still holds the day's claim, a new run would be superseded at every tick.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What the gate says now.

    `launch`: the day's run is to be started, as attempt number `attempt`. `signal` is the one that decided about
    message cleanup, `signals` has one for each source. `try_at` is the next instant at which the clock alone may change
    the answer; None: at launch, or only something else may. `run_key` differs for every run of the day. `tag` is set
    where the run starts without message cleanup's success.
    """

    state: GateState
    day: date
    reason: str
    launch: bool = False
    signal: Signal | None = None
    signals: tuple[Signal, ...] = ()
    attempt: int = 1
    try_at: datetime | None = None
    run_key: str | None = None
    tag: Literal["late", "off"] | None = None

    def to_json(self) -> dict[str, object]:
        """The gate as `status --json` prints it."""
        return {
            "state": self.state,
            "day": self.day.isoformat(),
            "reason": self.reason,
            "signal": self.signal and self.signal.to_json(),
            "signals": [signal.to_json() for signal in self.signals],
        }


def decide(now: datetime, signals: Sequence[Signal], runs: Sequence[DayRun], settings: Settings) -> Decision:
    """Whether the run of `now`'s UTC day is to be started now.

    `now` is the wall clock, with a zone. Signals and runs of other days may be among those given. The day's own runs
    come first, since one good run a day is the promise; then the clock; then message cleanup.
    """
    day = utc_day(now)
    verdict = judge(day, signals)
    todays = sorted((run for run in runs if run.day == day), key=lambda run: (run.created, run.run_id))
    decision = (
        _because_of_runs(now, day, todays)
        or _because_of_the_clock(now, day, settings, verdict)
        or _because_attempts_are_used_up(now, day, todays)
        or _because_a_variable_is_malformed(now, day, settings)
        or _because_the_night_is_over(now, day, settings)
        or _because_of_a_pause(now, day, todays)
        or _by_the_gate(now, day, settings, verdict)
    )
    return replace(
        decision,
        reason=_with_settings(decision, settings),
        signal=verdict.signal,
        signals=verdict.signals,
        attempt=_attempts(now, todays) + (0 if decision.state in ("done", "running", "failed") else 1),
        run_key=_run_key(day, todays) if decision.launch else None,
    )


def undecided(now: datetime, reason: str, signals: Sequence[Signal] = ()) -> Decision:
    """Decide to wait where nothing can be decided. `reason` is one sentence that says why."""
    return Decision(state="waiting", day=utc_day(now), reason=reason, signals=tuple(signals))


def _because_of_runs(now: datetime, day: date, runs: Sequence[DayRun]) -> Decision | None:
    """One good run a day, and one at a time."""
    good = next((run for run in runs if run.good), None)
    if good:
        return Decision(
            state="done", day=day, reason=_sentence(f"Today's run ended well at {clock(good.over_at(), day)}")
        )
    on = next((run for run in runs if run.is_on(now)), None)
    if on is None:
        return None
    said = (
        f"Today's run has been queued since {clock(on.created, day)}"
        if on.status == "queued"
        else f"Today's run has been running since {clock(on.started or on.created, day)}"
    )
    return Decision(state="running", day=day, reason=_sentence(said), try_at=on.lost_after)


def _because_of_the_clock(now: datetime, day: date, settings: Settings, verdict: Verdict) -> Decision | None:
    due = nightly(day)
    if now >= due:
        return None
    clauses = (*verdict.clauses, f"today's run is due at {clock(due, day)}")
    if not settings.gate_on:
        return Decision(state="off", day=day, reason=_with_gate_off(_sentence(clauses[-1])), try_at=due)
    return Decision(state="waiting", day=day, reason=_sentence(*clauses), try_at=due)


def _because_attempts_are_used_up(now: datetime, day: date, runs: Sequence[DayRun]) -> Decision | None:
    refused = next((run for run in reversed(runs) if run.status == "refused"), None)
    if refused:
        said = f"A safety check refused today's run at {clock(refused.over_at(), day)}"
        return Decision(
            state="failed", day=day, reason=_sentence(said, "it is not tried again by itself: a person is needed")
        )
    attempts = _attempts(now, runs)
    if attempts < MOST_ATTEMPTS:
        return None
    last = _last_failed(now, runs).over_at()
    said = f"Today's run failed {attempts} times, last at {clock(last, day)}"
    return Decision(state="failed", day=day, reason=_sentence(said, "a person is needed"))


def _because_a_variable_is_malformed(now: datetime, day: date, settings: Settings) -> Decision | None:
    if not settings.faults:
        return None
    said = "Nothing is started while a variable is malformed"
    deadline = at(day, settings.deadline)
    if _late(now, day, settings):
        return Decision(state="held", day=day, reason=_sentence(said, f"late since {clock(deadline, day)}"))
    return Decision(state="waiting", day=day, reason=_sentence(said), try_at=deadline)


def _because_the_night_is_over(now: datetime, day: date, settings: Settings) -> Decision | None:
    """A run that must stop at once would be a good run that cleaned nothing."""
    end = settings.night_end(day)
    if end is None or now < end:
        return None
    said = f"The night ended at {clock(end, day)} (CLEANUP_NIGHT_ENDS) without a good run"
    return Decision(
        state="held" if _late(now, day, settings) else "waiting",
        day=day,
        reason=_sentence(said, "the next run cleans it all"),
        try_at=nightly(next_day(day)),
    )


def _because_of_a_pause(now: datetime, day: date, runs: Sequence[DayRun]) -> Decision | None:
    """Rest after a run that was no good; the longest rest counts."""
    again, said = max(_pauses(now, day, runs), default=(now, ""))
    if again <= now:
        return None
    if utc_day(again) != day:
        return Decision(
            state="waiting", day=day, reason=_sentence(said, "not again today"), try_at=nightly(next_day(day))
        )
    return Decision(state="waiting", day=day, reason=_sentence(said, f"again at {clock(again, day)}"), try_at=again)


def _pauses(now: datetime, day: date, runs: Sequence[DayRun]) -> list[tuple[datetime, str]]:
    """Until when to rest and why: after the last failed attempt, after the last run that used up none."""
    pauses: list[tuple[datetime, str]] = []
    attempts = _attempts(now, runs)
    if attempts:
        ended = _last_failed(now, runs).over_at()
        said = f"Attempt {attempts} of {MOST_ATTEMPTS} failed at {clock(ended, day)}"
        pauses.append((ended + PAUSES[attempts - 1], said))
    for run in runs:
        when = clock(run.over_at(), day)
        if run.status == "skipped":
            said = f"Today's run was skipped at {when}, since another sweep held a rule"
            pauses.append((run.over_at() + PAUSE_WITHOUT_ATTEMPT, said))
        if run.status == "superseded":
            said = f"Today's run was superseded at {when} by another run of the day"
            pauses.append((run.over_at() + PAUSE_WITHOUT_ATTEMPT, said))
    return pauses


def _by_the_gate(now: datetime, day: date, settings: Settings, verdict: Verdict) -> Decision:
    if not settings.gate_on:
        reason = _with_gate_off("Today's run starts by the clock alone.")
        return Decision(state="off", day=day, launch=True, reason=reason, tag="off")
    if verdict.done:
        return Decision(state="open", day=day, launch=True, reason=_sentence(*verdict.clauses))
    deadline = at(day, settings.deadline)
    late = f"late since {clock(deadline, day)}"
    if not _late(now, day, settings):
        # An attempt that is known tells a time itself.
        known = verdict.signal is not None and verdict.signal.day == day
        waits = [] if known else [f"today's run has been waiting since {clock(nightly(day), day)}"]
        return Decision(state="waiting", day=day, reason=_sentence(*verdict.clauses, *waits), try_at=deadline)
    if settings.when_late == "hold":
        return Decision(state="held", day=day, reason=_sentence(*verdict.clauses, late))
    clauses = (*verdict.clauses, late, "today's run goes ahead without it (CLEANUP_GATE_WHEN_LATE)")
    return Decision(state="open", day=day, launch=True, reason=_sentence(*clauses), tag="late")


def _late(now: datetime, day: date, settings: Settings) -> bool:
    return now >= at(day, settings.deadline)


def _attempts(now: datetime, runs: Sequence[DayRun]) -> int:
    return sum(run.failed(now) for run in runs)


def _last_failed(now: datetime, runs: Sequence[DayRun]) -> DayRun:
    return max((run for run in runs if run.failed(now)), key=DayRun.over_at)


def _run_key(day: date, runs: Sequence[DayRun]) -> str:
    """Make a key that no run of the day has yet.

    Dagster never launches a used key again. Made from all runs of the day, and not counted or named after the last one,
    it stays new when somebody deletes a run in the UI, and when the clock was set back between two of them.
    """
    if not runs:
        return f"{day}/first"
    before = ",".join(sorted(run.run_id for run in runs))
    return f"{day}/after/{sha256(before.encode()).hexdigest()[:16]}"


def _with_settings(decision: Decision, settings: Settings) -> str:
    """Say besides what an operator may have forgotten about the settings, or does not know."""
    reason = decision.reason if settings.gate_on or decision.state == "off" else _with_gate_off(decision.reason)
    return _sentence(reason.removesuffix("."), *settings.faults)


def _with_gate_off(reason: str) -> str:
    return _sentence("The gate is off (CLEANUP_GATE)", reason[0].lower() + reason[1:].removesuffix("."))


def _sentence(*clauses: str) -> str:
    said = "; ".join(clauses)
    return f"{said[0].upper()}{said[1:]}."
