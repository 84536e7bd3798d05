"""What is refused before anything is touched, and in which words; what is only told; and what is guarded."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from psycopg import Connection, sql

from cleanup_pipeline.demo.data import plant
from cleanup_pipeline.demo.schema import add_foreign_keys, create_tables
from cleanup_pipeline.postgres import Database, Session
from cleanup_pipeline.rules import (
    EXPIRED_SESSIONS,
    OLD_DECLINES,
    ORPHANED_FINGERPRINTS,
    ORPHANED_PREFERENCES,
    ORPHANED_PROFILES,
    RULES,
    Rule,
    Table,
)
from cleanup_pipeline.sweep import trial
from cleanup_pipeline.sweep.finding import Severity
from cleanup_pipeline.sweep.plan import plan
from cleanup_pipeline.sweep.preflight import inspect
from cleanup_pipeline.sweep.privileges import quoted
from cleanup_pipeline.sweep.result import Result, Status
from cleanup_pipeline.sweep.sweep import Sweep
from cleanup_pipeline_tests.databases import database_in_sql_ascii, name_of
from cleanup_pipeline_tests.oracle import Tables, expected, snapshot
from cleanup_pipeline_tests.sweep import rows
from cleanup_pipeline_tests.sweep.steps import NOW, connected, finish, options, session_on, sweep, sweep_all

DAY = timedelta(days=1)

App = Connection[Any]


@pytest.fixture
def planted(app: App) -> Any:
    """Rows in every table, some of them due by each rule."""
    return plant(app, 60, NOW)


def everything(app: App) -> dict[str, list[Any]]:
    """The rows of every table and view outside the catalog, whatever a test made of them."""
    names = app.execute(
        "select format('%I.%I', nspname, relname) from pg_class c join pg_namespace n on n.oid = relnamespace"
        " where relkind in ('r', 'v', 'm') and nspname not in ('pg_catalog', 'information_schema', 'pg_toast')"
        " and nspname not like 'pg_temp%' order by 1"
    ).fetchall()
    return {
        name: app.execute(f"select to_jsonb(t)::text from {name} t order by 1".encode()).fetchall() for (name,) in names
    }


def assert_refused(database: str, rule: Rule, *told: str) -> None:
    """Refused by the sweep and by the plan in the same words, with every table as it was."""
    with connected(database) as app, session_on(database) as session:
        before = everything(app)
        planned = plan(rule, session, options(deep=True))
        result = finish(Sweep(rule, session, options(deep=True)))
        assert everything(app) == before
    assert (result.status, result.affected) == (Status.REFUSED, 0), result
    assert (planned.status, planned.error) == (Status.REFUSED, result.error)
    for words in told:
        assert words in (result.error or "")


# --- Refusals that the catalog alone tells.


@dataclass(frozen=True)
class Case:
    """A database that is made unfit by `done`, and what the refusal has to say."""

    id: str
    rule: Rule
    done: tuple[str, ...]
    told: tuple[str, ...]


RENAME_DECLINES = "alter table after_hours_declines rename to declines"
COUNT_VERSIONS = (
    "create function count_up() returns trigger language plpgsql"
    " as 'begin new.version := old.version + 1; return new; end'",
    "create trigger count_up before update on after_hours_sessions for each row execute function count_up()",
)
DROP_SESSIONS_KEYS = (
    "alter table after_hours_declines drop constraint after_hours_declines_session_id_fkey",
    "alter table after_hours_matches drop constraint after_hours_matches_session_id_fkey",
)
FAR = ("create extension file_fdw", "create server files foreign data wrapper file_fdw")
RENAME_SESSIONS = "alter table after_hours_sessions rename to sessions"

CASES = [
    Case(
        "a_view",
        OLD_DECLINES,
        (RENAME_DECLINES, "create view after_hours_declines as table declines"),
        ("public.after_hours_declines is a view",),
    ),
    Case(
        "a_materialized_view",
        OLD_DECLINES,
        (RENAME_DECLINES, "create materialized view after_hours_declines as table declines"),
        ("public.after_hours_declines is a materialized view",),
    ),
    Case(
        "a_foreign_table",
        OLD_DECLINES,
        (
            RENAME_DECLINES,
            *FAR,
            "create foreign table after_hours_declines (id uuid, created_at timestamptz) server files"
            " options (program 'true')",
        ),
        ("public.after_hours_declines is a foreign table",),
    ),
    Case(
        "a_sequence",
        OLD_DECLINES,
        (RENAME_DECLINES, "create sequence after_hours_declines"),
        ("public.after_hours_declines is a sequence",),
    ),
    Case(
        "a_parent_that_is_a_view",
        ORPHANED_FINGERPRINTS,
        (RENAME_SESSIONS, "create view after_hours_sessions as table sessions"),
        ("public.after_hours_sessions is a view",),
    ),
    Case("a_missing_table", OLD_DECLINES, (RENAME_DECLINES,), ("public.after_hours_declines does not exist",)),
    Case(
        "a_table_in_another_schema",
        OLD_DECLINES,
        ("create schema other", "alter table after_hours_declines set schema other"),
        ("public.after_hours_declines does not exist",),
    ),
    Case(
        "a_missing_parent", ORPHANED_FINGERPRINTS, (RENAME_SESSIONS,), ("public.after_hours_sessions does not exist",)
    ),
    Case(
        "a_missing_age_column",
        OLD_DECLINES,
        ("alter table after_hours_declines drop column created_at",),
        ("public.after_hours_declines", "created_at", "timestamp with time zone"),
    ),
    Case(
        "a_missing_column_to_close_by",
        EXPIRED_SESSIONS,
        ("alter table after_hours_sessions drop column ended_at cascade",),
        ("public.after_hours_sessions", "ended_at"),
    ),
    Case(
        "a_missing_reference",
        ORPHANED_FINGERPRINTS,
        ("alter table device_fingerprints drop column session_id",),
        ("public.device_fingerprints", "session_id"),
    ),
    Case(
        "a_missing_key",
        ORPHANED_FINGERPRINTS,
        ("alter table after_hours_sessions rename id to identity",),
        ("public.after_hours_sessions has no column id",),
    ),
    Case(
        "a_date_without_a_time_zone",
        OLD_DECLINES,
        ("alter table after_hours_declines alter created_at type timestamp",),
        ("public.after_hours_declines.created_at", "timestamp without time zone", "timestamp with time zone"),
    ),
    Case(
        "a_date_as_text",
        OLD_DECLINES,
        ("alter table after_hours_declines alter created_at drop default, alter created_at type text",),
        ("public.after_hours_declines.created_at is text",),
    ),
    Case(
        "a_date_of_the_change_without_a_time_zone",
        ORPHANED_PROFILES,
        ("alter table after_hours_profiles alter updated_at type timestamp",),
        ("public.after_hours_profiles.updated_at", "timestamp without time zone"),
    ),
    Case(
        "an_expiry_without_a_time_zone",
        EXPIRED_SESSIONS,
        ("alter table after_hours_sessions alter expires_at type timestamp",),
        ("public.after_hours_sessions.expires_at", "timestamp without time zone"),
    ),
    Case(
        "a_reference_of_another_type",
        ORPHANED_FINGERPRINTS,
        (
            "alter table device_fingerprints alter session_id type varchar(64)",
            "update device_fingerprints set session_id = 'no uuid' where platform = 'ios'",
        ),
        ("public.device_fingerprints.session_id is character varying", "public.after_hours_sessions.id", "is uuid"),
    ),
    Case(
        "a_reference_of_another_collation",
        ORPHANED_PROFILES,
        ('alter table after_hours_profiles alter user_id type varchar(255) collate "POSIX"',),
        ("public.after_hours_profiles.user_id", "public.users.id", "collations"),
    ),
    Case(
        "a_reference_of_a_type_of_which_equality_compares_something_else",
        ORPHANED_FINGERPRINTS,
        (
            *DROP_SESSIONS_KEYS,
            "alter table after_hours_sessions drop constraint after_hours_sessions_pkey",
            "alter table after_hours_sessions alter id drop default,"
            " alter id type box using box(point(0, 0), point(1, 1))",
            "alter table device_fingerprints alter session_id type box using box(point(0, 0), point(1, 1))",
        ),
        ("public.device_fingerprints.session_id is of type box", "equality"),
    ),
    Case(
        "a_reference_of_a_type_without_equality",
        ORPHANED_FINGERPRINTS,
        (
            *DROP_SESSIONS_KEYS,
            "alter table after_hours_sessions drop constraint after_hours_sessions_pkey",
            "alter table after_hours_sessions alter id drop default, alter id type json using to_json(id)",
            "alter table device_fingerprints alter session_id type json using to_json(session_id)",
        ),
        ("public.device_fingerprints.session_id is of type json", "equality"),
    ),
    Case(
        "a_reference_of_a_type_that_is_not_built_in",
        ORPHANED_PROFILES,
        (
            "create extension citext",
            "alter table users rename to people",
            "create table users (id citext)",
            "alter table after_hours_profiles alter user_id type citext",
        ),
        ("public.after_hours_profiles.user_id is of type public.citext", "equality"),
    ),
    Case(
        "a_parent_of_which_a_partition_is_far",
        ORPHANED_PROFILES,
        (
            *FAR,
            "alter table users rename to people",
            "create table users (like people) partition by list (provider)",
            "create table here partition of users default",
            "create foreign table far partition of users for values in ('far') server files options (program 'true')",
        ),
        ("far, a part of public.users, is a foreign table",),
    ),
    Case(
        "a_parent_of_which_an_heir_of_an_heir_is_far",
        ORPHANED_PROFILES,
        (
            *FAR,
            "create table more () inherits (users)",
            "create foreign table far () inherits (more) server files options (program 'true')",
        ),
        ("far, a part of public.users, is a foreign table",),
    ),
    Case(
        "heirs",
        OLD_DECLINES,
        ("create table heir () inherits (after_hours_declines)",),
        ("public.after_hours_declines", "inherit"),
    ),
    Case(
        "a_key_that_deletes_on",
        OLD_DECLINES,
        (
            "create table reasons"
            " (decline_id uuid constraint because references after_hours_declines on delete cascade)",
        ),
        ("reasons", "because", "on delete cascade"),
    ),
    Case(
        "a_key_that_sets_null",
        OLD_DECLINES,
        (
            "create table reasons"
            " (decline_id uuid constraint because references after_hours_declines on delete set null)",
        ),
        ("reasons", "because", "on delete set null"),
    ),
    Case(
        "a_key_that_sets_a_default",
        OLD_DECLINES,
        (
            "create table reasons"
            " (decline_id uuid constraint because references after_hours_declines on delete set default)",
        ),
        ("reasons", "because", "on delete set default"),
    ),
    Case(
        "a_key_from_another_schema",
        OLD_DECLINES,
        (
            "create schema safety",
            'create table safety."odd ""name" (id uuid references after_hours_declines on delete cascade)',
        ),
        ('safety."odd ""name"',),
    ),
    Case(
        "a_key_of_the_table_itself",
        OLD_DECLINES,
        (
            "alter table after_hours_declines add earlier uuid"
            " constraint chain references after_hours_declines on delete cascade",
        ),
        ("chain", "on delete cascade"),
    ),
    Case(
        "a_key_of_the_table_itself_that_sets_null",
        ORPHANED_FINGERPRINTS,
        (
            "alter table device_fingerprints add earlier uuid"
            " constraint chain references device_fingerprints on delete set null",
        ),
        ("chain", "on delete set null"),
    ),
    Case(
        "a_key_of_a_partition",
        OLD_DECLINES,
        (
            "create table reasons (decline_id uuid references after_hours_declines on delete cascade)"
            " partition by hash (decline_id)",
            "create table reasons_0 partition of reasons for values with (modulus 1, remainder 0)",
        ),
        ("reasons", "on delete cascade"),
    ),
    Case(
        "a_key_that_follows_the_end_of_a_session",
        EXPIRED_SESSIONS,
        (
            "alter table after_hours_sessions add unique (id, ended_at)",
            "create table endings (session_id uuid, ended_at timestamptz, constraint because"
            " foreign key (session_id, ended_at) references after_hours_sessions (id, ended_at) on update cascade)",
        ),
        ("endings", "because", "on update cascade"),
    ),
    Case(
        "a_key_that_follows_a_column_generated_from_the_end_of_a_session",
        EXPIRED_SESSIONS,
        (
            "alter table after_hours_sessions add open uuid"
            " generated always as (case when ended_at is null then id end) stored unique",
            "alter table after_hours_matches add open uuid constraint because"
            " references after_hours_sessions (open) on update set null",
        ),
        ("after_hours_matches", "because", "on update set null"),
    ),
    Case(
        "a_key_that_follows_a_column_that_a_trigger_may_change",
        EXPIRED_SESSIONS,
        (
            "alter table after_hours_sessions add version int default 0, add unique (id, version)",
            "alter table after_hours_matches add version int, add constraint because"
            " foreign key (session_id, version) references after_hours_sessions (id, version) on update cascade",
            *COUNT_VERSIONS,
        ),
        ("after_hours_matches", "because", "on update cascade", "its trigger count_up may change any column"),
    ),
    Case(
        "a_key_that_follows_a_primary_key_of_two_columns_of_which_a_trigger_may_change_one",
        EXPIRED_SESSIONS,
        (
            *DROP_SESSIONS_KEYS,
            "alter table after_hours_sessions drop constraint after_hours_sessions_pkey,"
            " add version int default 0, add primary key (id, version)",
            "alter table after_hours_matches add version int, add constraint because"
            " foreign key (session_id, version) references after_hours_sessions (id, version) on update cascade",
            *COUNT_VERSIONS,
        ),
        ("after_hours_matches", "because", "on update cascade", "its trigger count_up may change any column"),
    ),
    Case(
        "a_rewrite_rule",
        OLD_DECLINES,
        ("create rule keep as on delete to after_hours_declines do instead nothing",),
        ("rewrite rule keep", "after_hours_declines"),
    ),
    Case(
        "a_rewrite_rule_that_does_more",
        OLD_DECLINES,
        ("create rule more as on delete to after_hours_declines do also delete from after_hours_messages",),
        ("rewrite rule more",),
    ),
    Case(
        "a_rewrite_rule_on_updates",
        EXPIRED_SESSIONS,
        ("create rule keep as on update to after_hours_sessions do instead nothing",),
        ("rewrite rule keep",),
    ),
    Case(
        "a_published_table_without_an_identity",
        OLD_DECLINES,
        (
            "alter table after_hours_declines drop constraint after_hours_declines_pkey",
            "create publication everything for table after_hours_declines",
        ),
        ("after_hours_declines", "everything", "replica identity"),
    ),
    Case(
        "a_publication_of_other_columns_than_the_identity",
        OLD_DECLINES,
        ("create publication counts for table after_hours_declines (created_at)",),
        ("after_hours_declines", "counts", "replica identity"),
    ),
    Case(
        "a_publication_of_rows_by_a_column_that_is_not_in_the_identity",
        OLD_DECLINES,
        ("create publication busy for table after_hours_declines where (decline_count > 1)",),
        ("after_hours_declines", "busy", "replica identity"),
    ),
    Case(
        "an_identity_that_may_be_violated_until_the_commit",
        OLD_DECLINES,
        (
            "alter table after_hours_declines drop constraint after_hours_declines_pkey",
            "alter table after_hours_declines add primary key (id) deferrable",
            "create publication everything for table after_hours_declines",
        ),
        ("after_hours_declines", "everything", "replica identity"),
    ),
    Case(
        "an_end_that_is_generated",
        EXPIRED_SESSIONS,
        (
            "alter table after_hours_sessions drop column ended_at cascade",
            "alter table after_hours_sessions add ended_at timestamptz generated always as (started_at) stored",
        ),
        ("public.after_hours_sessions", "refuses every such write", "generated"),
    ),
    Case(
        "sessions_partitioned_by_whether_they_have_ended",
        EXPIRED_SESSIONS,
        (
            RENAME_SESSIONS,
            "create table after_hours_sessions (like sessions) partition by list ((ended_at is null))",
            "create table open_sessions partition of after_hours_sessions for values in (true)",
            "create table ended_sessions partition of after_hours_sessions for values in (false)",
        ),
        ("after_hours_sessions is partitioned by ended_at",),
    ),
    Case(
        "a_published_table_whose_identity_was_taken_away",
        EXPIRED_SESSIONS,
        (
            "alter table after_hours_sessions replica identity nothing",
            "create publication everything for all tables",
        ),
        ("after_hours_sessions", "everything", "replica identity"),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.id))
@pytest.mark.usefixtures("planted")
def test_refused_and_nothing_is_touched(app: App, database: str, case: Case) -> None:
    for statement in case.done:
        app.execute(statement.encode())
    assert_refused(database, case.rule, *case.told)


def test_a_reference_of_a_domain_is_compared_by_its_base_type(app: App, database: str) -> None:
    planted = plant(app, 60, NOW)
    app.execute("create domain name_of_user as varchar(255)")
    app.execute("alter table after_hours_profiles alter user_id type name_of_user")
    assert sweep(database, ORPHANED_PROFILES).affected == planted.due["orphaned_profiles"]


@pytest.mark.usefixtures("planted")
def test_a_cascade_is_followed_over_two_hops_and_the_path_is_told(app: App, database: str) -> None:
    app.execute(
        "create table reasons (id uuid primary key, decline_id uuid references after_hours_declines on delete cascade)"
    )
    app.execute("create table photos (reason_id uuid constraint of_reason references reasons on delete set null)")
    allowed = replace(OLD_DECLINES, may_touch=frozenset({Table("reasons")}))
    assert_refused(database, OLD_DECLINES, "reasons")
    assert_refused(database, allowed, "photos", "of_reason", "public.after_hours_declines ← public.reasons")


@pytest.mark.usefixtures("planted")
def test_cascades_in_a_circle_end(app: App, database: str) -> None:
    app.execute(
        "create table reasons (id uuid primary key, decline_id uuid references after_hours_declines on delete cascade)"
    )
    app.execute("alter table after_hours_declines add reason_id uuid references reasons on delete cascade")
    assert_refused(database, replace(OLD_DECLINES, may_touch=frozenset({Table("reasons")})), "after_hours_declines")


def test_a_table_that_the_rule_names_as_its_own_may_be_reached(app: App, database: str) -> None:
    app.execute("create table reasons (decline_id uuid references after_hours_declines on delete cascade)")
    app.execute("insert into reasons values (%s)", [rows.decline(app, NOW - 8 * DAY)])
    result = sweep(database, replace(OLD_DECLINES, may_touch=frozenset({Table("reasons")})))
    assert (result.status, result.affected) == (Status.SUCCESS, 1)
    assert app.execute("select count(*) from reasons").fetchall() == [(0,)]


def test_deleting_sessions_would_reach_matches_and_messages(app: App, database: str) -> None:
    plant(app, 20, NOW)
    deleting = replace(EXPIRED_SESSIONS, action=OLD_DECLINES.action)
    with session_on(database) as session:
        refusals = " ".join(str(finding) for finding in inspect(session, deleting).refusals)
    assert "after_hours_matches" in refusals
    assert_refused(database, deleting, "after_hours_")
    may = frozenset({Table("after_hours_matches"), Table("after_hours_declines")})
    assert_refused(database, replace(deleting, may_touch=may), "after_hours_messages", "← public.after_hours_matches")


def test_a_key_without_an_action_is_told_and_does_not_refuse(app: App, database: str) -> None:
    rows.decline(app, NOW - 8 * DAY)
    app.execute("create table reports (decline_id uuid references after_hours_declines deferrable initially deferred)")
    with session_on(database) as session:
        found = {str(finding): finding.severity for finding in inspect(session, OLD_DECLINES).findings}
    assert [severity for told, severity in found.items() if "reports" in told and "checked at commit" in told] == [
        Severity.WARNING
    ]
    assert sweep(database, OLD_DECLINES).affected == 1


def test_triggers_are_told_by_their_names(app: App, database: str) -> None:
    app.execute("create function f() returns trigger language plpgsql as $$ begin return old; end $$")
    for name, when in {"audit": "after delete", "veto": "before delete", "others": "after update"}.items():
        app.execute(f"create trigger {name} {when} on after_hours_declines for each row execute function f()".encode())
    app.execute("create trigger off after delete on after_hours_declines for each row execute function f()")
    app.execute("alter table after_hours_declines disable trigger off")
    with session_on(database) as session:
        found = {str(finding): finding.severity for finding in inspect(session, OLD_DECLINES).findings}
    assert len([told for told in found if told.startswith("The trigger")]) == 2
    assert [severity for told, severity in found.items() if "trigger audit" in told] == [Severity.NOTE]
    assert [severity for told, severity in found.items() if "trigger veto" in told] == [Severity.WARNING]


@pytest.mark.parametrize(
    "index",
    ["add unique (id)", "drop constraint after_hours_sessions_pkey cascade, add unique (id), add primary key (id)"],
    ids=["by_its_index", "by_another_index"],
)
def test_a_trigger_that_notes_the_time_of_a_change_blocks_no_start_beside_a_cascade_of_the_primary_key(
    app: App, database: str, index: str
) -> None:
    for statement in (
        "alter table after_hours_matches drop constraint after_hours_matches_session_id_fkey",
        f"alter table after_hours_sessions {index}",
        "alter table after_hours_matches add foreign key (session_id) references after_hours_sessions (id)"
        " on update cascade",
        "alter table after_hours_sessions add updated_at timestamptz",
        "create function touch() returns trigger language plpgsql as 'begin new.updated_at := now(); return new; end'",
        "create trigger touch before update on after_hours_sessions for each row execute function touch()",
    ):
        app.execute(statement.encode())
    with session_on(database) as session:
        assert inspect(session, EXPIRED_SESSIONS).refusals == []


def test_a_column_generated_from_others_is_not_taken_for_changed(app: App, database: str) -> None:
    app.execute(
        "alter table after_hours_sessions add near int generated always as (latitude::int) stored,"
        " add unique (id, near)"
    )
    app.execute(
        "alter table after_hours_matches add near int, add foreign key (session_id, near)"
        " references after_hours_sessions (id, near) on update cascade"
    )
    with session_on(database) as session:
        assert inspect(session, EXPIRED_SESSIONS).refusals == []


@pytest.mark.parametrize(
    ("of", "beside", "told"),
    [
        ("", False, True),
        ("ended_at", False, True),
        ("expires_at", False, False),
        ("open", False, True),
        ("near", False, False),
        ("near", True, True),
    ],
    ids=[
        "any_column",
        "the_column",
        "another_column",
        "a_column_generated_from_it",
        "a_column_generated_from_others",
        "a_column_generated_from_others_that_a_trigger_before_has_made_anew",
    ],
)
def test_a_trigger_on_updates_is_told_where_it_would_fire(
    app: App, database: str, of: str, beside: bool, told: bool
) -> None:
    app.execute(
        "alter table after_hours_sessions add open bool generated always as (ended_at is null) stored,"
        " add near int generated always as (latitude::int) stored"
    )
    app.execute("create table fired ()")
    app.execute(
        "create function fire() returns trigger language plpgsql"
        " as 'begin insert into fired default values; return new; end'"
    )
    app.execute("create function see() returns trigger language plpgsql as 'begin return new; end'")
    app.execute(
        f"create trigger zap after update {of and 'of'} {of} on after_hours_sessions"
        " for each row execute function fire()".encode()
    )
    if beside:
        app.execute("create trigger eye before update on after_hours_sessions for each row execute function see()")
    rows.session(app, NOW - DAY)
    assert any("trigger zap" in said for said in told_of(database, EXPIRED_SESSIONS)) is told
    assert sweep(database, EXPIRED_SESSIONS).affected == 1
    fired = app.execute("select from fired").rowcount == 1
    assert fired is told or beside  # older servers make no column anew


@pytest.mark.usefixtures("planted")
def test_a_rewrite_rule_on_a_table_that_a_cascade_may_reach_is_refused(app: App, database: str) -> None:
    app.execute("create table reasons (decline_id uuid references after_hours_declines on delete cascade)")
    app.execute("create rule more as on delete to reasons do also delete from after_hours_messages")
    assert_refused(database, replace(OLD_DECLINES, may_touch=frozenset({Table("reasons")})), "rewrite rule more")


@pytest.mark.usefixtures("planted")
def test_a_column_that_a_cascade_may_set_to_null_is_followed_to_the_keys_that_follow_it(
    app: App, database: str
) -> None:
    app.execute("create table reasons (decline_id uuid unique references after_hours_declines on delete set null)")
    app.execute("create table photos (reason uuid constraint so references reasons (decline_id) on update cascade)")
    allowed = replace(OLD_DECLINES, may_touch=frozenset({Table("reasons")}))
    assert_refused(database, allowed, "photos", "so, on update cascade", "public.after_hours_declines ← public.reasons")


def told_of(database: str, rule: Rule) -> list[str]:
    with session_on(database) as session:
        return [str(finding) for finding in inspect(session, rule).findings]


def test_a_deferred_constraint_is_told_by_its_name(app: App, database: str) -> None:
    app.execute("create function f() returns trigger language plpgsql as $$ begin return old; end $$")
    app.execute(
        "create constraint trigger late after delete on after_hours_declines initially deferred"
        " for each row execute function f()"
    )
    assert any("late on public.after_hours_declines is deferred" in told for told in told_of(database, OLD_DECLINES))


@pytest.mark.parametrize(
    ("index", "told"),
    [
        ("create index serves on after_hours_declines (created_at)", None),
        (
            "create index other on after_hours_declines (created_at) where decline_count > 9",
            "other leads to other rows",
        ),
        ("create index hashed on after_hours_declines using hash (created_at)", "hashed leads to other rows"),
        (None, "No index on created_at leads to the due rows"),
    ],
    ids=["that_serves", "of_other_rows", "without_an_order", "at_all"],
)
def test_the_lack_of_an_index_is_told_and_what_to_do_where_the_table_is_large(
    app: App, database: str, index: str | None, told: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if index:
        app.execute(index.encode())
    found = [said for said in told_of(database, OLD_DECLINES) if "leads to" in said]
    assert (found == []) if told is None else told in found[0]
    assert not any("create index" in said for said in found)
    monkeypatch.setattr(trial, "_MANY_PAGES", 0)
    found = [said for said in told_of(database, OLD_DECLINES) if "leads to" in said]
    assert all("create index concurrently on public.after_hours_declines (created_at);" in said for said in found)


def test_the_lack_of_an_index_is_told_once_for_all_partitions(
    app: App, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    partition(app, "after_hours_declines", "id")
    app.execute("create index on after_hours_declines_0 (created_at)")
    monkeypatch.setattr(trial, "_MANY_PAGES", 0)
    (found,) = [said for said in told_of(database, OLD_DECLINES) if "leads to" in said]
    assert "public.after_hours_declines in 2 of its 3 partitions" in found
    assert "on each of the partitions, then create index on public.after_hours_declines (created_at);" in found


def test_a_parents_key_without_an_index_is_told(app: App, database: str) -> None:
    for statement in DROP_SESSIONS_KEYS:
        app.execute(statement.encode())
    assert not any("begins with id" in said for said in told_of(database, ORPHANED_FINGERPRINTS))
    app.execute("alter table after_hours_sessions drop constraint after_hours_sessions_pkey")
    (found,) = [said for said in told_of(database, ORPHANED_FINGERPRINTS) if "begins with id" in said]
    assert "create unique index concurrently on public.after_hours_sessions (id);" in found
    partition(app, "after_hours_sessions", "id")
    (found,) = [said for said in told_of(database, ORPHANED_FINGERPRINTS) if "begins with id" in said]
    assert "on each of the partitions, then create index on public.after_hours_sessions (id);" in found


def test_an_event_trigger_that_forbids_the_temporary_table_is_told_before_and_after(app: App, database: str) -> None:
    rows.orphaned_fingerprint(app)
    rows.fingerprint(app, rows.session(app))
    app.execute("create function deny() returns event_trigger language plpgsql as 'begin raise exception ''no''; end'")
    app.execute("create event trigger no_ddl on ddl_command_start when tag in ('CREATE TABLE') execute function deny()")
    app.execute("create event trigger other on ddl_command_start when tag in ('DROP VIEW') execute function deny()")
    (found,) = [said for said in told_of(database, ORPHANED_FINGERPRINTS) if "event trigger" in said]
    assert "no_ddl" in found
    result = sweep(database, ORPHANED_FINGERPRINTS)
    assert (result.status, result.affected) == (Status.FAILED, 0)
    assert "temporary table of what is due can't be made; an event trigger" in (result.error or "")
    assert "fingerprints" not in (result.error or "")


def test_what_is_to_be_typed_is_quoted_and_stays_on_one_line(
    app: App, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = Table('new\nline "\\ select', "select")
    app.execute('create schema "select"')
    app.execute('alter table after_hours_declines set schema "select"')
    app.execute(sql.SQL('alter table "select".after_hours_declines rename to {}').format(sql.Identifier(odd.name)))
    app.execute("create table parent (decline_id uuid)")
    app.execute(
        sql.SQL("alter table parent add constraint {} foreign key (decline_id) references {}").format(
            sql.Identifier("a\nkey"), sql.Identifier(odd.schema, odd.name)
        )
    )
    app.execute("create function f() returns trigger language plpgsql as 'begin return old; end'")
    app.execute(
        sql.SQL("create trigger {} after delete on {} for each row execute function f()").format(
            sql.Identifier("a\ntrigger"), sql.Identifier(odd.schema, odd.name)
        )
    )
    monkeypatch.setattr(trial, "_MANY_PAGES", 0)
    with session_on(database) as session:
        findings = inspect(session, replace(OLD_DECLINES, table=odd)).findings
    assert len(findings) >= 4
    assert not any("\n" in str(finding) for finding in findings)
    (index,) = [
        do.removeprefix("If that is too much: ") for do in (finding.do for finding in findings) if "(created_at)" in do
    ]
    app.execute(index.encode())
    with session_on(database) as session:
        findings = inspect(session, replace(OLD_DECLINES, table=odd)).findings
    assert not any("No index on created_at" in str(finding) for finding in findings)


def test_an_index_that_is_invalid_is_told(app: App, database: str) -> None:
    app.execute("create index half_built on after_hours_declines (created_at)")
    app.execute("update pg_index set indisvalid = false where indexrelid = 'half_built'::regclass")
    assert any("half_built is invalid" in said for said in told_of(database, OLD_DECLINES))


def test_an_empty_parent_is_found_before_anything_is_judged(app: App, database: str) -> None:
    rows.fingerprint(app, UUID(int=1))
    assert any("public.after_hours_sessions is empty" in said for said in told_of(database, ORPHANED_FINGERPRINTS))


def test_a_table_that_a_migration_has_locked_is_told_and_not_waited_for(app: App, database: str) -> None:
    with app.transaction():
        app.execute("lock table after_hours_declines")
        assert any("locked by another session" in said for said in told_of(database, OLD_DECLINES))


def test_a_table_that_refers_to_every_partition_is_scanned_and_told_once(app: App, database: str) -> None:
    partition(app, "after_hours_declines", "id")
    app.execute("alter table after_hours_declines add primary key (id)")
    app.execute("create table reports (decline_id uuid references after_hours_declines)")
    app.execute("insert into reports select null from generate_series(1, 1000)")
    told = told_of(database, OLD_DECLINES)
    found = [said for said in told if "without an index" in said]
    pages = app.execute("select pg_relation_size('reports') / 8192").fetchall()[0][0]
    assert len([said for said in told if "on delete no action) refers to" in said]) == 1
    assert len(found) == 1
    assert f"scans its {pages} pages: {pages * 1000:,} for 1,000 rows" in found[0]


@pytest.mark.parametrize(
    ("where", "serves"),
    [("", True), ("where decline_id is not null", True), ("where decline_id is null", False), ("where open", False)],
    ids=["of_all_rows", "of_all_rows_that_refer", "of_those_that_do_not", "of_some_rows"],
)
def test_an_index_on_a_key_serves_it_where_it_has_every_row_that_refers(
    app: App, database: str, where: str, serves: bool
) -> None:
    app.execute("create table reports (open bool, decline_id uuid references after_hours_declines)")
    app.execute(f"create index on reports (decline_id) {where}".encode())
    assert any("without an index" in said for said in told_of(database, OLD_DECLINES)) is not serves


@pytest.mark.parametrize(("columns", "serves"), [("at", True), ("decline_id", True), ("open", False)])
def test_an_index_that_begins_with_one_column_of_a_key_of_several_serves_it(
    app: App, database: str, columns: str, serves: bool
) -> None:
    app.execute("alter table after_hours_declines add unique (id, created_at)")
    app.execute(
        "create table reports (open bool, decline_id uuid, at timestamptz,"
        " foreign key (decline_id, at) references after_hours_declines (id, created_at))"
    )
    app.execute(f"create index on reports ({columns}, open)".encode())
    assert any("without an index" in said for said in told_of(database, OLD_DECLINES)) is not serves


def test_a_table_that_refers_to_the_rules_is_not_waited_for_to_tell_its_size(app: App, database: str) -> None:
    app.execute("create table reports (decline_id uuid references after_hours_declines)")
    app.execute("create table reviews (session_id uuid references after_hours_sessions)")
    app.execute("insert into reports select null from generate_series(1, 1000)")
    app.execute("analyze reports")
    rows.session(app, NOW - DAY)
    with connected(database) as migration, migration.transaction():
        migration.execute("lock table reports, reviews, after_hours_matches")
        pages = app.execute("select relpages from pg_class where relname = 'reports'").fetchall()[0][0]
        assert any(f"scans its {pages} pages" in said for said in told_of(database, OLD_DECLINES))
        assert sweep(database, EXPIRED_SESSIONS).affected == 1


def test_a_key_that_is_not_enforced_does_nothing(app: App, database: str) -> None:
    if app.info.server_version < 180000:
        pytest.skip("this server enforces every constraint")
    app.execute("create table reports (decline_id uuid references after_hours_declines on delete cascade not enforced)")
    rows.decline(app, NOW - 8 * DAY)
    assert not any("reports" in said for said in told_of(database, OLD_DECLINES))
    assert sweep(database, OLD_DECLINES).affected == 1


def test_names_of_no_encoding_are_told_and_keep_only_the_rule_whose_own_they_are_from_running(server_url: str) -> None:
    with database_in_sql_ascii(server_url) as url:
        with connected(url) as app:
            app.execute("set client_encoding = 'UTF8'")
            create_tables(app)
            planted = plant(app, 20, NOW)
            app.execute("reset client_encoding")
            app.execute(b'create table "caf\xe9" (id uuid constraint "cl\xe9" references after_hours_declines)')
            app.execute(b'alter table device_fingerprints add "\xe9t\xe9" int')
        assert any(r'"caf\xe9" (cl\xe9, on delete no action) refers' in said for said in told_of(url, OLD_DECLINES))
        results = sweep_all(url)
    refused = results.pop("orphaned_fingerprints")
    assert refused.status is Status.REFUSED
    assert "public.device_fingerprints" in (refused.error or "")
    assert "encoding is SQL_ASCII" in (refused.error or "")
    assert {name: result.affected for name, result in results.items()} == {name: planted.due[name] for name in results}


def test_a_table_of_a_healthy_schema_has_nothing_refused(guarded_database: str) -> None:
    with session_on(guarded_database) as session:
        for rule in RULES:
            assert inspect(session, rule).refusals == []


def test_the_next_rules_run_after_one_that_was_refused(app: App, database: str) -> None:
    planted = plant(app, 100, NOW)
    app.execute("alter table after_hours_declines rename created_at to made_at")
    results = sweep_all(database)
    assert results["old_declines"].status is Status.REFUSED
    for name in ("expired_sessions", "orphaned_fingerprints", "orphaned_profiles", "orphaned_preferences"):
        assert (results[name].status, results[name].affected) == (Status.SUCCESS, planted.due[name])


# --- Roles.


@contextmanager
def role(app: App, database: str, attributes: str = "") -> Iterator[str]:
    """A role of this test's own, gone afterwards."""
    name = f"role_of_{name_of(database)}"
    identifier = sql.Identifier(name)
    app.execute(sql.SQL("create role {} login {}").format(identifier, sql.SQL(attributes)))
    try:
        yield name
    finally:
        app.execute(sql.SQL("reassign owned by {} to postgres").format(identifier))
        app.execute(sql.SQL("drop owned by {}").format(identifier))
        app.execute(sql.SQL("drop role {}").format(identifier))


@pytest.fixture
def cleaner(app: App, database: str) -> Iterator[str]:
    """A role that may do what the rules need on every table, and nothing else."""
    with role(app, database) as name:
        for statement in GRANTS:
            app.execute(sql.SQL(statement + " to {}").format(sql.Identifier(name)))
        yield name


GRANTS = (
    "grant usage on schema public",
    "grant select (ctid, ended_at, expires_at, id), update (ended_at) on after_hours_sessions",
    "grant select (ctid, created_at), update (created_at), delete on after_hours_declines",
    "grant select (ctid, created_at, session_id), update (created_at), delete on device_fingerprints",
    "grant select (ctid, created_at, updated_at, user_id), update (created_at), delete on after_hours_profiles",
    "grant select (ctid, created_at, updated_at, user_id), update (created_at), delete on after_hours_preferences",
    "grant select (id) on users",
)


@contextmanager
def session_as(database: str, user: str) -> Iterator[Session]:
    with Session(Database(Database.parse(database).parameters | {"user": user}, "here")) as session:
        yield session


def sweep_as(database: str, user: str, rule: Rule) -> Result:
    with session_as(database, user) as session:
        return finish(Sweep(rule, session, options()))


def assert_refused_to(app: App, database: str, user: str, rule: Rule, *told: str) -> None:
    before = everything(app)
    result = sweep_as(database, user, rule)
    assert (result.status, result.affected) == (Status.REFUSED, 0), result
    for words in told:
        assert words in (result.error or "")
    assert everything(app) == before


def test_the_least_privileges_suffice_for_every_rule_locked_and_bad_rows_included(
    app: App, database: str, cleaner: str
) -> None:
    plant(app, 60, NOW)
    app.execute("alter table after_hours_sessions add constraint one check (ended_at < '2026-11-24 03:30Z') not valid")
    with connected(database) as user:
        user.execute("begin")
        user.execute("select from after_hours_declines where created_at < %s limit 1 for update", [NOW - 8 * DAY])
        results = {rule.name: sweep_as(database, cleaner, rule) for rule in RULES}
    refused = [result.error for result in results.values() if result.status is Status.REFUSED]
    assert refused == []
    assert (results["old_declines"].status, results["old_declines"].remaining) == (Status.SUCCESS, 1)
    for rule in RULES:
        sweep_as(database, cleaner, rule)
    after = snapshot(app)
    left = {table: count for table, count in after.only_here(expected(app, NOW)).items() if count}
    assert set(left) <= {"after_hours_sessions"}


@pytest.mark.parametrize(
    ("rule", "revoked", "told"),
    [
        (
            OLD_DECLINES,
            "select (ctid) on after_hours_declines",
            "grant select (ctid) on public.after_hours_declines to",
        ),
        (OLD_DECLINES, "select (created_at) on after_hours_declines", "grant select (created_at)"),
        (OLD_DECLINES, "delete on after_hours_declines", "grant delete on public.after_hours_declines to"),
        (OLD_DECLINES, "update (created_at) on after_hours_declines", "grant update (created_at)"),
        (EXPIRED_SESSIONS, "update (ended_at) on after_hours_sessions", "grant update (ended_at)"),
        (EXPIRED_SESSIONS, "select (expires_at) on after_hours_sessions", "grant select (expires_at)"),
        (ORPHANED_FINGERPRINTS, "select (session_id) on device_fingerprints", "grant select (session_id)"),
        (
            ORPHANED_FINGERPRINTS,
            "select (id) on after_hours_sessions",
            "grant select (id) on public.after_hours_sessions",
        ),
        (ORPHANED_PROFILES, "select (updated_at) on after_hours_profiles", "grant select (updated_at)"),
        (ORPHANED_PROFILES, "select (id) on users", "grant select (id) on public.users to"),
        (ORPHANED_PREFERENCES, "delete on after_hours_preferences", "grant delete on public.after_hours_preferences"),
        (OLD_DECLINES, "usage on schema public", "grant usage on schema public to"),
    ],
    ids=lambda value: str(getattr(value, "name", value)) if not str(value).startswith("grant ") else "",
)
@pytest.mark.usefixtures("planted")
def test_a_missing_privilege_is_refused_with_the_grant_that_would_do(
    app: App, database: str, cleaner: str, rule: Rule, revoked: str, told: str
) -> None:
    app.execute("revoke usage on schema public from public")
    app.execute(sql.SQL("revoke {} from {}").format(sql.SQL(revoked), sql.Identifier(cleaner)))
    assert_refused_to(app, database, cleaner, rule, told, cleaner)


@pytest.mark.usefixtures("planted")
def test_a_role_that_may_nothing_is_told_each_grant(app: App, database: str) -> None:
    with role(app, database) as nobody:
        assert_refused_to(
            app,
            database,
            nobody,
            OLD_DECLINES,
            "SELECT (ctid)",
            "DELETE",
            f"on public.after_hours_declines to {nobody}",
        )


@pytest.mark.usefixtures("planted")
def test_a_parent_in_a_schema_that_the_role_may_not_use_is_refused_with_the_grant(
    app: App, database: str, cleaner: str
) -> None:
    app.execute("create schema accounts")
    app.execute("alter table users set schema accounts")
    assert ORPHANED_PROFILES.orphan_of
    parent = replace(ORPHANED_PROFILES.orphan_of, parent=Table("users", "accounts"))
    rule = replace(ORPHANED_PROFILES, orphan_of=parent)
    assert_refused_to(app, database, cleaner, rule, f"grant usage on schema accounts to {cleaner}")


@pytest.mark.parametrize(
    "calls",
    [
        "alter table after_hours_sessions add check (seen(ended_at))",
        "create index on after_hours_sessions (seen(ended_at))",
        "create index on after_hours_sessions (id) where seen(ended_at)",
        "alter table after_hours_sessions add seen bool generated always as (seen(ended_at)) stored",
    ],
    ids=["a_check", "an_index", "an_index_of_some_rows", "a_generated_column"],
)
@pytest.mark.usefixtures("planted")
def test_a_function_that_every_write_calls_and_the_role_may_not_is_refused_with_the_grant(
    app: App, database: str, cleaner: str, calls: str
) -> None:
    app.execute("create function seen(timestamptz) returns bool language sql immutable as 'select true'")
    app.execute("revoke execute on function seen from public")
    app.execute(calls.encode())
    grant = f"grant execute on function public.seen(timestamp with time zone) to {cleaner};"
    assert_refused_to(app, database, cleaner, EXPIRED_SESSIONS, grant)
    app.execute(grant.encode())
    assert sweep_as(database, cleaner, EXPIRED_SESSIONS).status is Status.SUCCESS


def test_words_of_sql_are_quoted_where_they_are_names(app: App) -> None:
    words = app.execute("select word from pg_get_keywords() where catcode in ('R', 'T')").fetchall()
    assert [word for (word,) in words if quoted(word) != f'"{word}"'] == []
    assert quoted("public", "after_hours_declines") == "public.after_hours_declines"


@pytest.mark.usefixtures("planted")
def test_a_role_without_temporary_tables_is_refused(app: App, database: str, cleaner: str) -> None:
    app.execute(sql.SQL("revoke temporary on database {} from public").format(sql.Identifier(name_of(database))))
    assert_refused_to(
        app,
        database,
        cleaner,
        ORPHANED_FINGERPRINTS,
        "temporary",
        f"temporary on database {name_of(database)} to {cleaner}",
    )


@pytest.mark.usefixtures("planted")
def test_a_read_only_role_is_refused(app: App, database: str, cleaner: str) -> None:
    app.execute(sql.SQL("alter role {} set default_transaction_read_only = on").format(sql.Identifier(cleaner)))
    assert_refused_to(app, database, cleaner, OLD_DECLINES, "read-only")


@pytest.mark.usefixtures("planted")
def test_a_read_only_database_is_refused(app: App, database: str) -> None:
    app.execute(
        sql.SQL("alter database {} set default_transaction_read_only = on").format(sql.Identifier(name_of(database)))
    )
    assert sweep(database, OLD_DECLINES).status is Status.REFUSED


@pytest.mark.parametrize("replication_role", ["replica", "local"])
@pytest.mark.usefixtures("planted")
def test_a_role_for_which_triggers_do_not_fire_is_refused(app: App, database: str, replication_role: str) -> None:
    app.execute(
        sql.SQL("alter database {} set session_replication_role = {}").format(
            sql.Identifier(name_of(database)), sql.Literal(replication_role)
        )
    )
    assert_refused(database, OLD_DECLINES, f"session_replication_role is {replication_role}")


@pytest.mark.parametrize("table", ["device_fingerprints", "after_hours_sessions"], ids=["swept", "parent"])
@pytest.mark.parametrize("policy", ["for select", "for delete", "for update", "for all"])
@pytest.mark.usefixtures("planted")
def test_row_level_security_is_refused_on_the_table_and_on_its_parent(
    app: App, database: str, cleaner: str, table: str, policy: str
) -> None:
    app.execute(f"alter table {table} enable row level security".encode())
    app.execute(f"create policy few on {table} {policy} using (random() < 2)".encode())
    assert_refused_to(app, database, cleaner, ORPHANED_FINGERPRINTS, "Row-level security", table)


@pytest.mark.parametrize(
    ("rule", "harm"),
    [(ORPHANED_FINGERPRINTS, "a hidden parent row makes an orphan"), (EXPIRED_SESSIONS, "a row that is hidden stays")],
    ids=["parent", "swept"],
)
@pytest.mark.usefixtures("planted")
def test_row_level_security_without_a_policy_is_refused(
    app: App, database: str, cleaner: str, rule: Rule, harm: str
) -> None:
    app.execute("alter table after_hours_sessions enable row level security")
    assert_refused_to(app, database, cleaner, rule, "Row-level security on public.after_hours_sessions", harm)


@pytest.mark.parametrize("force", [False, True], ids=["not_forced", "forced"])
def test_row_level_security_binds_an_owner_only_where_it_is_forced(app: App, database: str, force: bool) -> None:
    planted = plant(app, 60, NOW)
    with role(app, database) as owner:
        for table in ("device_fingerprints", "after_hours_sessions"):
            app.execute(sql.SQL("alter table {} owner to {}").format(sql.Identifier(table), sql.Identifier(owner)))
            app.execute(f"alter table {table} enable row level security".encode())
        if force:
            app.execute("alter table after_hours_sessions force row level security")
            assert_refused_to(app, database, owner, ORPHANED_FINGERPRINTS, "Row-level security", "after_hours_sessions")
        else:
            result = sweep_as(database, owner, ORPHANED_FINGERPRINTS)
            assert (result.status, result.affected) == (Status.SUCCESS, planted.due["orphaned_fingerprints"])


def test_row_level_security_does_not_bind_a_role_that_bypasses_it(app: App, database: str) -> None:
    planted = plant(app, 60, NOW)
    app.execute("alter table after_hours_declines enable row level security")
    with role(app, database, "bypassrls") as user:
        app.execute(sql.SQL("grant all on all tables in schema public to {}").format(sql.Identifier(user)))
        assert sweep_as(database, user, OLD_DECLINES).affected == planted.due["old_declines"]


def test_a_policy_that_comes_during_the_sweep_ends_it(app: App, database: str, cleaner: str) -> None:
    plant(app, 60, NOW)
    good = expected(app, NOW)
    with session_as(database, cleaner) as session:
        swept = Sweep(ORPHANED_FINGERPRINTS, session, options())
        steps = iter(swept)
        next(steps)
        app.execute("alter table device_fingerprints enable row level security")
        result = finish(swept, steps)
    assert (result.status, result.affected) == (Status.FAILED, 0)
    assert "a row-level security policy would hide rows from this role" in (result.error or "")
    assert good.only_here(snapshot(app))["device_fingerprints"] == 0


# --- Guarded by a foreign key.

KEYS = {
    ORPHANED_FINGERPRINTS.name: ("device_fingerprints", "device_fingerprints_session_id_fkey"),
    ORPHANED_PROFILES.name: ("after_hours_profiles", "after_hours_profiles_user_id_fkey"),
    ORPHANED_PREFERENCES.name: ("after_hours_preferences", "after_hours_preferences_user_id_fkey"),
}
each_orphan_rule = pytest.mark.parametrize(
    "rule", [rule for rule in RULES if rule.orphan_of], ids=lambda rule: str(rule.name)
)


@pytest.fixture
def guarded(guarded_database: str) -> Iterator[App]:
    """The app, connected to a database with every foreign key of production."""
    with connected(guarded_database) as connection:
        yield connection


def plant_orphan(app: App, rule: Rule) -> None:
    """An orphan that came in while triggers were off, as with a restore."""
    alive: UUID = rows.session(app)
    rows.fingerprint(app, alive, NOW - DAY)
    app.execute("set session_replication_role = replica")
    if rule is ORPHANED_FINGERPRINTS:
        rows.orphaned_fingerprint(app)
    elif rule is ORPHANED_PROFILES:
        rows.profile(app, "nobody", NOW - DAY)
    else:
        rows.preferences(app, "nobody", NOW - DAY)
    app.execute("reset session_replication_role")


@each_orphan_rule
def test_a_rule_that_a_foreign_key_guards_has_nothing_to_do_and_names_it(
    guarded: App, guarded_database: str, rule: Rule
) -> None:
    plant_orphan(guarded, rule)
    before = snapshot(guarded)
    # Nobody may read a table that is locked so.
    with connected(guarded_database) as lock:
        lock.execute("begin")
        lock.execute("lock table device_fingerprints, after_hours_profiles, after_hours_preferences")
        with session_on(guarded_database) as session:
            planned = plan(rule, session, options())
            result = finish(Sweep(rule, session, options()))
    assert (result.status, result.affected, result.remaining) == (Status.SUCCESS, 0, 0)
    assert result.access == f"guarded by {KEYS[rule.name][1]}"
    assert (planned.candidates, planned.access) == (0, result.access)
    assert snapshot(guarded) == before


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule.name))
def test_a_lock_on_a_table_that_is_none_of_the_rules_is_not_waited_for(app: App, database: str, rule: Rule) -> None:
    app.execute("create table invoices (id int primary key)")
    app.execute("create table payments (invoice_id int references invoices)")
    plant(app, 20, NOW)
    with connected(database) as migration:
        migration.execute("begin")
        migration.execute("lock table invoices, payments in access exclusive mode")
        assert sweep(database, rule).status is Status.SUCCESS


@each_orphan_rule
def test_deep_looks_all_the_same(guarded: App, guarded_database: str, rule: Rule) -> None:
    plant_orphan(guarded, rule)
    want = expected(guarded, NOW)
    result = sweep(guarded_database, rule, deep=True)
    assert (result.status, result.affected) == (Status.SUCCESS, 1)
    assert snapshot(guarded) == want


def test_types_that_a_foreign_key_compares_are_refused_only_where_we_are_to_compare_them(
    guarded: App, guarded_database: str
) -> None:
    guarded.execute("alter table after_hours_profiles alter user_id type text")
    assert sweep(guarded_database, ORPHANED_PROFILES).access == "guarded by after_hours_profiles_user_id_fkey"
    assert_refused(guarded_database, ORPHANED_PROFILES, "user_id is text", "compared safely")


def not_validated(app: App, table: str, key: str) -> None:
    (definition,) = app.execute(
        "select pg_get_constraintdef(oid) from pg_constraint where conname = %s", [key]
    ).fetchone() or ("",)
    app.execute(f"alter table {table} drop constraint {key}, add constraint {key} {definition} not valid".encode())


def own_triggers_disabled(app: App, table: str, _: str) -> None:
    app.execute(f"alter table {table} disable trigger all".encode())


def parents_triggers_disabled(app: App, table: str, _: str) -> None:
    parent = "after_hours_sessions" if table == "device_fingerprints" else "users"
    app.execute(f"alter table {parent} disable trigger all".encode())


def for_replicas_only(app: App, table: str, _: str) -> None:
    for (trigger,) in app.execute(
        "select tgname from pg_trigger where tgrelid = %s::regclass and tgisinternal", [table]
    ).fetchall():
        app.execute(f'alter table {table} enable replica trigger "{trigger}"'.encode())


def not_enforced(app: App, table: str, key: str) -> None:
    if app.info.server_version < 180000:
        pytest.skip("this server enforces every constraint")
    app.execute(f"alter table {table} alter constraint {key} not enforced".encode())


def on_another_column(app: App, table: str, key: str) -> None:
    app.execute(f"alter table {table} drop constraint {key}".encode())
    if table == "device_fingerprints":
        app.execute("alter table device_fingerprints add other uuid references after_hours_sessions on delete set null")
    else:
        app.execute(f"alter table {table} add other varchar(255) references users".encode())


@each_orphan_rule
@pytest.mark.parametrize(
    "weaken",
    [
        not_validated,
        own_triggers_disabled,
        parents_triggers_disabled,
        for_replicas_only,
        not_enforced,
        on_another_column,
    ],
    ids=lambda weaken: str(weaken.__name__),
)
def test_a_foreign_key_that_does_not_hold_guards_nothing(
    guarded: App, guarded_database: str, rule: Rule, weaken: Callable[[App, str, str], None]
) -> None:
    plant_orphan(guarded, rule)
    weaken(guarded, *KEYS[rule.name])
    want = expected(guarded, NOW)
    result = sweep(guarded_database, rule)
    assert (result.status, result.affected) == (Status.SUCCESS, 1)
    assert result.access is not None
    assert "guarded" not in result.access
    assert snapshot(guarded) == want


def test_an_empty_parent_is_no_matter_where_a_foreign_key_guards(guarded: App, guarded_database: str) -> None:
    rows.fingerprint(guarded, None, NOW - DAY)
    result = sweep(guarded_database, ORPHANED_FINGERPRINTS)
    assert (result.status, result.access) == (Status.SUCCESS, "guarded by device_fingerprints_session_id_fkey")


def test_adding_the_foreign_keys_after_a_sweep_succeeds_since_no_orphan_is_left(app: App, database: str) -> None:
    plant(app, 60, NOW)
    sweep_all(database, as_of=NOW + timedelta(hours=2))
    add_foreign_keys(app)


# --- Names that need quotes.

ODD_NAMES = [
    'Camel "quoted" %s %(x)s',
    "new\nline",
    "semi;colon -- comment",
    "ünïcode 🐘",
    "{brace} {0}",
    "select",
    " ",
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_tables_with_odd_names_are_swept_like_any_other(app: App, database: str, name: str) -> None:
    planted = plant(app, 60, NOW)
    want = expected(app, NOW)
    schema = f"in {name}"
    app.execute(sql.SQL("create schema {}").format(sql.Identifier(schema)))
    tables = {rule.table: Table(f"{index} {name}", schema) for index, rule in enumerate(RULES)}
    tables |= {Table("users"): Table(f"u {name}", schema)}
    for old, new in tables.items():
        app.execute(sql.SQL("alter table {} rename to {}").format(sql.Identifier(old.name), sql.Identifier(new.name)))
        app.execute(sql.SQL("alter table {} set schema {}").format(sql.Identifier(new.name), sql.Identifier(schema)))
    odd_rules = [
        replace(
            rule,
            table=tables[rule.table],
            orphan_of=rule.orphan_of and replace(rule.orphan_of, parent=tables[rule.orphan_of.parent]),
        )
        for rule in RULES
    ]
    for rule in odd_rules:
        result = sweep(database, rule)
        assert (result.status, result.affected, result.remaining) == (Status.SUCCESS, planted.due[rule.name], 0)
    for old, new in tables.items():
        app.execute(
            sql.SQL("alter table {}.{} set schema public").format(sql.Identifier(schema), sql.Identifier(new.name))
        )
        app.execute(sql.SQL("alter table {} rename to {}").format(sql.Identifier(new.name), sql.Identifier(old.name)))
    assert snapshot(app) == want


@pytest.mark.parametrize("name", ODD_NAMES)
@pytest.mark.usefixtures("planted")
def test_a_missing_table_with_an_odd_name_is_refused_by_that_name(database: str, name: str) -> None:
    told = name.replace("\n", r"\x0a")
    assert_refused(database, replace(OLD_DECLINES, table=Table(name)), f"public.{told} does not exist")


def test_columns_with_odd_names_are_swept_too(app: App, database: str) -> None:
    planted = plant(app, 60, NOW)
    odd = 'od"d %s\nname'
    for table, column in (("device_fingerprints", "session_id"), ("after_hours_sessions", "id")):
        app.execute(
            sql.SQL("alter table {} rename {} to {}").format(
                sql.Identifier(table), sql.Identifier(column), sql.Identifier(odd)
            )
        )
    assert ORPHANED_FINGERPRINTS.orphan_of
    rule = replace(ORPHANED_FINGERPRINTS, orphan_of=replace(ORPHANED_FINGERPRINTS.orphan_of, column=odd, key=odd))
    assert sweep(database, rule).affected == planted.due["orphaned_fingerprints"]


# --- Partitions.


def partition(app: App, table: str, by: str) -> None:
    """Make an empty table partitioned: by hash, one of the partitions once more."""
    app.execute(f"alter table {table} rename to plain".encode())
    app.execute(f"create table {table} (like plain including defaults) partition by hash ({by})".encode())
    app.execute(f"create table {table}_0 partition of {table} for values with (modulus 2, remainder 0)".encode())
    app.execute(
        f"create table {table}_1 partition of {table} for values with (modulus 2, remainder 1)"
        f" partition by hash ({by})".encode()
    )
    for part in range(2):
        app.execute(
            f'create table "{table} 1.{part}" partition of {table}_1'
            f" for values with (modulus 2, remainder {part})".encode()
        )
    app.execute("drop table plain")


@pytest.mark.parametrize("table", ["after_hours_declines", "device_fingerprints"])
def test_a_partitioned_table_is_swept_leaf_by_leaf(app: App, database: str, table: str) -> None:
    partition(app, table, "id")
    planted = plant(app, 200, NOW)
    want = expected(app, NOW)
    rule = OLD_DECLINES if table == "after_hours_declines" else ORPHANED_FINGERPRINTS
    result = sweep(database, rule)
    assert (result.status, result.affected, result.remaining) == (Status.SUCCESS, planted.due[rule.name], 0)
    assert rows_of(snapshot(app), table) == rows_of(want, table)


def test_a_partition_that_is_a_foreign_table_is_refused(app: App, database: str) -> None:
    partition(app, "after_hours_declines", "id")
    app.execute("create extension file_fdw")
    app.execute("create server files foreign data wrapper file_fdw")
    app.execute("alter table after_hours_declines detach partition after_hours_declines_0")
    app.execute(
        "create foreign table far partition of after_hours_declines for values with (modulus 2, remainder 0)"
        " server files options (program 'true')"
    )
    with session_on(database) as session:
        result = finish(Sweep(OLD_DECLINES, session, options()))
    assert result.status is Status.REFUSED
    assert "far" in (result.error or "")


@pytest.mark.usefixtures("planted")
def test_a_key_to_a_single_partition_is_found(app: App, database: str) -> None:
    app.execute("truncate after_hours_declines")
    partition(app, "after_hours_declines", "id")
    app.execute('alter table "after_hours_declines 1.0" add primary key (id)')
    app.execute(
        'create table reasons (id uuid constraint because references "after_hours_declines 1.0" on delete cascade)'
    )
    with session_on(database) as session:
        result = finish(Sweep(OLD_DECLINES, session, options()))
    assert result.status is Status.REFUSED
    assert "because" in (result.error or "")


def rows_of(tables: Tables, table: str) -> Any:
    return tables.rows[table]
