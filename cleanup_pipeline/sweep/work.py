"""What the sweep of one rule works with, and the steps that rules of either kind share."""

import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from psycopg import errors, sql

from cleanup_pipeline.postgres import Row, Session, Transaction, explain
from cleanup_pipeline.sweep.backoff import Backoff
from cleanup_pipeline.sweep.catalog import Leaf
from cleanup_pipeline.sweep.pace import DEFAULT, Pace, Stride
from cleanup_pipeline.sweep.reader import CandidatesLostError, FailedError, Reader
from cleanup_pipeline.sweep.result import Progress, Result
from cleanup_pipeline.sweep.statements import DROP_CANDIDATES, Candidates, Scope, Statements
from cleanup_pipeline.sweep.target import Target
from cleanup_pipeline.sweep.window import Budget, Writer

# Rows may move behind a walk, since the app updates them; whatever moves them for ever must not keep us.
MOST_PASSES = 4
# What a row costs is not known before the first window: a tenth of a millisecond is much, unless it sets off more.
_ROWS_AT_FIRST_PER_S = 10_000
_DEAR_ROWS_AT_FIRST = 4
_LEAST_ROW_S = 1e-6


@dataclass(frozen=True)
class Options:
    """How a run is meant: `as_of`, the instant that age is measured against (with a zone), and what an operator set.

    `age` and `max_share` replace the rule's own; `deep` looks for orphans also where a foreign key rules them out.
    """

    as_of: datetime
    pace: Pace = DEFAULT
    age: timedelta | None = None
    max_share: float | None = None
    deep: bool = False
    budget: Budget = field(default_factory=Budget)


@dataclass(frozen=True, slots=True)
class Gathered:
    """Where the rows of one leaf that are to be taken lie in the temporary table."""

    leaf: Leaf
    after: str
    last: str
    rows: int


class TimeIsUpError(Exception):
    """The time that the run may take is up, and nothing of the rule is known yet."""


def statements_for(target: Target, options: Options) -> Statements:
    """The rule's statements for this run."""
    age = target.rule.age
    return Statements(target, options.as_of, None if age is None else options.age or age.default)


class Work:
    """The sweep of one rule as it goes on: `writer` keeps the tally in `result`, everything reads through `reader`."""

    def __init__(
        self, session: Session, reader: Reader, options: Options, target: Target, result: Result, began: float
    ) -> None:
        self.session = session
        self.reader = reader
        self.options = options
        self.target = target
        self.result = result
        self.statements = statements_for(target, options)
        self.writer = Writer(session, reader, self.statements, result, options.budget)
        self._backoff = Backoff(reader, self.writer, options.budget)
        self._began = began
        self.held_back: str | None = None  # by whom
        self.gathers = False  # whether there is a temporary table
        self.can_be_shared = True  # until a second connection was lost
        self.second_walk: threading.Thread | None = None

    # Sharing the work with a thread beside.

    def beside(self, stop: threading.Event) -> "Work":
        """The same work for a thread beside, on a second session. Not for a run that may take only so many rows."""
        session = self.session.second()
        work = Work(session, self.reader.beside(session, stop), self.options, self.target, self.result, self._began)
        work.writer.asks_age = self.writer.asks_age
        work._backoff = self._backoff.beside(work.reader, work.writer)
        return work

    def take_over(self, other: "Work") -> None:
        """Go on with what the work beside has left undone, and remember what it has met."""
        self.writer.take_over(other.writer)
        self._backoff.take_over(other._backoff)
        self.session.written += other.session.written

    # Telling.

    def tell(self, notes: Iterable[str]) -> None:
        """Note what was not noted yet."""
        self.result.notes += [note for note in notes if note not in self.result.notes]

    def tell_what_held_it_back(self) -> None:
        """Note whom the sweep has waited for."""
        self.tell(self._backoff.notes())

    def progress(self, stage: str, share: float) -> Progress:
        """How far the sweep is in `stage`: by the table, or by the run's limit on rows, whichever ends it sooner."""
        rows, affected = self.options.budget.rows, self.result.affected
        if rows is not None and affected:
            share = max(share, affected / (affected + rows))
        elapsed_s = time.monotonic() - self._began
        return Progress(self.result.rule, self.held_back or stage, affected, min(share, 1.0), elapsed_s)

    # Reading.

    def stop_when_late(self) -> None:
        """Before anything is written: what is not known yet when the time is up is not looked for."""
        if self.options.budget.late:
            raise TimeIsUpError

    def ask(self, query: sql.SQL | sql.Composed) -> Row:
        """Ask about what was gathered. Raises `CandidatesLostError`."""
        return self.reader.once(lambda transaction: transaction.one(query), judged=True)

    def count(self, leaf: Leaf, scope: Scope) -> int:
        """How many due rows there are in `scope`."""
        due, _ = self.reader.once(
            lambda transaction: transaction.one(self.statements.count_due(leaf, scope), scope.parameters),
            judged=isinstance(scope, Candidates),
        )
        return int(due)

    def is_kept(self, leaf: Leaf, scope: Scope) -> bool:
        """Whether a due row of `scope` stays although nobody has locked it."""
        try:
            (kept,) = self.reader.once(
                lambda transaction: transaction.one(self.statements.is_kept(leaf, scope), scope.parameters),
                judged=isinstance(scope, Candidates),
                writes=True,
            )
        except CandidatesLostError:
            return False
        except errors.QueryCanceled:  # nobody waits for the answer for longer
            self.reader.check_stop()
            return False
        return bool(kept)

    # Writing.

    def write(self, leaf: Leaf, window: Scope) -> tuple[int, float, float]:
        """Write one window; returns the rows changed, the seconds that statements worked, and those it took besides."""
        began, self.writer.working_s = time.monotonic(), 0.0
        changed = self.writer.write(leaf, window)
        return changed, self.writer.working_s, time.monotonic() - began - self.writer.working_s

    def rest(self, working_s: float, waiting_s: float) -> Iterator[None]:
        """Rest after a window; comes back each second that somebody is waited for."""
        asked, self.writer.asked = self.writer.asked, 0
        self.reader.rest(working_s, waiting_s, asked)
        for reason in self._backoff.hold_back(working_s):
            self.held_back = reason
            yield
        self.held_back = None

    # What was gathered.

    def make_candidates(self, transaction: Transaction) -> None:
        """Make the temporary table of what is due. Raises `FailedError` where that is forbidden."""
        self.gathers = True
        try:
            transaction.run(DROP_CANDIDATES)
            transaction.run(self.statements.make_candidates())
        except errors.RaiseException as error:
            raise FailedError(
                "The temporary table of what is due can't be made; an event trigger (pg_event_trigger) may forbid it: "
                f"{explain(error)}."
            ) from None

    def take(self, part: Gathered, doubtful: list[tuple[Leaf, Scope]]) -> Iterator[float]:
        """Clean gathered rows, window by window; those not taken go to `doubtful`. Gives the share that is done."""
        stride = self._row_stride()
        after, done = part.after, 0
        while done < part.rows and not self.options.budget.spent:
            last, rows = self.ask(self.statements.next_candidates(after, part.last, stride.size))
            window = Candidates(after, last, rows)
            changed, working_s, waiting_s = self.write(part.leaf, window)
            stride.took(rows, working_s)
            if changed < rows:
                doubtful.append((part.leaf, window))
            after, done = last, done + rows
            yield done / part.rows
            for _ in self.rest(working_s, waiting_s):
                yield done / part.rows

    def _row_stride(self) -> Stride:
        target_s = self.options.pace.window_s
        first = _DEAR_ROWS_AT_FIRST
        if not (self.target.triggers or self.target.scanned_pages):
            first = max(first, round(target_s * _ROWS_AT_FIRST_PER_S))
        return Stride(target_s, first, _LEAST_ROW_S, self.reader.far_s)
