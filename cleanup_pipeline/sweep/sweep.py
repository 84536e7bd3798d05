"""Carrying out one rule: many short transactions, each cleaning one window of the table.

Preflight looks whether the rule may run at all. An orphan rule then judges; the fuse counts what was judged. The
windows follow, each at its pace. A look at what remains ends the pass, and where rows have moved behind the walk,
another pass takes them. Nothing here knows Dagster.
"""

import threading
import time
from collections.abc import Iterator

import psycopg

from cleanup_pipeline.postgres import CleanupError, Limits, LostConnectionError, Session, explain
from cleanup_pipeline.rules import Rule
from cleanup_pipeline.sweep import lock, preflight
from cleanup_pipeline.sweep.due import DueRows
from cleanup_pipeline.sweep.finding import RefusedError, Severity
from cleanup_pipeline.sweep.orphans import OrphanedRows
from cleanup_pipeline.sweep.reader import FailedError, InterruptedSweepError, Reader
from cleanup_pipeline.sweep.result import Progress, Result, Status
from cleanup_pipeline.sweep.statements import DROP_CANDIDATES
from cleanup_pipeline.sweep.work import Options, TimeIsUpError, Work

_RELOCK_TRIES = 20
_RELOCK_PAUSE_S = 0.5


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
        self._work: Work | None = None

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
        except TimeIsUpError:
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
        self._work = work = Work(self._session, self._reader, self._options, target, result, self._began)
        work.stop_when_late()
        self._take_lock()
        rows = OrphanedRows(work) if self.rule.orphan_of else DueRows(work)
        yield from rows.clean()
        work.tell_what_held_it_back()
        self._conclude(work, rows)

    def _conclude(self, work: Work, rows: DueRows | OrphanedRows) -> None:
        """Tell rows that stay because they can't be changed from rows that were only locked."""
        result, target = self.result, work.target
        if work.writer.leftovers.spoilt:
            raise FailedError(work.writer.why_spoilt)
        if not result.remaining or self._options.budget.spent:
            return
        if target.triggers and rows.any_kept():
            raise FailedError(
                f"{result.remaining:,} rows of {target.rule.table} stay although nothing holds them: a trigger keeps "
                f"them or brings them back ({', '.join(target.triggers)})."
            )
        result.notes.append(
            f"{result.remaining:,} rows of {target.rule.table} were locked or changed meanwhile and stay."
        )

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
            if self._work and self._work.gathers:
                with self._session.transaction(Limits(statement_s=10.0), writes=True) as transaction:
                    transaction.run(DROP_CANDIDATES)
            if self.rule.name in self._session.held_locks:
                lock.release(self._session, self.rule.name)
        except (psycopg.Error, LostConnectionError):
            self._session.held_locks.discard(self.rule.name)
            self._session.close()
