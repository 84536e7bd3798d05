"""The job, on a real database."""

import json
import socket
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from dagster import AssetKey, DagsterEventType, DagsterInstance, DagsterRunStatus

from cleanup_pipeline.defs.resources import Observer, PostgresResource
from cleanup_pipeline.demo.data import plant
from cleanup_pipeline.gate.dagster_facts import complete_good_runs
from cleanup_pipeline.rules import RULES
from cleanup_pipeline_tests.databases import everything_in, name_of
from cleanup_pipeline_tests.defs.runs import JOB, messages_of, metadata_of, run_job
from cleanup_pipeline_tests.oracle import expected, snapshot

pytestmark = pytest.mark.in_memory

NUMBERS = ("rows_affected", "rows_remaining", "batches", "duration_s", "rows_per_second", "longest_batch_ms")


@pytest.fixture
def planted(database: str) -> str:
    """A database with rows to clean for every rule."""
    with psycopg.connect(database) as connection:
        plant(connection, 300)
    return database


def test_a_run_does_what_was_promised_and_one_as_of_holds_for_all_of_it(planted: str) -> None:
    observer = Observer()
    with psycopg.connect(planted, autocommit=True) as connection:
        before = snapshot(connection)
        promised = expected(connection, connection.execute("select now()").fetchall()[0][0])
        result = run_job(planted, observer=observer)
        assert result.success
        assert snapshot(connection) == promised != before
    as_of = {metadata_of(result, rule.asset[1])["as_of"] for rule in RULES}
    assert as_of == {observer.as_of.timestamp() if observer.as_of else None}


def test_a_test_swaps_its_database_in_by_one_line(planted: str) -> None:
    assert JOB.execute_in_process(resources={"postgres": PostgresResource(url=planted)}).success


def test_the_url_comes_from_the_environment_at_the_time_of_the_run(
    planted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLEANUP_DATABASE_URL", planted)
    assert run_job(None).success


def test_metadata_are_numbers_and_are_there_when_nothing_was_cleaned(database: str) -> None:
    result = run_job(database)
    for rule in RULES:
        found = metadata_of(result, rule.asset[1])
        assert {name: found[name] for name in NUMBERS if name != "duration_s"} == {
            name: 0 for name in NUMBERS if name != "duration_s"
        }
        assert isinstance(found["duration_s"], float)
        assert isinstance(found["as_of"], float)
        assert (found["dagster/row_count"], found["table_size_mb"] > 0) == (0, True)
        assert [column.name for column in found["dagster/column_schema"].columns if column.name == "created_at"]


def row_counts(result: Any) -> list[int]:
    return [metadata_of(result, rule.asset[1])["dagster/row_count"] for rule in RULES]


def rows_in(app: psycopg.Connection) -> list[int]:
    return [app.execute(f"select count(*) from {rule.table.name}".encode()).fetchall()[0][0] for rule in RULES]


@pytest.mark.parametrize(
    "before",
    ["analyze", "vacuum analyze", "select 1", "analyze; select pg_stat_reset()"],
    ids=["analyzed", "vacuumed", "never looked at", "statistics lost"],
)
def test_the_row_count_is_what_the_run_has_left(app: psycopg.Connection, database: str, before: str) -> None:
    plant(app, 200)
    app.execute("select pg_stat_force_next_flush()")  # as at a session's end
    for statement in before.split("; "):
        app.execute(statement.encode())
    assert row_counts(run_job(database)) == rows_in(app)
    if "reset" not in before:  # where the server does not count, a later run knows of its own deletions alone
        assert row_counts(run_job(database)) == rows_in(app)


def test_the_steps_run_in_the_order_of_the_rules(planted: str) -> None:
    result = run_job(planted)
    started = [event.step_key for event in result.all_events if event.event_type is DagsterEventType.STEP_START]
    assert started == [rule.op for rule in RULES]


def test_the_retention_is_configured_at_the_op(app: psycopg.Connection, database: str) -> None:
    plant(app, 1)  # one decline: it has been due for long
    app.execute("update after_hours_declines set created_at = now() - interval '3 days'")
    config = {"ops": {"delete_old_declines": {"config": {"retention_days": 2}}}}
    assert metadata_of(run_job(database), "declines")["rows_affected"] == 0
    assert metadata_of(run_job(database, config=config), "declines")["rows_affected"] == 1


@pytest.mark.parametrize("days", [0, -1, 36501])
def test_a_retention_out_of_range_fails_its_step_and_touches_nothing(planted: str, days: int) -> None:
    with psycopg.connect(planted, autocommit=True) as connection:
        before = snapshot(connection)
        config = {"ops": {"delete_old_declines": {"config": {"retention_days": days}}}}
        assert not run_job(planted, config=config, op_selection=["delete_old_declines"]).success
        assert snapshot(connection) == before


def test_a_refused_rule_leaves_the_others_to_run_and_the_run_then_ends_as_failed(
    planted: str, instance: DagsterInstance
) -> None:
    with psycopg.connect(planted, autocommit=True) as connection:
        connection.execute("alter table after_hours_sessions rename to elsewhere")
        result = run_job(planted, instance)
        (profiles,) = connection.execute("select count(*) from after_hours_profiles").fetchall()[0]
    assert not result.success
    assert profiles == 270
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    assert run.status is DagsterRunStatus.FAILURE
    assert run.tags["cleanup/outcome"] == "refused"
    told = "\n".join(messages_of(instance, result.run_id))
    assert "The table public.after_hours_sessions does not exist in this database." in told


@pytest.mark.parametrize("reason", [None, " "])
def test_the_fuse_is_not_lifted_without_a_reason(planted: str, instance: DagsterInstance, reason: str | None) -> None:
    lifted = {"allow_share": 0.9} | ({} if reason is None else {"reason": reason})
    with psycopg.connect(planted, autocommit=True) as connection:
        before = snapshot(connection)
        result = run_job(planted, instance, config={"resources": {"cleanup_run": {"config": lifted}}})
        assert snapshot(connection) == before
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    assert run.tags["cleanup/outcome"] == "refused"
    told = "\n".join(messages_of(instance, result.run_id))
    assert "Set reason beside it in the configuration of cleanup_run, or the run's tag cleanup/reason." in told


@pytest.mark.parametrize("said_by", ["its configuration", "its tag"])
def test_a_run_for_which_the_fuse_is_lifted_keeps_the_share_and_the_reason_in_its_tags(
    planted: str, instance: DagsterInstance, said_by: str
) -> None:
    by_tag = said_by == "its tag"
    lifted = {"allow_share": 0.9} | ({} if by_tag else {"reason": "users were\npurged"})
    result = run_job(
        planted,
        instance,
        config={"resources": {"cleanup_run": {"config": lifted}}},
        op_selection=["delete_orphaned_profiles"],
        tags={"cleanup/reason": "users were purged"} if by_tag else {},
    )
    run = instance.get_run_by_id(result.run_id)
    assert result.success
    assert run is not None
    assert (run.tags["cleanup/allow_share"], run.tags["cleanup/reason"]) == ("0.9", "users were purged")


def test_a_run_ends_with_one_line_of_counts_rule_by_rule(planted: str, instance: DagsterInstance) -> None:
    result = run_job(planted, instance)
    said = [entry.user_message for entry in instance.all_logs(result.run_id) if not entry.is_dagster_event]
    assert said[-1] == (
        "expired_sessions: 150 rows; old_declines: 150 rows; orphaned_fingerprints: 60 rows; "
        "orphaned_profiles: 30 rows; orphaned_preferences: 30 rows"
    )


def test_without_a_url_a_run_fails_with_one_clear_error(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CLEANUP_DATABASE_URL", raising=False)
    result = run_job(None, instance)
    assert not result.success
    assert any("CLEANUP_DATABASE_URL is not set" in text for text in messages_of(instance, result.run_id))


def test_with_the_database_down_a_run_fails_naming_host_port_and_database_and_never_the_password(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused
        port = taken.getsockname()[1]
        monkeypatch.setenv("CLEANUP_DATABASE_URL", f"postgresql://app:s%21cret@127.0.0.1:{port}/dating")
        result = run_job(None, instance)
    told = "\n".join(messages_of(instance, result.run_id))
    assert f"127.0.0.1:{port}/dating" in told
    assert "cret" not in told


def test_no_password_is_in_any_table_of_dagsters_storage(
    planted: str, dagster_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLEANUP_DATABASE_URL", f"{planted}{'&' if '?' in planted else '?'}password=Mk7secretQz")
    with DagsterInstance.from_config(str(dagster_home)) as instance:
        assert run_job(None, instance).success
    storage = json.loads((dagster_home / "dagster.yaml").read_text())["storage"]["postgres"]["postgres_url"]
    assert "session_cleanup" in everything_in(storage)
    assert "Mk7secretQz" not in everything_in(storage)


def test_as_of_is_the_databases_clock_and_can_be_set_in_the_past_only(planted: str, instance: DagsterInstance) -> None:
    future = {"resources": {"cleanup_run": {"config": {"as_of": "2999-01-01T00:00:00Z"}}}}
    with psycopg.connect(planted, autocommit=True) as connection:
        before = snapshot(connection)
        assert not run_job(planted, instance, config=future).success
        assert snapshot(connection) == before
        past = datetime.fromisoformat("2020-01-01T00:00:00+00:00")
        result = run_job(planted, config={"resources": {"cleanup_run": {"config": {"as_of": past.isoformat()}}}})
        assert result.success
        assert snapshot(connection) == before


def test_max_rows_is_strict_over_the_whole_run_in_the_rules_order(planted: str) -> None:
    observer = Observer()
    run_job(planted, observer=observer, config={"resources": {"cleanup_run": {"config": {"max_rows": 200}}}})
    assert {name: (result.affected, result.remaining) for name, result in observer.results.items()} == {
        "expired_sessions": (150, 0),
        "old_declines": (50, 100),
        "orphaned_fingerprints": (0, 60),
        "orphaned_profiles": (0, 30),
        "orphaned_preferences": (0, 30),
    }


@pytest.mark.parametrize(
    ("limit", "good"), [({"max_rows": 100}, False), ({"max_seconds": 1}, False), ({"max_rows": 10_000}, True)], ids=str
)
def test_a_run_that_its_own_limit_kept_from_cleaning_everything_is_no_good_run(
    planted: str, instance: DagsterInstance, limit: dict[str, int], *, good: bool
) -> None:
    slow = {} if "max_rows" in limit else {"window_ms": 0.001, "rest": 100.0}
    observer = Observer()

    run = run_job(planted, instance, config={"resources": {"cleanup_run": {"config": limit | slow}}}, observer=observer)

    assert run.success
    assert [found.run_id for found in complete_good_runs(instance, {rule.op for rule in RULES})] == (
        [run.run_id] if good else []
    )
    looked_at = [rule for rule in RULES if observer.results[rule.name].remaining is not None]
    assert [event.asset_key for event in run.get_asset_materialization_events()] == [
        AssetKey(rule.asset) for rule in looked_at
    ]
    assert ("max_rows" in limit) == (looked_at == list(RULES))
    observed = instance.all_logs(run.run_id, of_type=DagsterEventType.ASSET_OBSERVATION)
    assert len(observed) == len(RULES) - len(looked_at)
    assert ("not looked at to its end" in " ".join(messages_of(instance, run.run_id))) == bool(observed)


def test_the_rule_locks_and_connections_are_gone_after_a_run(planted: str, server_url: str) -> None:
    run_job(planted)
    with psycopg.connect(server_url) as connection:
        left = connection.execute(
            "select count(*) from pg_stat_activity where datname = %s and application_name like 'cleanup_pipeline%%'",
            [name_of(planted)],
        ).fetchall()
    assert left == [(0,)]
