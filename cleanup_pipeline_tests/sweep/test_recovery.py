"""Lost connections, commits in doubt, interruptions, and one sweep of a rule at a time."""

import threading
import time
from datetime import timedelta
from typing import Any, Literal

import pytest
from psycopg import Connection

from cleanup_pipeline.demo.data import plant
from cleanup_pipeline.postgres import Database, Session
from cleanup_pipeline.rules import EXPIRED_SESSIONS, OLD_DECLINES, ORPHANED_FINGERPRINTS, ORPHANED_PROFILES, RULES, Rule
from cleanup_pipeline.sweep.pace import Pace
from cleanup_pipeline.sweep.plan import plan
from cleanup_pipeline.sweep.result import Status
from cleanup_pipeline.sweep.sweep import Sweep
from cleanup_pipeline.sweep.window import Budget
from cleanup_pipeline_tests.oracle import Tables, expected, snapshot
from cleanup_pipeline_tests.sweep.steps import (
    LARGE,
    NOW,
    SHARED,
    TINY,
    advance,
    connected,
    few_rows_a_page,
    finish,
    options,
    running,
    session_on,
    sweep,
    wait_for_sweep_to_wait_on,
    wait_until,
)
from cleanup_pipeline_tests.sweep.wire import wire

App = Connection[Any]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test's server is back at once."""
    monkeypatch.setattr("cleanup_pipeline.postgres._RECONNECT_PAUSES_S", (0.01,) * 10)


MANY = ("after_hours_sessions", "after_hours_declines", "device_fingerprints", "after_hours_profiles")
each_rule = pytest.mark.parametrize(
    "rule", [EXPIRED_SESSIONS, OLD_DECLINES, ORPHANED_FINGERPRINTS], ids=lambda rule: str(rule.name)
)


@pytest.fixture
def want(app: App) -> Tables:
    """What a run must make of tables with enough rows for several windows each."""
    few_rows_a_page(app, *MANY)
    plant(app, 400, NOW)
    # So few that the index leads to them.
    app.execute(
        "update after_hours_sessions set ended_at = expires_at where expires_at < %s", [NOW - timedelta(days=11)]
    )
    return expected(app, NOW)


def end_the_sweeps_connection(app: App) -> None:
    ended = app.execute(
        "select pid, pg_terminate_backend(pid) from pg_stat_activity"
        " where application_name = 'cleanup_pipeline' and datname = current_database()"
    ).fetchall()
    gone = "select not exists (select from pg_stat_activity where pid = any(%s))"
    pids = [pid for pid, _ in ended]
    wait_until(lambda: app.execute(gone, [pids]).fetchall() == [(True,)], "for the connection to end")


def rows_of(rule: Rule, tables: Tables) -> Any:
    return tables.rows[rule.table.name]


# --- Lost connections.


@each_rule
@pytest.mark.parametrize("stage", ["judging", "counting", "windows", "looking at what remains"])
def test_a_connection_that_is_lost_between_two_steps_is_made_again(
    app: App, database: str, want: Tables, rule: Rule, stage: str
) -> None:
    before = snapshot(app)
    due = (rows_of(rule, before) - rows_of(rule, want)).total()
    lost = 0
    with session_on(database) as session:
        swept = Sweep(rule, session, options(pace=TINY))
        for progress in swept:
            if progress.stage == stage and not lost:
                end_the_sweeps_connection(app)
                lost += 1
        assert session.generation == 1 + lost
    assert (swept.result.status, swept.result.affected, swept.result.remaining) == (Status.SUCCESS, due, 0)
    assert rows_of(rule, snapshot(app)) == rows_of(rule, want)


@each_rule
@pytest.mark.parametrize(
    "stages", [{"windows"}, {"judging", "counting", "windows", "looking at what remains"}], ids=len
)
@pytest.mark.parametrize("losses", [3, 1000])
def test_a_connection_that_is_lost_time_and_again_ends_in_a_state_that_is_told(
    app: App, database: str, want: Tables, rule: Rule, stages: set[str], losses: int
) -> None:
    before = snapshot(app)
    with session_on(database) as session:
        swept = Sweep(rule, session, options(pace=TINY))
        for progress in swept:
            if progress.stage in stages and losses:
                end_the_sweeps_connection(app)
                losses -= 1
    after = snapshot(app)
    left = rows_of(rule, after) - rows_of(rule, want)
    assert swept.result.affected == (rows_of(rule, before) - rows_of(rule, after)).total()
    if swept.result.status is Status.SUCCESS:
        assert (swept.result.remaining, left.total()) == (0, 0)
    else:
        assert swept.result.status is Status.FAILED
        assert swept.result.error
    assert left <= rows_of(rule, before)
    assert rows_of(rule, before) - rows_of(rule, after) <= rows_of(rule, before) - rows_of(rule, want)


@each_rule
@pytest.mark.parametrize("pace", [TINY, LARGE, SHARED], ids=lambda pace: str(pace.name))
def test_a_connection_that_is_lost_within_a_window_is_made_again_and_the_window_done_again(
    app: App, database: str, want: Tables, rule: Rule, pace: Pace
) -> None:
    due = (rows_of(rule, snapshot(app)) - rows_of(rule, want)).total()
    with connected(database) as user, running(database, rule, pace=pace) as on:
        user.execute("begin")
        user.execute(f"lock table {rule.table.name} in share mode".encode())
        wait_for_sweep_to_wait_on(database, user)
        end_the_sweeps_connection(app)
        user.execute("rollback")
        result = on.wait()
    assert (result.status, result.affected, result.remaining) == (Status.SUCCESS, due, 0)
    assert rows_of(rule, snapshot(app)) == rows_of(rule, want)


def test_a_connection_that_was_lost_since_the_last_rule_is_made_again(app: App, database: str, want: Tables) -> None:
    with session_on(database) as session:
        for rule in RULES:
            result = finish(Sweep(rule, session, options()))
            assert result.status is Status.SUCCESS
            end_the_sweeps_connection(app)
    assert snapshot(app) == want


# --- Commits in doubt.


@each_rule
@pytest.mark.parametrize("at", ["before", "after"])
@pytest.mark.parametrize("pooled", [False, True], ids=["alone", "behind_a_pooler"])
def test_a_connection_that_is_lost_during_a_commit_neither_loses_nor_doubles_what_is_counted(
    app: App, server_url: str, database: str, want: Tables, rule: Rule, at: Literal["before", "after"], pooled: bool
) -> None:
    due = (rows_of(rule, snapshot(app)) - rows_of(rule, want)).total()
    with wire(server_url, at) as broken, session_on(broken.url(database), pooled=pooled) as session:
        result = finish(Sweep(rule, session, options(pace=TINY)))
        assert broken.breaks_left == 0
        assert session.generation == 2
    assert (result.status, result.affected, result.remaining) == (Status.SUCCESS, due, 0), result.error
    assert rows_of(rule, snapshot(app)) == rows_of(rule, want)


# --- Interruptions and limits.


@each_rule
def test_a_sweep_that_is_asked_to_stop_ends_after_its_window_with_true_counts(
    app: App, database: str, want: Tables, rule: Rule
) -> None:
    before = snapshot(app)
    stop = threading.Event()
    with session_on(database) as session:
        swept = Sweep(rule, session, options(pace=TINY), stop)
        steps = iter(swept)
        advance(steps, "windows")
        stop.set()
        assert list(steps) == []
    done = rows_of(rule, before) - rows_of(rule, snapshot(app))
    assert swept.result.status is Status.INTERRUPTED
    assert swept.result.error
    assert swept.result.affected == done.total() > 0
    assert done <= rows_of(rule, before) - rows_of(rule, want)
    assert sweep(database, rule).status is Status.SUCCESS
    assert rows_of(rule, snapshot(app)) == rows_of(rule, want)


@each_rule
def test_a_sweep_that_is_asked_to_stop_before_it_begins_touches_nothing(
    app: App, database: str, want: Tables, rule: Rule
) -> None:
    before = snapshot(app)
    stop = threading.Event()
    stop.set()
    with session_on(database) as session:
        result = finish(Sweep(rule, session, options(pace=TINY), stop))
    assert (result.status, result.affected) == (Status.INTERRUPTED, 0)
    assert snapshot(app) == before != want


@each_rule
def test_time_that_is_up_ends_the_sweep_as_a_success_and_the_rest_is_told(
    app: App, database: str, want: Tables, rule: Rule
) -> None:
    due = (rows_of(rule, snapshot(app)) - rows_of(rule, want)).total()
    budget = Budget()
    with session_on(database) as session:
        swept = Sweep(rule, session, options(pace=TINY, budget=budget))
        steps = iter(swept)
        advance(steps, "windows")
        budget.deadline = time.monotonic()
        result = finish(swept, steps)
    assert result.status is Status.SUCCESS
    assert 0 < result.affected < due
    assert result.affected + (result.remaining or 0) == due


# --- One sweep of a rule at a time.


@each_rule
@pytest.mark.usefixtures("want")
def test_a_second_sweep_of_a_rule_is_skipped_and_names_the_first(app: App, database: str, rule: Rule) -> None:
    before_first = snapshot(app)
    with Session(Database.parse(database), "the first of two") as first_session:
        first = Sweep(rule, first_session, options(pace=TINY))
        steps = iter(first)
        advance(steps, "windows" if rule is not ORPHANED_FINGERPRINTS else "judging")
        so_far = snapshot(app)
        second = sweep(database, rule)
        assert (second.status, second.affected) == (Status.SKIPPED, 0)
        assert "the first of two" in (second.error or "")
        assert rule.name in (second.error or "")
        assert snapshot(app) == so_far
        result = finish(first, steps)
    assert result.status is Status.SUCCESS
    assert result.affected == before_first.only_here(snapshot(app))[rule.table.name]


@pytest.mark.usefixtures("want")
def test_sweeps_of_two_rules_do_not_exclude_each_other(database: str) -> None:
    with session_on(database) as session:
        steps = iter(Sweep(OLD_DECLINES, session, options(pace=TINY)))
        advance(steps, "windows")
        assert sweep(database, ORPHANED_PROFILES).status is Status.SUCCESS


@pytest.mark.usefixtures("want")
def test_sweeps_of_one_rule_in_two_databases_do_not_exclude_each_other(database: str, bare_database: str) -> None:
    with connected(bare_database) as other:
        other.execute(
            "create table after_hours_declines as select null::uuid id, now() created_at from generate_series(1, 100)"
        )
    with session_on(bare_database) as session:
        steps = iter(Sweep(OLD_DECLINES, session, options(pace=TINY)))
        advance(steps, "windows")
        assert sweep(database, OLD_DECLINES).status is Status.SUCCESS


def held_locks(app: App) -> int:
    return len(
        app.execute(
            "select from pg_locks where locktype = 'advisory'"
            " and database = (select oid from pg_database where datname = current_database())"
        ).fetchall()
    )


@each_rule
@pytest.mark.usefixtures("want")
def test_the_lock_is_given_back_at_the_end_whatever_end_it_is(app: App, database: str, rule: Rule) -> None:
    with session_on(database) as session:
        stop = threading.Event()
        steps = iter(Sweep(rule, session, options(pace=TINY), stop))
        next(steps)
        assert held_locks(app) == 1
        stop.set()
        assert list(steps) == []
        assert held_locks(app) == 0, "interrupted"

        given_up = iter(Sweep(rule, session, options(pace=TINY)))
        next(given_up)
        del given_up
        assert held_locks(app) == 0, "given up"

        app.execute(f"create rule keep as on delete to {rule.table.name} do instead nothing".encode())
        app.execute(f"create rule keep_too as on update to {rule.table.name} do instead nothing".encode())
        assert finish(Sweep(rule, session, options())).status is Status.REFUSED
        assert held_locks(app) == 0, "refused"

        app.execute(f"drop rule keep on {rule.table.name}".encode())
        app.execute(f"drop rule keep_too on {rule.table.name}".encode())
        assert finish(Sweep(rule, session, options())).status is Status.SUCCESS
        assert held_locks(app) == 0, "done"


@pytest.mark.usefixtures("want")
def test_nothing_of_a_sweep_is_left_in_the_session(database: str) -> None:
    with session_on(database) as session:
        for rule in RULES:
            finish(Sweep(rule, session, options()))
        left = session.connection.execute("select relname from pg_class where relnamespace = pg_my_temp_schema()")
        assert left.fetchall() == []


@pytest.mark.usefixtures("want")
def test_the_lock_is_held_again_after_a_lost_connection(app: App, database: str) -> None:
    with session_on(database) as session:
        swept = Sweep(OLD_DECLINES, session, options(pace=TINY))
        steps = iter(swept)
        advance(steps, "windows")
        end_the_sweeps_connection(app)
        advance(steps, "windows")
        assert held_locks(app) == 1
        assert sweep(database, OLD_DECLINES).status is Status.SKIPPED
        assert finish(swept, steps).status is Status.SUCCESS
    assert held_locks(app) == 0


@pytest.mark.long
@pytest.mark.usefixtures("want")
def test_a_sweep_whose_lock_another_one_took_meanwhile_gives_up(app: App, database: str) -> None:
    with session_on(database) as session, session_on(database) as other:
        swept = Sweep(OLD_DECLINES, session, options(pace=TINY))
        steps = iter(swept)
        advance(steps, "windows")
        end_the_sweeps_connection(app)
        other.connection.execute("set idle_session_timeout = 0")  # this test's thread can't carry on both
        second = iter(Sweep(OLD_DECLINES, other, options(pace=TINY)))
        advance(second, "windows")
        result = finish(swept, steps)
    assert result.status is Status.FAILED
    assert "lock" in (result.error or "")


@each_rule
def test_a_plan_is_made_while_a_sweep_is_on(app: App, database: str, want: Tables, rule: Rule) -> None:
    with session_on(database) as session, session_on(database) as other:
        steps = iter(Sweep(rule, session, options(pace=TINY)))
        advance(steps, "windows")
        left = (rows_of(rule, snapshot(app)) - rows_of(rule, want)).total()
        planned = plan(rule, other, options())
    assert (planned.status, planned.candidates) == (Status.SUCCESS, left)
