"""Reading in short snapshots, over lost connections.

A snapshot that is held for long stops vacuum everywhere, and a long read is felt by the app: so a large read goes in
slices of heap blocks, each in a transaction of its own, with a rest behind it.
"""

import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import psycopg
from psycopg import errors

from cleanup_pipeline.postgres import (
    IDLE_IN_TRANSACTION_TIMEOUT_S,
    CleanupError,
    CommitInDoubtError,
    Limits,
    LostConnectionError,
    Session,
    Transaction,
)
from cleanup_pipeline.sweep.catalog import Catalog, Leaf
from cleanup_pipeline.sweep.pace import Pace, Stride
from cleanup_pipeline.sweep.statements import WITH_HELP, Blocks, Everything, Part, Statements

# Reconnecting so often within one sweep, something else is wrong.
MOST_RECONNECTS = 10
_LONGEST_REST_S = 1.0
_BEGIN_AND_COMMIT = 2
_PATIENCE_S = 10.0
_LOCKED_PAUSE_S = 0.2
_SHORT = Limits(statement_s=10.0)
# The server ends a transaction of which the client is gone.
_SETTLES_WITHIN_S = IDLE_IN_TRANSACTION_TIMEOUT_S + 1.0
_SETTLING_PAUSE_S = 0.1
UNTOLD = "Whether the window under way was committed can't be told; it is not counted."
PAGES_AT_FIRST = 16
# What reading a page costs at the least; an empty stretch must not lead into a slice that is far too long.
LEAST_PAGE_S = 5e-6

T = TypeVar("T")


class InterruptedSweepError(CleanupError):
    """The sweep was asked to stop; what was committed stays."""


class FailedError(CleanupError):
    """The sweep can't go on, or could not do everything."""


class LockedError(FailedError):
    """A table stayed locked for too long; nothing was learnt of it."""


class CandidatesLostError(Exception):
    """What was judged is gone with the connection that it lived in."""


class Reader:
    """Reads at a pace, and brings the session back after a loss.

    `relock` is called after each reconnect, to take again what the old connection held; then `after_reconnect`, before
    anything else is done.
    """

    def __init__(
        self,
        session: Session,
        pace: Pace,
        stop: threading.Event,
        relock: Callable[[], None] = lambda: None,
        *,
        reconnects: bool = True,
    ) -> None:
        self._session = session
        self._pace = pace
        self._stop = stop
        self._relock = relock
        self._may_reconnect = reconnects
        self.after_reconnect: Callable[[], None] = lambda: None
        self._reconnects = 0
        self._judged_in = 0

    def beside(self, session: Session, stop: threading.Event) -> "Reader":
        """Another one for a thread beside, at the same pace, which does not bring its session back."""
        return Reader(session, self._pace, stop, reconnects=False)

    @property
    def far_s(self) -> float:
        """How long a statement is on its way, where the server is far."""
        return self._session.far_s

    def once(
        self, work: Callable[[Transaction], T], limits: Limits = _SHORT, *, judged: bool = False, writes: bool = False
    ) -> T:
        """Do `work` in a transaction that leaves the app's tables as they are, again after a lost connection.

        With `judged` it needs what was judged in this connection: then `CandidatesLostError` is raised instead. With
        `writes` it makes or fills a temporary table.
        """

        def transact() -> T:
            if judged:
                self.check_judged()
            with self._session.transaction(limits, writes=writes, rows=True) as transaction:
                return work(transaction)

        return self.patiently(transact)

    def patiently(self, work: Callable[[], T]) -> T:
        """Do what only reads again after a lost connection, and, for ten seconds, where a table is locked."""
        patient_until = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return work()
            except LostConnectionError as lost:
                self.reconnect(lost)
            except errors.LockNotAvailable:
                self.check_stop()
                if time.monotonic() > patient_until:
                    raise LockedError(
                        f"A table is locked by another session, and stayed so for {_PATIENCE_S:.0f} s (lock_timeout)"
                        f"{self._which_are_locked()}. See pg_locks; a migration may be on."
                    ) from None
                self._stop.wait(_LOCKED_PAUSE_S)

    def _which_are_locked(self) -> str:
        """The tables that somebody has locked against reading, or against row locks, now."""
        try:
            with self._session.transaction(_SHORT) as transaction:
                names = Catalog(transaction).locked_tables()
        except (psycopg.Error, LostConnectionError):
            return ""
        return f"; locked now: {', '.join(names)}" if names else ""

    def keep_judged(self) -> None:
        """Remember that what is judged lives in the connection that there is now."""
        self._judged_in = self._session.generation

    def check_judged(self) -> None:
        """Raise `CandidatesLostError` where that connection is gone."""
        if self._session.generation != self._judged_in:
            raise CandidatesLostError

    def pages(self, statements: Statements, leaf: Leaf) -> int:
        """How many blocks `leaf` has now. Raises `FailedError` where it was dropped meanwhile."""
        return self.once(lambda transaction: pages_of(leaf, statements, transaction))

    def slices(
        self,
        statements: Statements,
        leaf: Leaf,
        work: Callable[[Transaction, Leaf, Part], T],
        *,
        judged: bool = False,
        at_once: bool = False,
    ) -> Iterator[tuple[float, T]]:
        """Do `work` for one slice of `leaf` after the other; yields the share done and the outcome.

        `at_once` begins with the whole table: where a slice costs as much as all of them.
        """
        pages = self.pages(statements, leaf)
        spares_nobody = self._pace.slice_s >= self._pace.snapshot_s
        at_once = at_once or spares_nobody

        def on(transaction: Transaction, leaf: Leaf, blocks: Blocks) -> T:
            if not (spares_nobody and blocks == Blocks(0, pages)):
                return work(transaction, leaf, blocks)
            transaction.run(WITH_HELP)
            return work(transaction, leaf, Everything())

        stride = Stride(
            self._pace.snapshot_s if at_once else self._pace.slice_s,
            first=max(pages, 1) if at_once else PAGES_AT_FIRST,
            floor_s=LEAST_PAGE_S,
            far_s=self.far_s,
        )
        for blocks, outcome in self.read(leaf, Blocks(0, pages), on, stride, judged=judged):
            yield blocks.end / pages, outcome

    def read(
        self,
        leaf: Leaf,
        blocks: Blocks,
        work: Callable[[Transaction, Leaf, Blocks], T],
        stride: Stride,
        *,
        judged: bool = False,
    ) -> Iterator[tuple[Blocks, T]]:
        """Do `work` for one part of `blocks` after the other, each a step of `stride`, with rests between them."""
        first = blocks.first
        while first < blocks.end:
            self.check_stop()
            part = Blocks(first, min(first + stride.size, blocks.end))
            began = time.monotonic()
            read = self._slice(leaf, part, work, judged=judged)
            if read is None:
                stride.halve()
                self.rest(self._pace.snapshot_s)
                continue
            outcome, working_s, asked = read
            stride.took(part.end - part.first, working_s)
            first = part.end
            # Before it is told: who has learnt enough reads no further.
            self.rest(working_s, time.monotonic() - began - working_s, asked)
            yield part, outcome

    def _slice(
        self, leaf: Leaf, blocks: Blocks, work: Callable[[Transaction, Leaf, Blocks], T], *, judged: bool
    ) -> tuple[T, float, int] | None:
        """What `work` found, in how many seconds and statements; None where a snapshot may not be held for so long."""

        def timed(transaction: Transaction) -> tuple[T, float, int]:
            began = time.monotonic()
            return work(transaction, leaf, blocks), time.monotonic() - began, transaction.asked

        try:
            return self.once(timed, Limits(statement_s=self._pace.snapshot_s), judged=judged)
        except errors.QueryCanceled:
            self.check_stop()
            if blocks.end - blocks.first > 1:
                return None
            raise FailedError(
                f"Reading one page of {leaf.table} took longer than {self._pace.snapshot_s:.0f} s (statement_timeout)."
            ) from None

    def rest(self, working_s: float, waiting_s: float = 0.0, asked: int = 0) -> None:
        """Rest after a transaction that worked so long in `asked` statements, and waited for the disk besides.

        A far server rests while a statement is on its way. Raises `InterruptedSweepError`.
        """
        if self._pace.rest:
            working_s = max(0.0, working_s - asked * self._session.far_s)
            waiting_s = max(0.0, waiting_s - _BEGIN_AND_COMMIT * self._session.far_s)
            self.pause(self._pace.rest * working_s + waiting_s)
        self.check_stop()

    def pause(self, seconds: float) -> None:
        """Do nothing for so long, a second at most. Raises `InterruptedSweepError`."""
        self._stop.wait(min(seconds, _LONGEST_REST_S))
        self.check_stop()

    def check_stop(self) -> None:
        """Raise `InterruptedSweepError` where the sweep was asked to stop."""
        if self._stop.is_set():
            raise InterruptedSweepError("It was interrupted; what was committed stays.")

    def reconnect(self, lost: LostConnectionError) -> None:
        """Come back after a lost connection.

        Raises `FailedError` where that does not succeed within its limits, `InterruptedSweepError` on a stop, and
        `lost` itself where it is not to be tried.
        """
        if not self._may_reconnect:
            raise lost
        while True:
            self.check_stop()
            self._reconnects += 1
            if self._reconnects > MOST_RECONNECTS:
                raise FailedError(f"{lost} That was the {self._reconnects}th time in this sweep; gave up.") from None
            if not self._session.reconnect(self._stop):
                self.check_stop()
                raise FailedError(f"{lost} It did not come back within a minute.") from None
            try:
                self._relock()
                self.after_reconnect()
            except LostConnectionError as again:
                lost = again
            else:
                return

    def was_committed(self, lost: CommitInDoubtError) -> bool:
        """Whether the transaction that was lost during its commit was committed.

        Raises `FailedError` where that can't be told, or `InterruptedSweepError` where the connection is away as well.
        """
        patient_until = time.monotonic() + _SETTLES_WITHIN_S
        try:
            while (committed := self.patiently(lambda: self._session.settled(lost.xid))) is None:
                if time.monotonic() > patient_until:
                    raise FailedError(str(lost))
                time.sleep(_SETTLING_PAUSE_S)
        except CleanupError as error:
            raise type(error)(f"{error} {UNTOLD}") from None
        return committed


def pages_of(leaf: Leaf, statements: Statements, transaction: Transaction) -> int:
    """How many blocks `leaf` has now. Raises `FailedError` where it was dropped meanwhile."""
    (pages,) = transaction.one(statements.pages(leaf))
    if pages is None:
        raise FailedError(f"{leaf.table} was dropped meanwhile. Run cleanup-pipeline doctor.")
    return int(pages)
