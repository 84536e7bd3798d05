"""A run stopped half way: by Ctrl-C, by SIGTERM, and by Terminate, also of a run that Dagster can't signal."""

import json
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from dagster import AssetKey, AssetRecordsFilter, DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus

from cleanup_pipeline.demo.data import plant
from cleanup_pipeline_tests.databases import name_of
from cleanup_pipeline_tests.defs.runs import NEVER_ENDING, execute_job, run_job


@pytest.fixture
def planted(database: str) -> str:
    with psycopg.connect(database) as connection:
        plant(connection, 2000)
    return database


def until(holds: Callable[[], bool], within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def closed(url: str) -> int:
    """How many sessions the run has closed by now."""
    with psycopg.connect(url) as connection:
        ((rows,),) = connection.execute(
            "select count(*) from after_hours_sessions where ended_at = expires_at"
        ).fetchall()
    return int(rows)


def assert_stopped_with_true_counts(url: str, instance: DagsterInstance, run: DagsterRun, before: int) -> None:
    assert run.status is DagsterRunStatus.CANCELED
    assert run.tags["cleanup/outcome"] == "interrupted"
    # An interrupted step must not make its asset look fresh.
    assert not instance.all_logs(run.run_id, of_type=DagsterEventType.ASSET_MATERIALIZATION)
    (observed,) = instance.fetch_observations(
        AssetRecordsFilter(asset_key=AssetKey(["after_hours", "sessions"])), limit=10
    ).records
    assert observed.asset_observation is not None
    checks = instance.all_logs(run.run_id, of_type=DagsterEventType.ASSET_CHECK_EVALUATION)
    assert {entry.get_dagster_event().asset_check_evaluation_data.check_name for entry in checks} == {
        "age",
        "backlog",
        "preflight",
    }
    done = closed(url) - before
    assert observed.asset_observation.metadata["rows_affected"].value == done
    assert 0 < done < 1000
    with psycopg.connect(url) as connection:
        ((working,),) = connection.execute(
            "select count(*) from pg_stat_activity where datname = %s and application_name like 'cleanup_pipeline%%'",
            [name_of(url)],
        ).fetchall()
    assert working == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl_c", "sigterm"])
def test_a_signal_stops_dagster_job_execute_within_a_window_and_the_run_ends_as_canceled(
    planted: str, instance: DagsterInstance, dagster_home: Path, tmp_path: Path, number: signal.Signals
) -> None:
    config = tmp_path / "run.json"
    config.write_text(json.dumps(NEVER_ENDING))
    before = closed(planted)
    process = execute_job(planted, dagster_home, "-c", str(config))
    try:
        until(lambda: closed(planted) > before)
        process.send_signal(number)
        process.wait(30)
    finally:
        process.kill()
    (run,) = instance.get_runs()
    assert_stopped_with_true_counts(planted, instance, run, before)


def test_terminate_stops_a_run_that_dagster_can_not_signal(planted: str, instance: DagsterInstance) -> None:
    before = closed(planted)
    with ThreadPoolExecutor(1) as executor:
        result = executor.submit(run_job, planted, instance, config=NEVER_ENDING)
        until(lambda: closed(planted) > before)
        (run,) = instance.get_runs()
        instance.report_run_canceling(run)  # what Terminate does where there is no process to signal
        assert not result.result(60).success
    (run,) = instance.get_runs()
    assert_stopped_with_true_counts(planted, instance, run, before)
