"""A second walk over the same table, at full speed: in a thread and on a connection of its own."""

import threading
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType

import psycopg
from psycopg import errors

from cleanup_pipeline.postgres import CleanupError, CommitInDoubtError, LostConnectionError, UnreachableError, explain
from cleanup_pipeline.rules import Close
from cleanup_pipeline.sweep import lock
from cleanup_pipeline.sweep.catalog import Leaf
from cleanup_pipeline.sweep.reader import UNTOLD, FailedError, InterruptedSweepError
from cleanup_pipeline.sweep.walk import Sections, write_windows
from cleanup_pipeline.sweep.work import Work

_LOOK_S = 0.2
_SHARED = ", on two connections"


def worth_sharing(work: Work, pages: int) -> bool:
    """Whether two walk over so many pages.

    Only where rows are changed, and each index gets a new entry for each: to delete, one is as fast. Not behind a
    pooler, where no lock can be held; not where only so many rows may go, which two would have to share; and not where
    triggers may have each wait for what the other has changed.
    """
    shared_from = work.options.pace.shared_from
    return (
        shared_from is not None
        and pages >= shared_from
        and work.can_be_shared
        and isinstance(work.target.rule.action, Close)
        and not (work.session.pooled or work.options.budget.rows is not None or work.target.triggers)
    )


def write_together(work: Work, leaf: Leaf, sections: Sections) -> Iterator[None]:
    """Clean `leaf` on two walks at once. What the second can't do, the first does."""
    with Worker(work, leaf, sections) as worker:
        for _ in write_windows(work, leaf, sections):
            worker.check()
            yield
        yield from worker.until_it_ends()
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
        self._lost: CleanupError | None = None

    def __enter__(self) -> "Worker":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, raised: BaseException | None, _: TracebackType | None) -> None:
        """Wait for the window under way, and take over what there is. Raises what the worker has failed with."""
        with self._beginning:
            self._stop.set()
        if self._has_begun:
            self._thread.join()
        self._main.held_back = None
        self._main.take_over(self._work)
        if self._has_walked:
            access = self._main.result.access or ""
            self._main.result.access = access.removesuffix(_SHARED) + _SHARED
        if self._lost is not None:
            self._main.can_be_shared = False
            self._main.tell([f"One connection went on alone. {self._lost}"])
        if isinstance(self._lost, CommitInDoubtError):
            self._settle(self._lost, raised)
        if kind is None:
            self.check()

    def check(self) -> None:
        """Raise what the worker has failed with."""
        if self._failed is not None:
            raise self._failed

    def until_it_ends(self) -> Iterator[None]:
        """Wait for it, if it walks at all, and come back now and then."""
        while self._has_begun and self._thread.is_alive():
            self._thread.join(_LOOK_S)
            self._main.held_back = self._work.held_back
            yield
            # Idle for long, our session would be ended, and the lock lost with it.
            with suppress(errors.QueryCanceled):
                self._main.reader.once(lambda _: None)
            self._main.reader.check_stop()
            self.check()

    def _settle(self, lost: CommitInDoubtError, raised: BaseException | None) -> None:
        """Count the window that was in doubt. Raises what tells that it is not counted."""
        try:
            self._main.writer.settle(self._work.writer, lost)
        except CleanupError:
            if isinstance(raised, InterruptedSweepError | FailedError):
                raise type(raised)(f"{raised} {UNTOLD}") from None
            raise

    # In the thread.

    def _run(self) -> None:
        try:
            with self._work.session:
                self._check_lock()
                with self._beginning:
                    self._has_begun = not self._stop.is_set()
                if not self._has_begun:
                    return
                for _ in write_windows(self._work, self._leaf, self._sections):
                    self._has_walked = True
                    self._check_lock()
        except InterruptedSweepError:
            pass  # by the first, which tells why
        except (LostConnectionError, UnreachableError) as lost:
            self._lost = lost
        except psycopg.Error as error:
            self._lost = LostConnectionError(f"It was given up: {explain(error)}.")
        except Exception as error:
            self._failed = error

    def _check_lock(self) -> None:
        if not lock.is_held(self._work.session, self._main.result.rule, by=self._main.session.backend_pid):
            raise LostConnectionError("It does not see the sweep's lock: it was lost, or another server answers there.")
