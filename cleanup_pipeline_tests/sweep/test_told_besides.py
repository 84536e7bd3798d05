"""What a sweep tells besides its counts: since when rows were due, what preflight found, how large the table is."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from psycopg import Connection

from cleanup_pipeline.rules import EXPIRED_SESSIONS, OLD_DECLINES, Rule
from cleanup_pipeline.sweep.finding import Severity
from cleanup_pipeline.sweep.footprint import measure
from cleanup_pipeline.sweep.moment import earliest, is_before
from cleanup_pipeline.sweep.preflight import inspect
from cleanup_pipeline_tests.databases import name_of
from cleanup_pipeline_tests.sweep.rows import decline, session, user
from cleanup_pipeline_tests.sweep.steps import LARGE, NOW, TINY, session_on, sweep

App = Connection[Any]
A_WEEK = timedelta(days=7)


def utc(instant: datetime) -> str:
    return instant.strftime("%Y-%m-%d %H:%M:%S+00")


@pytest.mark.parametrize("pace", [TINY, LARGE], ids=["row by row", "in one window"])
@pytest.mark.parametrize("indexed", [True, False], ids=["by an index", "by a walk"])
def test_the_oldest_row_that_was_due_is_told_although_it_is_gone(
    app: App, database: str, indexed: bool, pace: Any
) -> None:
    if indexed:
        app.execute("create index on after_hours_declines (created_at)")
    for hours in (3, 9, 1):
        decline(app, NOW - A_WEEK - timedelta(hours=hours))
    result = sweep(database, OLD_DECLINES, pace=pace)
    assert (result.affected, result.oldest) == (3, utc(NOW - A_WEEK - timedelta(hours=9)))


def test_a_session_that_expired_days_ago_is_told(app: App, database: str) -> None:
    session(app, NOW - timedelta(days=3))
    session(app, NOW - timedelta(hours=1))
    assert sweep(database, EXPIRED_SESSIONS).oldest == utc(NOW - timedelta(days=3))


def test_a_walk_stops_asking_for_ages_once_a_row_was_overdue(app: App, database: str) -> None:
    for days in range(1, 200):
        decline(app, NOW - A_WEEK - timedelta(days=days))
    result = sweep(database, OLD_DECLINES, pace=TINY)
    assert result.affected == 199
    assert result.oldest is not None
    assert is_before(result.oldest, NOW - A_WEEK - timedelta(days=1))


@pytest.mark.parametrize("rule", [EXPIRED_SESSIONS, OLD_DECLINES], ids=lambda rule: rule.name)
def test_where_nothing_is_due_there_is_no_oldest(database: str, rule: Rule) -> None:
    assert sweep(database, rule).oldest is None


def test_rows_of_times_that_python_can_not_read_are_the_oldest(app: App, database: str) -> None:
    decline(app, "0044-03-15 BC")
    decline(app, NOW - A_WEEK - timedelta(hours=1))
    assert sweep(database, OLD_DECLINES).oldest == "0044-03-15 00:00:00+00 BC"
    decline(app, "-infinity")
    assert sweep(database, OLD_DECLINES).oldest == "-infinity"


def test_times_are_put_in_order_as_postgresql_does() -> None:
    in_order = ["-infinity", "0100-01-01 00:00:00+00 BC", "0044-03-15 00:00:00+00 BC", "0900-01-01 00:00:00+00"]
    assert earliest(None, *reversed(in_order)) == "-infinity"
    assert earliest(*reversed(in_order[1:])) == in_order[1]
    assert is_before("2026-11-24 03:59:59.5+00", NOW)
    assert not is_before("2026-11-24 04:00:00+00", NOW)
    assert not is_before("2026-11-24 04:00:00.25+00", NOW)


def test_all_that_preflight_found_is_told_of_a_rule_that_was_refused(app: App, database: str) -> None:
    app.execute("alter table after_hours_declines drop column created_at")
    app.execute("alter table after_hours_declines add column created_at text")
    result = sweep(database, OLD_DECLINES)
    assert result.findings is not None
    assert [finding.severity for finding in result.findings] == [Severity.REFUSAL]


def test_a_table_is_measured_by_the_catalog_partitions_together(app: App, database: str) -> None:
    for _ in range(3):
        user(app)
        decline(app)
    app.execute("create table parts (like after_hours_declines) partition by range (created_at)")
    app.execute("create table earlier partition of parts for values from (minvalue) to ('2000-01-01')")
    app.execute("alter table parts attach partition after_hours_declines for values from ('2000-01-01') to (maxvalue)")
    app.execute("alter table after_hours_declines rename to later")
    app.execute("alter table parts rename to after_hours_declines")
    app.execute("analyze")
    with session_on(database) as session_:
        found = measure(session_, OLD_DECLINES)
    assert found is not None
    assert found.rows == 3
    assert found.size > 0
    assert found.columns["created_at"].type == "timestamp with time zone"


def test_a_table_that_is_not_there_or_locked_is_not_measured_and_nothing_is_raised(app: App, database: str) -> None:
    with session_on(database) as session_:
        with app.transaction():
            app.execute("lock table after_hours_declines in access exclusive mode")
            assert measure(session_, OLD_DECLINES) is None
        app.execute("drop table after_hours_declines cascade")
        assert measure(session_, OLD_DECLINES) is None


def told_of_transactions(database: str) -> list[str]:
    with session_on(database) as session:
        findings = inspect(session, OLD_DECLINES).findings
    return [str(finding) for finding in findings if "transactions" in finding.what]


def test_a_transaction_of_which_the_role_may_not_see_since_when_it_is_open_is_told_as_unknown(
    app: App, database: str
) -> None:
    role = f"role_of_{name_of(database)}"
    app.execute(f"create role {role} login".encode())
    as_role = database.replace("://postgres@", f"://{role}@", 1)
    try:
        app.execute("begin; select pg_current_xact_id()")
        (told,) = told_of_transactions(as_role)
        app.execute("rollback")
        assert told.startswith("Since when ")
        assert f"grant pg_read_all_stats to {role};" in told
        app.execute(f"grant pg_read_all_stats to {role}".encode())
        app.execute("begin; select pg_current_xact_id()")
        assert told_of_transactions(as_role) == []
        app.execute("rollback")
    finally:
        app.execute(f"drop role {role}".encode())
