"""One row that can't be changed, triggers of every kind, and settings that would change what a statement means."""

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from psycopg import Connection, sql

from cleanup_pipeline.demo.data import plant
from cleanup_pipeline.demo.schema import create_tables
from cleanup_pipeline.postgres import Database, Session
from cleanup_pipeline.rules import (
    EXPIRED_SESSIONS,
    OLD_DECLINES,
    ORPHANED_FINGERPRINTS,
    ORPHANED_PROFILES,
    RULES,
    Rule,
)
from cleanup_pipeline.sweep.catalog import Leaf
from cleanup_pipeline.sweep.plan import plan
from cleanup_pipeline.sweep.result import Result, Status
from cleanup_pipeline.sweep.statements import Blocks, Rows
from cleanup_pipeline.sweep.sweep import Sweep
from cleanup_pipeline.sweep.window import Budget, Leftovers
from cleanup_pipeline_tests.databases import database_in_sql_ascii, name_of
from cleanup_pipeline_tests.oracle import expected, snapshot
from cleanup_pipeline_tests.servers import on_each_server
from cleanup_pipeline_tests.sweep import rows
from cleanup_pipeline_tests.sweep.steps import (
    LARGE,
    NOW,
    SHARED,
    TINY,
    connected,
    few_rows_a_page,
    finish,
    options,
    session_on,
    sweep,
    sweep_all,
)

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
MARK = "mark-of-a-person"

App = Connection[Any]

each_pace = pytest.mark.parametrize("pace", [TINY, LARGE, SHARED], ids=lambda pace: str(pace.name))


@pytest.fixture
def alive(app: App) -> UUID:
    """A session that is on."""
    return rows.session(app)


def make_due(app: App, rule: Rule, *, mark: str = "") -> object:
    """A row that the rule is to clean; `mark` stands in one of its personal columns."""
    if rule is EXPIRED_SESSIONS:
        return rows.session(app, NOW - DAY, of=rows.user(app, mark or None))
    if rule is OLD_DECLINES:
        identity = rows.decline(app, NOW - 8 * DAY)
        if mark:
            user = rows.user(app, mark)
            app.execute("update after_hours_declines set declined_user_id = %s where id = %s", [user, identity])
        return identity
    if rule is ORPHANED_FINGERPRINTS:
        return rows.orphaned_fingerprint(app, device_model=mark or None)
    return rows.profile(app, mark or f"nobody {NOW}", NOW - DAY)


TABLES = {
    EXPIRED_SESSIONS.name: "after_hours_sessions",
    OLD_DECLINES.name: "after_hours_declines",
    ORPHANED_FINGERPRINTS.name: "device_fingerprints",
}
MARKED_COLUMNS = {
    EXPIRED_SESSIONS.name: "user_id",
    OLD_DECLINES.name: "declined_user_id",
    ORPHANED_FINGERPRINTS.name: "device_model",
}
DUE = {
    EXPIRED_SESSIONS.name: "expires_at < '2026-11-24 04:00Z'",
    OLD_DECLINES.name: "created_at < '2026-11-17 04:00Z'",
    ORPHANED_FINGERPRINTS.name: "session_id not in (select id from after_hours_sessions)",
}
each_rule = pytest.mark.parametrize(
    "rule", [EXPIRED_SESSIONS, OLD_DECLINES, ORPHANED_FINGERPRINTS], ids=lambda rule: str(rule.name)
)


def plant_due(app: App, rule: Rule, number: int, *, marked: int = 0) -> None:
    """Due rows, the marked ones in their midst."""
    few_rows_a_page(app, TABLES[rule.name])
    for index in range(number):
        middle = number // 2 <= index < number // 2 + marked
        make_due(app, rule, mark=f"{MARK} {index}" if middle else "")


def add_trigger(app: App, rule: Rule, body: str, *, when: str = "before") -> None:
    """A trigger that runs `body` (PL/pgSQL) for each row that the rule is about to change or has changed."""
    event, row = ("update", "new") if rule is EXPIRED_SESSIONS else ("delete", "old")
    app.execute(
        f"create function watch() returns trigger language plpgsql as $$ begin {body}; return {row}; end $$".encode()
    )
    app.execute(
        f"create trigger watch {when} {event} on {TABLES[rule.name]} for each row execute function watch()".encode()
    )


def if_marked(rule: Rule, then: str) -> str:
    return f"if old.{MARKED_COLUMNS[rule.name]} like '{MARK}%' then {then}; end if"


def left(app: App, rule: Rule) -> int:
    """How many rows the rule should have cleaned and did not."""
    return snapshot(app).only_here(expected(app, NOW))[TABLES[rule.name]]


def assert_tells_nothing_of_anybody(result: Result) -> None:
    told = " ".join([result.error or "", result.access or "", *result.notes])
    assert MARK not in told
    assert "52.52" not in told
    assert not re.search(r"[0-9a-f]{8}-[0-9a-f]{4}", told), "an id is told"


# --- One row that can't be changed.


@each_pace
@pytest.mark.parametrize("limit", [None, 1000], ids=["without_a_limit", "up_to_a_limit"])
@pytest.mark.parametrize("bad", [1, 3])
def test_a_session_that_a_check_not_valid_forbids_to_close_stays_and_the_others_are_closed(
    app: App, database: str, pace: Any, limit: int | None, bad: int
) -> None:
    plant_due(app, EXPIRED_SESSIONS, 40, marked=bad)
    app.execute(
        f"alter table after_hours_sessions add constraint no_marks"
        f" check (user_id not like '{MARK}%') not valid".encode()
    )
    result = sweep(database, EXPIRED_SESSIONS, pace=pace, budget=Budget(rows=limit))
    assert (result.status, result.affected, result.remaining) == (Status.FAILED, 40 - bad, bad)
    assert "constraint no_marks" in (result.error or "")
    assert "public.after_hours_sessions" in (result.error or "")
    assert left(app, EXPIRED_SESSIONS) == bad
    assert_tells_nothing_of_anybody(result)


@each_rule
@pytest.mark.parametrize(
    "raises",
    [
        pytest.param("raise exception 'not %', old", id="an_exception"),
        pytest.param("raise exception 'not %', old using errcode = '22023', detail = old::text", id="a_data_exception"),
        pytest.param("raise exception 'not %', old using errcode = 'AH001'", id="a_code_of_the_apps_own"),
        pytest.param("raise exception 'not %', old using errcode = 'object_not_in_prerequisite_state'", id="a_state"),
        pytest.param("raise exception 'not %', old using errcode = '40001'", id="a_code_as_if_others_were_in_the_way"),
        pytest.param("raise exception 'not %', old using errcode = '55P03'", id="a_code_as_if_it_were_locked"),
        pytest.param(
            "raise exception 'no' using errcode = '23514', constraint = old::text, table = old::text",
            id="a_constraint_named_like_the_row",
        ),
        pytest.param("perform 1 / 0", id="a_division_by_zero"),
        pytest.param("perform old::text::uuid", id="a_cast_that_quotes_the_row"),
        pytest.param("perform no_such_column from users", id="a_mistake_in_the_trigger"),
        pytest.param("perform from a_table_that_is_gone", id="a_table_that_is_gone"),
    ],
)
def test_a_row_whose_trigger_raises_stays_and_the_others_are_cleaned(
    app: App, database: str, alive: UUID, rule: Rule, raises: str
) -> None:
    plant_due(app, rule, 20, marked=1)
    add_trigger(app, rule, if_marked(rule, raises))
    result = sweep(database, rule)
    assert (result.status, result.affected, result.remaining) == (Status.FAILED, 19, 1)
    assert "watch" in (result.error or "")
    assert left(app, rule) == 1
    assert rows.exists(app, "after_hours_sessions", id=alive)
    assert_tells_nothing_of_anybody(result)


@each_pace
def test_declines_that_another_table_refers_to_without_an_action_stay_and_it_is_named(
    app: App, database: str, pace: Any
) -> None:
    plant_due(app, OLD_DECLINES, 40)
    app.execute("create table reports (id int, decline_id uuid references after_hours_declines)")
    app.execute("insert into reports select 1, id from after_hours_declines order by ctid offset 7 limit 5")
    before = app.execute("select * from reports").fetchall()
    result = sweep(database, OLD_DECLINES, pace=pace)
    assert (result.status, result.affected, result.remaining) == (Status.FAILED, 35, 5)
    assert "reports" in (result.error or "")
    assert "reports_decline_id_fkey" in (result.error or "")
    assert any("reports" in note for note in result.notes), "preflight tells it before"
    assert left(app, OLD_DECLINES) == 5
    assert app.execute("select * from reports").fetchall() == before
    assert_tells_nothing_of_anybody(result)


def test_a_foreign_key_that_is_checked_at_the_commit_alone_is_narrowed_down_too(app: App, database: str) -> None:
    plant_due(app, OLD_DECLINES, 20)
    app.execute("create table reports (decline_id uuid references after_hours_declines deferrable initially deferred)")
    app.execute("insert into reports select id from after_hours_declines order by ctid offset 7 limit 2")
    result = sweep(database, OLD_DECLINES)
    assert (result.status, result.affected, result.remaining) == (Status.FAILED, 18, 2)
    assert "reports_decline_id_fkey" in (result.error or "")
    assert left(app, OLD_DECLINES) == 2


def test_a_bad_row_and_a_locked_row_of_one_window_are_told_apart(app: App, database: str) -> None:
    plant_due(app, OLD_DECLINES, 20, marked=1)
    add_trigger(app, OLD_DECLINES, if_marked(OLD_DECLINES, "raise exception 'no'"))
    with connected(database) as user:
        user.execute("begin")
        user.execute("select from after_hours_declines order by ctid limit 1 for update")
        result = sweep(database, OLD_DECLINES, pace=LARGE)
    assert (result.status, result.affected, result.remaining) == (Status.FAILED, 18, 2)
    assert left(app, OLD_DECLINES) == 2


def test_the_next_rules_go_on_after_one_that_failed(app: App, database: str) -> None:
    planted = plant(app, 100, NOW)
    app.execute("alter table after_hours_sessions add constraint never check (ended_at is null) not valid")
    results = sweep_all(database)
    assert results["expired_sessions"].status is Status.FAILED
    assert results["expired_sessions"].remaining == planted.due["expired_sessions"]
    for name, result in list(results.items())[1:]:
        assert (result.status, result.affected) == (Status.SUCCESS, planted.due[name])


def test_rows_that_can_none_of_them_be_changed_end_the_rule_after_a_bounded_number_of_tries(
    app: App, database: str
) -> None:
    plant(app, 2100, NOW)
    before = snapshot(app)
    add_trigger(app, OLD_DECLINES, "raise exception 'never'", when="after")
    result = sweep(database, OLD_DECLINES)
    assert (result.status, result.affected) == (Status.FAILED, 0)
    assert "1,000" in (result.error or "")
    assert snapshot(app) == before


def test_a_bad_row_does_not_use_up_a_limit_on_rows(app: App, database: str) -> None:
    plant_due(app, OLD_DECLINES, 20, marked=1)
    add_trigger(app, OLD_DECLINES, if_marked(OLD_DECLINES, "raise exception 'no'"))
    result = sweep(database, OLD_DECLINES, budget=Budget(rows=15))
    assert (result.affected, result.remaining) == (15, 5)
    assert left(app, OLD_DECLINES) == 5


@each_rule
def test_a_row_that_takes_too_long_to_change_stays_and_the_timeout_is_named(
    app: App, database: str, alive: UUID, rule: Rule
) -> None:
    plant_due(app, rule, 4, marked=1)
    add_trigger(app, rule, if_marked(rule, "perform pg_sleep(20)"))
    app.execute(sql.SQL("alter database {} set deadlock_timeout = '100ms'").format(sql.Identifier(name_of(database))))
    result = sweep(database, rule)
    assert (result.status, result.affected, result.remaining) == (Status.FAILED, 3, 1)
    assert "statement_timeout" in (result.error or "")
    assert rows.exists(app, "after_hours_sessions", id=alive)


# --- Triggers that keep rows, or bring them back.


@each_rule
@pytest.mark.parametrize("limit", [None, 1000], ids=["without_a_limit", "up_to_a_limit"])
def test_rows_that_a_trigger_silently_keeps_end_the_rule_as_failed_and_the_trigger_is_named(
    app: App, database: str, alive: UUID, rule: Rule, limit: int | None
) -> None:
    plant_due(app, rule, 20, marked=3)
    add_trigger(app, rule, if_marked(rule, "return null"))
    result = sweep(database, rule, pace=TINY, budget=Budget(rows=limit))
    assert (result.status, result.affected, result.remaining) == (Status.FAILED, 17, 3)
    assert "watch" in (result.error or "")
    assert left(app, rule) == 3
    assert rows.exists(app, "after_hours_sessions", id=alive)
    assert_tells_nothing_of_anybody(result)


@each_rule
def test_a_trigger_that_keeps_every_row_ends(app: App, database: str, alive: UUID, rule: Rule) -> None:
    plant_due(app, rule, 20)
    add_trigger(app, rule, "return null")
    before = snapshot(app)
    result = sweep(database, rule)
    assert (result.status, result.affected, result.remaining) == (Status.FAILED, 0, 20)
    assert snapshot(app) == before
    assert rows.exists(app, "after_hours_sessions", id=alive)


@each_rule
def test_a_trigger_that_only_watches_does_not_make_locked_rows_a_failure(
    app: App, database: str, alive: UUID, rule: Rule
) -> None:
    plant_due(app, rule, 10)
    rows.fingerprint(app, alive, NOW - DAY)
    add_trigger(app, rule, "null")
    with connected(database) as user:
        user.execute("begin")
        user.execute(
            f"select from {TABLES[rule.name]} where {DUE[rule.name]} order by ctid limit 1 for update".encode()
        )
        result = sweep(database, rule)
    assert (result.status, result.affected, result.remaining) == (Status.SUCCESS, 9, 1)


@pytest.mark.parametrize("rule", [OLD_DECLINES, ORPHANED_FINGERPRINTS], ids=lambda rule: str(rule.name))
@each_pace
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_trigger_that_inserts_the_row_again_ends_and_what_it_brought_back_is_told(
    app: App, database: str, alive: UUID, rule: Rule, pace: Any, when: str
) -> None:
    plant_due(app, rule, 20, marked=3)
    app.execute("alter table after_hours_declines drop constraint after_hours_declines_user_id_declined_user_id_key")
    add_trigger(
        app,
        rule,
        if_marked(rule, f"old.id := gen_random_uuid(); insert into public.{TABLES[rule.name]} select (old).*"),
        when=when,
    )
    result = sweep(database, rule, pace=pace)
    assert (result.remaining, left(app, rule)) == (3, 3)
    if when == "before":
        assert result.status is Status.FAILED
    assert rows.exists(app, "after_hours_sessions", id=alive)


@each_pace
def test_a_trigger_that_opens_the_session_again_ends_and_is_told(app: App, database: str, pace: Any) -> None:
    plant_due(app, EXPIRED_SESSIONS, 20, marked=3)
    add_trigger(app, EXPIRED_SESSIONS, if_marked(EXPIRED_SESSIONS, "new.ended_at := null"))
    result = sweep(database, EXPIRED_SESSIONS, pace=pace)
    assert result.status is Status.FAILED
    assert (result.remaining, left(app, EXPIRED_SESSIONS)) == (3, 3)
    assert "watch" in (result.error or "")


@on_each_server
def test_the_apps_triggers_generated_columns_and_indexes_find_their_own_unqualified_names(
    app: App, database: str
) -> None:
    app.execute("create schema audit create table log (what text)")
    app.execute(sql.SQL("alter database {} set search_path = audit, public").format(sql.Identifier(name_of(database))))
    app.execute("set check_function_bodies = off")
    app.execute(
        "create function note() returns trigger language plpgsql as"
        " $$ begin insert into log select tg_table_name from users limit 1; return null; end $$"
    )
    for rule in RULES:
        event = "update" if rule is EXPIRED_SESSIONS else "delete"
        app.execute(
            f"create trigger note after {event} on {rule.table.name} for each row execute function note()".encode()
        )
    planted = plant(app, 100, NOW)
    app.execute(
        "create function audit.known(timestamptz) returns bool language sql immutable as 'select $1 is null or true';"
        "create function over(timestamptz) returns bool language sql immutable as 'select known($1)';"
        "set search_path = audit, public;"
        "alter table after_hours_sessions add over bool generated always as (public.over(ended_at)) stored"
    )
    if app.info.server_version < 170000:  # later ones make no such index
        app.execute("create index on after_hours_profiles (public.over(created_at))")
    want = expected(app, NOW)
    results = sweep_all(database)
    assert {name: (result.status, result.affected) for name, result in results.items()} == {
        name: (Status.SUCCESS, due) for name, due in planted.due.items()
    }
    assert snapshot(app) == want
    assert dict(app.execute("select what, count(*) from audit.log group by what").fetchall()) == {
        rule.table.name: planted.due[rule.name] for rule in RULES
    }


# --- Settings of the database and of the role.

SETTINGS: dict[str, dict[str, str]] = {
    "statement_timeout": {"statement_timeout": "80ms"},
    "lock_timeout": {"lock_timeout": "1ms"},
    "transaction_timeout": {"transaction_timeout": "100ms", "idle_in_transaction_session_timeout": "1ms"},
    "idle_session_timeout": {"idle_session_timeout": "200ms"},
    "deadlock_timeout": {"deadlock_timeout": "100ms"},
    "serializable": {"default_transaction_isolation": "serializable", "default_transaction_deferrable": "on"},
    "repeatable_read": {"default_transaction_isolation": "repeatable read"},
    "decoy_before_public": {"search_path": "decoy, public"},
    "decoy_before_pg_catalog": {"search_path": "decoy, pg_catalog, public"},
    "empty_search_path": {"search_path": "''"},
    "odd_search_path": {"search_path": '"$user", "odd \'\'schema", no_such_schema'},
    "dates": {"TimeZone": "Pacific/Kiritimati", "DateStyle": "SQL, DMY", "IntervalStyle": "sql_standard"},
    "strings": {"standard_conforming_strings": "off", "backslash_quote": "off", "quote_all_identifiers": "on"},
    "encoding": {"client_encoding": "LATIN1", "client_min_messages": "debug1"},
    "nulls": {"transform_null_equals": "on", "array_nulls": "off"},
    "no_scans": {"enable_tidscan": "off", "enable_seqscan": "off", "enable_indexscan": "off"},
    "no_joins": {"enable_nestloop": "off", "enable_hashjoin": "off", "work_mem": "64kB"},
    "plans": {"plan_cache_mode": "force_generic_plan", "jit_above_cost": "0", "debug_parallel_query": "on"},
    "roles": {"row_security": "off", "application_name": "impostor", "synchronous_commit": "off"},
}


def set_for(app: App, whose: sql.Composed, settings: dict[str, str]) -> None:
    """Set defaults of a database or role, as far as this server knows the settings."""
    for setting, value in settings.items():
        if app.execute("select from pg_settings where name = %s", [setting]).fetchall():
            written = sql.SQL(value) if setting == "search_path" else sql.Literal(value)
            app.execute(sql.SQL("alter {} set {} = {}").format(whose, sql.Identifier(setting), written))


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_settings_of_the_database_change_no_result(app: App, database: str, settings: dict[str, str]) -> None:
    planted = plant(app, 300, NOW)
    want = expected(app, NOW)
    if "search_path" in settings:
        make_decoys(app)
    set_for(app, sql.SQL("database {}").format(sql.Identifier(name_of(database))), settings)
    results = sweep_all(database)
    assert {name: (result.status, result.affected, result.remaining) for name, result in results.items()} == {
        name: (Status.SUCCESS, due, 0) for name, due in planted.due.items()
    }
    assert snapshot(app) == want
    assert "search_path" not in settings or decoys_are_as_they_were(app)


def make_decoys(app: App) -> None:
    """A schema with tables of the same names and with functions, operators and types that shadow PostgreSQL's."""
    app.execute("create schema decoy")
    for rule in RULES:
        app.execute(f"create table decoy.{rule.table.name} as table public.{rule.table.name}".encode())
    app.execute("create table decoy.users as table public.users limit 1")
    app.execute("create table decoy.cleanup_candidates (tid tid, ref uuid)")
    for shadow in (
        "function decoy.now() returns timestamptz language sql as $$ select timestamptz 'infinity' $$",
        "function decoy.clock_timestamp() returns timestamptz language sql as $$ select timestamptz 'infinity' $$",
        "function decoy.set_config(text, text, bool) returns text language sql as $$ select null $$",
        "function decoy.current_setting(text) returns text language sql as $$ select '1' $$",
        "function decoy.pg_relation_size(regclass) returns bigint language sql as $$ select 0::bigint $$",
        "function decoy.later(timestamptz, timestamptz) returns bool language sql as $$ select true $$",
        "function decoy.alike(uuid, uuid) returns bool language sql as $$ select false $$",
        "function decoy.alike(varchar, varchar) returns bool language sql as $$ select false $$",
        "operator decoy.< (leftarg = timestamptz, rightarg = timestamptz, function = decoy.later)",
        "operator decoy.= (leftarg = uuid, rightarg = uuid, function = decoy.alike)",
        "operator decoy.= (leftarg = varchar, rightarg = varchar, function = decoy.alike)",
        "domain decoy.tid as text",
    ):
        app.execute(f"create {shadow}".encode())


BETTER_FITTING = (
    "convert_to(name, text) returns bytea",
    "convert_to(text, text) returns bytea",
    "has_database_privilege(name, text) returns bool",
    "pg_relation_size(oid) returns bigint",
    "pg_total_relation_size(oid) returns bigint",
    "quote_ident(name) returns text",
    "unnest(bigint[]) returns setof bigint",
    "unnest(int2[]) returns setof int2",
    "unnest(text[]) returns setof text",
)
BETTER_FITTING_OPERATORS = (
    ("&", "int2", "int4", "int4"),
    ("=", "regclass", "oid", "bool"),
    ("<", "real", "int", "bool"),
    ("=", '"char"', "text", "bool"),
    ("=", "varchar", "text", "bool"),
    ("=", "varchar", "varchar", "bool"),
    ("@>", "int2[]", "int2[]", "bool"),
)


@pytest.mark.parametrize("pooled", [False, True], ids=["alone", "behind_a_pooler"])
def test_functions_and_operators_that_fit_better_than_the_servers_own_are_never_called(
    app: App, database: str, pooled: bool
) -> None:
    planted = plant(app, 100, NOW)
    want = expected(app, NOW)
    trap = "language plpgsql as $$ begin raise exception 'called'; end $$"
    for function in BETTER_FITTING:
        app.execute(f"create function public.{function} {trap}".encode())
    for number, (operator, left, right, result) in enumerate(BETTER_FITTING_OPERATORS):
        app.execute(f"create function trap{number}({left}, {right}) returns {result} {trap}".encode())
        operands = f"leftarg = {left}, rightarg = {right}, function = trap{number}"
        app.execute(f"create operator public.{operator} ({operands})".encode())
    app.execute(f"create function step(text, name, text) returns text {trap}".encode())
    app.execute(f"create function final(text) returns text {trap}".encode())
    app.execute("create aggregate public.string_agg(name, text) (sfunc = step, stype = text, finalfunc = final)")
    app.execute("create function watch() returns trigger language plpgsql as 'begin return null; end'")
    app.execute(
        "create trigger watch after delete on after_hours_declines for each row execute function watch();"
        "create table reasons (decline_id uuid references after_hours_declines)"
    )
    with session_on(database) as session:
        plans = {rule.name: plan(rule, session, options()).candidates for rule in RULES}
    assert plans == planted.due
    with app.transaction():
        app.execute("select from after_hours_profiles where user_id like 'nobody%' limit 1 for update")
        results = sweep_all(database, pooled=pooled)
    assert {name: (result.status, result.affected) for name, result in results.items()} == {
        name: (Status.SUCCESS, due - (name == ORPHANED_PROFILES.name)) for name, due in planted.due.items()
    }
    assert sweep(database, ORPHANED_PROFILES, pooled=pooled).affected == 1
    assert snapshot(app) == want


def decoys_are_as_they_were(app: App) -> bool:
    """The tables of the decoy schema still hold what `plant` had put into those of the app."""
    return all(
        app.execute(f"select count(*) from decoy.{rule.table.name}".encode()).fetchall() == [(300,)] for rule in RULES
    )


@pytest.mark.parametrize("settings", ["statement_timeout", "idle_session_timeout", "dates", "decoy_before_pg_catalog"])
def test_settings_of_the_role_change_no_result(app: App, database: str, superuser: str, settings: str) -> None:
    planted = plant(app, 300, NOW)
    want = expected(app, NOW)
    make_decoys(app)
    set_for(app, sql.SQL("role {}").format(sql.Identifier(superuser)), SETTINGS[settings])
    parameters = Database.parse(database).parameters | {"user": superuser}
    with Session(Database(parameters, "here")) as session:
        results = {rule.name: finish(Sweep(rule, session, options())) for rule in RULES}
    assert {name: (result.status, result.affected) for name, result in results.items()} == {
        name: (Status.SUCCESS, due) for name, due in planted.due.items()
    }
    assert snapshot(app) == want


@pytest.fixture
def superuser(app: App, database: str) -> Iterator[str]:
    name = f"role_of_{name_of(database)}"
    role = sql.Identifier(name)
    app.execute(sql.SQL("create role {} superuser login").format(role))
    yield name
    app.execute(sql.SQL("drop role {}").format(role))


def test_a_large_table_is_swept_under_a_statement_timeout_of_the_databases_own(app: App, database: str) -> None:
    plant(app, 100, NOW)
    app.execute(
        "insert into after_hours_declines (session_id, user_id, declined_user_id, created_at)"
        " select s.id, a.id, b.id, %s - row_number() over () * interval '1 minute'"
        " from (select id from after_hours_sessions limit 1) s, users a, users b"
        " on conflict do nothing",
        [NOW - 2 * DAY],
    )
    app.execute(sql.SQL("alter database {} set statement_timeout = '80ms'").format(sql.Identifier(name_of(database))))
    want = expected(app, NOW)
    result = sweep(database, OLD_DECLINES)
    assert (result.status, result.remaining) == (Status.SUCCESS, 0)
    assert snapshot(app).rows["after_hours_declines"] == want.rows["after_hours_declines"]


@pytest.fixture
def sql_ascii(server_url: str) -> Iterator[str]:
    """A database that knows no encoding, with After Hours' tables, all empty."""
    with database_in_sql_ascii(server_url) as url:
        with connected(url) as app:
            create_tables(app)
        yield url


def plant_names_in_latin_1(app: App, *, profiles: int, users: int) -> None:
    for number in range(users):
        app.execute("insert into users (id, provider) values (E'M\\xfcller ' || %s::text, 'phone')", [number])
    for number in range(profiles):
        app.execute(
            "insert into after_hours_profiles (user_id, photo_url, created_at, updated_at)"
            " values (E'M\\xfcller ' || %s::text, '', %s, %s)",
            [number, NOW - DAY, NOW - DAY],
        )


@pytest.mark.parametrize("pooled", [False, True], ids=["alone", "behind_a_pooler"])
def test_a_database_in_sql_ascii_is_swept_whatever_bytes_it_holds(sql_ascii: str, pooled: bool) -> None:
    with connected(sql_ascii) as app:
        plant_names_in_latin_1(app, profiles=5, users=3)
        result = sweep(sql_ascii, ORPHANED_PROFILES, pooled=pooled)
        assert (result.status, result.affected, result.remaining) == (Status.SUCCESS, 2, 0)
        assert app.execute("select count(*) from after_hours_profiles").fetchall() == [(3,)]


def test_a_bad_row_in_a_database_in_sql_ascii_stays_alone(sql_ascii: str) -> None:
    with connected(sql_ascii) as app:
        plant_names_in_latin_1(app, profiles=5, users=2)
        app.execute("create table kept (user_id varchar(255) references after_hours_profiles)")
        app.execute("insert into kept select max(user_id) from after_hours_profiles")
        result = sweep(sql_ascii, ORPHANED_PROFILES)
        assert (result.status, result.affected, result.remaining) == (Status.FAILED, 2, 1)
        assert app.execute("select count(*) from after_hours_profiles").fetchall() == [(3,)]


def test_what_is_left_over_is_noted_once_however_often_it_is_met() -> None:
    leaf = Leaf(1, OLD_DECLINES.table)
    left = Leftovers()
    for scope in (Blocks(5, 60, most=18), Blocks(5, 6, most=18), Blocks(5, 6)):
        left.note_locked(leaf, scope)
    for _ in range(3):
        left.note_spoilt(leaf, Rows(("(5,1)",)))
    assert (left.locked, left.spoilt) == ([(leaf, Blocks(5, 60))], [(leaf, Rows(("(5,1)",)))])
    assert not left.is_locked(leaf, Blocks(60, 61))


def test_the_halves_of_a_window_take_no_more_rows_than_it_would() -> None:
    assert Blocks(0, 4, most=18).halves() == [Blocks(0, 2, most=18), Blocks(2, 4, most=18)]
