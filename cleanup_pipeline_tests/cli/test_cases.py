"""What went wrong with comparable tools in the wild, as situations of ours; C01 and so on are the cases' ids.

C04, C05, C06 and C20 stand in the table of test_bad_databases.py, C15 among the interleavings.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import psycopg
import pytest
from dagster import AssetKey, DagsterInstance
from psycopg import Connection, sql

from cleanup_pipeline.cli.errors import CODES, ExitCode
from cleanup_pipeline.defs import ops
from cleanup_pipeline.demo.data import plant
from cleanup_pipeline.demo.schema import create_tables
from cleanup_pipeline.demo.server import embedded_server
from cleanup_pipeline.rules import OLD_DECLINES, RULES, Table
from cleanup_pipeline.sweep import preflight
from cleanup_pipeline.sweep.finding import Severity
from cleanup_pipeline.sweep.preflight import inspect
from cleanup_pipeline.sweep.result import Progress, Status
from cleanup_pipeline.sweep.sweep import Sweep
from cleanup_pipeline_tests.cli.conftest import Ended, ended, start
from cleanup_pipeline_tests.databases import database_in_sql_ascii, name_of
from cleanup_pipeline_tests.oracle import expected, snapshot, whole_database
from cleanup_pipeline_tests.sweep.steps import session_on
from cleanup_pipeline_tests.sweep.steps import sweep as sweep_one

Cli = Callable[..., Ended]
App = Connection[Any]

DAY = timedelta(days=1)


def counted(app: App, what: str) -> int:
    return int(app.execute(f"select count(*) from {what}".encode()).fetchall()[0][0])


def plant_declines(app: App, number: int, due: int) -> None:
    """Many declines of one session and two users, the first of them due."""
    app.execute(
        """
        alter table after_hours_declines drop constraint after_hours_declines_user_id_declined_user_id_key;
        insert into users (id, provider) values ('one', 'phone'), ('another', 'phone');
        insert into after_hours_sessions
            (user_id, expires_at, latitude, longitude, fuzzed_latitude, fuzzed_longitude)
        values ('one', now() + interval '1 hour', 0, 0, 0, 0);
        set session_replication_role = replica;
        """
    )
    app.execute(
        "insert into after_hours_declines (session_id, user_id, declined_user_id, created_at)"
        " select s.id, 'one', 'another', now() - case when i <= %s then interval '8 days' else interval '1 day' end"
        " from after_hours_sessions s, generate_series(1, %s) i",
        [due, number],
    )
    app.execute("reset session_replication_role")


def test_c01_a_statement_timeout_of_the_databases_own_leaves_no_rows_behind(cli: Cli, app: App, database: str) -> None:
    plant_declines(app, 300_000, due=150_000)
    app.execute(sql.SQL("alter database {} set statement_timeout = '80ms'").format(sql.Identifier(name_of(database))))
    done = cli("run", "--rule", "old_declines", "--full-speed", "--json")
    assert done.code == 0
    assert (done.rules["old_declines"]["affected"], done.rules["old_declines"]["remaining"]) == (150_000, 0)
    assert counted(app, "after_hours_declines") == 150_000
    assert counted(app, "after_hours_declines where created_at < now() - interval '7 days'") == 0


def test_c03_a_cascade_that_scans_a_large_table_for_each_row_is_told_and_beyond_a_limit_refused(
    app: App, database: str
) -> None:
    plant_declines(app, 20_000, due=1)
    app.execute(
        """
        create table reasons (decline_id uuid) with (autovacuum_enabled = off);
        insert into reasons select id from after_hours_declines where created_at < now() - interval '7 days';
        insert into reasons select gen_random_uuid() from generate_series(1, 1000000);
        alter table reasons add constraint because foreign key (decline_id) references after_hours_declines
        on delete cascade not valid;
        """
    )
    rule = replace(OLD_DECLINES, may_touch=frozenset({Table("reasons")}))
    pages = app.execute("select pg_relation_size('reasons') / 8192").fetchall()[0][0]
    now = datetime.now(UTC)

    with session_on(database) as session:
        told = [finding for finding in inspect(session, rule).findings if "because" in finding.what]
    assert [finding.severity for finding in told] == [Severity.WARNING]
    assert f"scans its {pages:,} pages" in told[0].what
    assert told[0].do == "create index concurrently on public.reasons (decline_id);"

    few = sweep_one(database, rule, as_of=now)
    assert (few.status, few.affected, counted(app, "reasons")) == (Status.SUCCESS, 1, 1_000_000)

    app.execute("update after_hours_declines set created_at = now() - interval '8 days'")
    many = sweep_one(database, rule, as_of=now)
    assert (many.status, many.affected, CODES[many.status]) == (Status.REFUSED, 0, ExitCode.REFUSED)
    for words in ("Deleting 19,999 rows", f"{19_999 * pages:,} pages", "without an index"):
        assert words in (many.error or "")
    assert counted(app, "after_hours_declines") == 19_999

    app.execute("create index on reasons (decline_id)")
    assert sweep_one(database, rule, as_of=now).affected == 19_999


def test_c13_rules_that_are_refused_night_after_night_keep_no_other_from_its_work(
    cli: Cli, app: App, database: str
) -> None:
    first_night = datetime.now(UTC) - 2 * DAY - timedelta(minutes=1)
    plant(app, 200, first_night)
    app.execute("alter table after_hours_sessions rename to sessions")
    role = f"role_of_{name_of(database)}"
    app.execute(sql.SQL("create role {} login").format(sql.Identifier(role)))
    try:
        app.execute(sql.SQL("grant all on all tables in schema public to {}").format(sql.Identifier(role)))
        app.execute(sql.SQL("revoke delete on after_hours_preferences from {}").format(sql.Identifier(role)))
        url = database.replace("://postgres@", f"://{role}@", 1)
        for night in range(3):
            as_of = first_night + night * DAY
            works = ["after_hours_declines", "after_hours_profiles"]
            before, want = whole_database(app), expected(app, as_of, tables=works)
            done = cli("run", "--json", "--full-speed", "--as-of", as_of.isoformat(), CLEANUP_DATABASE_URL=url)
            assert done.code == 3
            assert [rule["status"] for rule in done.rules.values()] == [
                "refused",
                "success",
                "refused",
                "success",
                "refused",
            ]
            assert "public.after_hours_sessions does not exist" in done.rules["expired_sessions"]["error"]
            assert "grant delete on public.after_hours_preferences" in done.rules["orphaned_preferences"]["error"]
            assert done.rules["old_declines"]["affected"] > 0
            assert whole_database(app).rows == {**before.rows, **want.rows}
    finally:
        app.execute(sql.SQL("drop owned by {0}; drop role {0}").format(sql.Identifier(role)))


MANY = 3_000_000_000


class Huge(Sweep):
    """A sweep that says it has cleaned more rows than 32 bits can count."""

    def __iter__(self) -> Iterator[Progress]:
        yield Progress(self.rule.name, "windows", MANY, 0.5, 100.0)
        self.result.affected = self.result.remaining = self.result.batches = MANY
        self.result.duration_s, self.result.longest_batch_ms = 100.0, 1.0


def test_c18_three_billion_rows_are_counted_right_everywhere(
    cli: Cli, dagster_home: Path, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ops, "Sweep", Huge)
    arguments = ("run", "--rule", "old_declines", "--yes")
    done = cli(*arguments, "--json", DAGSTER_HOME=str(dagster_home))
    assert done.code == 0
    told = done.rules["old_declines"]
    assert (told["affected"], told["remaining"], told["batches"]) == (MANY, MANY, MANY)
    assert told["rows_per_second"] == MANY / 100
    assert "3,000,000,000" in done.err
    event = instance.get_latest_materialization_event(AssetKey(OLD_DECLINES.asset))
    assert event is not None
    assert event.asset_materialization is not None
    metadata = event.asset_materialization.metadata
    assert (metadata["rows_affected"].value, metadata["rows_remaining"].value) == (MANY, MANY)
    assert "3,000,000,000" in cli(*arguments).out
    assert Progress("old_declines", "windows", MANY, 0.5, 100.0).left_s == 100


def test_c19_a_database_that_knows_no_encoding_is_cleaned_whatever_bytes_it_holds(cli: Cli, server_url: str) -> None:
    with (
        database_in_sql_ascii(server_url) as url,
        psycopg.connect(url, autocommit=True, client_encoding="utf8") as app,
    ):
        create_tables(app)
        plant(app, 40)
        app.execute("insert into users (id, provider) values (E'M\\xfcller', 'phone')")
        app.execute(
            "insert into after_hours_profiles (user_id, photo_url, created_at, updated_at)"
            " select name, E'\\xff', now() - interval '1 day', now() - interval '1 day'"
            " from unnest(array[E'M\\xfcller', E'nobody \\xfc']) name"
        )
        profiles = counted(app, "after_hours_profiles")
        for command in ("doctor", "plan"):
            assert cli(command, "--json", CLEANUP_DATABASE_URL=url).code == 0
        done = cli("run", "--json", "--full-speed", CLEANUP_DATABASE_URL=url)
        assert done.code == 0
        assert {name: rule["affected"] for name, rule in done.rules.items()} == {
            "expired_sessions": 20,
            "old_declines": 20,
            "orphaned_fingerprints": 8,
            "orphaned_profiles": 5,
            "orphaned_preferences": 4,
        }
        assert counted(app, "after_hours_profiles") == profiles - 5
        assert counted(app, "after_hours_profiles where user_id = E'M\\xfcller'") == 1


def test_c20_the_plan_shows_times_that_no_client_can_read(cli: Cli, planted: App) -> None:
    for moment in ("0044-03-15 12:00:00+00 BC", "-infinity"):
        planted.execute(
            "update after_hours_declines set created_at = %s where id = md5('decline ' || %s)::uuid",
            [moment, 1 if moment == "-infinity" else 3],
        )
        planted.execute("update after_hours_declines set created_at = 'infinity' where id = md5('decline 5')::uuid")
        assert cli("plan", "--json").rules["old_declines"]["oldest"] == moment
        assert moment.split(" ")[0] in cli("plan").out


# --- The server, its clock, and who looks like whom.


@pytest.fixture
def standby(tmp_path: Path) -> Iterator[str]:
    """A server in recovery, with rows in every table: a copy of one, without the one that it would follow."""
    with embedded_server(tmp_path / "server") as server, psycopg.connect(server.url(), autocommit=True) as app:
        create_tables(app)
        plant(app, 40)
    (tmp_path / "server" / "postgres" / "standby.signal").touch()
    with embedded_server(tmp_path / "server") as server:
        yield server.url()


def test_a_standby_is_refused(cli: Cli, standby: str) -> None:
    with psycopg.connect(standby, autocommit=True) as app:
        before = snapshot(app)
        for command in ("doctor", "plan", "run"):
            done = cli(command, "--json", CLEANUP_DATABASE_URL=standby)
            assert done.code == 3
            assert {rule["status"] for rule in done.rules.values()} == {"refused"}
            assert "standby" in done.out
        assert "Point the URL at the primary" in done.err
        assert snapshot(app) == before


@pytest.mark.parametrize(("minutes", "code"), [(6, 3), (-6, 3), (4.9, 0), (-4.9, 0)])
def test_a_clock_that_is_more_than_five_minutes_off_is_refused(
    cli: Cli, planted: App, monkeypatch: pytest.MonkeyPatch, minutes: float, code: int
) -> None:
    class Off(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Any:
            return datetime.now(tz) + timedelta(minutes=minutes)

    monkeypatch.setattr(preflight, "datetime", Off)
    before = snapshot(planted)
    assert cli("doctor").code == code
    done = cli("run", "--json", "--full-speed")
    assert done.code == code
    if code:
        assert {rule["status"] for rule in done.rules.values()} == {"refused"}
        assert "clock and this machine's differ by 6 minutes" in done.err
        assert snapshot(planted) == before


def test_a_server_that_is_too_old_is_refused(cli: Cli, planted: App, monkeypatch: pytest.MonkeyPatch) -> None:
    # A stand-in: no server of version 13 is to be had, so the limit is moved and not the server.
    monkeypatch.setattr(preflight, "OLDEST_SERVER", 990000)
    before = snapshot(planted)
    done = cli("run", "--json")
    assert done.code == 3
    assert "14 or later is needed" in done.err
    assert snapshot(planted) == before


def test_a_decoy_schema_and_a_shadowed_clock_do_not_move_as_of(cli: Cli, planted: App, database: str) -> None:
    planted.execute("create schema decoy")
    for name in ("now", "clock_timestamp", "statement_timestamp", "transaction_timestamp"):
        planted.execute(
            f"create function decoy.{name}() returns timestamptz language sql"
            " as $$ select timestamptz '2100-01-01' $$".encode()
        )
    for rule in RULES:
        planted.execute(f"create table decoy.{rule.table.name} as table public.{rule.table.name}".encode())
    planted.execute(
        sql.SQL("alter database {} set search_path = decoy, pg_catalog, public").format(
            sql.Identifier(name_of(database))
        )
    )
    decoys = [counted(planted, f"decoy.{rule.table.name}") for rule in RULES]
    now = planted.execute("select now()").fetchall()[0][0]
    want = expected(planted, now)
    done = cli("run", "--json", "--full-speed")
    assert done.code == 0
    assert abs(datetime.fromisoformat(done.json["as_of"]) - now) < timedelta(minutes=2)
    assert snapshot(planted) == want
    assert [counted(planted, f"decoy.{rule.table.name}") for rule in RULES] == decoys


ODD = 'od"d\n%s {0} name'


def test_a_rule_whose_tables_have_quotes_and_newlines_in_their_names_runs_and_is_refused_by_them(
    planted: App, database: str
) -> None:
    before = f"""
import dataclasses
from cleanup_pipeline import rules
odd = rules.Table({ODD!r}, {ODD!r})
rules.RULES = tuple(
    dataclasses.replace(rule, table=odd) if rule.name == "old_declines" else rule for rule in rules.RULES
)
rules.RULES_ON = rules.RULES
"""
    planted.execute(sql.SQL("create schema {}").format(sql.Identifier(ODD)))
    planted.execute(sql.SQL("alter table after_hours_declines rename to {}").format(sql.Identifier(ODD)))
    planted.execute(sql.SQL("alter table {0} set schema {0}").format(sql.Identifier(ODD)))
    arguments, variables = (
        ["run", "--json", "--full-speed", "--rule", "old_declines"],
        {"CLEANUP_DATABASE_URL": database},
    )
    done = ended(start(arguments, variables, before))
    assert (done.code, done.rules["old_declines"]["affected"]) == (0, 1000)

    planted.execute(sql.SQL("alter table {0}.{0} rename to plain").format(sql.Identifier(ODD)))
    planted.execute(sql.SQL("create view {0}.{0} as table {0}.plain").format(sql.Identifier(ODD)))
    tables = whole_database(planted)
    done = ended(start(arguments, variables, before))
    assert done.code == 3
    told = ODD.replace("\n", r"\x0a")
    assert f"{told}.{told} is a view" in done.rules["old_declines"]["error"]
    assert whole_database(planted) == tables


# --- What doctor tells besides.


def findings(done: Ended, rule: str) -> list[str]:
    return [f"{finding['what']} {finding['do'] or ''}" for finding in done.rules[rule]["findings"]]


def test_doctor_tells_what_is_to_be_known_of_the_schema_of_production(cli: Cli, guarded_database: str) -> None:
    done = cli("doctor", "--json", CLEANUP_DATABASE_URL=guarded_database)
    assert done.code == 0
    assert {rule["status"] for rule in done.rules.values()} == {"success"}

    sessions = " ".join(findings(done, "expired_sessions"))
    assert "public.device_fingerprints (device_fingerprints_session_id_fkey)" in sessions
    assert "without an index on session_id" in sessions
    assert "create index concurrently on public.device_fingerprints (session_id);" in sessions
    (reached,) = [told for told in findings(done, "expired_sessions") if "would reach" in told]
    assert "after_hours_matches" in reached
    assert "after_hours_messages" in reached

    assert any(
        "No index on created_at leads to the due rows of public.after_hours_declines" in told
        for told in findings(done, "old_declines")
    )

    keys = {
        "orphaned_fingerprints": "device_fingerprints_session_id_fkey",
        "orphaned_profiles": "after_hours_profiles_user_id_fkey",
        "orphaned_preferences": "after_hours_preferences_user_id_fkey",
    }
    for rule, key in keys.items():
        (guard,) = [told for told in findings(done, rule) if "Guarded" in told]
        assert f"Guarded by {key}" in guard
        assert ("session_id is null" in guard) is (rule == "orphaned_fingerprints")

    for_a_person = cli("doctor", CLEANUP_DATABASE_URL=guarded_database).out
    for finding in (told["what"] for rule in done.rules.values() for told in rule["findings"]):
        assert finding in for_a_person


def test_doctor_tells_a_transaction_that_is_open_for_long(
    cli: Cli, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "_LONG_TRANSACTION_MINUTES", 0)
    with psycopg.connect(database) as user:
        user.execute("select 1")
        done = cli("doctor", "--json", "--rule", "old_declines")
    assert done.code == 0
    assert any("vacuum can't free what is deleted" in told for told in findings(done, "old_declines"))


def test_doctor_tells_dead_rows_that_have_piled_up(cli: Cli, app: App) -> None:
    app.execute("alter table after_hours_declines set (autovacuum_enabled = off)")
    plant_declines(app, 12_000, due=0)
    app.execute("delete from after_hours_declines")
    if app.info.server_version >= 150000:
        app.execute("select pg_stat_force_next_flush()")
    app.execute("select 1")
    done = cli("doctor", "--json", "--rule", "old_declines")
    assert done.code == 0
    assert any(
        "12,000 dead rows have piled up in public.after_hours_declines" in told and "vacuum" in told
        for told in findings(done, "old_declines")
    )
