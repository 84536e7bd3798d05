"""What the app does to a row, or to a whole table, between the sweep's steps and while the sweep waits for a lock."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from psycopg import Connection, sql

from cleanup_pipeline.rules import EXPIRED_SESSIONS, OLD_DECLINES, ORPHANED_FINGERPRINTS, RULES
from cleanup_pipeline.sweep.result import Status
from cleanup_pipeline.sweep.sweep import Sweep
from cleanup_pipeline.sweep.window import Budget
from cleanup_pipeline_tests.databases import name_of
from cleanup_pipeline_tests.oracle import Tables, expected, snapshot
from cleanup_pipeline_tests.servers import on_each_server
from cleanup_pipeline_tests.sweep import rows
from cleanup_pipeline_tests.sweep.steps import (
    LARGE,
    NOW,
    SHARED,
    TINY,
    Running,
    advance,
    connected,
    few_rows_a_page,
    finish,
    options,
    running,
    session_on,
    sweep,
    sweep_all,
    wait_for_sweep_to_give_up_on,
    wait_for_sweep_to_wait_on,
)

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)

App = Connection[Any]

# The re-check of TID scans and TID range scans is another one in 16.2 than in later minor releases.
pytestmark = on_each_server


@pytest.fixture
def alive(app: App) -> UUID:
    """A session that is on."""
    return rows.session(app)


def plant_sessions(app: App, *, due: int) -> list[UUID]:
    return [rows.session(app, NOW - DAY - index * timedelta(minutes=1)) for index in range(due)]


def plant_fingerprints(app: App, alive: UUID, *, orphans: int, beside: int = 0) -> list[UUID]:
    """Orphans, all old enough; and others that name a session that is on."""
    for _ in range(beside):
        rows.fingerprint(app, alive, NOW - DAY)
    return [rows.orphaned_fingerprint(app) for _ in range(orphans)]


def wrongly_cleaned(app: App, before: Tables) -> dict[str, int]:
    """Rows that were there before, are not any more, and should be, counted for each table."""
    return {table: lost for table, lost in before.only_here(snapshot(app)).items() if lost}


@contextmanager
def holding(database: str, statement: str, *values: Any) -> Iterator[App]:
    """Another client of the app's, in a transaction that has done `statement` and not committed yet."""
    with connected(database) as other:
        other.execute("begin")
        other.execute(statement.encode(), values)
        yield other


# --- A session that changes while the sweep waits for its lock.


def by_the_index(app: App) -> dict[str, Any]:
    few_rows_a_page(app, "after_hours_sessions")
    return {}


def by_block_ranges(app: App) -> dict[str, Any]:
    app.execute("drop index after_hours_sessions_active_expiry")
    return {}


def by_block_ranges_up_to_a_limit(app: App) -> dict[str, Any]:
    return by_block_ranges(app) | {"budget": Budget(rows=1000)}


def by_the_index_up_to_a_limit(app: App) -> dict[str, Any]:
    return by_the_index(app) | {"budget": Budget(rows=1000)}


each_way = pytest.mark.parametrize(
    "way",
    [by_the_index, by_block_ranges, by_the_index_up_to_a_limit, by_block_ranges_up_to_a_limit],
    ids=lambda way: str(way.__name__),
)
Way = Callable[[App], dict[str, Any]]


@each_way
def test_a_session_that_is_extended_while_the_sweep_waits_for_its_lock_is_kept_open(
    app: App, database: str, way: Way
) -> None:
    chosen = way(app)
    extended, *others = plant_sessions(app, due=20)
    extend = "update after_hours_sessions set expires_at = %s where id = %s"
    with holding(database, extend, NOW + HOUR, extended) as user, running(database, EXPIRED_SESSIONS, **chosen) as on:
        wait_for_sweep_to_wait_on(database, user)
        user.execute("commit")
        result = on.wait()
    assert rows.ended_at(app, extended) is None
    assert (result.status, result.affected, result.remaining) == (Status.SUCCESS, len(others), 0)
    assert expected(app, NOW) == snapshot(app)


@each_way
def test_a_session_that_is_ended_while_the_sweep_waits_for_its_lock_keeps_the_apps_end(
    app: App, database: str, way: Way
) -> None:
    chosen = way(app)
    ended, *others = plant_sessions(app, due=20)
    end = "update after_hours_sessions set ended_at = %s where id = %s"
    with holding(database, end, NOW, ended) as user, running(database, EXPIRED_SESSIONS, **chosen) as on:
        wait_for_sweep_to_wait_on(database, user)
        user.execute("commit")
        result = on.wait()
    assert rows.ended_at(app, ended) == "2026-11-24 04:00:00+00"
    assert (result.status, result.affected, result.remaining) == (Status.SUCCESS, len(others), 0)


@each_way
def test_a_session_that_was_to_be_extended_and_was_not_after_all_is_closed(app: App, database: str, way: Way) -> None:
    chosen = way(app)
    plant_sessions(app, due=20)
    extend = "update after_hours_sessions set expires_at = %s where ended_at is null"
    with holding(database, extend, NOW + HOUR) as user, running(database, EXPIRED_SESSIONS, **chosen) as on:
        wait_for_sweep_to_wait_on(database, user)
        user.execute("rollback")
        result = on.wait()
    assert (result.status, result.affected, result.remaining) == (Status.SUCCESS, 20, 0)
    assert expected(app, NOW) == snapshot(app)


@each_way
def test_a_session_that_moves_and_stays_due_while_the_sweep_waits_is_closed_by_a_later_pass(
    app: App, database: str, way: Way
) -> None:
    chosen = way(app)
    moved, *_ = plant_sessions(app, due=20)
    move = "update after_hours_sessions set latitude = 0, longitude = 0 where id = %s"
    with holding(database, move, moved) as user, running(database, EXPIRED_SESSIONS, **chosen) as on:
        wait_for_sweep_to_wait_on(database, user)
        user.execute("commit")
        result = on.wait()
    assert (result.status, result.affected, result.remaining) == (Status.SUCCESS, 20, 0)
    assert expected(app, NOW) == snapshot(app)


def test_sessions_extended_between_two_windows_are_kept_open(app: App, database: str) -> None:
    few_rows_a_page(app, "after_hours_sessions")
    app.execute("drop index after_hours_sessions_active_expiry")
    plant_sessions(app, due=60)
    with session_on(database) as session:
        swept = Sweep(EXPIRED_SESSIONS, session, options(pace=TINY))
        steps = iter(swept)
        closed = advance(steps, "windows").affected
        app.execute("update after_hours_sessions set expires_at = %s where ended_at is null", [NOW + HOUR])
        result = finish(swept, steps)
    assert (result.status, result.affected, result.remaining) == (Status.SUCCESS, closed, 0)
    assert expected(app, NOW) == snapshot(app)


# --- An orphan that changes between judging and writing, or while the sweep waits for its lock.


def test_a_fingerprint_that_finds_a_session_between_judging_and_writing_is_kept(
    app: App, database: str, alive: UUID
) -> None:
    found, *others = plant_fingerprints(app, alive, orphans=20, beside=20)
    with session_on(database) as session:
        swept = Sweep(ORPHANED_FINGERPRINTS, session, options())
        steps = iter(swept)
        advance(steps, "counting")
        app.execute("update device_fingerprints set session_id = %s where id = %s", [alive, found])
        result = finish(swept, steps)
    assert rows.exists(app, "device_fingerprints", id=found)
    assert (result.status, result.affected, result.remaining) == (Status.SUCCESS, len(others), 0)
    assert expected(app, NOW) == snapshot(app)


@pytest.mark.parametrize("budget", [None, 1000], ids=["without_a_limit", "up_to_a_limit"])
@pytest.mark.parametrize("pooled", [False, True], ids=["alone", "behind_a_pooler"])
def test_a_fingerprint_that_finds_a_session_while_the_sweep_waits_for_its_lock_is_kept(
    app: App, database: str, alive: UUID, budget: int | None, pooled: bool
) -> None:
    found, *others = plant_fingerprints(app, alive, orphans=20, beside=20)
    find = "update device_fingerprints set session_id = %s where id = %s"
    with session_on(database, pooled=pooled) as session, holding(database, find, alive, found) as user:
        on = Running(Sweep(ORPHANED_FINGERPRINTS, session, options(budget=Budget(rows=budget))))
        wait_for_sweep_to_wait_on(database, user)
        user.execute("commit")
        result = on.wait()
    assert rows.exists(app, "device_fingerprints", id=found)
    assert (result.status, result.affected, result.remaining) == (Status.SUCCESS, len(others), 0)
    assert expected(app, NOW) == snapshot(app)


def test_a_fingerprint_that_is_young_again_while_the_sweep_waits_for_its_lock_is_kept(
    app: App, database: str, alive: UUID
) -> None:
    young, *others = plant_fingerprints(app, alive, orphans=20)
    renew = "update device_fingerprints set created_at = %s where id = %s"
    with holding(database, renew, NOW, young) as user, running(database, ORPHANED_FINGERPRINTS) as on:
        wait_for_sweep_to_wait_on(database, user)
        user.execute("commit")
        result = on.wait()
    assert rows.exists(app, "device_fingerprints", id=young)
    assert (result.status, result.affected) == (Status.SUCCESS, len(others))
    assert expected(app, NOW) == snapshot(app)


@pytest.mark.parametrize("orphans", [1, 20])
def test_an_orphan_that_moves_and_stays_one_after_it_was_judged_is_deleted_all_the_same(
    app: App, database: str, alive: UUID, orphans: int
) -> None:
    moved, *_ = plant_fingerprints(app, alive, orphans=orphans, beside=20)
    with session_on(database) as session:
        swept = Sweep(ORPHANED_FINGERPRINTS, session, options())
        steps = iter(swept)
        advance(steps, "counting")
        app.execute("update device_fingerprints set device_model = 'another' where id = %s", [moved])
        result = finish(swept, steps)
    assert (result.status, result.affected, result.remaining) == (Status.SUCCESS, orphans, 0)
    assert expected(app, NOW) == snapshot(app)


def test_an_orphan_that_is_deleted_by_somebody_else_after_it_was_judged_is_neither_counted_nor_told(
    app: App, database: str, alive: UUID
) -> None:
    gone, *others = plant_fingerprints(app, alive, orphans=20)
    with session_on(database) as session:
        swept = Sweep(ORPHANED_FINGERPRINTS, session, options())
        steps = iter(swept)
        advance(steps, "counting")
        app.execute("delete from device_fingerprints where id = %s", [gone])
        result = finish(swept, steps)
    assert (result.status, result.affected, result.remaining) == (Status.SUCCESS, len(others), 0)


# --- A table that is rewritten between judging and writing: its addresses now name other rows.

each_rewrite = pytest.mark.parametrize(
    "rewrite",
    [
        pytest.param("vacuum full {}", id="vacuum_full"),
        pytest.param("cluster {} using device_fingerprints_pkey", id="cluster"),
        pytest.param("alter table {} alter column device_id type text", id="alter_type"),
    ],
)


@each_rewrite
def test_a_rewrite_between_judging_and_writing_leads_to_no_wrong_row(
    app: App, database: str, alive: UUID, rewrite: str
) -> None:
    for _ in range(30):
        rows.fingerprint(app, alive, NOW - 2 * DAY, platform="leaves a hole")
        plant_fingerprints(app, alive, orphans=2, beside=4)
        rows.fingerprint(app, None, NOW - DAY)
    app.execute("delete from device_fingerprints where platform = 'leaves a hole'")
    want = expected(app, NOW)
    with session_on(database) as session:
        swept = Sweep(ORPHANED_FINGERPRINTS, session, options(pace=TINY))
        steps = iter(swept)
        advance(steps, "counting")
        app.execute(rewrite.format("device_fingerprints").encode())
        result = finish(swept, steps)
    assert want.only_here(snapshot(app))["device_fingerprints"] == 0, "rows that are no orphans were deleted"
    assert result.status is Status.SUCCESS
    assert result.affected + (result.remaining or 0) == 60, "what is left must be told"
    assert snapshot(app).only_here(want)["device_fingerprints"] == result.remaining


@pytest.mark.parametrize(
    "rewrite", ["vacuum full after_hours_sessions", "cluster after_hours_sessions using after_hours_sessions_pkey"]
)
def test_a_rewrite_between_gathering_and_writing_closes_no_wrong_session(app: App, database: str, rewrite: str) -> None:
    few_rows_a_page(app, "after_hours_sessions")
    for _ in range(40):
        rows.session(app, NOW - DAY, NOW - DAY)
        rows.session(app)
    plant_sessions(app, due=10)
    app.execute("delete from after_hours_sessions where ended_at is not null")
    for _ in range(10):
        rows.session(app, NOW - DAY, NOW - DAY)
    want = expected(app, NOW)
    with session_on(database) as session:
        swept = Sweep(EXPIRED_SESSIONS, session, options(pace=TINY))
        for number, _ in enumerate(swept):
            if number == 0:
                app.execute(rewrite.encode())
    assert (swept.result.status, swept.result.affected, swept.result.remaining) == (Status.SUCCESS, 10, 0)
    assert snapshot(app) == want


def test_a_rewrite_between_two_windows_of_a_walk_deletes_no_wrong_row_and_leaves_none(app: App, database: str) -> None:
    few_rows_a_page(app, "after_hours_declines")
    for index in range(80):
        rows.decline(app, NOW - (8 * DAY if index % 2 else DAY))
    want = expected(app, NOW)
    with session_on(database) as session:
        swept = Sweep(OLD_DECLINES, session, options(pace=TINY))
        steps = iter(swept)
        advance(steps, "windows")
        app.execute("alter table after_hours_declines reset (fillfactor)")
        app.execute("cluster after_hours_declines using after_hours_declines_pkey")
        result = finish(swept, steps)
    assert (result.status, result.affected, result.remaining) == (Status.SUCCESS, 40, 0)
    assert snapshot(app) == want


# --- An empty parent makes every child an orphan.

EMPTY_SESSIONS = "truncate after_hours_sessions cascade"


def test_an_empty_parent_is_refused(app: App, database: str) -> None:
    for _ in range(5):
        rows.orphaned_fingerprint(app)
    before = snapshot(app)
    result = sweep(database, ORPHANED_FINGERPRINTS)
    assert (result.status, result.affected) == (Status.REFUSED, 0)
    assert "public.after_hours_sessions is empty" in (result.error or "")
    assert snapshot(app) == before


def test_an_empty_parent_is_refused_also_where_the_rows_that_refer_to_it_are_too_young_to_be_due(
    app: App, database: str
) -> None:
    rows.orphaned_fingerprint(app, NOW)
    before = snapshot(app)
    assert sweep(database, ORPHANED_FINGERPRINTS).status is Status.REFUSED
    assert snapshot(app) == before


def test_an_empty_parent_that_no_row_refers_to_leaves_nothing_to_do(app: App, database: str) -> None:
    rows.fingerprint(app, None, NOW - DAY)
    before = snapshot(app)
    result = sweep(database, ORPHANED_FINGERPRINTS)
    assert (result.status, result.affected, result.remaining) == (Status.SUCCESS, 0, 0)
    assert snapshot(app) == before


def test_an_empty_users_table_is_refused_for_profiles_and_preferences(app: App, database: str) -> None:
    rows.profile(app, "somebody", NOW - DAY)
    rows.preferences(app, "somebody", NOW - DAY)
    before = snapshot(app)
    results = sweep_all(database)
    for name in ("orphaned_profiles", "orphaned_preferences"):
        assert results[name].status is Status.REFUSED
        assert "public.users is empty" in (results[name].error or "")
    assert snapshot(app) == before


@pytest.mark.parametrize("empty", [EMPTY_SESSIONS, "delete from after_hours_sessions"], ids=["truncate", "delete"])
@pytest.mark.parametrize("pooled", [False, True], ids=["alone", "behind_a_pooler"])
def test_a_parent_that_is_emptied_while_the_sweep_judges_is_refused(
    app: App, database: str, alive: UUID, empty: str, pooled: bool
) -> None:
    few_rows_a_page(app, "device_fingerprints")
    plant_fingerprints(app, alive, orphans=10, beside=200)
    with session_on(database, pooled=pooled) as session:
        swept = Sweep(ORPHANED_FINGERPRINTS, session, options(pace=TINY))
        steps = iter(swept)
        assert advance(steps, "judging").share < 1
        app.execute(empty.encode())
        before = snapshot(app)
        result = finish(swept, steps)
    assert (result.status, result.affected) == (Status.REFUSED, 0)
    assert "public.after_hours_sessions is empty" in (result.error or "")
    assert snapshot(app) == before


def test_a_parent_whose_truncation_commits_while_the_judge_waits_for_it_is_refused(
    app: App, database: str, alive: UUID
) -> None:
    plant_fingerprints(app, alive, orphans=10, beside=20)
    before = snapshot(app)
    with holding(database, EMPTY_SESSIONS) as user, running(database, ORPHANED_FINGERPRINTS) as on:
        wait_for_sweep_to_wait_on(database, user)
        user.execute("commit")
        result = on.wait()
    # Where the commit came too late for the sweep's patience, it has given up.
    assert result.status in (Status.REFUSED, Status.FAILED)
    assert result.affected == 0
    assert snapshot(app).rows["device_fingerprints"] == before.rows["device_fingerprints"]


def test_a_parent_that_is_emptied_after_judging_drags_along_only_what_was_judged(
    app: App, database: str, alive: UUID
) -> None:
    plant_fingerprints(app, alive, orphans=10, beside=20)
    want = expected(app, NOW)
    with session_on(database) as session:
        swept = Sweep(ORPHANED_FINGERPRINTS, session, options())
        steps = iter(swept)
        advance(steps, "counting")
        app.execute(EMPTY_SESSIONS)
        finish(swept, steps)
    assert snapshot(app).rows["device_fingerprints"] == want.rows["device_fingerprints"]


# --- Locked rows.


def make_expired(app: App) -> UUID:
    return rows.session(app, NOW - DAY)


def make_old(app: App) -> UUID:
    return rows.decline(app, NOW - 8 * DAY)


@pytest.mark.parametrize(
    ("rule", "table", "make"),
    [
        (EXPIRED_SESSIONS, "after_hours_sessions", make_expired),
        (OLD_DECLINES, "after_hours_declines", make_old),
        (ORPHANED_FINGERPRINTS, "device_fingerprints", rows.orphaned_fingerprint),
    ],
    ids=lambda value: str(getattr(value, "name", "")),
)
@pytest.mark.parametrize(
    ("pace", "limit"),
    [(TINY, None), (LARGE, 1000), (SHARED, None)],
    ids=["small_windows", "large_windows_up_to_a_limit", "two_connections"],
)
@pytest.mark.usefixtures("alive")
def test_locked_rows_are_left_and_told_and_the_rest_of_their_window_is_done(
    app: App, database: str, rule: Any, table: str, make: Callable[[App], UUID], pace: Any, limit: int | None
) -> None:
    due = [make(app) for _ in range(30)]
    locked = [due[0], due[11], due[29]]
    lock = f"select from {table} where id = any(%s) for update"
    with holding(database, lock, locked):
        result = sweep(database, rule, pace=pace, budget=Budget(rows=limit))
        assert (result.status, result.affected, result.remaining) == (Status.SUCCESS, 27, 3)
        assert snapshot(app).only_here(expected(app, NOW))[table] == 3
        assert any("3 rows" in note for note in result.notes)
    assert sweep(database, rule).affected == 3
    assert expected(app, NOW) == snapshot(app)


@pytest.mark.usefixtures("alive")
def test_a_row_that_was_locked_and_is_free_at_the_end_is_done_after_all(app: App, database: str) -> None:
    few_rows_a_page(app, "after_hours_declines")
    due = [make_old(app) for _ in range(40)]
    with (
        holding(database, "select from after_hours_declines where id = %s for update", due[0]) as user,
        session_on(database) as session,
    ):
        swept = Sweep(OLD_DECLINES, session, options(pace=TINY))
        steps = iter(swept)
        advance(steps, "windows")
        user.execute("rollback")
        result = finish(swept, steps)
    assert (result.status, result.affected, result.remaining) == (Status.SUCCESS, 40, 0)


def test_a_table_that_a_migration_locks_for_a_moment_is_swept_all_the_same(
    app: App, database: str, alive: UUID
) -> None:
    plant_fingerprints(app, alive, orphans=5, beside=5)
    lock = "lock table device_fingerprints in access exclusive mode"
    with holding(database, lock) as migration, running(database, ORPHANED_FINGERPRINTS) as on:
        wait_for_sweep_to_wait_on(database, migration)
        wait_for_sweep_to_give_up_on(database, migration)
        migration.execute("commit")
        result = on.wait()
    assert (result.status, result.affected, result.remaining) == (Status.SUCCESS, 5, 0)


def test_a_table_that_stays_locked_ends_the_sweep_in_bounded_time_and_the_lock_is_named(
    app: App, database: str, alive: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cleanup_pipeline.sweep.reader._PATIENCE_S", 1.0)
    plant_fingerprints(app, alive, orphans=5, beside=5)
    before = snapshot(app)
    with holding(database, "lock table device_fingerprints in access exclusive mode"):
        result = sweep(database, ORPHANED_FINGERPRINTS)
    assert result.status is Status.FAILED
    assert "lock" in (result.error or "")
    assert result.duration_s is not None
    assert result.duration_s < 15
    assert snapshot(app) == before


# --- Deadlocks: the app must never be the victim.


def test_the_sweep_gives_way_in_a_deadlock_and_the_app_does_not(app: App, database: str) -> None:
    app.execute("drop index after_hours_sessions_active_expiry")
    due = plant_sessions(app, due=30)
    first, last = due[0], due[-1]
    touch = "update after_hours_sessions set fuzzed_latitude = 1 where id = %s"
    with holding(database, touch, last) as user, running(database, EXPIRED_SESSIONS, pace=LARGE) as on:
        # The sweep has changed the first rows by now, and waits for the last.
        wait_for_sweep_to_wait_on(database, user)
        user.execute(touch.encode(), [first])  # would raise DeadlockDetected
        user.execute("commit")
        result = on.wait()
    assert (result.status, result.affected, result.remaining) == (Status.SUCCESS, 30, 0)
    assert expected(app, NOW) == snapshot(app)


@pytest.mark.parametrize(
    ("deadlock_timeout", "statement_ms", "lock_ms"), [("1s", 800, 100), ("200ms", 160, 80), ("1min", 800, 100)]
)
@pytest.mark.usefixtures("alive")
def test_a_writing_statement_gives_up_well_before_the_servers_deadlock_detector(
    app: App, database: str, deadlock_timeout: str, statement_ms: int, lock_ms: int
) -> None:
    app.execute(
        sql.SQL("alter database {} set deadlock_timeout = {}").format(
            sql.Identifier(name_of(database)), sql.Literal(deadlock_timeout)
        )
    )
    app.execute("create table seen (setting text, ms numeric)")
    app.execute(
        """
        create function see() returns trigger language plpgsql as $$
        begin
            insert into public.seen
            select name, extract(epoch from current_setting(name)::interval) * 1000
            from unnest(array['statement_timeout', 'lock_timeout']) name;
            return old;
        end $$
        """
    )
    app.execute("create trigger see after delete on after_hours_declines for each row execute function see()")
    make_old(app)
    assert sweep(database, OLD_DECLINES).affected == 1
    assert dict(app.execute("select * from seen").fetchall()) == {
        "statement_timeout": statement_ms,
        "lock_timeout": lock_ms,
    }


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule.name))
def test_no_transaction_is_left_open_between_two_steps(app: App, database: str, alive: UUID, rule: Any) -> None:
    few_rows_a_page(app, "after_hours_sessions", "after_hours_declines", "device_fingerprints")
    plant_sessions(app, due=20)
    plant_fingerprints(app, alive, orphans=5, beside=20)
    for _ in range(20):
        make_old(app)
    with session_on(database) as session:
        for _ in Sweep(rule, session, options(pace=TINY)):
            assert app.execute(
                "select state from pg_stat_activity where pid = %s", [session.connection.info.backend_pid]
            ).fetchall() == [("idle",)]


# --- A parent that is about to come (C15: an orphan sweep took rows whose parent's transaction was about to commit).


def test_an_orphan_whose_session_is_not_committed_yet_is_spared_by_the_grace(
    app: App, database: str, alive: UUID
) -> None:
    owner, coming = rows.user(app), uuid4()
    insert = (
        "insert into after_hours_sessions"
        " (id, user_id, expires_at, latitude, longitude, fuzzed_latitude, fuzzed_longitude)"
        " values (%s, %s, %s, 0, 0, 0, 0)"
    )
    with holding(database, insert, coming, owner, NOW + HOUR) as user:
        early = rows.fingerprint(app, coming, NOW - timedelta(minutes=50))
        orphan = rows.orphaned_fingerprint(app, NOW - timedelta(minutes=61))
        assert sweep(database, ORPHANED_FINGERPRINTS).affected == 1
        assert rows.exists(app, "device_fingerprints", id=early)
        assert not rows.exists(app, "device_fingerprints", id=orphan)
        user.execute("commit")
    assert sweep(database, ORPHANED_FINGERPRINTS, as_of=NOW + HOUR).affected == 0
    assert rows.exists(app, "device_fingerprints", id=early)
    assert rows.exists(app, "after_hours_sessions", id=alive)
