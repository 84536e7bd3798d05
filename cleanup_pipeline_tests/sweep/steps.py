"""Carrying rules out in tests: whole, step by step, or in a thread beside the app."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg import Connection, sql

from cleanup_pipeline.postgres import Database, Session
from cleanup_pipeline.rules import RULES, Rule
from cleanup_pipeline.sweep.pace import FULL_SPEED, Pace
from cleanup_pipeline.sweep.result import Progress, Result
from cleanup_pipeline.sweep.sweep import Sweep
from cleanup_pipeline.sweep.work import Options

# The instant that tests measure age against. It only has to lie in the past of every clock.
NOW = datetime(2026, 11, 24, 4, tzinfo=UTC)

# Windows and slices shrink to one page or row as soon as they can.
TINY = Pace("tiny", window_s=1e-9, slice_s=1e-9, rest=0.0, snapshot_s=1.0)
LARGE = FULL_SPEED
# On two connections, however small the table is.
SHARED = replace(TINY, name="shared", shared_from=2)
LARGE_SHARED = replace(FULL_SPEED, name="shared full speed", shared_from=2)
UNRESTED = Pace("unrested", window_s=0.0015, slice_s=0.005, rest=0.0, snapshot_s=1.0)

PATIENCE_S = 20.0
_POLL_S = 0.002


@contextmanager
def session_on(database: str, *, pooled: bool = False) -> Iterator[Session]:
    """A session of ours; `pooled`: as it is behind a pooler."""
    with Session(Database.parse(database)) as session:
        if pooled:
            session.connect()
            session.pooled = True
        yield session


def options(**chosen: Any) -> Options:
    defaults: dict[str, Any] = {"as_of": NOW, "pace": UNRESTED}
    return Options(**defaults | chosen)


def sweep(database: str, rule: Rule, *, pooled: bool = False, **chosen: Any) -> Result:
    """Carry out one rule, to its end."""
    with session_on(database, pooled=pooled) as session:
        return finish(Sweep(rule, session, options(**chosen)))


def sweep_all(database: str, *, pooled: bool = False, **chosen: Any) -> dict[str, Result]:
    """Carry out every rule in its order, as one run does."""
    with session_on(database, pooled=pooled) as session:
        return {rule.name: finish(Sweep(rule, session, options(**chosen))) for rule in RULES}


def finish(sweep: Sweep, steps: Iterator[Progress] | None = None) -> Result:
    for _ in steps or sweep:
        pass
    return sweep.result


def advance(steps: Iterator[Progress], stage: str) -> Progress:
    """Carry a sweep on until it has done the first step of `stage`."""
    for progress in steps:
        if progress.stage == stage:
            return progress
    raise AssertionError(f"the sweep has ended without a step of {stage!r}")


class Running:
    """A sweep in a thread."""

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        self._thread = threading.Thread(target=self._run)
        self._raised: BaseException | None = None
        self._thread.start()

    def _run(self) -> None:
        try:
            finish(self._sweep)
        except BaseException as raised:
            self._raised = raised  # for the thread that waits

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def wait(self) -> Result:
        self._thread.join(PATIENCE_S)
        assert self.ended, "the sweep does not end"
        if self._raised:
            raise self._raised
        return self._sweep.result


@contextmanager
def running(database: str, rule: Rule, **chosen: Any) -> Iterator[Running]:
    """Carry out one rule in a thread of its own; it has ended when the block has."""
    with session_on(database) as session:
        sweep = Running(Sweep(rule, session, options(**chosen)))
        try:
            yield sweep
        finally:
            sweep._thread.join(PATIENCE_S)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(_POLL_S)


@contextmanager
def connected(database: str) -> Iterator[Connection[Any]]:
    """Another client of the app's; every statement commits by itself."""
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


def wait_for_sweep_to_wait_on(database: str, app: Connection[Any]) -> None:
    """Return as soon as somebody waits for a lock that `app` holds: the sweep, then."""
    with connected(database) as observer:
        wait_until(lambda: _somebody_waits_for(observer, app), "for somebody to wait for the app's lock")


def wait_for_sweep_to_give_up_on(database: str, app: Connection[Any]) -> None:
    """Return as soon as nobody waits any more for a lock that `app` holds."""
    with connected(database) as observer:
        wait_until(lambda: not _somebody_waits_for(observer, app), "for the sweep to give up waiting")


def _somebody_waits_for(observer: Connection[Any], app: Connection[Any]) -> bool:
    query = sql.SQL(
        "select exists (select from pg_stat_activity where datname = current_database()"
        " and {}::int = any(pg_blocking_pids(pid)))"
    ).format(sql.Literal(app.info.backend_pid))
    return observer.execute(query).fetchall() == [(True,)]


def few_rows_a_page(app: Connection[Any], *tables: str) -> None:
    """Make the tables' pages hold a few rows each, so that few rows make many windows. For empty tables."""
    for table in tables:
        app.execute(sql.SQL("alter table {} set (fillfactor = 10)").format(sql.Identifier("public", table)))
