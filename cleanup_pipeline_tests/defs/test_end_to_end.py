"""All real pieces once: a BullMQ worker ends message cleanup, and the daemon's sensor starts the day's run."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest
import redis
from dagster import AssetRecordsFilter, DagsterInstance, DagsterRunStatus
from dagster._core.scheduler.instigation import InstigatorTick, TickStatus

from cleanup_pipeline.demo.data import plant
from cleanup_pipeline.gate.dagster_facts import MESSAGE_CLEANUP
from cleanup_pipeline_tests.bullmq import BullMQ, url_of
from cleanup_pipeline_tests.defs.runs import CHECKOUT
from cleanup_pipeline_tests.oracle import expected, snapshot

PATIENCE_S = 150.0


def until(true: Callable[[], object], daemon: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert daemon.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.5)


@contextmanager
def daemon_on(home: Path, log: Path, **variables: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run the checkout's dagster.yaml and a code location whose clock is past 04:00."""
    storage = json.loads((home / "dagster.yaml").read_text())["storage"]["postgres"]["postgres_url"]
    (home / "dagster.yaml").write_text((CHECKOUT / "dagster.yaml").read_text())
    command = [sys.executable, "-m", "dagster._daemon", "run", "-m", "cleanup_pipeline_tests.defs.after_four"]
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(home),
        "DAGSTER_POSTGRES_URL": storage,
        "PYTHONPATH": str(CHECKOUT),
        **variables,
    }
    with log.open("wb") as output:
        daemon = subprocess.Popen(
            command, env=environment, cwd=home, stdout=output, stderr=output, start_new_session=True
        )
        try:
            yield daemon
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(60)
        finally:
            # Its code server and runs are in its session.
            with suppress(ProcessLookupError):
                os.killpg(daemon.pid, signal.SIGKILL)
            daemon.wait()


def ticks(instance: DagsterInstance) -> list[InstigatorTick]:
    """The sensor's ticks that are over, oldest first."""
    states = [state for state in instance.all_instigator_state() if state.name == "session_cleanup_gate"]
    found = [
        tick
        for state in states
        for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id)
        if tick.status in (TickStatus.SKIPPED, TickStatus.SUCCESS)
    ]
    return sorted(found, key=lambda tick: tick.timestamp)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("bull", ["bullmq-5"], indirect=True)
def test_the_first_tick_after_the_worker_ended_message_cleanup_starts_the_days_run(
    bull: BullMQ, redis_db: redis.Redis, database: str, instance: DagsterInstance, dagster_home: Path, tmp_path: Path
) -> None:
    with psycopg.connect(database) as connection:
        plant(connection, 200)
    with psycopg.connect(database, autocommit=True) as connection:
        promised = expected(connection, connection.execute("select now()").fetchall()[0][0])
        working = "() => new Promise((resolve) => { globalThis.finish = resolve })"
        bull.do(f"await (await schedule()).promote(); await work({working}, 'active')")
        log = tmp_path / "daemon.log"
        variables = {"CLEANUP_DATABASE_URL": database, "MESSAGE_CLEANUP_REDIS_URL": url_of(redis_db)}
        with daemon_on(dagster_home, log, **variables) as daemon:
            until(lambda: ticks(instance), daemon, log)
            waited = ticks(instance)

            ended = bull.do(
                "finish(); for (;;) { const [job] = await queue.getCompleted(); if (job) return job.finishedOn }"
            )

            def ended_runs() -> bool:
                return any(run.is_finished for run in instance.get_runs())

            until(ended_runs, daemon, log)
        assert all("Message cleanup has been running since" in (tick.skip_reason or "") for tick in waited)
        (run,) = instance.get_runs()
        since = [tick for tick in ticks(instance) if tick.timestamp * 1000 > ended or tick.run_ids]
        assert since[0].run_ids == [run.run_id]
        assert run.status is DagsterRunStatus.SUCCESS
        assert (run.tags["cleanup/trigger"], run.tags["cleanup/outcome"]) == ("sensor", "success")
        assert snapshot(connection) == promised
    recorded = instance.fetch_materializations(AssetRecordsFilter(asset_key=MESSAGE_CLEANUP), limit=10).records
    assert len(recorded) == 1
