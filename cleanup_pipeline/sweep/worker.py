"""A second walk over the same table, at full speed: in a thread and on a connection of its own."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from types import TracebackType

from cleanup_pipeline.postgres import CleanupError, UnreachableError
from cleanup_pipeline.rules import Close
from cleanup_pipeline.sweep import lock
from cleanup_pipeline.sweep.catalog import Leaf
from cleanup_pipeline.sweep.moment import earliest
from cleanup_pipeline.sweep.walk import Sections, write_windows
from cleanup_pipeline.sweep.work import Work

# How long the sweep's lock is waited for where its session is there, and how often it is looked for.
_PATIENCE_S = 10.0
_LOOK_S = 0.2
_SHARED = ", on two connections"


class _AloneError(CleanupError):
    """There is no lock under which the worker could go on."""


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
        and isinstance(work.target.rule.action, Close)
        and not (work.session.pooled or work.options.budget.rows is not None or work.target.triggers)
    )


class Worker:
    """Walks over `sections` beside `work`. To be used as a context, in which that one walks over them as well.

    It writes only while the sweep's own session is there and holds the lock, on the very server that the worker is
    connected to. What it has done is added to `work` by that one's own thread, and what it had to leave is left to it.
    """

    def __init__(self, work: Work, leaf: Leaf, sections: Sections) -> None:
        self._main = work
        self._work = work.beside(work.session.second(), self._await_lock)
        self._leaf = leaf
        self._sections = sections
        self._lock_seen_in = 0
        self._reported = (0, 0)
        self._left_alone = ""
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"{work.result.rule}, second walk")

    def __enter__(self) -> "Worker":
        self._walked = self._executor.submit(self._walk)
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self._work.options.budget.deadline = time.monotonic()  # it ends with the window under way
        self._executor.shutdown()
        self._add()
        self._main.take_over(self._work)
        if self._left_alone:
            self._main.tell([f"Walked on one connection. {self._left_alone}"])
        else:
            access = self._main.result.access or ""
            self._main.result.access = access.removesuffix(_SHARED) + _SHARED
        if kind is None:
            self._walked.result()

    def report(self) -> None:
        """Add what it has done by now to the sweep's result. Raises what it failed with."""
        self._add()
        if self._walked.done():
            self._walked.result()

    def until_it_ends(self) -> Iterator[None]:
        """Wait for it, and come back now and then."""
        while not wait([self._walked], _LOOK_S).done:
            yield

    def _add(self) -> None:
        result, own = self._main.result, self._work.result
        done = own.affected, own.batches
        result.affected += done[0] - self._reported[0]
        result.batches += done[1] - self._reported[1]
        result.longest_batch_ms = max(result.longest_batch_ms or 0.0, own.longest_batch_ms or 0.0)
        result.oldest = earliest(result.oldest, own.oldest)
        self._reported = done

    # In the thread.

    def _walk(self) -> None:
        try:
            with self._work.session:
                if not self._is_lock_held():
                    raise _AloneError("A second one does not see the lock of the first: it leads to another server.")
                for _ in write_windows(self._work, self._leaf, self._sections):
                    if not self._main.session.alive or self._main.session.generation != self._lock_seen_in:
                        self._await_lock()
        except (_AloneError, UnreachableError) as error:
            self._left_alone = str(error)

    def _is_lock_held(self) -> bool:
        main = self._main.session
        generation = main.generation
        if not main.alive or not lock.is_held(self._work.session, self._main.result.rule, by=main.backend_pid):
            return False
        self._lock_seen_in = generation
        return True

    def _await_lock(self) -> None:
        """After a lost connection: until the sweep's session has its lock again. Raises `_AloneError`."""
        patient_until = None
        while not self._is_lock_held():
            if self._main.session.alive:
                patient_until = patient_until or time.monotonic() + _PATIENCE_S
            if self._work.options.budget.late or (patient_until and time.monotonic() > patient_until):
                raise _AloneError("The second one was lost, and did not see the lock of the first again.")
            self._work.reader.pause(_LOOK_S)
