"""A client that is killed, cut off or frozen, and a server that crashes, at every moment of a run.

What holds, whatever happens: no row is touched that no rule names; the lock is free again within ten seconds; counts
are true; and the next run ends in the state in which one that nobody disturbed would have ended. A run that lives on
goes on by itself.
"""

import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from psycopg import Connection, sql

from cleanup_pipeline.demo.data import plant
from cleanup_pipeline.demo.schema import create_tables
from cleanup_pipeline.postgres import Limits
from cleanup_pipeline.rules import OLD_DECLINES, RULES
from cleanup_pipeline.sweep.pace import DEFAULT, FULL_SPEED
from cleanup_pipeline.sweep.result import Status
from cleanup_pipeline.sweep.sweep import Sweep
from cleanup_pipeline_tests.databases import fresh_database
from cleanup_pipeline_tests.oracle import Tables, expected, snapshot
from cleanup_pipeline_tests.servers import Server, server
from cleanup_pipeline_tests.sweep import client
from cleanup_pipeline_tests.sweep.steps import (
    NOW,
    SHARED,
    TINY,
    connected,
    few_rows_a_page,
    finish,
    options,
    session_on,
    sweep_all,
)
from cleanup_pipeline_tests.sweep.wire import At, Fault, Then, laid

App = Connection[Any]

ROWS = 120
LONGEST_S = 120.0
LOCK_IS_FREE_WITHIN_S = 10.0
TABLES = {rule.name: rule.table.name for rule in RULES}
KINDS = ("killed", "terminated", "crashed", "cut", "black hole", "frozen", "frozen, and overtaken")
QUICK = ("killed", "terminated", "crashed", "cut")  # these are noticed at once
OF_THE_WIRE = ("cut", "black hole")
PACES = (TINY, DEFAULT, FULL_SPEED, SHARED, SHARED)
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Moment:
    """When and how a run is disturbed: `share` is how much of its messages it has sent by then."""

    kind: str
    share: float
    at: At
    pace: str

    def __str__(self) -> str:
        return f"{self.kind.replace(' ', '_').replace(',', '')}-{self.at}-{self.share:.3f}-{self.pace}".replace(
            " ", "_"
        )


def moments(seed: int, of_each: int, kinds: Sequence[str] = KINDS) -> list[Moment]:
    """So many moments for each kind, drawn at random, and the same ones every time."""
    draw = random.Random(seed)  # noqa: S311 -- to be repeated
    of_the_wire: list[At] = ["before", "after"]
    of_others: list[At] = ["before", "during", "after"]
    drawn = []
    for kind in kinds:
        for _ in range(of_each):
            at = draw.choice(of_the_wire if kind in OF_THE_WIRE else of_others)
            drawn.append(Moment(kind, draw.uniform(0.02, 0.9), at, draw.choice(PACES).name))
    return drawn


@pytest.fixture(scope="module")
def crashable() -> Iterator[Server]:
    """A server of this module's own."""
    with server(18) as own:
        yield own


@contextmanager
def planted(own: Server) -> Iterator[str]:
    """A database with something for each rule to do."""
    with fresh_database(own.url) as url:
        with connected(url) as app:
            create_tables(app)
            few_rows_a_page(app, *TABLES.values())
            plant(app, ROWS, NOW)
        yield url


def read(url: str, what: Callable[[App], Tables] = snapshot) -> Tables:
    with connected(url) as app:
        return what(app)


class Run:
    """A run of every rule, as a process of its own."""

    def __init__(self, url: str, pace: str) -> None:
        command = [sys.executable, "-m", client.__name__, url, pace]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)

    def report(self) -> Any:
        """What it tells when it ends; None where it was killed."""
        out, _ = self.process.communicate(timeout=LONGEST_S)
        return json.loads(out) if out else None

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@cache
def messages_of_a_run(own: Server, pace: str) -> int:
    """How many messages a run sends that nobody disturbs."""
    with planted(own) as url, laid(Fault(url)) as wire:
        report = Run(wire.url(url), pace).report()
        assert {rule["status"] for rule in report.values()} == {"success"}
        return wire.requests


def connections_of(app: App) -> list[int]:
    query = "select pid from pg_stat_activity where application_name = %s and datname = current_database()"
    return [pid for (pid,) in app.execute(query, [client.NAME]).fetchall()]


def wait_until_nothing_is_held_by(url: str, connections: list[int]) -> None:
    deadline = time.monotonic() + LOCK_IS_FREE_WITHIN_S
    query = "select locktype, relation::regclass::text, mode from pg_locks where pid = any(%s)"
    with connected(url) as app:
        while held := app.execute(query, [connections]).fetchall():
            assert time.monotonic() < deadline, f"still held: {held}"
            time.sleep(0.05)


def strike(kind: str, url: str, own: Server, run: Run) -> Then:
    match kind:
        case "killed":
            run.process.kill()
        case "terminated":
            with connected(url) as app:
                app.execute("select pg_terminate_backend(pid) from unnest(%s::int[]) pid", [connections_of(app)])
        case "crashed":
            own.crash()
            own.start()
        case "cut":
            return Then.BREAK
        case "black hole":
            return Then.SWALLOW
        case _:
            run.process.send_signal(signal.SIGSTOP)
    return Then.PASS


def affected(before: Tables, after: Tables) -> dict[str, int]:
    """How many rows of each rule's table are not what they were."""
    gone = before.only_here(after)
    return {rule: gone[table] for rule, table in TABLES.items()}


class NotStruckError(Exception):
    """The run has ended before its moment came: how many messages it sends is a matter of time too."""


def disturb_a_run(own: Server, moment: Moment) -> None:
    number = round(moment.share * messages_of_a_run(own, moment.pace))
    while number:
        with suppress(NotStruckError):
            return disturb_a_run_at(own, moment, number)
        number //= 2
    raise AssertionError("a run ends without a message")


def disturb_a_run_at(own: Server, moment: Moment, number: int) -> None:
    with planted(own) as url:
        before, want = read(url), read(url, lambda app: expected(app, NOW))
        due = affected(before, want)
        connections: list[int] = []
        runs: list[Run] = []

        def strike_now() -> Then:
            with connected(url) as app:
                connections.extend(connections_of(app))
            return strike(moment.kind, url, own, runs[0])

        with laid(Fault(url, number, moment.at, strike_now)) as wire:
            run = Run(wire.url(url), moment.pace)
            runs.append(run)
            try:
                while not wire.struck.wait(0.1):
                    if run.process.poll() is not None and wire.requests < number:
                        raise NotStruckError
                # Of two connections the other goes on, and holds the lock, while this one's silence is borne.
                if not (moment.kind == "black hole" and moment.pace == SHARED.name):
                    wait_until_nothing_is_held_by(url, connections)
                overtaking = sweep_all(url) if moment.kind == "frozen, and overtaken" else {}
                if overtaking:
                    assert read(url) == want
                run.process.send_signal(signal.SIGCONT)
                report = run.report()
            finally:
                run.end()
        after = read(url)

        for table in before.rows:
            assert before.rows[table] - after.rows[table] <= before.rows[table] - want.rows[table], (
                "touched for no rule"
            )
            assert after.rows[table] - before.rows[table] <= want.rows[table] - before.rows[table], "changed otherwise"
        if report:
            told = {
                name: rule["affected"] + (overtaking[name].affected if overtaking else 0)
                for name, rule in report.items()
            }
            assert {
                name: (rule["status"], rule["remaining"], rule["error"]) for name, rule in report.items()
            } == dict.fromkeys(TABLES, ("success", 0, None))
            assert told == affected(before, after) == due
            assert after == want
        next_run = sweep_all(url)
        assert {name: result.affected for name, result in next_run.items()} == affected(after, want)
        assert {result.status for result in next_run.values()} == {Status.SUCCESS}
        assert read(url) == want


def test_a_transaction_that_a_crashed_server_has_never_heard_of_was_not_committed(crashable: Server) -> None:
    with session_on(crashable.url) as session:
        with session.transaction(Limits(1.0)) as transaction:
            (next_xid,) = transaction.one(sql.SQL("select pg_snapshot_xmax(pg_current_snapshot())::text::bigint"))
        assert session.settled(next_xid + 1000) is False


def test_a_server_that_restarts_between_two_rules_is_waited_for(crashable: Server) -> None:
    with planted(crashable) as url, session_on(url) as session:
        session.connect()
        session.close()  # as a rule does that finds it broken at its end
        crashable.crash()
        restart = threading.Timer(1.0, crashable.start)
        restart.start()
        result = finish(Sweep(OLD_DECLINES, session, options()))
        restart.join()
    assert (result.status, result.remaining) == (Status.SUCCESS, 0), result.error


@pytest.mark.parametrize("moment", [*moments(seed=1, of_each=1), *moments(seed=2, of_each=1, kinds=QUICK)], ids=str)
def test_a_run_that_is_disturbed_does_nothing_wrong_and_goes_on_or_is_made_up_for(
    crashable: Server, moment: Moment
) -> None:
    disturb_a_run(crashable, moment)


@pytest.mark.long
@pytest.mark.parametrize("moment", moments(seed=3, of_each=12), ids=str)
def test_a_run_that_is_disturbed_at_any_moment_does_nothing_wrong(crashable: Server, moment: Moment) -> None:
    disturb_a_run(crashable, moment)
