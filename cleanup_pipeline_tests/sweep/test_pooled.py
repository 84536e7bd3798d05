"""Behind a pooler in transaction mode: each transaction may meet another server process."""

import threading
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from psycopg import Connection

from cleanup_pipeline.demo.data import plant
from cleanup_pipeline.postgres import Session
from cleanup_pipeline.rules import ORPHANED_FINGERPRINTS, ORPHANED_PROFILES, RULES, Rule, Table
from cleanup_pipeline.sweep.pace import Pace
from cleanup_pipeline.sweep.result import Status
from cleanup_pipeline.sweep.sweep import Sweep
from cleanup_pipeline.sweep.window import Budget
from cleanup_pipeline_tests.oracle import expected, snapshot
from cleanup_pipeline_tests.sweep import rows
from cleanup_pipeline_tests.sweep.steps import (
    LARGE,
    NOW,
    TINY,
    connected,
    few_rows_a_page,
    finish,
    options,
    session_on,
    sweep_all,
)

App = Connection[Any]

each_pace = pytest.mark.parametrize("pace", [TINY, LARGE], ids=lambda pace: str(pace.name))
each_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule.name))


def forbid_temporary_tables(app: App) -> None:
    app.execute(
        "create function forbid() returns event_trigger language plpgsql as"
        " $$ begin raise exception 'a table is made'; end $$"
    )
    app.execute(
        "create event trigger forbid on ddl_command_start when tag in ('CREATE TABLE') execute function forbid()"
    )


@each_pace
def test_rules_are_carried_out_without_temporary_tables(app: App, database: str, pace: Pace) -> None:
    few_rows_a_page(app, "after_hours_sessions", "device_fingerprints")
    planted = plant(app, 400, NOW)
    app.execute(
        "update after_hours_sessions set ended_at = expires_at where expires_at < %s", [NOW - timedelta(days=3)]
    )
    forbid_temporary_tables(app)
    want = expected(app, NOW)
    results = sweep_all(database, pooled=True, pace=pace)
    assert [(result.status, result.remaining, result.error) for result in results.values()] == [
        (Status.SUCCESS, 0, None)
    ] * 5
    assert results["orphaned_fingerprints"].affected == planted.due["orphaned_fingerprints"]
    assert "pooler" in (results["orphaned_fingerprints"].access or "")
    assert snapshot(app) == want


def switch_server_process(session: Session) -> None:
    """What the pooler does between two transactions."""
    assert session.reconnect(threading.Event())
    session.pooled = True


@pytest.mark.parametrize("limit", [None, 30], ids=["without_a_limit", "up_to_a_limit"])
def test_each_transaction_may_meet_another_server_process(
    app: App, database: str, limit: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cleanup_pipeline.postgres._RECONNECT_PAUSES_S", (0.0,))
    planted = plant(app, 300, NOW)
    want = expected(app, NOW)
    budget = Budget(rows=limit)
    affected = 0
    with session_on(database, pooled=True) as session:
        for rule in RULES:
            swept = Sweep(rule, session, options(pace=TINY, budget=budget))
            for _ in swept:
                switch_server_process(session)
            assert swept.result.status is Status.SUCCESS
            assert swept.result.affected + (swept.result.remaining or 0) == planted.due[rule.name]
            affected += swept.result.affected
    if limit is None:
        assert snapshot(app) == want
    else:
        assert affected == limit


@each_rule
def test_no_lock_of_the_session_is_taken_that_another_client_would_inherit(app: App, database: str, rule: Rule) -> None:
    plant(app, 200, NOW)
    with session_on(database, pooled=True) as session:
        for _ in Sweep(rule, session, options(pace=TINY)):
            locks = app.execute(
                "select locktype from pg_locks where locktype = 'advisory' and pid = %s",
                [session.connection.info.backend_pid],
            ).fetchall()
            assert locks == []


@each_rule
def test_settings_end_with_their_transaction(app: App, database: str, rule: Rule) -> None:
    plant(app, 200, NOW)
    settings = "select name, setting from pg_settings where source in ('session', 'database', 'user') order by name"
    with session_on(database, pooled=True) as session:
        before = session.connection.execute(settings).fetchall()
        finish(Sweep(rule, session, options(pace=TINY)))
        assert session.connection.execute(settings).fetchall() == before


def test_a_fingerprint_that_finds_a_session_between_two_slices_is_kept(app: App, database: str) -> None:
    few_rows_a_page(app, "device_fingerprints")
    alive = rows.session(app)
    orphans = [rows.orphaned_fingerprint(app) for _ in range(60)]
    with session_on(database, pooled=True) as session:
        swept = Sweep(ORPHANED_FINGERPRINTS, session, options(pace=TINY))
        for progress in swept:
            if progress.stage == "windows" and 0 < progress.affected < 40:
                app.execute("update device_fingerprints set session_id = %s where id = %s", [alive, orphans[-1]])
    assert swept.result.affected == 59
    assert rows.exists(app, "device_fingerprints", id=orphans[-1])
    assert snapshot(app) == expected(app, NOW)


def test_orphans_that_appear_after_the_fuse_was_checked_are_not_taken_beyond_it(app: App, database: str) -> None:
    few_rows_a_page(app, "device_fingerprints")
    alive = rows.session(app)
    first = [rows.orphaned_fingerprint(app) for _ in range(10)]
    later = [rows.fingerprint(app, alive, NOW - timedelta(days=1)) for _ in range(60)]
    with session_on(database, pooled=True) as session:
        swept = Sweep(ORPHANED_FINGERPRINTS, session, options(pace=TINY))
        for progress in swept:
            if progress.stage == "judging" and progress.share == 1:
                app.execute("update device_fingerprints set session_id = %s where id = any(%s)", [uuid4(), later])
    assert swept.result.status is Status.SUCCESS
    assert swept.result.affected <= len(first)


@each_rule
def test_locked_rows_are_left_and_told(app: App, database: str, rule: Rule) -> None:
    planted = plant(app, 60, NOW)
    with connected(database) as user, session_on(database, pooled=True) as session:
        user.execute("begin")
        user.execute(f"select from {rule.table.name} for update".encode())
        result = finish(Sweep(rule, session, options()))
    assert (result.status, result.affected, result.remaining) == (Status.SUCCESS, 0, planted.due[rule.name])


def test_whom_an_orphan_referred_to_stands_in_no_statement_that_the_server_may_log(app: App, database: str) -> None:
    gone = "somebody"
    rows.profile(app, gone, NOW - timedelta(days=1))
    rows.profile(app, rows.user(app), NOW - timedelta(days=1))
    app.execute(
        """
        create table statements (text text);
        create function note() returns trigger language plpgsql as
        $$ begin insert into statements select current_query(); return null; end $$;
        create trigger note after delete on after_hours_profiles for each row execute function note();
        alter table after_hours_profiles rename to "100 %s";
        """
    )
    rule = replace(ORPHANED_PROFILES, table=Table("100 %s"))
    with session_on(database, pooled=True) as session:
        result = finish(Sweep(rule, session, options()))
    assert (result.status, result.affected, result.remaining) == (Status.SUCCESS, 1, 0)
    ((statement,),) = app.execute("select text from statements").fetchall()
    assert "$1" in statement
    assert not [written for written in (gone, gone.encode().hex()) if written in statement]
