"""The gate in virtual time: a script of what happens to schedulers, played on a real Dagster instance's storage.

Ticks and claims are the real ones (`defs/tick.py`, `defs/claim.py`); runs, reports and the clock are the script's.
After every tick and claim the promises are checked by `promises.py`, from what the script did and never from what was
stored.

Ticks are left out where nothing has happened since the last one: the sensor looks right after each event, and at the
two looks around each instant at which a clock may change the answer.
"""

import heapq
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import UTC, date, datetime, timedelta
from itertools import count
from typing import Literal, TypeVar
from unittest import mock

from dagster import DagsterInstance, RunRequest
from dagster._core.events import DagsterEvent
from sqlalchemy import Connection

from cleanup_pipeline.defs.claim import SupersededError, claim_day
from cleanup_pipeline.defs.tick import tick
from cleanup_pipeline.gate import day as clock
from cleanup_pipeline.gate import tags
from cleanup_pipeline.gate.dagster_facts import SCHEDULED_TIME_TAG, WILL_RETRY_TAG
from cleanup_pipeline_tests.gate import promises
from cleanup_pipeline_tests.gate.promises import Attempt, Run, Stage
from cleanup_pipeline_tests.gate.storage import EVENTS, add_run, report

T = TypeVar("T")
Trigger = Literal["schedule", "sensor"]
Hour = str
"""`HH:MM`, by the true clock."""

DAY_S = 24 * 60 * 60
# From one script's first day to the next one's; far enough for ticks of last week.
DAYS_APART = 20
SENSOR_S = 30
# The sensor's looks lie beside the whole minutes at which things happen.
LOOKS_AT_S = 7
STARTS_IN_S = 2

MONITORING = {
    "run_monitoring": {
        "enabled": True,
        "start_timeout_seconds": 300,
        "cancel_timeout_seconds": 180,
        "max_runtime_seconds": 14400,
        "poll_interval_seconds": 30,
    }
}


class Scripted:
    """What a script is made of: prints as it is written, without what is usual."""

    def __repr__(self) -> str:
        told = [
            repr(value) if place == 0 else f"{each.name}={value!r}"
            for place, each in enumerate(fields(self))  # type: ignore[arg-type]  # a dataclass, each
            if (value := getattr(self, each.name)) != each.default
        ]
        return f"{type(self).__name__}({', '.join(told)})"


@dataclass(frozen=True, repr=False)
class MessageCleanup(Scripted):
    """A Dagster run of message cleanup, which was due at 03:00 of a day, or that of a person (None)."""

    outcome: Literal["succeeded", "failed", "will be retried", "hangs", "never starts"]
    at: Hour
    minutes: int = 5
    due: Literal["today", "yesterday", "tomorrow"] | None = "today"


@dataclass(frozen=True, repr=False)
class Report(Scripted):
    """A success that is reported over REST, with or without its own `finished_at`."""

    at: Hour
    finished: Hour | None = None
    of: Literal["today", "yesterday"] = "today"


@dataclass(frozen=True, repr=False)
class DaemonDown(Scripted):
    """No tick is evaluated; afterwards the schedule's last missed one is. `until` may be an hour of the next day."""

    at: Hour
    until: Hour


@dataclass(frozen=True, repr=False)
class SwitchedOff(Scripted):
    """Somebody switches the schedule, or both, off and on."""

    what: Literal["schedule", "both"]
    at: Hour
    until: Hour


@dataclass(frozen=True, repr=False)
class ClockWrong(Scripted):
    """Everybody's clock jumps, and jumps back."""

    minutes: int
    at: Hour
    until: Hour


@dataclass(frozen=True, repr=False)
class ScheduleTick(Scripted):
    """Another tick of the schedule: its cron text was changed, or the daemon has found an old one."""

    at: Hour
    of: Literal["today", "yesterday", "last week"] = "today"


@dataclass(frozen=True, repr=False)
class Race(Scripted):
    """Ticks that all look before any of them has started its run."""

    at: Hour
    ticks: tuple[Trigger, ...] = ("schedule", "sensor")


@dataclass(frozen=True, repr=False)
class ManualRun(Scripted):
    """A run from the command line."""

    at: Hour
    minutes: int = 2
    good: bool = True


@dataclass(frozen=True, repr=False)
class Reexecution(Scripted):
    """Somebody starts the day's last run again in the UI, which inherits every tag."""

    at: Hour


Event = MessageCleanup | Report | DaemonDown | SwitchedOff | ClockWrong | ScheduleTick | Race | ManualRun | Reexecution

How = Literal[
    "good",
    "failed",
    "refused",
    "skipped",
    "interrupted",
    "crashed",
    "hangs in canceling",
    "lost",
    "never starts",
    "good, but Dagster does not see its end",
    "good, but run monitoring gave it up",
]
OUTCOMES: Mapping[How, tags.Outcome] = {
    "good": "success",
    "failed": "failed",
    "refused": "refused",
    "skipped": "skipped",
    "interrupted": "interrupted",
    "hangs in canceling": "interrupted",
    "good, but Dagster does not see its end": "success",
    "good, but run monitoring gave it up": "success",
}


@dataclass(frozen=True, repr=False)
class Fate(Scripted):
    """How a run of the day goes, if it gets to work: in the queue, then at work, for so many minutes each."""

    how: How
    minutes: int = 2
    queued: int = 0


@dataclass(frozen=True)
class Day:
    """One day of a script: what happens, how its runs go in their order (then: well), and what is set."""

    events: Sequence[Event] = ()
    runs: Sequence[Fate] = ()
    settings: Mapping[str, str] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        yield from map(repr, self.events)
        if self.runs:
            yield f"runs of the day: {', '.join(map(repr, self.runs))}"
        yield from (f"{name}={value}" for name, value in self.settings.items())


class BrokenPromise(AssertionError):  # noqa: N818 - as the promise is what is broken
    """A promise of the gate did not hold; tells the script and what came of it."""


def new_instance() -> DagsterInstance:
    """Dagster's real storage, on SQLite in memory, with run monitoring's limits as in `dagster.yaml`."""
    instance = DagsterInstance.ephemeral(settings=MONITORING)
    # Asked again at every write, by a look at the schema: half of the storage's time.
    for asked in ("has_run_stats_index_cols", "has_backfill_id_column"):
        setattr(instance.run_storage, asked, lambda: True)
    # Nor is a connection made for each question.
    connection = instance.run_storage._engine.connect()  # type: ignore[attr-defined]  # of SQLite's storage

    @contextmanager
    def connect() -> Iterator[Connection]:
        with connection.begin():
            yield connection

    instance.run_storage.connect = connect  # type: ignore[attr-defined]  # likewise
    return instance


_first_days = count()


def simulate(instance: DagsterInstance, script: Sequence[Day]) -> list[Run]:
    """Play the script on days that nobody has used yet; returns the runs of the days. Raises `BrokenPromise`."""
    first = date(2030, 1, 10) + next(_first_days) * timedelta(days=DAYS_APART)
    world = _World(instance, script, datetime(first.year, first.month, first.day, tzinfo=UTC))
    try:
        with world.clocks():
            world.play()
    except promises.Broken as broken:
        raise BrokenPromise(world.told(str(broken))) from None
    return world.runs


@dataclass(order=True)
class _Action:
    at: int
    place: int
    act: Callable[[], None] = field(compare=False)
    starts_run: bool = field(compare=False, default=False)


class _World:
    """Everything around the gate. `self.now` is the true time in seconds, `self.wall()` what clocks show."""

    def __init__(self, instance: DagsterInstance, script: Sequence[Day], first: datetime) -> None:
        self.instance = instance
        self.script = script
        self.first = first
        self.now = 0
        self.runs: list[Run] = []
        self.attempts: list[Attempt] = []
        self.lines: list[str] = []
        self._told_last = ""
        self._ids: dict[int, str] = {}
        self._locks: dict[str, Run] = {}
        self._fates = {place: list(day.runs) for place, day in enumerate(script)}
        self._down: list[tuple[int, int]] = []
        self._schedule_off: list[tuple[int, int]] = []
        self._sensor_off: list[tuple[int, int]] = []
        self._wrong: list[tuple[int, int, int]] = []
        self._last_tick = first
        self._used_keys: set[tuple[str, str]] = set()
        self._reexecuted = False
        self._agenda: list[_Action] = []
        self._places = count()
        self._looks: set[int] = set()
        self._written = {"runs": 0, "reports": 0}

    # Time.

    def wall(self, at: int | None = None) -> datetime:
        at = self.now if at is None else at
        wrong = next((by for start, end, by in self._wrong if start <= at < end), 0)
        return self.first + timedelta(seconds=at + wrong)

    def _timestamp(self) -> float:
        return self.wall().timestamp()

    @contextmanager
    def clocks(self) -> Iterator[None]:
        """Put every clock that the gate and Dagster's storage read, and the environment, under the script."""
        with (
            mock.patch.object(clock, "utc_now", self.wall),
            mock.patch("dagster._time._mockable_get_current_datetime", self.wall),
            mock.patch("dagster._time._mockable_get_current_timestamp", self._timestamp),
            mock.patch.object(self.instance, "add_run_tags", self._add_run_tags),
            mock.patch.object(self.instance, "get_run_records", self._read_once("runs", self.instance.get_run_records)),
            mock.patch.object(
                self.instance,
                "fetch_materializations",
                self._read_once("reports", self.instance.fetch_materializations),
            ),
            mock.patch.dict(os.environ),
        ):
            yield

    def _read_once(self, what: str, read: Callable[..., T]) -> Callable[..., T]:
        """Ask the storage anew only when something was written: most looks in a row read the same."""
        known: dict[str, T] = {}
        written = 0

        def read_once(*asked: object, **limits: object) -> T:
            nonlocal written
            if written != self._written[what]:
                known.clear()
                written = self._written[what]
            question = repr((asked, limits))
            if question not in known:
                known[question] = read(*asked, **limits)
            return known[question]

        return read_once

    def at(self, time: int, act: Callable[[], None], *, starts_run: bool = False) -> None:
        if 0 <= time < len(self.script) * DAY_S:
            heapq.heappush(self._agenda, _Action(time, next(self._places), act, starts_run))

    def look_after(self, time: int) -> None:
        """Have the sensor look at its first tick after `time`."""
        look = ((time - LOOKS_AT_S) // SENSOR_S + 1) * SENSOR_S + LOOKS_AT_S
        if look not in self._looks:
            self._looks.add(look)
            self.at(look, self._sensor_tick)

    def look_around(self, time: int) -> None:
        self.look_after(time - SENSOR_S)
        self.look_after(time)

    def _look_around_rests(self, over: int) -> None:
        """Look when a run is over, and when the rests after it are."""
        for rest in (0, 600, 1800):
            self.look_around(over + rest)

    def play(self) -> None:
        for place, day in enumerate(self.script):
            for event in day.events:
                self._plan_outages(place, event)
        for place, day in enumerate(self.script):
            self.at(place * DAY_S, lambda day=day: self._set(day))  # type: ignore[misc]  # a default binds the day
            for event in day.events:
                self._plan(place, event)
            self._plan_clock(place, day)
        while self._agenda:
            self._next(heapq.heappop(self._agenda))

    def _next(self, action: _Action) -> None:
        self.now = action.at
        action.act()
        promises.check_all(self.runs, judged_by_clock=not self._wrong, judged_by_gate=not self._reexecuted)

    # Planning.

    def _plan_outages(self, place: int, event: Event) -> None:
        match event:
            case DaemonDown(at, until):
                self._down.append(self._span(place, at, until))
            case SwitchedOff(what, at, until):
                self._schedule_off.append(self._span(place, at, until))
                if what == "both":
                    self._sensor_off.append(self._span(place, at, until))
            case ClockWrong(minutes, at, until):
                self._wrong.append((*self._span(place, at, until), minutes * 60))
            case _:
                pass

    def _plan(self, place: int, event: Event) -> None:
        start = place * DAY_S + seconds(event.at)
        match event:
            case MessageCleanup():
                self.at(start, lambda: self._message_cleanup(event))
            case Report():
                self.at(start, lambda: self._report(event))
            case DaemonDown(at, until):
                _, end = self._span(place, at, until)
                self.at(end, self._schedule_tick)
                self.look_after(end)
            case SwitchedOff(_, at, until):
                _, end = self._span(place, at, until)
                self.at(end, self._switch_on)
                self.look_after(end)
            case ClockWrong(minutes, at, until):
                for jump in self._span(place, at, until):
                    self.at(jump, self._schedule_tick)
                    self.look_after(jump)
                self.at(start, lambda: self._tell(f"clocks jump by {minutes} minutes"))
            case ScheduleTick(of=of):
                back = {"today": 0, "yesterday": 1, "last week": 7}[of]
                self.at(start, lambda: self._tick("schedule", self.wall().date() - timedelta(days=back)))
            case Race(ticks=ticks):
                self.at(start, lambda: self._race(ticks))
            case ManualRun():
                self.at(start, lambda: self._manual_run(event))
            case Reexecution():
                self.at(start, self._reexecute)
        self.look_after(start)

    def _plan_clock(self, place: int, day: Day) -> None:
        hours = ["04:00", day.settings.get("CLEANUP_GATE_DEADLINE", "06:00"), day.settings.get("CLEANUP_NIGHT_ENDS")]
        for wrong in {0, *(by for _, _, by in self._wrong)}:
            self.at(place * DAY_S + seconds("04:00") - wrong, self._schedule_tick)
            for hour in filter(None, hours):
                self.look_around(place * DAY_S + seconds(hour) - wrong)

    def _span(self, place: int, at: Hour, until: Hour) -> tuple[int, int]:
        start, end = seconds(at), seconds(until)
        return place * DAY_S + start, place * DAY_S + (end if end > start else end + DAY_S)

    def _set(self, day: Day) -> None:
        for variable in ("CLEANUP_GATE", "CLEANUP_GATE_DEADLINE", "CLEANUP_GATE_WHEN_LATE", "CLEANUP_NIGHT_ENDS"):
            os.environ.pop(variable, None)
        os.environ.update(day.settings)

    # Message cleanup.

    def _message_cleanup(self, event: MessageCleanup) -> None:
        tagged = {}
        due = None
        if event.due:
            away = {"today": 0, "yesterday": -1, "tomorrow": 1}[event.due]
            due = datetime.combine(self.wall().date(), promises.MESSAGE_CLEANUP_AT, tzinfo=UTC) + timedelta(days=away)
            tagged[SCHEDULED_TIME_TAG] = due.isoformat()
        run_id = self._store_run("message_cleanup", tagged)
        attempt = Attempt("run", "waiting", due=due, created=self.wall())
        self.attempts.append(attempt)
        self._tell(f"message cleanup is queued, due {event.due or 'by hand'}")
        if event.outcome == "never starts":
            self._happen(run_id, "enqueue")
            return
        self._happen(run_id, "start")
        attempt.state, attempt.started = "running", self.wall()
        if event.outcome != "hangs":
            self.at(self.now + event.minutes * 60, lambda: self._message_cleanup_ends(event, run_id, attempt))
            self.look_after(self.now + event.minutes * 60)

    def _message_cleanup_ends(self, event: MessageCleanup, run_id: str, attempt: Attempt) -> None:
        if event.outcome == "succeeded":
            self._happen(run_id, "success")
            attempt.state = "succeeded"
        else:
            if event.outcome == "will be retried":
                self._add_run_tags(run_id, {WILL_RETRY_TAG: "true"})
            self._happen(run_id, "failure")
            attempt.state = "retrying" if event.outcome == "will be retried" else "failed"
        attempt.ended = self.wall()
        self._tell(f"message cleanup {event.outcome}")

    def _report(self, event: Report) -> None:
        finished = self.wall()
        if event.finished:
            back = timedelta(days=1 if event.of == "yesterday" else 0)
            finished = self.first + timedelta(seconds=self.now // DAY_S * DAY_S + seconds(event.finished)) - back
            report(self.instance, finished_at=finished.isoformat())
        else:
            report(self.instance)
        self._written["reports"] += 1
        self.attempts.append(Attempt("report", "succeeded", due=None, created=finished, ended=finished))
        self._tell(f"message cleanup is reported to have finished at {finished:%m-%d %H:%M:%S}")
        # One from the future counts as soon as it is not.
        self.look_around(self.now + max(0, int((finished - self.wall()).total_seconds()) - 300))

    # Ticks.

    def _on(self, trigger: Trigger) -> bool:
        off = self._down + (self._schedule_off if trigger == "schedule" else self._sensor_off)
        return not any(start <= self.now < end for start, end in off)

    def _switch_on(self) -> None:
        # Dagster evaluates no tick from before a schedule was switched on.
        if self._on("schedule"):
            self._last_tick = max(self._last_tick, self.wall())

    def _schedule_tick(self) -> None:
        """Evaluate the last tick that is due and was not evaluated yet, if any, as the daemon does."""
        due = clock.nightly(self.wall().date())
        if due > self.wall():
            due -= timedelta(days=1)
        if self._on("schedule") and due > self._last_tick:
            self._last_tick = due
            self._tick("schedule", due.date())

    def _sensor_tick(self) -> None:
        self._tick("sensor", None)

    def _tick(self, trigger: Trigger, of_day: date | None) -> None:
        if self._on(trigger):
            request = self._look(trigger, of_day)
            if request is not None:
                promises.check_key(trigger, request.run_key, self._used_keys)
                self._launch(request, trigger)

    def _race(self, ticks: tuple[Trigger, ...]) -> None:
        today = self.wall().date()
        looked = [
            (self._look(trigger, today if trigger == "schedule" else None), trigger)
            for trigger in ticks
            if self._on(trigger)
        ]
        for request, trigger in looked:
            if request is not None:
                self._launch(request, trigger)

    def _look(self, trigger: Trigger, of_day: date | None) -> RunRequest | None:
        answer = tick(self.instance, trigger, of_day)
        request = answer if isinstance(answer, RunRequest) else None
        said = "starts a run" if isinstance(answer, RunRequest) else answer.skip_message
        of = f" of {of_day}" if of_day else ""
        self._tell(f"the {trigger}'s tick{of}: {said}")
        started = None if request is None else request.tags
        promises.check_tick(self.wall(), of_day, self.attempts, self.runs, self._today().settings, started)
        return request

    # Runs.

    def _launch(self, request: RunRequest, trigger: Trigger) -> None:
        self._used_keys.add((trigger, str(request.run_key)))
        self._add_run({**request.tags, "dagster/run_key": str(request.run_key)})

    def _reexecute(self) -> None:
        of_today = [run for run in self.runs if run.day == self.wall().date()]
        if of_today:
            parent = self.instance.get_run_by_id(self._ids[of_today[-1].number])
            assert parent is not None
            self._reexecuted = True
            self._tell(f"run {of_today[-1].number} is started again by a person")
            self._add_run(dict(parent.tags))

    def _add_run(self, tagged: dict[str, str]) -> None:
        run = Run(len(self.runs) + 1, date.fromisoformat(tagged[tags.DAY]), self.wall())
        fates = self._fates[self.now // DAY_S]
        fate = fates.pop(0) if fates else Fate("good")
        self._ids[run.number] = self._store_run("session_cleanup", tagged)
        self.runs.append(run)
        self._stage(run, "queued", "enqueue")
        starts = self.now + STARTS_IN_S + fate.queued * 60
        self.at(starts, lambda: self._start(run, fate), starts_run=True)
        self.look_after(starts)

    def _start(self, run: Run, fate: Fate) -> None:
        if fate.how == "never starts":
            self._stage(run, "starting", "starting")
            self._look_around_rests(self.now + 360)
            return
        self._stage(run, "started", "start")
        why_not = promises.against_working(run, self.runs, self.wall())
        try:
            claim_day(self.instance, self._ids[run.number], run.day, lambda name: self._try_lock(name, run))
        except SupersededError as superseded:
            promises.check_superseded(why_not, run)
            self._say(run, "superseded")
            self._end(run, "canceling", "cancel")
            self._tell(f"run {run.number} is superseded: {superseded.reason}")
            return
        promises.check_claimed(why_not, run)
        run.claimed = run.works = True
        self._tell(f"run {run.number} has claimed the day and works")
        self.at(self.now + fate.minutes * 60, lambda: self._finish(run, fate))
        if fate.how == "good, but run monitoring gave it up":
            self.at(self.now + 14400 + 30, lambda: self._give_up(run))
        self._look_around_rests(self.now + 14400 + 60)

    def _try_lock(self, name: str, run: Run) -> bool:
        holder = self._locks.setdefault(name, run)
        if holder is run:
            run.holds_lock = True
            if run.number % 2:
                self._start_all_that_start_now()
        return holder is run

    def _add_run_tags(self, run_id: str, new_tags: Mapping[str, str]) -> None:
        if tags.CLAIM in new_tags:
            self._start_all_that_start_now()
        self.instance.run_storage.add_run_tags(run_id, new_tags)
        self._written["runs"] += 1

    def _start_all_that_start_now(self) -> None:
        """In the midst of a run's claim: before it has looked at the others, or between that and its own tag."""
        for action in [action for action in self._agenda if action.at == self.now and action.starts_run]:
            self._agenda.remove(action)
            heapq.heapify(self._agenda)
            action.act()

    def _give_up(self, run: Run) -> None:
        if run.works:
            self._end(run, "failure")
            self._tell(f"run monitoring gives run {run.number} up; its process works on")

    def _finish(self, run: Run, fate: Fate) -> None:
        run.works = False
        if fate.how == "lost":
            self._tell(f"the process of run {run.number} is gone and Dagster does not know")
        elif fate.how == "crashed":
            self._end(run, "failure")
        elif fate.how == "hangs in canceling":
            self._stage(run, "canceling", "canceling")
            self._say(run, "interrupted")
            self._look_around_rests(self.now + 240)
        else:
            self._say(run, OUTCOMES[fate.how])
            if run.stage != "ended" and fate.how != "good, but Dagster does not see its end":
                ended_by = {"success": ["success"], "interrupted": ["canceling", "cancel"]}
                self._end(run, *ended_by.get(OUTCOMES[fate.how], ["failure"]))
        self._tell(f"run {run.number}: {fate.how}")
        # The lock goes with the connection, after all that the run has to say.
        self._unlock(run)

    def _say(self, run: Run, outcome: tags.Outcome) -> None:
        run_id = self._ids[run.number]
        self._add_run_tags(run_id, tags.outcome_tags(run_id, outcome))
        run.told = outcome

    def _end(self, run: Run, *events: str) -> None:
        for event in events:
            self._happen(self._ids[run.number], event)
        run.stage, run.since = "ended", self.wall()
        if not run.works:
            self._unlock(run)
        self._look_around_rests(self.now)

    def _unlock(self, run: Run) -> None:
        self._locks = {name: holder for name, holder in self._locks.items() if holder is not run}
        run.holds_lock = False

    def _stage(self, run: Run, stage: Stage, event: str) -> None:
        self._happen(self._ids[run.number], event)
        run.stage, run.since = stage, self.wall()

    def _manual_run(self, event: ManualRun) -> None:
        run_id = self._store_run("session_cleanup", {tags.TRIGGER: "manual"})
        self._happen(run_id, "start")
        self._tell("a manual run starts")

        def end() -> None:
            self._add_run_tags(run_id, tags.outcome_tags(run_id, "success" if event.good else "failed"))
            self._happen(run_id, "success" if event.good else "failure")
            self._tell("the manual run ends")

        self.at(self.now + event.minutes * 60, end)

    def _store_run(self, job: str, tagged: dict[str, str]) -> str:
        self._written["runs"] += 1
        return add_run(self.instance, job, tagged=tagged)

    def _happen(self, run_id: str, event: str) -> None:
        """Change a run's status; its event log, which the gate does not read, is left out."""
        told = DagsterEvent(event_type_value=EVENTS[event].value, job_name="session_cleanup")
        self.instance.run_storage.handle_run_event(run_id, told, self.wall())
        self._written["runs"] += 1

    # What is told.

    def _today(self) -> Day:
        return self.script[self.now // DAY_S]

    def _tell(self, what: str) -> None:
        day, second = divmod(self.now, DAY_S)
        shown = "" if self.wall() == self.first + timedelta(seconds=self.now) else f" (clocks: {self.wall():%H:%M:%S})"
        if what != self._told_last:
            self.lines.append(f"day {day + 1} {timedelta(seconds=second)}{shown}  {what}")
        self._told_last = what

    def told(self, broken: str) -> str:
        """Tell the script, and what came of it up to here; of looks in a row that said the same, the first."""
        script = [
            line
            for place, day in enumerate(self.script)
            for line in (f"day {place + 1}:", *(f"  {said}" for said in day.lines()))
        ]
        return "\n".join(["", broken, "", "The script:", *script, "", "What came of it:", *self.lines[-60:]])


def seconds(hour: Hour) -> int:
    hours, minutes = hour.split(":")
    return int(hours) * 3600 + int(minutes) * 60
