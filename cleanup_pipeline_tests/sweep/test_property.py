"""Random databases: after a run of every rule each table is what the promises say, at any pace and up to any limit."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from psycopg import Connection
from psycopg.types.json import Jsonb

from cleanup_pipeline.demo.schema import TABLES
from cleanup_pipeline.postgres import Database, Session
from cleanup_pipeline.rules import RULES
from cleanup_pipeline.sweep.pace import Pace
from cleanup_pipeline.sweep.plan import plan
from cleanup_pipeline.sweep.result import Status
from cleanup_pipeline.sweep.sweep import Sweep
from cleanup_pipeline.sweep.window import Budget
from cleanup_pipeline_tests.databases import fresh_database
from cleanup_pipeline_tests.oracle import Tables, expected, snapshot
from cleanup_pipeline_tests.sweep.steps import LARGE, NOW, SHARED, TINY, UNRESTED, few_rows_a_page, finish, options

App = Connection[Any]
Rows = list[dict[str, Any]]

MICROSECOND = timedelta(microseconds=1)
CUTOFFS = (timedelta(0), timedelta(hours=1), timedelta(days=7))
# Around each cutoff, where mistakes are; far from them; and where calendars end.
MOMENTS = [
    *((NOW - age + beside * MICROSECOND).isoformat() for age in CUTOFFS for beside in (-1, 0, 1)),
    (NOW - timedelta(days=400)).isoformat(),
    (NOW - timedelta(days=3)).isoformat(),
    (NOW + timedelta(days=400)).isoformat(),
    "-infinity",
    "0044-03-15T12:00:00+00:00 BC",
    "294276-12-31T23:59:59.999999+00:00",
    "infinity",
]
moments = st.sampled_from(MOMENTS)
moments_or_null = st.none() | moments


@dataclass(frozen=True)
class Kind:
    """A kind of database: what may be in it, and a connection to one."""

    name: str
    url: str
    app: App
    nullable: bool = True
    orphans: bool = True


NULLABLE = (
    "alter table after_hours_sessions alter expires_at drop not null",
    "alter table after_hours_declines alter created_at drop not null",
    "alter table device_fingerprints alter created_at drop not null, add updated_at timestamptz",
    "alter table after_hours_profiles alter created_at drop not null, alter updated_at drop not null",
    "alter table after_hours_preferences alter created_at drop not null, alter updated_at drop not null",
)


@pytest.fixture(scope="module")
def kinds(server_url: str, schema_template: str, guarded_template: str) -> Iterator[dict[str, Kind]]:
    """A database of each kind, kept for all examples: making one costs more than sweeping it."""
    with ExitStack() as stack:

        def open_kind(name: str, template: str, **may: bool) -> Kind:
            url = stack.enter_context(fresh_database(server_url, template))
            return Kind(name, url, stack.enter_context(psycopg.connect(url, autocommit=True)), **may)

        loose = open_kind("loose", schema_template)
        guarded = open_kind("guarded", guarded_template, nullable=False, orphans=False)
        partitioned = open_kind("partitioned", schema_template)
        for statement in NULLABLE:
            loose.app.execute(statement.encode())
            partitioned.app.execute(statement.encode())
        for table in ("after_hours_declines", "device_fingerprints", "after_hours_profiles"):
            partition(partitioned.app, table)
        few_rows_a_page(loose.app, *TABLES)
        yield {kind.name: kind for kind in (loose, guarded, partitioned)}


def partition(app: App, table: str) -> None:
    """Make an empty table partitioned, over two levels: by when a row was made, and then by hash."""
    app.execute(f"alter table {table} rename to plain".encode())
    app.execute(f"create table {table} (like plain including defaults) partition by range (created_at)".encode())
    app.execute(f"create table {table}_old partition of {table} for values from (minvalue) to ('2026-11-20Z')".encode())
    app.execute(f"create table {table}_rest partition of {table} default partition by hash (user_id)".encode())
    for remainder in range(2):
        app.execute(
            f"create table {table}_{remainder} partition of {table}_rest"
            f" for values with (modulus 2, remainder {remainder})".encode()
        )
    app.execute("drop table plain")


# --- Random rows. Users, sessions and so on have numbers; what is drawn is what a rule looks at.

USERS = 5


@dataclass(frozen=True)
class Drawn:
    """What a database holds."""

    sessions: list[tuple[str | None, str | None]]
    declines: list[tuple[int, str | None]]
    fingerprints: list[tuple[int | None, str | None, str | None]]
    profiles: list[tuple[int, str | None, str | None]]
    preferences: list[tuple[int, str | None, str | None]]


def drawn(most: int) -> st.SearchStrategy[Drawn]:
    """Numbers of sessions and users go beyond those that exist: these are orphans."""
    owned = st.lists(
        st.tuples(st.integers(0, 3 * USERS), moments_or_null, moments_or_null),
        max_size=most,
        unique_by=lambda row: row[0],
    )
    return st.builds(
        Drawn,
        sessions=st.lists(st.tuples(moments_or_null, moments_or_null), min_size=1, max_size=most),
        declines=st.lists(
            st.tuples(st.integers(0, most * USERS), moments_or_null), max_size=most, unique_by=lambda row: row[0]
        ),
        fingerprints=st.lists(
            st.tuples(st.none() | st.integers(0, 2 * most), moments_or_null, moments_or_null), max_size=most
        ),
        profiles=owned,
        preferences=owned,
    )


def identity(kind: int, number: int) -> str:
    return f"00000000-0000-4000-8000-{kind:04}{number:08}"


def fill(kind: Kind, drawn: Drawn) -> None:
    """Empty the tables and put the drawn rows in, as far as this kind of database may hold them."""

    def dated(moment: str | None) -> str | None:
        return moment or (None if kind.nullable else NOW.isoformat())

    users = max(USERS, len(drawn.sessions))
    place = {"latitude": 52.5, "longitude": 13.4, "fuzzed_latitude": 52.5, "fuzzed_longitude": 13.4}
    tables: dict[str, Rows] = {
        "users": [
            {"id": f"user {number}", "provider": "phone", "created_at": NOW.isoformat()} for number in range(users)
        ],
        "after_hours_sessions": [
            {
                "id": identity(1, number),
                "user_id": f"user {number}",
                "started_at": NOW.isoformat(),
                "created_at": NOW.isoformat(),
                "expires_at": dated(expires_at),
                "ended_at": ended_at,
                **place,
            }
            for number, (expires_at, ended_at) in enumerate(drawn.sessions)
        ],
        "after_hours_declines": [
            {
                "id": identity(2, number),
                "session_id": identity(1, number % len(drawn.sessions)),
                "user_id": f"user {pair % USERS}",
                "declined_user_id": f"user {pair // USERS % users}",
                "created_at": dated(created_at),
                "decline_count": 1,
                "first_declined_at": NOW.isoformat(),
            }
            for number, (pair, created_at) in enumerate(drawn.declines)
            if pair // USERS < users
        ],
        "after_hours_matches": [
            {
                "id": identity(3, number),
                "session_id": identity(1, number),
                "user_id_1": "user 0",
                "user_id_2": "user 1",
                "expires_at": "-infinity",
                "created_at": "-infinity",
            }
            for number in range(min(3, len(drawn.sessions)))
        ],
        "after_hours_messages": [
            {
                "id": identity(4, number),
                "match_id": identity(3, number),
                "sender_id": "user 0",
                "text": "Hello",
                "created_at": "-infinity",
            }
            for number in range(min(3, len(drawn.sessions)))
        ],
        "device_fingerprints": [
            {
                "id": identity(5, number),
                "user_id": f"user {number % users}",
                "session_id": None if names is None else identity(1, names),
                "device_id": "device",
                "created_at": dated(created_at),
                **({"updated_at": updated_at} if kind.nullable else {}),
            }
            for number, (names, created_at, updated_at) in enumerate(drawn.fingerprints)
            if kind.orphans or names is None or names < len(drawn.sessions)
        ],
        "after_hours_profiles": [
            {
                "user_id": f"user {owner}",
                "photo_url": "",
                "created_at": dated(created_at),
                "updated_at": dated(updated_at),
            }
            for owner, created_at, updated_at in drawn.profiles
            if kind.orphans or owner < users
        ],
        "after_hours_preferences": [
            {
                "user_id": f"user {owner}",
                "seeking_gender": "everyone",
                "max_distance_km": 1,
                "interests": [],
                "min_age": 18,
                "max_age": 99,
                "created_at": dated(created_at),
                "updated_at": dated(updated_at),
            }
            for owner, created_at, updated_at in drawn.preferences
            if kind.orphans or owner < users
        ],
    }
    with kind.app.transaction():
        kind.app.execute(f"truncate {', '.join(TABLES)}".encode())
        for table, rows in tables.items():
            kind.app.execute(
                f"insert into {table} select * from jsonb_populate_recordset(null::{table}, %s)".encode(), [Jsonb(rows)]
            )


# --- What must hold.

RULE_TABLES = {rule.name: rule.table.name for rule in RULES}
PACES = {pace.name: pace for pace in (TINY, UNRESTED, LARGE, SHARED)}


def sweep_and_check(kind: Kind, pace: Pace, limit: int | None, pooled: bool) -> None:
    before, want = snapshot(kind.app), expected(kind.app, NOW)
    due = {rule: before.only_here(want)[table] for rule, table in RULE_TABLES.items()}
    budget = Budget(rows=limit)
    with Session(Database.parse(kind.url)) as session:
        session.connect()
        session.pooled = pooled
        for rule in RULES:
            planned = plan(rule, session, options(pace=pace))
            assert (planned.status, planned.candidates) == (Status.SUCCESS, due[rule.name])
        assert snapshot(kind.app) == before, "a plan writes nothing"
        results = {rule.name: finish(Sweep(rule, session, options(pace=pace, budget=budget))) for rule in RULES}
    after = snapshot(kind.app)
    assert [result.error for result in results.values()] == [None] * len(RULES)
    left = limit
    for name, result in results.items():
        affected = due[name] if left is None else min(due[name], left)
        left = None if left is None else left - affected
        assert (name, result.status, result.affected, result.remaining) == (
            name,
            Status.SUCCESS,
            affected,
            due[name] - affected,
        )
    if limit is None or limit >= sum(due.values()):
        assert after == want
    assert_changed_only_as_promised(before, after, want)


def assert_changed_only_as_promised(before: Tables, after: Tables, want: Tables) -> None:
    for table in TABLES:
        assert before.rows[table] - after.rows[table] <= before.rows[table] - want.rows[table]
        assert after.rows[table] - before.rows[table] <= want.rows[table] - before.rows[table]


EVERYTHING_DUE = Drawn(
    sessions=[("-infinity", None)] * 9,
    declines=[(number, "-infinity") for number in range(9)],
    fingerprints=[(number, "-infinity", None) for number in range(18)],
    profiles=[(number, "-infinity", None) for number in range(15)],
    preferences=[(number, "-infinity", "-infinity") for number in range(15)],
)


@example(kind="loose", pace="tiny", limit=None, pooled=False, drawn=EVERYTHING_DUE)
@example(kind="partitioned", pace="tiny", limit=20, pooled=True, drawn=EVERYTHING_DUE)
@given(
    kind=st.sampled_from(["loose", "loose", "partitioned", "guarded"]),
    pace=st.sampled_from(sorted(PACES)),
    limit=st.none() | st.integers(1, 60),
    pooled=st.booleans(),
    drawn=drawn(12),
)
@settings(
    max_examples=20,
    phases=[Phase.explicit, Phase.generate],  # to shrink what was found takes minutes: the longer form does
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    derandomize=True,
    database=None,
)
def test_a_run_leaves_every_table_as_the_promises_say(
    kinds: dict[str, Kind], kind: str, pace: str, limit: int | None, pooled: bool, drawn: Drawn
) -> None:
    fill(kinds[kind], drawn)
    sweep_and_check(kinds[kind], PACES[pace], limit, pooled)


@pytest.mark.long
@pytest.mark.timeout(3600)
@given(
    kind=st.sampled_from(["loose", "partitioned", "guarded"]),
    pace=st.sampled_from(sorted(PACES)),
    limit=st.none() | st.integers(1, 300),
    pooled=st.booleans(),
    drawn=drawn(60),
)
@settings(
    max_examples=3000,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    database=None,
)
def test_many_runs_leave_every_table_as_the_promises_say(
    kinds: dict[str, Kind], kind: str, pace: str, limit: int | None, pooled: bool, drawn: Drawn
) -> None:
    fill(kinds[kind], drawn)
    sweep_and_check(kinds[kind], PACES[pace], limit, pooled)
