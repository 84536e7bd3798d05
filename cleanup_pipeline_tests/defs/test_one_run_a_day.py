"""Of the runs of a day, one works: the claim, in the job itself."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, date, datetime, time
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter

from cleanup_pipeline.defs.resources import Observer
from cleanup_pipeline.demo.data import plant
from cleanup_pipeline.gate import day
from cleanup_pipeline.gate.dagster_facts import RETRIED_BY_TAG
from cleanup_pipeline.gate.look import look
from cleanup_pipeline.sweep.result import Status
from cleanup_pipeline_tests.defs.runs import CHECKOUT, NEVER_ENDING, execute_job, messages_of, metadata_of, run_job
from cleanup_pipeline_tests.gate.storage import add_run
from cleanup_pipeline_tests.oracle import expected, snapshot

TODAY = str(day.utc_day(day.utc_now()))
NIGHTLY = {"cleanup/day": TODAY, "cleanup/trigger": "schedule"}


@contextmanager
def one_tick(dagster_home: Path, trigger: str, url: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A daemon's tick that is ready to look, in a process of its own."""
    command = [sys.executable, "-m", "cleanup_pipeline_tests.defs.one_tick", str(dagster_home), trigger, url]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def planted(database: str) -> str:
    with psycopg.connect(database) as connection:
        plant(connection, 200)
    return database


def ended(instance: DagsterInstance, run_id: str) -> tuple[DagsterRunStatus, str]:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.status, run.tags["cleanup/outcome"]


def test_a_second_run_of_the_day_touches_nothing_and_ends_as_canceled_and_superseded(
    planted: str, instance: DagsterInstance
) -> None:
    first = run_job(planted, instance, tags=NIGHTLY)
    with psycopg.connect(planted, autocommit=True) as connection:
        connection.execute("truncate after_hours_sessions, after_hours_matches, after_hours_messages cascade")
        before = snapshot(connection)
        second = run_job(planted, instance, tags=NIGHTLY | {"cleanup/trigger": "sensor"})
        assert snapshot(connection) == before
    assert ended(instance, first.run_id) == (DagsterRunStatus.SUCCESS, "success")
    assert ended(instance, second.run_id) == (DagsterRunStatus.CANCELED, "superseded")
    assert any(first.run_id in text for text in messages_of(instance, second.run_id))


def test_of_runs_that_start_at_one_instant_one_works(
    planted: str, instance: DagsterInstance, dagster_home: Path
) -> None:
    # In processes of their own, as Dagster launches them; two runs in one process would share its logging.
    with psycopg.connect(planted, autocommit=True) as connection:
        promised = expected(connection, connection.execute("select now()").fetchall()[0][0])
        runs = [
            execute_job(planted, dagster_home, "--tags", json.dumps(NIGHTLY | {"cleanup/trigger": trigger}))
            for trigger in ("schedule", "sensor", "sensor")
        ]
        for run in runs:
            run.wait(120)
        assert snapshot(connection) == promised
    outcomes = sorted(ended(instance, run.run_id)[1] for run in instance.get_runs())
    assert outcomes == ["success", "superseded", "superseded"]


def test_of_the_runs_that_two_daemons_ticks_start_at_one_instant_one_works(
    planted: str, instance: DagsterInstance, dagster_home: Path
) -> None:
    add_run(instance, "message_cleanup", {"start": "03:00", "success": "03:05"})
    with psycopg.connect(planted, autocommit=True) as connection:
        promised = expected(connection, connection.execute("select now()").fetchall()[0][0])
        with ExitStack() as stack:
            ticks = [
                stack.enter_context(one_tick(dagster_home, trigger, planted))
                for trigger in ("schedule", "sensor", "schedule", "sensor")
            ]
            for tick in ticks:
                assert tick.stdout is not None
                assert tick.stdout.readline() == b"ready\n"
            for tick in ticks:
                assert tick.stdin is not None
                tick.stdin.write(b"now\n")
                tick.stdin.flush()
            assert [tick.wait(150) for tick in ticks] == [0, 0, 0, 0]
        assert snapshot(connection) == promised
    outcomes = [ended(instance, run.run_id)[1] for run in instance.get_runs(RunsFilter(job_name="session_cleanup"))]
    assert sorted(outcomes) == ["success", *["superseded"] * (len(outcomes) - 1)]


def test_after_a_run_that_failed_the_next_one_of_the_day_works(planted: str, instance: DagsterInstance) -> None:
    with psycopg.connect(planted, autocommit=True) as connection:
        connection.execute("alter table after_hours_sessions rename to elsewhere")
        first = run_job(planted, instance, tags=NIGHTLY)
        connection.execute("alter table elsewhere rename to after_hours_sessions")
    second = run_job(planted, instance, tags=NIGHTLY)
    assert ended(instance, first.run_id) == (DagsterRunStatus.FAILURE, "refused")
    assert ended(instance, second.run_id) == (DagsterRunStatus.SUCCESS, "success")


def test_a_run_of_some_rules_does_not_make_the_day_done(planted: str, instance: DagsterInstance) -> None:
    part = run_job(planted, instance, tags=NIGHTLY, op_selection=["delete_old_declines"])
    assert ended(instance, part.run_id) == (DagsterRunStatus.SUCCESS, "interrupted")
    whole = run_job(planted, instance, tags=NIGHTLY)
    assert ended(instance, whole.run_id) == (DagsterRunStatus.SUCCESS, "success")


def test_a_step_that_died_before_its_rule_began_makes_the_run_a_failed_one(
    planted: str, instance: DagsterInstance
) -> None:
    config = {"ops": {"delete_old_declines": {"config": {"retention_days": 0}}}}
    died = run_job(planted, instance, tags=NIGHTLY, config=config)
    assert ended(instance, died.run_id) == (DagsterRunStatus.FAILURE, "failed")


def test_at_the_nights_end_a_run_stops_cleanly_and_is_a_good_run_that_tells_what_remains(
    database: str, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds_before = datetime.combine(date.fromisoformat(TODAY), time(6, 59, 56), tzinfo=UTC)
    monkeypatch.setattr(day, "utc_now", lambda: seconds_before)
    monkeypatch.setenv("CLEANUP_NIGHT_ENDS", "07:00")
    observer = Observer()

    with psycopg.connect(database) as connection:
        plant(connection, 2000)

    run = run_job(database, instance, tags=NIGHTLY, config=NEVER_ENDING, observer=observer)

    assert ended(instance, run.run_id) == (DagsterRunStatus.SUCCESS, "success")
    assert {result.status for result in observer.results.values()} == {Status.SUCCESS}
    assert all(result.remaining for result in observer.results.values())
    sessions = observer.results["expired_sessions"]
    assert sessions.remaining
    assert (sessions.affected + sessions.remaining, sessions.error) == (1000, None)
    assert metadata_of(run, "sessions")["rows_remaining"] == sessions.remaining
    assert look(instance, seconds_before, os.environ).state == "done"


@pytest.fixture
def after_the_nights_end(monkeypatch: pytest.MonkeyPatch) -> datetime:
    now = datetime.combine(date.fromisoformat(TODAY), time(9), tzinfo=UTC)
    monkeypatch.setattr(day, "utc_now", lambda: now)
    monkeypatch.setenv("CLEANUP_NIGHT_ENDS", "07:00")
    return now


@pytest.mark.parametrize("retried", [False, True], ids=["it waited for long", "Dagster retried a lost run"])
def test_a_nightly_run_that_begins_after_the_nights_end_stops_at_once_and_tells_what_remains(
    planted: str, instance: DagsterInstance, after_the_nights_end: datetime, *, retried: bool
) -> None:
    run_id = str(uuid4())
    tags = NIGHTLY | (_again(instance, {RETRIED_BY_TAG: run_id}) if retried else {})
    observer = Observer()

    run = run_job(planted, instance, tags=tags, run_id=run_id, observer=observer)

    assert ended(instance, run.run_id) == (DagsterRunStatus.SUCCESS, "success")
    assert {(result.status, result.affected) for result in observer.results.values()} == {(Status.SUCCESS, 0)}
    assert all(result.remaining for result in observer.results.values())
    assert look(instance, after_the_nights_end, os.environ).state == "done"


@pytest.mark.usefixtures("after_the_nights_end")
def test_a_run_that_somebody_starts_again_after_the_nights_end_works(planted: str, instance: DagsterInstance) -> None:
    observer = Observer()

    run_job(planted, instance, tags=NIGHTLY | _again(instance, {}), observer=observer)

    assert {result.remaining for result in observer.results.values()} == {0}


def _again(instance: DagsterInstance, parents_tags: dict[str, str]) -> dict[str, str]:
    """What a run carries that was started again after another of the day had failed."""
    parent = add_run(instance, events={"start": "00:00", "failure": "00:00"}, tagged={**NIGHTLY, **parents_tags})
    return {"dagster/parent_run_id": parent, "dagster/root_run_id": parent}


def test_a_manual_run_claims_nothing(planted: str, instance: DagsterInstance) -> None:
    run_job(planted, instance, tags=NIGHTLY)
    manual = run_job(planted, instance, tags={"cleanup/trigger": "manual"})
    assert manual.success
    run: DagsterRun | None = instance.get_run_by_id(manual.run_id)
    assert run is not None
    assert "cleanup/claim" not in run.tags
