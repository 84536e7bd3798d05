"""What the ops are given: the database, and what the sweeps of one run share."""

import os
import threading
import time
from contextlib import suppress
from datetime import date, datetime, timedelta

from dagster import (
    AssetKey,
    ConfigurableResource,
    DagsterInstance,
    DagsterRun,
    InitResourceContext,
    MarkdownMetadataValue,
)
from pydantic import Field, PrivateAttr

from cleanup_pipeline.defs import summary
from cleanup_pipeline.defs.claim import claim_day, lock_name
from cleanup_pipeline.gate import day as clock
from cleanup_pipeline.gate import tags
from cleanup_pipeline.gate.dagster_facts import was_started_again_by_a_person
from cleanup_pipeline.gate.settings import Settings
from cleanup_pipeline.postgres import (
    APPLICATION_NAME,
    DATABASE_URL_VARIABLE,
    ConfigurationError,
    Database,
    Limits,
    LostConnectionError,
    Session,
    UnreachableError,
)
from cleanup_pipeline.rules import RULES_ON, Rule
from cleanup_pipeline.sweep import footprint, lock
from cleanup_pipeline.sweep.as_of import choose_as_of
from cleanup_pipeline.sweep.finding import RefusedError
from cleanup_pipeline.sweep.footprint import Footprint
from cleanup_pipeline.sweep.pace import DEFAULT, FULL_SPEED, Pace
from cleanup_pipeline.sweep.result import Progress, Result, Status, worst
from cleanup_pipeline.sweep.window import Budget
from cleanup_pipeline.sweep.work import Options

_CLAIM = Limits(statement_s=5.0)
_CLAIMS = 3


class PostgresResource(ConfigurableResource[None]):
    """The database to clean, by psycopg 3.

    Without a `url` it is that of CLEANUP_DATABASE_URL, looked up when an op connects: the code location loads without
    it, and the URL stands in no table of Dagster's.
    """

    url: str | None = Field(default=None, repr=False, description=f"A libpq URL; unset: {DATABASE_URL_VARIABLE}.")

    def database(self) -> Database:
        """Where to connect to. Raises `ConfigurationError`."""
        return Database.parse(self.url or os.environ.get(DATABASE_URL_VARIABLE))

    def session(self, application_name: str = APPLICATION_NAME) -> Session:
        """A session that connects when it is first used, with every setting of ours pinned in each transaction."""
        return Session(self.database(), application_name)


class Observer:
    """Somebody who watches a run from within its process, and may ask it to stop; by default nobody does."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.results: dict[str, Result] = {}
        self.as_of: datetime | None = None

    def progress(self, progress: Progress) -> None:
        """Called after each window."""

    def result(self, result: Result) -> None:
        """Called at a rule's end, whatever end it was."""
        self.results[result.rule] = result


class CleanupRun(ConfigurableResource["CleanupRun"]):
    """What the sweeps of one run share: one connection, one `as_of`, one budget, and what came of them."""

    as_of: str | None = Field(
        default=None,
        description="The instant that age is measured against, ISO 8601 with a zone, never in the future; unset: now, "
        "by the database's clock.",
    )
    full_speed: bool = Field(
        default=False, description="For incidents: as fast as the server can; the app will feel it."
    )
    window_ms: float = Field(
        default=DEFAULT.window_s * 1000, gt=0, le=800, description="A window's length aimed at, in ms."
    )
    rest: float = Field(default=DEFAULT.rest, ge=0, le=100, description="The rest after a window, in lengths of it.")
    max_rows: int | None = Field(default=None, ge=1, description="At most so many rows, over all rules in their order.")
    max_seconds: int | None = Field(default=None, ge=1, description="Stop cleanly after so many seconds.")
    deep: bool = Field(default=False, description="Look for orphans also where a foreign key rules them out.")
    allow_share: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Lift the fuse for this run: the share of its table that a rule may take. Needs a reason.",
    )
    reason: str | None = Field(
        default=None,
        max_length=tags.LONGEST,
        description=f"Why the run is started; kept as its tag {tags.REASON}, which may be set instead.",
    )

    _session: Session | None = PrivateAttr(default=None)
    _as_of: datetime | None = PrivateAttr(default=None)
    _budget: Budget = PrivateAttr(default_factory=Budget)
    _deadline: float | None = PrivateAttr(default=None)
    _night_ends: float | None = PrivateAttr(default=None)
    _results: list[Result] = PrivateAttr(default_factory=list)

    def setup_for_execution(self, context: InitResourceContext) -> None:
        """Begin with nothing; the database is connected to by the first op, whose events then tell of it."""
        self._session, self._as_of, self._results = None, None, []
        self._deadline = None if self.max_seconds is None else time.monotonic() + self.max_seconds
        self._night_ends = _night_end(context.run, context.instance)
        self._budget = Budget(self.max_rows, _earliest(self._deadline, self._night_ends))

    def begin(self, postgres: PostgresResource, run: DagsterRun, instance: DagsterInstance) -> Session:
        """Connect, fix `as_of` and claim the day, where that is not done yet; returns the run's one session.

        Raises `ConfigurationError`, `UnreachableError`, `RefusedError` where the fuse is lifted without a reason, and
        `SupersededError` where the day is another run's.
        """
        if self._session is None:
            self._session = postgres.session(f"{APPLICATION_NAME} {run.run_id}")
        if self._as_of is None:
            as_of = choose_as_of(self._session, self.as_of)
            said = self._said(run)
            self._claim(self._session, run, instance)
            if said.items() - run.tags.items():
                instance.add_run_tags(run.run_id, said)
            self._as_of = as_of
        return self._session

    def _said(self, run: DagsterRun) -> dict[str, str]:
        """What a person wants of this run and why, as tags of it. Raises `RefusedError` where the why is missing."""
        reason = " ".join((self.reason or run.tags.get(tags.REASON, "")).split())
        if self.allow_share is not None and not reason:
            raise RefusedError(
                "allow_share lifts a safety limit, and nobody says why. Set reason beside it in the configuration of "
                f"cleanup_run, or the run's tag {tags.REASON}."
            )
        said = {tags.REASON: reason, tags.ALLOW_SHARE: "" if self.allow_share is None else str(self.allow_share)}
        return {tag: value for tag, value in said.items() if value}

    def options(self, age: timedelta | None) -> Options:
        """How one rule is to be carried out; `age` replaces the rule's own."""
        if self._as_of is None:
            raise RuntimeError("a rule is carried out before begin()")
        pace = (
            FULL_SPEED
            if self.full_speed
            else Pace(DEFAULT.name, self.window_ms / 1000, DEFAULT.slice_s, self.rest, DEFAULT.snapshot_s)
        )
        return Options(self._as_of, pace, age, self.allow_share, self.deep, self._budget)

    def began_at(self) -> datetime | None:
        """The run's `as_of`, as soon as it is fixed."""
        return self._as_of

    def report(self, result: Result) -> None:
        """Keep a rule's result for the end of the run."""
        self._results.append(result)

    def limited(self) -> bool:
        """Whether the rows or the time of the run are used up."""
        return self._budget.spent

    def night_is_over(self) -> bool:
        """Whether the run is to do no more since the night has ended."""
        return self._night_ends is not None and time.monotonic() >= self._night_ends

    def measure(self, rule: Rule) -> Footprint | None:
        """Measure the rule's table, where there is a connection to do so."""
        return None if self._session is None or not self._session.alive else footprint.measure(self._session, rule)

    def closing(self, rule: Rule, run: DagsterRun, instance: DagsterInstance) -> dict[str, MarkdownMetadataValue]:
        """The summary of the whole run, for the rule that ends it; nothing for the others, and never an error."""
        interrupted = bool(self._results) and self._results[-1].status is Status.INTERRUPTED
        if _planned(run)[-1:] != [rule] and not interrupted:
            return {}
        now = self._as_of or clock.utc_now()
        return summary.metadata(self._results, self._never_began(run), instance, run.run_id, now)

    def teardown_after_execution(self, context: InitResourceContext) -> None:
        """End the run: close the connection, say in one line what was done, and tag the run with its outcome."""
        if self._session is not None:
            self._session.close()
        # `dagster job execute` sets the resources up once more behind the run, to look at its outputs.
        if not self._results or context.run is None or context.instance is None:
            return
        if context.log is not None:
            context.log.info(summary.line(self._results, self._never_began(context.run)))
        outcome = self._outcome(context.run)
        said = tags.outcome_tags(context.run.run_id, outcome.value)
        if self._was_cut_short():
            said[tags.LIMITED] = context.run.run_id
        context.instance.add_run_tags(context.run.run_id, said)

    def _never_began(self, run: DagsterRun) -> list[Rule]:
        """Rules that were to be carried out and were not: an interrupt came first, or their step died."""
        done = {result.rule for result in self._results}
        return [rule for rule in _planned(run) if rule.name not in done]

    def _was_cut_short(self) -> bool:
        """Whether rows may be left since a limit of this run's own was reached; the night's end is none."""
        late = self._deadline is not None and time.monotonic() >= self._deadline
        return (late or self._budget.rows == 0) and any(result.remaining != 0 for result in self._results)

    def _outcome(self, run: DagsterRun) -> Status:
        """How the run ended. A step that died before its rule began, by its configuration say, has no result."""
        died = [Status.FAILED] if self._never_began(run) else []
        outcome = worst([*(result.status for result in self._results), *died])
        if outcome is Status.SUCCESS and tags.DAY in run.tags and len(self._results) != len(RULES_ON):
            # The night is good when every rule is; a re-execution of some steps is not that.
            return Status.INTERRUPTED
        return outcome

    def _claim(self, session: Session, run: DagsterRun, instance: DagsterInstance) -> None:
        day = run.tags.get(tags.DAY)
        if day is None:
            return
        try:
            when = date.fromisoformat(day)
        except ValueError:
            raise ConfigurationError(f"The run's tag {tags.DAY} is {day!r}, no day such as 2026-11-24.") from None
        if session.pooled:
            # A session's lock would stay on somebody else's connection: the day is claimed within one transaction.
            with session.transaction(_CLAIM) as transaction:
                held = lock.hold_in(transaction, lock_name(when))
                claim_day(instance, run.run_id, when, lambda _: held)
            return
        for _ in range(_CLAIMS):
            generation = session.generation
            claim_day(instance, run.run_id, when, lambda name: lock.hold(session, name))
            # Where Dagster's storage was slow the server may have ended our idle session, and the lock with it.
            with suppress(LostConnectionError):
                if lock.is_held(session, lock_name(when)) and session.generation == generation:
                    return
        raise UnreachableError(f"The connection to {session.database} does not last as long as claiming the day takes.")


def _planned(run: DagsterRun) -> list[Rule]:
    """The rules that a run is to carry out, in their order. A run that names no steps (the daemon's) means all."""
    steps, assets, ops = run.step_keys_to_execute, run.asset_selection, run.resolved_op_selection
    return [
        rule
        for rule in RULES_ON
        if (not steps or rule.op in steps)
        and (not assets or AssetKey(rule.asset) in assets)
        and (not ops or rule.op in ops)
    ]


def _night_end(run: DagsterRun | None, instance: DagsterInstance | None) -> float | None:
    """When the run of a day stops, on the monotonic clock; at once, where the night is over when it begins.

    It may have been in the queue for long. One that a person starts again after the night's end is meant to work.
    """
    day = run.tags.get(tags.DAY) if run is not None else None
    if run is None or day is None:
        return None
    try:
        end = Settings.from_environment(os.environ).night_end(date.fromisoformat(day))
    except (ValueError, OverflowError):
        return None  # claiming the day says so
    if end is None:
        return None
    left_s = (end - clock.utc_now()).total_seconds()
    if left_s <= 0 and instance is not None and was_started_again_by_a_person(instance, run):
        return None
    return time.monotonic() + left_s


def _earliest(*deadlines: float | None) -> float | None:
    return min((deadline for deadline in deadlines if deadline is not None), default=None)
