"""What people must hear of: a pure function from what is known to alerts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Literal, get_args

from cleanup_pipeline.gate.day import clock, utc_day
from cleanup_pipeline.gate.decision import Decision
from cleanup_pipeline.gate.pause import Pause
from cleanup_pipeline.gate.runs import DayRun, page_of

Kind = Literal["run_failed", "run_refused", "gate_closed", "no_good_run", "rows_stay_due", "paused"]
KINDS: tuple[Kind, ...] = get_args(Kind)

NEXT_STEPS: dict[Kind, str] = {
    "run_failed": "cleanup-pipeline doctor",
    "run_refused": "cleanup-pipeline plan",
    "gate_closed": "cleanup-pipeline status",
    "no_good_run": "cleanup-pipeline status",
    "rows_stay_due": "cleanup-pipeline plan",
    "paused": "cleanup-pipeline resume",
}
"""What to type first; docs/runbook.md has the rest, under the alert's name."""

GOOD_RUN_WITHIN = timedelta(hours=26)
"""A good run a day, and two hours for a late message cleanup and another attempt."""
_A_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One thing to tell. `event_id` is the same as long as it is about the same event; `cause` is whole sentences."""

    kind: Kind
    event_id: str
    cause: str
    rules: tuple[str, ...] = ()
    run_id: str | None = None

    def text(self, ui_url: str | None) -> str:
        """Write the alert in one line: rule, cause, run, and what to type next."""
        step = " --rule ".join((NEXT_STEPS[self.kind], *self.rules))
        parts = [
            f"session_cleanup {self.kind}: {self.cause}",
            f"Rules: {', '.join(self.rules)}." if self.rules else "",
            f"Run: {_link(self.run_id, ui_url)} ." if self.run_id else "",
            f"Next: {step} (docs/runbook.md, {self.kind}).",
            f"Event: {self.event_id}",
        ]
        return " ".join(part for part in parts if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class BadNight:
    """A day whose run is not tried again: `run` is its last; `causes` say why, by rule (None: no rule of ours)."""

    run: DayRun
    causes: Sequence[tuple[str | None, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known at `now`.

    `good_at` is when the last good run ended; where there is none, `watched_since` takes its place. `remaining` has for
    each rule how many rows stayed due in each night that is over.
    """

    now: datetime
    gate: Decision
    watched_since: datetime
    good_at: datetime | None = None
    bad_nights: Sequence[BadNight] = ()
    remaining: Mapping[str, Mapping[date, int]]
    pause: Pause | None = None


def alerts(facts: Facts) -> list[Alert]:
    """Return what is to be told now; what has been told already is among it."""
    return [
        *(_of_bad_night(night) for night in facts.bad_nights),
        *_of_the_gate(facts),
        *_of_rows(facts),
        *_of_no_good_run(facts),
        *_of_a_pause(facts),
    ]


def last_bad_run(runs: Sequence[DayRun], now: datetime) -> DayRun | None:
    """Return the run by which a day's work was given up, if it was: none of them was good, and none is on."""
    if any(run.good or run.is_on(now) for run in runs):
        return None
    bad = [run for run in runs if run.failed(now) or run.status == "refused"]
    return max(bad, key=lambda run: (run.created, run.run_id), default=None)


def _of_bad_night(night: BadNight) -> Alert:
    run = night.run
    refused = run.status == "refused"
    day = run.day or utc_day(run.created)
    ended = "was refused by a safety check" if refused else "failed, and is not tried again"
    said = [said for _, said in night.causes]
    return Alert(
        kind="run_refused" if refused else "run_failed",
        event_id=f"{'run_refused' if refused else 'run_failed'}/{day}/{run.run_id}",
        cause=" ".join([f"The run of {day} {ended}, at {clock(run.over_at(), day)}.", *said]),
        rules=tuple(dict.fromkeys(rule for rule, _ in night.causes if rule)),
        run_id=run.run_id,
    )


def _of_the_gate(facts: Facts) -> Iterator[Alert]:
    gate = facts.gate
    if gate.state == "held":
        yield Alert(
            kind="gate_closed",
            event_id=f"gate_closed/{gate.day}",
            cause=f"The run of {gate.day} has not started. {gate.reason}",
        )


def _of_rows(facts: Facts) -> Iterator[Alert]:
    """Rows that stayed due in a night and in the one before it that is on record."""
    for day in (utc_day(facts.now) - _A_DAY, utc_day(facts.now)):
        stay = {rule: nights[day] for rule, nights in facts.remaining.items() if _two_nights(nights, day)}
        if stay:
            told = ", ".join(f"{rows:,} of {rule}" for rule, rows in stay.items())
            yield Alert(
                kind="rows_stay_due",
                event_id=f"rows_stay_due/{day}",
                cause=f"Rows stay due for two nights: {told} after the run of {day}.",
                rules=tuple(stay),
            )


def _two_nights(nights: Mapping[date, int], day: date) -> bool:
    before = max((night for night in nights if night < day), default=None)
    return before is not None and nights.get(day, 0) > 0 and nights[before] > 0


def _of_no_good_run(facts: Facts) -> Iterator[Alert]:
    since = facts.good_at or facts.watched_since
    days = (facts.now - since - GOOD_RUN_WITHIN) // _A_DAY
    if days >= 0:
        last = "the last ended at" if facts.good_at else "there is none on record, watched since"
        yield Alert(
            kind="no_good_run",
            event_id=f"no_good_run/{since.astimezone(UTC):%Y-%m-%dT%H:%M}/{days + 1}",
            cause=f"No good run for {_hours(facts.now - since)} hours: {last} {_minute(since)}. {facts.gate.reason}",
        )


def _of_a_pause(facts: Facts) -> Iterator[Alert]:
    pause = facts.pause
    days = (facts.now - pause.since) // _A_DAY if pause and pause.since else 0
    if pause and pause.since and days >= 1:
        yield Alert(
            kind="paused",
            event_id=f"paused/{pause.since.astimezone(UTC):%Y-%m-%dT%H:%M}/{days}",
            cause=f"Nothing is cleaned by itself. {pause.sentence()}",
        )


def _link(run_id: str, ui_url: str | None) -> str:
    return page_of(run_id, ui_url) if ui_url else run_id


def _minute(instant: datetime) -> str:
    return f"{instant.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _hours(span: timedelta) -> int:
    return int(span.total_seconds() // 3600)
