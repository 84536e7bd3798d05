"""Carrying out one rule: many short transactions, each cleaning one window of the table.

Preflight looks whether the rule may run at all. An orphan rule then judges; the fuse counts what was judged. The
windows follow, each at its pace. A look at what remains ends the pass, and where rows have moved behind the walk,
another pass takes them. Nothing here knows Dagster.
"""

import threading
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

import psycopg
from psycopg import errors, sql

from cleanup_pipeline.postgres import CleanupError, Limits, LostConnectionError, Row, Session, Transaction, explain
from cleanup_pipeline.rules import Rule
from cleanup_pipeline.sweep import access, judgement, lock, preflight
from cleanup_pipeline.sweep.backoff import Backoff
from cleanup_pipeline.sweep.catalog import Leaf
from cleanup_pipeline.sweep.finding import RefusedError, Severity
from cleanup_pipeline.sweep.fuse import Fuse, scans
from cleanup_pipeline.sweep.moment import earliest
from cleanup_pipeline.sweep.pace import DEFAULT, Pace, Stride
from cleanup_pipeline.sweep.reader import CandidatesLostError, FailedError, InterruptedSweepError, Reader
from cleanup_pipeline.sweep.result import Progress, Result, Status
from cleanup_pipeline.sweep.statements import (
    ANALYZE_CANDIDATES,
    DROP_CANDIDATES,
    LAST_CANDIDATE,
    NO_CANDIDATE,
    Blocks,
    Candidates,
    Rows,
    Scope,
    Statements,
)
from cleanup_pipeline.sweep.target import Target
from cleanup_pipeline.sweep.walk import Walk, page_stride
from cleanup_pipeline.sweep.window import Budget, Leftovers, Writer
from cleanup_pipeline.sweep.witness import Witness

# Rows may move behind a walk, since the app updates them; whatever moves them for ever must not keep us.
MOST_PASSES = 4
# What a row costs is not known before the first window: a tenth of a millisecond is much, unless it sets off more.
_ROWS_AT_FIRST_PER_S = 10_000
_DEAR_ROWS_AT_FIRST = 4
_LEAST_ROW_S = 1e-6
_RELOCK_TRIES = 20
_RELOCK_PAUSE_S = 0.5


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
class _Judged:
    """Where the judged rows of one leaf lie in the temporary table."""

    leaf: Leaf
    after: str
    last: str
    rows: int


class _TimeIsUpError(Exception):
    """The time that the run may take is up, and nothing of the rule is known yet."""


class Sweep:
    """One rule, once. Iterate to carry it out: a `Progress` comes after each window; `result` is complete at the end.

    No expected failure is raised: `result` tells it. An iteration that is given up (the generator closed) stops there.
    """

    def __init__(self, rule: Rule, session: Session, options: Options, stop: threading.Event | None = None) -> None:
        self.rule = rule
        self.result = Result(rule.name)
        self._session = session
        self._options = options
        self._stop = stop or threading.Event()
        self._reader = Reader(session, options.pace, self._stop, self._take_lock_again)
        self._began = 0.0
        self._not_taken: list[tuple[Leaf, Scope]] = []
        self._brought_back = False
        self._stays_unlocked = False
        self._judges = False
        self._held_back: str | None = None

    def __iter__(self) -> Iterator[Progress]:
        self._began = time.monotonic()
        result = self.result
        try:
            yield from self._carry_out()
        except RefusedError as refused:
            # Once rows were committed, "nothing was touched" would be a lie.
            result.status, result.error = (Status.FAILED if result.affected else Status.REFUSED), str(refused)
        except lock.HeldError as held:
            result.status, result.error = Status.SKIPPED, str(held)
        except _TimeIsUpError:
            result.access = result.access or "not looked at: the time limit was reached"
            result.notes.append("The time limit was reached before anything of the rule was known.")
        except InterruptedSweepError as interrupted:
            result.status, result.error = Status.INTERRUPTED, str(interrupted)
        except CleanupError as error:
            result.status, result.error = Status.FAILED, str(error)
        except psycopg.Error as error:
            result.status = Status.FAILED
            result.error = f"{self.rule.name} failed on {self.rule.table}: {explain(error)}."
            if isinstance(error, psycopg.ProgrammingError):
                result.error += (
                    " Something was changed meanwhile, perhaps: cleanup-pipeline doctor tells what is there."
                )
        finally:
            self._clear_up()
            result.duration_s = time.monotonic() - self._began

    def _carry_out(self) -> Iterator[Progress]:
        result = self.result
        self._ensure_connected()
        report = self._reader.patiently(lambda: preflight.inspect(self._session, self.rule, deep=self._options.deep))
        result.findings = report.findings
        target = preflight.accept(report)
        result.notes += [str(finding) for finding in report.findings if finding.severity is Severity.WARNING]
        result.longest_batch_ms = 0.0
        if target.guard:
            result.access, result.remaining = f"guarded by {target.guard}", 0
            return
        self._stop_when_late()
        self._take_lock()
        statements = statements_for(target, self._options)
        writer = Writer(self._session, self._reader, statements, result, self._options.budget)
        self._backoff = Backoff(self._reader, writer, self._options.budget)
        if self.rule.orphan_of:
            yield from self._clean_orphans(target, statements, writer)
        else:
            yield from self._clean_due(target, statements, writer)
        self._tell(self._backoff.notes())
        self._conclude(target, statements, writer)

    # --- Rules whose condition is on the row itself.

    def _clean_due(self, target: Target, statements: Statements, writer: Writer) -> Iterator[Progress]:
        result = self.result
        if target.scanned_pages:
            due = yield from self._look(target, statements)
            self._tell(scans(due, target.scanned_pages, self.rule.table))
        passes = 0
        previous: int | None = None
        was_tried = False
        while passes < MOST_PASSES:
            before = result.affected
            writer.leftovers = Leftovers()
            witness = Witness(self._reader, self._session)
            try:
                for number, leaf in enumerate(target.leaves):
                    yield from self._clean_leaf(leaf, statements, writer, number, len(target.leaves))
                writer.retry_locked()
                left = self._count_left(writer, statements)
            except CandidatesLostError:
                continue  # as often as the reader reconnects
            passes += 1
            done = not (left or target.triggers or self._options.budget.spent)
            result.remaining = 0 if done and witness.saw_nobody() else (yield from self._look(target, statements))
            self._stays_unlocked = result.remaining > left
            if not self._stays_unlocked or self._options.budget.spent:
                return
            # What is no fewer than before is brought back by a trigger.
            if previous is not None and result.remaining >= previous:
                return
            # A trigger keeps what no pass changes, unless it was locked for a moment: it is tried once more.
            if result.affected == before:
                if was_tried or not target.triggers:
                    return
                was_tried = True
            else:
                previous = result.remaining

    def _clean_leaf(
        self, leaf: Leaf, statements: Statements, writer: Writer, number: int, leaves: int
    ) -> Iterator[Progress]:
        way = access.choose(self._reader, statements, leaf)
        self.result.oldest = earliest(self.result.oldest, way.oldest)
        writer.asks_age = way.oldest is None
        # What the first pass chose is what the rule's time went into.
        self.result.access = self.result.access or (way.why if leaves == 1 else f"{way.why} ({leaves} partitions)")
        if way.index is None or (self._session.pooled and way.due):
            done = self._walk(leaf, statements, writer)
        elif way.due:
            done = self._take_gathered(leaf, statements, writer, way.due)
        else:
            return
        for share in done:
            yield self._progress("windows", (number + share) / leaves)

    def _walk(self, leaf: Leaf, statements: Statements, writer: Writer) -> Iterator[float]:
        walk = Walk(leaf, statements, self._reader, self._options.pace)
        for window in walk:
            if self._options.budget.spent:
                return
            if window is None:
                yield walk.share
                continue
            before = self.result.affected
            working_s, waiting_s = self._write(leaf, window, writer)
            walk.took(window, self.result.affected - before, working_s)
            yield walk.share
            yield from self._rest(walk.share, working_s, waiting_s)

    def _take_gathered(self, leaf: Leaf, statements: Statements, writer: Writer, due: int) -> Iterator[float]:
        self._judges = True

        def gather(transaction: Transaction) -> Row:
            _make_candidates(transaction, statements)
            transaction.change(statements.gather(leaf, due))  # for the witness: it takes a transaction id
            transaction.run(ANALYZE_CANDIDATES)
            return transaction.one(LAST_CANDIDATE)

        last, rows = self._reader.once(gather, writes=True)
        self._reader.keep_judged()
        yield from self._take(_Judged(leaf, NO_CANDIDATE, last, rows), statements, writer, [])

    def _look(self, target: Target, statements: Statements) -> Generator[Progress, None, int]:
        """Count what is due now."""
        remaining = 0
        for leaf in target.leaves:
            way = access.choose(self._reader, statements, leaf)
            if way.due is not None:
                remaining += way.due
                continue
            for share, (due, oldest) in self._reader.slices(
                statements, leaf, lambda transaction, leaf, blocks: transaction.one(statements.count_due(leaf, blocks))
            ):
                remaining += due
                self.result.oldest = earliest(self.result.oldest, oldest)
                yield self._progress("looking at what remains", share)
        return remaining

    # --- Rules whose rows are orphans.

    def _clean_orphans(self, target: Target, statements: Statements, writer: Writer) -> Iterator[Progress]:
        result = self.result
        passes = 0
        previous: int | None = None
        while passes < MOST_PASSES:
            before = result.affected
            writer.leftovers = Leftovers()
            doubtful: list[tuple[Leaf, Scope]] = []
            try:
                if self._session.pooled:
                    orphans = yield from self._take_orphans_one_slice_at_a_time(target, statements, writer, doubtful)
                else:
                    orphans = yield from self._judge_and_take(target, statements, writer, doubtful)
                if not self._options.budget.spent:
                    writer.retry_locked()
                left = sum(self._count(statements, leaf, scope) for leaf, scope in doubtful)
            except CandidatesLostError:
                continue  # as often as the reader reconnects
            passes += 1
            taken = result.affected - before
            # Neither taken nor there as judged: rows that moved and perhaps are orphans still, or were never reached.
            unknown = max(0, orphans - taken - left)
            if target.triggers and taken:
                # Of what a trigger brings back only another look can tell.
                unknown = max(0, (yield from self._count_orphans(target, statements)).rows - left)
            self._not_taken = [window for window in doubtful if window not in writer.leftovers.locked]
            self._brought_back = unknown > 0
            result.remaining = left + unknown
            stuck = previous is not None and result.remaining >= previous
            if not unknown or stuck or self._options.budget.spent:
                return
            previous = result.remaining

    def _judge_and_take(
        self, target: Target, statements: Statements, writer: Writer, doubtful: list[tuple[Leaf, Scope]]
    ) -> Generator[Progress, None, int]:
        judged = yield from self._judge(target, statements)
        orphans = sum(part.rows for part in judged)
        try:
            yield from self._check_fuse(target, statements, orphans)
        except RefusedError as refused:
            raise RefusedError(f"{refused} {self._when(judged, statements)}") from None
        self._tell(scans(orphans, target.scanned_pages, self.rule.table))
        taken = 0
        for part in judged:
            for share in self._take(part, statements, writer, doubtful):
                yield self._progress("windows", (taken + share * part.rows) / orphans)
            taken += part.rows
        return orphans

    def _when(self, judged: list[_Judged], statements: Statements) -> str:
        part = max(judged, key=lambda part: part.rows)
        oldest, newest = self._step(statements.ages(part.leaf, Candidates(part.after, part.last, part.rows)))
        return judgement.Orphans(part.rows, oldest, newest).when

    def _judge(self, target: Target, statements: Statements) -> Generator[Progress, None, list[_Judged]]:
        self._judges = True

        def make(transaction: Transaction) -> None:
            _make_candidates(transaction, statements)

        self._reader.once(make, writes=True)
        self._reader.keep_judged()
        judged = []
        after = NO_CANDIDATE
        slices = 0
        for leaf in target.leaves:
            rows = 0
            for share, found in self._reader.slices(
                statements,
                leaf,
                partial(judgement.judge, statements),
                judged=True,
                at_once=not target.parent_is_indexed,
            ):
                rows += found
                slices += 1
                self._stop_when_late()
                yield self._progress("judging", share)
            last, _ = self._reader.once(lambda transaction: transaction.one(LAST_CANDIDATE), judged=True)
            judged.append(_Judged(leaf, after, last, rows))
            after = last
        self._reader.once(lambda transaction: transaction.run(ANALYZE_CANDIDATES), writes=True, judged=True)
        self.result.access = f"judged in {slices:,} slice{'s' if slices != 1 else ''}, then by address"
        return judged

    def _take(
        self, part: _Judged, statements: Statements, writer: Writer, doubtful: list[tuple[Leaf, Scope]]
    ) -> Iterator[float]:
        """Clean the judged rows of one leaf, window by window; those not taken go to `doubtful`."""
        stride = self._row_stride(statements.target)
        after, done = part.after, 0
        while done < part.rows and not self._options.budget.spent:
            last, rows = self._step(statements.next_candidates(after, part.last, stride.size))
            window = Candidates(after, last, rows)
            before = self.result.affected
            working_s, waiting_s = self._write(part.leaf, window, writer)
            stride.took(rows, working_s)
            if self.result.affected - before < rows:
                doubtful.append((part.leaf, window))
            after, done = last, done + rows
            yield done / part.rows
            yield from self._rest(done / part.rows, working_s, waiting_s)

    def _row_stride(self, target: Target) -> Stride:
        target_s = self._options.pace.window_s
        first = _DEAR_ROWS_AT_FIRST
        if not (target.triggers or target.scanned_pages):
            first = max(first, round(target_s * _ROWS_AT_FIRST_PER_S))
        return Stride(target_s, first, _LEAST_ROW_S)

    def _take_orphans_one_slice_at_a_time(
        self, target: Target, statements: Statements, writer: Writer, doubtful: list[tuple[Leaf, Scope]]
    ) -> Generator[Progress, None, int]:
        """The same behind a pooler, where a temporary table would be left on somebody else's connection."""
        counted = yield from self._count_orphans(target, statements)
        orphans = counted.rows
        try:
            yield from self._check_fuse(target, statements, orphans)
        except RefusedError as refused:
            raise RefusedError(f"{refused} {counted.when}") from None
        self._tell(scans(orphans, target.scanned_pages, self.rule.table))
        self.result.access = "judged and taken slice by slice: a pooler stands before the server"
        ceiling = self.result.affected + orphans
        for leaf in target.leaves:
            pages = self._reader.pages(statements, leaf)
            stride = page_stride(self._options.pace)
            first = 0
            while first < pages and not self._options.budget.spent and self.result.affected < ceiling:
                blocks = Blocks(first, min(first + stride.size, pages))
                began = time.monotonic()
                pairs = self._pairs(statements, leaf, blocks)[: ceiling - self.result.affected]
                judging_s, working_s, waiting_s = time.monotonic() - began, 0.0, 0.0
                if pairs:
                    tids, references = zip(*pairs, strict=True)
                    before = self.result.affected
                    window = Rows(tids, references)
                    working_s, waiting_s = self._write(leaf, window, writer)
                    if self.result.affected - before < len(pairs):
                        doubtful.append((leaf, window))
                stride.took(blocks.end - first, judging_s + working_s)
                first = blocks.end
                yield self._progress("windows", first / pages)
                for share in self._rest(first / pages, judging_s + working_s, waiting_s):
                    yield self._progress("windows", share)
        return orphans

    def _count_orphans(self, target: Target, statements: Statements) -> Generator[Progress, None, judgement.Orphans]:
        orphans = judgement.Orphans()
        for leaf in target.leaves:
            for share, found in self._reader.slices(
                statements, leaf, partial(judgement.count, statements), at_once=not target.parent_is_indexed
            ):
                orphans += found
                yield self._progress("judging", share)
        return orphans

    def _pairs(self, statements: Statements, leaf: Leaf, blocks: Blocks) -> list[tuple[str, bytes]]:
        return self._reader.once(lambda transaction: judgement.judged(statements, transaction, leaf, blocks))

    def _check_fuse(self, target: Target, statements: Statements, orphans: int) -> Iterator[Progress]:
        """Count rows until there are enough of them, or all."""
        taken = self.result.affected
        share = self.rule.max_share if self._options.max_share is None else self._options.max_share
        fuse = Fuse(share)
        needed = fuse.rows_needed(orphans + taken)
        rows = taken
        for leaf in target.leaves:
            for done, (found,) in self._reader.slices(
                statements, leaf, lambda transaction, leaf, blocks: transaction.one(statements.count_rows(leaf, blocks))
            ):
                if rows >= needed:
                    break
                rows += found
                yield self._progress("counting", done)
        fuse.check(orphans + taken, rows, self.rule.table)

    # --- Common steps.

    def _tell(self, notes: Iterable[str]) -> None:
        self.result.notes += [note for note in notes if note not in self.result.notes]

    def _stop_when_late(self) -> None:
        """Before anything is written: what is not known yet when the time is up is not looked for."""
        if self._options.budget.late:
            raise _TimeIsUpError

    def _step(self, query: sql.Composed) -> Row:
        return self._reader.once(lambda transaction: transaction.one(query), judged=True)

    def _write(self, leaf: Leaf, window: Scope, writer: Writer) -> tuple[float, float]:
        """Write one window; returns the seconds that its statements worked, and those that it took besides."""
        began, writer.working_s = time.monotonic(), 0.0
        writer.write(leaf, window)
        return writer.working_s, time.monotonic() - began - writer.working_s

    def _rest(self, share: float, working_s: float, waiting_s: float) -> Iterator[float]:
        self._reader.rest(working_s, waiting_s)
        for reason in self._backoff.hold_back(working_s):
            self._held_back = reason
            yield share
        self._held_back = None

    def _count(self, statements: Statements, leaf: Leaf, scope: Scope) -> int:
        due, _ = self._reader.once(
            lambda transaction: transaction.one(statements.count_due(leaf, scope), scope.parameters),
            judged=isinstance(scope, Candidates),
        )
        return int(due)

    def _count_left(self, writer: Writer, statements: Statements) -> int:
        """How many due rows there are in windows that could not be completed."""
        leftovers = writer.leftovers
        return sum(self._count(statements, leaf, scope) for leaf, scope in leftovers.locked + leftovers.spoilt)

    def _conclude(self, target: Target, statements: Statements, writer: Writer) -> None:
        """Tell rows that stay because they can't be changed from rows that were only locked."""
        result = self.result
        if writer.leftovers.spoilt:
            raise FailedError(writer.why_spoilt)
        if not result.remaining or self._options.budget.spent:
            return
        if target.triggers and self._any_kept(target, statements):
            raise FailedError(
                f"{result.remaining:,} rows of {target.rule.table} stay although nothing holds them: a trigger keeps "
                f"them or brings them back ({', '.join(target.triggers)})."
            )
        result.notes.append(
            f"{result.remaining:,} rows of {target.rule.table} were locked or changed meanwhile and stay."
        )

    def _any_kept(self, target: Target, statements: Statements) -> bool:
        if self.rule.orphan_of:
            return self._brought_back or any(self._is_kept(statements, leaf, scope) for leaf, scope in self._not_taken)
        return self._stays_unlocked and any(
            self._is_kept(statements, leaf, Blocks(0, max(1, self._reader.pages(statements, leaf))))
            for leaf in target.leaves
        )

    def _is_kept(self, statements: Statements, leaf: Leaf, scope: Scope) -> bool:
        try:
            (kept,) = self._reader.once(
                lambda transaction: transaction.one(statements.is_kept(leaf, scope), scope.parameters),
                judged=isinstance(scope, Candidates),
                writes=True,
            )
        except CandidatesLostError:
            return False
        return bool(kept)

    def _progress(self, stage: str, share: float) -> Progress:
        stage = self._held_back or stage
        return Progress(self.rule.name, stage, self.result.affected, min(share, 1.0), time.monotonic() - self._began)

    def _ensure_connected(self) -> None:
        """Notice a connection that was lost since the last rule, before anything depends on it."""
        was_alive = self._session.alive
        self._reader.once(lambda _: None)
        if not was_alive:
            self._take_lock_again()

    def _take_lock(self) -> None:
        # Behind a pooler a session's lock would stay on somebody else's connection: exclusion is not promised there.
        if self._session.pooled:
            return
        if not self._reader.patiently(lambda: lock.hold(self._session, self.rule.name)):
            who = lock.holder(self._session, self.rule.name)
            raise lock.HeldError(f"Another sweep of {self.rule.name} is on: {who}.")

    def _take_lock_again(self) -> None:
        """After a reconnect: the server may take a while to notice that the old connection is gone."""
        for _ in range(_RELOCK_TRIES):
            if lock.hold_again(self._session):
                return
            if self._stop.wait(_RELOCK_PAUSE_S):
                break
        raise FailedError(f"The lock of {self.rule.name} was lost with the connection, and another session has it now.")

    def _clear_up(self) -> None:
        """Give back what lives in the session; a session that is gone has given it back already."""
        if not self._session.alive:
            self._session.held_locks.discard(self.rule.name)
            return
        try:
            if self._judges:
                with self._session.transaction(Limits(statement_s=10.0), writes=True) as transaction:
                    transaction.run(DROP_CANDIDATES)
            if self.rule.name in self._session.held_locks:
                lock.release(self._session, self.rule.name)
        except (psycopg.Error, LostConnectionError):
            self._session.held_locks.discard(self.rule.name)
            self._session.close()


def _make_candidates(transaction: Transaction, statements: Statements) -> None:
    try:
        transaction.run(DROP_CANDIDATES)
        transaction.run(statements.make_candidates())
    except errors.RaiseException as error:
        raise FailedError(
            "The temporary table of what is due can't be made; an event trigger (pg_event_trigger) may forbid it: "
            f"{explain(error)}."
        ) from None


def statements_for(target: Target, options: Options) -> Statements:
    """The rule's statements for this run."""
    age = target.rule.age
    return Statements(target, options.as_of, None if age is None else options.age or age.default)
