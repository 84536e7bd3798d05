"""Carrying out one rule within a Dagster step: the sweep works in a thread, the step watches it.

An interrupt (Ctrl-C, SIGTERM, Terminate in the UI) must reach the server, with true counts of what was committed
before. Raised in the midst of psycopg's own waiting it would leave the statement running, and committing, unseen. So
the step's thread takes the interrupt, asks the sweep to stop after its window, and ends the step when that has
happened.
"""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import timedelta

from dagster import (
    AssetCheckResult,
    AssetExecutionContext,
    AssetKey,
    AssetObservation,
    DagsterRunStatus,
    Failure,
    MaterializeResult,
    MetadataValue,
    TimestampMetadataValue,
)
from dagster._core.errors import DagsterExecutionInterruptedError

from cleanup_pipeline.defs.checks import Circumstances, results_of
from cleanup_pipeline.defs.claim import SupersededError
from cleanup_pipeline.defs.nights import clean_at, is_complete
from cleanup_pipeline.defs.resources import CleanupRun, Observer, PostgresResource
from cleanup_pipeline.defs.story import observed_metadata
from cleanup_pipeline.defs.summary import ended
from cleanup_pipeline.gate import tags
from cleanup_pipeline.postgres import CleanupError, Session
from cleanup_pipeline.rules import Delete, Rule
from cleanup_pipeline.sweep.finding import RefusedError
from cleanup_pipeline.sweep.footprint import Footprint
from cleanup_pipeline.sweep.plan import plan
from cleanup_pipeline.sweep.result import Progress, Result, Status
from cleanup_pipeline.sweep.sweep import Sweep

_LOOK_S = 0.1
_LOG_EVERY_S = 5.0
# Dagster can't signal a run that was started from a command line: Terminate only changes its status.
_LOOK_AT_STATUS_EVERY_S = 2.0
# A window ends by itself within a second; a judgement is cancelled.
_WINDOW_ENDS_S = 1.0
_CANCELS = 3


def carry_out(
    rule: Rule,
    age: timedelta | None,
    context: AssetExecutionContext,
    postgres: PostgresResource,
    cleanup_run: CleanupRun,
    observer: Observer,
) -> Iterator[MaterializeResult[None] | AssetCheckResult]:
    """Carry out one rule, and tell Dagster how it ended: the asset's checks, whatever end it was, and its numbers.

    Raises `Failure` where it failed, was refused or skipped; an interrupt ends the run as canceled.
    """
    work = _Work(rule, age, context, postgres, cleanup_run, observer)
    try:
        result = work.watched()
    except SupersededError as superseded:
        said = f"{superseded} Nothing was touched."
        context.log.warning(said)
        context.instance.add_run_tags(context.run.run_id, tags.outcome_tags(context.run.run_id, "superseded"))
        raise _canceled(context, said) from None
    except Exception as error:
        # Dagster's storage, most likely: the step fails with it. What was committed is told all the same.
        result = work.told(error)
        cleanup_run.report(result)
        observer.result(result)
        raise
    cleanup_run.report(result)
    observer.result(result)
    try:
        yield from _told(rule, age, result, context, cleanup_run, work.before)
    except DagsterExecutionInterruptedError:
        # The rule is done, or was interrupted itself: either way the run is not to end as a failed one.
        raise _canceled(context) from None


def _told(
    rule: Rule,
    age: timedelta | None,
    result: Result,
    context: AssetExecutionContext,
    cleanup_run: CleanupRun,
    before: Footprint | None,
) -> Iterator[MaterializeResult[None] | AssetCheckResult]:
    night = Circumstances(
        as_of=cleanup_run.began_at(),
        age=age,
        limited=cleanup_run.limited(),
        clean_at=clean_at(context.instance, rule) if rule.orphan_of else None,
    )
    yield from results_of(rule, result, night)
    deleted = result.affected if isinstance(rule.action, Delete) else 0
    metadata = {
        **_metadata(result, cleanup_run),
        **observed_metadata(before, cleanup_run.measure(rule), deleted),
        **cleanup_run.closing(rule, context.run, context.instance),
    }
    if result.status is Status.SUCCESS:
        context.log.info(
            f"{rule.name}: {result.affected:,} rows in {result.batches:,} windows. {' '.join(result.notes)}"
        )
        if is_complete(result):
            yield MaterializeResult(metadata=metadata)
            return
    # An observation, since a materialization would make the asset look fresh.
    context.log_event(AssetObservation(asset_key=AssetKey(rule.asset), metadata=metadata))
    if result.status is Status.SUCCESS:
        return
    if result.status is Status.INTERRUPTED:
        context.log.warning(f"{rule.name} was interrupted; {result.affected:,} rows were committed before and stay.")
        raise DagsterExecutionInterruptedError
    ended = "failed" if result.status is Status.FAILED else f"was {result.status.value}"
    raise Failure(
        description=f"{rule.name} {ended}: {result.error}",
        metadata=metadata,
        allow_retries=False,
    )


def _canceled(context: AssetExecutionContext, why: str = "The run was interrupted.") -> BaseException:
    """Make the run end as canceled; without this it would end as failed."""
    context.instance.report_run_canceling(context.run, why)
    return DagsterExecutionInterruptedError(why)


class _Work:
    """The sweep in its thread, and the eye on it."""

    def __init__(
        self,
        rule: Rule,
        age: timedelta | None,
        context: AssetExecutionContext,
        postgres: PostgresResource,
        cleanup_run: CleanupRun,
        observer: Observer,
    ) -> None:
        self._rule = rule
        self._age = age
        self._context = context
        self._postgres = postgres
        self._cleanup_run = cleanup_run
        self._observer = observer
        self.before: Footprint | None = None
        self._session: Session | None = None
        self._latest: Progress | None = None
        self._future: Future[Result] | None = None

    def told(self, error: Exception) -> Result:
        """What is known of a sweep whose watching failed: it has ended by now, but the step did not end well."""
        why = f"Its step failed with {type(error).__name__}; look whether Dagster's storage runs."
        if self._future is not None and self._future.done() and self._future.exception() is None:
            result = self._future.result()
            if result.status is Status.SUCCESS:
                result.status, result.error = Status.FAILED, f"{why} The rule itself was carried out."
            return result
        return Result(self._rule.name, Status.FAILED, self._latest.affected if self._latest else 0, error=why)

    def watched(self) -> Result:
        """Do the work, and stop it when somebody asks for that. Raises `SupersededError`."""
        with ThreadPoolExecutor(1, thread_name_prefix=self._rule.name) as executor:
            self._future = future = executor.submit(self._sweep)
            while True:
                try:
                    self._watch(future)
                    return future.result()
                except DagsterExecutionInterruptedError:
                    self._observer.stop.set()

    def _sweep(self) -> Result:
        run, instance = self._context.run, self._context.instance
        try:
            self._session = self._cleanup_run.begin(self._postgres, run, instance)
        except RefusedError as refused:
            return Result(self._rule.name, Status.REFUSED, error=str(refused))
        except CleanupError as error:
            return Result(self._rule.name, Status.FAILED, error=str(error))
        self._observer.as_of = self._cleanup_run.began_at()
        self.before = self._cleanup_run.measure(self._rule)
        sweep = Sweep(self._rule, self._session, self._cleanup_run.options(self._age), self._observer.stop)
        for progress in sweep:
            self._latest = progress
            self._observer.progress(progress)
        if self._cleanup_run.night_is_over():
            self._count_what_is_left(sweep.result, self._session)
        return sweep.result

    def _count_what_is_left(self, result: Result, session: Session) -> None:
        """Make known what the next night goes on with, of a rule that the night had no time for."""
        if result.status is not Status.SUCCESS or result.remaining is not None:
            return
        left = plan(self._rule, session, self._cleanup_run.options(self._age), self._observer.stop)
        if left.status is Status.INTERRUPTED:
            result.status, result.error = left.status, left.error
        elif left.status is not Status.FAILED:
            result.remaining, result.oldest = left.candidates, left.oldest

    def _watch(self, future: "Future[Result]") -> None:
        logged = looked = time.monotonic()
        stopping_since: float | None = None
        cancels = 0
        while not wait([future], _LOOK_S).done:
            now = time.monotonic()
            if now - logged >= _LOG_EVERY_S and self._latest is not None:
                self._context.log.info(_in_words(self._latest))
                logged = now
            if now - looked >= _LOOK_AT_STATUS_EVERY_S:
                self._stop_if_terminated()
                looked = now
            if self._observer.stop.is_set():
                stopping_since = stopping_since or now
                if now - stopping_since >= _WINDOW_ENDS_S and self._session is not None:
                    cancels += 1
                    if cancels > _CANCELS:
                        self._session.abandon()
                    else:
                        self._session.cancel()
                    stopping_since = now

    def _stop_if_terminated(self) -> None:
        run = self._context.instance.get_run_by_id(self._context.run.run_id)
        if run is not None and run.status in (DagsterRunStatus.CANCELING, DagsterRunStatus.CANCELED):
            self._observer.stop.set()


def _in_words(progress: Progress) -> str:
    left = "" if progress.left_s is None else f", about {progress.left_s:,.0f} s left"
    return (
        f"{progress.rule}: {progress.stage}, {progress.share:.0%} done, {progress.affected:,} rows, "
        f"{progress.rows_per_second:,.0f} rows/s{left}"
    )


def _metadata(result: Result, cleanup_run: CleanupRun) -> dict[str, float | str | TimestampMetadataValue]:
    """Numbers for the plots: 0 and never absent where there was nothing to clean."""
    as_of = cleanup_run.began_at()
    return {
        "rows_affected": result.affected,
        **({} if result.remaining is None else {"rows_remaining": result.remaining}),
        "batches": result.batches,
        "duration_s": round(result.duration_s or 0.0, 3),
        "rows_per_second": round(result.rows_per_second or 0.0, 1),
        "longest_batch_ms": round(result.longest_batch_ms or 0.0, 1),
        **({"as_of": MetadataValue.timestamp(as_of)} if as_of else {}),
        **({"access": result.access} if result.access else {}),
        "outcome": ended(result),
    }
