"""A second walk over the same table, at full speed: in a thread and on a connection of its own."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from types import TracebackType

import psycopg
from psycopg import errors, sql

from cleanup_pipeline.postgres import CleanupError, CommitInDoubtError, LostConnectionError, UnreachableError, explain
from cleanup_pipeline.rules import Close
from cleanup_pipeline.sweep import lock
from cleanup_pipeline.sweep.catalog import Leaf
from cleanup_pipeline.sweep.reader import UNTOLD, FailedError, InterruptedSweepError
from cleanup_pipeline.sweep.walk import Sections, write_windows
from cleanup_pipeline.sweep.work import Work

_LOOK_S = 0.2
# How long a second is borne with of which nothing is heard: its statements take 0.8 s at the most.
_PATIENCE_S = 2.0
_SHARED = ", on two connections"


def worth_sharing(work: Work, pages: int) -> bool:
    """Whether two walk over so many pages.

    Only where rows are changed, and each index gets a new entry for each: to delete, one is as fast. Not behind a
    pooler, where no lock can be held; not where only so many rows may go, which two would have to share; and not where
    triggers may have each wait for what the other has changed. Never beside one that still hangs in connecting.
    """
    shared_from = work.options.pace.shared_from
    return (
        shared_from is not None
        and pages >= shared_from
        and work.can_be_shared
        and not (work.second_walk and work.second_walk.is_alive())
        and isinstance(work.target.rule.action, Close)
        and not (work.session.pooled or work.options.budget.rows is not None or work.target.triggers)
    )


def write_together(work: Work, leaf: Leaf, sections: Sections) -> Iterator[None]:
    """Clean `leaf` on two walks at once. What the second leaves, the first does; what it fails with is raised."""
    with Worker(work, leaf, sections) as worker:
        for _ in write_windows(work, leaf, sections):
            worker.check()
            yield
        yield from worker.until_it_ends()
    yield  # the second may have ended after the first's last step
    yield from write_windows(work, leaf, sections)


class Worker:
    """Walks over `sections` beside `work`. To be used as a context, in which that one walks over them as well.

    It writes only while the sweep's own session holds the lock, as seen from the very server that the worker is
    connected to. It never comes back from a lost connection: what it has not done is given back.
    """

    def __init__(self, work: Work, leaf: Leaf, sections: Sections) -> None:
        self._main = work
        self._leaf = leaf
        self._sections = sections
        self._stop = threading.Event()
        self._work = work.beside(self._stop)
        # One that hangs in connecting is left alone: it is not to be waited for at the interpreter's end either.
        self._thread = threading.Thread(target=self._run, name=f"{work.result.rule}, second walk", daemon=True)
        self._beginning = threading.Lock()
        self._has_begun = False
        self._has_walked = False
        self._failed: Exception | None = None
        self._given_up = ""
        self._doubt: CommitInDoubtError | None = None

    def __enter__(self) -> "Worker":
        self._main.second_walk = self._thread
        # A server that has crashed gives the id of a transaction that was lost to our next one: to be asked before.
        self._main.reader.after_reconnect = self._end
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, raised: BaseException | None, _: TracebackType | None) -> None:
        """End it, and take over what there is. Raises what the worker has failed with."""
        try:
            self._end()
        except CleanupError:
            if not isinstance(raised, InterruptedSweepError | FailedError):
                raise
            raise type(raised)(f"{str(raised).removesuffix(UNTOLD).rstrip()} {UNTOLD}") from None
        finally:
            self._main.reader.after_reconnect = lambda: None
            self._main.held_back = None
            self._main.take_over(self._work)
            self._tell()
        if kind is None:
            self.check()

    def check(self) -> None:
        """Raise what the worker has failed with."""
        if self._failed is not None:
            raise self._failed

    def until_it_ends(self) -> Iterator[None]:
        """Wait for it, if it walks at all, and come back now and then."""
        heard, heard_at = (0, 0.0), time.monotonic()
        while self._has_begun and self._thread.is_alive():
            self._thread.join(_LOOK_S)
            self._main.held_back = self._work.held_back or "waiting for the second connection"
            yield
            # Idle for long, our session would be ended, and the lock lost with it.
            with suppress(errors.QueryCanceled):
                self._main.reader.once(lambda _: None)
            self._main.reader.check_stop()
            self.check()
            by_now = self._main.result.batches, self._sections.share
            if by_now != heard or self._work.held_back:
                heard, heard_at = by_now, time.monotonic()
            elif time.monotonic() > heard_at + _PATIENCE_S:
                self._end(patience_s=0.0)

    def _end(self, patience_s: float = _PATIENCE_S) -> None:
        """End it with the window under way, or by force where that takes longer; settle what it leaves in doubt."""
        with self._beginning:
            self._stop.set()
        if not self._has_begun:
            self._work.session.abandon()
            return
        self._thread.join(patience_s)
        is_silent = self._thread.is_alive()
        if is_silent:
            self._work.session.abandon()
            self._thread.join()
        doubt, self._doubt = self._doubt, None
        if is_silent or doubt:
            self._end_transaction()
        if doubt:
            self._main.writer.settle(self._work.writer, doubt)

    def _end_transaction(self) -> None:
        """Have the server end what it may not know yet to be without a client."""
        query = sql.SQL(
            "select pg_catalog.pg_terminate_backend(pid) from pg_catalog.pg_stat_activity"
            " where pid = {} and application_name = {} and usename = current_user and datname = current_database()"
        ).format(sql.Literal(self._work.session.backend_pid), sql.Literal(self._work.session.application_name))
        with suppress(CleanupError, psycopg.Error):
            self._main.reader.once(lambda transaction: transaction.rows(query))

    def _tell(self) -> None:
        if self._has_walked:
            access = self._main.result.access or ""
            self._main.result.access = access.removesuffix(_SHARED) + _SHARED
        if self._given_up:
            self._main.can_be_shared = False
            self._main.tell([f"The second connection was given up, and the first went on alone. {self._given_up}"])

    # In the thread.

    def _run(self) -> None:
        try:
            with self._work.session:
                self._walk()
        except InterruptedSweepError:
            pass  # by the first, which tells why
        except CommitInDoubtError as lost:
            self._given_up, self._doubt = str(lost), lost
        except (LostConnectionError, UnreachableError) as lost:
            self._given_up = str(lost)
        except psycopg.Error as error:
            self._given_up = f"The server ended its statement: {explain(error)}."
        except Exception as error:
            self._failed = error

    def _walk(self) -> None:
        if not self._sees_the_lock():
            return
        with self._beginning:
            self._has_begun = not self._stop.is_set()
        if not self._has_begun:
            return
        with closing(write_windows(self._work, self._leaf, self._sections)) as steps:
            for _ in steps:
                self._has_walked = True
                if not self._sees_the_lock():
                    return

    def _sees_the_lock(self) -> bool:
        if lock.is_held(self._work.session, self._main.result.rule, by=self._main.session.backend_pid):
            return True
        self._given_up = (
            "From there the sweep's lock was not to be seen: the first was lost, or another server answers."
        )
        return False
