"""What people do to the tables while a sweep is on: nothing that preflight has not seen may be reached."""

from dataclasses import replace
from typing import Any

import psycopg
import pytest
from psycopg import Connection

from cleanup_pipeline.demo.data import plant
from cleanup_pipeline.rules import OLD_DECLINES, ORPHANED_FINGERPRINTS
from cleanup_pipeline.sweep import judgement
from cleanup_pipeline.sweep.result import Status
from cleanup_pipeline.sweep.sweep import Sweep
from cleanup_pipeline_tests.sweep.steps import NOW, TINY, advance, finish, options, session_on, sweep

App = Connection[tuple[object, ...]]


def count(app: App, table: str) -> object:
    return app.execute(f"select count(*) from {table}".encode()).fetchall()[0][0]


ADD_CASCADE = "alter table after_hours_matches add decline_id uuid references after_hours_declines on delete cascade"


@pytest.mark.parametrize("enforced", [True, False], ids=["added", "enforced"])
def test_a_cascade_that_comes_during_the_sweep_reaches_nothing(app: App, database: str, enforced: bool) -> None:
    plant(app, 400, NOW)
    if not enforced:
        if app.info.server_version < 180000:
            pytest.skip("this server enforces every constraint")
        app.execute(f"{ADD_CASCADE} not enforced".encode())
    matches = count(app, "after_hours_matches")
    with session_on(database) as session:
        swept = Sweep(OLD_DECLINES, session, options(pace=TINY))
        steps = iter(swept)
        advance(steps, "windows")
        app.execute(
            ADD_CASCADE.encode()
            if enforced
            else "alter table after_hours_matches alter constraint after_hours_matches_decline_id_fkey enforced"
        )
        app.execute(
            "update after_hours_matches"
            " set decline_id = (select id from after_hours_declines order by created_at limit 1)"
        )
        result = finish(swept, steps)
    assert result.status is Status.FAILED
    assert "foreign key" in (result.error or "")
    assert count(app, "after_hours_matches") == matches


RUINED = (
    "create function ruin() returns trigger language plpgsql as $$ begin delete from after_hours_messages; {} end $$;"
)


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        (
            "create rule ruin as on delete to after_hours_declines do also delete from after_hours_messages",
            "a rewrite rule was put on public.after_hours_declines (ruin)",
        ),
        (
            "create rule ruin as on delete to after_hours_declines do instead delete from after_hours_messages",
            "a rewrite rule was put on public.after_hours_declines (ruin)",
        ),
        (
            RUINED.format("return old;")
            + "create trigger ruin after delete on after_hours_declines for each row execute function ruin()",
            "a trigger was put on public.after_hours_declines or changed (ruin)",
        ),
        (
            RUINED.format("return null;")
            + "create trigger ruin before delete on after_hours_declines for each row execute function ruin()",
            "a trigger was put on public.after_hours_declines or changed (ruin)",
        ),
        ("alter table after_hours_declines enable trigger asleep", "a trigger was put"),
        (
            RUINED.format("return null;") + "create or replace trigger awake after delete on after_hours_declines"
            " for each row execute function ruin()",
            "a trigger was put on public.after_hours_declines or changed (awake)",
        ),
        (
            RUINED.format("return null;").replace("create function ruin()", "create or replace function nothing()"),
            "a trigger was put on public.after_hours_declines or changed (awake)",
        ),
        ("alter table after_hours_declines enable rule asleep", "a rewrite rule was put"),
        (
            "create table copy (like after_hours_declines including all);"
            "insert into copy select * from after_hours_declines;"
            "create table pins (id uuid references copy on delete cascade); insert into pins select id from copy;"
            "alter table after_hours_declines rename to gone; alter table copy rename to after_hours_declines",
            "public.after_hours_declines was replaced by another table",
        ),
        (
            "alter schema public rename to gone; create schema public;"
            "create table public.after_hours_declines (like gone.after_hours_declines including all);"
            "insert into public.after_hours_declines select * from gone.after_hours_declines",
            "public.after_hours_declines was replaced by another table",
        ),
    ],
    ids=[
        "a rule",
        "a rule instead",
        "a trigger",
        "a trigger instead",
        "a trigger enabled",
        "a trigger replaced",
        "a trigger's function replaced",
        "a rule enabled",
        "another table",
        "another schema",
    ],
)
def test_nothing_more_is_deleted_once_a_delete_does_more_than_preflight_saw(
    app: App, database: str, statement: str, told: str
) -> None:
    plant(app, 400, NOW)
    app.execute(
        "create function nothing() returns trigger language plpgsql as $$ begin return null; end $$;"
        "create trigger awake after delete on after_hours_declines for each row execute function nothing();"
        "create trigger asleep after delete on after_hours_declines for each row execute function nothing();"
        "alter table after_hours_declines disable trigger asleep;"
        "create rule asleep as on delete to after_hours_declines do also notify asleep;"
        "alter table after_hours_declines disable rule asleep"
    )
    with session_on(database) as session:
        swept = Sweep(OLD_DECLINES, session, options(pace=TINY))
        steps = iter(swept)
        advance(steps, "windows")
        messages = count(app, "after_hours_messages")
        app.execute(statement.encode())
        schema = "gone" if "schema" in statement else "public"
        declines = count(app, "public.after_hours_declines")
        result = finish(swept, steps)
    assert result.status is Status.FAILED
    assert told in (result.error or "")
    assert count(app, f"{schema}.after_hours_messages") == messages != 0
    assert count(app, "public.after_hours_declines") == declines


def test_orphans_of_a_parent_that_was_replaced_meanwhile_stay(app: App, database: str) -> None:
    plant(app, 400, NOW)
    fingerprints = count(app, "device_fingerprints")
    with session_on(database) as session:
        swept = Sweep(ORPHANED_FINGERPRINTS, session, options())
        steps = iter(swept)
        advance(steps, "judging")
        app.execute(
            "create table copy (like after_hours_sessions including all);"
            "insert into copy select * from after_hours_sessions;"
            "alter table after_hours_sessions rename to gone; alter table copy rename to after_hours_sessions"
        )
        result = finish(swept, steps)
    assert result.status is Status.FAILED
    assert "public.after_hours_sessions by another" in (result.error or "")
    assert count(app, "device_fingerprints") == fingerprints


def test_a_table_that_inherits_since_the_sweep_began_keeps_its_rows(app: App, database: str) -> None:
    plant(app, 400, NOW)
    with session_on(database) as session:
        swept = Sweep(OLD_DECLINES, session, options(pace=TINY))
        steps = iter(swept)
        advance(steps, "windows")
        app.execute("create table archive () inherits (after_hours_declines)")
        app.execute("insert into archive select * from only after_hours_declines")
        kept = count(app, "archive")
        result = finish(swept, steps)
    assert result.status is Status.SUCCESS
    assert count(app, "archive") == kept
    assert count(app, "only after_hours_declines") == 200


@pytest.mark.parametrize(
    "goes_to",
    ["", ";alter table archive attach partition declines_old for values from (minvalue) to (maxvalue)"],
    ids=["nowhere", "an archive"],
)
def test_a_partition_that_is_detached_during_the_sweep_keeps_its_rows(app: App, database: str, goes_to: str) -> None:
    app.execute(
        """
        create table declines (id uuid default gen_random_uuid(), created_at timestamptz)
            partition by range (created_at);
        create table archive (like declines) partition by range (created_at);
        create table declines_old partition of declines for values from (minvalue) to ('2026-01-01');
        create table declines_new partition of declines for values from ('2026-01-01') to (maxvalue);
        insert into declines (created_at) select '2025-06-01' from generate_series(1, 500);
        insert into declines (created_at) select '2026-06-01' from generate_series(1, 500);
        """
    )
    rule = replace(OLD_DECLINES, table=OLD_DECLINES.table._replace(name="declines"))
    with session_on(database) as session:
        swept = Sweep(rule, session, options(pace=TINY))
        steps = iter(swept)
        advance(steps, "windows")
        app.execute(f"alter table declines detach partition declines_old{goes_to}".encode())
        kept = count(app, "declines_old")
        result = finish(swept, steps)
    assert result.status is Status.FAILED
    assert kept == count(app, "declines_old") != 0


def test_a_parent_that_is_restored_while_its_children_are_judged_makes_no_orphans(
    app: App, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(app, 400, NOW)
    app.execute("create table restored as select * from after_hours_sessions")
    app.execute("alter table after_hours_declines drop constraint after_hours_declines_session_id_fkey")
    app.execute("alter table after_hours_matches drop constraint after_hours_matches_session_id_fkey")
    judge, look = judgement.judge, judgement.require_parent

    def truncate_first(*arguments: Any) -> int:
        with psycopg.connect(database, autocommit=True) as loading:
            loading.execute("truncate after_hours_sessions")
        return judge(*arguments)

    def restore_first(*arguments: Any) -> None:
        with psycopg.connect(database, autocommit=True) as loading:
            loading.execute("insert into after_hours_sessions select * from restored on conflict do nothing")
        look(*arguments)

    monkeypatch.setattr(judgement, "judge", truncate_first)
    monkeypatch.setattr(judgement, "require_parent", restore_first)
    fingerprints = count(app, "device_fingerprints")
    result = sweep(database, ORPHANED_FINGERPRINTS)
    assert result.affected == 0
    assert count(app, "device_fingerprints") == fingerprints


def test_what_waits_for_the_commit_is_done_before_it_where_a_timeout_holds(app: App, database: str) -> None:
    plant(app, 2, NOW)
    app.execute(
        """
        create function dawdle() returns trigger language plpgsql as $$ begin perform pg_sleep(5); return null; end $$;
        create constraint trigger dawdle after delete on after_hours_declines deferrable initially deferred
        for each row execute function dawdle();
        """
    )
    result = sweep(database, OLD_DECLINES)
    assert result.status is Status.FAILED
    assert result.affected == 0
    assert result.longest_batch_ms is not None
    assert result.longest_batch_ms < 1000
