"""The gate's promises, judged from what truly happened: for each, why a run must not start, or must not work.

Written from the promises alone, without a line of the gate's own code. What is against nothing must happen: a tick that
starts no run although nothing is against it has broken a promise too.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal

MESSAGE_CLEANUP_AT = time(3)
MINUTE = timedelta(minutes=1)
LONG_AGO = datetime.min.replace(tzinfo=UTC)

Stage = Literal["queued", "starting", "started", "canceling", "ended"]

# Run monitoring's limits, and two of its looks.
LIMITS: Mapping[Stage, timedelta] = {
    "starting": 5 * MINUTE + MINUTE,
    "started": 240 * MINUTE + MINUTE,
    "canceling": 3 * MINUTE + MINUTE,
}


class Broken(AssertionError):  # noqa: N818 - as the promise is what is broken
    """A promise does not hold."""


@dataclass
class Attempt:
    """One try of message cleanup, as it truly went. Times are those that clocks showed."""

    source: Literal["run", "report"]
    state: Literal["waiting", "running", "succeeded", "retrying", "failed"]
    due: datetime | None
    created: datetime
    started: datetime | None = None
    ended: datetime | None = None

    @property
    def day(self) -> date:
        return min([when for when in (self.due, self.started) if when] or [self.created]).date()

    @property
    def last_known(self) -> datetime:
        if self.state in ("succeeded", "failed") and self.ended:
            return self.ended
        return self.started or self.due or self.created


@dataclass
class Run:
    """One run of a day, as it truly goes. `told`: the outcome that it has recorded. `works`: its process cleans."""

    number: int
    day: date
    created: datetime
    stage: Stage = "queued"
    since: datetime = LONG_AGO
    told: str | None = None
    claimed: bool = False
    holds_lock: bool = False
    works: bool = False

    @property
    def good(self) -> bool:
        return self.told == "success"

    def lost_at(self) -> datetime | None:
        limit = LIMITS.get(self.stage)
        return self.since + limit if limit else None

    def over_at(self, now: datetime) -> datetime | None:
        """When it ended, or is taken for lost; None while it counts as the day's run."""
        if self.stage == "ended":
            return self.since
        lost = self.lost_at()
        return lost if lost and lost <= now else None

    def failed_at(self, now: datetime) -> datetime | None:
        """When it used up an attempt, if so."""
        ended = self.stage == "ended"
        if self.good or self.told == "superseded" or (ended and self.told in ("refused", "skipped")):
            return None
        return self.over_at(now)


def check_tick(
    now: datetime,
    of_day: date | None,
    attempts: Sequence[Attempt],
    runs: Sequence[Run],
    settings: Mapping[str, str],
    started: Mapping[str, str] | None,
) -> None:
    """Check what a tick did: `started` has the tags of the run that it starts."""
    todays = [run for run in runs if run.day == now.date()]
    against = [
        *_against_by_the_clock(now, of_day, settings),
        *_against_by_runs(now, todays),
        *_against_by_message_cleanup(now, attempts, settings),
    ]
    if started is None:
        if not against:
            raise Broken(f"At {now} nothing is against starting a run, and none is started.")
        return
    if against:
        raise Broken(f"At {now} a run is started, although {' and '.join(against)}.")
    if started["cleanup/day"] != str(now.date()):
        raise Broken(f"At {now} a run is started for {started['cleanup/day']}.")
    expected = _without_message_cleanup(now, attempts, settings)
    if started.get("cleanup/gate") != expected:
        raise Broken(f"The run is tagged {started.get('cleanup/gate')}, and should be {expected}.")


def check_key(trigger: str, key: str | None, used: Iterable[tuple[str, str]]) -> None:
    """Dagster launches no key twice, so that a used one means that nothing is started."""
    if (trigger, str(key)) in set(used):
        raise Broken(f"The run key {key} has been used by the {trigger}: Dagster starts nothing.")


def check_all(runs: Sequence[Run], *, judged_by_clock: bool, judged_by_gate: bool) -> None:
    """Check what must hold at every moment, whoever started the runs."""
    for day in {run.day for run in runs if run.works or run.good}:
        todays = [run for run in runs if run.day == day]
        if sum(run.works for run in todays) > 1:
            raise Broken(f"Two runs of {day} work at once.")
        if sum(run.good for run in todays) > 1:
            raise Broken(f"Two runs of {day} are good.")
    if judged_by_clock and judged_by_gate:
        for day in {run.day for run in runs if run.stage == "ended"}:
            failed = [run for run in runs if run.day == day and run.stage == "ended" and run.failed_at(run.since)]
            if len(failed) > 3:
                raise Broken(f"{len(failed)} attempts of {day} have failed.")


def against_working(run: Run, runs: Sequence[Run], now: datetime) -> list[str]:
    """Why a run that starts must not work."""
    others = [other for other in runs if other.day == run.day and other is not run]
    return [
        *(f"run {other.number} holds the lock" for other in others if other.holds_lock),
        *(f"run {other.number} was good" for other in others if other.good),
        *(f"run {other.number} holds the claim" for other in others if other.claimed and not other.over_at(now)),
        *(
            f"run {other.number} was no good after run {run.number} had been started"
            for other in others
            if other.told != "superseded" and (over := other.over_at(now)) and over > run.created
        ),
    ]


def check_claimed(against: Sequence[str], run: Run) -> None:
    if against:
        raise Broken(f"Run {run.number} works, although {' and '.join(against)}.")


def check_superseded(against: Sequence[str], run: Run) -> None:
    if not against:
        raise Broken(f"Run {run.number} is superseded, and nothing was against its working.")


def _against_by_the_clock(now: datetime, of_day: date | None, settings: Mapping[str, str]) -> Iterable[str]:
    if of_day not in (None, now.date()):
        yield "its tick belongs to another day"
    if now.hour < 4:
        yield "it is before 04:00"
    ends = settings.get("CLEANUP_NIGHT_ENDS")
    if ends and time.fromisoformat(ends) > time(4) and now.time() >= time.fromisoformat(ends):
        yield "the night is over"


def _against_by_runs(now: datetime, runs: Sequence[Run]) -> Iterable[str]:
    for run in runs:
        if run.good:
            yield f"run {run.number} was good"
        elif run.told != "superseded" and run.over_at(now) is None:
            yield f"run {run.number} is on"
        elif run.stage == "ended" and run.told == "refused":
            yield f"run {run.number} was refused"
        elif run.stage == "ended" and run.told in ("skipped", "superseded") and now < run.since + 10 * MINUTE:
            yield f"run {run.number} was {run.told} less than 10 minutes ago"
    failed = sorted(over for run in runs if (over := run.failed_at(now)))
    if len(failed) >= 3:
        yield "three attempts have failed"
    elif failed and now < failed[-1] + (10 * MINUTE if len(failed) == 1 else 30 * MINUTE):
        yield f"attempt {len(failed)} has just failed"


def _against_by_message_cleanup(
    now: datetime, attempts: Sequence[Attempt], settings: Mapping[str, str]
) -> Iterable[str]:
    late_and_to_run = settings.get("CLEANUP_GATE_WHEN_LATE") == "run" and _late(now, settings)
    if settings.get("CLEANUP_GATE") != "off" and not late_and_to_run and not _succeeded(now, attempts):
        yield "message cleanup has not succeeded"


def _without_message_cleanup(now: datetime, attempts: Sequence[Attempt], settings: Mapping[str, str]) -> str | None:
    if settings.get("CLEANUP_GATE") == "off":
        return "off"
    return None if _succeeded(now, attempts) else "late"


def _late(now: datetime, settings: Mapping[str, str]) -> bool:
    return now.time() >= time.fromisoformat(settings.get("CLEANUP_GATE_DEADLINE", "06:00"))


def _succeeded(now: datetime, attempts: Sequence[Attempt]) -> bool:
    """Whether the newest attempt of today is a success: among the runs the one that started last, then the reports."""
    todays = [attempt for attempt in attempts if attempt.day == now.date()]
    runs = [attempt for attempt in todays if attempt.source == "run"]
    run = max(runs, key=lambda attempt: attempt.started or attempt.created, default=None)
    finished = [attempt.created for attempt in todays if attempt.source == "report"]
    reports = [when for when in finished if when <= now + 5 * MINUTE]
    if run is None or run.state == "succeeded":
        return run is not None or bool(reports)
    return bool(reports) and max(reports) >= run.last_known
