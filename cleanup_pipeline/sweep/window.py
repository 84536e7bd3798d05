"""Carrying out one window: one short writing transaction, and what to do when it does not succeed.

A writing transaction gives up well before the app's deadlock detector (`lock_timeout`, and `statement_timeout`, since a
statement may wait for more than one lock). A window that was held up is done again without the rows that somebody has
locked; those are tried once more at the end. A window that a single row spoils is narrowed down to that row, which
stays.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import psycopg
from psycopg import errors, sql

from cleanup_pipeline.postgres import (
    CleanupError,
    CommitInDoubtError,
    Limits,
    LostConnectionError,
    Session,
    Transaction,
    explain,
    names_constraint,
)
from cleanup_pipeline.sweep.catalog import Leaf
from cleanup_pipeline.sweep.moment import earliest, is_before
from cleanup_pipeline.sweep.reader import UNTOLD, FailedError, Reader
from cleanup_pipeline.sweep.result import Result
from cleanup_pipeline.sweep.statements import Blocks, Candidates, Rows, Scope, Statements

# At most this part of the server's deadlock_timeout, and never longer than this, may a writing statement take.
_SHARE_OF_DEADLOCK_TIMEOUT = 0.8
_LONGEST_STATEMENT_S = 0.8
_LONGEST_LOCK_WAIT_S = 0.1
# So many rows that can't be changed are no exceptions any more.
MOST_SPOILT_ROWS = 1_000
_HELD_UP = (errors.LockNotAvailable, errors.QueryCanceled, errors.DeadlockDetected, errors.SerializationFailure)
# A row is the cause: integrity, data, triggered action, external routine, check option, PL/pgSQL. A trigger may raise
# whatever it likes, but for what befalls the server or the connection.
_OF_ROWS = ("21", "22", "23", "27", "38", "39", "44", "P0")
_OF_THE_SERVER = ("08", "0A", "25", "53", "57", "58", "F0", "XX")
_LOOK_FOR_WAITERS_EVERY_S = 0.1
_NOTHING_WAITS = sql.SQL("set constraints all immediate")
# Two may count in one result.
_TALLY = threading.Lock()


@dataclass(slots=True)
class Budget:
    """What a run may take, over all of its rules: rows, and time (on the monotonic clock); None: no limit."""

    rows: int | None = None
    deadline: float | None = None

    @property
    def late(self) -> bool:
        """Whether the time is up."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    @property
    def spent(self) -> bool:
        """Whether nothing more may be done."""
        return self.rows == 0 or self.late


@dataclass(slots=True)
class Leftovers:
    """The windows of one pass that were not completed, and why: somebody's locks, or rows that can't be changed."""

    locked: list[tuple[Leaf, Scope]] = field(default_factory=list)
    spoilt: list[tuple[Leaf, Scope]] = field(default_factory=list)

    def note_locked(self, leaf: Leaf, scope: Scope) -> None:
        """Note that somebody has locked rows in `scope`. All of it is tried once more, without a limit."""
        if not self.is_locked(leaf, scope):
            self.locked.append((leaf, replace(scope, most=None) if isinstance(scope, Blocks) else scope))

    def is_locked(self, leaf: Leaf, scope: Scope) -> bool:
        """Whether `scope` lies in what was noted last: a walk by few rows meets the same locked ones each time."""
        if not self.locked:
            return False
        noted_leaf, noted = self.locked[-1]
        if isinstance(scope, Blocks) and isinstance(noted, Blocks):
            return noted_leaf == leaf and noted.first <= scope.first and scope.end <= noted.end
        return (noted_leaf, noted) == (leaf, scope)

    def note_spoilt(self, leaf: Leaf, row: Scope) -> None:
        """Note a row that can't be changed, once however often it was met."""
        if (leaf, row) not in self.spoilt:
            self.spoilt.append((leaf, row))


class Writer:
    """Writes windows of one rule, and keeps the tally in `result`."""

    def __init__(
        self, session: Session, reader: Reader, statements: Statements, result: Result, budget: Budget
    ) -> None:
        self._session = session
        self._reader = reader
        self._statements = statements
        self._result = result
        self._budget = budget
        self.leftovers = Leftovers()
        self.why_spoilt = ""
        # How long statements took, without the commits: these wait for the disk, and smaller windows would not help.
        self.working_s = 0.0
        self.asked = 0
        self.held_up_others = False
        self._in_doubt: tuple[int, float, str | None] = (0, 0.0, None)
        self._next_look = 0.0
        self._surprises: dict[int, bytes] = {}
        # A walk learns from the rows that it cleans how old they were, until one was overdue: their age costs a little.
        self.asks_age = False

    @property
    def limits(self) -> Limits:
        """How long a writing statement may take, and wait for a lock."""
        statement_s = min(_LONGEST_STATEMENT_S, _SHARE_OF_DEADLOCK_TIMEOUT * self._session.deadlock_timeout_s)
        if self._statements.target.defers:
            statement_s /= 2  # for two statements: the second does what would wait for the commit
        return Limits(statement_s, min(_LONGEST_LOCK_WAIT_S, statement_s / 2))

    def write(self, leaf: Leaf, scope: Scope) -> int:
        """Clean one window; returns the rows changed, all of them committed.

        What could not be changed is noted in `leftovers`. Raises `InterruptedSweepError`, `FailedError`,
        `CandidatesLostError`.
        """
        self._reader.check_stop()
        if self._budget.spent:
            return 0
        if self.leftovers.is_locked(leaf, scope):
            return self._write_what_is_free(leaf, scope)
        try:
            return self._transact(leaf, scope, skip_locked=False)
        except _HELD_UP:
            return self._write_what_is_free(leaf, scope)
        except psycopg.Error as error:
            return self._narrow(leaf, scope, error)

    def retry_locked(self) -> None:
        """Try once more what was locked; what still is stays in `leftovers`."""
        locked, self.leftovers.locked = self.leftovers.locked, []
        for leaf, scope in locked:
            self.write(leaf, scope)

    def take_over(self, other: "Writer") -> None:
        """Keep in mind what another has left undone."""
        self.leftovers.locked += other.leftovers.locked
        for leaf, row in other.leftovers.spoilt:
            self.leftovers.note_spoilt(leaf, row)
        self.why_spoilt = self.why_spoilt or other.why_spoilt

    def settle(self, other: "Writer", lost: CommitInDoubtError) -> None:
        """Count the window that another has lost during its commit, if it was committed.

        Raises `FailedError` or `InterruptedSweepError` where that can't be told.
        """
        if self._reader.was_committed(lost):
            self._count(*other._in_doubt)

    def _write_what_is_free(self, leaf: Leaf, scope: Scope) -> int:
        try:
            affected = self._transact(leaf, scope, skip_locked=True)
        except errors.QueryCanceled as error:
            # Not locks, then: the window is too much work for one statement.
            self._reader.check_stop()
            return self._narrow(leaf, scope, error)
        except _HELD_UP as error:
            if self._is_raised_by_a_trigger(error):
                return self._narrow(leaf, scope, error)
            affected = 0
        except psycopg.Error as error:
            return self._narrow(leaf, scope, error)
        self.leftovers.note_locked(leaf, scope)
        return affected

    def _narrow(self, leaf: Leaf, scope: Scope, error: psycopg.Error) -> int:
        """Halve the window until the row that spoils it stands alone, and leave that one."""
        if not self._is_of_rows(error):
            self._reader.once(lambda transaction: self._require_no_surprise(transaction, leaf))
            raise FailedError(f"The server refused to clean {leaf.table}: {explain(error)}.") from None
        if _is_one_row(scope):
            self._leave(leaf, scope, error)
            return 0
        return sum(self.write(leaf, part) for part in self._parts(leaf, scope))

    def _is_of_rows(self, error: psycopg.Error) -> bool:
        kind = (error.sqlstate or "")[:2]
        if isinstance(error, _HELD_UP) or kind in _OF_ROWS:
            return True
        may_be_a_triggers = kind not in _OF_THE_SERVER or self._is_raised_by_a_trigger(error)
        return bool(self._statements.target.triggers) and may_be_a_triggers

    def _is_raised_by_a_trigger(self, error: psycopg.Error) -> bool:
        """Whether it only has a code as if something had been waited for; a row is the cause then, and no lock."""
        return bool(self._statements.target.triggers) and error.diag.source_function == "exec_stmt_raise"

    def _parts(self, leaf: Leaf, scope: Scope) -> Sequence[Scope]:
        if isinstance(scope, Candidates):
            return self._candidate_halves(scope)
        if halves := scope.halves():
            return halves
        # One block: from here on by the rows' addresses.
        found = self._reader.once(lambda transaction: transaction.rows(self._statements.due_addresses(leaf, scope)))
        return [Rows(tuple(tid for (tid,) in found))] if found else []

    def _candidate_halves(self, scope: Candidates) -> list[Candidates]:
        half = self._statements.next_candidates(scope.after, scope.last, scope.rows // 2)
        middle, rows = self._reader.once(lambda transaction: transaction.one(half), judged=True)
        return [Candidates(scope.after, middle, rows), Candidates(middle, scope.last, scope.rows - rows)]

    def _leave(self, leaf: Leaf, row: Scope, error: psycopg.Error) -> None:
        if isinstance(error, errors.QueryCanceled):
            cause = f"changing it takes longer than {self.limits.statement_s:.1f} s (statement_timeout)"
        else:
            cause = explain(error)
        triggers = ", ".join(self._statements.target.triggers)
        if triggers and error.sqlstate and not names_constraint(error):
            cause += f"; triggers on the table: {triggers}"
        self.why_spoilt = f"A row of {leaf.table} can't be changed: {cause}."
        self.leftovers.note_spoilt(leaf, row)
        if len(self.leftovers.spoilt) >= MOST_SPOILT_ROWS:
            raise FailedError(f"{self.why_spoilt} That is so for {MOST_SPOILT_ROWS:,} rows by now; gave up.") from None

    def _transact(self, leaf: Leaf, scope: Scope, *, skip_locked: bool) -> int:
        limit = self._limit(scope)
        if limit is None and not skip_locked:
            statement = self._statements.write(leaf, scope)
        else:
            statement = self._statements.write_picked(leaf, scope, limit=limit, skip_locked=skip_locked)
        while True:
            if isinstance(scope, Candidates):
                self._reader.check_judged()
            began = time.monotonic()
            affected, oldest, self.held_up_others = 0, None, False
            try:
                with self._session.transaction(self.limits, writes=True) as transaction:
                    started = time.monotonic()
                    if self._wants_age:
                        affected, oldest = transaction.change_and_tell(
                            self._statements.telling_age(statement), scope.parameters
                        )
                    else:
                        affected = transaction.change(statement, scope.parameters)
                    self._before_commit(transaction, leaf, affected)
                    self.working_s += time.monotonic() - started
                    self.asked += transaction.asked
            except LostConnectionError as lost:
                self._in_doubt = affected, time.monotonic() - began, oldest
                self._reconnect(lost)
                if not isinstance(lost, CommitInDoubtError) or not self._reader.was_committed(lost):
                    continue
            self._count(affected, time.monotonic() - began, oldest)
            return affected

    def _limit(self, scope: Scope) -> int | None:
        most = scope.most if isinstance(scope, Blocks) else None
        return min((limit for limit in (self._budget.rows, most) if limit is not None), default=None)

    @property
    def _wants_age(self) -> bool:
        oldest = self._result.oldest
        return self.asks_age and not (oldest and is_before(oldest, self._statements.overdue_before))

    def _before_commit(self, transaction: Transaction, leaf: Leaf, affected: int) -> None:
        if affected:
            if self._statements.target.defers:
                # No timeout holds during a commit.
                transaction.run(_NOTHING_WAITS)
            self.held_up_others = self._holds_up_others(transaction, leaf)
        # Of no rows too: a rule or a trigger may have done something else instead.
        self._require_no_surprise(transaction, leaf)

    def _require_no_surprise(self, transaction: Transaction, leaf: Leaf) -> None:
        """See that nothing has come which preflight has not seen. Raises `FailedError`; the window is rolled back."""
        keys, rules, triggers, is_the_same = transaction.one(self._surprise(leaf), prepared=True)
        came = [
            f"{what} ({names})"
            for what, names in (
                (f"a foreign key with an action was pointed at {leaf.table}", keys),
                (f"a rewrite rule was put on {leaf.table}", rules),
                (f"a trigger was put on {leaf.table} or changed", triggers),
            )
            if names
        ]
        if not is_the_same:
            reference = self._statements.rule.orphan_of
            parent = f", or {reference.parent} by another," if reference else ""
            came.append(f"{leaf.table} was replaced by another table{parent} or detached from its own")
        if came:
            raise FailedError(
                f"During the sweep {'; '.join(came)}. The window was rolled back; run cleanup-pipeline doctor, "
                "then run again."
            )

    def _surprise(self, leaf: Leaf) -> bytes:
        """The query, composed once: locks are held when it is asked."""
        if leaf.oid not in self._surprises:
            self._surprises[leaf.oid] = self._statements.surprise(leaf).as_bytes()
        return self._surprises[leaf.oid]

    def _holds_up_others(self, transaction: Transaction, leaf: Leaf) -> bool:
        """Look now and then: it takes a moment of every lock that there is."""
        if time.monotonic() < self._next_look:
            return False
        (held_up,) = transaction.one(self._statements.held_up(leaf), prepared=True)
        self._next_look = time.monotonic() + _LOOK_FOR_WAITERS_EVERY_S
        return bool(held_up)

    def _reconnect(self, lost: LostConnectionError) -> None:
        try:
            self._reader.reconnect(lost)
        except CleanupError as error:
            if isinstance(lost, CommitInDoubtError) and error is not lost:
                raise type(error)(f"{error} {UNTOLD}") from None
            raise

    def _count(self, affected: int, seconds: float, oldest: str | None) -> None:
        result = self._result
        with _TALLY:
            result.affected += affected
            result.batches += 1
            result.longest_batch_ms = max(result.longest_batch_ms or 0.0, seconds * 1000)
            result.oldest = earliest(result.oldest, oldest)
        if self._budget.rows is not None:
            self._budget.rows -= affected


def _is_one_row(scope: Scope) -> bool:
    match scope:
        case Candidates(rows=rows):
            return rows == 1
        case Rows(tids):
            return len(tids) == 1
        case _:
            return False
