"""The checks of the assets: every end that a rule can come to has an answer to each."""

import socket
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from dagster import AssetKey, AssetMaterialization, DagsterEventType, DagsterInstance, DagsterRunStatus, MetadataValue

from cleanup_pipeline.demo.data import plant
from cleanup_pipeline.gate import day
from cleanup_pipeline.rules import RULES
from cleanup_pipeline.sweep import lock
from cleanup_pipeline_tests.defs.runs import run_job
from cleanup_pipeline_tests.sweep.steps import session_on

pytestmark = pytest.mark.in_memory

App = psycopg.Connection[Any]
CHECKS = ("age", "backlog", "preflight")


def answers(instance: DagsterInstance, run_id: str) -> dict[str, dict[str, str]]:
    """For each asset that was answered for: by check, `passed`, `WARN` or `ERROR`."""
    told: dict[str, dict[str, str]] = {}
    for entry in instance.all_logs(run_id, of_type=DagsterEventType.ASSET_CHECK_EVALUATION):
        check = entry.get_dagster_event().asset_check_evaluation_data
        answer = "passed" if check.passed else check.severity.value
        assert told.setdefault(check.asset_key.path[-1], {}).setdefault(check.check_name, answer) is answer
    return told


def why(instance: DagsterInstance, run_id: str, asset: str, check: str) -> str:
    (said,) = [
        found.description
        for entry in instance.all_logs(run_id, of_type=DagsterEventType.ASSET_CHECK_EVALUATION)
        if (found := entry.get_dagster_event().asset_check_evaluation_data).asset_key.path[-1] == asset
        and found.check_name == check
    ]
    return said or ""


def run(url: str | None, instance: DagsterInstance, **arguments: Any) -> tuple[str, dict[str, dict[str, str]]]:
    run_id = run_job(url, instance, **arguments).run_id
    return run_id, answers(instance, run_id)


def all_of(answer: str) -> dict[str, str]:
    return dict.fromkeys(CHECKS, answer)


def test_a_night_with_nothing_to_clean_passes_every_check(database: str, instance: DagsterInstance) -> None:
    _, told = run(database, instance)
    assert told == {rule.asset[1]: all_of("passed") for rule in RULES}


def test_rows_that_earlier_nights_have_left_are_a_warning_once_they_are_clean(
    app: App, database: str, instance: DagsterInstance
) -> None:
    plant(app, 100)
    _, first = run(database, instance)
    assert first["declines"] == all_of("passed") | {"age": "WARN"}
    assert first["sessions"] == all_of("passed") | {"age": "WARN"}
    _, second = run(database, instance)
    assert second == {rule.asset[1]: all_of("passed") for rule in RULES}


def test_what_became_due_since_the_night_before_is_no_broken_promise(
    app: App, database: str, instance: DagsterInstance
) -> None:
    plant(app, 1)
    app.execute("update after_hours_declines set created_at = now() - interval '7 days 23 hours'")
    app.execute("update after_hours_sessions set expires_at = now() - interval '23 hours', ended_at = null")
    _, told = run(database, instance)
    assert told["declines"] == told["sessions"] == all_of("passed")


def test_the_age_is_measured_by_the_retention_that_the_run_was_given(
    app: App, database: str, instance: DagsterInstance
) -> None:
    plant(app, 1)
    app.execute("update after_hours_declines set created_at = now() - interval '7 days 12 hours'")
    config = {"ops": {"delete_old_declines": {"config": {"retention_days": 5}}}}
    _, told = run(database, instance, config=config)
    assert told["declines"] == all_of("passed") | {"age": "WARN"}


def test_locked_rows_are_a_warning(app: App, database: str, instance: DagsterInstance) -> None:
    plant(app, 1)
    app.execute("update after_hours_declines set created_at = now() - interval '7 days 1 hour'")
    with psycopg.connect(database) as holder:
        holder.execute("select from after_hours_declines for update")
        run_id, told = run(database, instance)
        holder.rollback()
    assert told["declines"] == all_of("passed") | {"backlog": "WARN"}
    assert "1 rows that are due are left: they were locked" in why(instance, run_id, "declines", "backlog")


def test_rows_left_by_a_limit_are_an_error_and_so_are_overdue_ones_that_stay(
    app: App, database: str, instance: DagsterInstance
) -> None:
    plant(app, 100)
    config = {"resources": {"cleanup_run": {"config": {"max_rows": 60}}}}
    run_id, told = run(database, instance, config=config)
    assert told["sessions"] == all_of("passed") | {"age": "WARN"}
    assert told["declines"] == all_of("passed") | {"age": "ERROR", "backlog": "ERROR"}
    assert "limit" in why(instance, run_id, "declines", "backlog")


def test_a_refusal_is_an_error_and_the_other_assets_have_their_own_answers(
    app: App, database: str, instance: DagsterInstance
) -> None:
    app.execute("alter table after_hours_declines rename to elsewhere")
    run_id, told = run(database, instance)
    assert told["declines"] == all_of("ERROR")
    assert "after_hours_declines does not exist" in why(instance, run_id, "declines", "preflight")
    assert told["profiles"] == all_of("passed")


def test_what_preflight_warns_of_is_a_warning(app: App, database: str, instance: DagsterInstance) -> None:
    app.execute("create table reports (decline_id uuid references after_hours_declines)")
    run_id, told = run(database, instance)
    assert told["declines"] == all_of("passed") | {"preflight": "WARN"}
    assert "reports" in why(instance, run_id, "declines", "preflight")


def test_a_row_that_can_not_be_changed_is_an_error_of_the_backlog(
    app: App, database: str, instance: DagsterInstance
) -> None:
    plant(app, 10)
    app.execute("alter table after_hours_sessions add check (ended_at is null or ended_at > now()) not valid")
    _, told = run(database, instance)
    assert told["sessions"] == {"age": "ERROR", "backlog": "ERROR", "preflight": "passed"}


def test_where_another_sweep_holds_the_rule_nothing_is_known(database: str, instance: DagsterInstance) -> None:
    with session_on(database) as other:
        assert lock.hold(other, "old_declines")
        run_id, told = run(database, instance)
    assert told["declines"] == {"age": "WARN", "backlog": "WARN", "preflight": "passed"}
    assert why(instance, run_id, "declines", "backlog").startswith("Not known: the rule was skipped.")


def test_a_run_that_can_not_begin_answers_all_the_same(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused
        monkeypatch.setenv("CLEANUP_DATABASE_URL", f"postgresql://127.0.0.1:{taken.getsockname()[1]}/dating")
        _, told = run(None, instance)
    assert told == {rule.asset[1]: all_of("ERROR") for rule in RULES}


def test_a_superseded_run_has_looked_at_nothing_and_says_nothing(database: str, instance: DagsterInstance) -> None:
    nightly = {"cleanup/day": str(day.utc_day(day.utc_now())), "cleanup/trigger": "schedule"}
    run(database, instance, tags=nightly)
    run_id, told = run(database, instance, tags=nightly)
    ended = instance.get_run_by_id(run_id)
    assert ended is not None
    assert (ended.status, told) == (DagsterRunStatus.CANCELED, {})


def clean_night(instance: DagsterInstance, ago: timedelta, **metadata: Any) -> None:
    as_of = datetime.now(UTC) - ago
    told: Mapping[str, Any] = {"rows_affected": 5, "rows_remaining": 0, "as_of": MetadataValue.timestamp(as_of)}
    for rule in RULES:
        instance.report_runless_asset_event(AssetMaterialization(AssetKey(rule.asset), metadata={**told, **metadata}))


@pytest.mark.parametrize(
    ("ago", "left", "answer"),
    [
        pytest.param(timedelta(days=1), 0, "passed", id="the night before left none"),
        pytest.param(timedelta(days=3), 0, "WARN", id="nights were missed since"),
        pytest.param(timedelta(days=1), 1, "passed", id="the night before left some, and before that nothing is known"),
    ],
)
def test_of_orphans_the_last_clean_night_tells_how_long_they_may_have_been_there(
    app: App, database: str, instance: DagsterInstance, ago: timedelta, left: int, answer: str
) -> None:
    plant(app, 20)
    clean_night(instance, ago, rows_remaining=left)
    _, told = run(database, instance)
    assert told["profiles"] == all_of("passed") | {"age": answer}


def test_a_failed_check_does_not_change_how_the_run_ends(app: App, database: str, instance: DagsterInstance) -> None:
    plant(app, 100)
    config = {"resources": {"cleanup_run": {"config": {"max_rows": 60}}}}
    run_id, _ = run(database, instance, config=config)
    ended = instance.get_run_by_id(run_id)
    assert ended is not None
    assert (ended.status, ended.tags["cleanup/outcome"]) == (DagsterRunStatus.SUCCESS, "success")
